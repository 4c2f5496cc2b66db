"""Sound as the pipe carries it: raw PCM, 16 kHz, mono, signed 16-bit little-endian; and how a file becomes that.

FFmpeg reads the files. ffmpeg-python builds its command; the program is the system's FFmpeg, or the one that
imageio-ffmpeg brings along.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import io
import math
import operator
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from helpers import stage

RATE = 16_000  # samples per second
BYTES_PER_SECOND = 2 * RATE
CHUNK = BYTES_PER_SECOND // 20  # 50 ms
WINDOW = 30.0  # seconds; what Whisper hears at once
LONGEST = 3600.0  # seconds; more than anybody says about a picture
MARK = bytes(BYTES_PER_SECOND // 2)  # half a second of zeros: in a loop, the end of an utterance
SILENCE_DBFS = -80.0  # a muted or forbidden microphone stays below; any real one in a quiet room is well above

# What may be opened: containers that hold their own sound. The rest of what FFmpeg recognises stays shut: a playlist
# (hls, dash, concat …) under any name makes it open other files, and half of its game formats match by chance.
_FORMATS = (
    "aa,aac,ac3,adx,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,gxf,iff,"
    "ircam,loas,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,pva,qcp,rm,sox,swf,tak,truehd,"
    "tta,voc,vqf,w64,wav,wsd,wtv,wv,xwma"
)
# Lines on FFmpeg's stderr that do not say what went wrong.
_NOISE = ("Inner protocol failed to seekback", "Last message repeated")


def install_ffmpeg() -> str:
    """The line that tells how to get a full FFmpeg on this system."""
    return "Install it: " + ("brew install ffmpeg" if sys.platform == "darwin" else "sudo apt-get install ffmpeg")


def window(text: str) -> float:
    """A number of seconds: above 0, at most an hour."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"not a number of seconds above 0, at most {LONGEST:g}: {text!r}")
    return seconds


def ffmpeg_programs() -> Iterator[str]:
    """The FFmpeg programs of this machine, the system's first.

    Raises: StageError 69 when there is none.
    """
    system = shutil.which("ffmpeg")
    if system:
        yield system
    try:
        import imageio_ffmpeg
    except ImportError:
        bundled = []
    else:  # the bundled file itself; get_ffmpeg_exe() would search the system, too
        bundled = sorted(Path(imageio_ffmpeg.__file__).parent.glob("binaries/ffmpeg-*"))
    yield from map(str, bundled)
    if not (system or bundled):
        raise stage.StageError(os.EX_UNAVAILABLE, "FFmpeg is missing", install_ffmpeg())


class Ffmpeg:
    """A running FFmpeg that turns `source`, an ffmpeg-python input, into PCM; it never outlives the `with` block.

    It runs in its own session, so that Ctrl-C on a terminal reaches us and not it.
    Raises: StageError 69 when the program cannot be started.
    """

    def __init__(self, program: str, source: Any, stdin: int | BinaryIO = subprocess.DEVNULL, **output: Any) -> None:
        stream = source.output("pipe:1", format="s16le", ac=1, ar=RATE, vn=None, **output)
        command = stream.global_args("-nostdin", "-hide_banner", "-loglevel", "error").compile(cmd=program)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (not a pipe: nobody reads it before the end)
        try:
            self._process = subprocess.Popen(
                command, bufsize=0, stdin=stdin, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
            )
        except OSError as error:
            self._log.close()
            message = f"FFmpeg cannot be started: {program}: {error.strerror}"
            raise stage.StageError(os.EX_UNAVAILABLE, message, install_ffmpeg()) from error
        assert self._process.stdout
        self.stdout = self._process.stdout

    def read(self, seconds: float) -> bytes | None:
        """Up to 50 ms of PCM as soon as there is some; None when none came within `seconds`; empty at the end."""
        if select.select([self.stdout], [], [], seconds)[0]:
            return self.stdout.read(CHUNK)
        return None

    def stop(self) -> None:
        """Ask it to end; what it has read so far still comes through stdout."""
        self._process.send_signal(signal.SIGINT)

    def complaint(self) -> str:
        """Wait for its end; the lines of its stderr that say what went wrong, or an empty string."""
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join(line.strip() for line in lines if not any(noise in line for noise in _NOISE))

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self.stdout.close()
        self._log.close()


def decode(source: str | Path, seconds: float = WINDOW) -> bytes:
    """The sound of an audio or video file as PCM (s16le, 16 kHz, mono), at most its first `seconds`.

    source: a file name, or "-" for an audio file on stdin.
    FFmpeg opens this file and no other, and reads no further than `seconds`; a longer file is said on stderr.
    A damaged file gives what of it is usable.

    Raises: StageError 65 no sound in it, not audio, or silent; 66 no such file, or a folder; 69 no FFmpeg;
    77 not permitted.
    """
    import ffmpeg

    name = "stdin" if str(source) == "-" else str(source)
    pcm = bytearray()
    with _opened(source) as (url, stdin):
        opened = ffmpeg.input(url, protocol_whitelist="file,pipe,cache", format_whitelist=_FORMATS)
        # A little more than asked for, to know whether there is more.
        with Ffmpeg(next(ffmpeg_programs()), opened, stdin, t=seconds + 0.1) as process:
            while data := process.stdout.read(1 << 16):
                pcm += data
            complaint = process.complaint()
    if len(pcm) < 2:
        raise _undecodable(name, complaint)
    window = 2 * round(seconds * RATE)
    longer = len(pcm) > window
    del pcm[window - len(pcm) % 2 if longer else len(pcm) - len(pcm) % 2 :]
    part = f"the first {seconds:g} seconds of {name} are" if longer else f"{name} is"
    if loudest_dbfs(pcm) <= SILENCE_DBFS:
        raise stage.StageError(os.EX_DATAERR, f"{part} silent", "Check the recording: nothing can be heard in it.")
    if longer:
        stage.say(stage.printable(f"{name} is longer: {part} used"))
    return bytes(pcm)


@contextlib.contextmanager
def _opened(source: str | Path) -> Iterator[tuple[str, int | BinaryIO]]:
    """(address for FFmpeg, its stdin) of `source`. A regular file goes by name, everything else through stdin."""
    cached = "cache:pipe:0"  # `cache` lets FFmpeg seek in a pipe: an m4a has its index at the end
    if str(source) == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise stage.StageError(os.EX_NOINPUT, "no audio on stdin", "Give a file, or pipe one into it.")
        yield cached, sys.stdin.buffer
        return
    try:
        found = Path(source).stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(0, "it is a folder")
        file = Path(source).open("rb")  # noqa: SIM115
    except PermissionError as error:
        remedy = "Give yourself the right to read it, or give another file."
        raise stage.StageError(os.EX_NOPERM, f"{source} may not be read", remedy) from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or "not a file name"
        raise stage.StageError(os.EX_NOINPUT, f"cannot read {source}: {reason}", "Check the name.") from error
    with file:
        if not stat.S_ISREG(found.st_mode):
            yield cached, file
        elif found.st_size:
            yield f"file:{source}", subprocess.DEVNULL
        else:
            raise stage.StageError(os.EX_DATAERR, f"{source} is empty", "Record it again, or give another file.")


def _undecodable(name: str, complaint: str) -> stage.StageError:
    """Why FFmpeg, which said `complaint`, got no sound out of `name`."""
    remedy = "Record it again, or give another file."
    if "does not contain any stream" in complaint or "matches no streams" in complaint:
        what, remedy = f"there is no sound in {name}", "It has pictures only: give a file with a voice in it."
    elif "not on whitelist" in complaint:
        what, remedy = f"{name} is not a sound file", "Playlists are not followed: give the sound itself."
    elif complaint:
        reason = complaint.splitlines()[-1].removeprefix(f"file:{name}: ").removeprefix("cache:pipe:0: ")
        what = f"{name} is not audio that FFmpeg can read ({reason})"
    else:
        what = f"{name} has no sound in it"
    return stage.StageError(os.EX_DATAERR, what, remedy)


def level_dbfs(pcm: bytes | bytearray | memoryview) -> float:
    """The level (root mean square) of s16le PCM in dBFS: 0 is a full-scale square wave, -inf digital silence."""
    samples = array.array("h", bytes(pcm))
    power = sum(map(operator.mul, samples, samples)) / max(1, len(samples))
    return 10 * math.log10(power / 32768**2) if power else -math.inf


def samples_above(pcm: bytes, level: int) -> int:
    """How many samples of s16le PCM are as large as `level`, or larger, in either direction."""
    return sum(abs(sample) >= level for sample in array.array("h", pcm))


def loudest_dbfs(pcm: bytes | bytearray) -> float:
    """The level of the loudest 50 ms, in dBFS: one short word in a long silence is not averaged away."""
    view = memoryview(pcm)
    return max((level_dbfs(view[i : i + CHUNK]) for i in range(0, len(pcm), CHUNK)), default=-math.inf)


def write_wav(path: str | Path, pcm: bytes | bytearray) -> None:
    """Write PCM (s16le, 16 kHz, mono) as a WAV file, whole or not at all.

    Raises: StageError 73.
    """
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm)
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            beside.write_bytes(whole.getvalue())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise stage.StageError(os.EX_CANTCREAT, message, "Make room there, or choose another folder.") from error
