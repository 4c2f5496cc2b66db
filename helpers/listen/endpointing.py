"""Cuts what is said out of the sound of a microphone: from a little before the first word to just after the last.

    for chunk in microphone:
        for piece in listener.hear(chunk):   # of an utterance, as it is said; None when it is over
            ...

Silence is held back until it is known whether speech goes on. Therefore nothing arrives at the next stage while the
speaker pauses, and what has arrived then is, if it was the last word, the whole utterance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from helpers.core.pcm import BYTES_PER_SECOND
from helpers.listen import vad

BEFORE = 0.8  # seconds kept before the first frame that is taken for speech; in noise the network may hear it 0.3 late
AFTER = 0.3  # seconds that are taken for the end of the last word

# Speech begins with so many frames (32 ms) of it among the last so many: a click or a key is shorter.
_FRAMES, _AMONG = 3, 8

_FRAME_BYTES = 2 * vad.FRAME


class Listener:
    """Hears a stream of PCM (s16le, 16 kHz, mono) and tells the utterances in it."""

    def __init__(self, silence: float, longest: float = math.inf) -> None:
        """silence: seconds without speech that end an utterance; longest: seconds after which it ends in any case."""
        self._detector = vad.Detector()
        self._limit = silence / vad.FRAME_SECONDS
        self._longest = longest / vad.FRAME_SECONDS
        self._pcm = bytearray()  # not yet a frame
        self._before: deque[bytes] = deque(maxlen=_AMONG + round(BEFORE / vad.FRAME_SECONDS))
        self._recent: deque[bool] = deque(maxlen=_AMONG)
        self._held: list[bytes] = []
        self._frames = self._silent = 0  # of the utterance; of them since the last word
        self.speaking = False

    @property
    def silent(self) -> float:
        """Seconds since the last word of the utterance."""
        return self._silent * vad.FRAME_SECONDS

    def hear(self, pcm: bytes) -> Iterator[bytes | None]:
        """Take in sound of any length; yield what of it, and of what was held back, is said, and None at each end."""
        self._pcm += pcm
        for probability in self._detector.hear(pcm):
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
    """Whether somebody says something in a whole recording (s16le, 16 kHz, mono)."""
    listener = Listener(math.inf)
    seconds = (pcm[i : i + BYTES_PER_SECOND] for i in range(0, len(pcm), BYTES_PER_SECOND))
    return any(piece for second in seconds for piece in listener.hear(second))
