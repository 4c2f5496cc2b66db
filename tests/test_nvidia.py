"""What the machine has of an NVIDIA GPU, and what is said where something is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import BUILTIN, torch

from helpers.core import nvidia_driver
from helpers.core.errors import UserError
from helpers.draw import engines
from helpers.draw.choose_model import choose_model
from helpers.draw.engines import nvidia, torch_memory


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of the processor, also on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(nvidia_driver, "SIGNS", ())


def refused(folder: Path) -> UserError:
    with pytest.raises(UserError) as raised:
        engines.load("torch", folder)
    assert raised.value.code == 69 and "\n" not in raised.value.message and raised.value.remedy
    return raised.value


def test_a_gpu_without_pytorch_is_not_used_and_its_command_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level("INFO", "helpers")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(nvidia, "has_driver", lambda: True)
    assert engines.available() == ("torch", "openvino") and not nvidia.advice()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else found(name))
    assert engines.available() == ("openvino",)
    assert choose_model("builtin").engine == "openvino"
    assert "./shortcut_install.sh --extra torch" in caplog.text
    error = refused(BUILTIN)
    assert "diffusers" in error.message and "./shortcut_install.sh --extra torch" in error.remedy
    caplog.clear()
    choose_model("builtin", "openvino")
    assert not caplog.text


def test_a_machine_without_a_gpu_draws_with_the_cpu_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(nvidia, "has_driver", lambda: False)
    assert engines.available() == ("openvino",)
    assert choose_model(str(BUILTIN), "cuda").engine == "torch"


def test_the_driver_is_found_by_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia_driver, "SIGNS", (tmp_path / "nvidiactl",))
    assert not nvidia.has_driver()
    (tmp_path / "nvidiactl").touch()
    assert nvidia.has_driver()


# What PyTorch 2.13 says (torch/csrc/cuda, c10/cuda/CUDAFunctions.cpp)
FAULTS = [
    (
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update …"),
        "the NVIDIA driver 470.82.01 is too old for PyTorch 2.13.0",
        "Update the driver.",
    ),
    (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA", nvidia.INSTALL),
    (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES hides it"),
    (RuntimeError("CUDA unknown error - this may be due to …"), "CUDA unknown error", "A2I_ENGINE=openvino"),
]


@pytest.mark.parametrize(("fault", "message", "remedy"), FAULTS)
def test_a_gpu_that_pytorch_cannot_use_says_why(
    fault: Exception, message: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27\nGCC 12.2.0\n"
    )
    monkeypatch.setattr(nvidia_driver, "VERSION", tmp_path / "version")
    monkeypatch.setattr(nvidia, "has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(fault))
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if "hides" in remedy:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    error = refused(BUILTIN)
    assert message in error.message and remedy in error.remedy


def test_the_best_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(cuda_: bool, mps: bool) -> Any:
        here: dict[str, Any] = {
            "cuda": SimpleNamespace(is_available=lambda: cuda_, is_bf16_supported=lambda **_: False)
        }
        here["backends"] = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
        return SimpleNamespace(device=torch.device, **here)

    monkeypatch.setattr(nvidia, "has_driver", lambda: False)
    for here, kind, usual in (
        ((True, False), "cuda", "f16"),
        ((False, True), "mps", "f16"),
        ((False, False), "cpu", "f32"),
    ):
        device = torch_memory.device(machine(*here))
        assert (device.type, torch_memory.precision(machine(*here), device, "")) == (kind, usual)
    with pytest.raises(UserError) as raised:  # an old card
        torch_memory.precision(machine(True, False), torch.device("cuda"), "bf16")
    assert raised.value.code == 64 and "f16 or f32" in raised.value.remedy
