"""The loudspeaker: PCM to PulseAudio, PipeWire, ALSA, or macOS."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterable
from os import EX_UNAVAILABLE

from helpers.core import interpreter
from helpers.core.errors import UserError
from helpers.core.text import printable

# Programs that play raw PCM from stdin, in the order in which they are tried.
_PLAYERS = {
    "pw-cat": ["--playback", "--format=s16", "--channels=1", "--rate={rate}", "-"],
    "paplay": ["--raw", "--format=s16le", "--channels=1", "--rate={rate}"],
    "aplay": ["-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{rate}"],
}


def play(pieces: Iterable[bytes], rate: int) -> None:
    """Play PCM (s16le, mono) as it comes; returns when all of it was heard.

    Raises: UserError 69 if this machine has no program that plays, or none that works.
    """
    if sys.platform == "darwin":
        for piece in pieces:
            _play_file(piece, rate)
        return
    failures = []
    heard = iter(pieces)
    first = next(heard, b"")  # before a program is started: there may be nothing to play
    for name, arguments in _PLAYERS.items():
        if shutil.which(name):
            problem = _pipe([name, *(argument.format(rate=rate) for argument in arguments)], first, heard)
            if not problem:
                return
            failures.append(f"{name}: {problem}")
    remedy = "Install pulseaudio-utils or alsa-utils, or write a file: --to FILE"
    raise UserError(
        EX_UNAVAILABLE, f"nothing can be played here ({'; '.join(failures) or 'no paplay, no aplay'})", remedy
    )


def _pipe(command: list[str], first: bytes, rest: Iterable[bytes]) -> str:
    """Play through a program. Returns why it failed before the first piece; later, what was heard stays heard."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=interpreter.environment()
    )
    try:
        assert process.stdin and process.stderr
        begun = False
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(first)
            process.stdin.flush()
            for piece in rest:
                begun = True
                process.stdin.write(piece)
                process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stderr.read().decode(errors="replace")
        if process.wait() and not begun:
            return printable(said)[:200] or f"exit code {process.returncode}"
        return ""
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def _play_file(piece: bytes, rate: int) -> None:
    """macOS has no program that plays a stream: a file for each piece."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(wav(piece, rate))
        file.flush()
        run = subprocess.run(["afplay", file.name], capture_output=True, check=False, env=interpreter.environment())
    if run.returncode:
        said = printable(run.stderr.decode(errors="replace"))[:200]
        raise UserError(EX_UNAVAILABLE, f"afplay does not work: {said}", "Write a file instead: --to FILE")


def wav(pcm: bytes, rate: int) -> bytes:
    """A WAV file with this PCM (s16le, mono)."""
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return whole.getvalue()
