"""Stable Diffusion 1, 2 or XL in one safetensors file with the names of its authors' code, as most are published.

Its configuration is read from the shapes of its weights; nothing is converted on disk. A file that has no autoencoder
gets the one in `NAME.vae.safetensors` beside it, or that of another model.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt import safetensors_file
from helpers.adapt.diffusers_folder import damaged
from helpers.adapt.few_steps import scheduler_of
from helpers.adapt.original_names import openclip_weights, renamed, unet_modules, vae_weights
from helpers.core.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# Where the first and the second text encoder are, with transformers' names and with OpenCLIP's
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPENCLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
_SECOND = "conditioner.embedders.1.model."
_HEAD = 64  # channels of an attention head, in all but the UNet of Stable Diffusion 1, which has 8 heads
_NATIVE = {"1": 64, "2": 64, "2v": 96, "xl": 128}  # side of the training pictures in latents
_SPREAD = 0.09
_LARGEST_YAML = 1 << 20  # bytes


@dataclass(frozen=True)
class Layout:
    """What a file holds: the configuration of each part as diffusers writes it, and the beginning of its names."""

    family: str  # "1", "2" or "xl"
    configs: Mapping[str, dict[str, Any]]  # without `vae`, the file has none
    prefixes: Mapping[str, str]


def is_checkpoint(file: Path) -> bool:
    """Whether a file holds a UNet under its original names. False also for a file that cannot be read."""
    try:
        return any(name.startswith(UNET) for name in safetensors_file.header(file).shapes)
    except Exception:  # safetensors' own
        return False


def layout(file: Path) -> Layout:
    """What a file holds. Raises: UserError 69 for a damaged file, and for a model that is none of these three."""
    try:
        status = file.stat()
        return _layout(file, status.st_size, status.st_mtime_ns, _yaml(file))
    except UserError:
        raise
    except KeyError as error:
        raise damaged(file, f"{str(error).strip(chr(39))} is missing") from error
    except (IndexError, ValueError) as error:
        raise unfit(file, str(error)) from error
    except Exception as error:  # safetensors has its own exceptions
        raise damaged(file, error) from error


def unfit(file: Path, why: str) -> UserError:
    """The error for a file of another kind of model."""
    return UserError(
        os.EX_UNAVAILABLE, f"{file} is no Stable Diffusion 1, 2 or XL that is read: {why[:200]}", "Use another model."
    )


def weights(file: Path, part: str) -> dict[str, NDArray[Any]]:
    """The weights of one part under diffusers' names; memory-mapped where the file has 16 or 32 bits.

    Raises: UserError 69 for a damaged file.
    """
    found = layout(file)
    prefix = found.prefixes[part]
    original = beginning(file, prefix)
    if part == "unet":
        modules = unet_modules(found.configs[part])
        return {renamed(key, modules) or key: array for key, array in original.items()}
    if part == "vae":
        return vae_weights(original, len(found.configs[part]["block_out_channels"]))
    if prefix in (*_OPENCLIP, _SECOND):
        layers = found.configs[part]["num_hidden_layers"]
        return openclip_weights(original, layers, projects=part == "text_encoder_2")
    names = ((key.removeprefix("text_model."), array) for key, array in original.items())
    return {key: array for key, array in names if not key.endswith("position_ids")}


def size(file: Path, part: str) -> int:
    """Bytes of a part's weights in the file, if they have 16 bits. Raises: UserError 69 for a damaged file."""
    prefix = layout(file).prefixes[part]
    shapes = safetensors_file.header(file).shapes
    return 2 * sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


def beginning(file: Path, prefix: str) -> dict[str, NDArray[Any]]:
    """The weights whose names begin with `prefix`, without it. Raises: UserError 69 for a damaged file."""
    try:
        found = safetensors_file.read(file, lambda name: name.startswith(prefix))
    except Exception as error:  # safetensors has its own exceptions
        raise damaged(file, error) from error
    return {name[len(prefix) :]: array for name, array in found.items()}


def vae_beside(file: Path) -> Path | None:
    """The autoencoder that lies beside a model as the web UI wants it."""
    found = file.with_name(f"{file.stem}.vae.safetensors")
    return found if found.is_file() else None


def vae_layout(file: Path, family: str) -> tuple[dict[str, Any], str]:
    """The configuration of an autoencoder in a file of its own, and the beginning of its names.

    Raises: UserError 69 for a damaged file, or one that is no autoencoder.
    """
    try:
        shapes = safetensors_file.header(file).shapes
        prefix = VAE if any(name.startswith(VAE) for name in shapes) else ""
        return _vae(_within(shapes, prefix), family), prefix
    except KeyError as error:
        raise unfit(file, f"no autoencoder: {error} is missing") from error
    except Exception as error:  # safetensors has its own exceptions
        raise damaged(file, error) from error


@functools.lru_cache(maxsize=8)
def _layout(file: Path, size: int, changed: int, yaml: str) -> Layout:
    header = safetensors_file.header(file)
    shapes = header.shapes
    unet = _within(shapes, UNET)
    if (taken := unet["input_blocks.0.0.weight"][1]) != 4:
        kind = {8: "edits pictures", 9: "fills in parts of a picture"}.get(taken, f"takes {taken} channels")
        raise unfit(file, f"it {kind}, and needs more than a prompt")
    prefixes = {"unet": UNET}
    first = next((one for one in (*_CLIP, *_OPENCLIP) if any(name.startswith(one) for name in shapes)), "")
    if not first:
        raise unfit(file, "it has no text encoder")
    prefixes["text_encoder"] = first
    xl = "label_emb.0.0.weight" in unet
    family = "xl" if xl else "2" if first in _OPENCLIP else "1"
    configs = {"unet": _unet(unet, family), "text_encoder": _text(_within(shapes, first), first, family)}
    if xl:
        if first in _OPENCLIP:
            raise unfit(file, "it is the refiner of XL, which draws nothing alone")
        prefixes["text_encoder_2"] = _SECOND
        second = configs["text_encoder_2"] = _text(_within(shapes, _SECOND), _SECOND, family)
        given = configs["unet"]["projection_class_embeddings_input_dim"] - second["projection_dim"]
        configs["unet"]["addition_time_embed_dim"] = given // 6  # original size, crop and target size, two numbers each
    if any(name.startswith(f"{VAE}decoder.") for name in shapes):
        prefixes["vae"] = VAE
        configs["vae"] = _vae(_within(shapes, VAE), family)
    velocity = _velocity(file, header, family, yaml)
    configs["unet"]["sample_size"] = _NATIVE[family + ("v" if family == "2" and velocity else "")]
    configs["scheduler"] = _scheduler(file, velocity, xl, "ztsnr" in shapes)
    return Layout(family, configs, prefixes)


def _within(shapes: Shapes, prefix: str) -> Shapes:
    return {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}


def _depth(shapes: Shapes, name: str) -> int:
    """Transformer blocks of an attention block; 0 if there is none."""
    begin = f"{name}.transformer_blocks."
    return len({key[len(begin) :].split(".")[0] for key in shapes if key.startswith(begin)})


def _unet(shapes: Shapes, family: str) -> dict[str, Any]:
    """The configuration of a UNet. Raises: KeyError, ValueError for one that diffusers' class cannot describe."""
    channels, repeats, depths, number = [0], [0], [set[int]()], 1
    while f"input_blocks.{number}.0.in_layers.0.weight" in shapes or f"input_blocks.{number}.0.op.weight" in shapes:
        if f"input_blocks.{number}.0.op.weight" in shapes:
            channels, repeats, depths = [*channels, 0], [*repeats, 0], [*depths, set[int]()]
        else:
            channels[-1] = shapes[f"input_blocks.{number}.0.out_layers.3.weight"][0]
            repeats[-1] += 1
            depths[-1].add(_depth(shapes, f"input_blocks.{number}.1"))
        number += 1
    middle, outputs = (
        _depth(shapes, "middle_block.1"),
        len({name.split(".")[1] for name in shapes if "output_" in name}),
    )
    up = [_depth(shapes, f"output_blocks.{one}.1") for one in range(outputs)]
    mirrored = [depth for level in range(len(depths) - 1, -1, -1) for depth in [*depths[level]] * (repeats[level] + 1)]
    if any(len(one) != 1 for one in depths) or up != mirrored or depths[-1] not in ({0}, {middle}) or not middle:
        raise ValueError("its attention blocks are not those of Stable Diffusion")
    attends = [depth > 0 for [depth] in depths]
    inner = next(name for name in shapes if name.startswith("middle_block.1.") and name.endswith("attn2.to_k.weight"))
    linear = len(shapes["middle_block.1.proj_in.weight"]) == 2
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": repeats,
        "cross_attention_dim": shapes[inner][1],
        "attention_head_dim": [width // _HEAD for width in channels] if linear else 8,  # in fact the number of heads
        "use_linear_projection": linear,
        "transformer_layers_per_block": [*[max(1, depth) for [depth] in depths[:-1]], middle],
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in attends[::-1]],
    }
    if family == "xl":
        vector = shapes["label_emb.0.0.weight"][1]
        config |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": vector}
    return config


def _vae(shapes: Shapes, family: str) -> dict[str, Any]:
    blocks = 1 + max((int(name.split(".")[2]) for name in shapes if name.startswith("decoder.up.")), default=0)
    layers = len({name.split(".")[4] for name in shapes if name.startswith("decoder.up.0.block.")})
    return {
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"decoder.up.{block}.block.0.conv2.weight"][0] for block in range(blocks)],
        "layers_per_block": layers - 1,
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "scaling_factor": 0.13025 if family == "xl" else 0.18215,
        "force_upcast": family == "xl",
    }


def _text(shapes: Shapes, prefix: str, family: str) -> dict[str, Any]:
    """The configuration of a text encoder; in Stable Diffusion 2 the last layer is not used."""
    if prefix in _CLIP:
        shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
        begin, positions, hidden, act = (
            "encoder.layers.",
            "embeddings.position_embedding.weight",
            "mlp.fc1",
            "quick_gelu",
        )
        vocabulary = shapes["embeddings.token_embedding.weight"]
    else:
        begin, positions, hidden, act = "transformer.resblocks.", "positional_embedding", "mlp.c_fc", "gelu"
        vocabulary = shapes["token_embedding.weight"]
    layers = len({name[len(begin) :].split(".")[0] for name in shapes if name.startswith(begin)})
    width = vocabulary[1]
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary[0],
        "hidden_size": width,
        "intermediate_size": shapes[f"{begin}0.{hidden}.weight"][0],
        "num_hidden_layers": layers - (family == "2"),
        "num_attention_heads": width // _HEAD,
        "max_position_embeddings": shapes[positions][0],
        "hidden_act": act,
        "projection_dim": shapes.get("text_projection", (0, width))[1],
        "bos_token_id": vocabulary[0] - 2,
        "eos_token_id": vocabulary[0] - 1,
    }


def _velocity(file: Path, header: safetensors_file.Header, family: str, yaml: str) -> bool:
    """Whether the model predicts velocity. By, in this order, the .yaml beside it, a key that some models have for it,
    what the file says of itself (modelspec), and for Stable Diffusion 2 ComfyUI's rule (comfy/supported_models.py): the
    spread of a bias is above 0.09 in the models that were trained for it."""
    if yaml:
        return yaml == "v"
    if "v_pred" in header.shapes:
        return True
    if told := header.about.get("modelspec.prediction_type", "").lower():
        return told.startswith("v")
    if family != "2":
        return False
    name = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    bias = beginning(file, UNET + name).get("")
    return bias is not None and float(np.std(bias.astype(np.float32))) > _SPREAD


def _yaml(file: Path) -> str:
    """What the .yaml beside a model says that it predicts: "v", or "eps"; "" if there is none, or it does not say."""
    try:
        with file.with_suffix(".yaml").open(encoding="utf-8", errors="replace") as stream:
            found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", stream.read(_LARGEST_YAML), re.MULTILINE)
    except OSError:
        return ""
    if found:
        return "v" if found[1].startswith("v") else "eps"
    return ""


def _scheduler(file: Path, velocity: bool, xl: bool, zero_snr: bool) -> dict[str, Any]:
    """The scheduler_config.json that these models are published with; that of few-step models by the file's name."""
    config: dict[str, Any] = {
        "_class_name": "EulerDiscreteScheduler" if xl else "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction" if velocity else "epsilon",
        "set_alpha_to_one": False,
        "clip_sample": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing" if zero_snr else "leading",
        **({"rescale_betas_zero_snr": True} if zero_snr else {}),
    }
    return config | scheduler_of(file.stem)
