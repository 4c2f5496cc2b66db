"""Reads PCM from a file descriptor and cuts it into recordings: one or, in a loop, one before each mark.

A thread reads from the start, so that a full pipe does not stop the microphone while a model loads.

The end of a recording is marked by half a second of zeros, and a pause by the absence of bytes, not by frames with a
type and a length: raw PCM is what any recorder of the user's own sends, and a second protocol between our own stages
would save 0.15 s at most, and only of a recogniser that takes longer than the rest of the silence.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, MARK

log = logging.getLogger(__name__)

LONGEST = 600  # seconds of a recording: 19 MB, many times what anybody says about one picture
PAUSE = 0.15  # seconds without sound; record sends speech every 50 ms, and nothing while the speaker pauses


class Recording(NamedTuple):
    """A recording (s16le, 16 kHz, mono) so far. complete: whether it is over; else the speaker pauses, or goes on
    speaking."""

    pcm: bytes
    complete: bool
    speaking: bool = False


class PcmStream(threading.Thread):
    """Reads a descriptor until its end. `recordings()` gives what has arrived."""

    def __init__(
        self,
        loop: bool = False,
        on_complete: Callable[[int, float], None] = lambda number, seconds: None,
        fd: int = 0,
        is_marked: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_marked: asked when the first sound has arrived: whether marks end recordings although it is no loop;
        on_complete: called in the thread when the end of a recording has arrived, with its number, from 1, and its
        seconds.

        Raises: UserError 66 if the descriptor is a terminal.
        """
        if os.isatty(fd):
            raise UserError(os.EX_NOINPUT, "no audio on stdin", "Give a file, or pipe raw PCM into it.")
        super().__init__(daemon=True)
        self._fd, self.marked, self._on_complete, self._is_marked = fd, loop, on_complete, is_marked
        self._pcm = bytearray()
        self._fresh = False  # whether sound has arrived since the last pause
        self._number = 0  # of complete recordings
        self._queue: queue.SimpleQueue[Recording | OSError | None] = queue.SimpleQueue()
        self._queued, self._taken = 0, threading.Condition()  # bytes in the queue
        self.start()

    def run(self) -> None:
        try:
            while data := self._read():
                if not (self._number or self._pcm):
                    self.marked = self.marked or self._is_marked()
                begin = max(0, len(self._pcm) - len(MARK)) // 2 * 2
                self._pcm += data
                if self.marked:
                    self._split(begin)
                if len(self._pcm) >= LONGEST * BYTES_PER_SECOND:
                    log.warning("only the first %d minutes are used", LONGEST // 60)
                    if not self.marked:
                        os.close(self._fd)
                        break
                    self._complete(len(self._pcm))
        except OSError as error:
            self._queue.put(error)
        # After the last mark, half a sample or a few zeros are no recording: the mark was found in zeros before it
        if not self._number or any(self._whole_samples()):
            self._complete(len(self._pcm))
        self._queue.put(None)

    def _read(self) -> bytes:
        if self._fresh and not select.select([self._fd], [], [], PAUSE)[0]:
            self._put(self._whole_samples(), complete=False)
            self._fresh = False
        data = os.read(self._fd, min(1 << 16, LONGEST * BYTES_PER_SECOND - len(self._pcm)))
        self._fresh = True
        return data

    def _split(self, begin: int) -> None:
        """End a recording at each mark; no mark begins before byte `begin`."""
        while (end := self._pcm.find(MARK, begin)) >= 0:
            end += end % 2  # the second half of the last sample may be a zero, too
            if self._pcm[end : end + len(MARK)] != MARK:
                return  # its last byte has not arrived
            rest = self._pcm[end + len(MARK) :]
            self._complete(end)
            self._pcm, begin, self._fresh = rest, 0, bool(rest)

    def _complete(self, length: int) -> None:
        self._number += 1
        self._on_complete(self._number, length / BYTES_PER_SECOND)
        self._put(self._whole_samples()[:length], complete=True)
        self._pcm.clear()

    def _put(self, pcm: bytes, complete: bool) -> None:
        """Blocks while 10 minutes of audio are queued. A microphone never gets there; this bounds the memory if stdin
        is an endless stream.

        Zeros at the end of the recording before are taken for the beginning of its mark, so as many zeros of the mark
        are left before this one. They would move the words, and with them Whisper's text."""
        if self.marked:
            pcm = pcm[(len(pcm) - len(pcm.lstrip(b"\0"))) // 2 * 2 :]
        with self._taken:
            self._taken.wait_for(lambda: self._queued < LONGEST * BYTES_PER_SECOND)
            self._queued += len(pcm)
        self._queue.put(Recording(pcm, complete))

    def _whole_samples(self) -> bytes:
        pcm = bytes(self._pcm)  # at once: the thread may add to it
        return pcm[: len(pcm) // 2 * 2]

    def has_more(self) -> bool:
        """Whether more has arrived than was taken."""
        return not self._queue.empty()

    def recordings(self, every: float | None = None) -> Iterator[Recording]:
        """Each recording when it is complete, and before that, at each pause, what of it has arrived.

        every: seconds between two looks at what has arrived while the speaker goes on; None for no such look.
        Raises: UserError 65 for nothing, or for what is not raw PCM; 66 unreadable.
        """
        while (recording := self._next(every)) is not None:
            if isinstance(recording, OSError):
                remedy = "Pipe raw PCM into it, or give it files."
                raise UserError(os.EX_NOINPUT, f"cannot read stdin: {recording.strerror}", remedy) from recording
            if recording.complete and not recording.pcm:
                raise UserError(os.EX_DATAERR, "no audio arrived", "Record something, or give a file.")
            if recording.pcm.startswith((b"RIFF", b"OggS", b"fLaC", b"ID3", b"caff")):
                remedy = "Give the file as an argument instead."
                raise UserError(os.EX_DATAERR, "stdin is an audio file, not raw PCM (16 kHz, mono, s16le)", remedy)
            yield recording

    def _next(self, every: float | None) -> Recording | OSError | None:
        while True:
            try:
                recording = self._queue.get(timeout=every)
            except queue.Empty:
                if self._fresh and (pcm := self._whole_samples()):
                    return Recording(pcm, complete=False, speaking=True)
                continue
            if isinstance(recording, Recording):
                with self._taken:
                    self._queued -= len(recording.pcm)
                    self._taken.notify()
            return recording
