"""The networks of Stable Diffusion, layer by layer, from the configuration and weights that diffusers reads.

The functions below call one method of `layers.Layers` per layer; its subclasses build the graph. An unsupported setting
that would change the result is an error that names it; so is a weight that no layer used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import unknown
from helpers.draw.engines import lcm
from helpers.draw.engines.layers import Config, Layers, Node, Weights

# Settings and their supported values (diffusers' default first).
_UNET: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
# … and settings that may have any value, or have no effect without one of the above.
_UNET_FREE = {
    *("addition_embed_type_num_heads", "addition_time_embed_dim", "attention_head_dim", "block_out_channels"),
    *("cross_attention_dim", "down_block_types", "dropout", "flip_sin_to_cos", "freq_shift", "in_channels"),
    *("layers_per_block", "norm_eps", "norm_num_groups", "out_channels", "projection_class_embeddings_input_dim"),
    "time_cond_proj_dim",
    *("sample_size", "transformer_layers_per_block", "up_block_types", "upcast_attention", "use_linear_projection"),
}
_DECODER: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "out_channels": (3,),
}
_DECODER_FREE = {
    *("block_out_channels", "down_block_types", "force_upcast", "in_channels", "latent_channels", "layers_per_block"),
    *("mid_block_add_attention", "norm_num_groups", "sample_size", "scaling_factor", "shift_factor"),
    *("up_block_types", "use_post_quant_conv", "use_quant_conv"),
}
_TINY: dict[str, tuple[Any, ...]] = {
    "act_fn": ("relu",),
    "out_channels": (3,),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
}
_TINY_FREE = {
    *("block_out_channels", "decoder_block_out_channels", "encoder_block_out_channels", "force_upcast", "in_channels"),
    *("latent_channels", "latent_magnitude", "latent_shift", "num_decoder_blocks", "num_encoder_blocks"),
    *("scaling_factor", "shift_factor"),
}
_VISION: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("quick_gelu", "gelu"),
    "model_type": ("clip_vision_model",),
    "num_channels": (3,),
}
_TEXT: dict[str, tuple[Any, ...]] = {"hidden_act": ("quick_gelu", "gelu"), "model_type": ("clip_text_model",)}


def diffusers_name(name: str) -> str:
    """Map a weight's name in a checkpoint to today's diffusers name: text encoders may have a prefix, and the attention
    of old autoencoders (Stable Diffusion 1) was named differently."""
    name = name.removeprefix("text_model.")
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f"mid_block.attentions.0.{old}.", f"mid_block.attentions.0.{new}.")
    return name


def diffusers_names(weights: Weights) -> Weights:
    """The weights of a checkpoint under today's diffusers names, which the functions below use."""
    return {diffusers_name(name): array for name, array in weights.items()}


class Text(NamedTuple, Generic[Node]):
    """The results of a text encoder, each tokens."""

    penultimate: Node  # before the last layer; what Stable Diffusion XL attends to
    last: Node  # after the final norm; what Stable Diffusion 1 and 2 attend to
    projected: Node | None  # the last ones after CLIPTextModelWithProjection's projection


def text_encoder(layers: Layers[Node], config: Config, x: Node) -> Text[Node]:
    """CLIPTextModel, with or without projection; x: the embedded tokens with their positions."""
    before, x = _clip_encoder(layers, config, x, causal=True)
    x, projection = layers.layer_norm(x, "final_layer_norm", config.get("layer_norm_eps", 1e-5)), "text_projection"
    projects = f"{projection}.weight" in layers.weights
    projected = layers.linear(x, projection, bias=False) if projects else None
    layers.check_all_used("text_encoder")
    return Text(before, x, projected)


def vision_encoder(layers: Layers[Node], config: Config, x: Node) -> Node:
    """CLIPVisionModel up to its last hidden state; x: the class token and the embedded patches with their positions."""
    x = layers.layer_norm(x, "pre_layrnorm", config.get("layer_norm_eps", 1e-5))  # the name has this error
    return _clip_encoder(layers, config, x, causal=False)[1]


def _clip_encoder(layers: Layers[Node], config: Config, x: Node, causal: bool) -> tuple[Node, Node]:
    """The hidden states before and after the last layer."""
    eps, before = config.get("layer_norm_eps", 1e-5), x
    for index in range(config["num_hidden_layers"]):
        name, before = f"encoder.layers.{index}", x
        names = [f"{name}.self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        y = layers.layer_norm(x, f"{name}.layer_norm1", eps)
        x = layers.add(x, layers.attend(y, y, names, config["num_attention_heads"], bias=True, causal=causal))
        y = layers.linear(layers.layer_norm(x, f"{name}.layer_norm2", eps), f"{name}.mlp.fc1")
        y = layers.activate(y, config.get("hidden_act", "quick_gelu"))
        x = layers.add(x, layers.linear(y, f"{name}.mlp.fc2"))
    return before, x


def check_vision_encoder(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    _check("safety_checker", config, _VISION, None)


def check_text_encoder(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    _check("text_encoder", config, _TEXT, None)


def check_unet(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    _check("unet", config, _UNET, _UNET_FREE)


def unet(
    layers: Layers[Node], config: Config, latents: Node, features: Node, text: Node, added: Node | None = None
) -> Node:
    """UNet2DConditionModel → prediction in the shape of latents.

    features: a token, the `sinusoids` of the timestep. added: a token, what Stable Diffusion XL is told besides: the
    pooled text and the sinusoids of `xl.time_ids`.
    """
    count = len(config["block_out_channels"])
    # diffusers' attention_head_dim is in fact the number of heads (diffusers issue 2011).
    heads = _each(config.get("attention_head_dim", 8), count)
    depths = _each(config.get("transformer_layers_per_block", 1), count)
    repeats = _each(config.get("layers_per_block", 2), count)

    if width := config.get("time_cond_proj_dim"):
        projection = layers.array("time_embedding.cond_proj.weight").astype(np.float32)
        features = layers.shifted(features, projection @ lcm.guidance_features(width))
    time = layers.activate(layers.linear(features, "time_embedding.linear_1"), "silu")
    time = layers.linear(time, "time_embedding.linear_2")
    if added is not None:
        y = layers.activate(layers.linear(added, "add_embedding.linear_1"), "silu")
        time = layers.add(layers.linear(y, "add_embedding.linear_2"), time)
    time = layers.activate(time, "silu")

    x = layers.conv(latents, "conv_in")
    skips = [x]
    for index, kind in enumerate(config["down_block_types"]):
        name, attends = f"down_blocks.{index}", _attends(kind, "Down")
        for layer in range(repeats[index]):
            x = layers.resnet(x, f"{name}.resnets.{layer}", time)
            if attends:
                x = layers.transformer(x, f"{name}.attentions.{layer}", text, heads[index], depths[index])
            skips.append(x)
        if index < count - 1:
            x = layers.conv(x, f"{name}.downsamplers.0.conv", stride=2)
            skips.append(x)
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn"):
        x = layers.resnet(x, "mid_block.resnets.0", time)
        x = layers.transformer(x, "mid_block.attentions.0", text, heads[-1], depths[-1])
        x = layers.resnet(x, "mid_block.resnets.1", time)
    for index, kind in enumerate(config["up_block_types"]):
        name, attends, mirror = f"up_blocks.{index}", _attends(kind, "Up"), count - 1 - index
        for layer in range(repeats[mirror] + 1):
            x = layers.resnet(layers.concat(x, skips.pop()), f"{name}.resnets.{layer}", time)
            if attends:
                x = layers.transformer(x, f"{name}.attentions.{layer}", text, heads[mirror], depths[mirror])
        if index < count - 1:
            x = layers.conv(layers.upsample(x, layers.size(skips[-1])), f"{name}.upsamplers.0.conv")
    x = layers.conv(layers.activate(layers.group_norm(x, "conv_norm_out"), "silu"), "conv_out")
    layers.check_all_used("unet")
    return x


def unet_text_width(config: Config) -> int:
    """Channels of the text that the UNet attends to."""
    return max(_each(config.get("cross_attention_dim", 1280), len(config["block_out_channels"])))


def frequencies(config: Config, width: int = 0) -> NDArray[np.float32]:
    """The frequencies of the timestep embedding, (width / 2,); float32 as in diffusers. width: by default the UNet's
    first block_out_channels."""
    half = (width or config["block_out_channels"][0]) // 2
    exponent = -np.log(10000) * np.arange(half, dtype=np.float32) / np.float32(half - config.get("freq_shift", 0))
    waves: NDArray[np.float32] = np.exp(exponent.astype(np.float32))
    return waves


def cosine_first(config: Config) -> bool:
    """Whether the cosines come before the sines in the timestep embedding."""
    return bool(config.get("flip_sin_to_cos", True))


def sinusoids(config: Config, values: Sequence[float], width: int = 0) -> NDArray[np.float32]:
    """The timestep embedding of each value: (len(values), width)."""
    angles = np.array(values, np.float32)[:, None] * frequencies(config, width)
    waves = [np.cos(angles), np.sin(angles)]
    return np.concatenate(waves if cosine_first(config) else waves[::-1], axis=1, dtype=np.float32)


def is_tiny(config: Config) -> bool:
    """Whether a decoder's config.json is that of an AutoencoderTiny (TAESD and its kin)."""
    return bool(config.get("_class_name") == "AutoencoderTiny")


def scaling(config: Config) -> tuple[float, float]:
    """What latents are multiplied by, and what is then added, before they are decoded."""
    return 1 / config.get("scaling_factor", 1.0 if is_tiny(config) else 0.18215), config.get("shift_factor") or 0.0


def check_decoder(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    if is_tiny(config):
        _check("decoder", config, _TINY, _TINY_FREE)
        return
    _check("vae", config, _DECODER, _DECODER_FREE)
    for kind in config["up_block_types"]:
        if kind != "UpDecoderBlock2D":
            raise unknown("vae", "up_block_types", kind)


def decoder(layers: Layers[Node], config: Config, x: Node) -> Node:
    """The decoder of AutoencoderKL or AutoencoderTiny; x: latents without the scaling factor → picture, nominally
    -1…1."""
    if is_tiny(config):
        return _tiny_decoder(layers, config, x)
    if config.get("use_post_quant_conv", True):
        x = layers.conv(x, "post_quant_conv")
    x = layers.resnet(layers.conv(x, "decoder.conv_in"), "decoder.mid_block.resnets.0")
    if config.get("mid_block_add_attention", True):
        name = "decoder.mid_block.attentions.0"
        names = [f"{name}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
        y = layers.tokens(layers.group_norm(x, f"{name}.group_norm"))
        x = layers.add(x, layers.picture(layers.attend(y, y, names, 1, bias=True), layers.size(x)))
    x = layers.resnet(x, "decoder.mid_block.resnets.1")
    count = len(config["block_out_channels"])
    for index in range(count):
        for layer in range(config.get("layers_per_block", 1) + 1):
            x = layers.resnet(x, f"decoder.up_blocks.{index}.resnets.{layer}")
        if index < count - 1:
            height, width = layers.size(x)
            x = layers.upsample(x, (2 * height, 2 * width))
            x = layers.conv(x, f"decoder.up_blocks.{index}.upsamplers.0.conv")
    x = layers.conv(layers.activate(layers.group_norm(x, "decoder.conv_norm_out"), "silu"), "decoder.conv_out")
    layers.check_all_used("vae", ("decoder.", "post_quant_conv."))
    return x


def _tiny_decoder(layers: Layers[Node], config: Config, x: Node) -> Node:
    """AutoencoderTiny's decoder, https://github.com/madebyollin/taesd; x: latents without the scaling factor → picture,
    nominally -1…1. It has no normalisation and no attention, and few channels."""
    layers.check_finite("decoder", "decoder.")
    x = layers.scaled(layers.activate(layers.scaled(x, 1 / 3), "tanh"), 3)
    x = layers.activate(layers.conv(x, "decoder.layers.0"), "relu")
    blocks, position = config["num_decoder_blocks"], 2  # of the next layer; an activation counts as one
    for index, count in enumerate(blocks):
        last = index == len(blocks) - 1
        for _ in range(count):
            y = x
            for part in (0, 2, 4):
                y = layers.conv(
                    y if part == 0 else layers.activate(y, "relu"), f"decoder.layers.{position}.conv.{part}"
                )
            x, position = layers.activate(layers.add(x, y), "relu"), position + 1
        if not last:
            height, width = layers.size(x)
            x, position = layers.upsample(x, (2 * height, 2 * width)), position + 1
        x, position = layers.conv(x, f"decoder.layers.{position}", bias=last), position + 1
    layers.check_all_used("decoder", ("decoder.",))
    return layers.scaled(x, 2, -1)


def _each(value: Any, count: int) -> list[int]:
    """A setting per block; the configuration may have one value for all blocks."""
    return list(value) if isinstance(value, list) else [value] * count


def _attends(kind: str, direction: str) -> bool:
    if kind not in (f"{direction}Block2D", f"CrossAttn{direction}Block2D"):
        raise unknown("unet", f"{direction.lower()}_block_types", kind)
    return kind.startswith("Cross")


def _check(part: str, config: Config, supported: Mapping[str, tuple[Any, ...]], free: set[str] | None) -> None:
    """Refuse a setting with a value not in `supported`, and (unless free is None) a setting in neither."""
    for key, value in config.items():
        if key in supported:
            if value not in supported[key]:
                raise unknown(part, key, value)
        elif free is not None and key not in free and not key.startswith("_") and value not in (None, False):
            raise unknown(part, key, value)
