"""The PyTorch engine where memory is short, calls that are recorded, and the UNet that is compiled meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_models
from numpy.typing import NDArray
from small_models import picture, random_model, torch
from torch_models import xl_model

from helpers.core import nvidia_driver
from helpers.core.errors import UserError
from helpers.draw import engines
from helpers.draw.engines import torch_engine, torch_memory


@pytest.fixture(scope="module", params=["tiny", "xl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / str(request.param)
    return xl_model(path) if request.param == "xl" else random_model(path, "tiny")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of the processor, also on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(nvidia_driver, "SIGNS", ())


def needs(engine: Any) -> tuple[int, int]:
    """Bytes of the UNet, and of the others."""
    return torch_memory.size_in_bytes(engine._unet), sum(
        map(torch_memory.size_in_bytes, (engine._vae, *engine._encoders))
    )


def test_what_is_kept_in_memory_follows_from_what_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty: Any = engines.load("torch", folder)
    assert (plenty.level, plenty.pictures) == (torch_memory.RESIDENT, 8)
    expected = picture(plenty)
    unet, others = needs(plenty)
    for free, level in ((2 * (unet + others) + (64 << 20), 0), (unet + others - 1, 1), (unet, 2), (0, 2)):
        monkeypatch.setattr(torch_memory, "free", lambda *_, free=free: free)
        if level == torch_memory.UNET_ONLY:  # a picture that needs next to nothing
            monkeypatch.setattr(torch_memory, "_STEP", 0)
        engine: Any = engines.load("torch", folder)
        assert engine.level == level
        assert level == torch_memory.RESIDENT or engine.pictures == 1
        assert np.abs(picture(engine).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("asked", "free", "level"), [(True, 1 << 40, 1), (False, 0, 0), (True, 0, 2)])
def test_a_setting_overrides_what_is_free(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, asked: bool, free: int, level: int
) -> None:
    monkeypatch.setattr(torch_memory, "free", lambda *_: free)
    engine: Any = engines.load("torch", tiny, engines.Options(low_memory=asked))
    assert (engine.level, engine.pictures) == (level, 1)


def test_more_pictures_at_once_where_there_is_room(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty: Any = engines.load("torch", tiny)
    unet, others = needs(plenty)
    step = 64 * 8 * 4 * 2 * 16 * 16
    decoding = 16 * 8 * 4 * 32 * 32
    assert step > decoding
    for free, pictures in ((step + 1, 1), (3 * step, 3), (1000 * step, 8)):
        monkeypatch.setattr(torch_memory, "free", lambda *_, free=free: unet + others + free)
        assert engines.load("torch", tiny).pictures == pictures


class Faulty:
    """Stands for one of an engine's calls: raises a few times, then computes."""

    def __init__(self, compute: Any, error: Exception, times: int) -> None:
        self.compute, self.error, self.times, self.calls = compute, error, times, 0

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return self.compute(*arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.compute, name)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried …"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_call_that_memory_is_too_small_for_is_repeated_with_less_in_it(
    tiny: Path, error: Exception, caplog: Any
) -> None:
    expected = picture(engines.load("torch", tiny))
    engine: Any = engines.load("torch", tiny)
    engine._call = Faulty(engine._call, error, 1)
    assert np.abs(picture(engine).astype(int) - expected).max() <= 2
    assert (engine.level, engine.pictures) == (torch_memory.UNET_ONLY, 1)
    said = caplog.messages[:]
    assert len(said) == 1 and "is full; from now on only the UNet stays in it" in said[0]
    engine._call.calls = 0
    assert np.abs(picture(engine).astype(int) - expected).max() <= 2
    assert engine.level == torch_memory.LAYERS and "each layer is loaded" in caplog.text


def test_text_and_decoder_are_repeated_too(folder: Path, caplog: Any) -> None:
    """The decoder in tiles before the UNet is given up; these pictures are no larger than a tile."""
    expected = picture(engines.load("torch", folder))
    engine: Any = engines.load("torch", folder)
    engine._encoders[0].forward = Faulty(engine._encoders[0].forward, FULL[0], 1)
    engine._vae.decode = Faulty(engine._vae.decode, FULL[0], 1)
    assert np.abs(picture(engine).astype(int) - expected).max() <= 2
    assert engine.level == torch_memory.UNET_ONLY and engine._vae.use_tiling
    said = caplog.messages[:]
    assert len(said) == 2 and "only the UNet stays in it" in said[0] and "decoded in tiles" in said[1]
    engine._vae.decode.calls = 0
    assert np.abs(picture(engine).astype(int) - expected).max() <= 2
    assert engine.level == torch_memory.LAYERS and "each layer is loaded" in caplog.text


def test_memory_that_is_too_small_for_a_layer_is_an_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = engines.load("torch", tiny)
    engine._call = Faulty(engine._call, FULL[0], 99)
    with pytest.raises(UserError) as raised:
        picture(engine)
    assert raised.value.code == 69 and "too small for 32x32" in raised.value.message and "--size" in raised.value.remedy
    assert engine._call.calls == 3


def test_memory_that_runs_out_while_the_model_is_put_into_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch_engine.Torch._place

    def full(self: torch_engine.Torch, level: int) -> None:
        self.level = level
        if level == torch_memory.RESIDENT:
            raise FULL[0]
        place(self, level)

    monkeypatch.setattr(torch_engine.Torch, "_place", full)
    engine: Any = engines.load("torch", tiny)
    assert engine.level == torch_memory.UNET_ONLY and picture(engine).any()


def test_another_fault_of_the_device_is_said_and_not_repeated(tiny: Path) -> None:
    engine: Any = engines.load("torch", tiny)
    fault = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with …")
    engine._call = Faulty(engine._call, fault, 99)
    with pytest.raises(UserError, match="no kernel image is available") as raised:
        picture(engine)
    assert raised.value.code == 69 and engine._call.calls == 1 and "\n" not in raised.value.message


def test_a_batch_goes_in_parts_once_memory_was_too_small(tiny: Path) -> None:
    engine: Any = engines.load("torch", tiny)
    random = np.random.RandomState(0)
    latents, text = random.randn(6, 4, 16, 16).astype(np.float32), random.randn(6, 77, 32).astype(np.float32)
    expected = engine.predict_noise(latents, 500.0, text)
    engine._call = Faulty(engine._call, FULL[0], 1)
    assert np.allclose(engine.predict_noise(latents, 500.0, text), expected, atol=1e-4)
    assert engine._call.calls == 1 + 3


def test_a_picture_is_decoded_in_tiles_only_where_it_does_not_fit(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles change it; what fits is the same picture with whatever memory."""
    latents = np.random.RandomState(0).randn(1, 4, 32, 128).astype(np.float32)
    plenty: Any = engines.load("torch", tiny, size=(256, 64))
    expected, (unet, _) = plenty.decode(latents), needs(plenty)
    monkeypatch.setattr(torch_memory, "_STEP", 0)
    enough = unet + torch_memory.size_in_bytes(plenty._vae) + 16 * 8 * 4 * 256 * 64
    for free, level, tiled in ((enough, 1, False), (enough - 1, 1, True), (0, 2, True)):
        monkeypatch.setattr(torch_memory, "free", lambda *_, free=free: free)
        engine: Any = engines.load("torch", tiny, engines.Options(low_memory=True), size=(256, 64))
        assert (engine.level, engine._vae.use_tiling) == (level, tiled)
        assert np.allclose(engine.decode(latents), expected, atol=1e-5) is not tiled
    sizes: list[tuple[int, ...]] = []
    engine._vae.decoder.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    assert engine.decode(latents).shape == (1, 3, 64, 256)
    assert len(sizes) > 4 and max(max(size) for size in sizes) == 16


def test_layers_leave_nothing_on_the_device(tiny: Path) -> None:
    engine: Any = engines.load("torch", tiny)
    engine._place(torch_memory.LAYERS)
    layer = engine._unet.conv_in
    kept, seen = layer.weight.data_ptr(), []
    layer.register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.data_ptr()))
    for number in range(2):
        engine.predict_noise(*inputs(engine, number))
    assert kept not in seen and len(seen) == 2 and layer.weight.data_ptr() == kept


# Recorded calls


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[torch_models.Graph]]:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", torch_models.Graph)
    monkeypatch.setattr(torch.cuda, "graph", torch_models.recording)
    monkeypatch.setattr(torch_models.Graph, "replays", 0)
    yield torch_models.Graph


def inputs(engine: Any, seed: int, rows: int = 2) -> tuple[NDArray[Any], float, NDArray[Any]]:
    random = np.random.RandomState(seed)
    text = engine.encode_text(engine.tokenizer.encode("a red heart").ids) + random.rand()
    latents = random.randn(rows, 4, 16, 16).astype(np.float32)
    return latents, float(random.randint(999)), np.concatenate([text] * rows).astype(np.float32)


def test_a_recorded_call_computes_the_same(folder: Path, graphs: type[torch_models.Graph]) -> None:
    """For other latents, timesteps and texts than those it was recorded with, and for another batch between."""
    plain, engine = engines.load("torch", folder), engines.load("torch", folder)
    engine._call.records = True  # type: ignore[attr-defined]
    for number, rows in enumerate((2, 2, 2, 4, 2, 4, 4)):
        known = inputs(plain, number, rows)
        plain._call.forget()  # type: ignore[attr-defined]
        assert np.allclose(engine.predict_noise(*known), plain.predict_noise(*known), atol=1e-5)
    assert graphs.replays == 3 + 2  # the first call of each batch size is a plain one


def test_the_text_is_uploaded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = engines.load("torch", tiny)
    uploads: list[Any] = []
    upload = engine._call._upload

    def noted(*known: Any) -> None:
        uploads.append(known)
        upload(*known)

    monkeypatch.setattr(engine._call, "_upload", noted)
    picture(engine, steps=4)
    assert len(uploads) == 1


def test_warming_records_and_changes_nothing(
    folder: Path, graphs: type[torch_models.Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = picture(engines.load("torch", folder))
    engine: Any = engines.load("torch", folder)
    engine._warms = engine._call.records = True
    benchmark = torch.backends.cudnn.benchmark
    engine.warm()
    torch.backends.cudnn.benchmark = benchmark
    assert graphs.replays == 1
    assert np.abs(picture(engine, steps=2).astype(int) - expected).max() <= 1
    assert graphs.replays == 3
    assert engine._call.compiling is None


def test_less_memory_forgets_what_was_recorded(tiny: Path, graphs: type[torch_models.Graph]) -> None:
    engine: Any = engines.load("torch", tiny)
    engine._call.records = True
    known = inputs(engine, 1)
    for _ in range(3):
        expected = engine.predict_noise(*known)
    engine._place(torch_memory.LAYERS)
    assert np.allclose(engine.predict_noise(*known), expected, atol=1e-5)
    assert np.allclose(engine.predict_noise(*known), expected, atol=1e-5)
    assert graphs.replays == 2


# The UNet that is compiled


def warmed(tiny: Path, monkeypatch: pytest.MonkeyPatch, compiler: Any) -> Any:
    """An engine that has been warmed for --loop, with its compiler at work in a thread."""
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "Stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    engine: Any = engines.load("torch", tiny, engines.Options(goes_on=True))
    engine._warms = engine._call.records = True
    engine.warm()
    return engine


def test_in_a_loop_the_unet_is_compiled_beside(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, graphs: type[torch_models.Graph]
) -> None:
    calls: list[int] = []

    def compiler(module: Any, dynamic: bool) -> Any:
        assert not dynamic

        def quicker(sample: Any, *more: Any, **known: Any) -> Any:
            calls.append(len(sample))
            return (module(sample, *more, **known)[0] * 2,)  # so that it can be told

        return quicker

    known = inputs(plain := engines.load("torch", tiny), 1)
    engine = warmed(tiny, monkeypatch, compiler)
    engine._call.compiling.join()
    assert calls == [2, 2, 2]  # compiled, run, recorded
    before = graphs.replays
    assert np.allclose(engine.predict_noise(*known), 2 * plain.predict_noise(*known), atol=1e-5)
    assert graphs.replays == before + 1 and len(calls) == 3


def test_what_cannot_be_compiled_stays_as_it_is(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, graphs: type[torch_models.Graph], caplog: Any
) -> None:
    def compiler(module: Any, dynamic: bool) -> Any:
        raise RuntimeError("no compiler was found\nat all")

    caplog.set_level("DEBUG", "helpers")
    expected = picture(engines.load("torch", tiny))
    engine = warmed(tiny, monkeypatch, compiler)
    engine._call.compiling.join()
    assert np.abs(picture(engine).astype(int) - expected).max() <= 1
    assert "the UNet is not compiled: RuntimeError: no compiler was found" in caplog.messages


def test_what_was_compiled_for_more_memory_is_not_used(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, graphs: type[torch_models.Graph]
) -> None:
    lowered = threading.Event()

    def compiler(module: Any, dynamic: bool) -> Any:
        lowered.wait()

        def quicker(*arguments: Any, **more: Any) -> Any:
            calls.append(1)
            return (module(*arguments, **more)[0] * 2,)

        return quicker

    calls: list[int] = []
    known = inputs(plain := engines.load("torch", tiny), 1)
    engine = warmed(tiny, monkeypatch, compiler)
    engine._place(torch_memory.UNET_ONLY)
    lowered.set()
    engine._call.compiling.join()
    assert len(calls) == 2  # not recorded
    for _ in range(2):
        assert np.allclose(engine.predict_noise(*known), plain.predict_noise(*known), atol=1e-5)
