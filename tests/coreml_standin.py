"""What stands in for Core ML where there is none: coremltools, with its two model classes replaced by the evaluator.

`install()` does it in this process; `environment()` is what a child process needs for it. Arguments are checked more
strictly than Core ML checks them. A stand-in for a compiled model (`compiled`) is a folder with the metadata.json that
Apple's compiler writes and the package it was made from.

Faults for tests: COREML_FAULTS='{"CPU_AND_NE": {"Unet": "crash"}}', of FAULTS, for each unit and network.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
from mil_evaluator import Program
from numpy.typing import NDArray

from helpers.core.paths import ROOT

FAULTS = ("crash", "hang", "black", "nan", "refuse")
_REAL = coremltools.models.MLModel
_KINDS = {np.dtype(np.float16): "Float16", np.dtype(np.float32): "Float32", np.dtype(np.int32): "Int32"}


class Standin:
    """A loaded model: computes with the evaluator, fails on demand, and notes that it was loaded in COREML_LOG."""

    suffix = ""

    def __init__(self, path: str, *, compute_units: Any, optimization_hints: Any = None) -> None:
        assert isinstance(path, str) and Path(path).suffix == self.suffix, f"{path} is no {self.suffix}"
        assert isinstance(compute_units, coremltools.ComputeUnit)
        self.name, self.unit = Path(path).stem, compute_units.name
        package = Path(path) if self.suffix == ".mlpackage" else Path(path) / "model.mlpackage"
        half = os.environ.get("COREML_HALF") == "1"
        self.program = Program(package, half)
        if log := os.environ.get("COREML_LOG"):
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {self.unit} {self.name}\n")

    def predict(self, data: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        fault = json.loads(os.environ.get("COREML_FAULTS", "{}")).get(self.unit, {}).get(self.name)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGABRT)
        if fault == "hang":
            time.sleep(600)
        if fault == "refuse":
            raise RuntimeError("Error computing NN outputs.")
        outputs = self.program.predict(data)
        if fault:
            return {name: np.full_like(array, {"black": -1, "nan": np.nan}[fault]) for name, array in outputs.items()}
        return outputs


class Compiled(Standin):
    suffix = ".mlmodelc"


class Package(Standin):
    suffix = ".mlpackage"


def _model(path: Any, *arguments: Any, **options: Any) -> Any:
    """MLModel: the real class for what only reads and writes a package."""
    return Package(path, **options) if options.keys() == {"compute_units"} else _REAL(path, *arguments, **options)


def install(patch: Any = None) -> None:
    """Replace the classes; for the length of a test with its `monkeypatch`."""
    put = patch.setattr if patch else setattr
    put(coremltools.models, "MLModel", _model)
    put(coremltools.models, "CompiledMLModel", Compiled)


def environment(**more: str) -> dict[str, str]:
    """The environment of a child process whose Python installs the stand-in when it starts."""
    tests = ROOT / "tests"
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests / "standin", tests, ROOT))), **more}


def compiled(folder: Path, target: Path) -> Path:
    """A copy of a folder of packages in which each is a stand-in for a compiled model."""
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".mlpackage":
            model = target / f"{file.stem}.mlmodelc"
            model.mkdir()
            (model / "model.mlpackage").symlink_to(file)
            (model / "metadata.json").write_text(json.dumps(_metadata(Program(file))), encoding="utf-8")
        else:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def _metadata(program: Program) -> list[dict[str, Any]]:
    """What Apple's compiler writes of a model, as far as it is read."""
    schema = [
        {
            "hasShapeFlexibility": "0",
            "isOptional": "0",
            "dataType": _KINDS[np.dtype(dtype)],
            "formattedType": f"MultiArray ({_KINDS[np.dtype(dtype)]} {' × '.join(map(str, shape))})",
            "shortDescription": "",
            "shape": json.dumps(list(shape)),
            "name": name,
            "type": "MultiArray",
        }
        for name, (shape, dtype) in program.inputs.items()
    ]
    return [{"metadataOutputVersion": "3.0", "specificationVersion": 8, "inputSchema": schema, "outputSchema": []}]
