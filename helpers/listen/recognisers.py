"""The recognisers, and the choice between them.

A recogniser is a module with `load(choice: Choice)`, a context manager that gives a `Recogniser`, and a line in
`RECOGNISERS`. If its models can be downloaded, the name of that line is their kind in the catalogue.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from helpers.adapt import other_forms
from helpers.catalog import catalog, ct2, ggml
from helpers.core import extras
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
    each model has its own; extra: that it needs; detects: whether it can find out which language is spoken."""

    module: str
    title: str
    languages: str = ""
    translates: bool = False
    extra: str = ""
    detects: bool = True

    def is_installed(self) -> bool:
        return not self.extra or not extras.missing(self.extra)


RECOGNISERS = {
    "whisper": Kind("helpers.listen.whisper", "whisper.cpp"),
    "faster-whisper": Kind("helpers.listen.faster_whisper", "faster-whisper", extra="faster-whisper"),
    "seamless": Kind("helpers.listen.seamless", "SeamlessM4T", extra="seamless", detects=False),
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

    def lacks(self, languages: str, translates: bool, detects: bool = True) -> str:
        """Why a recogniser or model with these abilities cannot do it; empty if it can."""
        if self.language != "en" and languages == "en":
            return "understands English only"
        if self.language == "auto" and not self.translate and not detects:
            return "cannot detect the language"
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
    elif kind:
        _require(kind)
        if best := _best_model(request, models, name):
            return best
        fits = (entry for entry in models.entries.values() if entry.kind == name and not _lack(request, entry))
        remedy = f"Download one: ./download_model.py {found.name}" if (found := next(fits, None)) else ""
        raise UserError(os.EX_UNAVAILABLE, f"no model of {kind.title} on this machine can do this", remedy)
    elif "/" in name:
        path = Path(name).expanduser()
        if not path.exists():
            raise other_forms.missing(name, "whisper", models)
        recogniser, languages, translates = _inspect(path)
        lack = request.lacks(languages, translates, RECOGNISERS[recogniser].detects)
        if not lack:
            _require(RECOGNISERS[recogniser])
            if recogniser == "whisper":
                ggml.check(path)
            return _choice(request, recogniser, path)
    else:
        entry = models.find(name)
        if entry.kind not in RECOGNISERS:
            raise UserError(
                os.EX_USAGE, f"{name} is not a speech model", "./download_model.py list shows the speech models."
            )
        lack = _lack(request, entry)
        if not lack:
            _require(RECOGNISERS[entry.kind])
            return _choice(request, entry.kind, models.require(name).path)
    if not (able := _best_model(request, models)):
        remedy = f"Get one that can: ./download_model.py {models.default('multilingual').name}"
        raise UserError(os.EX_UNAVAILABLE, f"{name} {lack}", remedy)
    assert able.path
    log.warning("%s %s; %s is used", printable(name), lack, name_of(able.path))
    return able


def default_model(language: str, translate: bool, models: catalog.Catalog) -> catalog.Entry:
    """The best model for a language on this machine with the packages that are installed, whether it is here or not."""
    return _defaults(language, translate, models)[0]


def _defaults(language: str, translate: bool, models: catalog.Catalog) -> list[catalog.Entry]:
    """The default models of the recognisers on this machine, the best one first."""
    machines = [""]
    if RECOGNISERS["faster-whisper"].is_installed():
        machines.insert(0, "nvidia" if ct2.uses_nvidia() else "faster-whisper")
    return [models.speech(language, translate, machine) for machine in machines]


def _require(kind: Kind) -> None:
    """Raises: UserError 69 if a package is missing, with the command that installs it."""
    if kind.extra:
        extras.require(kind.extra)


def _lack(request: Request, entry: catalog.Entry) -> str:
    return request.lacks(entry.languages, entry.translates, RECOGNISERS[entry.kind].detects)


def _inspect(path: Path) -> tuple[str, str, bool]:
    """The recogniser of a model of the user's own, its languages, and whether it translates."""
    if not path.is_dir():
        model = ggml.inspect(path)
        return "whisper", model.languages, model.translates
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") == "seamless_m4t_v2":
            return "seamless", "any", True
    return ("faster-whisper", *ct2.inspect(path))


def name_of(path: Path) -> str:
    """What messages call the model at `path`."""
    return path.name if path.is_dir() else path.parent.name


def _choice(request: Request, kind: str, path: Path | None = None) -> Choice:
    if path and kind == "whisper":
        ggml.inspect(path)  # a damaged model is refused now
    elif path and kind == "faster-whisper":
        ct2.inspect(path)
    return Choice(kind, path, request.language, request.translate, request.threads, request.vocabulary)


def _best_model(request: Request, models: catalog.Catalog, kind: str = "") -> Choice | None:
    """The default model for this, or another one of the catalogue that can do it, if one is on this machine.

    kind: of one recogniser only. On an NVIDIA GPU, any model of faster-whisper, the largest first, comes before others.
    """
    entries = list(models.entries.values())
    order = [*_defaults(request.language, request.translate, models), *entries]
    if RECOGNISERS["faster-whisper"].is_installed() and ct2.uses_nvidia():
        quick = [entry for entry in reversed(entries) if entry.kind == "faster-whisper"]
        order = [order[0], *quick, *order[1:]]
    for entry in order:
        able = entry.kind == kind if kind else entry.kind in RECOGNISERS and RECOGNISERS[entry.kind].is_installed()
        if able and not _lack(request, entry) and entry.is_present():
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
