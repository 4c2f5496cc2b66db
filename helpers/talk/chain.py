"""The pictures that one was made from, read from the run.json beside each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from helpers import __version__
from helpers.core.text import printable
from helpers.draw import png
from helpers.draw.job import Job, Picture

LONGEST = 1000  # pictures
_LARGEST = 1 << 20  # bytes of a run.json


class Old(NamedTuple):
    """A picture of earlier: its file, its job, and what was said to get it."""

    file: Path
    job: Job
    change: str
    engine: dict[str, str]

    def picture(self) -> Picture:
        """It, without its pixels."""
        nothing = np.zeros((0, 0, 3), np.uint8)
        name, version, precision = (self.engine.get(key, "") for key in ("name", "version", "precision"))
        return Picture(nothing, self.job.seed or 0, self.job, name, version, precision, __version__)


def read(file: Path) -> list[Old]:
    """The picture in `file` and those before it, the oldest first. A missing or damaged run.json ends the chain.

    Raises: UserError 65, 66 as png.read_job does, for `file` alone.
    """
    found = [_old(file, png.read_job(file))]
    seen = {file.resolve()}
    while len(found) < LONGEST and (before := _parent(found[0].file)) and before.resolve() not in seen:
        seen.add(before.resolve())
        try:
            found.insert(0, _old(before, png.read_job(before)))
        except Exception as error:
            from helpers.core.errors import UserError

            if not isinstance(error, UserError):
                raise
            break
    return found


def _run(file: Path) -> dict[str, Any]:
    """The run.json beside a picture; {} if there is none."""
    try:
        with (file.parent / "run.json").open("rb") as stream:
            run = json.loads(stream.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def _old(file: Path, job: Job) -> Old:
    run = _run(file)
    engine = run.get("engine")
    engine = {str(key): printable(str(value)) for key, value in engine.items()} if isinstance(engine, dict) else {}
    return Old(file, job, printable(str(run.get("change", ""))), engine)


def _parent(file: Path) -> Path | None:
    """The picture that one was made from: in a folder beside its own, whatever run.json says."""
    parent = _run(file).get("parent")
    names = [parent.get("folder"), parent.get("file")] if isinstance(parent, dict) else [None]
    if not all(isinstance(name, str) and name and os.sep not in name and name not in (".", "..") for name in names):
        return None
    path = file.absolute().parent.parent.joinpath(*names)
    return path if path.is_file() else None
