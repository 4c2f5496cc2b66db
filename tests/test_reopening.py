"""--loop outlasts its microphone: it goes on after the microphone was away, and after the program was stopped."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import microphone
import pytest
from processes import wait_until

from benchmark.voices import speak
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.listen import microphone as ours
from helpers.listen import reopening
from helpers.listen.reopening import listen_on

SOUND = b"\1\0" * 800
NONE_FOUND = UserError(os.EX_UNAVAILABLE, "no microphone was found")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopening, "EVERY", 0.01)
    monkeypatch.setattr(reopening, "LONGEST", 0.5)


class Microphone:
    """A `listen` that does, each time it is opened, what the next of `openings` says: yields chunks, and then ends or
    raises. opened: the names with which it was."""

    def __init__(self, *openings: list[bytes | UserError | Callable[[], None]]) -> None:
        self._openings = iter(openings)
        self.opened: list[str] = []
        self.closed = 0

    def __call__(self, name: str, stopped: Callable[[], bool]) -> Generator[bytes, None, None]:
        self.opened.append(name)
        try:
            for what in next(self._openings, [NONE_FOUND]):
                if isinstance(what, UserError):
                    raise what
                if isinstance(what, bytes):
                    yield what
                else:
                    what()
        finally:
            self.closed += 1


def never() -> bool:
    return False


def test_a_gap_is_told_where_it_is_and_once(caplog: pytest.LogCaptureFixture) -> None:
    source = Microphone([SOUND, b""], [NONE_FOUND], [b"", NONE_FOUND], [b"", SOUND])
    chunks = listen_on(source, "Yeti", never)
    with caplog.at_level(logging.WARNING, "helpers"):
        assert [next(chunks) for _ in range(6)] == [SOUND, b"", None, b"", b"", SOUND]
    chunks.close()
    assert source.opened == ["Yeti"] * 4 and source.closed == 4
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["the microphone went away"]


def test_each_time_that_it_goes_away_is_told(caplog: pytest.LogCaptureFixture) -> None:
    chunks = listen_on(Microphone([SOUND], [SOUND], [SOUND]), "", never)
    with caplog.at_level(logging.WARNING, "helpers"):
        assert [next(chunks) for _ in range(5)] == [SOUND, None, SOUND, None, SOUND]
    assert len(caplog.records) == 2


def test_nothing_is_told_of_a_program_that_stood_still(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reopening, "STOOD_STILL", 0.1)
    chunks = listen_on(Microphone([SOUND, lambda: time.sleep(0.2)], [SOUND]), "", never)
    with caplog.at_level(logging.WARNING, "helpers"):
        assert [next(chunks) for _ in range(3)] == [SOUND, None, SOUND]
    assert not caplog.records


def test_it_waits_only_so_long() -> None:
    source = Microphone([SOUND], [SOUND])
    chunks = listen_on(source, "", never)
    assert [next(chunks) for _ in range(4)] == [SOUND, None, SOUND, None]
    with pytest.raises(UserError, match="did not come back within") as caught:
        next(chunks)
    assert caught.value.code == os.EX_UNAVAILABLE and "start again" in caught.value.remedy
    assert len(source.opened) > 5


def test_the_time_in_which_the_program_is_stopped_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopening, "_LONGEST_TRY", 0.1)
    stopped: list[bytes | UserError | Callable[[], None]] = [lambda: time.sleep(0.6), NONE_FOUND]
    chunks = listen_on(Microphone([SOUND], stopped, [SOUND]), "", never)
    assert [next(chunks) for _ in range(3)] == [SOUND, None, SOUND]


def test_without_a_first_sample_it_fails_at_once() -> None:
    source = Microphone([b"", NONE_FOUND])
    chunks = listen_on(source, "", never)
    assert next(chunks) == b""
    with pytest.raises(UserError, match="no microphone was found"):
        next(chunks)
    assert len(source.opened) == 1


def test_stopped_while_it_waits() -> None:
    source = Microphone([SOUND])
    chunks = listen_on(source, "", lambda: len(source.opened) > 2)
    assert list(chunks) == [SOUND, None] and len(source.opened) == 3


# ------------------------------------------------------------------------------- a real microphone, a real process


@pytest.fixture
def heard() -> Iterator[dict[str, str]]:
    with microphone.running() as environment:
        yield {name: value for name, value in environment.items() if not name.startswith(("A2I_", "PYTHON"))}


def test_a_loop_goes_on(heard: dict[str, str], tmp_path: Path) -> None:
    """All its processes are stopped for longer than it waits for a sample; then its microphone goes away twice."""
    sentence = tmp_path / "sentence.wav"
    speak("slt", "a cat on the beach", sentence)
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.listen.record", "--loop"],
        cwd=ROOT,
        env={**heard, "A2I_SESSION": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr and b"speak" in process.stderr.readline()
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, check=True).stdout
    (ffmpeg,) = map(int, found.split())

    for pid in (process.pid, ffmpeg):
        os.kill(pid, signal.SIGSTOP)
    speaker = subprocess.Popen(["paplay", sentence], env=heard)  # to nobody
    time.sleep(ours.PATIENCE + 0.2)
    assert speaker.wait() == 0
    for pid in (process.pid, ffmpeg):
        os.kill(pid, signal.SIGCONT)
    assert wait_until(lambda: not Path(f"/proc/{ffmpeg}").exists() and microphone.listeners(heard) == 1)

    speaker = subprocess.Popen(["paplay", sentence], env=heard, stderr=subprocess.DEVNULL)
    time.sleep(1.2)
    microphone.unplug(heard)
    speaker.wait()
    assert wait_until((tmp_path / "recording-1.wav").exists)  # half of the sentence
    assert b"the microphone went away; listening goes on" in process.stderr.readline()  # and nothing before

    microphone.plug(heard)
    assert wait_until(lambda: microphone.listeners(heard) == 1)
    time.sleep(0.3)
    microphone.speak(heard, sentence)
    assert wait_until((tmp_path / "recording-2.wav").exists)

    microphone.unplug(heard)
    assert b"went away" in process.stderr.readline()
    process.send_signal(signal.SIGINT)  # it would wait for five minutes
    _, said = process.communicate(timeout=5)
    assert (process.returncode, said) == (0, b"")
    assert sorted(path.name for path in tmp_path.glob("recording-*")) == ["recording-1.wav", "recording-2.wav"]
