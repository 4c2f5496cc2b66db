"""transcribe: what is recognised before a recording is over, and that it never changes or delays the final words."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from helpers.core.pcm import MARK
from helpers.core.settings import Settings
from helpers.listen import audio, transcribe
from helpers.listen.pcm_stream import PcmStream
from helpers.listen.record import without_mark
from helpers.listen.speech_gate import SpeechGate
from helpers.listen.transcript import Transcript
from helpers.words.own_words import Corrections

SPEECH = without_mark(audio.decode("examples/burger.wav"))


def said(number: int) -> bytes:
    """Nearly the same each time. No zero at the end: it would be taken for a part of the mark."""
    return SPEECH + bytes([number, 1])


class Slow:
    """A recogniser that takes its time. asked: the lengths of what it was asked about, in bytes."""

    name, languages, translates = "slow", "any", True

    def __init__(self, *seconds: float) -> None:
        """seconds: that it takes, the first time, the second …"""
        self._seconds = list(seconds)
        self.asked: list[int] = []
        self.begins = threading.Semaphore(0)

    def transcribe(self, pcm: bytes) -> Transcript:
        self.asked.append(len(pcm))
        self.begins.release()
        time.sleep(self._seconds.pop(0) if self._seconds else 0)
        return Transcript(f"{len(self.asked)} times", "en")


class Speaker:
    """Stands for record: what it sends is heard by `Lines` in a thread of its own."""

    def __init__(self, recogniser: Slow) -> None:
        reader, writer = os.pipe()
        self.pipe, self.written = os.fdopen(writer, "wb", buffering=0), io.BytesIO()
        settings = Settings(loop=True, quiet=True)
        lines = transcribe.Lines(SpeechGate(recogniser), settings, self.written, Corrections())
        self._listener = threading.Thread(target=lines.of_stream, args=(PcmStream(loop=True, fd=reader),))
        self._listener.start()

    def ends(self) -> list[str]:
        """The lines, after the last recording."""
        self.pipe.close()
        self._listener.join(20)
        return self.written.getvalue().decode().splitlines()


def test_a_recogniser_that_outlasts_the_pause_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recording is over while it is at work, and it is not asked a second time."""
    monkeypatch.setattr(transcribe, "QUICK", 10)  # whatever else this machine does
    recogniser = Slow(0.7, 0.7)
    speaker = Speaker(recogniser)
    for number in (1, 2):
        speaker.pipe.write(said(number))
        assert recogniser.begins.acquire(timeout=10)  # and not only after the mark
        speaker.pipe.write(MARK)
    assert speaker.ends() == ["1 times", "2 times"]


def test_what_is_said_after_a_pause_is_not_lost() -> None:
    recogniser = Slow(0.3)
    speaker = Speaker(recogniser)
    speaker.pipe.write(said(1))
    assert recogniser.begins.acquire(timeout=10)
    speaker.pipe.write(said(2) + MARK)  # while it is at work
    assert speaker.ends() == ["2 times"]
    assert recogniser.asked == [len(said(1)), len(said(1) + said(2))]


def test_a_slow_recogniser_is_not_asked_in_a_pause_until_it_is_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe, "QUICK", 0.2)
    recogniser = Slow(0.4)
    speaker = Speaker(recogniser)
    speaker.pipe.write(said(1))
    assert recogniser.begins.acquire(timeout=10)
    speaker.pipe.write(MARK + said(2))
    assert not recogniser.begins.acquire(timeout=1)
    speaker.pipe.write(MARK)
    assert recogniser.begins.acquire(timeout=10)  # at the end, and it was quick
    speaker.pipe.write(said(3))
    assert recogniser.begins.acquire(timeout=10)
    speaker.pipe.write(MARK)
    assert speaker.ends() == ["1 times", "2 times", "3 times"]
