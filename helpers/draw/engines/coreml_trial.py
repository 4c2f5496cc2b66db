"""Try one compute unit with one Core ML model, in a process of its own: a unit that fails may crash it.

    python -m helpers.draw.engines.coreml_trial FOLDER UNIT

Prints the seconds of one step of the UNet. Ends with an error if a network's output cannot be right.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.core.stage import run, take_stdout
from helpers.draw import diffusion
from helpers.draw.engines.coreml import CoreMl

if TYPE_CHECKING:
    from helpers.draw.engines import Engine


def main(argv: list[str] | None = None) -> int:
    folder, unit = argv or sys.argv[1:]
    pipe = take_stdout()
    engine = CoreMl(Path(folder), frugal=False)
    engine.load(unit)
    pipe.write(f"{seconds_of_a_step(engine)}\n".encode())
    pipe.close()
    return 0


def seconds_of_a_step(engine: Engine) -> float:
    """Run each network of an engine. Raises: UserError 70 if an output cannot be right."""
    text, empty = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in ("a red heart", ""))
    _check("TextEncoder", text)
    shape = (2, engine.channels, engine.size[1] // engine.factor, engine.size[0] // engine.factor)
    latents = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    both = np.concatenate([empty, text])
    _check("Unet", engine.predict_noise(latents, 500, both))
    start = time.perf_counter()
    engine.predict_noise(latents, 500, both)
    seconds = time.perf_counter() - start
    _check("VAEDecoder", engine.decode(latents[:1]))
    diffusion.draw(engine, text, empty, seed=0, steps=2, guidance=7.5)
    return seconds


def _check(part: str, array: NDArray[np.float32]) -> None:
    """Raises UserError 70 for an output that no working network has."""
    if not np.isfinite(array).all():
        raise UserError(os.EX_SOFTWARE, f"{part} computes NaN")
    if np.ptp(array) < 1e-3:
        raise UserError(os.EX_SOFTWARE, f"{part} computes the same value everywhere")


if __name__ == "__main__":
    run("coreml", main)
