"""Memory of drawing with Stable Diffusion 2.1's shapes: the first start, which compiles the model, a later one, and one
with A2I_LOW_MEMORY, beside diffusers on PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.image import OURS, THEIRS, precisions
from benchmark.results import Results
from benchmark.worker import Worker

Tick = Callable[[], object]


def measure(results: Results, tick: Tick) -> None:
    """Add the figures and ratios of this section, at the lowest precision of the processor."""
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as temporary:
        folder, cache = Path(temporary) / "model", Path(temporary) / "cache"
        with Worker("weights", folder=str(folder)):
            tick()
        peaks(results, "Stable Diffusion 2.1's shapes", folder, cache, precisions()[-1], tick)


def peaks(results: Results, name: str, folder: Path, cache: Path, precision: str, tick: Tick) -> None:
    """Add the peaks of the model in `folder`, whose compiled networks are not in `cache` yet."""
    spec: dict[str, Any] = {"folder": str(folder), "precision": precision}
    ours = {"engine": "openvino", "cache": str(cache), **spec}
    ways: dict[str, Callable[[], Worker]] = {
        f"{OURS}, first start": lambda: Worker("engine", **ours),
        f"{OURS}, later start": lambda: Worker("engine", **ours),
        f"{OURS}, A2I_LOW_MEMORY=1": lambda: Worker("engine", low_memory=True, **ours),
        THEIRS: lambda: Worker("quick start", **spec),
    }
    title = f"memory / {name}, %s, {precision}"
    for way, start in ways.items():
        with start() as worker:
            subject = title % way
            how = "peak resident memory of its process, as the system counts it, mapped files included"
            results.add(f"{subject} / after loading", "MB", [worker.ask("memory")[1]], how)
            worker.ask("picture", steps=1)
            results.add(f"{subject} / after a picture", "MB", [worker.ask("memory")[1]], how)
            if anonymous := worker.ask("anonymous")[1]:
                results.add(f"{subject} / in no file", "MB", [anonymous], "its memory after that, without mapped files")
            tick()
    theirs = f"{title % THEIRS} / after a picture"
    for way in list(ways)[:-1]:
        mine = f"{title % way} / after a picture"
        results.compare(f"memory: {THEIRS} / {way}, {precision}, {name}", theirs, mine)
