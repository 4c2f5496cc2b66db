"""A gate in front of a recogniser: only recordings in which somebody speaks reach it."""

from __future__ import annotations

import dataclasses
import time

from helpers.core.text import printable
from helpers.listen.endpointing import is_spoken
from helpers.listen.highpass import highpass
from helpers.listen.recognisers import Recogniser
from helpers.listen.transcript import Transcript


class SpeechGate:
    """`recogniser`, but called only for sound with speech, because Whisper hears "Thank you." in noise. Its text is on
    one line and safe to show. The last transcript is kept: asked again about the same recording, the gate returns it.
    seconds: that the recogniser's last answer took.
    """

    seconds = 0.0

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self.name, self.languages, self.translates = recogniser.name, recogniser.languages, recogniser.translates
        self._last: tuple[bytes, Transcript] | None = None
        self._grows = False
        self._spoken = b"?"  # the last sound with speech

    def for_drafts(self) -> SpeechGate:
        """One that keeps other answers and another time, for recordings that still grow: where somebody spoke, it does
        not listen for speech again."""
        gate = SpeechGate(self._recogniser)
        gate._grows = True
        return gate

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono). Raises what the recogniser raises."""
        # The mark at the end of a recording swallows some trailing zeros. Without this, the same recording would look
        # like another one, and the kept transcript would be missed.
        sound = pcm.rstrip(b"\0")
        sound += bytes(len(sound) % 2)
        if not self._last or self._last[0] != sound:
            transcript = Transcript("", "")
            if (self._grows and sound.startswith(self._spoken)) or is_spoken(sound):
                self._spoken = sound
                transcript = self._timed(highpass(sound))
            self._last = sound, dataclasses.replace(transcript, text=printable(transcript.text))
        return self._last[1]

    def _timed(self, pcm: bytes) -> Transcript:
        began = time.monotonic()
        try:
            return self._recogniser.transcribe(pcm)
        finally:
            self.seconds = time.monotonic() - began
