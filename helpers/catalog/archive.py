"""Zip archives of compiled Core ML models, as Apple publishes them: unpacked safely, with a list of what they held.

    archive.unpack(path, folder, "x_compiled.zip", sha256)  # TextEncoder.mlmodelc/, Unet.mlmodelc/, … vocab.json
    archive.contents(folder)                                # (sha256 of the archive, [Part(path, bytes, sha256), …])

The list is a hidden file beside the parts; with it the model is checked when its archive is long deleted.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.core.errors import UserError
from helpers.core.text import printable

if TYPE_CHECKING:
    from zipfile import ZipInfo

LIST = ".archive.json"
MOST_FILES = 1000  # Apple's have 20 to 40
GROWTH = 2  # of the archive's own size; weights hardly compress: 1.57 GB hold 1.57 GB
UNUSED = ("SafetyChecker.mlmodelc", "VAEEncoder.mlmodelc")  # no stage runs them; 676 of the 1570 MB of SD 1.5
_NAME = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_ .+-]*"
)  # no "..", no drive, nothing that two file systems read in two ways


class Part(NamedTuple):
    """A file of an unpacked model: its path in the model's folder."""

    path: str
    bytes: int
    sha256: str


def unpack(archive: Path, folder: Path, name: str, sha256: str) -> None:
    """Unpack the model in `archive` into `folder`, which is not there yet, and list it there.

    `name` is what the archive is called in messages, `sha256` what stands for it in the list. Raises UserError 65 for
    an archive that is unsafe, damaged, or holds no compiled model, and OSError for the disk; what is then in `folder`
    is for the caller to delete.
    """
    import hashlib
    import zipfile

    parts, room = [], GROWTH * archive.stat().st_size
    try:
        with zipfile.ZipFile(archive) as source:
            for path, member in choose(source.infolist()).items():
                place, digest = folder / path, hashlib.sha256()
                place.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as stream, place.open("xb") as out:
                    while block := stream.read(1 << 20):
                        room -= len(block)
                        if room < 0:
                            raise ValueError(f"it unpacks to more than {GROWTH} times its size")
                        digest.update(block)
                        out.write(block)
                    if out.tell() != member.file_size:
                        raise ValueError(f"{path} is shorter than it says")
                    out.flush()
                    os.fsync(out.fileno())
                parts.append(Part(path, member.file_size, digest.hexdigest()))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a place before the beginning gives
            raise
        what = f"{name} cannot be unpacked: {str(error)[:200] or 'it is cut off'}"
        raise UserError(os.EX_DATAERR, what) from error
    with (folder / LIST).open("w", encoding="utf-8") as out:
        json.dump({"archive": sha256, "files": [part._asdict() for part in parts]}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def choose(members: list[ZipInfo]) -> dict[str, ZipInfo]:
    """The files to unpack, by their path in the model's folder.

    They are those beside the compiled Unet, wherever in the archive that is (the place nearest the top if there are
    several), without what no stage runs and what a Mac's Finder adds. Raises ValueError for an archive with a member
    that could end up elsewhere, on top of another, or as anything but a plain file.
    """
    if len(members) > MOST_FILES:
        raise ValueError(f"it has {len(members)} members")
    files: dict[tuple[str, ...], ZipInfo] = {}
    taken: dict[str, tuple[str, bool]] = {}  # on a file system that does not know upper from lower case
    for member in members:
        name = member.orig_filename
        path, folder = tuple(name.removesuffix("/").split("/")), name.endswith("/")
        if path[-1].startswith(".") and path[-1].strip("."):  # .DS_Store, and all files in __MACOSX
            continue
        if len(name) > 255 or not all(_NAME.fullmatch(part) for part in path):
            raise ValueError(f"a member is called {printable(name)[:80]!r}")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
            raise ValueError(f"{name} is no plain file")
        if member.flag_bits & 0x2041:  # encrypted, strongly so, or its header masked
            raise ValueError(f"{name} is encrypted")
        if member.compress_type not in (0, 8):
            raise ValueError(f"{name} is neither stored nor deflated")
        for end in range(1, len(path) + 1):
            this = "/".join(path[:end]), folder or end < len(path)
            if taken.setdefault(this[0].lower(), this) != this:
                raise ValueError(f"{name} and {taken[this[0].lower()][0]} are one file")
        if path in files:
            raise ValueError(f"{name} is there twice")
        if not folder:
            files[path] = member
    unets = ("Unet.mlmodelc", "UnetChunk1.mlmodelc")
    tops = {path[:end] for path in files for end, part in enumerate(path[:-1]) if part in unets}
    if not tops:
        raise ValueError(f"it holds no {unets[0]}")
    top = min(tops, key=lambda path: (len(path), path))
    beside = {path[len(top) :]: member for path, member in files.items() if path[: len(top)] == top}
    whole = any(path[0] == "Unet.mlmodelc" for path in beside)
    unused = (*UNUSED, "UnetChunk1.mlmodelc", "UnetChunk2.mlmodelc") if whole else UNUSED
    return {"/".join(path): member for path, member in beside.items() if path[0] not in unused}


def contents(folder: Path) -> tuple[str, list[Part]]:
    """The sha256 of the archive that was unpacked into `folder`, and what it held.

    Raises OSError if there is no list, ValueError for a damaged one.
    """
    text = (folder / LIST).read_bytes()
    try:
        listed: Any = json.loads(text)
        parts = [Part(str(part["path"]), int(part["bytes"]), str(part["sha256"])) for part in listed["files"]]
        return str(listed["archive"]), parts
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{LIST} cannot be read") from error
