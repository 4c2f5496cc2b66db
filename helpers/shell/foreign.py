"""Runs a program of the user's as a stage:  python -m helpers.shell.foreign STAGE FOLDER PROGRAM [ARGUMENT …]

Between our own stages each line carries a mark (`helpers.core.lines`). The program runs in FOLDER and gets and
gives plain lines; here its answers get their ids back. A wrong id would put a recording beside the picture of another
text, so a line whose source is not clear gets no id:

- A line that contains the text of exactly one line that waits for its answer belongs to that line.
- If one line waits, an answer belongs to it; not where the program has written more lines than it was given.
- All other lines have no id.

Marks in the program's own output are removed. Exit code, signals and closed pipes are those of the program.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from helpers.core import lines, session, stage
from helpers.core.errors import UserError
from helpers.core.lines import Line, Origin
from helpers.core.settings import Settings

READ_LINES = ("remove_parentheses", "enrich", "generate")  # stages whose stdin is lines
WRITE_LINES = ("transcribe", "remove_parentheses", "enrich")
PATIENCE = 0.1  # seconds that a line waits for the answer to the one before it, until the program answers late for once
SETTLED = 0.02  # seconds after an answer in which a second line of it may come
UNRECORDED = 10**6  # first number of transcripts whose recording is not known


class Ledger(Protocol):
    """Knows which line an answer of the program belongs to."""

    def answer(self, text: str) -> int | None:
        """The id of a line that the program has written."""
        ...


class Texts:
    """For a program that reads lines. Not safe to call from several threads."""

    def __init__(self) -> None:
        self.waiting: list[Line] = []  # given to the program, and not answered
        self._last = ""  # the text that was answered last
        self._unclear = 0  # answers since then that belong to one of the waiting lines, we do not know to which
        self._more = False  # whether the program has written more lines than it was given

    def give(self, line: Line) -> None:
        """`line` goes to the program."""
        self.waiting.append(line)

    def answer(self, text: str) -> int | None:
        said = _folded(text)
        named = [line for line in self.waiting if line.text and _folded(line.text) in said]
        found = named[0] if len(named) == 1 else None
        if not named and len(self.waiting) == 1 and not self._more and not (self._last and self._last in said):
            found = self.waiting[0]
        if found:
            self.waiting = [line for line in self.waiting if line is not found]
            self._last = _folded(found.text)
        elif self.waiting:
            self._unclear += 1
        else:
            self._more = True
        if self._unclear >= len(self.waiting):  # all have been answered, in one order or another
            self.waiting, self._unclear = [], 0
        return found.id if found else None


class Recordings:
    """For a program that reads sound. The text of a line is its transcript, so this is kept here. Without a loop, the
    first line belongs to the recording."""

    def __init__(self, folder: Path | None, loop: bool) -> None:
        self._folder, self._loop = folder, loop
        self._ended = self._lines = 0
        self._waiting = Texts()

    def answer(self, text: str) -> int | None:
        if not self._folder:
            return None
        self._lines += 1
        number = self._lines
        if self._loop:
            while session.recording(self._folder, self._ended + 1).exists():
                self._ended += 1
                self._waiting.give(Line("", self._ended))
            number = self._waiting.answer(text) or UNRECORDED + self._lines
        if text:
            session.transcript(self._folder, number).write_text(f"{text}\n", encoding="utf-8")
        return number


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


class Foreign:
    """The running program, and the threads that carry lines to it and from it."""

    def __init__(self, name: str, folder: str, command: list[str], ledger: Ledger) -> None:
        self._ledger, self._changed = ledger, threading.Condition()
        self._answered_at = 0.0
        self._failure: Exception | None = None
        self._child = start(command, folder, reads=name in READ_LINES, writes=name in WRITE_LINES)
        self._writer = self._thread(self._write) if self._child.stdout else None
        if self._child.stdin:
            self._thread(self._read)

    def wait(self) -> int:
        """The exit code of the program. Raises what went wrong with its lines."""
        code = self._child.wait()
        if self._writer:
            self._writer.join(None if code == 0 else 1)  # the shell ends what a failed program has left running
        if self._failure:
            raise self._failure
        return code if code >= 0 else 128 - code

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self._failure = error
                self._child.kill()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _read(self) -> None:
        """Lines from the stage before, to the program: without their marks, but with each byte that a person typed."""
        assert self._child.stdin
        patient = True
        try:
            for line in lines.read_bytes():
                patient = patient and self._settle()
                with self._changed:
                    if isinstance(self._ledger, Texts):
                        self._ledger.give(lines.decode(line.decode(errors="replace")))
                send(self._child.stdin.fileno(), lines.unmarked(line) + b"\n")
        except BrokenPipeError:  # the program reads no more: neither do we, so that the stage before learns it
            close(0)
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def _settle(self) -> bool:
        """Wait for the answers to the lines before, a moment; whether they have come."""
        if not isinstance(texts := self._ledger, Texts):
            return False
        with self._changed:
            answered = self._changed.wait_for(lambda: not texts.waiting, PATIENCE)
        time.sleep(max(0.0, self._answered_at + SETTLED - time.monotonic()))
        return answered

    def _write(self) -> None:
        """Lines from the program, to the stage after it."""
        assert self._child.stdout
        try:
            for line in lines.read(self._child.stdout.fileno()):
                with self._changed:
                    number = self._ledger.answer(line.text)
                    self._answered_at = time.monotonic()
                    self._changed.notify_all()
                send(1, lines.encode(Line(line.text, number, Origin.ANSWER), marked=True))
        except BrokenPipeError:  # nobody reads: the program learns it when it writes again
            pass
        self._child.stdout.close()
        close(1)


def start(command: list[str], folder: str, reads: bool, writes: bool) -> subprocess.Popen[bytes]:
    """The program, started in `folder`. Raises: UserError 69."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they go to the whole group; the program decides
        signal.signal(number, lambda *_: None)

    def launch(command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PWD": folder}, bufsize=0,
            stdin=subprocess.PIPE if reads else None, stdout=subprocess.PIPE if writes else None,
        )  # fmt: skip

    try:
        try:
            return launch(command)
        except OSError as error:
            script = shutil.which(command[0]) if os.sep not in command[0] else command[0]
            if error.errno != errno.ENOEXEC or not script:
                raise
            return launch(["bash", script, *command[1:]])  # a script without #!, as a shell starts it
    except OSError as error:
        raise UserError(os.EX_UNAVAILABLE, f"cannot start {command[0]}: {error.strerror}") from error


def send(fd: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(fd, data) :]


def close(fd: int) -> None:
    """Close a standard stream, but keep its number in use."""
    with Path(os.devnull).open("r+b") as nothing:
        os.dup2(nothing.fileno(), fd)


def main(argv: list[str] | None = None) -> int:
    name, folder, *command = sys.argv[1:] if argv is None else argv
    settings = Settings.from_environment()
    ledger = Texts() if name in READ_LINES else Recordings(settings.session, settings.loop)
    return Foreign(name, folder, command, ledger).wait()


if __name__ == "__main__":
    stage.run(sys.argv[1], main)
