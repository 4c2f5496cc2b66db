"""Takes in the PCM on stdin from the start, in a thread, so that a full pipe never stalls the microphone while a model
loads; and tells the recordings in it: one, or, in a loop, one before each mark.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from collections.abc import Iterator
from typing import NamedTuple

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, MARK

NAME = "transcribe"
LONGEST = 600  # seconds of a recording: 19 MB, many times what anybody says about one picture
PAUSE = 0.15  # seconds without sound; record sends what is said every 50 ms, and nothing while the speaker pauses


class Heard(NamedTuple):
    """A recording so far: s16le, 16 kHz, mono; and whether it is over, or the speaker only pauses."""

    pcm: bytes
    over: bool


class Hearing(threading.Thread):
    """Hears stdin until its end."""

    def __init__(self, loop: bool = False) -> None:
        """Raises: UserError 66 when stdin is a terminal."""
        if os.isatty(0):
            raise UserError(os.EX_NOINPUT, "no audio on stdin", "Give a file, or pipe raw PCM into it.")
        super().__init__(daemon=True)
        self._loop = loop
        self._pcm = bytearray()
        self._fresh = False  # whether sound has come since the last pause
        self._number = 0  # of recordings that are over
        self._heard: queue.SimpleQueue[Heard | OSError | None] = queue.SimpleQueue()
        self._waiting, self._taken = 0, threading.Condition()  # bytes of recordings that are in it
        self.start()

    def run(self) -> None:
        try:
            while data := self._read():
                begin = max(0, len(self._pcm) - len(MARK)) // 2 * 2
                self._pcm += data
                if self._loop:
                    self._split(begin)
                if len(self._pcm) >= LONGEST * BYTES_PER_SECOND:
                    stage.say(f"{NAME}: only the first {LONGEST // 60} minutes are used")
                    if not self._loop:
                        os.close(0)
                        break
                    self._over(len(self._pcm))
        except OSError as error:
            self._heard.put(error)
        if len(self._pcm) > 1 or not self._number:  # more than half a sample
            self._over(len(self._pcm))
        self._heard.put(None)

    def _read(self) -> bytes:
        if self._fresh and not select.select([0], [], [], PAUSE)[0]:
            self._put(self._whole(), over=False)
            self._fresh = False
        data = os.read(0, min(1 << 16, LONGEST * BYTES_PER_SECOND - len(self._pcm)))
        self._fresh = True
        return data

    def _split(self, begin: int) -> None:
        """End a recording at each mark; none begins before byte `begin`."""
        while (end := self._pcm.find(MARK, begin)) >= 0:
            end += end % 2  # the second half of the last sample may be a zero, too
            if self._pcm[end : end + len(MARK)] != MARK:
                return  # its last byte has not come
            rest = self._pcm[end + len(MARK) :]
            self._over(end)
            self._pcm, begin, self._fresh = rest, 0, bool(rest)

    def _over(self, length: int) -> None:
        self._number += 1
        with contextlib.suppress(OSError):  # a full disk is not what this thread has to report
            stage.event("heard", number=self._number, seconds=length / BYTES_PER_SECOND)
        self._put(self._whole()[:length], over=True)
        self._pcm.clear()

    def _put(self, pcm: bytes, over: bool) -> None:
        """No microphone talks for so long that this waits; what never ends stays in its stage."""
        with self._taken:
            self._taken.wait_for(lambda: self._waiting < LONGEST * BYTES_PER_SECOND)
            self._waiting += len(pcm)
        self._heard.put(Heard(pcm, over))

    def _whole(self) -> bytes:
        return bytes(self._pcm[: len(self._pcm) // 2 * 2])

    def waiting(self) -> bool:
        """Whether more has come than was asked for."""
        return not self._heard.empty()

    def recordings(self) -> Iterator[Heard]:
        """What is heard, as it comes: each recording when it is over, and before that, so far, at each pause.

        Raises: UserError 65 for nothing, or what is not raw PCM; 66 unreadable.
        """
        while (heard := self._heard.get()) is not None:
            if isinstance(heard, OSError):
                remedy = "Pipe raw PCM into it, or give it files."
                raise UserError(os.EX_NOINPUT, f"cannot read stdin: {heard.strerror}", remedy) from heard
            with self._taken:
                self._waiting -= len(heard.pcm)
                self._taken.notify()
            if heard.over and not heard.pcm:
                raise UserError(os.EX_DATAERR, "no audio arrived", "Record something, or give a file.")
            if heard.pcm.startswith((b"RIFF", b"OggS", b"fLaC", b"ID3", b"caff")):
                remedy = "Give the file as an argument instead."
                raise UserError(os.EX_DATAERR, "stdin is an audio file, not raw PCM (16 kHz, mono, s16le)", remedy)
            yield heard
