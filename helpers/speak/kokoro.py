"""Kokoro-82M (Apache-2.0) as an ONNX file, computed by OpenVINO: `FOLDER/onnx/*.onnx` or `FOLDER/*.onnx`.

The symbols are in `tokenizer.json` or `config.json`. Each speaker is a file in `voices/`: 510 × 256 numbers (float32),
one row for each number of phonemes.

    https://huggingface.co/hexgrad/Kokoro-82M, https://huggingface.co/onnx-community/Kokoro-82M-v1.0-ONNX
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from os import EX_DATAERR, EX_USAGE
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.core.text import printable
from helpers.speak import network
from helpers.speak.phonemes import phonemes, sentences
from helpers.speak.voice import Choice

RATE = 24_000
_MOST = 510  # phonemes at once
_WIDTH = 256
# The first letter of a speaker's name says its language; eSpeak's voice for it. Japanese (j) and Chinese (z) need
# phonemes that eSpeak does not have.
LANGUAGES = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "h": "hi", "i": "it", "p": "pt-br"}
# Kokoro was trained with one sign for each of these sounds of English (misaki's notation); eSpeak writes two.
_ENGLISH = {"eɪ": "A", "aɪ": "I", "aʊ": "W", "ɔɪ": "Y", "dʒ": "ʤ", "tʃ": "ʧ", "ɚ": "əɹ", "ɐ": "ə", "r": "ɹ"}
_BRANCHES = {"a": {"oʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": ""}, "b": {"əʊ": "Q", "e͡ə": "ɛː"}}


def speakers(folder: Path) -> list[str]:
    """The speakers that are in a folder."""
    return sorted(path.stem for path in (folder / "voices").glob("*.bin"))


def speaks(speaker: str) -> str:
    """The language of a speaker, by its name; empty for one that we cannot give phonemes."""
    return LANGUAGES.get(speaker[:1], "").split("-")[0] if re.fullmatch(r"[a-z][fm]_\w+", speaker) else ""


def choose_speaker(folder: Path, language: str) -> str:
    """The speaker for a language; empty if none is here. af_heart is the best one, by the model's own page."""
    able = [speaker for speaker in speakers(folder) if speaks(speaker) == language]
    return "af_heart" if "af_heart" in able else next(iter(able), "")


class Kokoro:
    rate = RATE

    def __init__(self, choice: Choice) -> None:
        """Raises: UserError 64 for an unknown speaker, 65 damaged."""
        assert choice.path
        folder, self._speaker = choice.path, choice.speaker
        if self._speaker not in speakers(folder):
            names = ", ".join(speakers(folder)[:20])
            raise UserError(
                EX_USAGE, f"{choice.name} has no speaker {printable(choice.speaker)[:60]!r}", f"It has: {names}."
            )
        self.name, self.language = choice.name, choice.language
        self._symbols = _symbols(folder)
        self._styles = _styles(folder / "voices" / f"{self._speaker}.bin")
        files = sorted([*folder.glob("onnx/*.onnx"), *folder.glob("*.onnx")])
        if not files:
            raise UserError(
                EX_DATAERR, f"there is no ONNX file in {printable(str(folder))}", "Download the voice again."
            )
        self._network = network.load(files[0], {"style", "speed"})
        self._ids_name = "tokens" if "tokens" in self._network.inputs else "input_ids"

    def say(self, text: str, speed: float = 1.0) -> Iterator[bytes]:
        branch = self._speaker[0]
        for sentence in sentences(text, self.language):
            spoken = as_trained(phonemes(sentence, LANGUAGES[branch]), branch)
            for ids in _pieces(
                [self._symbols[sign] for sign in spoken if sign in self._symbols], self._symbols.get(" ")
            ):
                inputs: dict[str, NDArray[Any]] = {
                    self._ids_name: np.array([[0, *ids, 0]], np.int64),
                    "style": self._styles[len(ids) - 1][None],
                    "speed": np.array([speed], np.float32),
                }
                samples = self._network(*(inputs[name] for name in self._network.inputs))[0]
                yield network.pcm(samples.ravel())


def as_trained(spoken: str, branch: str) -> str:
    """eSpeak's phonemes in the notation of the training; other languages than English have eSpeak's own."""
    if branch not in _BRANCHES:
        return spoken
    for theirs, ours in (_ENGLISH | _BRANCHES[branch]).items():
        spoken = spoken.replace(theirs, ours)
    return spoken


def _pieces(ids: list[int], space: int | None) -> Iterator[list[int]]:
    """At most _MOST symbols at once, cut at spaces where there are some."""
    while len(ids) > _MOST:
        at = max((i for i in range(_MOST) if ids[i] == space), default=_MOST - 1) + 1
        yield ids[:at]
        ids = ids[at:]
    if ids:
        yield ids


def _symbols(folder: Path) -> dict[str, int]:
    for name in ("tokenizer.json", "config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            vocabulary = found["model"]["vocab"] if "model" in found else found["vocab"]
            return {str(symbol): int(number) for symbol, number in vocabulary.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    message = f"no list of symbols in {printable(str(folder))}: neither tokenizer.json nor config.json has one"
    raise UserError(EX_DATAERR, message, "Download the voice again.")


def _styles(path: Path) -> NDArray[np.float32]:
    try:
        values = np.fromfile(path, "<f4")
    except OSError as error:
        raise UserError(EX_DATAERR, f"cannot read {printable(str(path))}", "Download the voice again.") from error
    if values.size != _MOST * _WIDTH or not np.isfinite(values).all():
        raise UserError(EX_DATAERR, f"{printable(path.name)} is no speaker of Kokoro", "Download the voice again.")
    return values.reshape(_MOST, _WIDTH)
