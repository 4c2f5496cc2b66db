"""What is recognised before a recording is over: while somebody speaks, and in each pause."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core import session, stage
from helpers.core.errors import UserError
from helpers.core.files import write_whole
from helpers.core.pcm import BYTES_PER_SECOND
from helpers.listen.transcript import Transcript
from helpers.words.agreement import Agreement

if TYPE_CHECKING:
    from helpers.listen.speech_gate import SpeechGate

# Seconds that the recogniser may take if it is asked in a pause. If the speaker goes on, the next pause is noticed a
# second later or more: the end of this one (0.1 s at least), a word (0.4), and again 0.45 of silence. A recogniser that
# takes no longer is then free again, and never delays the final words.
QUICK = 1.0
# Seconds that it may take if it is asked while somebody speaks. A pause is noticed 0.45 s after the last word; sound
# arrives for 0.3 of them. Asked at the last moment, it is free 0.15 s late, and still before the end of the recording.
# The built-in recogniser takes longer for more speech. When it has taken this long, it is asked again only about the
# next recording.
LIGHT = 0.3
EVERY = 0.1  # seconds between two looks at what has arrived
MORE = 0.2  # seconds of new sound that are needed to ask again: an answer always agrees with itself
# The least confidence of what is shown: of three answers while somebody speaks, and of the one in a pause, where more
# words may follow that change it. See BuiltinRecogniser for what confidence means there.
LEAST, SURE = 0.11, 0.6


class Partial:
    """Asks the recogniser about what was said so far. What it is sure of is written into a file for record's line on
    the terminal, and becomes the event `partial`.

    In a pause these are the final words if nothing follows: the speech gate returns them again without asking the
    recogniser, or they come when it has finished, earlier than if it were asked at the end of the recording. It is
    asked only if its last answer was quick enough; so the rule follows the speed of this machine and what else runs.
    """

    def __init__(self, gate: SpeechGate, text: Callable[[Transcript], str], folder: Path | None) -> None:
        """text: what is written of a transcript; folder: the session; without one, there is no file."""
        self._gate, self._drafts, self._text = gate, gate.for_drafts(), text
        self._file = (folder or Path(os.devnull)) / session.PARTIAL
        self._agreement, self._shown, self._number = Agreement(LEAST), "", 1
        self._length = 0  # of the sound that was last asked about
        self._first = self._last = 0.0  # seconds that the first and the last look of a recording took

    def grow(self, pcm: bytes) -> None:
        """Somebody speaks: words on which this and the last answers agree are shown, and not taken back."""
        if len(pcm) < self._length + MORE * BYTES_PER_SECOND:
            return
        self._length, first = len(pcm), not self._last
        if (min(self._first, self._gate.seconds) if first else self._last) > LIGHT:
            return
        began = time.monotonic()
        if transcript := self._heard(self._drafts, pcm):
            firm = transcript.firm
            beginning = None if firm is None else replace(transcript, text=" ".join(transcript.text.split()[:firm]))
            firm_text = None if beginning is None else self._text(beginning)
            self._show(self._agreement.hear(self._text(transcript), firm_text, transcript.confidence))
        else:
            self._agreement.doubt()
        self._last = time.monotonic() - began
        self._first = self._last if first else self._first

    def pause(self, pcm: bytes) -> None:
        """Somebody pauses: all words are shown."""
        if self._gate.seconds > QUICK:
            return
        transcript = self._heard(self._gate, pcm)
        if transcript and (transcript.confidence is None or transcript.confidence >= SURE):
            self._show(self._agreement.conclude(self._text(transcript)))

    def end(self) -> None:
        """The recording is over; the next one begins."""
        self._agreement, self._shown = Agreement(LEAST), ""
        self._length, self._last = 0, 0.0
        self._number += 1
        self._write()

    def _heard(self, gate: SpeechGate, pcm: bytes) -> Transcript | None:
        """What `gate` understands; None if there is an error, which is reported at the end of the recording."""
        with contextlib.suppress(UserError, OSError):
            return gate.transcribe(pcm)
        return None

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            self._write()
            with contextlib.suppress(OSError):
                stage.event("partial", number=self._number, text=text[:300])

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            write_whole(self._file, self._shown.encode())
