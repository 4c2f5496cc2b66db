"""The sampling loop, independent of the framework: text embedding in, pixels out. The engine runs the networks.

engine = engines.load("openvino", folder)
text = engine.encode_text(engine.tokenizer.encode("a delicious burger").ids)
negative = engine.encode_text(engine.tokenizer.encode("").ids)      # can be computed before the prompt arrives
pixels = diffusion.draw(engine, text, unwanted, seed=1, steps=20, guidance=7.5)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.draw import samplers

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine


VARIED = 0.2  # the strength of a variation, of 1; the web UI's users take 0.1 to 0.3


class NoPicture(UserError):
    """No picture to show for this prompt; other prompts may still work."""


class NothingKnown(NoPicture):
    """A model with a closed world knows nothing of what is to be drawn."""

    def __init__(self, model: str, prompt: str, near: list[str], remedy: str) -> None:
        heard = prompt if len(prompt) <= 60 else prompt[:60].rstrip() + "…"
        like = f"; it can draw: {', '.join(near)}" if near else ""
        super().__init__(os.EX_DATAERR, f"{model} knows nothing in “{heard}”{like}", remedy)


class FilteredPicture(NoPicture):
    """The safety filter flagged every picture of a prompt."""

    def __init__(self) -> None:
        remedy = "The filter makes errors: try another --seed, or leave --safe out."
        super().__init__(os.EX_DATAERR, "the safety filter flagged the picture", remedy)


class BlankPicture(NoPicture):
    """The model produced NaN, a black picture or a single colour."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(os.EX_SOFTWARE, f"the model produced {what} instead of a picture", remedy)


def draw(
    engine: Engine,
    text: Array,
    negative: Array | None = None,
    *,
    seed: int,
    steps: int,
    guidance: float = 1.0,
    sampler: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Draw one picture at the engine's size.

    text, negative: (1, length, width), from engine.encode_text: the embeddings of the prompt and of the negative
    prompt. negative is not used when guidance <= 1 (the engine is then called with n = 1).
    seed: 0 … 2**64 - 1; see `noise_stream`. steps: 1 … the scheduler's num_train_timesteps. sampler: a name of
    samplers.SAMPLERS, None for engine.defaults.sampler. on_step(step, steps) is called after each step, 1 … steps.

    Returns uint8, (height, width, 3), RGB.

    Raises:
        BlankPicture: the pixels are NaN, black, or one colour.
        UserError: 64 for an unknown sampler or an impossible number of steps, 69 for an unsupported scheduler.
    """
    kwargs: dict[str, Any] = {
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "on_step": on_step,
    }
    return pixels(engine.decode(sample(engine, text, negative, **kwargs)), engine.precision)


def sample(
    engine: Engine,
    text: Array,
    negative: Array | None = None,
    *,
    seed: int | Sequence[int],
    steps: int,
    guidance: float = 1.0,
    sampler: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_clean: Callable[[int, int, Array], None] | None = None,
    variations: Sequence[int | None] = (),
) -> Array:
    """Sample one picture per seed in one batch: the latents, float32 (seeds, channels, h, w). A seed gives the same
    latents in any batch. variations: for each picture, the seed of noise that is mixed into that of its own, or None.
    on_clean(step, steps, latents) gets the latents without noise, as each step predicts them. Other arguments and
    exceptions are those of `draw`, without BlankPicture."""
    guided = guidance > 1 and negative is not None
    width, height = engine.size
    streams = [noise_stream(one) for one in ([seed] if isinstance(seed, int) else seed)]
    shape = (1, engine.channels, height // engine.factor, width // engine.factor)

    def noise() -> Array:
        return np.concatenate([stream.standard_normal(shape).astype(np.float32) for stream in streams])

    sampling = samplers.start(sampler or engine.defaults.sampler, engine.scheduler, steps, noise)
    embedding = text.repeat(len(streams), axis=0)
    if guided and negative is not None:
        embedding = np.concatenate([negative.repeat(len(streams), axis=0), embedding])
    latents = noise()
    for index, other in enumerate(variations):
        if other is not None:
            latents[index] = varied(latents[index], noise_stream(other).standard_normal(shape[1:]).astype(np.float32))
    latents *= sampling.initial_sigma
    for step, timestep in enumerate(sampling.timesteps):
        scaled = sampling.scale(latents, step)
        prediction = engine.predict_noise(np.concatenate([scaled, scaled]) if guided else scaled, timestep, embedding)
        if guided:
            unconditional, conditional = np.split(prediction, 2)
            prediction = unconditional + np.float32(guidance) * (conditional - unconditional)
        latents = sampling.step(latents, step, prediction)
        if on_step:
            on_step(step + 1, len(sampling.timesteps))
        if on_clean:
            on_clean(step + 1, len(sampling.timesteps), sampling.clean)
    return latents


def has_preview(step: int, steps: int) -> bool:
    """Whether a preview follows this step, 1 … steps: after each, in long runs after every second or third, and never
    after the last, which the picture itself follows."""
    return step < steps and step % (1 if steps <= 10 else 2 if steps <= 25 else 3) == 0


def noise_stream(seed: int) -> np.random.RandomState:
    """The noise of a seed, 0 … 2**64 - 1: the same on every machine, because numpy's RandomState is frozen.

    It takes seeds below 2**32. A larger one is given as its low and its high 32 bits (`init_by_array` of the Mersenne
    Twister), which no smaller seed does.
    """
    return np.random.RandomState(seed if seed < 2**32 else [seed % 2**32, seed >> 32])


def varied(noise: Array, other: Array) -> Array:
    """Noise like `noise`, with VARIED of `other`: on the great circle between them, so that its variance stays 1. Two
    samples of so many numbers are at a right angle; the slerp of AUTOMATIC1111's web UI (modules/rng.py) measures it.
    """
    angle = VARIED * math.pi / 2
    return np.float32(math.cos(angle)) * noise + np.float32(math.sin(angle)) * other


def pixels(picture: Array, precision: str) -> NDArray[np.uint8]:
    """(1, 3, height, width), -1…1 → uint8, (height, width, 3). Raises BlankPicture as `draw` does."""
    if not np.isfinite(picture).all():
        overflow = "" if precision == "f32" else f"The precision {precision} may have overflowed: try f32."
        raise BlankPicture("NaN", overflow or "The model file may be damaged: fetch it again.")
    colours = ((picture[0].transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    if np.ptp(colours, axis=(0, 1)).max() < 3:  # of 255: looks like one colour
        blank = "a black image" if colours.max() < 3 else "a single colour"
        raise BlankPicture(blank, "Try another --seed or a lower --guidance. Or the model file is damaged.")
    return np.ascontiguousarray(colours)
