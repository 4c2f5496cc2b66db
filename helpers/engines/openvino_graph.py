"""Stable Diffusion's three networks as OpenVINO graphs, from the configuration and weights that diffusers reads.

Each function takes one part's `config.json` and weights and returns an `openvino.Model` of fixed shapes. A setting
that would change the arithmetic and is not computed here is an error that names it; so is a weight that no layer took.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import Model, Node
from openvino import opset15 as op

from helpers.stage import StageError

Config = Mapping[str, Any]
Weights = Mapping[str, NDArray[Any]]

# Settings with the values that are computed here (the first one is what diffusers has by default).
_UNET: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
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
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
# … and those that any value is computed for, or that mean nothing without one of the above.
_UNET_FREE = {
    *("addition_embed_type_num_heads", "addition_time_embed_dim", "attention_head_dim", "block_out_channels"),
    *("cross_attention_dim", "down_block_types", "dropout", "flip_sin_to_cos", "freq_shift", "in_channels"),
    *("layers_per_block", "norm_eps", "norm_num_groups", "out_channels", "projection_class_embeddings_input_dim"),
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
_TEXT: dict[str, tuple[Any, ...]] = {"hidden_act": ("quick_gelu", "gelu"), "model_type": ("clip_text_model",)}


class _Layers:
    """Layers by the name of their weights; remembers which weights were taken."""

    def __init__(self, weights: Weights, groups: int = 32, eps: float = 1e-5) -> None:
        self.weights, self.groups, self.eps = weights, groups, eps
        self.taken: set[str] = set()

    def weight(self, name: str, shape: tuple[int, ...] | None = None) -> Node:
        if name not in self.weights:
            raise StageError(os.EX_UNAVAILABLE, f"the model's weights lack {name}", "Fetch the model again.")
        self.taken.add(name)
        array = self.weights[name]
        node = op.constant(array if shape is None else array.reshape(shape), shared_memory=True)
        return node if array.dtype == np.float32 else op.convert(node, "f32")

    def conv(self, x: Node, name: str, stride: int = 1) -> Node:
        weight = self.weight(f"{name}.weight")
        pad = [weight.shape[2] // 2] * 2
        y = op.convolution(x, weight, [stride] * 2, pad, pad, [1, 1])
        return op.add(y, self.weight(f"{name}.bias", (1, -1, 1, 1)))

    def linear(self, x: Node, name: str, bias: bool = True) -> Node:
        """Also for a 1x1 convolution, whose weights are those of a linear layer over the channels."""
        y = op.matmul(x, self.weight(f"{name}.weight", (-1, x.shape[-1])), False, True)
        return op.add(y, self.weight(f"{name}.bias")) if bias else y

    def group_norm(self, x: Node, name: str, eps: float | None = None) -> Node:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return op.group_normalization(x, scale, shift, self.groups, eps or self.eps)

    def layer_norm(self, x: Node, name: str, eps: float = 1e-5) -> Node:
        normal = op.mvn(x, op.constant([-1]), True, eps, "inside_sqrt")
        return op.add(op.multiply(normal, self.weight(f"{name}.weight")), self.weight(f"{name}.bias"))

    def attend(self, x: Node, context: Node, names: list[str], heads: int, bias: bool, causal: bool = False) -> Node:
        """Multi-head attention of x over context; names: of the query, key, value and output layers; bias: of the
        first three (the last one always has it)."""

        def split(y: Node) -> Node:
            n, length, width = y.shape
            return op.transpose(op.reshape(y, [n, length, heads, width // heads], False), [0, 2, 1, 3])

        q, k, v = (split(self.linear(y, name, bias)) for y, name in zip((x, context, context), names[:3], strict=True))
        y = op.transpose(op.scaled_dot_product_attention(q, k, v, causal=causal), [0, 2, 1, 3])
        return self.linear(op.reshape(y, [*x.shape[:2], -1], False), names[3])

    def resnet(self, x: Node, name: str, time: Node | None = None) -> Node:
        """ResnetBlock2D; time: (1, width) after its activation."""
        y = self.conv(op.swish(self.group_norm(x, f"{name}.norm1")), f"{name}.conv1")
        if time is not None:
            y = op.add(y, op.reshape(self.linear(time, f"{name}.time_emb_proj"), [1, -1, 1, 1], False))
        y = self.conv(op.swish(self.group_norm(y, f"{name}.norm2")), f"{name}.conv2")
        if f"{name}.conv_shortcut.weight" in self.weights:
            x = self.conv(x, f"{name}.conv_shortcut")
        return op.add(x, y)

    def transformer(self, x: Node, name: str, text: Node, heads: int, depth: int) -> Node:
        """Transformer2DModel with `depth` blocks of self-attention, attention over the text and GEGLU."""
        h, w = x.shape[2:]
        y = self.linear(_tokens(self.group_norm(x, f"{name}.norm", 1e-6)), f"{name}.proj_in")
        for index in range(depth):
            block = f"{name}.transformer_blocks.{index}"
            for attention, norm in (("attn1", "norm1"), ("attn2", "norm2")):
                names = [f"{block}.{attention}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
                z = self.layer_norm(y, f"{block}.{norm}")
                y = op.add(y, self.attend(z, z if attention == "attn1" else text, names, heads, bias=False))
            z = self.linear(self.layer_norm(y, f"{block}.norm3"), f"{block}.ff.net.0.proj")
            value, gate = op.split(z, 2, 2).outputs()
            y = op.add(y, self.linear(op.multiply(value, op.gelu(gate, "erf")), f"{block}.ff.net.2"))
        return op.add(x, _picture(self.linear(y, f"{name}.proj_out"), h, w))

    def finish(self, x: Node, inputs: list[Node], name: str, prefixes: tuple[str, ...] = ("",)) -> Model:
        """The model, once no weight with one of the prefixes is left over."""
        for key in self.weights:
            if key.startswith(prefixes) and key not in self.taken and not key.endswith("position_ids"):
                raise StageError(os.EX_UNAVAILABLE, f"the model's {name} has a part that is not known here: {key}")
        return Model([op.result(x)], inputs, name)


class _DecoderLayers(_Layers):
    def group_norm(self, x: Node, name: str, eps: float | None = None) -> Node:
        """In means over the picture, then over the channels of a group, so that the convolutions' memory layout stays.

        OpenVINO's own GroupNormalization reshapes channels into groups, which costs two copies of x: with it the
        built-in model's decoder takes twice as long. In the UNet, where pictures are small, it is the quicker one.
        """
        n, channels = x.shape[:2]

        def over_group(y: Node) -> Node:
            grouped = [n, self.groups, channels // self.groups]
            y = op.reshape(op.reduce_mean(y, op.constant([2, 3]), True), grouped, False)
            y = op.broadcast(op.reduce_mean(y, op.constant([2]), True), op.constant(grouped))
            return op.reshape(y, [n, channels, 1, 1], False)

        scale, shift = (self.weight(f"{name}.{part}", (1, channels, 1, 1)) for part in ("weight", "bias"))
        centred = op.subtract(x, over_group(x))
        deviation = op.sqrt(op.add(over_group(op.multiply(centred, centred)), op.constant(np.float32(eps or self.eps))))
        return op.add(op.multiply(centred, op.divide(scale, deviation)), shift)


def text_encoder(config: Config, weights: Weights) -> Model:
    """CLIPTextModel: tokens, int64 (1, length) → the last hidden state, (1, length, width)."""
    _check("text_encoder", config, _TEXT, None)
    layers = _Layers({name.removeprefix("text_model."): array for name, array in weights.items()})
    length, eps = config["max_position_embeddings"], config.get("layer_norm_eps", 1e-5)
    tokens = op.parameter([1, length], np.int64, "tokens")
    x = op.gather(layers.weight("embeddings.token_embedding.weight"), tokens, op.constant(0))
    x = op.add(x, layers.weight("embeddings.position_embedding.weight"))
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{index}"
        names = [f"{name}.self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        y = layers.layer_norm(x, f"{name}.layer_norm1", eps)
        x = op.add(x, layers.attend(y, y, names, config["num_attention_heads"], bias=True, causal=True))
        y = layers.linear(layers.layer_norm(x, f"{name}.layer_norm2", eps), f"{name}.mlp.fc1")
        if config.get("hidden_act", "quick_gelu") == "quick_gelu":
            y = op.swish(y, op.constant(np.float32(1.702)))
        else:
            y = op.gelu(y, "erf")
        x = op.add(x, layers.linear(y, f"{name}.mlp.fc2"))
    return layers.finish(layers.layer_norm(x, "final_layer_norm", eps), [tokens], "text_encoder")


def unet(config: Config, weights: Weights, batch: int, height: int, width: int, length: int) -> Model:
    """UNet2DConditionModel: latents (batch, channels, height, width), time (1, block_out_channels[0]) from
    `time_features`, text (batch, length, width) → prediction in the shape of latents."""
    _check("unet", config, _UNET, _UNET_FREE)
    channels = config["block_out_channels"]
    count = len(channels)
    layers = _Layers(weights, config.get("norm_num_groups", 32), config.get("norm_eps", 1e-5))
    # What diffusers calls attention_head_dim here is the number of heads (diffusers issue 2011).
    heads = _each(config.get("attention_head_dim", 8), count)
    depths = _each(config.get("transformer_layers_per_block", 1), count)
    repeats = _each(config.get("layers_per_block", 2), count)

    latents = op.parameter([batch, config["in_channels"], height, width], np.float32, "latents")
    features = op.parameter([1, channels[0]], np.float32, "time")
    text = op.parameter([batch, length, max(_each(config.get("cross_attention_dim", 1280), count))], np.float32, "text")
    time = layers.linear(op.swish(layers.linear(features, "time_embedding.linear_1")), "time_embedding.linear_2")
    time = op.swish(time)

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
            x = layers.resnet(op.concat([x, skips.pop()], 1), f"{name}.resnets.{layer}", time)
            if attends:
                x = layers.transformer(x, f"{name}.attentions.{layer}", text, heads[mirror], depths[mirror])
        if index < count - 1:
            x = layers.conv(_upsample(x, skips[-1].shape[2:]), f"{name}.upsamplers.0.conv")
    x = layers.conv(op.swish(layers.group_norm(x, "conv_norm_out")), "conv_out")
    return layers.finish(x, [latents, features, text], "unet")


def time_features(config: Config, timestep: float) -> NDArray[np.float32]:
    """The sinusoids of a timestep, (1, block_out_channels[0]), as the UNet takes them; float32 like diffusers'."""
    half = config["block_out_channels"][0] // 2
    exponent = -np.log(10000) * np.arange(half, dtype=np.float32) / np.float32(half - config.get("freq_shift", 0))
    angles = np.float32(timestep) * np.exp(exponent.astype(np.float32))
    waves = [np.cos(angles), np.sin(angles)]
    return np.concatenate(waves if config.get("flip_sin_to_cos", True) else waves[::-1], dtype=np.float32)[None]


def decoder(config: Config, weights: Weights, height: int, width: int) -> Model:
    """AutoencoderKL's decoder: scaled latents (1, channels, height, width) → picture (1, 3, …), nominally -1…1."""
    _check("vae", config, _DECODER, _DECODER_FREE)
    for kind in config["up_block_types"]:
        if kind != "UpDecoderBlock2D":
            raise _unknown("vae", "up_block_types", kind)
    layers = _DecoderLayers(
        {_renamed(name): array for name, array in weights.items()}, config.get("norm_num_groups", 32), 1e-6
    )
    latents = op.parameter([1, config["latent_channels"], height, width], np.float32, "latents")
    x = op.multiply(latents, op.constant(np.float32(1 / config.get("scaling_factor", 0.18215))))
    x = op.add(x, op.constant(np.float32(config.get("shift_factor") or 0)))
    if config.get("use_post_quant_conv", True):
        x = layers.conv(x, "post_quant_conv")
    x = layers.resnet(layers.conv(x, "decoder.conv_in"), "decoder.mid_block.resnets.0")
    if config.get("mid_block_add_attention", True):
        name = "decoder.mid_block.attentions.0"
        names = [f"{name}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
        y = _tokens(layers.group_norm(x, f"{name}.group_norm"))
        x = op.add(x, _picture(layers.attend(y, y, names, 1, bias=True), *x.shape[2:]))
    x = layers.resnet(x, "decoder.mid_block.resnets.1")
    count = len(config["block_out_channels"])
    for index in range(count):
        for layer in range(config.get("layers_per_block", 1) + 1):
            x = layers.resnet(x, f"decoder.up_blocks.{index}.resnets.{layer}")
        if index < count - 1:
            x = _upsample(x, [2 * side for side in x.shape[2:]])
            x = layers.conv(x, f"decoder.up_blocks.{index}.upsamplers.0.conv")
    x = layers.conv(op.swish(layers.group_norm(x, "decoder.conv_norm_out")), "decoder.conv_out")
    return layers.finish(x, [latents], "vae", ("decoder.", "post_quant_conv."))


def _tokens(x: Node) -> Node:
    """(n, channels, h, w) → (n, h * w, channels)."""
    n, channels, h, w = x.shape
    return op.transpose(op.reshape(x, [n, channels, h * w], False), [0, 2, 1])


def _picture(x: Node, h: int, w: int) -> Node:
    """(n, h * w, channels) → (n, channels, h, w)."""
    n, _, channels = x.shape
    return op.reshape(op.transpose(x, [0, 2, 1]), [n, channels, h, w], False)


def _upsample(x: Node, size: list[int]) -> Node:
    """Nearest neighbour to (h, w): twice as large, or one less where a side of the skip connection is odd."""
    return op.interpolate(
        x,
        list(size),
        "nearest",
        "sizes",
        axes=[2, 3],
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _each(value: Any, count: int) -> list[int]:
    """A setting for each block, where the configuration may give one for all."""
    return list(value) if isinstance(value, list) else [value] * count


def _attends(kind: str, direction: str) -> bool:
    if kind not in (f"{direction}Block2D", f"CrossAttn{direction}Block2D"):
        raise _unknown("unet", f"{direction.lower()}_block_types", kind)
    return kind.startswith("Cross")


def _renamed(name: str) -> str:
    """A weight of the decoder under today's name: the attention of old files (Stable Diffusion 1) had its own."""
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f"mid_block.attentions.0.{old}.", f"mid_block.attentions.0.{new}.")
    return name


def _check(part: str, config: Config, known: Mapping[str, tuple[Any, ...]], free: set[str] | None) -> None:
    """Refuse a setting with another value than those in `known`, and (unless free is None) one that is in neither."""
    for key, value in config.items():
        if key in known:
            if value not in known[key]:
                raise _unknown(part, key, value)
        elif free is not None and key not in free and not key.startswith("_") and value not in (None, False):
            raise _unknown(part, key, value)


def _unknown(part: str, key: str, value: object) -> StageError:
    message = f"the model's {part}/config.json has {key}={value!r}, which the cpu engine does not compute"
    return StageError(os.EX_UNAVAILABLE, message, "Use another model.")
