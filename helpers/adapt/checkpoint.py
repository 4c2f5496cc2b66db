"""A model's files on this machine, and what tells them from any others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model: a folder in diffusers' or in Apple's layout."""

    folder: Path

    def identity(self, files: Iterable[Path] | None = None) -> str:
        """A hash of the folder's path and of the files' names, sizes and times; part of every cache's key, so that a
        file that changes is never served from a cache. files: those that matter, by default all."""
        here = self.folder.resolve()
        some = sorted(path for path in here.rglob("*") if path.is_file()) if files is None else files
        known = [(str(file.name), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in some]
        return hashlib.sha256(repr([str(here), known]).encode()).hexdigest()
