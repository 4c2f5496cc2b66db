"""Sounds without words, made from seeds by formula: noise, hum, typing, tones, music, breath; and of a throat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.core.pcm import RATE

Sound = NDArray[np.float64]

LENGTH = 10 * RATE


class Quiet(NamedTuple):
    """A recording in which nobody says anything (s16le)."""

    name: str
    pcm: bytes


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


def pcm(sound: Sound) -> bytes:
    """sound: -1…1 → s16le."""
    return (sound.clip(-1, 1) * 32767).astype("<i2").tobytes()


def without_speech(count: int) -> Iterator[Quiet]:
    """Recordings of ten seconds in which nobody says anything, of eight kinds in turn."""
    for number in range(count):
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
        yield Quiet(f"{number} {name}", pcm(sound))


# ---- a throat without words

VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))  # Peterson and
# Barney, Control methods used in a study of the vowels, 1952: the formants of a man's a, e, i, o, u, in Hz


def buzz(random: np.random.Generator, seconds: float = 3.0) -> Sound:
    """A pulse train of 90 to 220 Hz with the formants of vowels that change two to five times a second."""
    pieces, rate = [], random.uniform(2, 5)
    pitch = random.uniform(90, 220)
    for _ in range(round(seconds * rate)):
        time = np.arange(round(RATE / rate)) / RATE
        formants = np.array(VOWELS[random.integers(len(VOWELS))])
        harmonics = pitch * np.arange(1, int(5000 / pitch))
        strength = (1 / (1 + ((harmonics[:, None] - formants) / 90) ** 2)).sum(1) / np.sqrt(harmonics / pitch)
        tone = (strength[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(0)
        pieces.append(tone * np.sin(np.pi * time * rate) ** 0.5)
    return np.concatenate(pieces)


def humming(random: np.random.Generator, seconds: float = 5.0) -> Sound:
    """A tune with the mouth closed: few harmonics, a vibrato, notes of 0.3 to 0.6 s without a gap."""
    frequencies: list[float] = []
    root = random.uniform(110, 240)
    while len(frequencies) < seconds * RATE:
        note = root * 2 ** (random.choice([0, 2, 4, 5, 7, 9]) / 12)
        frequencies += [note] * int(random.uniform(0.3, 0.6) * RATE)
    glide = np.convolve(frequencies, np.ones(800) / 800, "same")
    time = np.arange(len(glide)) / RATE
    phase = 2 * np.pi * np.cumsum(glide * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time))) / RATE
    tune = np.sum([np.sin(n * phase) / n**2 for n in range(1, 8)], axis=0)
    return np.asarray(tune * np.hanning(len(tune)) ** 0.2)
