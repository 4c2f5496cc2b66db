"""Piper's voices (VITS): an ONNX file and `FILE.onnx.json` beside it. OpenVINO computes them; no piper-tts is needed.

Inputs, symbols and scales: https://github.com/rhasspy/piper, its voices' configuration files. The scales of the
noise are 0: the same text always sounds the same, and a script that goes on after a break has no seam.
"""

from __future__ import annotations

import json
import unicodedata
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

BEGIN, END, PAD = "^", "$", "_"
_PAUSE = 0.2  # seconds after a sentence, as Piper has it


def configuration(path: Path) -> dict[str, Any]:
    """What `FILE.onnx.json` says. Raises: UserError 65 if it is missing, damaged, or of another kind of voice."""
    file = path.with_name(f"{path.name}.json")
    remedy = f"A Piper voice has two files: put {printable(file.name)} beside it."
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        symbols = {str(symbol): [int(number) for number in ids] for symbol, ids in found["phoneme_id_map"].items()}
        speakers = {str(name): int(number) for name, number in found.get("speaker_id_map", {}).items()}
        return {
            "rate": int(found["audio"]["sample_rate"]),
            "espeak": str(found["espeak"]["voice"]),
            "length": float(found["inference"]["length_scale"]),
            "symbols": {symbol: symbols[symbol] for symbol in (BEGIN, END, PAD)} | symbols,
            "several": int(found.get("num_speakers", 1)) > 1,
            "speakers": speakers,
        }
    except OSError as error:
        raise UserError(EX_DATAERR, f"{printable(file.name)} is missing or cannot be read", remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(EX_DATAERR, f"{printable(file.name)} does not describe a Piper voice", remedy) from error


def language(path: Path) -> str:
    """The language of a voice: eSpeak's `en-us` is `en`."""
    return str(configuration(path)["espeak"]).split("-")[0]


class Piper:
    def __init__(self, choice: Choice) -> None:
        """Raises: UserError 64 for an unknown speaker, 65 damaged."""
        assert choice.path
        self._config = configuration(choice.path)
        self.name, self.language, self.rate = choice.name, choice.language, self._config["rate"]
        speakers = self._config["speakers"]
        if choice.speaker and choice.speaker not in speakers:
            known = ", ".join(list(speakers)[:20])
            raise UserError(
                EX_USAGE, f"{self.name} has no speaker {printable(choice.speaker)[:60]!r}", f"It has: {known or 'one'}."
            )
        self._speaker = speakers.get(choice.speaker, 0)
        self._network = network.load(choice.path, {"input", "input_lengths", "scales"})

    def say(self, text: str, speed: float = 1.0) -> Iterator[bytes]:
        for sentence in sentences(text, self.language):
            ids = self._ids(phonemes(sentence, self._config["espeak"]))
            inputs: dict[str, NDArray[Any]] = {
                "input": np.array([ids], np.int64),
                "input_lengths": np.array([len(ids)], np.int64),
                "scales": np.array([0, self._config["length"] / speed, 0], np.float32),
                "sid": np.array([self._speaker], np.int64),
            }
            [samples] = self._network(*(inputs[name] for name in self._network.inputs))
            yield network.pcm(samples.ravel()) + bytes(2 * int(_PAUSE * self.rate))

    def _ids(self, spoken: str) -> list[int]:
        """Symbols that the voice does not know are left out; between all others is a pad."""
        symbols = self._config["symbols"]
        ids = [*symbols[BEGIN], *symbols[PAD]]
        for symbol in unicodedata.normalize("NFD", spoken):
            if symbol in symbols:
                ids += [*symbols[symbol], *symbols[PAD]]
        return [*ids, *symbols[END]]
