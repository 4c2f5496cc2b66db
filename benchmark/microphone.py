"""`helpers.listen.record` with a recording instead of the microphone: in real time, with quiet noise around it.

A2I_RECORD='.venv/bin/python -m benchmark.microphone', with the WAV file (16 kHz, mono) in BENCHMARK_WAV, and in
BENCHMARK_END the second at which its last word ends. The event `said` marks that moment.
"""

from __future__ import annotations

import functools
import os
import time
import wave
from collections.abc import Callable, Generator

import numpy as np

from helpers.core import stage
from helpers.core.pcm import RATE
from helpers.listen import record

CHUNK = RATE // 20  # samples; the size of FFmpeg's blocks
ROOM = 20  # of 32768; a real microphone is never silent


def speech(path: str) -> bytes:
    """The samples of the WAV file from the first to the last sound (s16le). Raises OSError, wave.Error."""
    with wave.open(path) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 0.02 * np.abs(samples.astype(np.int32)).max())
    return samples[loud[0] : loud[-1] + 1].tobytes()


def listen(name: str = "", stopped: Callable[[], bool] = lambda: False) -> Generator[bytes, None, None]:
    """Replaces microphone.listen: plays the recording, and ends only when `stopped` returns true."""
    said = np.frombuffer(speech(os.environ["BENCHMARK_WAV"]), "<i2")
    end = round(float(os.environ["BENCHMARK_END"]) * RATE)
    random = np.random.default_rng(0)
    began, position, told = time.monotonic(), 0, False
    while not stopped():
        chunk = random.normal(0, ROOM, CHUNK)
        place = np.arange(position, position + CHUNK) - (end - len(said))
        within = (place >= 0) & (place < len(said))
        chunk[within] += said[place[within]]
        position += CHUNK
        time.sleep(max(0.0, began + position / RATE - time.monotonic()))
        if position >= end and not told:
            told = True
            stage.event("said")
        yield chunk.clip(-32768, 32767).astype("<i2").tobytes()


if __name__ == "__main__":
    stage.run(record.NAME, functools.partial(record.main, source=listen))
