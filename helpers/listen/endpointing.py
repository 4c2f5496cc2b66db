"""Endpoint detection: cuts utterances out of the sound of a microphone, from a little before the first word to just
after the last.

    for chunk in microphone:
        for piece in endpointer.feed(chunk):   # a part of an utterance while it is spoken; None at its end
            ...

Silence is held back until speech goes on. So nothing arrives at the next stage while the speaker pauses, and if the
speaker has finished, the whole utterance has already arrived.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator

from helpers.core.pcm import BYTES_PER_SECOND
from helpers.listen import vad
from helpers.listen.highpass import HighPass

BEFORE = 0.8  # seconds kept before the first frame of speech; in noise the network may detect it 0.3 s late
AFTER = 0.3  # seconds kept after the last frame of speech

# Speech begins when 3 of the last 8 frames (32 ms each) are speech: a click or a key is shorter.
_FRAMES, _AMONG = 3, 8

_FRAME_BYTES = 2 * vad.FRAME


class Endpointer:
    """Finds the utterances in a stream of PCM (s16le, 16 kHz, mono)."""

    def __init__(self, silence: float, longest: float = math.inf) -> None:
        """silence: seconds without speech that end an utterance; longest: seconds after which it is cut."""
        self._detector, self._highpass = vad.Detector(), HighPass()
        self.ends_after(silence)
        self._longest = longest / vad.FRAME_SECONDS
        self._pcm = bytearray()  # less than a frame
        self._before: deque[bytes] = deque(maxlen=_AMONG + round(BEFORE / vad.FRAME_SECONDS))
        self._recent: deque[bool] = deque(maxlen=_AMONG)
        self._held: list[bytes] = []
        self._frames = self._silent = 0  # of the utterance; of them, since the last word
        self.speaking = False

    @property
    def silent(self) -> float:
        """Seconds since the last word of the utterance."""
        return self._silent * vad.FRAME_SECONDS

    def ends_after(self, silence: float) -> None:
        """Change the seconds without speech that end an utterance."""
        self._limit = silence / vad.FRAME_SECONDS

    def feed(self, pcm: bytes) -> Iterator[bytes | None]:
        """Take in sound of any length; yield the parts that are speech, and None at the end of each utterance."""
        self._pcm += pcm
        for probability in self._detector.feed(self._highpass.feed(pcm)):
            frame = bytes(self._pcm[:_FRAME_BYTES])
            del self._pcm[:_FRAME_BYTES]
            self._recent.append(probability >= vad.BEGINS)
            begins = sum(self._recent) >= _FRAMES
            if not self.speaking:
                self._before.append(frame)
                if begins:
                    yield b"".join(self._before)
                    self._frames, self._silent = len(self._before), 0
                    self._before.clear()
                    self.speaking = True
                continue
            self._frames += 1
            if probability >= vad.GOES_ON and (begins or self._silent < _AMONG):
                self._silent = 0
            else:
                self._silent += 1
            if self.silent > AFTER:
                self._held.append(frame)
            else:
                yield b"".join((*self._held, frame))
                self._held.clear()
            if self._silent >= self._limit or self._frames >= self._longest:
                self.speaking = False
                self._before.extend(self._held)
                self._held.clear()
                self._recent.clear()
                yield None


def is_spoken(pcm: bytes) -> bool:
    """Whether somebody speaks in a whole recording (s16le, 16 kHz, mono)."""
    endpointer = Endpointer(math.inf)
    seconds = (pcm[i : i + BYTES_PER_SECOND] for i in range(0, len(pcm), BYTES_PER_SECOND))
    return any(piece for second in seconds for piece in endpointer.feed(second))


def pieces(pcm: bytes, longest: float) -> list[bytes]:
    """A recording (s16le, 16 kHz, mono) in pieces of at most `longest` seconds.

    Each cut is in the middle of the longest pause of the second half of what a piece may hold; without a pause, where
    speech is least likely.
    """
    found, frames = [], int(longest / vad.FRAME_SECONDS)
    probabilities = vad.Detector().feed(pcm).tolist()
    while len(pcm) > longest * BYTES_PER_SECOND:
        later = probabilities[frames // 2 : frames]
        runs = [(len(list(run)), quiet) for quiet, run in itertools.groupby(later, lambda speech: speech < vad.GOES_ON)]
        at, cut, most = 0, later.index(min(later)), 0
        for length, quiet in runs:
            if quiet and length > most:
                cut, most = at + length // 2, length
            at += length
        cut += frames // 2
        found.append(pcm[: cut * _FRAME_BYTES])
        pcm, probabilities = pcm[cut * _FRAME_BYTES :], probabilities[cut:]
    return [*found, pcm]
