"""Sound as the pipe carries it: raw PCM, 16 kHz, mono, signed 16-bit little-endian; and how a file becomes that.

FFmpeg reads the files. ffmpeg-python builds its command; the program is the system's FFmpeg, or the one that
imageio-ffmpeg brings along.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.packages import install_hint
from helpers.core.pcm import CHUNK, RATE, SILENCE_DBFS, WINDOW, loudest_dbfs
from helpers.core.text import printable

PATIENCE = 60.0  # seconds in which FFmpeg finds a sample in a file; it takes 0.1 for any that it can read
LARGEST = 1 << 30  # bytes of a stream that FFmpeg keeps in a temporary file, to go back in it
MEMORY = 1 << 26  # bytes of one piece of memory that FFmpeg takes; a rate of 1 Hz makes it take more, a long index less
_TAIL = 1 << 16  # bytes of what FFmpeg says that are read

# What may be opened: containers that hold their own sound. The rest of what FFmpeg recognises stays shut: a playlist
# (hls, dash, concat …) under any name makes it open other files, and half of its game formats match by chance.
_FORMATS = (
    "aa,aac,ac3,adx,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,gxf,iff,"
    "ircam,loas,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,pva,qcp,rm,sox,swf,tak,truehd,"
    "tta,voc,vqf,w64,wav,wsd,wtv,wv,xwma"
)
# What decodes the sound in them. Pictures stay shut: FFmpeg draws one to know its format, a cover of 16,000 × 16,000
# pixels in 1 GB of memory, although nobody is to see it.
_CODECS = (
    "8svx_exp,8svx_fib,aac,aac_fixed,aac_latm,ac3,ac3_fixed,adpcm_adx,adpcm_ct,adpcm_g722,adpcm_g726,adpcm_g726le,"
    "adpcm_ima_oki,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_sbpro_2,adpcm_sbpro_3,adpcm_sbpro_4,adpcm_swf,adpcm_yamaha,"
    "alac,als,amrnb,amrwb,ape,atrac1,atrac3,atrac3al,atrac3plus,atrac3plusal,cook,dca,dsd_lsbf,dsd_lsbf_planar,dsd_msbf,"
    "dsd_msbf_planar,dss_sp,dvaudio,eac3,evrc,flac,g722,g723_1,g726,g726le,g729,gsm,gsm_ms,iac,ilbc,imc,libgsm,libgsm_ms,"
    "libopencore_amrnb,libopencore_amrwb,libopus,libspeex,libvorbis,mace3,mace6,metasound,mlp,mp1,mp1float,mp2,mp2float,"
    "mp3,mp3adu,mp3adufloat,mp3float,mp3on4,mp3on4float,mpc7,mpc8,nellymoser,opus,pcm_alaw,pcm_bluray,pcm_dvd,pcm_f16le,"
    "pcm_f24le,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,"
    "pcm_s24be,pcm_s24daud,pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_s8,"
    "pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,pcm_u8,pcm_vidc,qcelp,qdm2,qdmc,ralf,"
    "real_144,real_288,s302m,shorten,sipr,speex,tak,truehd,truespeech,tta,twinvq,vorbis,wavpack,wmalossless,wmapro,wmav1,"
    "wmav2,wmavoice,xma1,xma2"
)
# Lines on FFmpeg's stderr that do not say what went wrong.
_NOISE = ("Inner protocol failed to seekback", "Last message repeated", "] Codec (")


def install_ffmpeg() -> str:
    """The line that tells how to get a full FFmpeg on this system."""
    return f"Install it: {install_hint('ffmpeg')}"


def ffmpeg_programs() -> Iterator[str]:
    """The FFmpeg programs of this machine, the system's first.

    Raises: UserError 69 when there is none.
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
        raise UserError(os.EX_UNAVAILABLE, "FFmpeg is missing", install_ffmpeg())


class Ffmpeg:
    """A running FFmpeg that turns `source`, an ffmpeg-python input, into PCM; it never outlives the `with` block.

    It runs in its own session, so that Ctrl-C on a terminal reaches us and not it.
    Raises: UserError 69 when the program cannot be started.
    """

    def __init__(self, program: str, source: Any, stdin: int | BinaryIO = subprocess.DEVNULL) -> None:
        stream = source.output("pipe:1", format="s16le", ac=1, ar=RATE, vn=None)
        stream = stream.global_args("-nostdin", "-hide_banner", "-loglevel", "error", "-max_alloc", str(MEMORY))
        command = stream.compile(cmd=program)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (not a pipe: nobody reads it before the end)
        try:
            with _files_of_at_most(LARGEST):
                self._process = subprocess.Popen(
                    command, bufsize=0, stdin=stdin, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
                )
        except OSError as error:
            self._log.close()
            message = f"FFmpeg cannot be started: {program}: {error.strerror}"
            raise UserError(os.EX_UNAVAILABLE, message, install_ffmpeg()) from error
        assert self._process.stdout
        self.stdout = self._process.stdout

    def read(self, seconds: float | None) -> bytes | None:
        """Up to 50 ms of PCM as soon as there is some; None when none came within `seconds`; empty at the end."""
        if select.select([self.stdout], [], [], seconds)[0]:
            return self.stdout.read(CHUNK)
        return None

    def stop(self) -> None:
        """Ask it to end; what it has read so far still comes through stdout."""
        self._process.send_signal(signal.SIGINT)

    def complaint(self) -> str:
        """Wait for its end; the lines of its stderr that say what went wrong, or an empty string."""
        code = self._process.wait()
        if code < 0:
            return f"it ended with: {signal.strsignal(-code)}"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join(line.strip() for line in lines if not any(noise in line for noise in _NOISE))

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self.stdout.close()
        self._log.close()


@contextlib.contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """A process that is started in the `with` block is ended when it writes more than so many bytes into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limits = [limit for limit in (size, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def decode(source: str | Path, seconds: float = WINDOW) -> bytes:
    """The sound of an audio or video file as PCM (s16le, 16 kHz, mono), at most its first `seconds`.

    source: a file name, or "-" for an audio file on stdin.
    FFmpeg opens this file and no other, and reads little further than `seconds`; a longer file is said on stderr.
    A file is given up when nothing comes of it for a minute; a stream is waited for. A damaged file gives what of it
    is usable.

    Raises: UserError 65 no sound in it, not audio, or silent; 66 no such file, or a folder; 69 no FFmpeg;
    77 not permitted.
    """
    import ffmpeg

    name = "stdin" if str(source) == "-" else str(source)
    window = 2 * round(seconds * RATE)
    pcm = bytearray()
    with _opened(source) as (url, stdin):
        only = {"protocol_whitelist": "file,pipe,cache", "format_whitelist": _FORMATS, "codec_whitelist": _CODECS}
        patience = PATIENCE if stdin == subprocess.DEVNULL else None
        with Ffmpeg(next(ffmpeg_programs()), ffmpeg.input(url, **only), stdin) as process:
            while len(pcm) <= window and (data := process.read(patience)):
                pcm += data
            if len(pcm) < 2:
                late = f"nothing came of it in {PATIENCE:g} seconds" if data is None else ""
                raise _undecodable(name, late or process.complaint())
    longer = len(pcm) > window
    del pcm[min(window, len(pcm) // 2 * 2) :]
    part = f"the first {seconds:g} seconds of {name} are" if longer else f"{name} is"
    if loudest_dbfs(pcm) <= SILENCE_DBFS:
        raise UserError(os.EX_DATAERR, f"{part} silent", "Check the recording: nothing can be heard in it.")
    if longer:
        stage.say(printable(f"{name} is longer: {part} used"))
    return bytes(pcm)


@contextlib.contextmanager
def _opened(source: str | Path) -> Iterator[tuple[str, int | BinaryIO]]:
    """(address for FFmpeg, its stdin) of `source`. A regular file goes by name, everything else through stdin."""
    cached = "cache:pipe:0"  # `cache` lets FFmpeg seek in a pipe: an m4a has its index at the end
    if str(source) == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError(os.EX_NOINPUT, "no audio on stdin", "Give a file, or pipe one into it.")
        yield cached, sys.stdin.buffer
        return
    try:
        found = Path(source).stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(0, "it is a folder")
        file = Path(source).open("rb")  # noqa: SIM115
    except PermissionError as error:
        remedy = "Give yourself the right to read it, or give another file."
        raise UserError(os.EX_NOPERM, f"{source} may not be read", remedy) from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or "not a file name"
        raise UserError(os.EX_NOINPUT, f"cannot read {source}: {reason}", "Check the name.") from error
    with file:
        if not stat.S_ISREG(found.st_mode):
            yield cached, file
        elif found.st_size:
            yield f"file:{source}", subprocess.DEVNULL
        else:
            raise UserError(os.EX_DATAERR, f"{source} is empty", "Record it again, or give another file.")


def _undecodable(name: str, complaint: str) -> UserError:
    """Why FFmpeg, which said `complaint`, got no sound out of `name`."""
    remedy = "Record it again, or give another file."
    if "does not contain any stream" in complaint or "matches no streams" in complaint:
        what, remedy = f"there is no sound in {name}", "It has pictures only: give a file with a voice in it."
    elif "not on whitelist" in complaint:  # a format or a protocol
        what, remedy = f"{name} is not a sound file", "Playlists are not followed: give the sound itself."
    elif complaint:
        reason = re.sub(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] *)+", "", complaint.splitlines()[-1])
        for where in ("Error opening input files: ", f"file:{name}: ", "cache:pipe:0: "):
            reason = reason.removeprefix(where)
        what = f"{name} is not audio that FFmpeg can read ({reason[:200]})"
    else:
        what = f"{name} has no sound in it"
    return UserError(os.EX_DATAERR, what, remedy)
