"""A job to draw, and a drawn picture: plain values that a host may send to another thread, process or machine."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from helpers.core.settings import LARGEST_SEED, RANDOM_SEED, Adapter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.draw.engines import Defaults


_RANDOM = 2**32  # seeds by chance are below this: short enough to type


@dataclass(frozen=True)
class Job:
    """A prompt and how to draw it. None and "" leave the choice to the model."""

    prompt: str
    negative: str = ""
    seed: int | None = None  # 0 … LARGEST_SEED, of the first picture, the next has seed + 1; None, RANDOM_SEED: any
    count: int = 1  # pictures
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None  # a name of samplers.SAMPLERS
    size: tuple[int, int] | None = None  # width and height in pixels
    precision: str = ""  # one of the engine's; "": its default
    model: str = ""  # its name
    sha256: str = ""  # of the model's weights, or its first digits; another model is refused
    variation: int | None = None  # a seed whose noise is mixed in: pictures like that of `seed`, the next has + 1
    tones: tuple[str, ...] = ()  # changes of the pixels, names of tones.TONES, in this order
    loras: tuple[Adapter, ...] = ()
    typed: bool = False  # a person has typed the prompt: `<lora:…>` and emphasis in it are read …
    plain: bool = False  # … unless they are ordinary text, as in the negative prompt then
    decoder: str = ""  # full (the model's own), small, or the name of a small one; "": by engine

    def resolved(self, defaults: Defaults, size: tuple[int, int], model: str) -> Job:
        """This job with a value for everything but the precision; defaults, size and name are the model's."""
        return replace(
            self,
            seed=secrets.randbelow(_RANDOM) if self.seed in (None, RANDOM_SEED) else self.seed,
            steps=self.steps or defaults.steps,
            guidance=defaults.guidance if self.guidance is None else self.guidance,
            sampler=self.sampler or defaults.sampler,
            size=size,
            model=model,
        )

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture of a resolved job."""
        if self.variation is not None:
            return [self.seed or 0] * self.count
        return [((self.seed or 0) + number) % (LARGEST_SEED + 1) for number in range(self.count)]

    @property
    def variations(self) -> list[int | None]:
        """The seed of each picture's variation; None for a picture without."""
        first = self.variation
        return [None if first is None else (first + number) % (LARGEST_SEED + 1) for number in range(self.count)]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, with all the settings that it was drawn with."""

    pixels: NDArray[np.uint8]  # (height, width, 3), RGB
    seed: int
    job: Job  # resolved, with all digits of sha256
    engine: str  # a name of engines.ENGINES
    engine_version: str  # "openvino 2026.4.1"
    precision: str  # "f32", "bf16" or "f16"
    version: str  # of this program
