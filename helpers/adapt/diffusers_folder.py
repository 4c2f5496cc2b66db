"""Read the parts of a model folder in the layout of diffusers: configuration and weights, never a pickle."""

from __future__ import annotations

import importlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from helpers.adapt import safetensors_file
from helpers.core.errors import UserError, no_memory

_FETCH = "Fetch the model again."
_NO_PICKLE = "Use a copy of the model with *.safetensors. With A2I_ENGINE=torch, A2I_ALLOW_PICKLE=1 opens it."
# Limits far above those of any model; a file beyond them is damaged or made to exhaust memory.
_LARGEST_FILE = 64 << 20  # bytes, for files read into memory; CLIP's vocabulary has 1 MB
_LARGEST, _LONGEST = 1_000_000, 10_000  # of numbers, and of lists (1000 betas)
_MOST = {
    "layers_per_block": 8,
    "num_hidden_layers": 64,
    "num_train_timesteps": 10_000,
    "original_inference_steps": 10_000,
}
_MOST |= dict.fromkeys(("transformer_layers_per_block", "reverse_transformer_layers_per_block"), 32)
_LONGEST_TEXT = 1024  # tokens; CLIP's are 77
_LARGEST_SIDE = 4096  # pixels of the model's native size


def library(name: str) -> Any:
    """torch, diffusers or transformers. Their loaders are called with `local_files_only`; `stage.run` also sets
    environment variables that keep them offline."""
    return importlib.import_module(name)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model. Implausible values are refused, such as a number of layers that would exhaust memory.

    Raises:
        UserError: 69 if it is missing, not a JSON object, or implausible.
    """
    try:
        config = json.loads(plain(path).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
        for key, value in config.items():
            _check_plausible(key, value)
    except OSError as error:
        raise UserError(os.EX_UNAVAILABLE, f"the model has no {path}: {error.strerror}", _FETCH) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    return config


def plain(path: Path) -> Path:
    """`path`, checked before it is read. Raises OSError, or ValueError if it is no regular file or too large."""
    if not stat.S_ISREG((status := path.stat()).st_mode):
        raise ValueError("not a regular file")
    if status.st_size > _LARGEST_FILE:
        raise ValueError(f"{status.st_size} bytes")
    return path


def _check_plausible(key: str, value: Any) -> None:
    """Raises ValueError for a number or a list that is larger than any model's."""
    if isinstance(value, (list, dict)):
        if len(value) > _LONGEST:
            raise ValueError(f"{key[:80]} has {len(value)} parts")
        for one in value.values() if isinstance(value, dict) else value:
            _check_plausible(key, one)
    elif isinstance(value, (int, float)) and abs(value) > _MOST.get(key, _LARGEST) and abs(value) != math.inf:
        raise ValueError(f"{key[:80]} is {value:.3g}" if value < 1e300 else f"{key[:80]} is absurd")


def damaged(path: Path, why: object) -> UserError:
    """The error for a damaged file of a model, or for which memory is too short."""
    if short := no_memory(why):
        return short
    return UserError(os.EX_UNAVAILABLE, f"the model's {path} is damaged: {str(why)[:200]}", _FETCH)


def factor(vae: Mapping[str, Any]) -> int:
    """The VAE scale factor: each block of the VAE but the last halves the picture. Raises KeyError or TypeError."""
    blocks = vae.get("block_out_channels") or vae["decoder_block_out_channels"]
    if not isinstance(blocks, list) or len(blocks) > 8:
        raise TypeError("block_out_channels is not a list of one to eight numbers")
    return int(2 ** (len(blocks) - 1))


def check_parts(unet: Mapping[str, Any], vae: Mapping[str, Any], *encoders: Mapping[str, Any]) -> None:
    """Refuse parts of different models, and models that need more inputs than a prompt.

    Raises: UserError 69, KeyError or TypeError for a missing setting.
    """
    width, channels = sum(encoder["hidden_size"] for encoder in encoders), vae["latent_channels"]
    for key, value in (("in_channels", channels), ("out_channels", channels), ("cross_attention_dim", width)):
        found = unet[key]
        if found != value and found != [value] * len(unet["block_out_channels"]):
            raise unknown("unet", key, found, f"but its other parts need {value}")
    for encoder in encoders:
        if not 3 <= (length := encoder["max_position_embeddings"]) <= _LONGEST_TEXT:
            raise unknown("text_encoder", "max_position_embeddings", length)


def misfit(folder: Path, error: Exception) -> UserError:
    """The error for a model whose configuration and weights contradict each other, or for which memory is too short."""
    if short := no_memory(error):
        return short
    lines = str(error).strip().splitlines() or [""]
    message = f"configuration and weights in {folder} do not fit together: {type(error).__name__}: {lines[-1][:200]}"
    return UserError(os.EX_UNAVAILABLE, message, _FETCH)


def unknown(part: str, key: str, value: object, why: str = "which is not supported") -> UserError:
    """The error for an unsupported setting."""
    message = f"the model's {part}/config.json has {key[:80]}={repr(value)[:80]}, {why}"
    return UserError(os.EX_UNAVAILABLE, message, "Use another model.")


def check_amount(described: int, files: list[Path]) -> None:
    """Refuse a configuration with far more parameters than the safetensors files hold, before memory is allocated.

    Raises: ValueError; safetensors' own exceptions for a damaged file.
    """
    from safetensors import safe_open

    held = 0
    for file in files:
        with safe_open(file, "numpy") as tensors:
            held += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if described > 2 * held:
        raise ValueError(f"the configuration has {described} parameters, the files have {held}")


def native_size(unet: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """Width and height in pixels that the model was trained at. Raises: UserError 69 for an invalid size."""
    native = unet.get("sample_size") or 64  # in latents: one side, or height and width
    rows, columns = native if isinstance(native, list) and len(native) == 2 else (native, native)
    if not (isinstance(rows, int) and isinstance(columns, int) and 0 < max(rows, columns) * factor <= _LARGEST_SIDE):
        raise unknown("unet", "sample_size", native)
    return columns * factor, rows * factor


def weight_files(folder: Path, variants: tuple[str, ...] = ("", ".fp16", ".bf16")) -> list[Path]:
    """The safetensors files of one part of a model (`unet/`): one file or its shards, of the first of `variants`.

    Raises:
        UserError: 69 if there is none; a model that has only a pickle is refused, because opening a pickle can run
            any code.
    """
    stems = ("diffusion_pytorch_model", "model")
    for variant in variants:
        for stem in stems:
            if (file := folder / f"{stem}{variant}.safetensors").is_file():
                return [file]
            if (index := folder / f"{stem}.safetensors.index{variant}.json").is_file():
                names = {Path(str(name)).name for name in read_config(index).get("weight_map", {}).values()}
                shards = sorted(folder / name for name in names)
                if lost := [shard for shard in shards if not shard.is_file()]:
                    raise UserError(os.EX_UNAVAILABLE, f"the model has no {str(lost[0])[:400]}", _FETCH)
                return shards
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")):
        message = f"{folder} holds its weights as a pickle only, which could run any code"
        raise UserError(os.EX_UNAVAILABLE, message, _NO_PICKLE)
    raise UserError(os.EX_UNAVAILABLE, f"the model has no weights in {folder}", _FETCH)


def read_weights(folder: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of one part of a model by name: float32 or float16, memory-mapped.

    Raises:
        UserError: 69 for a file that is missing, damaged or in another format.
    """
    weights: dict[str, NDArray[Any]] = {}
    for file in weight_files(folder):
        try:
            weights |= safetensors_file.read(file)
        except UserError:
            raise
        except Exception as error:  # safetensors has its own exceptions
            raise damaged(file, error) from error
    return weights
