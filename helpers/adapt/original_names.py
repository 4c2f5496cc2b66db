"""Stable Diffusion's weights under the names of its authors' code, and under those of diffusers.

The names are those of the modules in CompVis' latent-diffusion and Stability AI's generative-models (both call them
input_blocks, middle_block, output_blocks), of OpenCLIP, and of diffusers' classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[Any]]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.1": "mid_block.attentions.0",
}
_OPENCLIP = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPENCLIP_REST = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_VAE = (
    (r"\b(encoder|decoder)\.mid\.attn_1\.proj_out\b", r"\1.mid_block.attentions.0.to_out.0"),
    (r"\b(encoder|decoder)\.mid\.attn_1\.norm\b", r"\1.mid_block.attentions.0.group_norm"),
    (r"\b(encoder|decoder)\.mid\.attn_1\.([qkv])\b", r"\1.mid_block.attentions.0.to_\2"),
    (r"\.mid\.block_1\b", ".mid_block.resnets.0"),
    (r"\.mid\.block_2\b", ".mid_block.resnets.1"),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.norm_out\b", ".conv_norm_out"),
    (r"\.nin_shortcut\b", ".conv_shortcut"),
)


def unet_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """{original name: diffusers' name} of the UNet's modules; an attention block stands for everything inside it,
    whose names are the same.

    config: diffusers', with one number of layers for each block.
    """
    names, repeats = dict(_UNET), config["layers_per_block"]

    def resnet(old: str, new: str) -> None:
        names.update({f"{old}.{inner}": f"{new}.{known}" for inner, known in _RESNET.items()})

    resnet("middle_block.0", "mid_block.resnets.0")
    resnet("middle_block.2", "mid_block.resnets.1")
    number = 1
    for block, kind in enumerate(config["down_block_types"]):
        for layer in range(repeats[block]):
            resnet(f"input_blocks.{number}.0", f"down_blocks.{block}.resnets.{layer}")
            if "CrossAttn" in kind:
                names[f"input_blocks.{number}.1"] = f"down_blocks.{block}.attentions.{layer}"
            number += 1
        names[f"input_blocks.{number}.0.op"] = f"down_blocks.{block}.downsamplers.0.conv"
        number += 1
    number, last = 0, len(repeats) - 1
    for block, kind in enumerate(config["up_block_types"]):
        attends = "CrossAttn" in kind
        for layer in range(repeats[last - block] + 1):
            resnet(f"output_blocks.{number}.0", f"up_blocks.{block}.resnets.{layer}")
            if attends:
                names[f"output_blocks.{number}.1"] = f"up_blocks.{block}.attentions.{layer}"
            number += 1
        names[f"output_blocks.{number - 1}.{1 + attends}.conv"] = f"up_blocks.{block}.upsamplers.0.conv"
    return names


def renamed(key: str, modules: Mapping[str, str]) -> str:
    """The diffusers name of a weight, by the longest beginning of its name that `modules` has; "" if there is none."""
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if new := modules.get(".".join(parts[:end])):
            return ".".join([new, *parts[end:]])
    return ""


def vae_name(key: str, blocks: int) -> str:
    """The diffusers name of a weight of the autoencoder; blocks: of its decoder, counted from the other end."""
    for pattern, new in _VAE:
        key = re.sub(pattern, new, key)
    if up := re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.(.*)", key):
        inner = f"resnets.{up[3]}" if up[2] == "block" else f"upsamplers.0.{up[3]}"
        return f"decoder.up_blocks.{blocks - 1 - int(up[1])}.{inner}"
    return key


def vae_weights(original: Weights, blocks: int) -> Weights:
    """The autoencoder under diffusers' names; its attention has linear layers, the original has convolutions."""
    weights = {vae_name(key, blocks): array for key, array in original.items()}
    return {
        key: array.reshape(array.shape[:2]) if "attentions" in key and array.ndim == 4 else array
        for key, array in weights.items()
    }


def openclip_weights(original: Weights, layers: int, projects: bool) -> Weights:
    """OpenCLIP's text encoder under the names of transformers' CLIPTextModel.

    layers: how many of its layers are used: Stable Diffusion 2 leaves the last one out. projects: whether the
    projection of the pooled embedding is used, as in XL.
    """
    weights = {new: original[old] for old, new in _OPENCLIP_REST.items() if old in original}
    for key, array in original.items():
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)(\.|_)(weight|bias)", key)
        if not found or int(found[1]) >= layers:
            continue
        layer = f"encoder.layers.{found[1]}"
        if found[2] == "attn.in_proj":
            for name, part in zip("qkv", np.split(array, 3), strict=True):
                weights[f"{layer}.self_attn.{name}_proj.{found[4]}"] = part
        elif found[2] in _OPENCLIP:
            weights[f"{layer}.{_OPENCLIP[found[2]]}.{found[4]}"] = array
    if projects and "text_projection" in original:
        weights["text_projection.weight"] = np.ascontiguousarray(original["text_projection"].T)
    return weights
