"""What is learned of a model at its first download, where the catalogue does not fix it: the revision and the hashes.

It is kept in `.lock/NAME.json` in the folder of downloaded models, and holds from then on: a later download must bring
the same files, and `--verify` checks them. Delete the file to accept other ones. Removing a model keeps it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.core.files import write_whole

if TYPE_CHECKING:
    from helpers.catalog.catalog import Entry, File


def path(entry: Entry) -> Path:
    """The lock file of a model."""
    return entry.models / ".lock" / f"{entry.name}.json"


def locked(entry: Entry) -> Entry:
    """The entry with what its lock file fixes. Raises: ValueError for a lock file that is damaged."""
    if all(source.revision for source in entry.sources) and all(file.sha256 for file in entry.files):
        return entry
    known = _read(entry)
    revisions, files = known["revisions"], known["files"]
    return entry._replace(
        sources=tuple(one._replace(revision=one.revision or revisions.get(one.repo, "")) for one in entry.sources),
        files=tuple(_fixed(file, files) for file in entry.files),
    )


def _fixed(file: File, known: dict[str, Any]) -> File:
    if file.sha256 or file.path not in known:
        return file
    return file._replace(bytes=known[file.path]["bytes"], exact=True, sha256=known[file.path]["sha256"])


def holds(entry: Entry, name: str) -> bool:
    """Whether the lock file has a file of this name."""
    return name in _read(entry)["files"]


def learn(entry: Entry, *, revisions: dict[str, str] | None = None, files: dict[str, Any] | None = None) -> None:
    """Add to the lock file. revisions: of repositories; files: {path: {"bytes": …, "sha256": …}}.

    Raises: ValueError for a lock file that is damaged, OSError.
    """
    known = _read(entry)
    known["revisions"] |= revisions or {}
    known["files"] |= files or {}
    path(entry).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path(entry), (json.dumps(known, indent=1) + "\n").encode())


def _read(entry: Entry) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path(entry).read_text(encoding="utf-8"))
        revisions = {str(repo): _digest(revision, 40) for repo, revision in found["revisions"].items()}
        files = {
            str(name): {"bytes": int(one["bytes"]), "sha256": _digest(one["sha256"], 64)}
            for name, one in found["files"].items()
        }
    except FileNotFoundError:
        return {"revisions": {}, "files": {}}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its lock file cannot be read: {path(entry)}") from error
    return {"revisions": revisions, "files": files}


def _digest(text: object, length: int) -> str:
    if not (isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", text)):
        raise ValueError(f"{str(text)[:80]} is no hash")
    return text
