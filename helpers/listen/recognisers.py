"""The recognisers, and which one is used: whisper.cpp (`whisper.py`) with the best of its models that is on disk, or
the one that needs no download (`builtin_recogniser.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.catalog import catalog
from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.text import printable
from helpers.listen import denoise

if TYPE_CHECKING:
    from helpers.listen import whisper

BUILTIN = "builtin"

Recogniser = Callable[[bytes], str]


@contextlib.contextmanager
def load(name: str, language: str, translate: bool, threads: int | None) -> Iterator[Recogniser]:
    """The loaded recogniser for a choice of options, as a function from PCM to text; notes that it is ready.

    name: a model of the catalogue, a path (it has a slash), `builtin`, or empty for the best that is on disk.
    Raises: what choose_model raises; 69 no model for the language is on this machine.
    """
    if model := choose_model(name, language, translate):
        from helpers.listen.whisper import Whisper

        # What is to be translated is not English, whatever the usual language is.
        with Whisper(model, "auto" if translate and language == "en" else language, translate, threads) as engine:
            engine.wait_until_loaded()
            stage.event("ready", recogniser=f"whisper.cpp {printable(model.path.name)}")
            yield engine.transcribe
        return
    better = catalog.default("english" if language == "en" and not translate else "multilingual").name
    if language != "en":  # to translate English into English is to write it down
        what = "the built-in recogniser hears English only"
        raise UserError(os.EX_UNAVAILABLE, what, f"Get one for other languages: ./download_model.py {better}")
    from helpers.listen.builtin_recogniser import BuiltinRecogniser

    stage.say(f"transcribe: the built-in recogniser knows few words; a better one: ./download_model.py {better}")
    builtin = BuiltinRecogniser()
    stage.event("ready", recogniser="pocketsphinx")
    yield lambda pcm: builtin.transcribe(denoise.cleaned(pcm))


def choose_model(name: str, language: str, translate: bool) -> whisper.Model | None:
    """The Whisper model to use, or None for the built-in recogniser: none that can do it was asked for, nor is here.

    Where the named one cannot do it, one that is here and can is used instead, which is said.

    Raises: UserError 64 unknown, or not a speech model; 65 damaged; 66 no such file; 69 not on this machine, or cannot
    do it and nor can any that is.
    """
    from helpers.listen import whisper

    if not name:
        return _best(language, translate)
    if name == BUILTIN:
        name, lack = "the built-in recogniser", _lack(False, True, language, translate)  # English is English already
        if not lack:
            return None
    elif "/" in name:
        model = whisper.inspect(Path(name).expanduser())
        lack = _lack(model.multilingual, model.translates, language, translate)
        if not lack:
            whisper.check(model.path)
            return model
    else:
        entry = catalog.find(name)
        if entry.kind != "whisper":
            raise UserError(os.EX_USAGE, f"{name} is not a speech model", "./download_model.py list shows them.")
        lack = _lack(entry.languages == "any", entry.translates, language, translate)
        if not lack:
            return whisper.inspect(catalog.require(name).path)
    able = _best(language, translate)
    if not able:
        remedy = f"Get one that can: ./download_model.py {catalog.default('multilingual').name}"
        raise UserError(os.EX_UNAVAILABLE, f"{name} {lack}", remedy)
    stage.say(f"transcribe: {printable(name)} {lack}; {able.path.parent.name} is used")
    return able


def _best(language: str, translate: bool) -> whisper.Model | None:
    """The default model for this, or another one of the catalogue that can do it, if one is on this machine."""
    from helpers.listen import whisper

    default = catalog.default("multilingual" if language != "en" or translate else "english")
    for entry in (default, *catalog.entries().values()):
        able = entry.kind == "whisper" and not _lack(entry.languages == "any", entry.translates, language, translate)
        if able and entry.is_present():
            return whisper.inspect(entry.path)
    return None


def _lack(multilingual: bool, translates: bool, language: str, translate: bool) -> str:
    """What keeps a model from doing what is asked; empty when nothing does."""
    if language != "en" and not multilingual:
        return "hears English only"
    return "cannot translate" if translate and not translates else ""
