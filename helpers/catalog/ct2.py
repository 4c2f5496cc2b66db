"""Whisper models as CTranslate2 loads them: a folder, as faster-whisper's converter makes it.

languages, translates = ct2.inspect(folder)      # UserError 65 if it is no such model
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from helpers.catalog import ggml
from helpers.core import extras, nvidia_driver
from helpers.core.errors import UserError

_FILES = ("model.bin", "config.json", "tokenizer.json")
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
_ENGLISH_ONLY = 51864  # tokens; multilingual models have one or two more
_LARGE_V3 = 51866  # tokens of large-v3 and of what was made of it


class Model(NamedTuple):
    """The abilities of a model folder: languages is `en` or `any`, as in the catalogue."""

    languages: str
    translates: bool


def inspect(folder: Path) -> Model:
    """The abilities of the CTranslate2 model in `folder`. Raises: UserError 65 if it is none."""
    try:
        vocabulary = next(folder / name for name in _VOCABULARIES if (folder / name).is_file())
        if not all((folder / name).is_file() for name in _FILES):
            raise ValueError
        text = vocabulary.read_text(encoding="utf-8")
        tokens = len(json.loads(text)) if vocabulary.suffix == ".json" else text.count("\n")
        heads = json.loads((folder / "config.json").read_text(encoding="utf-8"))["alignment_heads"]
        layers = 1 + max(layer for layer, _ in heads)
    except (StopIteration, OSError, ValueError, KeyError, TypeError) as error:
        message = f"{folder} is not a Whisper model for CTranslate2"
        raise UserError(os.EX_DATAERR, message, ggml.remedy(folder / "model.bin")) from error
    # The turbo and distilled models of large-v3 have 4 and 2 decoder layers, and were not trained to translate.
    small = tokens == _LARGE_V3 and layers <= 4
    return Model("any" if tokens > _ENGLISH_ONLY else "en", tokens > _ENGLISH_ONLY and not small)


def uses_nvidia() -> bool:
    """Whether it computes on an NVIDIA GPU: there is a driver, and the extra with CUDA's library."""
    return nvidia_driver.is_loaded() and not extras.missing("faster-whisper-nvidia")
