"""The model catalogue (models/catalog.toml): sources, requirements, and which models are on this machine.

    models = catalog.read(settings.models)     # settings.models: the folder of downloaded models
    models.find("base.en-q5_1")                # UserError 64 with similar names if there is no such model
    models.default("filter")                   # the model for a role: filter, speakers, or an engine's name
    models.speech("de", translate=False)       # the default speech model for a language
    models.require("base.en-q5_1")             # the entry if it is installed, otherwise UserError 69 with the command
    entry.is_present(); entry.path             # whether all its files exist; the file or folder to load

`python -m helpers.catalog.catalog` prints the table of docs/models.md.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from helpers.catalog import archive, lock
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.core.text import printable

CATALOG = ROOT / "models" / "catalog.toml"
SPEECH = ("whisper", "faster-whisper", "seamless")  # the recognisers that need a model
KINDS = (*SPEECH, "image", "decoder", "filter", "speakers", "voice")
# besides these, any engine and any recogniser may have a default model
ROLES = ("english", "multilingual", "filter", "speakers", "builtin")
_KEYS = {
    *("kind", "about", "license", "memory_mb", "engines", "languages", "translates", "source", "files", "folder"),
    "draws",
}


class Source(NamedTuple):
    """A hub repository at a pinned revision (a full commit hash); "": the one of the first download (`lock`)."""

    repo: str
    revision: str


class File(NamedTuple):
    """One file of a model. `sha256` is empty if the catalogue pins no hash: the first download is then checked against
    the hub's own hash, and later ones against the first (`lock`). `exact`: whether `bytes` is exact, not rounded."""

    path: str
    bytes: int
    exact: bool
    sha256: str

    def fits(self, folder: Path) -> bool:
        """Whether the file is in `folder` with the right size."""
        try:
            size = (folder / self.path).stat().st_size
        except OSError:
            return False
        return size == self.bytes if self.exact else size > 0


class Entry(NamedTuple):
    """One model. `languages` is `en` or `any` for speech models and empty for others; `memory_mb` in megabytes."""

    name: str
    kind: str
    about: str
    license: str
    memory_mb: int
    engines: tuple[str, ...]
    languages: str
    translates: bool
    sources: tuple[Source, ...]
    files: tuple[File, ...]
    shipped: str
    models: Path  # the folder of downloaded models
    draws: Mapping[str, Any] = {}  # sampler, steps and guidance of an image model that others would not suit

    @property
    def folder(self) -> Path:
        """Where its files are, or would be."""
        return ROOT / self.shipped if self.shipped else self.models / self.name

    @property
    def is_archive(self) -> bool:
        """Whether it is published as one zip archive. `folder` then has its files, but not the archive itself."""
        return any(file.path.endswith(".zip") for file in self.files)

    @property
    def path(self) -> Path:
        """The path to load: the file of a one-file model, otherwise the folder."""
        return self.folder / self.files[0].path if len(self.files) == 1 and not self.is_archive else self.folder

    @property
    def bytes(self) -> int:
        """Size of the published files (the archive, not its content), or of the shipped folder."""
        if self.shipped:
            return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        return sum(file.bytes for file in self.files)

    def contents(self) -> tuple[File, ...]:
        """The files that a complete `folder` has. Raises: OSError for an archive that was not unpacked, ValueError if
        its list or its lock file is damaged or it is not the archive that the catalogue pins."""
        files = lock.locked(self).files
        if not self.is_archive:
            return files
        sha256, parts = archive.contents(self.folder)
        if files[0].sha256 not in ("", sha256):
            raise ValueError("it comes from an older archive than the catalogue pins")
        return tuple(File(part.path, part.bytes, True, part.sha256) for part in parts)

    @property
    def limit(self) -> str:
        """What its licence does not allow that free licences do, as a sentence's end; "" for a free one."""
        if "-NC" in self.license:
            return "may not be used commercially"
        return "is not free for everybody's commercial use" if "Stability AI" in self.license else ""

    def unpinned(self) -> str:
        """The files without a pinned SHA-256: `config.json, model.bin`, or `all 15 files`, or empty."""
        with contextlib.suppress(ValueError):
            paths = [file.path for file in lock.locked(self).files if not file.sha256]
            return f"all {len(paths)} files" if len(paths) == len(self.files) > 1 else ", ".join(paths)
        return "all files"

    def problem(self) -> str:
        """Why the model cannot be used, in a few words; empty if every file exists with the right size."""
        if self.shipped:
            return "" if self.folder.is_dir() else "missing"
        try:
            files = self.contents()
        except OSError:
            return "missing"
        except ValueError as error:
            return f"damaged: {error}"
        for file in files:
            if not file.fits(self.folder):
                exists = (self.folder / file.path).is_file()
                return f"damaged: {file.path} should have {file.bytes} bytes" if exists else "missing"
        return ""

    def is_present(self) -> bool:
        """Whether every file exists with the right size. The SHA-256 was checked after the download."""
        return not self.problem()

    def require(self) -> Entry:
        """The entry, if it can be used. Raises: UserError 69 (missing or damaged) with the command to download it."""
        if problem := self.problem():
            what = f"the model {self.name} is " + ("not on this machine" if problem == "missing" else problem)
            raise UserError(os.EX_UNAVAILABLE, what, f"Download it: ./download_model.py {self.name}")
        return self


class Catalog(NamedTuple):
    """Every model by name, in the order of the file; the model for each role; the folder of downloaded models."""

    entries: Mapping[str, Entry]
    roles: Mapping[str, str]
    folder: Path

    def find(self, name: str, kinds: Collection[str] = KINDS) -> Entry:
        """The entry called `name`. Raises: UserError 64 with similar names, of these kinds."""
        if entry := self.entries.get(name):
            return entry
        import difflib

        names = [entry.name for entry in self.entries.values() if entry.kind in kinds]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        remedy = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            os.EX_USAGE,
            f"no model is called {printable(name)[:80]!r}",
            f"{remedy}./download_model.py list shows all models.",
        )

    def default(self, role: str) -> Entry:
        """The default model for a role: `english` or `multilingual` (speech), `filter` (--safe), `speakers`
        (--speakers), or an engine's name (pictures); `coreml-gpu` for the GPU of a Max or Ultra chip, `builtin` for
        what needs no download."""
        return self.find(self.roles[role])

    def speech(self, language: str, translate: bool, machine: str = "") -> Entry:
        """The default speech model for a language (`en`, `de` …, `auto`), with or without translation to English.

        machine: empty for any machine, `faster-whisper` for a processor with that package, `nvidia` for such a GPU.
        """
        role = "english" if language == "en" and not translate else "multilingual"
        special = f"{machine}-translation" if machine == "nvidia" and translate else f"{machine}-{role}"
        return self.default(special if special in self.roles else role)

    def reads(self, name: str) -> str:
        """The languages of prompts for the image model called `name`, `en` or `any`; empty for one of the user's own.
        name: empty for the default model, whatever engine draws."""
        if name:
            return self.entries[name].languages if name in self.entries else ""
        images = {entry.languages for role in self.roles if (entry := self.default(role)).kind == "image"}
        return "en" if images == {"en"} else "any"

    def require(self, name: str) -> Entry:
        """The entry called `name`, if it can be used. Raises: UserError 64 (unknown), 69 (missing or damaged)."""
        return self.find(name).require()


def read(models: Path = Settings.models) -> Catalog:
    """The catalogue, with downloaded models in the folder `models`.

    Raises: UserError 65 for a catalogue that is damaged.
    """
    return _read(CATALOG, models)


@functools.lru_cache(maxsize=4)
def _read(file: Path, models: Path) -> Catalog:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return parse(toml.loads(file.read_text(encoding="utf-8")), models)
    except (OSError, ValueError) as error:  # TOML errors and the errors of parse() are ValueErrors
        raise UserError(os.EX_DATAERR, f"models/catalog.toml: {error}", "git restore models/catalog.toml") from error


def human(size: int) -> str:
    """A size in bytes for people: `1 kB`, `60 MB`, `2.6 GB`."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{math.ceil(size / 1e3)} kB"


def markdown_table() -> str:
    """The catalogue as docs/models.md shows it, without a final newline."""
    rows = ["| model | what it is | download | memory | licence |", "| --- | --- | --: | --: | --- |"]
    for entry in read().entries.values():
        size = "in the repository" if entry.shipped else human(entry.bytes)
        memory = human(entry.memory_mb * 10**6)
        rows.append(f"| `{entry.name}` | {entry.about} | {size} | {memory} | {entry.license} |")
    return "\n".join(rows)


def parse(data: dict[str, Any], models: Path = Settings.models) -> Catalog:
    """The catalogue that the parsed TOML describes. Raises ValueError that says which entry is wrong."""
    tables, sources = data.get("models", {}), data.get("sources", {})
    entries = {name: _entry(name, table, sources, models) for name, table in tables.items()}
    roles = data.get("defaults", {})
    for role in {*ROLES, *roles}:
        if roles.get(role) not in entries:
            raise ValueError(f"[defaults] {role} = {roles.get(role)!r} is not a model of this catalogue")
    return Catalog(entries, roles, models)


def _entry(name: str, table: dict[str, Any], sources: dict[str, Any], models: Path) -> Entry:
    def check(holds: object, what: str) -> None:
        if not holds:
            raise ValueError(f"[models.{name}] {what}")

    check(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name), "a name is made of a-z, 0-9, dot, dash and underscore")
    check(not (unknown := set(table) - _KEYS), f"unknown key {', '.join(sorted(unknown))}")
    check(table.get("kind") in KINDS, f"kind is one of {', '.join(KINDS)}")
    for key in ("about", "license"):
        check(isinstance(table.get(key), str) and table[key], f"{key} is missing")
    check(isinstance(table.get("memory_mb"), int), "memory_mb is missing")
    image = table["kind"] == "image"
    check(bool(table.get("engines")) == image, "engines are named for image models, and only for those")
    check(all(re.fullmatch("[a-z]+", name) for name in table.get("engines", ())), "an engine's name is made of a-z")
    draws = table.get("draws", {})
    check(not draws or (image and set(draws) == {"sampler", "steps", "guidance"}), "draws: sampler, steps and guidance")
    languages = table.get("languages", "")
    if table["kind"] == "voice":
        check(re.fullmatch("[a-z]{2}|any", languages), "languages is a code, or any, for voices")
    else:
        known = ("en", "any") if image or table["kind"] in SPEECH else ("",)
        check(languages in known, "languages is en or any, for speech and images")
    shipped = table.get("folder", "")
    check(bool(shipped) != bool(table.get("files")), "either folder (it ships with the repository) or files")
    check(shipped or sources.get(table.get("source", "")), "source is not a list of [[sources]]")
    pins = (
        tuple(Source(item.get("repo", ""), item.get("revision", "")) for item in sources[table["source"]])
        if not shipped
        else ()
    )
    for pin in pins:
        check(re.fullmatch(r"[\w.-]+/[\w.-]+", pin.repo), f"{pin.repo!r} is not a repository name")
        check(re.fullmatch(r"([0-9a-f]{40})?", pin.revision), f"{pin.repo}: the revision is a full commit hash")
    files = []
    for item in table.get("files", []):
        path, sha256 = str(item.get("path", "")), item.get("sha256")
        size = item.get("bytes", item.get("about_bytes"))
        check(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", path), f"{path!r} is not a path inside a model")
        check(isinstance(size, int) and size > 0, f"{path}: bytes or about_bytes is missing")
        check(re.fullmatch(r"[0-9a-f]{64}|hub", sha256 or ""), f"{path}: sha256 is 64 hex digits, or hub")
        check(not path.endswith(".zip") or len(table["files"]) == 1, f"{path}: an archive must be the only file")
        files.append(File(path, size, "bytes" in item, "" if sha256 == "hub" else sha256))
    return Entry(
        name,
        table["kind"],
        table["about"],
        table["license"],
        table["memory_mb"],
        tuple(table.get("engines", ())),
        languages,
        bool(table.get("translates")),
        pins,
        tuple(files),
        shipped,
        models,
        table.get("draws", {}),
    )


if __name__ == "__main__":
    print(markdown_table())
