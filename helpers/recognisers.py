"""The recognisers, and which one is used: whisper.cpp (helpers.whisper) with the best of its models that is on disk,
or the one that needs no download (helpers.builtin_recogniser).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import catalog, stage
from helpers.stage import StageError

if TYPE_CHECKING:
    from helpers import whisper

BUILTIN = "builtin"

Recogniser = Callable[[bytes], str]


@contextlib.contextmanager
def load(name: str, language: str, translate: bool, threads: int | None) -> Iterator[Recogniser]:
    """The loaded recogniser for a choice of options, as a function from PCM to text; notes that it is ready.

    name: a model of the catalogue, a path (it has a slash), `builtin`, or empty for the best that is on disk.
    Raises: StageError 64 a model that cannot do what is asked; 65 damaged; 69 not on this machine.
    """
    if name != BUILTIN and (model := choose_model(name, language, translate)):
        from helpers.whisper import Whisper

        with Whisper(model, language, translate, threads) as engine:
            engine.wait_until_loaded()
            stage.event("transcribe", "ready", recogniser=f"whisper.cpp {model.path.name}")
            yield engine.transcribe
        return
    better = catalog.default("english" if language == "en" and not translate else "multilingual").name
    if language != "en":  # to translate English into English is to write it down
        what = "the built-in recogniser hears English only"
        raise StageError(os.EX_UNAVAILABLE, what, f"Get one for other languages: ./download_model.py {better}")
    from helpers.builtin_recogniser import BuiltinRecogniser

    stage.say(f"transcribe: the built-in recogniser knows few words; a better one: ./download_model.py {better}")
    builtin = BuiltinRecogniser()
    stage.event("transcribe", "ready", recogniser="pocketsphinx")
    yield builtin.transcribe


def choose_model(name: str, language: str, translate: bool) -> whisper.Model | None:
    """The Whisper model to use, or None when none was asked for and none that can do it is on disk.

    Raises: StageError 64 unknown, not a speech model, or one that cannot do it; 65 damaged; 66 no such file;
    69 not on this machine.
    """
    from helpers import whisper

    other = language != "en"
    if "/" in name:
        model = whisper.inspect(Path(name).expanduser())
        _check_ability(name, model.multilingual, model.translates, language, translate)
        return model
    if name:
        entry = catalog.find(name)
        if entry.kind != "whisper":
            raise StageError(os.EX_USAGE, f"{name} is not a speech model", "./download_model.py list shows them.")
        _check_ability(name, entry.languages == "any", entry.translates, language, translate)
        return whisper.inspect(catalog.require(name).path)
    default = catalog.default("multilingual" if other or translate else "english")
    able = [e for e in catalog.entries().values() if e.kind == "whisper" and (e.languages == "any" or not other)]
    for entry in (default, *able):
        if (entry.translates or not translate) and entry.is_present():
            return whisper.inspect(entry.path)
    return None


def _check_ability(name: str, multilingual: bool, translates: bool, language: str, translate: bool) -> None:
    if language != "en" and not multilingual:
        what = f"{name} hears English only"
    elif translate and not translates:
        what = f"{name} cannot translate"
    else:
        return
    raise StageError(os.EX_USAGE, what, f"Use one that can: --whisper {catalog.default('multilingual').name}")
