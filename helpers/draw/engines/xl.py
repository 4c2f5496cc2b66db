"""Stable Diffusion XL's additional inputs: a second text encoder, a pooled prompt embedding, the picture's sizes.

Text embeddings are passed as one array, (n, length + 1, width): the last row is the pooled embedding, zero-padded.
Podell et al. 2023, https://arxiv.org/abs/2307.01952.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.draw.tokenizer import Tokenizer, Tokens

if TYPE_CHECKING:
    from helpers.draw.engines import Array


class BothTokenizers(Tokenizer):
    """The tokenizers of the two text encoders, which pad differently: ids are (2, length).

    width: of the first encoder's vectors; 768 in all models of XL.
    """

    def __init__(self, first: Tokenizer, second: Tokenizer, width: int = 768) -> None:
        self.length, self.width, self._both = first.length, width, (first, second)

    def encode(self, text: str) -> Tokens:
        first, second = (tokenizer.encode(text) for tokenizer in self._both)
        return first._replace(ids=np.stack([first.ids, second.ids]))

    def pieces(self, text: str) -> list[tuple[int, int]]:
        return self._both[0].pieces(text)

    def framed(self, ids: list[int]) -> NDArray[np.int64]:
        return np.stack([tokenizer.framed(ids) for tokenizer in self._both])


def packed(first: Array, second: Array, pooled: Array) -> Array:
    """(1, length, width) of each encoder, pooled (1, anything up to the sum of the widths) → one array."""
    hidden = np.concatenate([first, second], axis=2)
    row = np.zeros((1, 1, hidden.shape[2]), np.float32)
    row[0, 0, : pooled.shape[1]] = pooled[0]
    return np.concatenate([hidden, row], axis=1)


def unpacked(text: Array, pooled: int) -> tuple[Array, Array]:
    """The hidden states, (n, length, width), and the pooled embeddings, (n, pooled), from `packed`."""
    return text[:, :-1], text[:, -1, :pooled]


def end(tokens: NDArray[np.int64], config: Mapping[str, Any]) -> int:
    """The position of the token whose projected hidden state is the pooled embedding, as transformers' CLIPTextModel
    finds it. tokens: int64 (length,); config: of the second text encoder."""
    last = config.get("eos_token_id", 2)  # 2 stands in old configurations, and is not the end
    return int(tokens.argmax() if last == 2 else (tokens == last).argmax())


def time_ids(size: tuple[int, int]) -> list[int]:
    """Section 2.2: original size, crop position and target size, each as height and width."""
    width, height = size
    return [height, width, 0, 0, height, width]
