"""CLIP's byte-pair encoding, from `vocab.json` and `merges.txt`; also returns the words that did not fit."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.adapt.checkpoint import CLIP, Checkpoint
from helpers.adapt.diffusers_folder import plain
from helpers.core.errors import UserError
from helpers.core.files import utf8_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

START, END = "<|startoftext|>", "<|endoftext|>"

# CLIP's own pattern (openai/CLIP, simple_tokenizer.py): special tokens, English endings, words, digits, the rest.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_LONGEST_WORD = 20  # characters; a longer run without a space is text in a script without spaces


class Tokens(NamedTuple):
    """The text encoder's input."""

    ids: NDArray[np.int64]  # (length,): start, text, end, padding
    cut: str  # the end of the text that did not fit, from the start of a word; "" if all fits


class Tokenizer:
    """Turns text into exactly `length` token ids, the same as transformers' CLIPTokenizer.

    folder: holds vocab.json and merges.txt. Optional tokenizer_config.json and special_tokens_map.json name the padding
    token (Stable Diffusion 1.5: the end token; 2.x: "!"). padding: the padding token if they do not. length: the text
    encoder's positions, 77 for CLIP.

    Raises:
        UserError: 69 for files that are missing or damaged.
    """

    width = 0  # of the first encoder's vectors, where there are two

    def __init__(self, folder: Path, length: int = 77, padding: str = END) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        self.length = length
        try:
            if folder == CLIP:
                vocabulary, merges = clip_vocabulary(plain(folder / "merges.txt").read_text(encoding="utf-8"))
            else:
                names = (utf8_name(plain(folder / name)) for name in ("vocab.json", "merges.txt"))
                with next(names) as words, next(names) as pairs:
                    vocabulary, merges = models.BPE.read_file(words, pairs)
            tokens = {"bos_token": START, "eos_token": END, "pad_token": padding} | _settings(folder)
            ids = [vocabulary[_text(tokens[key])] for key in ("bos_token", "eos_token", "pad_token")]
            bytes_and_merges = models.BPE(
                vocabulary, merges, unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""
            )
        except Exception as error:  # tokenizers raises plain Exception
            what = f"the tokenizer in {folder} cannot be read: {type(error).__name__}: {str(error)[:200]}"
            raise UserError(os.EX_UNAVAILABLE, what, "Fetch the model again.") from error
        self._start, self._end, self._padding = ids
        self._tokenizer = Tokenizer(bytes_and_merges)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        # As in transformers, a special token in the text is that token; with Stable Diffusion 2.x that means "!".
        self._tokenizer.add_special_tokens(sorted({self._tokenizer.id_to_token(i) for i in ids}))

    @classmethod
    def of(cls, checkpoint: Checkpoint, length: int, name: str = "tokenizer") -> Tokenizer:
        """The tokenizer called `name` of a model; raises as the class does."""
        folder, padding = checkpoint.tokenizer(name)
        return cls(folder, length, padding)

    def encode(self, text: str) -> Tokens:
        """The ids of `text` with start and end token, padded; the part that is too long is returned as `cut`."""
        pieces, room = self.pieces(text), self.length - 2
        cut = self.from_word(text, pieces[room][1]) if len(pieces) > room else ""
        return Tokens(self.framed([token for token, _ in pieces[:room]]), cut)

    def pieces(self, text: str) -> list[tuple[int, int]]:
        """The ids of `text` alone, and where in it each begins."""
        text = text.encode("utf-8", "replace").decode()  # a lone surrogate would raise an exception
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [(token, begin) for token, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)]

    def framed(self, ids: list[int]) -> NDArray[np.int64]:
        """At most `length` - 2 ids with start and end token, padded."""
        import numpy as np

        framed = [self._start, *ids, self._end]
        return np.array(framed + [self._padding] * (self.length - len(framed)), dtype=np.int64)

    @staticmethod
    def from_word(text: str, start: int) -> str:
        """`text` from the beginning of the word that contains position `start`."""
        word = len(re.sub(r"\S+$", "", text[:start]))
        return text[word if start - word < _LONGEST_WORD else start :].strip()


def clip_vocabulary(merges: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary, which follows from its merges, and these: the bytes as letters, the same at the end of a word,
    each merge, and the two special tokens (openai/CLIP, simple_tokenizer.py)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # printable; the other bytes follow, from U+0100 on
    letters = [chr(byte) for byte in shown] + [chr(256 + index) for index in range(256 - len(shown))]
    pairs = [(line.split()[0], line.split()[1]) for line in merges.splitlines()[1:]]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, pairs), START, END]
    return {word: index for index, word in enumerate(words)}, pairs


def _settings(folder: Path) -> dict[str, Any]:
    """The settings in tokenizer_config.json, overridden by special_tokens_map.json in the cases where transformers does
    so too."""
    settings: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists() and "added_tokens_decoder" not in settings:
            settings |= json.loads(plain(folder / name).read_text(encoding="utf-8"))
    return settings


def _text(token: Any) -> str:
    """In these files a special token is either a string or {"content": string, …}."""
    return str(token["content"] if isinstance(token, dict) else token)
