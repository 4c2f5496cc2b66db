"""The three networks of Stable Diffusion, layer by layer, from the configuration and weights that diffusers reads.

The functions below call one method of `Layers` per layer. Its subclasses build the graph: `openvino_graph.py` makes
OpenVINO nodes, `coreml_graph.py` Core ML operations. An unsupported setting that would change the result is an error
that names it; so is a weight that no layer used.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import unknown
from helpers.core.errors import UserError

Config = Mapping[str, Any]
Weights = Mapping[str, NDArray[Any]]
Node = TypeVar("Node")

# Settings and their supported values (diffusers' default first).
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
# … and settings that may have any value, or have no effect without one of the above.
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


class Layers(ABC, Generic[Node]):
    """Builds layers by the name of their weights; records which weights were used.

    A node is a picture (n, channels, h, w) or tokens, a sequence of vectors (n, length, channels); each subclass
    chooses the order of a token's axes for its runtime.
    """

    def __init__(self, weights: Weights, groups: int = 32, eps: float = 1e-5) -> None:
        self.weights, self.groups, self.eps = weights, groups, eps
        self.used: set[str] = set()

    def array(self, name: str) -> NDArray[Any]:
        """The weight `name`. Raises UserError 69 if the model lacks it."""
        if name not in self.weights:
            raise UserError(os.EX_UNAVAILABLE, f"the model's weights lack {name}", "Fetch the model again.")
        self.used.add(name)
        return self.weights[name]

    @abstractmethod
    def conv(self, x: Node, name: str, stride: int = 1) -> Node:
        """Convolution that keeps the size (1x1 or 3x3), or halves it with stride 2."""

    @abstractmethod
    def linear(self, x: Node, name: str, bias: bool = True) -> Node:
        """Tokens to tokens. Also for a 1x1 convolution, whose weights are those of a linear layer over the channels."""

    @abstractmethod
    def group_norm(self, x: Node, name: str, eps: float | None = None) -> Node:
        """GroupNorm of a picture in `self.groups` groups; eps: `self.eps` by default."""

    @abstractmethod
    def layer_norm(self, x: Node, name: str, eps: float = 1e-5) -> Node:
        """LayerNorm of tokens over their channels."""

    @abstractmethod
    def activate(self, x: Node, kind: str) -> Node:
        """kind: silu, gelu (exact) or quick_gelu (x * sigmoid(1.702 x))."""

    @abstractmethod
    def add(self, x: Node, y: Node) -> Node:
        """The sum of two nodes of one shape."""

    @abstractmethod
    def add_vector(self, x: Node, vector: Node) -> Node:
        """A picture plus one token, the same at each pixel."""

    @abstractmethod
    def gated(self, x: Node) -> Node:
        """GEGLU: the first half of the tokens' channels times gelu of the second."""

    @abstractmethod
    def concat(self, x: Node, y: Node) -> Node:
        """Two pictures' channels, one after the other."""

    @abstractmethod
    def upsample(self, x: Node, size: tuple[int, int]) -> Node:
        """Nearest neighbour to (h, w): twice as large, or one less where a side of the skip connection is odd."""

    @abstractmethod
    def size(self, x: Node) -> tuple[int, int]:
        """Height and width of a picture."""

    @abstractmethod
    def tokens(self, x: Node) -> Node:
        """A picture's pixels as tokens, row by row."""

    @abstractmethod
    def picture(self, x: Node, size: tuple[int, int]) -> Node:
        """Tokens as a picture of size (h, w)."""

    @abstractmethod
    def attention(self, q: Node, k: Node, v: Node, heads: int, causal: bool) -> Node:
        """Multi-head attention, scaled by the root of a head's width; causal: a token sees none that follow it."""

    def attend(self, x: Node, context: Node, names: list[str], heads: int, bias: bool, causal: bool = False) -> Node:
        """Attention of x over context with its linear layers; names: of the query, key, value and output layers; bias:
        of the first three (the last one always has it)."""
        q, k, v = (self.linear(y, name, bias) for y, name in zip((x, context, context), names[:3], strict=True))
        return self.linear(self.attention(q, k, v, heads, causal), names[3])

    def resnet(self, x: Node, name: str, time: Node | None = None) -> Node:
        """ResnetBlock2D; time: a token, after its activation."""
        y = self.conv(self.activate(self.group_norm(x, f"{name}.norm1"), "silu"), f"{name}.conv1")
        if time is not None:
            y = self.add_vector(y, self.linear(time, f"{name}.time_emb_proj"))
        y = self.conv(self.activate(self.group_norm(y, f"{name}.norm2"), "silu"), f"{name}.conv2")
        if f"{name}.conv_shortcut.weight" in self.weights:
            x = self.conv(x, f"{name}.conv_shortcut")
        return self.add(x, y)

    def transformer(self, x: Node, name: str, text: Node, heads: int, depth: int) -> Node:
        """Transformer2DModel with `depth` blocks of self-attention, attention over the text and GEGLU."""
        y = self.linear(self.tokens(self.group_norm(x, f"{name}.norm", 1e-6)), f"{name}.proj_in")
        for index in range(depth):
            block = f"{name}.transformer_blocks.{index}"
            for attention, norm in (("attn1", "norm1"), ("attn2", "norm2")):
                names = [f"{block}.{attention}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
                z = self.layer_norm(y, f"{block}.{norm}")
                y = self.add(y, self.attend(z, z if attention == "attn1" else text, names, heads, bias=False))
            z = self.linear(self.layer_norm(y, f"{block}.norm3"), f"{block}.ff.net.0.proj")
            y = self.add(y, self.linear(self.gated(z), f"{block}.ff.net.2"))
        return self.add(x, self.picture(self.linear(y, f"{name}.proj_out"), self.size(x)))

    def check_all_used(self, part: str, prefixes: tuple[str, ...] = ("",)) -> None:
        """Raises UserError 69 if a weight whose name begins with one of the prefixes was not used."""
        for key in self.weights:
            if key.startswith(prefixes) and key not in self.used and not key.endswith("position_ids"):
                message = f"the model's {part} has an unknown weight: {key[:200]}"
                raise UserError(os.EX_UNAVAILABLE, message, "Use another model.")


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


def text_encoder(layers: Layers[Node], config: Config, x: Node) -> Node:
    """CLIPTextModel; x: the embedded tokens with their positions → the last hidden state."""
    eps = config.get("layer_norm_eps", 1e-5)
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{index}"
        names = [f"{name}.self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        y = layers.layer_norm(x, f"{name}.layer_norm1", eps)
        x = layers.add(x, layers.attend(y, y, names, config["num_attention_heads"], bias=True, causal=True))
        y = layers.linear(layers.layer_norm(x, f"{name}.layer_norm2", eps), f"{name}.mlp.fc1")
        y = layers.activate(y, config.get("hidden_act", "quick_gelu"))
        x = layers.add(x, layers.linear(y, f"{name}.mlp.fc2"))
    x = layers.layer_norm(x, "final_layer_norm", eps)
    layers.check_all_used("text_encoder")
    return x


def check_text_encoder(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    _check("text_encoder", config, _TEXT, None)


def check_unet(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    _check("unet", config, _UNET, _UNET_FREE)


def unet(layers: Layers[Node], config: Config, latents: Node, features: Node, text: Node) -> Node:
    """UNet2DConditionModel; features: a token, the sinusoids of `frequencies` → prediction in the shape of latents."""
    count = len(config["block_out_channels"])
    # diffusers' attention_head_dim is in fact the number of heads (diffusers issue 2011).
    heads = _each(config.get("attention_head_dim", 8), count)
    depths = _each(config.get("transformer_layers_per_block", 1), count)
    repeats = _each(config.get("layers_per_block", 2), count)

    time = layers.activate(layers.linear(features, "time_embedding.linear_1"), "silu")
    time = layers.activate(layers.linear(time, "time_embedding.linear_2"), "silu")

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


def frequencies(config: Config) -> NDArray[np.float32]:
    """The frequencies of the timestep embedding, (block_out_channels[0] / 2,); float32 as in diffusers."""
    half = config["block_out_channels"][0] // 2
    exponent = -np.log(10000) * np.arange(half, dtype=np.float32) / np.float32(half - config.get("freq_shift", 0))
    waves: NDArray[np.float32] = np.exp(exponent.astype(np.float32))
    return waves


def cosine_first(config: Config) -> bool:
    """Whether the cosines come before the sines in the timestep embedding."""
    return bool(config.get("flip_sin_to_cos", True))


def check_decoder(config: Config) -> None:
    """Raises UserError 69 for an unsupported configuration."""
    _check("vae", config, _DECODER, _DECODER_FREE)
    for kind in config["up_block_types"]:
        if kind != "UpDecoderBlock2D":
            raise unknown("vae", "up_block_types", kind)


def decoder(layers: Layers[Node], config: Config, x: Node) -> Node:
    """AutoencoderKL's decoder; x: latents without the scaling factor → picture, nominally -1…1."""
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
