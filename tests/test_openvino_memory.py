"""The CPU engine's memory: weights that are mapped, bf16 and in place, and networks that are loaded in turn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import BUILTIN, random_model

from helpers.adapt.diffusers_folder import read_config, read_weights
from helpers.core import mapped, openvino, openvino_weights, system
from helpers.draw import diffusion, engines
from helpers.draw.engines import openvino_graph


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "openvino"
    monkeypatch.setattr(openvino, "CACHE", folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model whose weights are f16, as those of large models are."""
    from safetensors.numpy import load_file, save_file

    folder = random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")
    for file in folder.rglob("*.safetensors"):
        save_file({name: array.astype(np.float16) for name, array in load_file(file).items()}, file)
    return folder


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model counts as a large one."""
    monkeypatch.setattr(openvino, "LARGE", 0)
    monkeypatch.setattr(mapped, "_LARGE", 0)


def drawn(folder: Path, options: engines.Options | None = None, precision: str = "") -> np.ndarray[Any, Any]:
    engine = engines.load("openvino", folder, options, precision=precision)
    text, empty = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in ("a red heart", ""))
    for _ in range(2):  # what the first decoding freed is there again
        pixels = diffusion.draw(engine, text, empty, seed=1, steps=2, guidance=3.0)
    return pixels


def decibels(exact: np.ndarray[Any, Any], rough: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((exact.astype(float) - rough) ** 2))))


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_large_model_draws_the_same_picture(
    tiny: Path, precision: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    saving = drawn(tiny, precision=precision)
    assert decibels(saving, drawn(tiny, precision=precision)) > 70  # from the cache
    assert [file.suffix for file in cache.iterdir()] == [".blob"] * 3  # and nothing temporary
    monkeypatch.setattr(openvino, "LARGE", 1 << 40)
    assert decibels(saving, drawn(tiny, precision="f32")) > (70 if precision == "f32" else 35)


@pytest.mark.usefixtures("large")
def test_bf16_without_a_cache(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = drawn(tiny, precision="bf16")
    monkeypatch.setattr(openvino, "CACHE", tiny / "model_index.json" / "openvino")  # cannot be a folder
    assert decibels(exact, drawn(tiny, precision="bf16")) > 70


@pytest.mark.usefixtures("large")
def test_16_bit_weights_take_16_bits_in_the_cache(cache: Path) -> None:
    engines.load("openvino", BUILTIN, precision="bf16")
    [file] = cache.glob("*-unet-*.blob")
    numbers = sum(array.size for array in read_weights(BUILTIN / "unet").values())
    assert 2 * numbers < file.stat().st_size < 2.1 * numbers + 2e6  # the graph takes 1 MB


@pytest.mark.parametrize(
    ("asked", "free", "most"), [(True, 0, 1), (None, 1 << 20, 1), (None, 0, 3), (False, 1 << 20, 3)]
)
@pytest.mark.usefixtures("large")
def test_low_memory_keeps_the_network_that_computes(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, free: int, most: int
) -> None:
    monkeypatch.setattr(system, "memory", lambda: (free, free))
    alive: list[int] = [0]
    kept: list[int] = []

    class Counted(openvino.Network):
        def __init__(self, *how: Any) -> None:
            super().__init__(*how)
            alive[0] += 1
            kept.append(alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

    monkeypatch.setattr(openvino, "Network", Counted)
    picture = drawn(tiny, engines.Options(low_memory=asked))
    assert max(kept) == most
    monkeypatch.undo()
    assert decibels(picture, drawn(tiny)) > 70


def test_a_small_model_stays_loaded_whatever_is_free(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "memory", lambda: (1 << 20, 1 << 20))
    engine: Any = engines.load("openvino", tiny)
    assert len(engine.networks) == 3


def test_bf16_of_every_number() -> None:
    from helpers.core.openvino_weights import _blocks

    numbers = np.array([0, -0.0, 1, -3.14159, 65504, 1e-7, 2**-24, np.inf, -np.inf], np.float16)
    [bits] = _blocks(numbers)
    back = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.allclose(back, numbers.astype(np.float32), rtol=2**-8) and np.isinf(back[-1])
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)  # to even, to even, up
    assert [(bits << 16).view(np.float32) for bits in next(_blocks(ties)).astype(np.uint32)] == [
        1,
        1 + 2**-6,
        1 + 2**-7,
    ]
    nan = np.array([0x7FFF, 0xFFFF, 0x7C01], np.uint16).view(np.float16)
    assert np.isnan((next(_blocks(nan)).astype(np.uint32) << 16).view(np.float32)).all()


def test_a_text_encoder_in_place_says_the_same(tiny: Path) -> None:
    ov = openvino.runtime()

    def compiled(in_place: bool) -> openvino.Network:
        folder = tiny / "text_encoder"
        model = openvino_graph.text_encoder(read_config(folder / "config.json"), read_weights(folder))
        before = len(model.get_ops())
        if in_place:
            openvino_weights.in_place(model)
            assert len(model.get_ops()) > before
        return openvino.Network(ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))

    tokens = np.arange(77)[None]
    assert np.abs(compiled(True)(tokens)[0] - compiled(False)(tokens)[0]).max() < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much of a file is in memory")
def test_the_pages_of_a_mapped_file_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_LARGE", 0)
    content = np.arange(1 << 22, dtype=np.uint32)
    content.tofile(tmp_path / "file")

    def resident() -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))

    with (tmp_path / "file").open("rb") as file:
        view = mapped.pages(file).view(np.uint32)[1:]
    before = resident()
    assert view.sum() and resident() > before + 15_000
    with mapped.dropping([view, content]):
        pass
    assert resident() < before + 2_000
    assert np.array_equal(view, content[1:])
