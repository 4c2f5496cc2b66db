"""The files of a model on this machine, and a key for caches made from them."""

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
        """A hash of the folder's path and of the names, sizes and times of the given files. A
        cache with it in the key never returns an entry for files that have changed.

        Raises: OSError for a file that is missing.
        """
        stats = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
        return hashlib.sha256(repr([str(self.folder.resolve()), stats]).encode()).hexdigest()
