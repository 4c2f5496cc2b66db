"""What is said of a microphone that is muted, too loud, or at the wrong speed."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.core.paths import ROOT
from helpers.listen import audio
from helpers.listen.levels import LevelCheck, is_clipped

CHUNK = 1600  # bytes; 50 ms


def hear(pcm: bytes, monkeypatch: pytest.MonkeyPatch, speed: float = 1.0) -> LevelCheck:
    """A check that heard `pcm`, `speed` seconds of it in a second."""
    check = LevelCheck()
    clock = iter(np.arange(1, 10_000) * 0.05 / speed)
    monkeypatch.setattr("helpers.listen.levels.time.monotonic", lambda: next(clock))
    for start in range(0, len(pcm), CHUNK):
        check.feed(pcm[start : start + CHUNK])
    return check


def tone(level: float, seconds: float = 6) -> bytes:
    sound = level * np.sin(2 * np.pi * 200 * np.arange(int(seconds * 16_000)) / 16_000)
    return (sound.clip(-1, 1) * 32767).astype("<i2").tobytes()


def test_a_good_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    check = hear(tone(0.1), monkeypatch)
    assert (check.seconds, check.complaint(), check.is_silent()) == (6, "", False)
    assert check.loudest == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("pcm", [b"", bytes(CHUNK * 40), tone(1e-5)])
def test_silence(pcm: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hear(pcm, monkeypatch).is_silent()


def test_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "clipped" in hear(tone(2), monkeypatch).complaint()
    assert hear(tone(0.99), monkeypatch).complaint() == ""
    assert hear(tone(2, 0.01) + tone(0.1), monkeypatch).complaint() == ""  # one shout


@pytest.mark.parametrize("speed", [0.5, 2])
def test_a_device_at_the_wrong_speed(speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{speed:.2f} seconds of sound a second" in hear(tone(0.1), monkeypatch, speed).complaint()


def test_a_gap_is_not_a_wrong_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds of sound, a minute without, three seconds: 0.1 seconds of sound a second."""
    clock = iter([*np.arange(0, 3, 0.05), *np.arange(63, 66, 0.05)])
    monkeypatch.setattr("helpers.listen.levels.time.monotonic", lambda: next(clock))
    check = LevelCheck()
    for number in range(120):
        if number == 60:
            check.gap()
        check.feed(tone(0.1, 0.05))
    assert check.speed() == pytest.approx(1)


def test_too_short_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hear(tone(0.1, 2), monkeypatch, 2).complaint() == ""


def test_an_offset_is_not_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """A muted microphone of a sound card with an offset of 1 %."""
    assert hear(np.full(50_000, 328, "<i2").tobytes(), monkeypatch).is_silent()


def test_a_clipped_recording() -> None:
    """Also one that was turned down after it was clipped."""
    good = audio.decode(ROOT / "examples" / "burger.wav")
    loud = (np.frombuffer(good, "<i2") * 12.0).clip(-32768, 32767)
    clipped = [(loud * level).astype("<i2").tobytes() for level in (1, 0.7)]
    assert [is_clipped(pcm) for pcm in (good, *clipped, b"", bytes(99))] == [False, True, True, False, False]
