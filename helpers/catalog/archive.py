"""Unpack zip archives of compiled Core ML models, as Apple publishes them, safely, and list their files.

    archive.unpack(path, folder, "x_compiled.zip", sha256)  # TextEncoder.mlmodelc/, Unet.mlmodelc/, … vocab.json
    archive.contents(folder)                                # (sha256 of the archive, [Part(path, bytes, sha256), …])

The list is a hidden file in the model's folder. With it the model can be checked after its archive is deleted.
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
GROWTH = 2  # most that it may unpack to, in sizes of the archive; weights hardly compress: 1.57 GB unpack to 1.57 GB
UNUSED = ("SafetyChecker.mlmodelc", "VAEEncoder.mlmodelc")  # no stage runs them; 676 of the 1570 MB of SD 1.5
_NAME = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_ .+-]*"
)  # no "..", no drive letter, nothing that file systems treat differently


class Part(NamedTuple):
    """A file of an unpacked model: its path in the model's folder."""

    path: str
    bytes: int
    sha256: str


def unpack(archive: Path, folder: Path, name: str, sha256: str) -> None:
    """Unpack the model in `archive` into `folder`, which must not exist yet, and write the list of its files there.

    name: the archive's name in messages; sha256: the archive's hash, for the list.

    Raises: UserError 65 for an archive that is unsafe, damaged, or contains no compiled model; OSError for the disk.
    The caller then deletes `folder`.
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
                        raise ValueError(f"{path} is shorter than the archive says")
                    out.flush()
                    os.fsync(out.fileno())
                parts.append(Part(path, member.file_size, digest.hexdigest()))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # EINVAL: an offset before the start of the archive
            raise
        what = f"{name} cannot be unpacked: {str(error)[:200] or 'it is incomplete'}"
        raise UserError(os.EX_DATAERR, what) from error
    with (folder / LIST).open("w", encoding="utf-8") as out:
        json.dump({"archive": sha256, "files": [part._asdict() for part in parts]}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def choose(members: list[ZipInfo]) -> dict[str, ZipInfo]:
    """The files to unpack, by their path in the model's folder.

    They are the files beside the compiled Unet, in whichever folder of the archive it is (the topmost if there are
    several), without the parts that no stage uses and the files that the Finder adds.

    Raises: ValueError for a member that would be written outside the folder or over another one, or that is not a
    regular file.
    """
    if len(members) > MOST_FILES:
        raise ValueError(f"it has {len(members)} members, more than {MOST_FILES}")
    files: dict[tuple[str, ...], ZipInfo] = {}
    seen: dict[str, tuple[str, bool]] = {}  # by path in lower case, for file systems that ignore case
    for member in members:
        name = member.orig_filename
        path, folder = tuple(name.removesuffix("/").split("/")), name.endswith("/")
        if path[-1].startswith(".") and path[-1].strip("."):  # .DS_Store, and all files in __MACOSX
            continue
        if len(name) > 255 or not all(_NAME.fullmatch(part) for part in path):
            raise ValueError(f"a member is called {printable(name)[:80]!r}")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
            raise ValueError(f"{name} is not a regular file")
        if member.flag_bits & 0x2041:  # encrypted, strongly so, or its header masked
            raise ValueError(f"{name} is encrypted")
        if member.compress_type not in (0, 8):
            raise ValueError(f"{name} is neither stored nor deflated")
        for end in range(1, len(path) + 1):
            this = "/".join(path[:end]), folder or end < len(path)
            if seen.setdefault(this[0].lower(), this) != this:
                raise ValueError(f"{name} and {seen[this[0].lower()][0]} are the same file")
        if path in files:
            raise ValueError(f"{name} occurs twice")
        if not folder:
            files[path] = member
    unets = ("Unet.mlmodelc", "UnetChunk1.mlmodelc")
    tops = {path[:end] for path in files for end, part in enumerate(path[:-1]) if part in unets}
    if not tops:
        raise ValueError(f"it contains no {unets[0]}")
    top = min(tops, key=lambda path: (len(path), path))
    beside = {path[len(top) :]: member for path, member in files.items() if path[: len(top)] == top}
    whole = any(path[0] == "Unet.mlmodelc" for path in beside)
    unused = (*UNUSED, "UnetChunk1.mlmodelc", "UnetChunk2.mlmodelc") if whole else UNUSED
    return {"/".join(path): member for path, member in beside.items() if path[0] not in unused}


def contents(folder: Path) -> tuple[str, list[Part]]:
    """The SHA-256 of the archive that was unpacked into `folder`, and the list of its files.

    Raises: OSError if there is no list, ValueError if it is damaged.
    """
    text = (folder / LIST).read_bytes()
    try:
        listed: Any = json.loads(text)
        parts = [Part(str(part["path"]), int(part["bytes"]), str(part["sha256"])) for part in listed["files"]]
        return str(listed["archive"]), parts
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{LIST} cannot be read") from error
