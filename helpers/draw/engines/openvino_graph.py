"""Stable Diffusion's three networks as OpenVINO graphs, from the configuration and weights that diffusers reads.

Each function takes one part's `config.json` and weights and returns an `openvino.Model` of fixed shapes; the layers
are in `architecture.py`. Tokens are (n, length, channels).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from helpers.core.openvino import runtime
from helpers.draw.engines import architecture
from helpers.draw.engines.layers import Config, Layers, Weights

if TYPE_CHECKING:
    from openvino import Model, Node
    from openvino import opset15 as op
else:
    Model, Node, op = runtime().Model, runtime().Node, runtime().opset15


class _Layers(Layers[Node]):
    def weight(self, name: str, shape: tuple[int, ...] | None = None) -> Node:
        array = self.array(name)
        node = op.constant(array if shape is None else array.reshape(shape), shared_memory=True)
        node.set_friendly_name(name)
        return node if array.dtype == np.float32 else op.convert(node, "f32")

    def conv(self, x: Node, name: str, stride: int = 1, bias: bool = True) -> Node:
        weight = self.weight(f"{name}.weight")
        pad = [weight.shape[2] // 2] * 2
        y = op.convolution(x, weight, [stride] * 2, pad, pad, [1, 1])
        return op.add(y, self.weight(f"{name}.bias", (1, -1, 1, 1))) if bias else y

    def linear(self, x: Node, name: str, bias: bool = True) -> Node:
        y = op.matmul(x, self.weight(f"{name}.weight", (-1, x.shape[-1])), False, True)
        return op.add(y, self.weight(f"{name}.bias")) if bias else y

    def group_norm(self, x: Node, name: str, eps: float | None = None) -> Node:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return op.group_normalization(x, scale, shift, self.groups, eps or self.eps)

    def layer_norm(self, x: Node, name: str, eps: float = 1e-5) -> Node:
        normal = op.mvn(x, op.constant([-1]), True, eps, "inside_sqrt")
        return op.add(op.multiply(normal, self.weight(f"{name}.weight")), self.weight(f"{name}.bias"))

    def activate(self, x: Node, kind: str) -> Node:
        if kind == "gelu":
            return op.gelu(x, "erf")
        if kind in ("relu", "tanh"):
            return op.relu(x) if kind == "relu" else op.tanh(x)
        return op.swish(x, op.constant(np.float32(1.702))) if kind == "quick_gelu" else op.swish(x)

    def scaled(self, x: Node, by: float, plus: float = 0.0) -> Node:
        y = op.multiply(x, op.constant(np.float32(by)))
        return op.add(y, op.constant(np.float32(plus))) if plus else y

    def shifted(self, x: Node, vector: NDArray[np.float32]) -> Node:
        return op.add(x, op.constant(vector[None]))

    def add(self, x: Node, y: Node) -> Node:
        return op.add(x, y)

    def add_vector(self, x: Node, vector: Node) -> Node:
        return op.add(x, op.reshape(vector, [vector.shape[0], -1, 1, 1], False))

    def gated(self, x: Node) -> Node:
        value, gate = op.split(x, 2, 2).outputs()
        return op.multiply(value, op.gelu(gate, "erf"))

    def concat(self, x: Node, y: Node) -> Node:
        return op.concat([x, y], 1)

    def upsample(self, x: Node, size: tuple[int, int]) -> Node:
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return op.interpolate(x, list(size), "nearest", "sizes", axes=[2, 3], **modes)

    def size(self, x: Node) -> tuple[int, int]:
        height, width = x.shape[2:]
        return height, width

    def tokens(self, x: Node) -> Node:
        n, channels, h, w = x.shape
        return op.transpose(op.reshape(x, [n, channels, h * w], False), [0, 2, 1])

    def picture(self, x: Node, size: tuple[int, int]) -> Node:
        n, _, channels = x.shape
        return op.reshape(op.transpose(x, [0, 2, 1]), [n, channels, *size], False)

    def attention(self, q: Node, k: Node, v: Node, heads: int, causal: bool) -> Node:
        def split(y: Node) -> Node:
            n, length, width = y.shape
            return op.transpose(op.reshape(y, [n, length, heads, width // heads], False), [0, 2, 1, 3])

        y = op.scaled_dot_product_attention(split(q), split(k), split(v), causal=causal)
        return op.reshape(op.transpose(y, [0, 2, 1, 3]), [*q.shape[:2], -1], False)


class _DecoderLayers(_Layers):
    def group_norm(self, x: Node, name: str, eps: float | None = None) -> Node:
        """Mean over the picture, then over the channels of a group, which keeps the convolutions' memory layout.

        OpenVINO's own GroupNormalization reshapes channels into groups, which costs two copies of x: with it the
        built-in model's decoder takes twice as long. In the UNet, with its smaller feature maps, it is faster.
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


def text_encoder(config: Config, weights: Weights, xl: bool = False) -> Model:
    """CLIPTextModel: tokens, int64 (1, length) → the last hidden state, (1, length, width).

    xl: for Stable Diffusion XL → the penultimate hidden state, and if the encoder has a projection, the projected last
    hidden state, (1, length, projection_dim), as well.
    """
    architecture.check_text_encoder(config)
    layers = _Layers(architecture.diffusers_names(weights))
    tokens = op.parameter([1, config["max_position_embeddings"]], np.int64, "tokens")
    x = op.gather(layers.weight("embeddings.token_embedding.weight"), tokens, op.constant(0))
    x = op.add(x, layers.weight("embeddings.position_embedding.weight"))
    text = architecture.text_encoder(layers, config, x)
    results = [node for node in (text.penultimate, text.projected) if node is not None] if xl else [text.last]
    return Model([op.result(node) for node in results], [tokens], "text_encoder")


def unet(config: Config, weights: Weights, batch: int, height: int, width: int, length: int) -> Model:
    """UNet2DConditionModel: latents (batch, channels, height, width), time (1, block_out_channels[0]) from
    `time_features`, text (batch, length, width), for Stable Diffusion XL added (batch, width) from `added_features` →
    prediction in the shape of latents."""
    architecture.check_unet(config)
    layers = _Layers(weights, config.get("norm_num_groups", 32), config.get("norm_eps", 1e-5))
    latents = op.parameter([batch, config["in_channels"], height, width], np.float32, "latents")
    time = op.parameter([1, config["block_out_channels"][0]], np.float32, "time")
    text = op.parameter([batch, length, architecture.unet_text_width(config)], np.float32, "text")
    inputs = [latents, time, text]
    if config.get("addition_embed_type"):
        inputs.append(op.parameter([batch, config["projection_class_embeddings_input_dim"]], np.float32, "added"))
    return Model([op.result(architecture.unet(layers, config, *inputs))], inputs, "unet")


def time_features(config: Config, timestep: float) -> NDArray[np.float32]:
    """The sinusoids of a timestep, (1, block_out_channels[0]), the UNet's time input."""
    return architecture.sinusoids(config, [timestep])


def added_features(config: Config, pooled: NDArray[np.float32], time_ids: list[int]) -> NDArray[np.float32]:
    """Stable Diffusion XL's added input of the UNet, (n, width), from the pooled text, (n, width), and xl.time_ids."""
    sizes = architecture.sinusoids(config, time_ids, config["addition_time_embed_dim"]).reshape(1, -1)
    return np.concatenate([pooled, sizes.repeat(len(pooled), axis=0)], axis=1)


def decoder(config: Config, weights: Weights, height: int, width: int) -> Model:
    """The decoder of AutoencoderKL or AutoencoderTiny: scaled latents (1, channels, height, width) → picture
    (1, 3, …), nominally -1…1."""
    architecture.check_decoder(config)
    kind = _Layers if architecture.is_tiny(config) else _DecoderLayers
    layers = kind(architecture.diffusers_names(weights), config.get("norm_num_groups", 32), 1e-6)
    latents = op.parameter([1, config["latent_channels"], height, width], np.float32, "latents")
    x = layers.scaled(latents, *architecture.scaling(config))
    return Model([op.result(architecture.decoder(layers, config, x))], [latents], "vae")


def image_encoder(config: Config, weights: Weights) -> Model:
    """CLIPVisionModel with a projection, as StableDiffusionSafetyChecker has it: picture (1, 3, side, side), CLIP's
    input → embedding, (1, 1, projection_dim). config: that of the CLIPVisionModel; weights: its own and
    `visual_projection`, without prefix."""
    architecture.check_vision_encoder(config)
    layers = _Layers(weights)
    layers.check_finite("safety filter", "")
    side, patch = config["image_size"], config["patch_size"]
    picture = op.parameter([1, 3, side, side], np.float32, "picture")
    kernel = layers.weight("embeddings.patch_embedding.weight")
    patches = layers.tokens(op.convolution(picture, kernel, [patch] * 2, [0, 0], [0, 0], [1, 1]))
    x = op.concat([layers.weight("embeddings.class_embedding", (1, 1, -1)), patches], 1)
    x = op.add(x, layers.weight("embeddings.position_embedding.weight"))
    x = architecture.vision_encoder(layers, config, x)
    x = op.gather(x, op.constant([0]), op.constant(1))  # the class token
    x = layers.layer_norm(x, "post_layernorm", config.get("layer_norm_eps", 1e-5))
    x = layers.linear(x, "visual_projection", bias=False)
    layers.check_all_used("safety filter")
    return Model([op.result(x)], [picture], "image_encoder")
