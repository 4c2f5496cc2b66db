"""The recognisers, and the choice between them.

A recogniser is a module with `load(choice: Choice)`, a context manager that gives a `Recogniser`, and a line in
`RECOGNISERS`. If its models can be downloaded, the name of that line is their kind in the catalogue.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from helpers.adapt import other_forms
from helpers.catalog import catalog, ggml
from helpers.core.errors import UserError
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.listen.transcript import Transcript

log = logging.getLogger(__name__)


class Recogniser(Protocol):
    """Turns speech into text. name: for run.json; languages: `en` or `any`; translates: whether it can translate to
    English."""

    @property
    def name(self) -> str: ...

    @property
    def languages(self) -> str: ...

    @property
    def translates(self) -> bool: ...

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono), possibly none. Raises: UserError 65 if it was not understood."""
        ...


class Kind(NamedTuple):
    """title: what messages call it; languages: `en` or `any`, empty for a recogniser that needs a model, because then
    each model has its own."""

    module: str
    title: str
    languages: str = ""
    translates: bool = False


RECOGNISERS = {
    "whisper": Kind("helpers.listen.whisper", "whisper.cpp"),
    # English in English is its own translation.
    "builtin": Kind("helpers.listen.builtin_recogniser", "the built-in recogniser", "en", translates=True),
}


@dataclass(frozen=True)
class Request:
    """What is wanted. model: a model of the catalogue, a file (with a slash), a recogniser by name, or empty for the
    best one on this machine; language: a code or `auto`; threads: by default one per processor; models: the folder of
    downloaded models; vocabulary: names that the recogniser should expect."""

    model: str = ""
    language: str = "en"
    translate: bool = False
    threads: int | None = None
    models: Path = Settings.models
    vocabulary: tuple[str, ...] = ()

    def lacks(self, languages: str, translates: bool) -> str:
        """Why a recogniser or model with these abilities cannot do it; empty if it can."""
        if self.language != "en" and languages == "en":
            return "understands English only"
        return "cannot translate" if self.translate and not translates else ""


@dataclass(frozen=True)
class Choice:
    """A recogniser that can do what is asked, not loaded yet. path: of its model, None if it needs none."""

    kind: str
    path: Path | None
    language: str
    translate: bool
    threads: int | None
    vocabulary: tuple[str, ...] = ()


def load(request: Request) -> contextlib.AbstractContextManager[Recogniser]:
    """Load the recogniser that `choose` chooses; ready at the beginning of the `with` block."""
    choice = choose(request)
    module = importlib.import_module(RECOGNISERS[choice.kind].module)
    loaded: contextlib.AbstractContextManager[Recogniser] = module.load(choice)
    return loaded


def choose(request: Request) -> Choice:
    """The recogniser, and its model, for a request.

    If the named one cannot do it, one on this machine that can is used instead, and a warning says so.
    Raises: UserError 64 unknown, or not a speech model; 65 damaged; 66 no such file; 69 not on this machine, or nothing
    on this machine can do it.
    """
    models, name = catalog.read(request.models), request.model
    if not name:
        return _best_model(request, models) or _without_model(request, models)
    if (kind := RECOGNISERS.get(name)) and kind.languages:
        lack = request.lacks(kind.languages, kind.translates)
        if not lack:
            return _choice(request, name)
        name = kind.title
    elif "/" in name:
        if not Path(name).expanduser().exists():
            raise other_forms.missing(name, "whisper", models)
        model = ggml.inspect(Path(name).expanduser())
        lack = request.lacks(model.languages, model.translates)
        if not lack:
            ggml.check(model.path)
            return _choice(request, "whisper", model.path)
    else:
        entry = models.find(name)
        if entry.kind not in RECOGNISERS:
            raise UserError(
                os.EX_USAGE, f"{name} is not a speech model", "./download_model.py list shows the speech models."
            )
        lack = request.lacks(entry.languages, entry.translates)
        if not lack:
            return _choice(request, entry.kind, models.require(name).path)
    if not (able := _best_model(request, models)):
        remedy = f"Get one that can: ./download_model.py {models.default('multilingual').name}"
        raise UserError(os.EX_UNAVAILABLE, f"{name} {lack}", remedy)
    assert able.path
    log.warning("%s %s; %s is used", printable(name), lack, able.path.parent.name)
    return able


def _choice(request: Request, kind: str, path: Path | None = None) -> Choice:
    if path and kind == "whisper":
        ggml.inspect(path)  # a damaged model is refused now
    return Choice(kind, path, request.language, request.translate, request.threads, request.vocabulary)


def _best_model(request: Request, models: catalog.Catalog) -> Choice | None:
    """The default model for this, or another one of the catalogue that can do it, if one is on this machine."""
    for entry in (models.speech(request.language, request.translate), *models.entries.values()):
        able = entry.kind in RECOGNISERS and not request.lacks(entry.languages, entry.translates)
        if able and entry.is_present():
            return _choice(request, entry.kind, entry.path)
    return None


def _without_model(request: Request, models: catalog.Catalog) -> Choice:
    """A recogniser that needs no model. Raises: UserError 69 if none can do it."""
    for name, kind in RECOGNISERS.items():
        if kind.languages and not request.lacks(kind.languages, kind.translates):
            return _choice(request, name)
    better = models.speech(request.language, request.translate).name
    message, remedy = "the built-in recogniser understands English only", "Get one for other languages"
    raise UserError(os.EX_UNAVAILABLE, message, f"{remedy}: ./download_model.py {better}")
