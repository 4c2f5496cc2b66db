"""What every stage of the pipe does the same: settings, errors, events, a stdout that only the next stage reads.

A stage is `def main(argv) -> int` run through `run("name", main)`. Inside it raises `UserError`; outside it ends
with a sysexits code and at most two lines: what is wrong, and what to do about it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.text import printable, shortened

LONGEST_LINE = 1 << 20  # bytes of a line of text; a window of 30 s holds a thousand


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong option is a UserError 64 like any other error, not a page of usage and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(os.EX_USAGE, message, f"{self.prog} --help shows the options.")


def setting(name: str, default: str = "") -> str:
    """The value of the environment variable A2I_NAME; an empty one counts as not set."""
    return os.environ.get(f"A2I_{name}") or default


def is_set(name: str) -> bool:
    """Whether the switch A2I_NAME is on: anything but empty and 0."""
    return setting(name, "0") != "0"


def session() -> Path | None:
    """The working folder of the running pipe (A2I_SESSION), or None for a stage that is run alone."""
    return Path(path) if (path := setting("SESSION")) else None


def control() -> Path | None:
    """The folder of the running pipe for errors and events (A2I_CONTROL): not on the user's disk, which may be full."""
    return Path(path) if (path := setting("CONTROL")) else session()


def lines() -> Iterator[str]:
    """The lines of text that arrive on stdin, each as soon as it is whole, as printable.

    Raises: UserError 65 when one is longer than 1 MiB.
    """
    rest, data = b"", b"-"
    while data:
        data = os.read(0, 1 << 16)  # not sys.stdin.buffer: the interpreter cannot end while a thread waits in it
        *whole, rest = (rest + data).split(b"\n")
        yield from (printable(line.decode(errors="replace")) for line in whole)
        if len(rest) > LONGEST_LINE:
            raise UserError(os.EX_DATAERR, f"a line of more than {LONGEST_LINE} bytes is no prompt")
    if rest:
        yield printable(rest.decode(errors="replace"))


def say(text: str) -> None:
    """Tell the person something on stderr; silent with --quiet."""
    if not is_set("QUIET"):
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # the line in which record draws its meter
        sys.stderr.write(f"{clear}{shortened(text)}\n")  # in one piece, unlike print: others write there, too
        sys.stderr.flush()


def event(stage: str, what: str, **more: object) -> None:
    """Note in the control folder that `stage` is `started`, `ready` (its model is loaded), `heard`, `done` …

    One JSON line per event, `time` in seconds since the epoch; appends this short are atomic on every Unix. They go to
    A2I_EVENTS as well, a file or a fifo that somebody reads.
    """
    line = json.dumps({"stage": stage, "event": what, "time": time.time(), **more}) + "\n"
    if folder := control():
        _append(folder / "events.jsonl", line)
    if watched := setting("EVENTS"):
        with contextlib.suppress(OSError):  # nobody reads any more
            _append(Path(watched), line)


def _append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def take_stdout() -> BinaryIO:
    """The pipe to the next stage, taken away from everything else: from now on fd 1 is stderr.

    Libraries print (whisper.cpp, pocketsphinx, progress bars), and one stray line would become a picture.
    """
    sys.stdout.flush()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def _report(name: str, error: UserError) -> None:
    what, remedy = (shortened(printable(text)) for text in (error.message, error.remedy))
    lines = f"{name}: {what}\n" + (f"  {remedy}\n" if remedy else "")
    if folder := control():
        with contextlib.suppress(OSError):  # pipeline.sh shows the error of the first stage that failed
            (folder / f"{name}.error").write_text(lines, encoding="utf-8")
            return
    sys.stderr.write(lines)


def _understood(error: Exception) -> UserError:
    """What an exception that nobody raised on purpose means to a person."""
    if isinstance(error, ModuleNotFoundError):
        with contextlib.suppress(OSError):
            (ROOT / ".venv" / "whole").unlink()  # so that pipeline.sh makes the environment anew
        what = f"the Python environment is not whole: {error.name} is missing"
        return UserError(os.EX_UNAVAILABLE, what, "Run ./pipeline.sh once more: it repairs the environment first.")
    if isinstance(error, OSError) and (folder := session()) and not folder.is_dir():
        return UserError(os.EX_CANTCREAT, f"the folder {folder.parent} went away during the run", "Run again.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return UserError(os.EX_CANTCREAT, f"the disk is full{where}", "Make room and run again.")
    what = f"unexpected error: {type(error).__name__}: {error}"
    return UserError(os.EX_SOFTWARE, what, "This is a bug; --verbose shows where.")


def run(name: str, main: Callable[[list[str] | None], int]) -> NoReturn:
    """Run a stage and exit with its sysexits code; a traceback is shown only with --verbose."""
    try:
        event(name, "started")
        code = main(None)
        sys.stdout.flush()
    except UserError as error:
        _report(name, error)
        code = error.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the next stage is gone and has said why
        code = 141
    except Exception as error:
        if is_set("VERBOSE"):
            traceback.print_exc()
        known = _understood(error)
        _report(name, known)
        code = known.code
    with contextlib.suppress(OSError):
        event(name, "done", code=code)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
