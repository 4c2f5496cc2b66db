"""Download, check, unpack and remove models.

A file is downloaded into a hidden folder on the same disk, checked (size, and the catalogue's SHA-256 or otherwise the
hub's own hash) and only then renamed: a model is either complete or missing. The next run continues an interrupted
download. An archive is unpacked in the hidden folder, moved into place as a whole, and then deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.catalog import archive, hub, lock
from helpers.catalog.catalog import Entry, File, Source, human
from helpers.catalog.hub import Patience
from helpers.core.errors import UserError
from helpers.core.files import sha256

log = logging.getLogger(__name__)

# For files with only an approximate size in the catalogue: allow twice that size plus this many bytes.
ROOM = 100_000


def fetch(entry: Entry, patience: Patience, progress: bool = False) -> None:
    """Download every missing file of a model, from the first mirror that has it.

    progress: whether to show a progress bar on stderr.

    Raises: UserError 65 the file is not the one that the catalogue pins, 69 unreachable, missing or interrupted, 73 no
    disk space or no permission to write, 77 access refused. A partial download stays for the next run, unless its
    content is wrong.
    """
    present = not entry.problem()
    if present:
        log.info(f"{entry.name} is already installed")
        if not incoming(entry).exists():
            return
    if not present and entry.limit:
        log.warning(f"{entry.name} {entry.limit}: its licence is {entry.license}")
    with writing(entry.models), alone(entry):
        entry = entry if present else fixed(entry, patience)
        wanted = [file for file in entry.files if not present and (entry.is_archive or not file.fits(entry.folder))]
        discard(unpacked(entry))  # left by a run that was killed
        wanted = [file for file in wanted if not reuse(entry, file)]
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
        for left in incoming(entry).iterdir():  # an unpacked archive, or a file with an old pin or from a wrong mirror
            left.unlink()


def fixed(entry: Entry, patience: Patience) -> Entry:
    """The entry with what its lock file fixes. Where neither that nor the catalogue fixes a revision, the repository's
    newest one is taken, said, and kept from then on. Raises the errors of fetch; 65 for a damaged lock file."""
    try:
        entry = lock.locked(entry)
    except ValueError as error:
        raise UserError(os.EX_DATAERR, f"{entry.name}: {error}", "Delete it; the next download writes it.") from error
    for source in entry.sources:
        if not source.revision:
            commit = hub.ask(source.repo, "main", entry.files[0].path, patience).commit
            if not commit:
                raise UserError(os.EX_DATAERR, f"the hub does not say which revision of {source.repo} it has")
            log.info(f"no revision of {source.repo} is pinned: it is {commit} from now on, kept in {lock.path(entry)}")
            lock.learn(entry, revisions={source.repo: commit})
    return lock.locked(entry)


def reuse(entry: Entry, file: File) -> bool:
    """Take a file from Hugging Face's own cache, if it is there with the right hash; whether it was."""
    for source in entry.sources:
        for held in hub.cached(source.repo, source.revision, file.path, file.sha256):
            pin = file.sha256 or held.resolve().name
            if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", pin):
                continue
            with contextlib.suppress(OSError):
                if hashed(held, pin) != pin or (file.exact and held.stat().st_size != file.bytes):
                    continue
                partial = incoming(entry) / pin
                partial.unlink(missing_ok=True)
                try:
                    os.link(held.resolve(), partial)
                except OSError:  # another disk
                    shutil.copyfile(held, partial)
                log.info(f"{file.path} is in the hub's cache on this machine ({held.parent}): it is not downloaded")
                install(entry, file, partial)
                return True
    return False


def hashed(path: Path, like: str) -> str:
    """The hash of a file: SHA-256, or the git blob hash, whichever `like` is."""
    return sha256([path]) if len(like) == 64 else git_hash(path)


def bring(entry: Entry, file: File, source: Source, patience: Patience, progress: bool) -> None:
    """Download one file from one repository, check it, and move it into place. Raises the errors of fetch."""
    where = f"{source.repo}/{file.path}"
    found = hub.ask(source.repo, source.revision, file.path, patience)
    pin, size = file.sha256 or found.hash, file.bytes if file.exact else found.size
    if not file.exact and size and size > 2 * file.bytes + ROOM:
        sizes = f"the hub's file has {human(size)}, but the catalogue says {human(file.bytes)}"
        raise UserError(os.EX_DATAERR, f"{where}: {sizes}")
    if not pin or not size:
        raise UserError(os.EX_DATAERR, f"{where}: the hub gives no hash or no size, so the download cannot be checked")
    if found.size not in (None, size) or (len(found.hash) == len(pin) and found.hash != pin):
        raise UserError(os.EX_DATAERR, f"{where}: the hub's file is not the one that {pinned_by(entry, file)}")
    partial = incoming(entry) / pin  # named after its hash, so that another mirror or a later run can continue it
    unpinned = "" if file.sha256 else "; no SHA-256 is pinned, so the hub's own hash is used"
    log.info(f"fetching {file.path}, {human(size)}, from {source.repo} ({entry.license}){unpinned}")
    hub.receive(file.path, found.url, partial, size, patience, progress)
    if hashed(partial, pin) != pin:
        partial.unlink()
        kind = "SHA-256" if len(pin) == 64 else "hash"
        raise UserError(os.EX_DATAERR, f"{where}: the {kind} of the download is wrong, so it was deleted")
    install(entry, file, partial)


def pinned_by(entry: Entry, file: File) -> str:
    return f"{lock.path(entry)} has from the first download" if lock.holds(entry, file.path) else "the catalogue pins"


def install(entry: Entry, file: File, partial: Path) -> None:
    """Move a checked file into place, or unpack it there; keep its hash if the catalogue has none."""
    learned = {} if file.sha256 else {file.path: {"bytes": partial.stat().st_size, "sha256": sha256([partial])}}
    if entry.is_archive:
        unpack(entry, partial, file.path)
    else:
        place = entry.folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(place)
    if learned:
        lock.learn(entry, files=learned)


def unpack(entry: Entry, partial: Path, name: str) -> None:
    """Unpack the archive `partial` into the model's folder. It is kept, so that an interruption costs no new download.

    Raises: UserError 65 if the archive is unsafe, damaged or not a model (it is then deleted); OSError for the disk.
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
    """Raises: UserError 73 if the disk has no space for the rest of the download plus 5 %; an archive counts twice."""
    received = sum(partial.stat().st_size for partial in incoming(entry).iterdir())
    need = int(1.05 * (sum(file.bytes for file in wanted) * (2 if entry.is_archive else 1) - received))
    free = shutil.disk_usage(entry.models).free
    if need > free:
        remedy = "Make room, or set A2I_MODELS to a folder on another disk."
        raise UserError(os.EX_CANTCREAT, f"the disk needs {human(need)} of free space, but has {human(free)}", remedy)


def remove(entry: Entry, compiled: Iterable[Path] = ()) -> None:
    """Delete a model, its partial downloads, and the files in `compiled`, which an engine compiled from it.

    Raises: UserError 64 for a model that ships with the repository, 73 if it cannot be deleted.
    """
    if entry.shipped:
        raise UserError(os.EX_USAGE, f"{entry.name} ships with the repository and cannot be removed")
    paths = [entry.folder, incoming(entry), *compiled]
    with writing(entry.folder):
        freed = 0
        for path in paths:
            files = path.rglob("*") if path.is_dir() else [path]
            freed += sum(file.stat().st_size for file in files if file.is_file())
            discard(path)
    log.info(f"{entry.name}: {f'removed, {human(freed)} freed' if freed else 'is not installed'}")


def verify(entries: list[Entry]) -> None:
    """Check the size and the pinned SHA-256 of every file. Raises: UserError 65 or 69 for the first wrong one."""
    for entry in entries:
        files = entry.require().contents()
        for file in files:
            if file.sha256 and sha256([entry.folder / file.path]) != file.sha256:
                remedy = (
                    f"Download it again: ./download_model.py --remove {entry.name}; ./download_model.py {entry.name}"
                )
                raise UserError(os.EX_DATAERR, f"{entry.name} is damaged: {file.path} has the wrong SHA-256", remedy)
        unpinned = [file.path for file in files if not file.sha256]
        note = f"; no SHA-256 is pinned for {', '.join(unpinned)}: only the size was checked" if unpinned else ""
        log.info(f"{entry.name}: OK{note}")


def discard(path: Path) -> None:
    """Delete a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def incoming(entry: Entry) -> Path:
    """The folder for partial downloads: on the same file system as the model, so that a rename is atomic."""
    return entry.models / ".incoming" / entry.name


def unpacked(entry: Entry) -> Path:
    """The folder that an archive is unpacked into, before it is moved into place."""
    return incoming(entry) / "unpacked"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into UserError 73."""
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
    """Locks the download of a model. Raises: UserError 69 if another run is downloading it."""
    incoming(entry).mkdir(parents=True, exist_ok=True)
    folder = os.open(incoming(entry), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(os.EX_UNAVAILABLE, f"another run is downloading {entry.name}", "Wait for it to end.") from error
    finally:
        os.close(folder)
        with contextlib.suppress(OSError):  # not empty: it has a partial download
            incoming(entry).rmdir()
            incoming(entry).parent.rmdir()


def git_hash(path: Path) -> str:
    """The git blob hash of a file, in hex; the hub uses it for small files."""
    return sha256([path], digest=hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))
