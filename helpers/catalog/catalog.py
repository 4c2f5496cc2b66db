"""models/catalog.toml: every model, where it comes from, what it needs, and whether it is here.

    entry = catalog.find("base.en-q5_1")       # UserError 64 with near matches for a name that is not in it
    entry = catalog.default("english")         # or multilingual, coreml, coreml-gpu, cuda, cpu, filter
    entry.is_present()                         # its files are there and their sizes match
    entry.path                                 # the file of a one-file model, otherwise the folder
    catalog.require("base.en-q5_1")            # the entry if it is present, otherwise UserError 69 with the command

`python -m helpers.catalog.catalog` prints the table of docs/models.md.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from helpers.catalog import archive
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.stage import setting
from helpers.core.text import printable

CATALOG = ROOT / "models" / "catalog.toml"
KINDS = ("whisper", "image", "filter")
ENGINES = ("coreml", "torch", "openvino")
ROLES = ("english", "multilingual", *ENGINES, "coreml-gpu", "filter")
_KEYS = {"kind", "about", "license", "memory_mb", "engines", "languages", "translates", "source", "files", "folder"}


class Source(NamedTuple):
    """A hub repository at a pinned revision (a full commit hash)."""

    repo: str
    revision: str


class File(NamedTuple):
    """One file of a model. `sha256` is empty where only the hub's own hash can check it: the revision, a commit, pins
    the file, but nothing here does. `exact` is whether `bytes` is the published size and not a rounded one."""

    path: str
    bytes: int
    exact: bool
    sha256: str

    def fits(self, folder: Path) -> bool:
        """Whether it lies in `folder` with its size."""
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

    @property
    def folder(self) -> Path:
        """Where its files lie, whether they are there or not."""
        return ROOT / self.shipped if self.shipped else models_folder() / self.name

    @property
    def is_archive(self) -> bool:
        """Whether it is published as one zip archive; what that holds lies in `folder`, and the archive does not."""
        return any(file.path.endswith(".zip") for file in self.files)

    @property
    def path(self) -> Path:
        """What a program is given: the file of a one-file model, otherwise the folder."""
        return self.folder / self.files[0].path if len(self.files) == 1 and not self.is_archive else self.folder

    @property
    def bytes(self) -> int:
        """Size of the published files (of an archive, not of what it holds), or of what ships with the repository."""
        if self.shipped:
            return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        return sum(file.bytes for file in self.files)

    def contents(self) -> tuple[File, ...]:
        """What lies in `folder` when it is whole. Raises OSError for an archive that was not unpacked, ValueError for
        one whose list is damaged or that the catalogue does not pin any more."""
        if not self.is_archive:
            return self.files
        sha256, parts = archive.contents(self.folder)
        if self.files[0].sha256 not in ("", sha256):
            raise ValueError("it is of another archive than the catalogue's")
        return tuple(File(part.path, part.bytes, True, part.sha256) for part in parts)

    def unpinned(self) -> str:
        """The published files that have no sha256 here: `config.json, model.bin`, or `all 15 files`, or empty."""
        paths = [file.path for file in self.files if not file.sha256]
        return f"all {len(paths)} files" if len(paths) == len(self.files) > 1 else ", ".join(paths)

    def problem(self) -> str:
        """What keeps it from being used, in a few words; empty when it is there and every size matches."""
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
                there = (self.folder / file.path).is_file()
                return f"damaged: {file.path} has not the {file.bytes} bytes it should have" if there else "missing"
        return ""

    def is_present(self) -> bool:
        """Whether every file is there with its size. The sha256 was checked when it arrived."""
        return not self.problem()


def models_folder() -> Path:
    """Where downloaded models are kept: A2I_MODELS, or models/downloaded in the repository."""
    return Path(path).expanduser() if (path := setting("MODELS")) else ROOT / "models" / "downloaded"


def entries() -> dict[str, Entry]:
    """Every model by name, in the order of the file. Raises UserError 65 for a catalogue that does not make sense."""
    return _read()[0]


def find(name: str) -> Entry:
    """The entry called `name`. Raises UserError 64 that lists the names nearest to it."""
    if entry := entries().get(name):
        return entry
    import difflib

    near = difflib.get_close_matches(name, entries(), n=3, cutoff=0.4)
    remedy = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        os.EX_USAGE,
        f"no model is called {printable(name)[:80]!r}",
        f"{remedy}./download_model.py list shows them all.",
    )


def default(role: str) -> Entry:
    """The model for a role: `english`, `multilingual`, or an engine's pictures: `coreml` (on the Neural Engine, which
    every Mac has), `coreml-gpu` (on the GPU of a Max or Ultra chip), `cuda`, `cpu`; or `filter`, the detector of
    --safe."""
    return find(_read()[1][role])


def require(name: str) -> Entry:
    """The entry called `name` if it can be used now. Raises UserError 64 (unknown) or 69 (not here, or damaged)."""
    entry = find(name)
    if problem := entry.problem():
        what = f"the model {name} is not on this machine" if problem == "missing" else f"the model {name} is {problem}"
        raise UserError(os.EX_UNAVAILABLE, what, f"Get it with: ./download_model.py {name}")
    return entry


def human(size: int) -> str:
    """A size in bytes as people read it: `1 kB`, `60 MB`, `2.6 GB`."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{math.ceil(size / 1e3)} kB"


def markdown_table() -> str:
    """The catalogue as docs/models.md shows it, without a final newline."""
    rows = ["| model | what it is | download | memory | licence |", "| --- | --- | --: | --: | --- |"]
    for entry in entries().values():
        size = "in the repository" if entry.shipped else human(entry.bytes)
        memory = human(entry.memory_mb * 10**6)
        rows.append(f"| `{entry.name}` | {entry.about} | {size} | {memory} | {entry.license} |")
    return "\n".join(rows)


@functools.lru_cache(maxsize=1)
def _read() -> tuple[dict[str, Entry], dict[str, str]]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        data = toml.loads(CATALOG.read_text(encoding="utf-8"))
        return parse(data)
    except (OSError, ValueError) as error:  # a TOML error is a ValueError, and so is what parse() finds
        raise UserError(os.EX_DATAERR, f"models/catalog.toml: {error}", "git restore models/catalog.toml") from error


def parse(data: dict[str, Any]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and the default of each role from the parsed TOML. Raises ValueError that says which entry is wrong."""
    models = {name: _entry(name, table, data.get("sources", {})) for name, table in data.get("models", {}).items()}
    defaults = data.get("defaults", {})
    for role in ROLES:
        if defaults.get(role) not in models:
            raise ValueError(f"[defaults] {role} = {defaults.get(role)!r} is no model of this catalogue")
    return models, defaults


def _entry(name: str, table: dict[str, Any], sources: dict[str, Any]) -> Entry:
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
    check(set(table.get("engines", ())) <= set(ENGINES), f"engines are of {', '.join(ENGINES)}")
    languages = table.get("languages", "")
    check(languages in (("en", "any") if table["kind"] == "whisper" else ("",)), "languages is en or any, for speech")
    shipped = table.get("folder", "")
    check(bool(shipped) != bool(table.get("files")), "either folder (it ships with the repository) or files")
    check(shipped or sources.get(table.get("source", "")), "source names no list of [[sources]]")
    pins = (
        tuple(Source(item.get("repo", ""), item.get("revision", "")) for item in sources[table["source"]])
        if not shipped
        else ()
    )
    for pin in pins:
        check(re.fullmatch(r"[\w.-]+/[\w.-]+", pin.repo), f"{pin.repo!r} is no repository")
        check(re.fullmatch(r"[0-9a-f]{40}", pin.revision), f"{pin.repo}: the revision is a full commit hash")
    files = []
    for item in table.get("files", []):
        path, sha256 = str(item.get("path", "")), item.get("sha256")
        size = item.get("bytes", item.get("about_bytes"))
        check(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", path), f"{path!r} is no path inside a model")
        check(isinstance(size, int) and size > 0, f"{path}: bytes or about_bytes is missing")
        check(re.fullmatch(r"[0-9a-f]{64}|hub", sha256 or ""), f"{path}: sha256 is 64 hex digits, or hub")
        check(not path.endswith(".zip") or len(table["files"]) == 1, f"{path}: an archive stands alone")
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
    )


if __name__ == "__main__":
    print(markdown_table())
