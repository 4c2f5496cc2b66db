"""Voices that the machine has: `say` on a Mac; eSpeak NG, Flite and Festival elsewhere. Each is a program of its own.

The text reaches a program on stdin, never as an argument.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from os import EX_UNAVAILABLE, EX_USAGE
from pathlib import Path
from typing import IO, NamedTuple

from helpers.core import interpreter
from helpers.core.errors import UserError
from helpers.core.packages import install_hint
from helpers.core.text import printable, shortened
from helpers.speak.voice import ANOTHER, Choice

PATIENCE = 60.0  # seconds without a sound after which a program is ended: the slowest take 2 for an hour of speech
_PIECE = 1 << 13  # bytes, 0.2 seconds
_WORDS_A_MINUTE = 175  # eSpeak's and macOS's usual speed


class Program(NamedTuple):
    """How a program speaks. command: makes its arguments from the speaker, the speed, and the WAV file to write;
    package: that has it; speaks: the languages it has, each with the speaker for it; streams: whether it writes to
    stdout what it has, before it has all."""

    command: Callable[[str, float, str], list[str]]
    package: str
    speaks: Callable[[], dict[str, str]]
    streams: bool = False


def _say(speaker: str, speed: float, file: str) -> list[str]:
    voice = ["-v", speaker] if speaker else []
    return ["say", *voice, "-r", f"{_WORDS_A_MINUTE * speed:.0f}", "-f", "-", "-o", file, "--data-format=LEI16@22050"]


def _espeak(speaker: str, speed: float, file: str) -> list[str]:
    return [
        "espeak-ng",
        "-v",
        speaker or "en-us",
        "-s",
        f"{_WORDS_A_MINUTE * speed:.0f}",
        "-b",
        "1",
        "--stdin",
        "--stdout",
    ]


def _flite(speaker: str, speed: float, file: str) -> list[str]:
    stretch = ["--setf", f"duration_stretch={1 / speed:.3f}"]
    return ["flite", "-voice", speaker or "slt", *stretch, "-f", "/dev/stdin", "-o", file]


def _festival(speaker: str, speed: float, file: str) -> list[str]:
    voice = ["-eval", f"(voice_{speaker})"] if speaker else []
    return ["text2wave", *voice, "-eval", f"(Parameter.set 'Duration_Stretch {1 / speed:.3f})", "-o", file]


def _listed(command: list[str], pattern: str) -> dict[str, str]:
    """The languages that a program lists, each with the first speaker for it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        run = subprocess.run(command, capture_output=True, timeout=10, check=False, env=interpreter.environment())
        found: dict[str, str] = {}
        for match in re.finditer(pattern, run.stdout.decode(errors="replace"), re.MULTILINE):
            found.setdefault(match["language"].lower(), match["speaker"].strip())
        return found
    return {}


@functools.cache
def _espeak_languages() -> dict[str, str]:
    """eSpeak knows its languages by their code: `en-us` is spoken by -v en-us."""
    codes = _listed(["espeak-ng", "--voices"], r"^ *\d+ +(?P<speaker>(?P<language>[a-z]{2,3})(?:-\S+)?) ")
    return codes | {"en": "en-us"}


@functools.cache
def _say_languages() -> dict[str, str]:
    """`Anna    de_DE    # Hallo! …`. The system's own voice, which the user has chosen, says English."""
    voices = _listed(["say", "-v", "?"], r"^(?P<speaker>\S.*?) +(?P<language>[a-z]{2,3})[_-]\w+ +#")
    return voices | {"en": ""}


def _own(choice: Choice) -> Program:
    """A program of the user's own; it has no options for speed or speaker."""
    return Program(lambda speaker, speed, file: [str(choice.path)], "", dict, streams=True)


PROGRAMS = {  # the best first
    "say": Program(_say, "", _say_languages),
    "espeak-ng": Program(_espeak, "espeak-ng", _espeak_languages, streams=True),
    "flite": Program(_flite, "flite", lambda: {"en": "slt"}),
    "festival": Program(_festival, "festival", lambda: {"en": ""}),
}
_SPEAKER = r"[A-Za-z0-9][\w+ ().-]{0,60}"


def is_here(name: str) -> bool:
    return shutil.which("text2wave" if name == "festival" else name) is not None


def choose(name: str, speaker: str, language: str) -> Choice:
    """Raises: UserError 64 for what cannot be a speaker's name, 69 if the program is not here or cannot speak the
    language."""
    if not is_here(name):
        remedy = f"Install it: {install_hint(name)}" if PROGRAMS[name].package else ""
        raise UserError(EX_UNAVAILABLE, f"the program {name} is not on this machine", remedy)
    if speaker:
        if not re.fullmatch(_SPEAKER, speaker) or (name == "festival" and not re.fullmatch(r"\w+", speaker)):
            raise UserError(EX_USAGE, f"not the name of a speaker: {printable(speaker)[:60]!r}", ANOTHER)
        return Choice(name, name, language, speaker=speaker)
    speaks = PROGRAMS[name].speaks()
    if language not in speaks:
        raise UserError(EX_UNAVAILABLE, f"{name} does not speak {language}", ANOTHER)
    return Choice(name, name, language, speaker=speaks[language])


class ProgramVoice:
    """A program of the machine as a voice."""

    def __init__(self, choice: Choice) -> None:
        self.name, self.language = choice.name, choice.language
        self._program, self._speaker = PROGRAMS.get(choice.kind) or _own(choice), choice.speaker
        self.rate = _rate(self)

    def say(self, text: str, speed: float = 1.0) -> Iterator[bytes]:
        for _, piece in self.spoken(text, speed):
            yield piece

    def spoken(self, text: str, speed: float = 1.0) -> Iterator[tuple[int, bytes]]:
        """The PCM of `text`, with its rate."""
        with tempfile.NamedTemporaryFile(suffix=".wav") as file, tempfile.TemporaryFile() as given, \
                tempfile.TemporaryFile() as complaint:  # fmt: skip
            given.write(f"{text}\n".encode())
            given.seek(0)
            command = self._program.command(self._speaker, speed, file.name)
            try:
                process = subprocess.Popen(
                    command, stdin=given, stdout=subprocess.PIPE, stderr=complaint, env=interpreter.environment()
                )
            except OSError as error:
                raise UserError(EX_UNAVAILABLE, f"{self.name} cannot be started: {error.strerror}") from error
            try:
                assert process.stdout
                written = _until_end(process, process.stdout)
                if self._program.streams:
                    yield from _streamed(written)
                else:
                    for _ in written:
                        pass
                    if process.wait() == 0:
                        yield from _file(Path(file.name))
                if process.wait():
                    raise EOFError
            except (EOFError, wave.Error) as error:
                process.wait()
                complaint.seek(0)
                said = complaint.read(2000).decode(errors="replace").strip().splitlines()
                why = f" ({shortened(printable(said[-1]))})" if said else ""
                raise UserError(EX_UNAVAILABLE, f"{self.name} made no sound{why}", ANOTHER) from error
            finally:
                process.kill()
                process.wait()
                assert process.stdout
                process.stdout.close()


def _rate(voice: ProgramVoice) -> int:
    """Samples per second: programs say it only with the sound."""
    return next(voice.spoken("a"))[0]


def _until_end(process: subprocess.Popen[bytes], stdout: IO[bytes]) -> Iterator[bytes]:
    """What a program writes. Raises: UserError 69 if it says nothing for PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise UserError(EX_UNAVAILABLE, f"the program makes no sound for {PATIENCE:.0f} seconds", ANOTHER)
        piece = os.read(stdout.fileno(), _PIECE)
        if not piece:
            return
        deadline = time.monotonic() + PATIENCE
        yield piece


def _streamed(written: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """The PCM of a WAV stream, whose header has 44 bytes and no true length."""
    head = b""
    for piece in written:
        head += piece
        if len(head) >= 44:
            break
    if head[:4] != b"RIFF" or head[36:40] != b"data":
        raise EOFError
    rate, rest = int.from_bytes(head[24:28], "little"), head[44:]
    for piece in written:
        rest += piece
        whole = len(rest) // 2 * 2
        if whole:
            yield rate, rest[:whole]
        rest = rest[whole:]
    if whole := len(rest) // 2 * 2:
        yield rate, rest[:whole]


def _file(path: Path) -> Iterator[tuple[int, bytes]]:
    with wave.open(str(path)) as sound:
        while piece := sound.readframes(_PIECE // 2):
            yield sound.getframerate(), piece
