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
from numpy.typing import NDArray

from benchmark.spoken_prompts import PROMPTS
from benchmark.voices import VOICES, speak

Sound = NDArray[np.float64]

RATE = 16_000
LENGTH = 10 * RATE
JFK = Path(__file__).with_name("jfk.flac")
PHRASES = [(0.28, 2.15), (3.24, 4.45), (5.30, 7.75), (8.12, 10.60)]  # seconds of it between pauses


class Recording(NamedTuple):
    """Ten seconds of PCM; begins and ends are the seconds of the first and the last sound of the voice, 0 without."""

    name: str
    pcm: bytes
    begins: float
    ends: float


def coloured(random: np.random.Generator, slope: float, length: int = LENGTH) -> Sound:
    """Noise whose power falls with frequency**slope: 0 is white, 1 pink, 2 brown; its level is 1 (rms)."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1 + length // 800) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / np.sqrt((noise**2).mean()))


def hum(random: np.random.Generator) -> Sound:
    """The mains and its harmonics, steady."""
    base, time = random.choice([50, 60]), np.arange(LENGTH) / RATE
    harmonics = [np.sin(2 * np.pi * base * n * time + random.uniform(0, 6)) / n for n in (1, 2, 3, 5, 7)]
    return np.asarray(np.sum(harmonics, axis=0))


def typing(random: np.random.Generator) -> Sound:
    """Keys at four to nine a second: a click and a thud each, over a quiet room."""
    sound = 0.02 * coloured(random, 1)
    at = 0.0
    while (at := at + random.exponential(1 / random.uniform(4, 9))) < 9.8:
        length = int(random.uniform(0.01, 0.05) * RATE)
        time = np.arange(length) / RATE
        key = random.standard_normal(length) * np.exp(-time * random.uniform(150, 500))
        key += np.sin(2 * np.pi * random.uniform(150, 500) * time) * np.exp(-time * 90)
        start = int(at * RATE)
        sound[start : start + length] += random.uniform(0.3, 1) * key[: LENGTH - start]
    return sound


def music(random: np.random.Generator) -> Sound:
    """Chords and a tune of decaying harmonics, two to five notes a second."""
    sound, beat = np.zeros(LENGTH), int(RATE / random.uniform(2, 5))
    root = random.uniform(100, 250)
    scale = root * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]) / 12)
    for start in range(0, LENGTH, beat):
        notes = [2 * random.choice(scale)]
        if start // beat % 4 == 0:
            notes += [scale[0], scale[2], scale[4]]
        length = min(2 * beat, LENGTH - start)
        time = np.arange(length) / RATE
        for note in notes:
            for harmonic in range(1, 7):
                tone = np.sin(2 * np.pi * note * harmonic * time) * np.exp(-3 * time) / harmonic
                sound[start : start + length] += tone
    return sound


def breath(random: np.random.Generator) -> Sound:
    """In and out every three to five seconds, close to the microphone."""
    time = np.arange(LENGTH) / RATE
    swell = np.maximum(0, np.sin(2 * np.pi * time / random.uniform(1.5, 2.5))) ** 2
    return np.asarray(swell * coloured(random, random.uniform(0.5, 1.2)) + 0.01 * coloured(random, 1))


def tones(random: np.random.Generator) -> Sound:
    """Beeps, or one tone that slides."""
    time = np.arange(LENGTH) / RATE
    if random.random() < 0.5:
        gate = np.sin(2 * np.pi * random.uniform(0.3, 3) * time) > 0
        return np.asarray(gate * np.sin(2 * np.pi * random.uniform(300, 3000) * time))
    low, high = sorted(random.uniform(100, 4000, 2))
    return np.asarray(np.sin(2 * np.pi * (low * time + (high - low) / 20 * time**2)))


def _pcm(sound: Sound) -> bytes:
    return (sound.clip(-1, 1) * 32767).astype("<i2").tobytes()


def without_speech() -> Iterator[Recording]:
    """A hundred recordings in which nobody says anything."""
    for number in range(100):
        random = np.random.default_rng(number)
        kinds: dict[str, Callable[[np.random.Generator], Sound]] = {
            "digital silence": lambda _: np.zeros(LENGTH),
            "nearly silence": lambda random: coloured(random, 0) * 1e-4,
            "room": lambda random: coloured(random, random.uniform(0.5, 2)),
            "hum": hum,
            "typing": typing,
            "tones": tones,
            "music": music,
            "breath": breath,
        }
        name, make = list(kinds.items())[number % len(kinds)]
        sound = make(random)
        if "silence" not in name:  # from a whisper of it to loud
            sound *= 10 ** (random.uniform(-55, -15) / 20) / np.sqrt((sound**2).mean())
        yield Recording(f"{number} {name}", _pcm(sound), 0, 0)


def _samples(path: Path) -> Sound:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2") / 32768


def _voices(folder: Path) -> list[tuple[str, Sound]]:
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
    voices = _voices(folder)
    noises: dict[str, Callable[[np.random.Generator], Sound]] = {
        "white": lambda random: coloured(random, 0),
        "pink": lambda random: coloured(random, 1),
        "hum": hum,
        "typing": typing,
        "music": music,
    }
    for number in range(100):
        random = np.random.default_rng(1000 + number)
        voice, sentence = voices[number % len(voices)]
        kind, make = list(noises.items())[number % len(noises)]
        ratio = (30, 15, 5)[number % 3]
        start = int(random.uniform(0.05 * RATE, LENGTH - len(sentence) - 0.1 * RATE))
        noise = make(random)
        sound = noise * 0.05 * 10 ** (-ratio / 20) / np.sqrt((noise**2).mean())
        sound[start : start + len(sentence)] += sentence
        name = f"{number} {voice} with {kind} at {ratio} dB"
        yield Recording(name, _pcm(sound), start / RATE, (start + len(sentence)) / RATE)
