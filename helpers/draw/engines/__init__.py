"""One small module per way of computing. `load` is the only door: nothing outside an engine imports its framework."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from helpers.core.errors import UserError
from helpers.core.stage import setting
from helpers.draw.engines import nvidia

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.draw.tokenizer import Tokenizer

    Array = NDArray[np.float32]

# The registry: an engine is one module beside this one and one line here. The name is what A2I_ENGINE takes.
ENGINES = {
    "coreml": "helpers.draw.engines.coreml",
    "torch": "helpers.draw.engines.torch_engine",
    "openvino": "helpers.draw.engines.openvino_engine",
}
SPELLINGS = {"cuda": "torch", "cpu": "openvino"}  # names of earlier versions

# Whoever imports openvino after this gets it without its tools for converting models: they bring the package
# openvino_telemetry, which reports each import to Google Analytics. The runtime itself sends nothing.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Defaults:
    """What a model draws best with. `audio_to_image.json` in its folder may say it; each key of that is optional."""

    sampler: str = "dpm++"  # a name of helpers.draw.samplers.SAMPLERS
    steps: int = 20
    guidance: float = 7.5


class Engine(Protocol):
    """A loaded Stable Diffusion model: three functions and what one has to know to call them.

    All arrays are float32 and C-contiguous. n is the number of pictures that are drawn at once, and with guidance
    twice that number: the unwanted halves first.
    """

    name: str  # of ENGINES
    version: str  # what computes, for run.json: "openvino 2026.4.1"
    precision: str  # "f32", "bf16" or "f16"
    size: tuple[int, int]  # width and height in pixels that predict_noise and decode were made for
    pictures: int  # that are drawn at once, at most
    channels: int  # of a latent: 4 for Stable Diffusion
    factor: int  # pixels per latent, in each direction: 8 for Stable Diffusion
    scheduler: dict[str, Any]  # scheduler_config.json of the model
    tokenizer: Tokenizer
    defaults: Defaults

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        """tokens: int64, (length,), from `tokenizer.encode(prompt).ids` → (1, length, width)."""
        ...

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        """latents: (n, channels, height / factor, width / factor); timestep: 0…999; text: (n, length, width).

        Returns what the model predicts (noise or velocity, as its scheduler says), in the shape of latents.
        """
        ...

    def decode(self, latents: Array) -> Array:
        """latents: (1, channels, h, w) → picture (1, 3, h * factor, w * factor), nominally -1…1."""
        ...

    def warm(self, pictures: int = 1) -> None:
        """Run everything once, so that the first picture is as quick as the next; call it while nobody waits.

        pictures: that will be drawn at once.
        """
        ...


def available() -> tuple[str, ...]:
    """The engines of this machine, the quickest first; A2I_ENGINE leaves one.

    Raises: UserError 64 for a name that is none of ENGINES.
    """
    if asked := setting("ENGINE"):
        asked = SPELLINGS.get(asked, asked)
        if asked not in ENGINES:
            raise _unknown(asked)
        return (asked,)
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return ("coreml", "openvino")
    return ("torch", "openvino") if nvidia.has_driver() and not nvidia.missing() else ("openvino",)


def engines_of(folder: Path) -> tuple[str, ...]:
    """The engines that compute the model in `folder`: coreml for Core ML models, two for a diffusers folder."""
    return ("coreml",) if any(folder.glob("Unet*.ml*")) else ("torch", "openvino")


def load(
    name: str,
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    guidance: bool = True,
    precision: str = "",
) -> Engine:
    """Load the model in `folder` into the engine `name`.

    size: width and height in pixels, None for the size the model was trained at; guidance: whether predict_noise
    will be called with n = 2; precision: of the engine's own, "" for its usual one.

    Raises:
        UserError: 64 for a size the model cannot draw, 69 for a model that is missing, damaged or of a kind that
            the engine does not compute.
    """
    if name not in ENGINES:
        raise _unknown(name)
    engine: Engine = importlib.import_module(ENGINES[name]).load(folder, size, guidance, precision)
    _check_scheduler(engine, folder)
    return engine


def _check_scheduler(engine: Engine, folder: Path) -> None:
    """Raises UserError 69 for settings that sampling would stumble over, before anything is said or drawn."""
    import numpy as np

    from helpers.adapt.diffusers_folder import damaged
    from helpers.draw import samplers

    try:
        with contextlib.suppress(UserError):  # of a sampler or a number of steps: another may be asked for
            samplers.start(engine.defaults.sampler, engine.scheduler, engine.defaults.steps, lambda: np.zeros(1))
    except Exception as error:
        raise damaged(folder / "scheduler" / "scheduler_config.json", error) from error


def _unknown(name: str) -> UserError:
    return UserError(os.EX_USAGE, f"there is no engine {name!r}", f"Engines: {', '.join(ENGINES)}.")


def defaults(folder: Path) -> Defaults:
    """What the model in `folder` draws best with; without `audio_to_image.json`, what suits Stable Diffusion, or a
    model of few steps if its scheduler is one's.

    Raises:
        UserError: 69 for a file that is damaged or has an unknown key.
    """
    from helpers.adapt.diffusers_folder import damaged, read_config

    path = folder / "audio_to_image.json"
    if not path.exists():
        return _usual(folder)
    try:
        known = Defaults(**read_config(path))
        if not (isinstance(known.sampler, str) and type(known.steps) is int and known.steps > 0 <= known.guidance):
            raise ValueError(f"{known}")
    except (TypeError, ValueError) as error:
        raise damaged(path, error) from error
    return known


_FEW = re.compile(r"turbo|lightning|hyper|lcm|consistency", re.IGNORECASE)
_ANCESTRAL = "EulerAncestralDiscreteScheduler"


def _usual(folder: Path) -> Defaults:
    """LCM has a scheduler of its own; Turbo, Lightning and Hyper come with Euler's and trailing timesteps, which no
    other model published with diffusers has. A name with a number of steps (`sdxl-lightning-8step`) says that, too."""
    from helpers.adapt.diffusers_folder import read_config

    path = folder / "scheduler" / "scheduler_config.json"
    config = read_config(path) if path.exists() else {}
    kind, trailing = str(config.get("_class_name", "")), config.get("timestep_spacing") == "trailing"
    few = trailing and kind.startswith("Euler") and config.get("prediction_type", "epsilon") == "epsilon"
    if kind != "LCMScheduler" and not few and not (_FEW.search(folder.name) and trailing):
        return Defaults()
    named = re.search(r"(\d)[ _-]?steps?(?![a-z])", folder.name, re.IGNORECASE)
    sampler = {"LCMScheduler": "lcm", _ANCESTRAL: "euler-ancestral", "DDIMScheduler": "ddim"}.get(kind, "euler")
    return Defaults(sampler, int(named[1]) if named and int(named[1]) else 4, 1.0)
