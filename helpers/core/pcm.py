"""PCM as the pipe carries it: 16 kHz, mono, signed 16-bit little-endian (s16le); levels and WAV files."""

from __future__ import annotations

import array
import io
import math
import operator
import os
import wave
from pathlib import Path

from helpers.core.errors import UserError
from helpers.core.files import write_whole

RATE = 16_000  # samples per second
BYTES_PER_SECOND = 2 * RATE
CHUNK = BYTES_PER_SECOND // 20  # 50 ms
WINDOW = 30.0  # seconds; the length of Whisper's input
MARK = bytes(BYTES_PER_SECOND // 2)  # half a second of zeros marks the end of an utterance in --loop
SILENCE_DBFS = -80.0  # a muted or blocked microphone stays below this; a working one in a quiet room is well above


def level_dbfs(pcm: bytes | bytearray | memoryview) -> float:
    """The level (root mean square) of s16le PCM in dBFS: 0 is a full-scale square wave, -inf digital silence."""
    samples = array.array("h", bytes(pcm))
    power = sum(map(operator.mul, samples, samples)) / max(1, len(samples))
    return 10 * math.log10(power / 32768**2) if power else -math.inf


def samples_above(pcm: bytes, level: int) -> int:
    """How many samples of s16le PCM have a magnitude of at least `level`."""
    return sum(abs(sample) >= level for sample in array.array("h", pcm))


def loudest_dbfs(pcm: bytes | bytearray) -> float:
    """The level of the loudest 50 ms, in dBFS: an average would hide one short word in a long silence."""
    view = memoryview(pcm)
    return max((level_dbfs(view[i : i + CHUNK]) for i in range(0, len(pcm), CHUNK)), default=-math.inf)


def write_wav(path: str | Path, pcm: bytes | bytearray) -> None:
    """Write PCM (s16le, 16 kHz, mono) as a WAV file, atomically.

    Raises: UserError 73.
    """
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm)
    path = Path(path)
    try:
        write_whole(path, whole.getvalue())
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise UserError(os.EX_CANTCREAT, message, "Make room there, or choose another folder.") from error
