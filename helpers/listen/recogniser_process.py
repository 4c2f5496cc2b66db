"""A recogniser in a process of its own: what crashes there, or needs other libraries, does not harm the stage.

The stage has a `RecogniserProcess`; the process, `python -m MODULE FD SETTINGS`, calls `serve`. Over a multiprocessing
connection on descriptor FD it gets PCM, one recording per message, and answers each with a JSON object, or with
{"code": …, "message": …, "remedy": …} before it ends. Its first answer, {}, says that the model is loaded. It ends with
the connection, so it never outlives the stage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from helpers.core import interpreter
from helpers.core.errors import UserError
from helpers.core.paths import ROOT

log = logging.getLogger(__name__)

# Threads of GNU OpenMP wait for each other in a busy loop, which keeps the thread that they wait for from the processor
# if another program is busy, too: a recognition of 1.4 s took 3 to 17 s beside a drawing; if they sleep, it takes 2 s.
_PATIENT = {"OMP_WAIT_POLICY": "passive"}

Self = TypeVar("Self", bound="RecogniserProcess")


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker(Protocol):
    """A loaded recogniser, inside its process."""

    def transcribe(self, pcm: bytes) -> dict[str, Any]: ...


class RecogniserProcess:
    """The process, seen from the stage. It starts to load at once, and ends with the `with` block."""

    def __init__(self, module: str, title: str, path: Path, remedy: str, settings: dict[str, Any]) -> None:
        """module: what the process runs; title, path, remedy: of the recogniser, its model, and for a damaged one."""
        self._title, self._path, self._remedy = title, path, remedy
        self._connection, theirs = multiprocessing.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        output = sys.stderr.fileno() if log.isEnabledFor(logging.DEBUG) else self._log
        with theirs:
            self._process = subprocess.Popen(
                interpreter.module(module, str(theirs.fileno()), json.dumps(settings)),
                cwd=ROOT,
                env=_PATIENT | os.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
            )

    def wait_until_loaded(self) -> None:
        """Raises: the UserError with which the process ended; 65 if it crashed."""
        self._answer()

    def ask(self, pcm: bytes) -> dict[str, Any]:
        """The answer to `pcm`. Call it after `wait_until_loaded`. Raises: UserError 65 if the process crashed."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _answer reports the crash
            self._connection.send_bytes(pcm)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            code = self._process.wait()
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            said = f"; it said: {complaint}" if (complaint := self._complaint()) else ""
            message = f"{self._title} crashed ({ended}) on {self._path}{said}"
            raise UserError(os.EX_DATAERR, message, self._remedy) from error
        if missing := answer.get("missing"):
            raise ModuleNotFoundError(name=missing)
        if "message" in answer:
            raise UserError(answer["code"], answer["message"], answer["remedy"])
        return answer

    def _complaint(self) -> str:
        """The last line on the process's stderr that reports an error."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        words = ("error", "fail", "invalid", "bad ", "assert")
        return next((line.strip() for line in reversed(lines) if any(word in line.lower() for word in words)), "")

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._log.close()


def serve(connection: Connection, load: Callable[[], Worker]) -> None:
    """Load the recogniser, then answer recordings. Raises EOFError when the other end is closed."""

    def answer(**what: object) -> None:
        connection.send_bytes(json.dumps(what).encode())

    try:
        worker = load()
        answer()
        while True:
            answer(**worker.transcribe(connection.recv_bytes()))
    except ModuleNotFoundError as error:
        answer(missing=error.name)
    except UserError as error:
        answer(code=error.code, message=error.message, remedy=error.remedy)


def main(load: Callable[[dict[str, Any]], Worker]) -> None:
    """The process: load the recogniser with the settings of the command line, and serve until the stage ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage, which ends us
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])), lambda: load(json.loads(sys.argv[2])))
