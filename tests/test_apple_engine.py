"""The engine apple with a stand-in for Apple's package, which checks what it is given as strictly as Apple's does."""

from __future__ import annotations

import ast
import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import BUILTIN, picture

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.doctor import checks
from helpers.draw import engines
from helpers.draw.engines import apple, compute_units, coreml
from helpers.draw.job import Job
from helpers.draw.painter import Painter

PACKAGE = '''
"""CoreMLModel and get_coreml_pipe of Apple's package, as far as they are used. The networks are short formulas."""
import json, os, signal, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np

print("a library that prints")


class Model:
    def __init__(self, folder, name):
        self.name = name
        path = Path(folder, name + ".mlmodelc")
        if not path.is_dir():
            raise FileNotFoundError(f"{name} CoreML model doesn't exist at {path}")
        schema = json.loads((path / "metadata.json").read_text())[0]["inputSchema"]
        self.expected_inputs = {
            one["name"]: (tuple(json.loads(one["shape"])), np.dtype(one["dataType"].lower())) for one in schema
        }

    def __call__(self, **arrays):
        fault = os.environ.get("APPLE_FAULT", "")
        if fault == "crash " + self.name:
            os.kill(os.getpid(), signal.SIGABRT)
        if fault == "hang " + self.name:
            Path(os.environ["APPLE_LOG"]).write_text("computing")
            time.sleep(600)
        if fault == "raise " + self.name:
            raise RuntimeError("Error computing NN outputs.\\nline two")
        if fault == "exit " + self.name:
            os._exit(3)
        if set(arrays) != set(self.expected_inputs):
            raise ValueError(f"Received unexpected input kwarg: {set(arrays) ^ set(self.expected_inputs)}")
        for name, (shape, dtype) in self.expected_inputs.items():
            if (arrays[name].shape, arrays[name].dtype) != (shape, dtype):
                raise TypeError(f"Expected {shape} {dtype}, got {arrays[name].shape} {arrays[name].dtype} for {name}")
        return self.predict(arrays)

    def predict(self, arrays):
        return globals()[self.name](**{name: array.astype(np.float32) for name, array in arrays.items()})


def TextEncoder(input_ids):
    assert input_ids.min() >= 0 and (input_ids == np.round(input_ids)).all()
    return {"last_hidden_state": np.sin(input_ids[0, None, :, None] / 100 * np.arange(1, 33, dtype=np.float32))}


def Unet(sample, timestep, encoder_hidden_states):
    assert (timestep == timestep[0]).all() and 0 <= timestep[0] < 1000
    text = encoder_hidden_states.mean(axis=(1, 2, 3))[:, None, None, None]
    return {"noise_pred": np.cos(sample + timestep[0] / 1000) + 20 * text}


def VAEDecoder(z):
    return {"image": np.tanh(z[:, :3].repeat(8, axis=2).repeat(8, axis=3))}


def get_coreml_pipe(pytorch_pipe, mlpackages_dir, model_version, compute_unit, delete_original_pipe=True,
                    scheduler_override=None, controlnet_models=None, force_zeros_for_empty_prompt=True, sources=None):
    assert (model_version, sources) == ("sd", "compiled") and scheduler_override is None and not controlnet_models
    assert compute_unit in ("CPU_ONLY", "CPU_AND_NE", "CPU_AND_GPU")
    for name in ("tokenizer", "scheduler", "feature_extractor"):
        getattr(pytorch_pipe, name)
    if os.environ.get("APPLE_FAULT") == "crash loading":
        os.kill(os.getpid(), signal.SIGSEGV)
    names = {"text_encoder": "TextEncoder", "unet": "Unet", "vae_decoder": "VAEDecoder"}
    return SimpleNamespace(**{name: Model(mlpackages_dir, part) for name, part in names.items()})
'''
OPTIONS = engines.Options(compute_units="CPU_ONLY", apple_python=sys.executable)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, where the worker's Python finds it."""
    folder = tmp_path / "site" / "python_coreml_stable_diffusion"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('__version__ = "1.1.0"\n')
    (folder / "pipeline.py").write_text(PACKAGE)
    (folder.parent / "coremltools.py").write_text('__version__ = "8.3"\n')
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    monkeypatch.setenv("APPLE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(compute_units, "choose_unit", lambda folder, asked="": asked or "CPU_ONLY")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return apples_folder(tmp_path / "model")


def apples_folder(folder: Path, batch: int = 2) -> Path:
    """A folder in Apple's layout: what Apple's compiler says of each network, and the tokenizer's two files."""
    inputs: dict[str, dict[str, list[int]]] = {
        "TextEncoder": {"input_ids": [1, 77]},
        "Unet": {"sample": [batch, 4, 8, 8], "timestep": [batch], "encoder_hidden_states": [batch, 32, 1, 77]},
        "VAEDecoder": {"z": [1, 4, 8, 8]},
    }
    for part, shapes in inputs.items():
        kind = "Float32" if part == "TextEncoder" else "Float16"
        schema = [{"name": name, "shape": json.dumps(shape), "dataType": kind} for name, shape in shapes.items()]
        (folder / f"{part}.mlmodelc").mkdir(parents=True)
        (folder / f"{part}.mlmodelc" / "metadata.json").write_text(json.dumps([{"inputSchema": schema}]))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).symlink_to(BUILTIN / "tokenizer" / name)
    return folder


def in_this_process(package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> engines.Engine:
    """Our Core ML engine with the same formulas."""
    spec = importlib.util.spec_from_file_location("formulas", package / "pipeline.py")
    assert spec and spec.loader
    formulas: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formulas)
    monkeypatch.setattr(coreml.CoreMl, "_model", lambda self, path: formulas.Model(path.parent, path.stem))
    monkeypatch.setattr(coreml, "coremltools", lambda: formulas)
    monkeypatch.setattr(formulas, "__version__", "9.0", raising=False)
    return engines.load("coreml", folder, engines.Options(compute_units="CPU_ONLY"))


def ended(pid: int, patience: float = 60) -> bool:
    """Whether a process ends, and is no more than a zombie, while we wait."""
    for _ in range(int(patience * 20)):
        said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if not said.stdout.strip() or said.stdout.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("batch", "guidance"), [(2, 2.0), (2, 1.0), (1, 2.0)])
def test_the_picture_is_that_of_our_engine(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, guidance: float
) -> None:
    folder = apples_folder(tmp_path / "model", batch)
    engine = engines.load("apple", folder, OPTIONS, size=(64, 64))
    assert (engine.name, engine.size, engine.precision) == ("apple", (64, 64), "f16")
    assert engine.version == "python_coreml_stable_diffusion 1.1.0, coremltools 8.3 CPU_ONLY"
    engine.warm()
    mine = picture(engine, guidance=guidance)
    assert np.ptp(mine) > 20
    assert np.array_equal(mine, picture(in_this_process(package, folder, monkeypatch), guidance=guidance))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("crash loading", f"crashed (signal {signal.SIGSEGV:d})"),
        ("crash TextEncoder", f"crashed (signal {signal.SIGABRT:d})"),
        ("exit VAEDecoder", "gives no answer"),
        ("raise Unet", "Unet.mlmodelc: RuntimeError: Error computing NN outputs."),
    ],
)
def test_a_failure_of_the_worker_is_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, fault: str, says: str
) -> None:
    monkeypatch.setenv("APPLE_FAULT", fault)
    with pytest.raises(UserError) as raised:
        picture(engines.load("apple", model, OPTIONS))
    assert raised.value.code == 69 and says in raised.value.message and raised.value.remedy
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("", "set A2I_APPLE_PYTHON"),
        ("/no/such/python", "cannot be run: No such file"),
        ("no-such-python", "cannot be run: No such file"),
        ("echo", "gives no answer"),
        ("false", "gives no answer"),
    ],
)
def test_a_python_that_is_none(model: Path, python: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        engines.load("apple", model, engines.Options(apple_python=python))
    assert raised.value.code == 69 and says in raised.value.message and "docs/coreml.md" in raised.value.remedy


def test_a_python_without_the_package(model: Path, package: Path) -> None:
    (package / "pipeline.py").write_text("import no_such_diffusers")
    with pytest.raises(UserError, match=r"does not have Apple's package: ModuleNotFoundError.*no_such_diffusers"):
        engines.load("apple", model, OPTIONS)


def test_a_folder_or_size_that_apples_package_cannot_draw(model: Path) -> None:
    for size, precision in (((128, 64), ""), (None, "f32")):
        with pytest.raises(UserError) as raised:
            engines.load("apple", model, OPTIONS, size=size, precision=precision)
        assert raised.value.code == 64
    (model / "Unet.mlmodelc").rename(model / "UnetChunk2.mlmodelc")
    (model / "UnetChunk1.mlmodelc").symlink_to(model / "UnetChunk2.mlmodelc")
    with pytest.raises(UserError, match=r"cannot use .*: it has no Unet\.mlmodelc") as raised:
        engines.load("apple", model, OPTIONS)
    assert raised.value.code == 69
    with pytest.raises(UserError, match="has no Unet"):
        engines.load("apple", BUILTIN, OPTIONS)


def test_the_worker_ends_with_its_engine(model: Path) -> None:
    engine: Any = engines.load("apple", model, OPTIONS)
    pid = engine.worker._process.pid
    os.kill(pid, signal.SIGINT)  # Ctrl-C reaches it, but is for the parent
    picture(engine)
    del engine
    gc.collect()
    assert ended(pid)


DRAW = """
import sys
from helpers.draw.engines import apple
worker = apple.Worker(sys.executable)
worker.load(__import__("pathlib").Path(sys.argv[1]), "CPU_ONLY")
print(worker._process.pid, flush=True)
import numpy as np
worker.compute("VAEDecoder", {"z": np.zeros((1, 4, 8, 8), np.float16)})
"""


def test_the_worker_ends_with_its_parent_however_that_ends(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{ROOT}", "APPLE_FAULT": "hang VAEDecoder"}
    with subprocess.Popen(
        [sys.executable, "-c", DRAW, str(model)], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        while not (tmp_path / "log").exists():
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    assert ended(pid)


def test_a_painter_draws_with_it_and_notes_it(model: Path) -> None:
    settings = Settings(
        model=str(model), engine="apple", apple_python=sys.executable, compute_units="CPU_ONLY", steps=2
    )
    drawn = next(Painter.load(settings).draw(Job("a cat", seed=3)))
    assert drawn.engine == "apple" and drawn.engine_version.startswith("python_coreml_stable_diffusion 1.1.0")


def test_it_is_used_only_where_it_is_asked_for_and_draws_with_core_mls_models() -> None:
    assert "apple" not in engines.available() and engines.available("apple") == ("apple",)
    assert engines.role("apple") == engines.role("coreml")


def test_the_doctor_names_the_versions(package: Path) -> None:
    settings = Settings(engine="apple", apple_python=sys.executable)
    assert checks.engine(settings).text == "python_coreml_stable_diffusion 1.1.0, coremltools 8.3"
    (package / "pipeline.py").unlink()
    found = checks.engine(settings)
    assert found.state == "no" and "does not have Apple's package" in found.text
    assert checks.engine(Settings(engine="apple")).code == 69


def test_the_worker_needs_python_3_8_and_numpy_alone() -> None:
    program = ast.parse(apple.PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 8))
    names = {one.module for one in ast.walk(program) if isinstance(one, ast.ImportFrom)}
    names |= {name.name for one in ast.walk(program) if isinstance(one, ast.Import) for name in one.names}
    assert names - {"numpy"} <= sys.stdlib_module_names
