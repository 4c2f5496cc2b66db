"""One small module per way of computing. `load` is the only door: nothing outside an engine imports its framework."""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from helpers.core.errors import UserError
from helpers.draw.engines import nvidia

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.core.system import Machine
    from helpers.draw.tokenizer import Tokenizer

    Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """What is known of an engine before its framework is imported."""

    module: str  # its `load` takes what `load` below takes, without the name
    about: Callable[[], str]  # for --doctor: "OpenVINO on the processor"
    draws: Callable[[Path], bool]  # whether it draws with the model in a folder
    is_here: Callable[[], bool] = lambda: False  # whether this machine uses it without being asked to
    advice: Callable[[], str] = lambda: ""  # what is missing for it, on one line, if it would be quicker
    role: Callable[[], str] = lambda: ""  # of its default model in the catalogue, if that is not its name
    models: str = ""  # the engine whose models in the catalogue it draws with, if not its own


def _is_coreml(folder: Path) -> bool:
    return any(folder.glob("Unet*.ml*"))


def _is_diffusers(folder: Path) -> bool:
    return not _is_coreml(folder)


def _mac() -> Machine:
    from helpers.core import system

    return system.machine()


# The registry, the quickest engine first: an engine is one module beside this one and one entry here. The name is what
# A2I_ENGINE takes.
ENGINES = {
    "coreml": Kind(
        "helpers.draw.engines.coreml",
        lambda: f"Core ML on {_mac().chip}",
        _is_coreml,
        is_here=lambda: (platform.system(), platform.machine()) == ("Darwin", "arm64"),
        role=lambda: "coreml-gpu" if _mac().has_big_gpu else "coreml",
    ),
    "torch": Kind(
        "helpers.draw.engines.torch_engine",
        lambda: "PyTorch on an NVIDIA GPU",
        _is_diffusers,
        is_here=lambda: nvidia.has_driver() and not nvidia.missing(),
        advice=lambda: nvidia.advice(),
    ),
    "openvino": Kind(
        "helpers.draw.engines.openvino_engine",
        lambda: "OpenVINO on the processor",
        _is_diffusers,
        is_here=lambda: True,
    ),
    "apple": Kind(
        "helpers.draw.engines.apple", lambda: "Apple's python_coreml_stable_diffusion", _is_coreml, models="coreml"
    ),
}
SPELLINGS = {"cuda": "torch", "cpu": "openvino"}  # names of earlier versions


@dataclass(frozen=True)
class Options:
    """How a machine is to draw, for all engines; each takes what concerns it."""

    low_memory: bool | None = None  # keep only what computes in memory; None: where memory is short
    compute_units: str = ""  # Core ML's; "": what was found to work
    allow_pickle: bool = False  # open weights that are Python pickles
    apple_python: str = ""  # the Python with Apple's python_coreml_stable_diffusion, for the engine apple
    goes_on: bool = False  # many pictures will be drawn, so that compiling in the background pays
    cache: Path | None = None  # where an engine keeps what it compiles; None: in `.cache` of the repository


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

    name: str  # in ENGINES
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


def available(asked: str = "") -> tuple[str, ...]:
    """The engines that this machine draws with, the quickest first; `asked` (A2I_ENGINE) leaves that one.

    Raises: UserError 64 for a name that is none of ENGINES.
    """
    if asked:
        asked = SPELLINGS.get(asked, asked)
        if asked not in ENGINES:
            raise _unknown(asked)
        return (asked,)
    return tuple(name for name, kind in ENGINES.items() if kind.is_here())


def engines_of(folder: Path) -> tuple[str, ...]:
    """The engines that draw with the model in `folder`."""
    return tuple(name for name, kind in ENGINES.items() if kind.draws(folder))


def role(name: str) -> str:
    """The catalogue's role for the pictures of an engine on this machine."""
    kind = ENGINES[name]
    return kind.role() or (role(kind.models) if kind.models else name)


def load(
    name: str,
    folder: Path,
    options: Options | None = None,
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
    name = SPELLINGS.get(name, name)
    if name not in ENGINES:
        raise _unknown(name)
    module = importlib.import_module(ENGINES[name].module)
    engine: Engine = module.load(folder, options or Options(), size=size, guidance=guidance, precision=precision)
    return engine


def check_size(size: tuple[int, int], factor: int) -> None:
    """Refuse a size (width, height) that is no multiple of `factor`, the model's pixels per latent.

    Raises:
        UserError: 64, with the nearest size that the model draws.
    """
    width, height = size
    if min(size) < factor or width % factor or height % factor:
        nearest = "x".join(str(max(factor, round(side / factor) * factor)) for side in size)
        message = f"this model cannot draw {width}x{height}: both sides must be multiples of {factor}"
        raise UserError(os.EX_USAGE, message, f"The nearest size it draws is {nearest}.")


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
