"""The word error rate of the built-in recogniser in noise, without a filter and with several filters:

python -m benchmark.denoise [FOLDER]     uses two thirds of the spoken prompts; keeps the recordings in FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark import spoken_prompts
from benchmark.speech import Heard, Sample, word_error_rate
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.listen import audio
from helpers.listen.builtin_recogniser import BuiltinRecogniser
from helpers.listen.denoise import denoised

Array = NDArray[np.float32]  # samples, (n,), -32768…32767
OURS = "helpers.listen.denoise"
FILTERS = ("", OURS, "highpass=f=100", "afftdn", "afftdn=nr=20:tn=1", "anlmdn=s=0.0005")
LEVELS = (30, 15, 5)  # signal-to-noise ratios in dB


def listen(
    recordings: Iterable[spoken_prompts.Recording], spoil: Callable[[bytes], bytes] = lambda pcm: pcm
) -> list[Heard]:
    """The text that the built-in recogniser gives for each recording after `spoil`; empty if it rejects it."""
    recogniser = BuiltinRecogniser()
    heard = []
    for path, voice, prompt in recordings:
        pcm = spoil(audio.decode(path))
        try:
            written = recogniser.transcribe(pcm).text
        except UserError:
            written = ""
        heard.append(Heard(Sample(path, voice, prompt.text), written, 0.0, len(pcm) / BYTES_PER_SECOND))
    return heard


def noises(recordings: list[spoken_prompts.Recording]) -> dict[str, Array]:
    """Ten seconds each of white and pink noise, a hum of 50 Hz with its harmonics, and babble of six voices."""
    size, rng = 10 * RATE, np.random.default_rng(6)
    white = rng.normal(size=size)
    spectrum = np.fft.rfft(rng.normal(size=size))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), size)
    times = np.arange(size) / RATE
    hum = sum(np.sin(2 * np.pi * (50 * k * times + rng.random())) / k for k in range(1, 9))
    babble = sum(
        np.roll(np.resize(samples(audio.decode(recordings[i].path)), size), i * 999) for i in range(2, 150, 25)
    )
    made = {"white": white, "pink": pink, "hum": np.asarray(hum), "babble": np.asarray(babble)}
    return {name: noise.astype(np.float32) for name, noise in made.items()}


def spoilt(pcm: bytes, noise: Array, decibels: float, clean: str) -> bytes:
    """`pcm` with a second of silence around it, mixed with `noise` at that signal-to-noise ratio, then filtered."""
    speech = np.pad(samples(pcm), RATE // 2)
    loud = speech[np.abs(speech) > 0.02 * np.abs(speech).max()]
    noise = noise[: len(speech)] * np.sqrt((loud**2).mean() / (noise**2).mean()) * 10 ** (-decibels / 20)
    mixed = speech + noise
    pcm = (mixed * (0.5 * 32768 / np.abs(mixed).max())).astype(np.int16).tobytes()
    if not clean:
        return pcm
    if clean == OURS:
        return denoised(pcm)
    raw = ["-f", "s16le", "-ar", str(RATE), "-ac", "1"]
    command = ["ffmpeg", "-loglevel", "error", *raw, "-i", "pipe:0", "-af", clean, *raw, "pipe:1"]
    return subprocess.run(command, input=pcm, capture_output=True, check=True).stdout


def samples(pcm: bytes) -> Array:
    return np.frombuffer(pcm, np.int16).astype(np.float32)


def measure(recordings: list[spoken_prompts.Recording]) -> None:
    """Print a table: the word error rate at each level, for all noises and for each, without and with each filter.

    It uses a hundred recordings, a quarter of them for each noise.
    """
    made = noises(recordings)
    some = [recording for number, recording in enumerate(recordings) if number % 3]
    kind = {recording.path: list(made)[number % len(made)] for number, recording in enumerate(some)}
    print(f"{'dB':>4} {'noise':8}" + "".join(f"{clean or 'no filter':>20}" for clean in FILTERS))
    for decibels in LEVELS:
        rows: defaultdict[str, list[str]] = defaultdict(list)
        for clean in FILTERS:
            heard: defaultdict[str, list[Heard]] = defaultdict(list)
            for name, noise in made.items():
                its = [recording for recording in some if kind[recording.path] == name]
                heard[name] = listen(its, lambda pcm: spoilt(pcm, noise, decibels, clean))  # noqa: B023
                heard["all"] += heard[name]
            for name, items in heard.items():
                rows[name].append(f"{word_error_rate(items):20.1%}")
        for name, rates in rows.items():
            print(f"{decibels:4} {name:8}" + "".join(rates), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the word error rate of the built-in recogniser in noise.")
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="keep the recordings there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(spoken_prompts.make(arguments.folder or Path(temporary)))


if __name__ == "__main__":
    main()
