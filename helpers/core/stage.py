"""What every program of the pipe shares: messages, events, errors, and a stdout that only the next stage reads.

A program is `def main(argv) -> int` run through `run("name", main)`. Inside it raises `UserError`; outside it ends
with a sysexits code and at most two lines: what is wrong, and what to do about it. The rooms below the programs know
neither the program's name nor the terminal: they use `logging`, and `begin` sends it to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from helpers.core.errors import UserError, no_memory
from helpers.core.paths import CACHE
from helpers.core.settings import Settings
from helpers.core.text import printable, shortened


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong option is a UserError 64 like any other error, not a page of usage and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(os.EX_USAGE, message, f"{self.prog} --help shows the options.")


@dataclass
class _Program:
    """The program that this process is. A process has one stderr and one name in the pipe, so there is one of these."""

    name: str = ""
    settings: Settings = field(default_factory=Settings)


_program = _Program()

# Settings that libraries read only from the environment: no requests to the hub, and PyTorch's cache for compiled code.
# `run` sets them when a program starts, also for its child processes. No import changes the environment.
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_LIBRARIES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "USE_HUB_KERNELS": "NO",
    "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "torch" / "inductor"),
    "TRITON_CACHE_DIR": str(CACHE / "torch" / "triton"),
}
# What the user has set for these libraries in other programs. It would change the arithmetic, or end a run: tqdm and
# NumPy fail on a value that is no number, oneDNN prints into the pipe, and with another ISA some networks do not load.
_STEERED = ("TQDM_", "NPY_", "NUMPY_", "ONEDNN_", "DNNL_")
_NUMBERS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")  # huggingface_hub fails on anything else


class _Lines(logging.Handler):
    """Shows log messages: progress (INFO) unchanged, problems (WARNING) after the name of the program."""

    def emit(self, record: logging.LogRecord) -> None:
        name = f"{_program.name}: " if record.levelno >= logging.WARNING else ""
        say(f"{name}{printable(record.getMessage())}")


def begin(name: str, settings: Settings) -> None:
    """Make this process the program `name`: its events carry the name, and log messages of `helpers` are shown."""
    _program.name, _program.settings = name, settings
    log = logging.getLogger("helpers")
    log.setLevel(logging.DEBUG if settings.verbose else logging.INFO)
    log.propagate = False
    log.handlers[:] = [_Lines()]


def say(text: str) -> None:
    """Print a message to stderr, unless --quiet is set."""
    if not _program.settings.quiet:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # overwrite the line where record shows the level
        _complain(f"{clear}{shortened(text)}\n")


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # a picture does not depend on whether the messages can be written
        sys.stderr.write(text)  # one write, unlike print: other stages write there, too
        sys.stderr.flush()


def open_standard_streams() -> None:
    """Open a standard stream that is closed as /dev/null. Otherwise the next file that is opened gets its number."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest free number, mostly `fd` itself
            if nothing != fd:
                os.dup2(nothing, fd)
                os.close(nothing)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", errors="replace", closefd=False))


def event(what: str, **more: object) -> None:
    """Note that this program is `started`, `ready` (its model is loaded), has `heard` something, is `done` …

    One JSON line per event in the control folder, `time` in seconds since the epoch; appends this short are atomic on
    every Unix. They go to A2I_EVENTS as well, a file or a fifo. Outside a pipe no event is written.
    """
    line = _as_line(what, more)
    if control := _program.settings.control:
        _append(control / "events.jsonl", line)
    _to_listener(line)


def tell(what: str, **more: object) -> None:
    """An event for A2I_EVENTS alone: one that nobody asks for afterwards."""
    _to_listener(_as_line(what, more))


def _as_line(what: str, more: dict[str, object]) -> str:
    return json.dumps({"stage": _program.name, "event": what, "time": time.time(), **more}) + "\n"


def _to_listener(line: str) -> None:
    if events := _program.settings.events:
        with contextlib.suppress(OSError):  # nobody reads any more
            _append(Path(events), line)


def _append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def take_stdout() -> BinaryIO:
    """Return the pipe to the next stage, and point fd 1 at stderr from now on.

    Libraries print to stdout (whisper.cpp, pocketsphinx, progress bars); a stray line would be drawn as a prompt.
    """
    sys.stdout.flush()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def _report(name: str, error: UserError) -> None:
    message, remedy = (shortened(printable(text)) for text in (error.message, error.remedy))
    with contextlib.suppress(OSError):
        event("failed", message=message, remedy=remedy, code=error.code)
    lines = f"{name}: {message}\n" + (f"  {remedy}\n" if remedy else "")
    if folder := _program.settings.control:
        with contextlib.suppress(OSError):  # pipeline.sh shows the error of the first stage that failed
            (folder / f"{name}.error").write_text(lines, encoding="utf-8")
            return
    _complain(lines)


def _explained(error: Exception) -> UserError:
    """The error message for an unexpected exception."""
    if isinstance(error, ModuleNotFoundError):
        what = f"the Python package {error.name} is missing"
        remedy = "Run ./pipeline.sh: it repairs its environment .venv. A program of your own needs its own packages."
        return UserError(os.EX_UNAVAILABLE, what, remedy)
    if isinstance(error, ImportError):
        return UserError(os.EX_UNAVAILABLE, f"a Python package cannot be loaded: {error}", _other_libraries())
    if short := no_memory(error):
        return short
    session = _program.settings.session
    if isinstance(error, OSError) and session and not session.is_dir():
        return UserError(os.EX_CANTCREAT, f"the folder {session.parent} was deleted during the run", "Run again.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return UserError(os.EX_CANTCREAT, f"the disk is full{where}", "Make room and run again.")
    what = f"unexpected error: {type(error).__name__}: {error}"
    return UserError(os.EX_SOFTWARE, what, "This is a bug; --verbose shows where.")


def _other_libraries() -> str:
    """What to do about a library that does not load."""
    names = [name for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH") if os.environ.get(name)]
    if names:  # of conda or CUDA, for example
        return f"{names[0]} puts libraries of other programs before ours: run again without it."
    return "Run `rm -r .venv`, then ./pipeline.sh, which installs the packages again."


def run(name: str, main: Callable[[list[str] | None], int], *, downloads: bool = False) -> NoReturn:
    """Run a program and exit with its sysexits code; a traceback is shown only with --verbose.

    downloads: whether libraries may make requests to the hub, unless the user has set HF_HUB_OFFLINE.
    """
    open_standard_streams()
    for variable, value in list(os.environ.items()):
        if variable.startswith(_STEERED) or (variable in _NUMBERS and not re.fullmatch("[0-9]{1,6}", value)):
            del os.environ[variable]
    os.environ |= _LIBRARIES if downloads else _LIBRARIES | _OFFLINE
    begin(name, Settings.from_environment(names=("quiet", "verbose", "events", "session", "control")))
    try:
        begin(name, Settings.from_environment())
        event("started")
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
        if _program.settings.verbose:
            traceback.print_exc()
        explained = _explained(error)
        _report(name, explained)
        code = explained.code
    with contextlib.suppress(OSError):
        event("done", code=code)
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):  # what cannot be written now would make the exit code 120
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    sys.exit(code)
