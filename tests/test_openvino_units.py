"""OpenVINO's devices beside the processor (GPU, NPU). None is here: a stand-in compiles for the processor and says that
it is one, or passes its work on to the processor, as OpenVINO's own devices may."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from small_models import picture, random_model

from helpers.adapt.checkpoint import Checkpoint
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.settings import Settings
from helpers.doctor import checks
from helpers.draw import engines
from helpers.draw.engines import compute_units, openvino_engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")


@pytest.fixture(autouse=True)
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(openvino, "CACHE", tmp_path / "cache" / "openvino")
    monkeypatch.setattr(compute_units, "REMEMBERED", tmp_path / "units.json")
    return tmp_path / "units.json"


def on(unit: str) -> engines.Options:
    return engines.Options(compute_units=unit)


class Neighbours:
    """OpenVINO's Core with an NPU that computes, and a GPU that passes its work on to the processor."""

    compiled: ClassVar[list[tuple[str, str]]] = []

    def __init__(self) -> None:
        self.core = real()
        self.available_devices = ["CPU", "GPU.0", "NPU"]

    def get_property(self, device: str, name: str) -> Any:
        return f"A {device}" if device != "CPU" else self.core.get_property(device, name)

    def import_model(self, *how: Any) -> Any:
        return self.core.import_model(*how)

    def compile_model(self, graph: Any, device: str, options: dict[str, Any]) -> Any:
        if device == "CPU":
            return self.core.compile_model(graph, device, options)
        self.compiled.append((device, graph.get_friendly_name()))
        assert all(port.get_partial_shape().is_static for port in graph.inputs)  # as an NPU wants them
        assert options["INFERENCE_PRECISION_HINT"] in ("f16", "f32") and Path(options["CACHE_DIR"]).name == device
        model = self.core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        class Elsewhere:
            """The compiled model, which says where it computes."""

            def __getattr__(self, name: str) -> Any:
                return getattr(model, name)

            def get_property(self, name: str) -> Any:
                if name == "EXECUTION_DEVICES":
                    return ["NPU"] if device == "NPU" else ["CPU"]
                return openvino.runtime().Type.f16

        return Elsewhere()


real: Any = None


@pytest.fixture
def neighbours(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    global real
    real = openvino.runtime().Core
    monkeypatch.setattr(openvino.runtime(), "Core", Neighbours)
    monkeypatch.setattr(Neighbours, "compiled", [])
    return Neighbours.compiled


def test_here_a_trial_fails_and_the_processor_draws(
    tiny: Path, remembered: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real trial, in a process of its own; it is not repeated."""
    if openvino.describe("NPU"):
        pytest.skip("this machine has an NPU")
    caplog.set_level(logging.INFO)
    engine = engines.load("openvino", tiny, on("NPU"))
    assert (engine.version, engine.precision) == (openvino.version(), "f32")
    assert "OpenVINO finds no NPU on this machine; the processor draws" in caplog.text
    [entry] = json.loads(remembered.read_text()).values()
    assert entry["unit"] == "CPU" and list(entry["failed"]) == ["NPU"]
    monkeypatch.setattr(compute_units, "try_unit", lambda *_: pytest.fail("tried again"))
    caplog.clear()
    engines.load("openvino", tiny, on("NPU"))
    assert "the processor draws" in caplog.text


def test_a_unit_that_works_draws_and_is_remembered(
    tiny: Path, neighbours: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, str]] = []

    def try_unit(folder: Path, unit: str, engine: str) -> float:
        tried.append((unit, engine))
        return 0.1

    monkeypatch.setattr(compute_units, "try_unit", try_unit)
    for _ in range(2):
        engine = engines.load("openvino", tiny, on("NPU"))
    assert tried == [("NPU", "openvino")]
    assert (engine.version, engine.precision) == (f"{openvino.version()} NPU", "f16")
    assert set(neighbours) == {("NPU", "unet"), ("NPU", "vae")}  # the text encoder stays exact
    error = np.mean((picture(engine).astype(float) - picture(engines.load("openvino", tiny))) ** 2)
    assert error < 2


@pytest.mark.usefixtures("neighbours")
def test_a_device_that_passes_its_work_on_is_not_taken(tiny: Path) -> None:
    with pytest.raises(UserError, match="OpenVINO cannot use the GPU: CPU computes instead") as raised:
        openvino_engine.load_on("GPU", Checkpoint(tiny), engines.Options(), size=None, guidance=True, precision="")
    assert raised.value.code == os.EX_UNAVAILABLE


@pytest.mark.parametrize("name", ["", "CPU", "CPU_AND_NE", "CPU_ONLY"])
def test_the_processor_needs_no_trial(tiny: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_units, "try_unit", lambda *_: pytest.fail("tried"))
    assert engines.load("openvino", tiny, on(name)).version == openvino.version()


def test_wrong_names_and_precisions(tiny: Path) -> None:
    with pytest.raises(UserError, match="no compute unit 'TPU' in OpenVINO") as raised:
        engines.load("openvino", tiny, on("TPU"))
    assert raised.value.code == os.EX_USAGE and "CPU, GPU, NPU" in (raised.value.remedy or "")
    with pytest.raises(UserError, match="no precision 'bf16' on OpenVINO's NPU"):
        openvino_engine.load_on("NPU", Checkpoint(tiny), engines.Options(), size=None, guidance=True, precision="bf16")


def test_the_doctor_says_what_is_there(neighbours: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Settings(engine="openvino", compute_units="NPU")
    assert "; NPU: A NPU" in checks.engine(asked).text
    monkeypatch.setattr(openvino, "describe", lambda device: "")
    assert "; NPU: OpenVINO finds none, so the processor draws" in checks.engine(asked).text
    assert neighbours == []
