"""The voices, and the choice between them.

    with voices.load(Request("piper-joe")) as voice: ...

A voice is called `NAME` or `NAME:SPEAKER`: one of the catalogue (`piper-joe`, `kokoro:af_heart`), a program of the
machine (`espeak-ng:en-gb`, `say:Anna`), or with a slash a path: a Piper voice (`./joe.onnx`), Kokoro's folder, or a
program of the user's own, which reads text on stdin and writes a WAV file on stdout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from helpers.catalog import catalog
from helpers.core.errors import UserError
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.speak import kokoro, piper, programs
from helpers.speak.programs import PROGRAMS, ProgramVoice
from helpers.speak.voice import ANOTHER, Choice, Voice

OWN = "own"  # the kind of a program of the user's own


@dataclass(frozen=True)
class Request:
    """What is wanted. name: a voice, empty for the best one here; language: a code such as `en`; models: the folder of
    downloaded models."""

    name: str = ""
    language: str = "en"
    models: Path = Settings.models


class Listed(NamedTuple):
    """A line of the list of voices."""

    name: str
    language: str
    about: str
    here: bool


def load(request: Request) -> Voice:
    """Raises: what `choose` raises; UserError 65 if the voice is damaged."""
    choice = choose(request)
    if choice.kind == "piper":
        return piper.Piper(choice)
    if choice.kind == "kokoro":
        return kokoro.Kokoro(choice)
    return ProgramVoice(choice)


def choose(request: Request) -> Choice:
    """Raises: UserError 64 for an unknown voice or speaker, 65 damaged, 66 no such file, 69 not on this machine or not
    in this language."""
    name, _, speaker = request.name.partition(":") if "/" not in request.name else (request.name, "", "")
    if not name:
        return _best(request)
    if "/" in name:
        return _of_path(Path(name).expanduser(), request.language)
    if name in PROGRAMS:
        return programs.choose(name, speaker, request.language)
    models = catalog.read(request.models)
    entry = models.find(name, ["voice"])
    if entry.kind != "voice":
        raise UserError(os.EX_USAGE, f"{name} is not a voice", "python -m helpers.speak --list shows the voices.")
    return _of_entry(models.require(name), speaker, request.language)


def _best(request: Request) -> Choice:
    """A downloaded voice in this language, or a program of the machine."""
    for entry in catalog.read(request.models).entries.values():
        if entry.kind == "voice" and entry.is_present() and request.language in _languages(entry):
            return _of_entry(entry, "", request.language)
    for name in PROGRAMS:
        if programs.is_here(name) and request.language in PROGRAMS[name].speaks():
            return programs.choose(name, "", request.language)
    raise UserError(
        os.EX_UNAVAILABLE,
        f"no voice on this machine speaks {request.language}",
        "Install espeak-ng, which speaks most languages, or download a voice: python -m helpers.speak --list",
    )


def _languages(entry: catalog.Entry) -> set[str]:
    if (entry.folder / "voices").is_dir():
        return {kokoro.speaks(speaker) for speaker in kokoro.speakers(entry.folder)} - {""}
    return {entry.languages}


def _of_entry(entry: catalog.Entry, speaker: str, language: str) -> Choice:
    if (entry.folder / "voices").is_dir():
        return _of_kokoro(entry.folder, entry.name, speaker, language)
    [file] = [entry.folder / file.path for file in entry.files if file.path.endswith(".onnx")]
    return Choice("piper", entry.name, entry.languages, file, speaker)


def _of_kokoro(folder: Path, name: str, speaker: str, language: str) -> Choice:
    speaker = speaker or kokoro.choose_speaker(folder, language)
    if not speaker:
        raise UserError(os.EX_UNAVAILABLE, f"{name} has no speaker for {language}", ANOTHER)
    return Choice("kokoro", name, kokoro.speaks(speaker) or language, folder, speaker)


def _of_path(path: Path, language: str) -> Choice:
    name = printable(path.name)
    if not path.exists():
        raise UserError(os.EX_NOINPUT, f"there is no {printable(str(path))}", "Name a file that is there.")
    if (path / "voices").is_dir():
        return _of_kokoro(path, name, "", language)
    if path.suffix == ".onnx":
        return Choice("piper", name, piper.language(path), path)
    if path.is_file() and os.access(path, os.X_OK):
        return Choice(OWN, name, language, path)
    remedy = "It takes a Piper voice (.onnx), Kokoro's folder, or a program that writes a WAV file."
    raise UserError(os.EX_DATAERR, f"{name} is not a voice", remedy)


def listed(request: Request) -> Iterator[Listed]:
    """Every voice: those of the catalogue, here or not, and the programs of this machine."""
    for entry in catalog.read(request.models).entries.values():
        if entry.kind == "voice":
            about = f"{entry.about} ({entry.license}, {entry.bytes / 1e6:.0f} MB)"
            yield Listed(entry.name, entry.languages, about, entry.is_present())
    for name, program in PROGRAMS.items():
        if programs.is_here(name):
            languages = sorted({code.split("-")[0] for code in program.speaks()})
            shown = " ".join(languages) if len(languages) < 6 else f"{len(languages)} languages"
            yield Listed(name, shown, "a program of this machine", True)
