"""What each recipe costs: bytes, and the signal-to-noise ratio of weights, latents and pictures, as a table."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import read_weights
from helpers.catalog.catalog import human
from helpers.compress.packages import PARTS, size, source_of
from helpers.compress.recipes import compress, decode, recipe
from helpers.core.errors import UserError
from helpers.core.text import printable
from helpers.draw import diffusion, engines

PROMPTS = (
    "a red heart on a green background",
    "a cat in the snow",
    "a burger on a blue background",
    "an owl at night",
    "a rocket in space",
    "a sunflower in a meadow",
)


class Signal(NamedTuple):
    """One recipe: size of all packages in bytes, the rest in dB; the last two are medians over the prompts."""

    recipe: str
    bytes: int
    weights: float  # signal-to-noise ratio of all weights
    latents: float  # PSNR of the latents
    pictures: float  # PSNR of 8-bit pictures


def compare(folder: Path, recipes: Iterable[str], prompts: Path | None) -> None:
    """Print a Markdown table of the recipes.

    Each recipe is applied, decoded, and its pictures are drawn by the engine openvino, which computes the same as
    Core ML from the same weights, in 32 bits. The reference is the model that the folder was made from.

    Raises: UserError 64 for a wrong recipe, 65 for a file without a prompt, 66 if that file or the original model does
    not exist.
    """
    texts = read_prompts(prompts) if prompts else list(PROMPTS)
    chosen = [name for name in dict.fromkeys(recipes) if recipe(name)]
    source_of(folder)
    plain = size(folder)
    print("| recipe | size | of 16 bit | weights SNR | latents PSNR | picture PSNR |")
    print("| --- | --: | --: | --: | --: | --: |")
    print(f"| 16 bit | {human(plain)} | 100% | | | |", flush=True)
    for row, _, _ in measured(folder, chosen, texts):
        print(
            f"| {row.recipe} | {human(row.bytes)} | {row.bytes / plain:.0%} | {row.weights:.1f} dB | "
            f"{row.latents:.1f} dB | {row.pictures:.1f} dB |",
            flush=True,
        )


def measured(folder: Path, recipes: Iterable[str], texts: Sequence[str]) -> Iterator[tuple[Signal, Drawn, Path]]:
    """The row of each recipe, its pictures, and the folder of its packages, which is deleted when the next one is asked
    for."""
    source = source_of(folder)
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as scratch:
        cache = Path(scratch) / "cache"  # what is compiled here is used once
        exact = drawn(source, texts, cache)
        for name in recipes:
            small, decoded = Path(scratch) / name, Path(scratch) / f"{name}-decoded"
            small.mkdir()
            compress(folder, recipe(name), small)
            decode(small, source, decoded)
            rough = drawn(decoded, texts, cache)
            yield signal(name, size(small), (source, exact), (decoded, rough)), rough, small
            shutil.rmtree(small)
            shutil.rmtree(decoded)


def read_prompts(file: Path) -> list[str]:
    """The prompts of a text file, one on each line. Raises: UserError 65 for no prompt or no text, 66 if unreadable."""
    try:
        texts = [text for line in file.read_text("utf-8").splitlines() if (text := printable(line))]
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(os.EX_DATAERR, f"{file} is not UTF-8 text") from error
    if not texts:
        raise UserError(os.EX_DATAERR, f"{file} has no prompt", "Write one on each line.")
    return texts


# For each prompt: latents, and a picture in whole numbers 0…255.
Drawn = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def drawn(folder: Path, texts: Sequence[str], cache: Path | None = None) -> Drawn:
    """What OpenVINO draws of each text with the model's own settings, seeds 0, 1, …; cache: for what it compiles."""
    settings = engines.defaults(folder)
    engine = engines.load("openvino", folder, engines.Options(cache=cache), guidance=settings.guidance > 1)
    empty = engine.encode_text(engine.tokenizer.encode("").ids)
    results: Drawn = []
    for seed, text in enumerate(texts):
        encoded = engine.encode_text(engine.tokenizer.encode(text).ids)
        latents = diffusion.sample(engine, encoded, empty, seed=seed, steps=settings.steps, guidance=settings.guidance)
        # Not diffusion.pixels, which refuses a blank picture: a bad recipe may draw one, and its row shows that.
        results.append((latents, ((engine.decode(latents) / 2 + 0.5).clip(0, 1) * 255).round()))
    return results


def signal(name: str, bytes: int, exact: tuple[Path, Drawn], rough: tuple[Path, Drawn]) -> Signal:
    """The row of a recipe from two diffusers folders and what was drawn with them."""
    energy = noise = 0.0
    for part in PARTS.values():
        decoded = read_weights(rough[0] / part)
        for key, weight in read_weights(exact[0] / part).items():
            if part == "vae" and not key.startswith(("decoder.", "post_quant_conv.")):
                continue
            energy += float(np.sum(weight.astype(np.float64) ** 2))
            noise += float(np.sum((weight.astype(np.float64) - decoded[key]) ** 2))
    pairs = list(zip(exact[1], rough[1], strict=True))
    latents = [psnr(a[0], b[0], float(np.abs(a[0]).max())) for a, b in pairs]
    pictures = [psnr(a[1], b[1], 255) for a, b in pairs]
    return Signal(name, bytes, decibels(energy, noise), float(np.median(latents)), float(np.median(pictures)))


def psnr(exact: NDArray[np.generic], rough: NDArray[np.generic], peak: float) -> float:
    """Peak signal-to-noise ratio in dB; 120 for equal arrays."""
    return decibels(peak**2, float(np.mean((exact.astype(np.float64) - rough.astype(np.float64)) ** 2)))


def decibels(signal: float, noise: float) -> float:
    """10 log10 of the ratio, at most 120."""
    return 120.0 if noise <= signal * 1e-12 else 10 * float(np.log10(signal / noise))
