#!/usr/bin/env python3
"""Fetch, check and remove the models of models/catalog.toml.

A file arrives in a hidden folder beside its place, is checked (size, and the catalogue's sha256 or else the hub's hash)
and only then renamed, so a model is either whole or not there. What a cut left behind is kept and the next run asks the
hub only for the rest. An archive is unpacked there, takes its place as a whole, and is then deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers.catalog import archive, catalog, hub
from helpers.catalog.catalog import Entry, File, Source, human
from helpers.catalog.hub import Patience
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.stage import Parser, is_set, run, say, setting

ROOM = 100_000  # bytes by which a file of a size that is known roughly may differ from it, beside a half


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    os.umask(os.umask(0o022) | 0o022)  # a model that others could write to, they could change
    if arguments.quiet:
        os.environ["A2I_QUIET"] = "1"
    entries = [catalog.find(name) for name in arguments.names if name != "list"]
    if arguments.offer:
        english = setting("LANGUAGE", "en") == "en" and not is_set("TRANSLATE")
        entries = entries or [catalog.default("english" if english else "multilingual")]
        return 0 if all(offer(entry.name) for entry in entries) else os.EX_UNAVAILABLE
    if arguments.verify:
        verify(entries or [entry for entry in catalog.entries().values() if entry.files and entry.is_present()])
    elif arguments.remove:
        for entry in entries:
            remove(entry)
    elif entries:
        for entry in entries:
            fetch(entry, hub.usual_patience())
            print(entry.path)
    else:
        print(listing())
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="./download_model.py",
        description="Fetch the named models, or list what there is and what is here.",
        epilog="A fetch that was cut goes on where it stopped. Models lie in models/downloaded, or in $A2I_MODELS.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models of the catalogue, or: list")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="check size and sha256 of the named models, or of all here")
    what.add_argument("--remove", action="store_true", help="delete the named models")
    what.add_argument(
        "--offer", action="store_true", help="fetch NAME, or the usual speech model, but give up soon and quietly"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    arguments = parser.parse_args(argv)
    if not arguments.names and arguments.remove:
        parser.error("name the model")
    if "list" in arguments.names and (len(arguments.names) > 1 or arguments.verify or arguments.remove):
        parser.error("list stands alone")
    return arguments


def listing() -> str:
    """One line per model: whether it is here, name, size, licence, what it is; then what is not pinned, and the disk
    used."""
    rows = []
    for entry in catalog.entries().values():
        problem = entry.problem()
        state = "damaged" if problem.startswith("damaged") else "here" if not problem else ""
        rows.append((state, entry.name, human(entry.bytes), entry.license, entry.about))
    width = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{r[0]:{width[0]}}  {r[1]:{width[1]}}  {r[2]:>{width[2]}}  {r[3]:{width[3]}}  {r[4]}" for r in rows]
    if unpinned := [entry for entry in catalog.entries().values() if entry.unpinned()]:
        lines += ["", "No sha256 is pinned for these; what arrives is checked against the hub's own hash:"]
        lines += [f"  {entry.name}: {entry.unpinned()}" for entry in unpinned]
    folder = catalog.models_folder()
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return "\n".join([*lines, "", f"{human(used) if used else 'Nothing'} in {folder}"])


def verify(entries: list[Entry]) -> None:
    """Compare every file with its size and pinned sha256. Raises UserError 65 or 69 at the first that is wrong."""
    for entry in entries:
        catalog.require(entry.name)
        files = entry.contents()
        for file in files:
            if file.sha256 and sha256(entry.folder / file.path) != file.sha256:
                remedy = f"Get it anew: ./download_model.py --remove {entry.name}; ./download_model.py {entry.name}"
                raise UserError(os.EX_DATAERR, f"{entry.name} is damaged: {file.path} has another sha256", remedy)
        unpinned = [file.path for file in files if not file.sha256]
        lacks = f"; no sha256 is pinned for {', '.join(unpinned)}: looked at for size only" if unpinned else ""
        say(f"{entry.name}: right{lacks}")


def remove(entry: Entry) -> None:
    """Delete a model, what a cut download of it left, and what the CPU engine compiled from it.

    Raises UserError 64 for one that ships, 73 if it stays.
    """
    if entry.shipped:
        raise UserError(os.EX_USAGE, f"{entry.name} ships with the repository and is not removed")
    paths = [entry.folder, incoming(entry)]
    if entry.kind == "image" and "openvino" in entry.engines:
        from helpers.draw.engines import openvino_engine

        paths += openvino_engine.compiled_copies(entry.folder)
    with writing(entry.folder):
        freed = 0
        for path in paths:
            files = path.rglob("*") if path.is_dir() else [path]
            freed += sum(file.stat().st_size for file in files if file.is_file())
            discard(path)
    say(f"{entry.name}: {f'removed, {human(freed)} freed' if freed else 'is not here'}")


def offer(name: str, seconds: float = 5, total: float = 60) -> bool:
    """Fetch `name` if the hub answers within `seconds` and delivers well; whether the model is there afterwards.

    For a first run that has something else to fall back on: whatever goes wrong is one line and no error.
    """
    entry = catalog.find(name)

    def give_up(*_: object) -> None:
        raise hub.Unreachable("the hub takes too long", "")

    signal.signal(signal.SIGALRM, give_up)  # whatever it hangs in: a hub may send a byte now and then for ever
    signal.setitimer(signal.ITIMER_REAL, total)
    try:
        usual = hub.usual_patience()
        fetch(entry, Patience(min(seconds, usual.answer), min(4, usual.stall), total, 1))
    except UserError as error:
        say(f"{name} ({human(entry.bytes)}) is not here: {error.message}. Later: ./download_model.py {name}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return entry.is_present()


def fetch(entry: Entry, patience: Patience) -> None:
    """Bring every file of a model that is not there yet, from the first of its mirrors that has it.

    Raises UserError: 65 what came is not what the catalogue pins, 69 unreachable, missing or broken off, 73 no room or
    no right to write, 77 refused. What has arrived stays for the next run except where its content is wrong.
    """
    here = not entry.problem()
    if here:
        say(f"{entry.name} is here already")
        if not incoming(entry).exists():
            return
    wanted = [file for file in entry.files if not here and (entry.is_archive or not file.fits(entry.folder))]
    with writing(catalog.models_folder()), alone(entry):
        discard(unpacked(entry))  # of a run that was killed
        check_room(entry, wanted)
        for file in wanted:
            failures: list[UserError] = []
            for source in entry.sources:
                try:
                    bring(entry, file, source, patience)
                    break
                except hub.Unreachable:
                    raise
                except UserError as error:
                    failures.append(error)
                    if source != entry.sources[-1]:
                        say(f"{error.message}; trying the next mirror")
            else:
                raise failures[0]
        for left in incoming(entry).iterdir():  # unpacked; or of an earlier pin, or a mirror that had something else
            left.unlink()


def bring(entry: Entry, file: File, source: Source, patience: Patience) -> None:
    """One file from one repository into its place, checked on the way. Raises as fetch does."""
    where = f"{source.repo}/{file.path}"
    found = hub.ask(source.repo, source.revision, file.path, patience)
    pin, size = file.sha256 or found.hash, file.bytes if file.exact else found.size
    if not file.exact and size and size > 2 * file.bytes + ROOM:
        raise UserError(os.EX_DATAERR, f"{where}: the hub has {human(size)} there, and {human(file.bytes)} are known")
    if not pin or not size:
        raise UserError(os.EX_DATAERR, f"{where}: the hub gives no hash and size to check it against")
    if found.size not in (None, size) or (len(found.hash) == len(pin) and found.hash != pin):
        raise UserError(os.EX_DATAERR, f"{where}: the hub has another file there than the catalogue pins")
    partial = incoming(entry) / pin  # the hash is its name, so that another mirror, or another day, can go on with it
    unpinned = "" if file.sha256 else "; no sha256 is pinned, it is checked against the hub's own"
    say(f"fetching {file.path}, {human(size)}, from {source.repo} ({entry.license}){unpinned}")
    hub.receive(file.path, found.url, partial, size, patience)
    kind, arrived = ("sha256", sha256(partial)) if len(pin) == 64 else ("hash", git_hash(partial))
    if arrived != pin:
        partial.unlink()
        raise UserError(os.EX_DATAERR, f"{where}: what arrived has another {kind}, and was deleted")
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
    say(f"unpacking {name}")
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
    free = shutil.disk_usage(catalog.models_folder()).free
    if need > free:
        remedy = "Make room, or set A2I_MODELS to a folder on another disk."
        raise UserError(os.EX_CANTCREAT, f"{human(need)} are needed, {human(free)} are free", remedy)


def discard(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def incoming(entry: Entry) -> Path:
    """Where the files of a model arrive: on the same file system as their place, so that a rename is atomic."""
    return catalog.models_folder() / ".incoming" / entry.name


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
            remedy = "Make room and run it again: it goes on where it stopped."
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
        raise UserError(os.EX_UNAVAILABLE, f"{entry.name} is being fetched already") from error
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


def use_own_python() -> None:
    """Go on in the repository's .venv if there is one: only there are the pinned versions."""
    python = ROOT / ".venv" / "bin" / "python"
    inside = sys.executable == str(python) or Path(sys.prefix).resolve() == python.parent.parent.resolve()
    if not inside and os.access(python, os.X_OK) and not is_set("INSIDE"):
        os.environ["A2I_INSIDE"] = "1"  # once: it may be a wrapper around another one
        with contextlib.suppress(OSError):
            os.execv(python, [str(python), __file__, *sys.argv[1:]])


if __name__ == "__main__":
    use_own_python()
    run("download_model", main)
