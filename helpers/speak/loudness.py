"""Equal loudness: measured by EBU R128 and set, both through FFmpeg."""

from __future__ import annotations

import re
import subprocess
from os import EX_UNAVAILABLE

from helpers.core import ffmpeg_programs, interpreter
from helpers.core.errors import UserError
from helpers.core.text import printable

TARGET = -20.0  # LUFS: louder would need a limiter for most voices, whose peaks are 12 to 16 dB above
_PEAK = 0.89  # of full scale, -1 dB: where the limiter begins
_SUMMARY = re.compile(rb"I: +(-?[0-9.]+|-inf|nan) LUFS")


def measured(pcm: bytes, rate: int) -> float:
    """Integrated loudness in LUFS; -70 for silence, and for less than 0.4 seconds. Raises: UserError 69."""
    said = _run(pcm, rate, "ebur128=framelog=quiet", "null")[1]
    found = _SUMMARY.findall(said)
    return float(found[-1]) if found and found[-1] not in (b"-inf", b"nan") else -70.0


def equal(pcm: bytes, rate: int) -> bytes:
    """`pcm` (s16le, mono) at TARGET; silence stays silence. Raises: UserError 69."""
    loud = measured(pcm, rate)
    if loud <= -69:
        return pcm
    return _run(
        pcm, rate, f"volume={TARGET - loud:.2f}dB:precision=double,alimiter=limit={_PEAK}:level=false", "s16le"
    )[0]


def resampled(pcm: bytes, rate: int, to: int) -> bytes:
    """`pcm` (s16le, mono) with `to` samples per second. Raises: UserError 69."""
    return pcm if rate == to else _run(pcm, rate, "anull", "s16le", "-ar", str(to))[0]


def _run(pcm: bytes, rate: int, filters: str, to: str, *options: str) -> tuple[bytes, bytes]:
    source = ["-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", "pipe:0"]
    said = b""
    for program in ffmpeg_programs.found():
        command = [program, "-hide_banner", "-nostats", *source, "-af", filters, *options, "-f", to, "pipe:1"]
        try:
            run = subprocess.run(command, input=pcm, capture_output=True, check=False, env=interpreter.environment())
        except OSError as error:
            said = str(error.strerror).encode()
            continue
        if run.returncode == 0:
            return run.stdout, run.stderr
        said = run.stderr
    last = (said.decode(errors="replace").strip().splitlines() or [""])[-1]
    raise UserError(EX_UNAVAILABLE, f"FFmpeg does not work: {printable(last)[:200]}", ffmpeg_programs.install())
