"""Where a LoRA that somebody names lies."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.core.errors import UserError
from helpers.core.text import printable

_MOST = 20_000  # files that are looked at in a folder
_IN_FOLDER = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


def loras(folders: Iterable[Path]) -> dict[str, Path]:
    """The LoRA files in folders and below them, by their names; of two with one name, the first."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(itertools.islice(_below(folder), _MOST)):
            found.setdefault(file.stem, file)
    return found


def find_lora(name: str, folders: Iterable[Path], path: bool = True) -> Path:
    """The file of the LoRA called `name`; path: whether it may also be a path to a file or its folder.

    Raises: UserError 66 with similar names if there is none.
    """
    if path and (os.sep in name or Path(name).is_file()):
        place = Path(name).expanduser()
        inside = next((place / one for one in _IN_FOLDER if (place / one).is_file()), place)
        if not inside.is_file():
            raise UserError(os.EX_NOINPUT, f"there is no LoRA {printable(name)}", "Check the path.")
        return inside
    folders = list(folders)
    known = loras(folders)
    same = {one.casefold(): file for one, file in known.items()}
    if file := known.get(name) or same.get(name.casefold().removesuffix(".safetensors")):
        return file
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    where = f"LoRAs are looked for in {folders[0]}." if folders else ""
    remedy = f"Did you mean {printable(' or '.join(near))}?" if near else f"Give its path. {where}".strip()
    raise UserError(os.EX_NOINPUT, f"there is no LoRA called {printable(name)[:80]}", remedy)


def _below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.endswith(".safetensors"))
