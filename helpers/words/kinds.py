"""What kind of thing a prompt shows: a small classifier of words (training/prompt_kinds.py makes kinds.npz).

    kind_of("a dog in front of a house")     # ("animal", 0.99)

It looks at the word that the prompt is about (`head`), at its ending, and at the other words: three tables of weights.
The nouns are WordNet's (models/builtin/wordnet-license.txt).
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("kinds.npz")
KINDS = (
    "person", "animal", "food", "plant", "vehicle", "building", "interior", "landscape", "clothing", "fantasy",
    "object", "abstract",
)  # fmt: skip
ENDINGS = 2048  # rows of the table of endings
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
# Words after which a noun phrase is over.
_BREAKS = frozenset(
    """with in on at by near next over under behind beside through from to into for and or while who that which is are
    was were has have as like about above below inside around against without between across during before after off out
    up down made seen shown""".split()  # noqa: SIM905
)
_ARTICLES = frozenset({"a", "an", "the", "two", "three", "four", "five", "several", "some", "my", "his", "her", "its"})
# Nouns that say how much there is, what it is in, or what shows it: "a bowl of soup" is about soup.
_AROUND = frozenset(
    """bowl cup glass bottle pair group crowd photo photograph painting picture drawing portrait sketch image view slice
    piece pile bunch set plate pint pitcher pot herd flock series selfie shot closeup up couple lot dozen kind type
    basket box bouquet shoal can jar mug eye face tail head inside cartoon comic illustration bundle row heap stack
    print""".split()  # noqa: SIM905
)
_COLOURS = frozenset("red green blue yellow orange purple pink black white grey gray brown old big small".split())  # noqa: SIM905


class Model(NamedTuple):
    """words: {word: its row}; head, other: (words, kinds); ending: (ENDINGS, kinds); bias: (kinds,)."""

    words: dict[str, int]
    head: NDArray[np.float32]
    other: NDArray[np.float32]
    ending: NDArray[np.float32]
    bias: NDArray[np.float32]


class Features(NamedTuple):
    """The words of a prompt as the classifier sees them."""

    head: str
    others: list[str]
    endings: list[int]


def features(prompt: str) -> Features:
    plain = re.sub(r"\bclose[- ]up\b", "closeup", prompt.casefold().replace("’", "'"))
    words = [singular(word) for word in _WORD.findall(plain)]
    while words and words[0] in _ARTICLES:
        del words[0]
    end = _end(words)
    while "of" in words[:end]:
        at = words.index("of", 0, end)
        if at and words[at - 1] not in _AROUND:
            end = at
        else:
            words = words[at + 1 :]
            while words and words[0] in _ARTICLES:
                del words[0]
            end = _end(words)
    head = words[end - 1] if end else ""
    others = [word for at, word in enumerate(words) if at != end - 1]
    return Features(head, others, [_row(head[-size:]) for size in (3, 4, 5)])


def _end(words: list[str]) -> int:
    """Where the first noun phrase ends."""
    for at, word in enumerate(words):
        if not at:
            continue
        before = words[at - 1]
        if word in _ARTICLES and before != "of":  # "a bird gives an apple"
            return at - 1 if at > 1 else at
        if word in _BREAKS and not (word == "and" and before in _COLOURS):
            return at
        if before not in _COLOURS and word not in _NOUNS and re.fullmatch("[a-z]{2,}ing|[a-z]{3,}ed", word):
            return at
    return len(words)


_NOUNS = frozenset(
    """building painting clothing lightning ceiling drawing evening morning wedding feeling king ring wing string spring
    red bed seed shed weed bread stained surprised""".split()  # noqa: SIM905
)


def _row(ending: str) -> int:
    return zlib.crc32(ending.encode()) % ENDINGS


def singular(word: str) -> str:
    """A word without the ending of the plural."""
    irregular = {"children": "child", "people": "person", "men": "man", "women": "woman", "mice": "mouse"}
    irregular |= {"wolves": "wolf", "leaves": "leaf", "feet": "foot", "geese": "goose", "shelves": "shelf"}
    if word in irregular:
        return irregular[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search("(?:s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def scores(model: Model, prompt: str) -> NDArray[np.float32]:
    """The probability of each kind."""
    seen = features(prompt)
    total = model.bias.copy()
    if seen.head in model.words:
        total += model.head[model.words[seen.head]]
    total += model.ending[seen.endings].sum(0)
    total += sum((model.other[model.words[word]] for word in seen.others if word in model.words), np.float32(0))
    total = np.exp(total - total.max())
    return np.asarray(total / total.sum(), np.float32)


@lru_cache
def load(file: Path = FILE) -> Model:
    with np.load(file) as data:
        words = data["words"].tobytes().decode().split("\n")
        tables = [data[name].astype(np.float32) * data["scale"] for name in ("head", "other", "ending", "bias")]
    return Model({word: row for row, word in enumerate(words)}, *tables)


def kind_of(prompt: str) -> tuple[str, float]:
    """One of KINDS, and its probability."""
    found = scores(load(), prompt)
    best = int(found.argmax())
    return KINDS[best], float(found[best])
