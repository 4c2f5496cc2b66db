"""transcribe: what is recognised before a recording is over, and that it never changes or delays the final words."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import recordings
import words_while_speaking

from helpers.core import session, stage
from helpers.core.pcm import MARK
from helpers.core.settings import Settings
from helpers.listen import audio, partial, pcm_stream, transcribe
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

    def __init__(self, *seconds: float, answers: Iterable[Transcript] = ()) -> None:
        """seconds: that it takes, the first time, the second …; answers: likewise, then how often it was asked."""
        self._seconds, self._answers = iter(seconds), iter(answers)
        self.asked: list[int] = []
        self.begins = threading.Semaphore(0)

    def transcribe(self, pcm: bytes) -> Transcript:
        self.asked.append(len(pcm))
        self.begins.release()
        time.sleep(next(self._seconds, 0))
        return next(self._answers, Transcript(f"{len(self.asked)} times", "en"))


class Speaker:
    """Stands for record: what it sends is heard by `Lines` in a thread of its own."""

    def __init__(self, recogniser: Slow, session: Path | None = None) -> None:
        reader, writer = os.pipe()
        self.pipe, self.written = os.fdopen(writer, "wb", buffering=0), io.BytesIO()
        settings = Settings(loop=True, quiet=True, session=session)
        lines = transcribe.Lines(SpeechGate(recogniser), settings, self.written, Corrections())
        self._listener = threading.Thread(target=lines.of_stream, args=(PcmStream(loop=True, fd=reader),))
        self._listener.start()

    def says(self, number: int) -> None:
        """The first 1.2 seconds, in which the gate hears speech, or 0.2 more."""
        self.pipe.write(SPEECH[:38_400] if number == 0 else SPEECH[32_000 + number * 6400 :][:6400])

    def ends(self) -> list[str]:
        """The lines, after the last recording."""
        self.pipe.close()
        self._listener.join(20)
        return self.written.getvalue().decode().split("\n")[:-1]  # the mark of a line would end one for splitlines


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recogniser is asked in pauses only."""
    monkeypatch.setattr(partial, "LIGHT", -1)


@pytest.fixture
def fluent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pauses, and what is said at once is heard at once, however slow this machine is."""
    monkeypatch.setattr(pcm_stream, "PAUSE", 60)
    monkeypatch.setattr(transcribe, "EVERY", 0.3)


# ---- in a pause


@pytest.mark.usefixtures("silent")
def test_a_recogniser_that_outlasts_the_pause_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recording is over while it is at work, and it is not asked a second time."""
    monkeypatch.setattr(partial, "QUICK", 10)  # whatever else this machine does
    recogniser = Slow(0.7, 0.7)
    speaker = Speaker(recogniser)
    for number in (1, 2):
        speaker.pipe.write(said(number))
        assert recogniser.begins.acquire(timeout=10)  # and not only after the mark
        speaker.pipe.write(MARK)
    assert speaker.ends() == ["1 times", "2 times"]


@pytest.mark.usefixtures("silent")
def test_what_is_said_after_a_pause_is_not_lost() -> None:
    recogniser = Slow(0.3)
    speaker = Speaker(recogniser)
    speaker.pipe.write(said(1))
    assert recogniser.begins.acquire(timeout=10)
    speaker.pipe.write(said(2) + MARK)  # while it is at work
    assert speaker.ends() == ["2 times"]
    assert recogniser.asked == [len(said(1)), len(said(1) + said(2))]


@pytest.mark.usefixtures("silent")
def test_a_slow_recogniser_is_not_asked_in_a_pause_until_it_is_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "QUICK", 0.2)
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


# ---- while somebody speaks


def comes(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.usefixtures("fluent")
def test_what_three_answers_agree_on_is_shown_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "LIGHT", 60)
    heard = [("a", 1), ("a cat", 2), ("a cat", 1), ("a cat on", 2), ("a cat on", 2), *[("two cats", 2)] * 3]
    recogniser = Slow(answers=[Transcript(text, "en", 0.9, firm=firm) for text, firm in [*heard, heard[-1]]])
    speaker, shown = Speaker(recogniser, tmp_path), tmp_path / session.PARTIAL
    seen = []

    def event(name: str, **what: str) -> None:
        if name == "partial":
            seen.append((what["text"], shown.read_text()))

    monkeypatch.setattr(stage, "event", event)
    for number in range(len(heard)):
        speaker.says(number)
        assert recogniser.begins.acquire(timeout=20)
    speaker.pipe.write(MARK)
    lines = speaker.ends()
    assert len(lines) == 1 and lines[0].endswith("two cats")
    assert seen == [("a", "a"), ("a cat", "a cat")]
    assert shown.read_text() == ""  # for the next recording


@pytest.mark.usefixtures("fluent")
def test_a_heavy_recogniser_is_asked_once_while_somebody_speaks() -> None:
    recogniser = Slow(0.5, 0.5)
    speaker = Speaker(recogniser)
    for number in range(5):
        speaker.says(number)
        assert number or recogniser.begins.acquire(timeout=10)
    assert not recogniser.begins.acquire(timeout=1)
    speaker.pipe.write(MARK)
    assert recogniser.begins.acquire(timeout=10)  # at the end
    for number in range(5):
        speaker.says(number)
    assert not recogniser.begins.acquire(timeout=1)  # not even once, since it was slow twice
    assert len(speaker.ends()) == 2


def test_words_that_are_shown_stay_and_change_nothing(tmp_path: Path) -> None:
    """The built-in recogniser, on the headless microphone."""
    chosen = [
        (number, recording)
        for number, recording in enumerate(recordings.with_speech(tmp_path / "voices"))
        if number in (6, 22)
    ]
    said = words_while_speaking.listened(chosen, tmp_path)
    assert [one.recording for one in said] == [6, 22]
    for one in said:
        assert one.final and one.final == one.again and one.kept()  # when they come depends on what else runs
