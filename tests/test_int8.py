"""8-bit arithmetic on the processor: layers chosen by `helpers.compress.quantize`, and files that lie about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import picture, random_model

from helpers.adapt.checkpoint import Checkpoint
from helpers.compress import quantize
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.draw import engines

PROMPTS = ["a red heart", "a cat in the snow"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model whose ranges were measured."""
    folder = random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")
    (folder / "audio_to_image.json").write_text('{"sampler": "ddim", "steps": 2, "guidance": 2.0}')
    assert quantize.quantize(Checkpoint(folder), PROMPTS, 30) == folder / "int8.json"
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(openvino, "CACHE", tmp_path / "cache" / "openvino")
    return Path(shutil.copytree(made, tmp_path / "own"))


def test_most_layers_compute_in_int8_and_the_picture_is_nearly_the_same(own: Path) -> None:
    found = json.loads((own / "int8.json").read_text())
    assert found["measured"]["dB"] >= 30 and found["measured"]["layers"] > 0.5 * found["measured"]["of"]
    assert found["unet"] and found["vae"] and not any(".bias" in name for name in found["unet"])
    exact, rough = engines.load("openvino", own), engines.load("openvino", own, precision="int8")
    assert (exact.precision, rough.precision) == ("f32", "int8")
    error = np.mean((picture(exact).astype(float) - picture(rough)) ** 2)
    assert 0 < error < 255**2 / 10**2.5  # 25 dB, another prompt
    engine: Any = rough
    for part in ("unet", "vae"):
        layers = [node.get_rt_info() for node in engine.networks[part]._model.get_runtime_model().get_ops()]
        kinds = [str(layer["primitiveType"].astype(str)) for layer in layers if "primitiveType" in layer]
        quick = [kind for kind in kinds if kind.lower().endswith("i8") and ("conv" in kind or "gemm" in kind)]
        assert len(quick) > 0.3 * len(found[part]), kinds


def test_layers_with_the_largest_effect_stay_exact(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bits where one layer, in the middle, reads a number that is a hundred times as large as all others."""
    order = [("unet", "a"), ("unet", "b"), ("vae", "c"), ("vae", "d")]
    ranges = {"unet": {"a": 1.0, "b": 1.0}, "vae": {"c": 1.0, "d": 1.0}}

    def drawn(*_: Any) -> Any:
        left = json.loads((own / "int8.json").read_text())
        return [np.full(9, 99.0 if "a" in left["unet"] else 1.0)], {}, None

    monkeypatch.setattr(quantize, "_drawn", drawn)
    file = quantize._choose(Checkpoint(own), PROMPTS, 30, [np.zeros(9)], ranges, order, own)
    found = json.loads(file.read_text())
    assert (found["unet"], found["vae"], found["measured"]["layers"]) == ({"b": 1.0}, ranges["vae"], 3)


def test_a_model_that_8_bits_spoil_keeps_what_it_had(own: Path) -> None:
    before = (own / "int8.json").read_bytes()
    with pytest.raises(UserError, match="does not draw pictures within 100 dB") as raised:
        quantize.quantize(Checkpoint(own), PROMPTS[:1], 100)
    assert raised.value.code == 69 and (own / "int8.json").read_bytes() == before


LIES: dict[str, Any] = {
    "NaN": lambda text: text.replace('": 0.', '": NaN, "x": 0.', 1).replace('": 1.', '": NaN, "x": 1.', 1),
    "negative": lambda text: json.dumps({"unet": {"conv_in.weight": -1.0}, "vae": {}}),
    "infinite": lambda text: json.dumps({"unet": {"conv_in.weight": float("inf")}, "vae": {}}),
    "a word": lambda text: json.dumps({"unet": {"conv_in.weight": "large"}, "vae": {}}),
    "true": lambda text: json.dumps({"unet": {"conv_in.weight": True}, "vae": {}}),
    "no decoder": lambda text: json.dumps({"unet": {}}),
    "a list": lambda text: "[1, 2]",
    "half": lambda text: text[: len(text) // 2],
    "another model's": lambda text: json.dumps({"unet": {"conv_in.weight": 1.0, "no.such.weight": 1.0}, "vae": {}}),
}


@pytest.mark.parametrize("lie", LIES)
def test_ranges_that_lie_are_one_line(own: Path, lie: str) -> None:
    text = LIES[lie]((own / "int8.json").read_text())
    assert text != (own / "int8.json").read_text()
    (own / "int8.json").write_text(text)
    with pytest.raises(UserError) as raised:
        engines.load("openvino", own, precision="int8")
    assert raised.value.code == 69 and "\n" not in raised.value.message
    assert "quantize" in (raised.value.remedy or "")
    engines.load("openvino", own)  # the other precisions do not read it


def test_without_ranges_it_says_how_to_measure_them(own: Path) -> None:
    (own / "int8.json").unlink()
    with pytest.raises(UserError, match="no ranges for int8") as raised:
        engines.load("openvino", own, precision="int8")
    assert raised.value.code == 69 and f"helpers.compress.quantize {own}" in (raised.value.remedy or "")


def test_weights_of_8_bits_without_scales_are_one_line(own: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = own / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "conv_in.weight": np.ones(weights["conv_in.weight"].shape, np.int8)}, file)
    for precision in ("f32", "int8"):
        with pytest.raises(UserError, match="is I8, which is not supported") as raised:
            engines.load("openvino", own, precision=precision)
        assert raised.value.code == 69 and "\n" not in raised.value.message


def test_a_model_that_computes_nan_is_not_quantized(own: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = own / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "conv_in.bias": np.full_like(weights["conv_in.bias"], np.nan)}, file)
    with pytest.raises(UserError, match="computes NaN") as raised:
        quantize.quantize(Checkpoint(own), PROMPTS[:1], 30)
    assert raised.value.code == 69
