"""Models on their way to this machine and off it again: fetched, checked, unpacked, removed.

A file arrives in a hidden folder beside its place, is checked (its size, and the catalogue's SHA-256 or else the hub's
own hash) and only then renamed: a model is either complete or not there. A download that was cut is continued by the
next run. An archive is unpacked in the hidden folder, takes its place as a whole, and is then deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.catalog import archive, hub
from helpers.catalog.catalog import Entry, File, Source, human
from helpers.catalog.hub import Patience
from helpers.core.errors import UserError

log = logging.getLogger(__name__)

# The catalogue knows some sizes only roughly: such a file may have twice the size and this many bytes more.
ROOM = 100_000


def fetch(entry: Entry, patience: Patience, progress: bool = False) -> None:
    """Bring every file of a model that is missing, from the first of its mirrors that has it.

    progress: whether to show a progress bar on stderr.

    Raises UserError: 65 what came is not what the catalogue pins, 69 unreachable, missing or broken off, 73 no room or
    no right to write, 77 refused. What has arrived stays for the next run except where its content is wrong.
    """
    here = not entry.problem()
    if here:
        log.info(f"{entry.name} is here already")
        if not incoming(entry).exists():
            return
    wanted = [file for file in entry.files if not here and (entry.is_archive or not file.fits(entry.folder))]
    with writing(entry.models), alone(entry):
        discard(unpacked(entry))  # of a run that was killed
        check_room(entry, wanted)
        for file in wanted:
            failures: list[UserError] = []
            for source in entry.sources:
                try:
                    bring(entry, file, source, patience, progress)
                    break
                except hub.Unreachable:
                    raise
                except UserError as error:
                    failures.append(error)
                    if source != entry.sources[-1]:
                        log.info(f"{error.message}; trying the next mirror")
            else:
                raise failures[0]
        for left in incoming(entry).iterdir():  # unpacked; or of an earlier pin, or a mirror that had something else
            left.unlink()


def bring(entry: Entry, file: File, source: Source, patience: Patience, progress: bool) -> None:
    """One file from one repository into its place, checked on the way. Raises as fetch does."""
    where = f"{source.repo}/{file.path}"
    found = hub.ask(source.repo, source.revision, file.path, patience)
    pin, size = file.sha256 or found.hash, file.bytes if file.exact else found.size
    if not file.exact and size and size > 2 * file.bytes + ROOM:
        sizes = f"the hub's file has {human(size)}, the catalogue says {human(file.bytes)}"
        raise UserError(os.EX_DATAERR, f"{where}: {sizes}")
    if not pin or not size:
        raise UserError(os.EX_DATAERR, f"{where}: the hub gives no hash or no size, so the download cannot be checked")
    if found.size not in (None, size) or (len(found.hash) == len(pin) and found.hash != pin):
        raise UserError(os.EX_DATAERR, f"{where}: the hub's file is not the one that the catalogue pins")
    partial = incoming(entry) / pin  # named by its hash, so that another mirror or a later run can continue it
    unpinned = "" if file.sha256 else "; no SHA-256 is pinned, so it is checked against the hub's own"
    log.info(f"fetching {file.path}, {human(size)}, from {source.repo} ({entry.license}){unpinned}")
    hub.receive(file.path, found.url, partial, size, patience, progress)
    kind, arrived = ("SHA-256", sha256(partial)) if len(pin) == 64 else ("hash", git_hash(partial))
    if arrived != pin:
        partial.unlink()
        raise UserError(os.EX_DATAERR, f"{where}: the {kind} of the download is wrong, so it was deleted")
    if entry.is_archive:
        unpack(entry, partial, file.path)
        return
    place = entry.folder / file.path
    place.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(place)


def unpack(entry: Entry, partial: Path, name: str) -> None:
    """Put what the archive `partial` holds into the model's place. It stays: a cut here costs no second download.

    Raises UserError 65 (and deletes it) for one that is not safe, damaged, or no model; OSError for the disk.
    """
    log.info(f"unpacking {name}")
    try:
        archive.unpack(partial, unpacked(entry), name, partial.name)
        discard(entry.folder)
        unpacked(entry).replace(entry.folder)
    except UserError:
        partial.unlink()
        raise
    finally:
        discard(unpacked(entry))


def check_room(entry: Entry, wanted: list[File]) -> None:
    """Raises UserError 73 unless what is still to come fits on the disk with 5 % to spare: an archive twice."""
    there = sum(partial.stat().st_size for partial in incoming(entry).iterdir())
    need = int(1.05 * (sum(file.bytes for file in wanted) * (2 if entry.is_archive else 1) - there))
    free = shutil.disk_usage(entry.models).free
    if need > free:
        remedy = "Make room, or set A2I_MODELS to a folder on another disk."
        raise UserError(os.EX_CANTCREAT, f"{human(need)} are needed, {human(free)} are free", remedy)


def remove(entry: Entry, compiled: Iterable[Path] = ()) -> None:
    """Delete a model, what a cut download of it left, and the files in `compiled`, which an engine made from it.

    Raises UserError 64 for one that ships with the repository, 73 if it cannot be deleted.
    """
    if entry.shipped:
        raise UserError(os.EX_USAGE, f"{entry.name} ships with the repository and is not removed")
    paths = [entry.folder, incoming(entry), *compiled]
    with writing(entry.folder):
        freed = 0
        for path in paths:
            files = path.rglob("*") if path.is_dir() else [path]
            freed += sum(file.stat().st_size for file in files if file.is_file())
            discard(path)
    log.info(f"{entry.name}: {f'removed, {human(freed)} freed' if freed else 'is not here'}")


def verify(entries: list[Entry]) -> None:
    """Compare every file with its size and pinned sha256. Raises UserError 65 or 69 at the first that is wrong."""
    for entry in entries:
        files = entry.require().contents()
        for file in files:
            if file.sha256 and sha256(entry.folder / file.path) != file.sha256:
                remedy = f"Get it again: ./download_model.py --remove {entry.name}; ./download_model.py {entry.name}"
                raise UserError(os.EX_DATAERR, f"{entry.name} is damaged: {file.path} has the wrong SHA-256", remedy)
        unpinned = [file.path for file in files if not file.sha256]
        lacks = f"; no SHA-256 is pinned for {', '.join(unpinned)}: only the size was checked" if unpinned else ""
        log.info(f"{entry.name}: OK{lacks}")


def discard(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def incoming(entry: Entry) -> Path:
    """Where the files of a model arrive: on the same file system as their place, so that a rename is atomic."""
    return entry.models / ".incoming" / entry.name


def unpacked(entry: Entry) -> Path:
    """Where what an archive holds is written, until all of it is there."""
    return incoming(entry) / "unpacked"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the file system says into UserError 73."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Make room and run it again: the download is continued."
            raise UserError(os.EX_CANTCREAT, f"the disk is full: {folder}", remedy) from error
        if error.errno is None:
            raise
        raise UserError(os.EX_CANTCREAT, f"cannot write to {folder}: {error.strerror}") from error


@contextlib.contextmanager
def alone(entry: Entry) -> Iterator[None]:
    """Keeps a second download of the same model out. Raises UserError 69 if one is running."""
    incoming(entry).mkdir(parents=True, exist_ok=True)
    folder = os.open(incoming(entry), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(os.EX_UNAVAILABLE, f"{entry.name} is being fetched by another run") from error
    finally:
        os.close(folder)
        with contextlib.suppress(OSError):  # not empty: something has arrived and waits for the rest
            incoming(entry).rmdir()
            incoming(entry).parent.rmdir()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return hexdigest(path, hashlib.sha256())


def git_hash(path: Path) -> str:
    """The id that git gives the content of a file, in hex; the hub's name for a small file."""
    return hexdigest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def hexdigest(path: Path, digest: hashlib._Hash) -> str:
    """`digest` after all bytes of a file, in hex."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
