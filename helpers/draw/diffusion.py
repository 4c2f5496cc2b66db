"""The sampling loop, free of any framework: a text encoding in, pixels out, computed by whatever the engine is.

engine = engines.load("openvino", folder)
text = engine.encode_text(engine.tokenizer.encode("a delicious burger").ids)
unwanted = engine.encode_text(engine.tokenizer.encode("").ids)      # while the prompt has not arrived
pixels = diffusion.draw(engine, text, unwanted, seed=1, steps=20, guidance=7.5)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.draw import samplers

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine


class NoPicture(UserError):
    """There is nothing to show for a prompt; the next one may do better."""


class FilteredPicture(NoPicture):
    """The safety filter took every picture of a prompt."""

    def __init__(self) -> None:
        remedy = "It errs at times: try another --seed, or leave --safe out."
        super().__init__(os.EX_DATAERR, "the safety filter took the picture", remedy)


class BlankPicture(NoPicture):
    """What was computed is no picture: not a number, black, or one colour all over."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(os.EX_SOFTWARE, f"the model drew {what} instead of a picture", remedy)


def draw(
    engine: Engine,
    text: Array,
    unwanted: Array | None = None,
    *,
    seed: int,
    steps: int,
    guidance: float = 1.0,
    sampler: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Draw one picture at the engine's size.

    text, unwanted: (1, length, width), from engine.encode_text; unwanted is what guidance leads away from, and is
    not used when guidance <= 1 (the engine is then called with n = 1).
    seed: 0 … 2**32 - 1; the same seed starts from the same noise on every machine, because it comes from numpy's
    RandomState, whose stream is frozen. steps: 1 … the scheduler's num_train_timesteps. sampler: a name of
    samplers.SAMPLERS, None for engine.defaults.sampler. on_step(step, steps) is called after each step, 1 … steps.

    Returns uint8, (height, width, 3), RGB.

    Raises:
        BlankPicture: what came out is not a number, black, or one colour.
        UserError: 64 for a sampler or a number of steps that does not exist, 69 for a scheduler that is not known.
    """
    how: dict[str, Any] = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler, "on_step": on_step}
    return pixels(engine.decode(sample(engine, text, unwanted, **how)), engine.precision)


def sample(
    engine: Engine,
    text: Array,
    unwanted: Array | None = None,
    *,
    seed: int | Sequence[int],
    steps: int,
    guidance: float = 1.0,
    sampler: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Array:
    """The latents of a picture for each seed, float32 (seeds, channels, h, w), all at once; each is the one that its
    seed gives alone. Takes and raises what `draw` does, but no BlankPicture."""
    guided = guidance > 1 and unwanted is not None
    width, height = engine.size
    streams = [np.random.RandomState(one) for one in ([seed] if isinstance(seed, int) else seed)]
    shape = (1, engine.channels, height // engine.factor, width // engine.factor)

    def noise() -> Array:
        return np.concatenate([stream.standard_normal(shape).astype(np.float32) for stream in streams])

    sampling = samplers.start(sampler or engine.defaults.sampler, engine.scheduler, steps, noise)
    wanted = text.repeat(len(streams), axis=0)
    condition = (
        np.concatenate([unwanted.repeat(len(streams), axis=0), wanted]) if guided and unwanted is not None else wanted
    )
    latents = noise() * sampling.initial_sigma
    for step, timestep in enumerate(sampling.timesteps):
        scaled = sampling.scale(latents, step)
        prediction = engine.predict_noise(np.concatenate([scaled, scaled]) if guided else scaled, timestep, condition)
        if guided:
            away, toward = np.split(prediction, 2)
            prediction = away + np.float32(guidance) * (toward - away)
        latents = sampling.step(latents, step, prediction)
        if on_step:
            on_step(step + 1, len(sampling.timesteps))
    return latents


def pixels(picture: Array, precision: str) -> NDArray[np.uint8]:
    """(1, 3, height, width), -1…1 → uint8, (height, width, 3). Raises BlankPicture as `draw` does."""
    if not np.isfinite(picture).all():
        less = "" if precision == "f32" else f"The precision is {precision}; f32 does not overflow."
        raise BlankPicture("numbers that are none (NaN)", less or "The model file may be damaged: fetch it again.")
    colours = ((picture[0].transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    if np.ptp(colours, axis=(0, 1)).max() < 3:  # of 255: nothing an eye could tell from one colour
        colour = "black" if colours.max() < 3 else "one colour"
        raise BlankPicture(colour, "Another seed or fewer --guidance helps if the model is not damaged.")
    return np.ascontiguousarray(colours)
