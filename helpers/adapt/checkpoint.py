"""A model's files on this machine, and what tells them from any others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder, in diffusers' or in Apple's layout."""

    folder: Path

    def identity(self, files: Iterable[Path]) -> str:
        """A hash of the folder's path and of the names, sizes and times of those of its files that matter. A cache that
        has it in its keys never serves what was made of a file that has changed since.

        Raises: OSError for a file that is missing.
        """
        known = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
        return hashlib.sha256(repr([str(self.folder.resolve()), known]).encode()).hexdigest()
