"""Speed on an NVIDIA GPU: diffusers' quick start, our engine in one run and in --loop, and the theoretical minimum.

The model has Stable Diffusion 2.1-base's exact shapes and random weights; everything is measured alternately in one
process. Random weights draw noise, which compresses worse than a picture, so the PNG takes longer. The "floor" is the
arithmetic of UNet and decoder divided by the speed of a large matrix product on the same device.
"""

from __future__ import annotations

import importlib
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import shapes
from benchmark.results import Results, in_turn
from benchmark.worker import GUIDANCE, PROMPT
from helpers.draw import diffusion, engines, png
from helpers.draw.diffusion import NoPicture

diffusers: Any = importlib.import_module("diffusers")
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")


def rate(device: str, dtype: Any, side: int) -> float:
    """GFLOP/s of a matrix multiplication of `side`, the best of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / 1e9 / min(timed(lambda: a @ b, device) for _ in range(10))


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds of `work`, until the device has finished."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def ready(folder: Path, batch: int, loop: bool) -> Any:
    """Our engine, loaded and warmed up; in a loop, after the compiler has finished."""
    engine: Any = engines.load("torch", folder, engines.Options(goes_on=loop))
    engine.warm(batch)
    if engine._call.compiling:
        engine._call.compiling.join()
    return engine


def colours(engine: Any, latents: Any) -> Any:
    """The pixels of one picture; noise if the random weights give no valid picture."""
    try:
        return diffusion.pixels(engine.decode(latents[None]), engine.precision)
    except NoPicture:
        width, height = engine.size
        return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def ours(engine: Any, steps: int, batch: int, **more: Any) -> list[Any]:
    text, unwanted = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (PROMPT, ""))
    seeds = list(range(batch))
    latents = diffusion.sample(engine, text, unwanted, seed=seeds, steps=steps, guidance=GUIDANCE, **more)
    return [colours(engine, one) for one in latents]


def profile(engine: Any, steps: int, folder: Path) -> dict[str, float]:
    """Seconds from the arrival of a line to its PNG on disk, for each part of the work."""
    unwanted = engine.encode_text(engine.tokenizer.encode("").ids)  # computed before the line arrives
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    text = engine.encode_text(engine.tokenizer.encode(PROMPT).ids)
    mark("text")
    latents = diffusion.sample(
        engine, text, unwanted, seed=1, steps=steps, guidance=GUIDANCE,
        on_step=lambda step, _: mark("first step" if step == 1 else "other steps"),
    )  # fmt: skip
    pixels = colours(engine, latents[0])
    mark("decoding")
    (folder / "image.png").write_bytes(png.write(pixels, PROMPT))
    mark("PNG")
    spent: dict[str, float] = {}
    for (_, began), (name, ended) in itertools.pairwise(marks):
        spent[name] = spent.get(name, 0.0) + ended - began
    return spent


def measure(results: Results, shape: shapes.Shapes, name: str, tick: Callable[[], object]) -> None:
    """Add the figures and ratios of a model called `name`. Without a GPU they are the CPU's, only to test the code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    card = torch.cuda.get_device_name() if device == "cuda" else "the processor"
    kinds, decoding = shapes.arithmetic(shape)
    speed = rate(device, dtype, 8192 if device == "cuda" else 512)
    results.add(f"image / {card} / matrix product", "TFLOP/s", [speed / 1e3], "the best of ten")
    for quiet in (diffusers.utils.logging, transformers.utils.logging):
        quiet.set_verbosity_error()
        quiet.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as temporary:
        folder = Path(temporary)
        shapes.make(folder, shape, device, dtype)
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)
        pipe.set_progress_bar_config(disable=True)
        for batch in shape.batches:
            once, loop = ready(folder, batch, False), ready(folder, batch, True)
            for steps in shape.steps:
                ways: dict[str, Callable[[], Any]] = {
                    "quick start": lambda steps=steps, batch=batch: pipe(  # type: ignore[misc]
                        PROMPT, num_inference_steps=steps, guidance_scale=GUIDANCE, num_images_per_prompt=batch
                    ),
                    "one run": lambda steps=steps, batch=batch, engine=once: ours(engine, steps, batch),  # type: ignore[misc]
                    "in a loop": lambda steps=steps, batch=batch, engine=loop: ours(engine, steps, batch),  # type: ignore[misc]
                }
                timers: dict[str, Callable[[], float]] = {
                    way: lambda work=work: timed(work, device)  # type: ignore[misc]
                    for way, work in ways.items()
                }
                found = in_turn(timers, shape.rounds, tick)
                found["floor"] = [batch * (steps * sum(kinds.values()) + decoding) / speed] * shape.rounds
                subject = f"image / {name} on {card}, {steps} steps, {batch} at once"
                for way, seconds in found.items():
                    results.add(f"{subject} / {way}", "s", seconds, f"{dtype}, guidance {GUIDANCE}, in turn")
                for a, b in (("quick start", "one run"), ("quick start", "in a loop"), ("floor", "in a loop")):
                    results.compare(
                        f"{subject.replace(' /', ':', 1)}: {a} / {b}", f"{subject} / {a}", f"{subject} / {b}"
                    )
            if batch == 1:
                spent = [profile(loop, 25, folder) for _ in range(shape.rounds + 1)][1:]
                for part in spent[0]:
                    milliseconds = [1e3 * one[part] for one in spent]
                    results.add(f"image / from the line to the PNG, 25 steps / {part}", "ms", milliseconds, "in a loop")
            del once, loop
        if device == "cuda":
            most = torch.cuda.max_memory_allocated() / 1e6
            results.add(f"image / {card} / memory", "MB", [most], "for all three at once")
