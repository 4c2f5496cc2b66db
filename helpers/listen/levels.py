"""What the level and the speed of a microphone's sound say about it: muted, too loud, at the wrong sample rate."""

from __future__ import annotations

import array
import math
import time
from typing import TYPE_CHECKING

from helpers.core.pcm import RATE, SILENCE_DBFS, level_dbfs, samples_above

if TYPE_CHECKING:
    from helpers.listen.highpass import HighPass

CLIPPED = 0.002  # share of the samples; a shout clips a few, too high a gain clips many
FULL_SCALE = 32_700  # of 32,768; some devices clip a little below
_PEAK = 0.985  # share of the peak: a lossy format rounds the corners off
_QUIET = 300  # of 32,768; a few steps of noise are no clipping
TOO_LOUD = "The sound is clipped: record it again with the level turned down, or from further away."
_SETTLED = 1.0  # seconds of sound before the speed is measured: buffered sound has arrived by then
_SHORTEST = 2.0  # seconds on the clock that measuring the speed takes


def is_clipped(pcm: bytes, least: int = _QUIET) -> bool:
    """Whether a whole recording (s16le) was clipped, also if its level was turned down afterwards: many samples are at
    its peak. Of 25 spoken prompts, at most 0.01 % of the samples are; of a clipped one, 0.5 % as an MP3 file and 36 %
    without loss. A pure tone looks clipped, too. least: the peak (of 32,768) that it must have."""
    samples = array.array("h", pcm[: len(pcm) // 2 * 2])
    peak = max((abs(sample) for sample in samples), default=0)
    return peak > least and samples_above(pcm, math.ceil(_PEAK * peak)) > CLIPPED * len(samples)


class LevelCheck:
    """Measures the PCM (s16le, 16 kHz, mono) of a microphone. It needs all of it, as it arrives."""

    def __init__(self) -> None:
        self._samples = 0
        self.loudest = -math.inf  # dBFS, of any 50 ms
        self._highpass: HighPass | None = None
        self._clipped = 0
        self._settled = _SETTLED  # seconds of sound after which the speed is measured
        self._since = math.nan  # when they had come
        self._last = math.nan

    @property
    def seconds(self) -> float:
        """Seconds of sound so far."""
        return self._samples / RATE

    def feed(self, pcm: bytes) -> float:
        """Take in at most 50 ms of sound; returns its level in dBFS, without an offset and rumble."""
        if not self._highpass:
            from helpers.listen.highpass import HighPass  # numpy; not while the microphone opens

            self._highpass = HighPass()
        level = level_dbfs(self._highpass.feed(pcm))
        self.loudest = max(self.loudest, level)
        self._clipped += samples_above(pcm, FULL_SCALE)
        self._samples += len(pcm) // 2
        self._last = time.monotonic()
        if math.isnan(self._since) and self.seconds >= self._settled:
            self._since = self._last - (self.seconds - self._settled)
        return level

    def gap(self) -> None:
        """Sound is missing here: the speed is measured from now on."""
        self._settled, self._since = self.seconds + _SETTLED, math.nan

    def is_silent(self) -> bool:
        """Whether there was not even the noise of a room."""
        return self.loudest <= SILENCE_DBFS

    def speed(self) -> float:
        """Seconds of sound per second on the clock; 1 as long as it is too early to tell."""
        by_clock = self._last - self._since
        return (self.seconds - self._settled) / by_clock if by_clock >= _SHORTEST else 1.0

    def complaint(self) -> str:
        """One line about what is wrong with the sound, or an empty string."""
        if not 0.8 < (speed := self.speed()) < 1.25:
            what = f"the microphone sends {speed:.2f} seconds of sound a second, so the words sound wrong"
            return f"{what}: set its sample rate to 48 kHz, or choose another (--list-devices)"
        if self._clipped > CLIPPED * self._samples:
            return "the microphone is too loud, the sound is clipped: turn its level down, or move away from it"
        return ""
