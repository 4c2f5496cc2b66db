"""Recordings of ten seconds with and without speech, of which it is known when somebody speaks.

    for recording in with_speech(folder): ...   # 100: seven voices, six kinds of noise
    for recording in without_speech(): ...      # 100: silence, rooms, hum, typing, tones, music, breath

All of it is made from seeds: synthetic voices (benchmark/voices.py), a voice of 1961 (jfk.flac: the inaugural
address of John F. Kennedy, in the public domain), and noise by formula.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark import noises
from benchmark.noises import LENGTH, Sound, coloured, hum, music, pcm, typing
from benchmark.spoken_prompts import PROMPTS
from benchmark.voices import VOICES, speak
from helpers.core.pcm import RATE

JFK = Path(__file__).with_name("jfk.flac")
PHRASES = [(0.28, 2.15), (3.24, 4.45), (5.30, 7.75), (8.12, 10.60)]  # seconds of it between pauses


class Recording(NamedTuple):
    """Ten seconds of PCM; begins and ends are the seconds of the first and the last sound of the voice, 0 without."""

    name: str
    pcm: bytes
    begins: float
    ends: float


def without_speech() -> Iterator[Recording]:
    """A hundred recordings in which nobody says anything."""
    for name, sound in noises.without_speech(100):
        yield Recording(name, sound, 0, 0)


def _samples(path: Path) -> Sound:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2") / 32768


def sentences(folder: Path) -> list[tuple[str, Sound]]:
    """Sentences of 1 to 6 seconds, nothing before and after them, at a level of -26 dBFS: (voice, samples)."""
    folder.mkdir(exist_ok=True)
    sentences = [("jfk", _samples(JFK)[int(a * RATE) : int(b * RATE)]) for a, b in PHRASES]
    for number, prompt in enumerate(PROMPTS):
        voice = list(VOICES)[number % len(VOICES)]
        path = folder / f"{number}.wav"
        if not path.exists():
            speak(voice, prompt.text, path)
        sentences.append((voice, _samples(path)))
    trimmed = []
    for voice, sound in sentences:
        loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
        sound = sound[loud[0] : loud[-1] + 1]
        trimmed.append((voice, sound * 0.05 / np.sqrt((sound**2).mean())))
    return trimmed


def with_speech(folder: Path) -> Iterator[Recording]:
    """A hundred recordings of a sentence at a random moment; `folder` keeps what the voices say."""
    voices = sentences(folder)
    kinds: dict[str, Callable[[np.random.Generator], Sound]] = {
        "white": lambda random: coloured(random, 0),
        "pink": lambda random: coloured(random, 1),
        "hum": hum,
        "typing": typing,
        "music": music,
    }
    for number in range(100):
        random = np.random.default_rng(1000 + number)
        voice, sentence = voices[number % len(voices)]
        kind, make = list(kinds.items())[number % len(kinds)]
        ratio = (30, 15, 5)[number % 3]
        start = int(random.uniform(0.05 * RATE, LENGTH - len(sentence) - 0.1 * RATE))
        noise = make(random)
        sound = noise * 0.05 * 10 ** (-ratio / 20) / np.sqrt((noise**2).mean())
        sound[start : start + len(sentence)] += sentence
        name = f"{number} {voice} with {kind} at {ratio} dB"
        yield Recording(name, pcm(sound), start / RATE, (start + len(sentence)) / RATE)
