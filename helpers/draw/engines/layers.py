"""The layers that the networks are made of, by the name of their weights.

`architecture.py` says which layer follows which. Two subclasses of `Layers` build them: `openvino_graph.py` makes
OpenVINO nodes, `coreml_graph.py` Core ML operations.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import UserError

Config = Mapping[str, Any]
Weights = Mapping[str, NDArray[Any]]
Node = TypeVar("Node")


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
    def conv(self, x: Node, name: str, stride: int = 1, bias: bool = True) -> Node:
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
        """kind: silu, gelu (exact), quick_gelu (x * sigmoid(1.702 x)), relu or tanh."""

    @abstractmethod
    def scaled(self, x: Node, by: float, plus: float = 0.0) -> Node:
        """x * by + plus."""

    @abstractmethod
    def shifted(self, x: Node, vector: NDArray[np.float32]) -> Node:
        """A token plus a constant one, (channels,)."""

    @abstractmethod
    def add(self, x: Node, y: Node) -> Node:
        """The sum of two nodes of one shape; one of them may be the same for each picture (n = 1)."""

    @abstractmethod
    def add_vector(self, x: Node, vector: Node) -> Node:
        """A picture plus one token, the same at each pixel; the token may be the same for each picture (n = 1)."""

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

    def check_finite(self, part: str, prefix: str) -> None:
        """Raises UserError 69 if a weight whose name begins with `prefix` has a NaN or an infinity."""
        for name, array in self.weights.items():
            if name.startswith(prefix) and not np.isfinite(array).all():
                message = f"the {part}'s weights are damaged: {name[:200]} has values that are no numbers"
                raise UserError(os.EX_UNAVAILABLE, message, "Fetch the model again.")

    def check_all_used(self, part: str, prefixes: tuple[str, ...] = ("",)) -> None:
        """Raises UserError 69 if a weight whose name begins with one of the prefixes was not used."""
        for key in self.weights:
            if key.startswith(prefixes) and key not in self.used and not key.endswith("position_ids"):
                message = f"the model's {part} has an unknown weight: {key[:200]}"
                raise UserError(os.EX_UNAVAILABLE, message, "Use another model.")
