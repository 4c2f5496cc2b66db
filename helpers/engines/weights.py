"""The parts of a model folder in the layout of diffusers: configuration and weights of one part, never a pickle."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.stage import StageError

_FETCH = "Fetch the model again."
_NO_PICKLE = "Use a copy of the model with *.safetensors; with PyTorch (A2I_ENGINE=cuda), A2I_ALLOW_PICKLE=1 opens it."
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32}


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model.

    Raises:
        StageError: 69 if it is missing or no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(os.EX_UNAVAILABLE, f"the model has no {path}: {error.strerror}", _FETCH) from error
    except ValueError as error:
        raise StageError(os.EX_UNAVAILABLE, f"the model's {path} is damaged: {error}", _FETCH) from error
    if not isinstance(config, dict):
        raise StageError(os.EX_UNAVAILABLE, f"the model's {path} is damaged: no JSON object", _FETCH)
    return config


def factor(vae: Mapping[str, Any]) -> int:
    """Pixels per latent: each block of the autoencoder but the last halves the picture."""
    return int(2 ** (len(vae.get("block_out_channels") or vae["decoder_block_out_channels"]) - 1))


def check_parts(unet: Mapping[str, Any], vae: Mapping[str, Any], width: int) -> None:
    """Refuse parts that do not belong together, and kinds of model that want more than a prompt.

    width: of the text encoding. Raises: StageError 69, KeyError for what a configuration does not say.
    """
    channels = vae["latent_channels"]
    for key, value in (("in_channels", channels), ("out_channels", channels), ("cross_attention_dim", width)):
        found = unet[key]
        if found != value and found != [value] * len(unet["block_out_channels"]):
            message = f"the model's unet/config.json has {key}={found!r}, its other parts want {value}"
            raise StageError(os.EX_UNAVAILABLE, message, "Use another model.")


def misfit(folder: Path, error: Exception) -> StageError:
    """The error for a model whose configuration and weights contradict each other."""
    lines = str(error).strip().splitlines() or [""]
    message = f"configuration and weights in {folder} do not fit together: {type(error).__name__}: {lines[-1]}"
    return StageError(os.EX_UNAVAILABLE, message, _FETCH)


def native_size(unet: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """Width and height in pixels that the model was trained at."""
    native = unet.get("sample_size") or 64  # latents: of a side, or height and width
    rows, columns = native if isinstance(native, list) else (native, native)
    return columns * factor, rows * factor


def weight_files(folder: Path, variants: tuple[str, ...] = ("", ".fp16", ".bf16")) -> list[Path]:
    """The safetensors files of one part of a model (`unet/`): one file or its shards, of the first of `variants`.

    Raises:
        StageError: 69 if there is none; a model that is there as a pickle only is refused, because opening a pickle
            runs whatever it says.
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
                    raise StageError(os.EX_UNAVAILABLE, f"the model has no {lost[0]}", _FETCH)
                return shards
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")):
        message = f"{folder} holds its weights as a pickle only, which could run anything and is not opened"
        raise StageError(os.EX_UNAVAILABLE, message, _NO_PICKLE)
    raise StageError(os.EX_UNAVAILABLE, f"the model has no weights in {folder}", _FETCH)


def read_weights(folder: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of one part of a model by name: float32 or float16, straight from the file's pages.

    Raises:
        StageError: 69 for a file that is missing, damaged or of another kind.
    """
    weights: dict[str, NDArray[Any]] = {}
    for file in weight_files(folder):
        try:
            weights |= _read(file)
        except StageError:
            raise
        except Exception as error:  # safetensors has its own exceptions
            raise StageError(os.EX_UNAVAILABLE, f"the model's {file} is damaged: {error}", _FETCH) from error
    return weights


def _read(file: Path) -> dict[str, NDArray[Any]]:
    from safetensors import safe_open

    with safe_open(file, "numpy"):  # checks the whole header: sizes, offsets, gaps, overlaps
        pass
    with file.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)  # OpenVINO shares writable memory only
    length = int.from_bytes(pages[:8], "little")
    header: Mapping[str, Any] = json.loads(pages[8 : 8 + length])
    weights = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] not in _DTYPES:
            raise StageError(os.EX_UNAVAILABLE, f"{file}: {name} is {tensor['dtype']}, which is not known here")
        begin, end = tensor["data_offsets"]
        dtype = np.dtype(_DTYPES[tensor["dtype"]])
        array = np.frombuffer(pages, dtype, (end - begin) // dtype.itemsize, 8 + length + begin)
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        weights[name] = array.reshape(tensor["shape"])
    return weights
