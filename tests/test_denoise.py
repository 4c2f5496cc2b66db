"""Noise goes where there is much of it, the voice stays, and without FFmpeg all stays as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.denoise import Array, samples, spoilt
from benchmark.voices import speak
from helpers.core import ffmpeg_programs
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.listen import audio, denoise, recognisers
from helpers.listen.builtin_recogniser import BuiltinRecogniser


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("voice") / "robot.wav"
    speak("slt", "a robot on the street", path)
    return audio.decode(path)


@pytest.fixture(scope="module")
def pink() -> Array:
    size = 10 * RATE
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=size))
    sound = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), size)
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def hum() -> Array:
    times = np.arange(10 * RATE) / RATE
    waves = np.array([np.sin(2 * np.pi * 50 * k * times) / k for k in range(1, 9)], np.float32)
    return np.asarray(waves.sum(axis=0), np.float32)


def test_noise_goes_and_the_voice_stays(voice: bytes, pink: Array) -> None:
    noisy = spoilt(voice, pink, 15, "")
    clean = denoise.denoised(noisy)
    before, after = denoise.levels(noisy), denoise.levels(clean)
    assert after[1] < before[1] - 5 and abs(after[0] - before[0]) < 1.5
    assert abs(len(clean) - len(noisy)) < BYTES_PER_SECOND // 5


def test_a_hum_goes(voice: bytes, hum: Array) -> None:
    noisy = spoilt(voice, hum, 5, "")
    before, after = (np.abs(np.fft.rfft(samples(pcm)[: 2 * RATE])) for pcm in (noisy, denoise.denoised(noisy)))
    assert after[100] < before[100] / 3  # 50 Hz: the bins are half a hertz apart


def test_what_is_clean_is_not_touched(voice: bytes, pink: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg_programs, "found", lambda: pytest.fail("FFmpeg was asked"))
    for pcm in (voice, spoilt(voice, pink, 30, "")):
        assert denoise.denoised(pcm) is pcm
    assert denoise.denoised(b"") == b"" and denoise.denoised(bytes(10)) == bytes(10)


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 60", "exit 0", None])
def test_without_ffmpeg_it_stays_as_it_is(
    voice: bytes, pink: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script and "sleep" in script else str(tmp_path))
    monkeypatch.setattr(denoise, "PATIENCE", 0.5)
    if script:
        (tmp_path / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ffmpeg").chmod(0o755)
    noisy = spoilt(voice, pink, 10, "")
    assert denoise.denoised(noisy) == noisy  # the one that sleeps, after half a second


def test_the_built_in_recogniser_understands_more(
    voice: bytes, pink: Array, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A2I_MODELS", str(tmp_path))
    noisy = spoilt(voice, pink, 15, "")
    assert BuiltinRecogniser().transcribe(noisy).text != "a robot on the street"
    with recognisers.load(recognisers.Request(models=tmp_path)) as recogniser:
        assert recogniser.transcribe(noisy).text == "a robot on the street"


def test_noise_alone_does_not_become_words(pink: Array) -> None:
    for level in (0.3, 0.03):
        sound = (pink[: 4 * RATE] / np.abs(pink).max() * 32768 * level).astype(np.int16).tobytes()
        assert denoise.denoised(sound) != sound  # it is all noise
        assert BuiltinRecogniser().transcribe(denoise.denoised(sound)).text == ""
