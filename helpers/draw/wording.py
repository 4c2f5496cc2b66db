"""A prompt as the text encoder reads it: in chunks of its length, with a weight for each token.

A prompt that is longer than the encoder is encoded piece by piece, and the UNet attends to all pieces, as in
AUTOMATIC1111's web UI (modules/sd_hijack_clip.py): 75 tokens each; where a comma is among the last 20 of a full chunk,
what follows it goes into the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.words.emphasis import BREAK, parse

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine
    from helpers.draw.job import Job
    from helpers.draw.tokenizer import Tokenizer
    from helpers.words.closed_world import World

_BACK = 20  # tokens
_KEPT = 8  # embeddings


class Chunk(NamedTuple):
    """The text encoder's input, and the weight of each of its tokens."""

    ids: NDArray[np.int64]  # (length,), or (2, length) for Stable Diffusion XL
    weights: Array  # (length,)


class _Token(NamedTuple):
    id: int
    weight: float
    place: tuple[int, int]  # its piece, and where it begins in that


def chunks(tokenizer: Tokenizer, pieces: Sequence[tuple[str, float]], most: int = 1) -> tuple[list[Chunk], str]:
    """The chunks of a prompt, at least one and at most `most`; and the end of the text that did not fit, or ""."""
    room = tokenizer.length - 2
    comma = next((token for token, _ in tokenizer.pieces(",")), -1)
    filled: list[list[_Token]] = [[]]
    for number, (text, weight) in enumerate(pieces):
        if (text, weight) == BREAK:
            if most > 1:
                filled.append([])
            continue
        for token, begin in tokenizer.pieces(text):
            if len(filled[-1]) == room:
                filled.append(_moved(filled[-1], comma, token) if most > 1 else [])
            filled[-1].append(_Token(token, weight, (number, begin)))
    if len(filled) > 1 and not filled[-1]:
        filled.pop()
    kept = [_chunk(tokenizer, tokens) for tokens in filled[:most]]
    lost = next((token for tokens in filled[most:] for token in tokens), None)
    if not lost:
        return kept, ""
    number, begin = lost.place
    rest = tokenizer.from_word(pieces[number][0], begin)
    following = (text.strip() for text, weight in pieces[number + 1 :] if (text, weight) != BREAK)
    return kept, " ".join(filter(None, (rest, *following)))


def encode(engine: Engine, wanted: Sequence[Chunk], count: int) -> Array:
    """The embedding of a prompt, (1, count * length, width), for Stable Diffusion XL with the pooled row at its end;
    count: chunks, not fewer than are given: the others are empty."""
    two = np.ndim(wanted[0].ids) > 1
    parts, pooled = [], []
    for index in range(count):
        if index < len(wanted):
            encoded = engine.encode_text(wanted[index].ids)
            weights = wanted[index].weights
        else:
            encoded, weights = engine.encode_text(engine.tokenizer.encode("").ids), np.ones(0, np.float32)
        hidden = encoded[:, :-1] if two else encoded
        pooled.append(encoded[:, -1:])
        widths = (engine.tokenizer.width,) if two else ()
        parts.append(_weighted(hidden, weights, widths))
    if count == 1 and not two:
        return parts[0]
    return np.ascontiguousarray(np.concatenate([*parts, *(pooled[:1] if two else [])], axis=1))


class Embeddings:
    """The embeddings of the last prompts of one model: the negative one is nearly always the same."""

    def __init__(self, world: World | None, most: int) -> None:
        """world: the model's, if it has a closed one. most: chunks of a prompt."""
        self.most = most
        self._world, self._known = world, dict[tuple[object, ...], "Array"]()

    def reads(self, job: Job, typed: bool) -> bool:
        """Whether emphasis is read: in what was typed, unless it is ordinary text or the model has a closed world."""
        return typed and not job.plain and not self._world

    def of(self, engine: Engine, job: Job) -> tuple[Array, Array | None]:
        """The embeddings of a resolved job's prompt and, where it has an effect, of its negative prompt, both with the
        same number of chunks."""
        wanted = [(self._world.read(job.prompt).text if self._world else job.prompt, self.reads(job, job.typed))]
        if (job.guidance or 0) > 1:
            wanted.append((job.negative, self.reads(job, True)))
        parts = [self._chunks(engine, *one) for one in wanted]
        count = max(map(len, parts))
        encoded = []
        for one, chunked in zip(wanted, parts, strict=True):
            key = (*one, count)
            if key not in self._known:
                while len(self._known) >= _KEPT:
                    del self._known[next(iter(self._known))]
                self._known[key] = encode(engine, chunked, count)
            self._known[key] = self._known.pop(key)  # moved to the end: the last to be dropped
            encoded.append(self._known[key])
        return encoded[0], encoded[1] if len(encoded) > 1 else None

    def clear(self) -> None:
        """Forget all: another engine makes others."""
        self._known.clear()

    def _chunks(self, engine: Engine, text: str, emphatic: bool) -> list[Chunk]:
        return chunks(engine.tokenizer, parse(text) if emphatic else [(text, 1.0)], self.most)[0]


def _moved(full: list[_Token], comma: int, following: int) -> list[_Token]:
    """The tokens after the last comma, taken out of a full chunk if it is near its end."""
    last = next((index for index in range(len(full) - 1, -1, -1) if full[index].id == comma), -1)
    if last < 0 or len(full) - last > _BACK or following == comma:
        return []
    rest = full[last + 1 :]
    del full[last + 1 :]
    return rest


def _chunk(tokenizer: Tokenizer, tokens: list[_Token]) -> Chunk:
    weights = np.ones(tokenizer.length, np.float32)
    weights[1 : len(tokens) + 1] = [token.weight for token in tokens]
    return Chunk(tokenizer.framed([token.id for token in tokens]), weights)


def _weighted(hidden: Array, weights: Array, widths: tuple[int, ...]) -> Array:
    """Each token's vector times its weight; then the mean is made what it was, for each encoder's part of the width."""
    if (weights == 1).all():
        return hidden
    scaled = []
    for part in np.split(hidden, widths, axis=2):
        changed = part * weights[None, :, None]
        scaled.append(changed * (part.mean() / changed.mean()))
    return np.concatenate(scaled, axis=2, dtype=np.float32)
