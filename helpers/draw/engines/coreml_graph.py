"""Stable Diffusion's three networks as Core ML programs, from the configuration and weights that diffusers reads.

Each function takes one part's `config.json` and weights and returns a MIL program in 16-bit floats, for `system` (a key
of SYSTEMS) and newer ones. Inputs and outputs are those of Apple's own conversion
(github.com/apple/ml-stable-diffusion), so the same models work in Apple's tools and in this project; the layers
are in `architecture.py`. No PyTorch and no tracing: the weights go straight from the file into the program.

Tokens are (n, channels, 1, length) and every linear layer is a 1x1 convolution, as the Neural Engine requires:
https://machinelearning.apple.com/research/neural-engine-transformers, 2022. It also describes split attention.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from typing import Any

import numpy as np
from coremltools import target
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types
from coremltools.converters.mil.mil import Var as Node
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import unknown
from helpers.core.errors import UserError
from helpers.draw.engines import architecture
from helpers.draw.engines.layers import Config, Layers, Weights

ATTENTIONS = ("original", "split_einsum", "split_einsum_v2")  # Apple's names
SYSTEMS = {"macOS14": target.macOS14, "macOS15": target.macOS15}
_CHUNK = 512  # queries at a time in split_einsum_v2, as Apple measured it


def identifier(name: str) -> str:
    """The name of the weight `name` in a Core ML program."""
    return re.sub(r"\W", "_", name)


class _Layers(Layers[Node]):
    def __init__(self, attention: str, weights: Weights, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__(weights, groups, eps)
        self.kind = attention

    def weight(self, name: str, *shape: int) -> Node:
        """A weight in half precision. Raises: UserError 69 if a value is not finite in half precision."""
        with np.errstate(over="ignore"):
            array = self.array(name).astype(np.float16)
        if not np.isfinite(array).all():
            raise UserError(
                os.EX_UNAVAILABLE, f"{name} has values that 16-bit floats cannot hold", "Use another model."
            )
        return mb.const(val=array.reshape(shape) if shape else array, name=identifier(name))

    def conv(self, x: Node, name: str, stride: int = 1, bias: bool = True) -> Node:
        weight = self.weight(f"{name}.weight")
        pad = (
            {"pad_type": "custom", "pad": [weight.shape[2] // 2] * 4} if weight.shape[2] > 1 else {"pad_type": "valid"}
        )
        more = {"bias": self.weight(f"{name}.bias")} if bias else {}
        return mb.conv(x=x, weight=weight, strides=[stride] * 2, **pad, **more)

    def linear(self, x: Node, name: str, bias: bool = True) -> Node:
        weight = self.weight(f"{name}.weight", -1, x.shape[1], 1, 1)
        more = {"bias": self.weight(f"{name}.bias")} if bias else {}
        return mb.conv(x=x, weight=weight, pad_type="valid", **more)

    def group_norm(self, x: Node, name: str, eps: float | None = None) -> Node:
        n, channels, h, w = x.shape
        y = mb.reshape(x=x, shape=[n, self.groups, channels // self.groups, h, w])
        y = mb.sub(x=y, y=_mean(y))
        # Divide by the mean magnitude before squaring: values of the built-in model reach 270, whose square overflows
        # float16 (65,504), and a group with infinite variance turns into zeros. With all results rounded to 16 bits,
        # pictures have 59 dB instead of 28. 6e-5 is the smallest normal number.
        magnitude = mb.add(x=_mean(mb.abs(x=y)), y=np.float16(6e-5))
        y = mb.real_div(x=y, y=magnitude)
        small = mb.square(x=mb.real_div(x=np.float16((eps or self.eps) ** 0.5), y=magnitude))
        y = mb.real_div(x=y, y=mb.sqrt(x=mb.add(x=_mean(mb.square(x=y)), y=small)))
        y = mb.reshape(x=y, shape=[n, channels, h, w])
        zeros, ones = np.zeros(channels, np.float16), np.ones(channels, np.float16)
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return mb.batch_norm(x=y, mean=zeros, variance=ones, gamma=scale, beta=shift, epsilon=np.float16(0))

    def layer_norm(self, x: Node, name: str, eps: float = 1e-5) -> Node:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return mb.layer_norm(x=x, axes=[1], gamma=scale, beta=shift, epsilon=np.float16(eps))

    def activate(self, x: Node, kind: str) -> Node:
        if kind in ("silu", "relu", "tanh"):
            return getattr(mb, kind)(x=x)
        return mb.gelu(x=x, mode="EXACT" if kind == "gelu" else "SIGMOID_APPROXIMATION")

    def scaled(self, x: Node, by: float, plus: float = 0.0) -> Node:
        y = mb.mul(x=x, y=np.float16(by))
        return mb.add(x=y, y=np.float16(plus)) if plus else y

    def shifted(self, x: Node, vector: NDArray[np.float32]) -> Node:
        return mb.add(x=x, y=vector.astype(np.float16).reshape(1, -1, 1, 1))

    def add(self, x: Node, y: Node) -> Node:
        return mb.add(x=x, y=y)

    def add_vector(self, x: Node, vector: Node) -> Node:
        return mb.add(x=x, y=vector)

    def gated(self, x: Node) -> Node:
        value, gate = mb.split(x=x, num_splits=2, axis=1)
        return mb.mul(x=value, y=mb.gelu(x=gate, mode="EXACT"))

    def concat(self, x: Node, y: Node) -> Node:
        return mb.concat(values=[x, y], axis=1)

    def upsample(self, x: Node, size: tuple[int, int]) -> Node:
        y = mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2)
        return y if self.size(y) == size else mb.slice_by_size(x=y, begin=[0] * 4, size=[*y.shape[:2], *size])

    def size(self, x: Node) -> tuple[int, int]:
        height, width = x.shape[2:]
        return int(height), int(width)

    def tokens(self, x: Node) -> Node:
        n, channels, h, w = x.shape
        return mb.reshape(x=x, shape=[n, channels, 1, h * w])

    def picture(self, x: Node, size: tuple[int, int]) -> Node:
        return mb.reshape(x=x, shape=[*x.shape[:2], *size])

    def attention(self, q: Node, k: Node, v: Node, heads: int, causal: bool) -> Node:
        # Scale before the product: its sum is the first to overflow 16 bits.
        q = mb.mul(x=q, y=np.float16((q.shape[1] / heads) ** -0.5))
        if causal or self.kind == "original":
            return self._batched(q, k, v, heads, causal)
        return self._split(q, k, v, heads)

    def _batched(self, q: Node, k: Node, v: Node, heads: int, causal: bool) -> Node:
        """All heads in one matrix product."""
        q, k, v = (mb.reshape(x=y, shape=[y.shape[0], heads, y.shape[1] // heads, y.shape[3]]) for y in (q, k, v))
        scores = mb.matmul(x=q, y=k, transpose_x=True)  # (n, heads, queries, keys)
        if causal:
            length = q.shape[3]
            # -1e4 instead of -inf, which 16-bit units turn into NaN; exp(-1e4) is also 0.
            mask = np.triu(np.full((1, 1, length, length), -1e4, np.float16), 1)
            scores = mb.add(x=scores, y=mask)
        y = mb.matmul(x=v, y=mb.softmax(x=scores, axis=-1), transpose_y=True)  # (n, heads, width of a head, queries)
        return mb.reshape(x=y, shape=[y.shape[0], heads * y.shape[2], 1, y.shape[3]])

    def _split(self, q: Node, k: Node, v: Node, heads: int) -> Node:
        """Head by head, in the channels-first order of axes; v2 also splits the queries into chunks."""
        length = q.shape[3]
        pieces = math.ceil(length / _CHUNK) if self.kind == "split_einsum_v2" else 1
        bounds = [index * length // pieces for index in range(pieces + 1)]
        keys = mb.transpose(x=k, perm=[0, 3, 2, 1])  # (n, length, 1, channels)
        width = q.shape[1] // heads

        def head(x: Node, axis: int, index: int) -> Node:
            return _part(x, axis, index * width, (index + 1) * width) if heads > 1 else x

        results = []
        for index in range(heads):
            query, key, value = head(q, 1, index), head(keys, 3, index), head(v, 1, index)
            outputs = []
            for begin, end in itertools.pairwise(bounds):
                piece = _part(query, 3, begin, end) if pieces > 1 else query
                # (n, keys, 1, channels) x (n, channels, 1, queries) → (n, keys, 1, queries)
                scores = mb.einsum(values=(key, piece), equation="nchw,nwhu->nchu")
                weights = mb.softmax(x=scores, axis=1)
                outputs.append(mb.einsum(values=(value, weights), equation="nchw,nwhu->nchu"))
            results.append(mb.concat(values=outputs, axis=3) if pieces > 1 else outputs[0])
        return mb.concat(values=results, axis=1) if heads > 1 else results[0]


def _mean(y: Node) -> Node:
    """Of each group."""
    return mb.reduce_mean(x=y, axes=[2, 3, 4], keep_dims=True)


def _part(x: Node, axis: int, begin: int, end: int) -> Node:
    """x[begin:end] along an axis."""
    first, size = [0] * len(x.shape), list(x.shape)
    first[axis], size[axis] = begin, end - begin
    return mb.slice_by_size(x=x, begin=first, size=size)


def text_encoder(config: Config, weights: Weights, system: str) -> Program:
    """CLIPTextModel: input_ids, float32 (1, length) → last_hidden_state, float32 (1, length, width)."""
    architecture.check_text_encoder(config)
    layers = _Layers("original", architecture.diffusers_names(weights))
    with _function(system, input_ids=((1, config["max_position_embeddings"]), types.fp32)) as function:
        tokens = mb.cast(x=function.inputs["input_ids"], dtype="int32")
        x = mb.gather(x=layers.weight("embeddings.token_embedding.weight"), indices=tokens, axis=0)
        x = mb.add(x=x, y=layers.weight("embeddings.position_embedding.weight"))
        x = mb.expand_dims(x=mb.transpose(x=x, perm=[0, 2, 1]), axes=[2])
        x = architecture.text_encoder(layers, config, x).last
        x = mb.transpose(x=mb.squeeze(x=x, axes=[2]), perm=[0, 2, 1])
        return _program(function, mb.cast(x=x, dtype="fp32", name="last_hidden_state"))


def unet(
    config: Config, weights: Weights, shape: tuple[int, int, int], length: int, attention: str, system: str
) -> Program:
    """UNet2DConditionModel: sample, float16 (batch, channels, height, width), timestep, float16 (batch,),
    encoder_hidden_states, float16 (batch, width, 1, length) → noise_pred, float32 in the shape of sample.

    shape: batch, height, width. attention: one of ATTENTIONS; original is for the GPU, the split ones for the Neural
    Engine.
    """
    architecture.check_unet(config)
    if config.get("addition_embed_type"):
        raise unknown("unet", "addition_embed_type", config["addition_embed_type"], "which cannot be converted yet")
    batch, height, width = shape
    layers = _Layers(attention, weights, config.get("norm_num_groups", 32), config.get("norm_eps", 1e-5))
    text = (batch, architecture.unet_text_width(config), 1, length)
    with _function(
        system,
        sample=((batch, config["in_channels"], height, width), types.fp16),
        timestep=((batch,), types.fp16),
        encoder_hidden_states=(text, types.fp16),
    ) as function:
        # In 32 bits: at timestep 999 a 16-bit angle has an error of up to a quarter of a radian.
        timestep = mb.reshape(x=mb.cast(x=function.inputs["timestep"], dtype="fp32"), shape=[batch, 1])
        angles = mb.mul(x=timestep, y=architecture.frequencies(config)[None])
        waves = [mb.cos(x=angles), mb.sin(x=angles)]
        features = mb.concat(values=waves if architecture.cosine_first(config) else waves[::-1], axis=1)
        features = mb.expand_dims(x=mb.cast(x=features, dtype="fp16"), axes=[2, 3])
        inputs = function.inputs
        x = architecture.unet(layers, config, inputs["sample"], features, inputs["encoder_hidden_states"])
        return _program(function, mb.cast(x=x, dtype="fp32", name="noise_pred"))


def decoder(config: Config, weights: Weights, height: int, width: int, system: str) -> Program:
    """The decoder of AutoencoderKL or AutoencoderTiny: z, float16 (1, channels, height, width), latents divided by the
    model's scaling factor → image, float32 (1, 3, …), nominally -1…1."""
    architecture.check_decoder(config)
    layers = _Layers("original", architecture.diffusers_names(weights), config.get("norm_num_groups", 32), 1e-6)
    with _function(system, z=((1, config["latent_channels"], height, width), types.fp16)) as function:
        x = architecture.decoder(layers, config, function.inputs["z"])
        return _program(function, mb.cast(x=x, dtype="fp32", name="image"))


def _function(system: str, **inputs: tuple[tuple[int, ...], Any]) -> Function:
    """A MIL function with these inputs (name: shape and type). Operations created in its context become part of it."""
    return Function(
        {name: mb.placeholder(shape=shape, dtype=dtype) for name, (shape, dtype) in inputs.items()},
        opset_version=SYSTEMS[system],
    )


def _program(function: Function, output: Node) -> Program:
    function.set_outputs([output])
    program = Program()
    program.add_function("main", function)
    return program
