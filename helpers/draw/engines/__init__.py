"""The engines, one module each. Use `load`: only an engine's own module imports its framework."""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from helpers.core.errors import UserError
from helpers.draw.engines import nvidia

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.adapt.checkpoint import Checkpoint
    from helpers.core.system import Machine
    from helpers.draw.tokenizer import Tokenizer

    Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """An engine as far as it is described without importing its framework."""

    module: str  # its `load` has the arguments of `load` below, without the name
    about: Callable[[], str]  # for --doctor: "OpenVINO on the processor"
    draws: Callable[[Path], bool]  # whether it can run the model in a folder
    is_here: Callable[[], bool] = lambda: False  # whether this machine uses it by default
    advice: Callable[[], str] = lambda: ""  # one line: what to install, if the engine would be faster but lacks it
    role: Callable[[], str] = lambda: ""  # catalogue role of its default model, if that is not the engine's name
    models: str = ""  # the engine whose catalogue models it uses, if not its own
    chunks: int = 1  # of a text encoder's length, that a prompt may have
    adapts: bool = False  # whether LoRAs can be added to its models
    slow: bool = False  # decoding takes so long that a small decoder is used where there is one


def _is_coreml(folder: Path) -> bool:
    return any(folder.glob("Unet*.ml*"))


def _is_diffusers(folder: Path) -> bool:
    return not _is_coreml(folder)


def _mac() -> Machine:
    from helpers.core import system

    return system.machine()


# The registry, fastest engine first. To add an engine, add a module in this folder and an entry here; the key is the
# value of A2I_ENGINE.
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
        chunks=8,
        adapts=True,
        advice=lambda: nvidia.advice(),
    ),
    "openvino": Kind(
        "helpers.draw.engines.openvino_engine",
        lambda: "OpenVINO on the processor",
        _is_diffusers,
        chunks=8,
        adapts=True,
        is_here=lambda: True,
        slow=True,
    ),
    "apple": Kind(
        "helpers.draw.engines.apple", lambda: "Apple's python_coreml_stable_diffusion", _is_coreml, models="coreml"
    ),
}
SPELLINGS = {"cuda": "torch", "cpu": "openvino"}  # names of earlier versions


@dataclass(frozen=True)
class Options:
    """Options of all engines; each engine uses those that apply to it."""

    low_memory: bool | None = None  # keep only the network that computes in memory; None: if memory is short
    compute_units: str = ""  # of Core ML and OpenVINO; "": the fastest that was found to work
    allow_pickle: bool = False  # allow weights that are Python pickles
    apple_python: str = ""  # for the engine apple: the Python that has Apple's python_coreml_stable_diffusion
    goes_on: bool = False  # many pictures will be drawn: compiling in the background pays off
    search: Path | None = None  # a folder of the user's own with LoRAs
    cache: Path | None = None  # for compiled networks; None: the repository's `.cache`
    decoder: Path | None = None  # the folder of a decoder that is used instead of the model's own


@dataclass(frozen=True)
class Defaults:
    """Recommended settings of a model. `audio_to_image.json` in its folder may override each of them."""

    sampler: str = "dpm++"  # a name of helpers.draw.samplers.SAMPLERS
    steps: int = 20
    guidance: float = 7.5


class Engine(Protocol):
    """A loaded Stable Diffusion model: three functions and the values needed to call them.

    All arrays are float32 and C-contiguous. n is the batch size: the number of pictures, and with guidance twice
    that, the negative prompt's half first.
    """

    name: str  # in ENGINES
    version: str  # of the framework, for run.json: "openvino 2026.4.1"
    precision: str  # "f32", "bf16" or "f16"
    size: tuple[int, int]  # width and height of the picture in pixels; fixed at load
    pictures: int  # most pictures in one batch
    channels: int  # of a latent: 4 for Stable Diffusion
    factor: int  # the VAE scale factor, pixels per latent in each direction: 8 for Stable Diffusion
    scheduler: dict[str, Any]  # scheduler_config.json of the model
    tokenizer: Tokenizer
    defaults: Defaults

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        """tokens: int64, (length,), from `tokenizer.encode(prompt).ids` → (1, length, width)."""
        ...

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        """latents: (n, channels, height / factor, width / factor); timestep: 0…999; text: (n, length, width), or a
        multiple of the length, up to the engine's `chunks`.

        Returns what the model predicts (noise or velocity, as its scheduler says), in the shape of latents.
        """
        ...

    def decode(self, latents: Array) -> Array:
        """latents: (1, channels, h, w) → picture (1, 3, h * factor, w * factor), nominally -1…1."""
        ...

    def warm(self, pictures: int = 1) -> None:
        """Run all networks once, so that the first picture is not slower than the next; call it while idle.

        pictures: the batch size to expect.
        """
        ...


def available(asked: str = "") -> tuple[str, ...]:
    """The engines that this machine can use, fastest first; with `asked` (A2I_ENGINE) only that one.

    Raises: UserError 64 for a name that is not in ENGINES.
    """
    if asked:
        asked = SPELLINGS.get(asked, asked)
        if asked not in ENGINES:
            raise _unknown(asked)
        return (asked,)
    return tuple(name for name, kind in ENGINES.items() if kind.is_here())


def engines_of(folder: Path) -> tuple[str, ...]:
    """The engines that can run the model in `folder`."""
    return tuple(name for name, kind in ENGINES.items() if kind.draws(folder))


def role(name: str) -> str:
    """The catalogue role of an engine's default model on this machine."""
    kind = ENGINES[name]
    return kind.role() or (role(kind.models) if kind.models else name)


def load(
    name: str,
    model: Path | Checkpoint,
    options: Options | None = None,
    *,
    size: tuple[int, int] | None = None,
    guidance: bool = True,
    precision: str = "",
) -> Engine:
    """Load a model, or the one at a path, into the engine `name`.

    size: width and height in pixels, None for the size the model was trained at; guidance: whether predict_noise
    will be called with n = 2; precision: one of the engine's, "" for its default.

    Raises:
        UserError: 64 for a size the model cannot draw, 69 for a model that is missing, damaged or not supported
            by the engine.
    """
    name = SPELLINGS.get(name, name)
    if name not in ENGINES:
        raise _unknown(name)
    module = importlib.import_module(ENGINES[name].module)
    engine: Engine = module.load(
        _checkpoint(model), options or Options(), size=size, guidance=guidance, precision=precision
    )
    return engine


def check_size(size: tuple[int, int], factor: int) -> None:
    """Refuse a size (width, height) that is not a multiple of `factor`, the model's VAE scale factor.

    Raises:
        UserError: 64, with the nearest size that the model can draw.
    """
    width, height = size
    if min(size) < factor or width % factor or height % factor:
        nearest = "x".join(str(max(factor, round(side / factor) * factor)) for side in size)
        message = f"this model cannot draw {width}x{height}: both sides must be multiples of {factor}"
        raise UserError(os.EX_USAGE, message, f"The nearest size it draws is {nearest}.")


def check_decoder(decoder: Path | None, vae: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Refuse a `decoder` in place of the model's own that is not made for its latents.

    vae, unet: its configuration and that of the model's UNet. Raises: UserError 69, KeyError for a missing setting.
    """
    if decoder and (found := vae["latent_channels"]) != unet["in_channels"]:
        message = f"the decoder in {decoder} decodes {found!r} channels, but the model has {unet['in_channels']!r}"
        raise UserError(os.EX_UNAVAILABLE, message, "Fetch the decoder again, or draw with --decoder full.")


def _unknown(name: str) -> UserError:
    return UserError(os.EX_USAGE, f"there is no engine {name!r}", f"Engines: {', '.join(ENGINES)}.")


def _checkpoint(model: Path | Checkpoint) -> Checkpoint:
    from helpers.adapt.checkpoint import Checkpoint

    return model if isinstance(model, Checkpoint) else Checkpoint(model)


def defaults(model: Path | Checkpoint) -> Defaults:
    """Recommended settings of a model: from `audio_to_image.json`, otherwise the usual ones of Stable
    Diffusion, or of few-step models if its scheduler is typical of those.

    Raises:
        UserError: 69 for a file that is damaged or has an unknown key.
    """
    from helpers.adapt.diffusers_folder import damaged, read_config
    from helpers.adapt.few_steps import few_steps

    checkpoint = _checkpoint(model)
    path = checkpoint.folder / "audio_to_image.json"
    if not path.exists() or few_steps(checkpoint.loras):
        return _usual(checkpoint)
    try:
        found = Defaults(**read_config(path))
        if not (isinstance(found.sampler, str) and type(found.steps) is int and found.steps > 0 <= found.guidance):
            raise ValueError(f"{found}")
    except (TypeError, ValueError) as error:
        raise damaged(path, error) from error
    return found


_FEW = re.compile(r"turbo|lightning|hyper|lcm|consistency", re.IGNORECASE)
_ANCESTRAL = "EulerAncestralDiscreteScheduler"


def _usual(checkpoint: Checkpoint) -> Defaults:
    """Few-step models are recognised by their scheduler: LCM has its own; Turbo, Lightning and Hyper use Euler with
    trailing timesteps, as no other published model does. The folder's name may give the steps (`sdxl-lightning-8step`).
    """
    from helpers.adapt.few_steps import naming

    folder, name = checkpoint.folder, naming(checkpoint.loras) or checkpoint.folder.name
    has = checkpoint.is_file or (folder / "scheduler" / "scheduler_config.json").exists()
    config = checkpoint.config("scheduler") if has else {}
    kind, trailing = str(config.get("_class_name", "")), config.get("timestep_spacing") == "trailing"
    few = trailing and kind.startswith("Euler") and config.get("prediction_type", "epsilon") == "epsilon"
    if kind != "LCMScheduler" and not few and not (_FEW.search(name) and trailing):
        return Defaults()
    named = re.search(r"(\d)[ _-]?steps?(?![a-z])", name, re.IGNORECASE)
    sampler = {"LCMScheduler": "lcm", _ANCESTRAL: "euler-ancestral", "DDIMScheduler": "ddim"}.get(kind, "euler")
    guided = "cfg" in name.lower()  # Hyper-SD has LoRAs that keep the guidance scale, for 5 to 8
    return Defaults(sampler, int(named[1]) if named and int(named[1]) else 4, 5.0 if guided else 1.0)
