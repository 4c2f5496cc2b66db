"""The size of each installed model, and the quality of compressed weights: size, signal-to-noise and pictures."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark import spoken_prompts
from benchmark.results import Results
from benchmark.worker import Worker
from helpers.catalog import catalog
from helpers.compress import convert_coreml
from helpers.core import extras
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.draw import engines

RECIPES = ("linear-8", "palette-6", "palette-4", "mixed-4", "palette-2", "mixed-2")


def measure(results: Results, quick: bool, tick: Callable[[], object]) -> None:
    """Add the figures and ratios of this section."""
    for entry in catalog.read(Settings.from_environment(names=["models"]).models).entries.values():
        if entry.is_present():
            size = sum(file.stat().st_size for file in entry.folder.rglob("*") if file.is_file()) / 1e6
            results.add(f"models / {entry.name} / on disk", "MB", [size], "its files")
    if extras.missing("convert"):
        results.notes.append(f"models: no palettes, since coremltools is not installed: {extras.command('convert')}")
        return
    if "coreml" not in engines.available():
        results.notes.append(
            "models: the memory that palettes save can only be measured on a Mac, where Core ML computes with them"
        )
    palettes(results, RECIPES[1:3] if quick else RECIPES, 4 if quick else 8, tick)


def palettes(results: Results, recipes: tuple[str, ...], prompts: int, tick: Callable[[], object]) -> None:
    """The built-in model with each recipe of helpers.compress.recipes, compared with 16 bits."""
    from helpers.compress import packages, report

    asked = spoken_prompts.PROMPTS[:prompts]
    how = f"the built-in model's three networks; {prompts} prompts, medians"
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as temporary:
        folder = Path(temporary) / "coreml"
        folder.mkdir()
        with contextlib.redirect_stderr(io.StringIO()):  # it prints each part
            convert_coreml.convert(ROOT / "models" / "builtin", folder, "original", None, 2)
        plain = packages.size(folder) / 1e6
        results.add("models / 16 bits / size", "MB", [plain], how)
        rows = report.measured(folder, recipes, [one.text for one in asked])
        with contextlib.redirect_stderr(io.StringIO()):
            for row, drawn, small in rows:
                tick()
                subject = f"models / {row.recipe}"
                results.add(f"{subject} / size", "MB", [row.bytes / 1e6], how)
                results.add(f"{subject} / of 16 bits", "%", [100 * row.bytes / 1e6 / plain], how)
                for what, value in (("weights", row.weights), ("latents", row.latents), ("picture", row.pictures)):
                    results.add(f"{subject} / {what}, signal to noise", "dB", [value], how)
                right = sum(shows(picture, one) for (_, picture), one in zip(drawn, asked, strict=True))
                results.add(
                    f"{subject} / right", "pictures", [right], f"{how}; of {prompts}, by training/builtin/judge.py"
                )
                if "coreml" in engines.available():
                    with Worker("engine", engine="coreml", folder=str(small)) as worker:
                        worker.ask("step")
                        results.add(f"{subject} / memory", "MB", [worker.ask("memory")[1]], "Core ML's process")
                results.compare(f"models: 16 bits / {row.recipe}, size", "models / 16 bits / size", f"{subject} / size")


def shows(picture: np.ndarray[tuple[int, ...], np.dtype[np.float32]], asked: spoken_prompts.Prompt) -> bool:
    """Whether a picture, (1, 3, 512, 512) in whole numbers 0…255, shows what was asked."""
    from training.builtin.judge import judge
    from training.builtin.vocabulary import Scene, Subject

    pixels = np.ascontiguousarray(picture[0].transpose(1, 2, 0).astype(np.uint8))
    return judge(pixels, Scene((Subject(asked.subject),), asked.background)).all
