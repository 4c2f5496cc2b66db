"""Audio and video files as PCM (16 kHz, mono, s16le), through FFmpeg."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from helpers.core import ffmpeg_programs
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE, SILENCE_DBFS, WINDOW, loudest_dbfs
from helpers.listen import ffmpeg_process, file_kinds, tracks
from helpers.listen.tracks import WHOLE, Part, Track

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds in which FFmpeg finds a sample in a file; it takes 0.1 for any file that it can read
SEARCH = 10.0  # seconds in which the tracks and channels of a file are tried, where nobody speaks in their mix
SLOW = 2.0  # seconds without a sample after which we look whether the program runs at all

# The containers that may be opened: those that hold their own sound. FFmpeg's other formats are refused: a playlist
# (hls, dash, concat …) under any name makes it open other files, and half of its game formats match by chance.
_FORMATS = (
    "aa,aac,ac3,adx,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,gxf,iff,"
    "ircam,loas,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,pva,qcp,rm,sox,swf,tak,truehd,"
    "tta,voc,vqf,w64,wav,wsd,wtv,wv,xwma"
)
# The decoders that may be used: for sound. Those for pictures are refused: to learn a picture's format, FFmpeg decodes
# it, and a cover of 16,000 × 16,000 pixels takes 1 GB of memory.
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

# What an FFmpeg without a decoder says, from 5.1 on and before. `none` is a codec that no FFmpeg knows.
_NO_DECODER = re.compile(r"no decoder found for: (?!none\b)(\S+)|Decoder \(codec (?!none\b)(\S+)\) not found")


def decode(source: str | Path, seconds: float = WINDOW) -> bytes:
    """The sound of an audio or video file as PCM (s16le, 16 kHz, mono), at most its first `seconds`.

    source: a file name, or "-" for an audio file on stdin.
    FFmpeg opens this file and no other, and reads little more than `seconds` of it; a warning is logged for a longer
    one. It has a minute for the first sample of a file, and any time for that of a stream. From a damaged file comes
    what is readable. Where the system's FFmpeg is broken, or cannot read a file, the bundled one is tried. Where nobody
    speaks in the sound, another track or channel is taken in which somebody does (`tracks.py`).

    Raises: UserError 65 no sound in it, not audio, or silent; 66 no such file, or a folder; 69 no FFmpeg that works;
    77 not permitted.
    """
    name = "stdin" if str(source) == "-" else str(source)
    window = 2 * round(seconds * RATE)
    with _opened(source) as (url, stdin):
        pcm = _spoken_part(name, url, stdin, window)
    longer = len(pcm) > window
    del pcm[min(window, len(pcm) // 2 * 2) :]
    part = f"the first {seconds:g} seconds of {name} are" if longer else f"{name} is"
    if loudest_dbfs(pcm) <= SILENCE_DBFS:
        remedy = "Check the recording: nothing can be heard in it."
        if longer:
            remedy = "Cut the silence off, or read more of it: --time SECONDS."
        raise UserError(os.EX_DATAERR, f"{part} silent", remedy)
    if longer:
        log.warning("%s is longer: %s used", name, part)
    return bytes(pcm)


def stream(source: str | Path, seconds: float | None = None) -> Iterator[bytes]:
    """The sound of a file as `decode` gives it, but a second at a time, and by default to its end: memory stays flat.

    The track or channel is chosen by its first 30 seconds. Raises: what decode raises; silent: at the end.
    """
    name = "stdin" if str(source) == "-" else str(source)
    limit = math.inf if seconds is None else 2 * round(seconds * RATE)
    running = _Running()
    with running, _opened(source) as (url, stdin):
        pcm = _spoken_part(name, url, stdin, int(min(limit, WINDOW * BYTES_PER_SECOND)), running)
        sent, silent, ended = 0, True, False
        while (pcm or not ended) and sent < limit:
            while not ended and len(pcm) < BYTES_PER_SECOND:
                data = running.read(stdin == subprocess.DEVNULL)
                ended = not data
                pcm += data
            piece = bytes(pcm[: int(min(BYTES_PER_SECOND, limit - sent)) // 2 * 2])
            del pcm[: max(len(piece), 1)]
            sent += len(piece)
            silent = silent and loudest_dbfs(piece) <= SILENCE_DBFS
            if piece:
                yield piece
        longer = sent >= limit and (len(pcm) > 1 or bool(running.read(stdin == subprocess.DEVNULL)))
    part = f"the first {seconds:g} seconds of {name} are" if longer else f"{name} is"
    if silent:
        raise UserError(os.EX_DATAERR, f"{part} silent", "Check the recording: nothing can be heard in it.")
    if longer:
        log.warning("%s is longer: %s used", name, part)


class _Running(contextlib.ExitStack):
    """An FFmpeg that goes on after the beginning of a file was decoded."""

    process: ffmpeg_process.Ffmpeg | None = None

    def take(self, process: ffmpeg_process.Ffmpeg, stack: contextlib.ExitStack) -> None:
        """Keep `process`, which `stack` ends, instead of the one before."""
        self.close()
        self.enter_context(stack)
        self.process = process

    def read(self, is_file: bool) -> bytes:
        """Up to 50 ms of PCM; empty at the end, or if a file gives nothing for too long."""
        return (self.process.read(PATIENCE if is_file else None) if self.process else None) or b""


def _spoken_part(name: str, url: str, stdin: int | BinaryIO, window: int, running: _Running | None = None) -> bytearray:
    """The PCM of the usual mix; where nobody speaks in it, of the track or channel in which somebody does."""
    found: list[Track] = []
    failure: UserError | None = None
    pcm = bytearray()
    try:
        pcm = _decoded(name, url, stdin, window, found=found, running=running)
    except UserError as error:
        failure = error
    if found and all(track.protected for track in found):
        what = f"{name} is protected against copying (DRM), so its sound cannot be read"
        raise UserError(os.EX_DATAERR, what, "Give a recording without protection.")
    others = tracks.parts(found)
    if not others and failure:
        raise failure
    if others:
        from helpers.listen.endpointing import is_spoken  # numpy

        if not is_spoken(bytes(pcm[: window - window % 2])):
            return _other_part(name, url, stdin, window, pcm, found, failure, running)
    return pcm


def _other_part(
    name: str,
    url: str,
    stdin: int | BinaryIO,
    window: int,
    mix: bytearray,
    found: list[Track],
    failure: UserError | None,
    running: _Running | None,
) -> bytearray:
    """The PCM of the track or channel in which somebody speaks, or `mix`. Raises: `failure`, why there is no mix."""
    from helpers.listen.endpointing import is_spoken

    silent = loudest_dbfs(mix) <= SILENCE_DBFS
    if stdin == subprocess.DEVNULL:
        until = time.monotonic() + SEARCH
        candidates = (part for part in tracks.parts(found) if time.monotonic() < until)
        part, speaks, pcm = tracks.choose(candidates, lambda part: _part(name, url, window, part), is_spoken)
        if part and (speaks or silent):
            log.warning("nobody speaks in the mix of %s: %s is used", name, tracks.describe(part, found))
            return _decoded(name, url, stdin, window, part, running=running) if running else bytearray(pcm)
    elif silent and not failure:
        remedy = "Give the file by its name: then its other tracks and channels are tried."
        raise UserError(os.EX_DATAERR, f"{name} is silent", remedy)
    if failure:
        raise failure
    return mix


def _part(name: str, url: str, window: int, part: Part) -> bytes:
    """The PCM of a part of a file; empty if it cannot be decoded."""
    try:
        pcm = _decoded(name, url, subprocess.DEVNULL, window, part)
    except UserError:
        return b""
    return bytes(pcm[: len(pcm) // 2 * 2])


def _decoded(
    name: str,
    url: str,
    stdin: int | BinaryIO,
    window: int,
    part: Part = WHOLE,
    found: list[Track] | None = None,
    running: _Running | None = None,
) -> bytearray:
    """At least a sample of PCM from the first FFmpeg that can read it, and little more than `window` bytes. found: gets
    the tracks of the file; running: keeps the FFmpeg for the rest of it."""
    file = name if stdin == subprocess.DEVNULL else ""
    import ffmpeg

    only = {"protocol_whitelist": "file,pipe,cache", "format_whitelist": _FORMATS, "codec_whitelist": _CODECS}
    more = {"ignore_length": 1} if url.startswith("file:") and file_kinds.says_too_little(Path(name)) else {}
    defects: dict[str, str] = {}
    failure: UserError | None = None
    for program in ffmpeg_programs.found():
        try:
            source = ffmpeg.input(url, **only, **more)
            if part.stream is not None:
                source = source[str(part.stream)]
            with contextlib.ExitStack() as stack:
                process = stack.enter_context(
                    ffmpeg_process.Ffmpeg(program, source, stdin, channel=part.channel, file=file)
                )
                pcm, late = _read(process, window, stdin == subprocess.DEVNULL, program)
                if found is not None:
                    found[:] = tracks.read(process.log())
                if len(pcm) >= 2:
                    if running:
                        running.take(process, stack.pop_all())
                    return pcm
                defect = process.defect(named=bool(file))
                if not defect:
                    failure = failure or _undecodable(name, late or process.complaint())
        except OSError as error:
            defect, late = error.strerror or "it cannot be started", ""
        if defect:
            defects[program] = defect
            ffmpeg_programs.report_defect(program, defect)
        elif late or stdin != subprocess.DEVNULL:
            break  # a second minute is too long, and a stream cannot be read again
    raise failure or ffmpeg_programs.broken(defects)


def _read(process: ffmpeg_process.Ffmpeg, window: int, is_file: bool, program: str) -> tuple[bytearray, str]:
    """What `process` decodes, and why it was given up; empty if it ended by itself, or enough has come."""
    pcm = bytearray()
    step, waited = min(SLOW, PATIENCE), 0.0
    while len(pcm) <= window:
        data = process.read(step if is_file else None)
        if data:
            pcm += data
            waited = 0.0
        elif data is not None:
            break
        else:
            waited += step
            if waited >= PATIENCE or (not pcm and waited == step and ffmpeg_programs.defect(program)):
                return pcm, f"nothing came of it in {waited:g} seconds"
    return pcm, ""


@contextlib.contextmanager
def _opened(source: str | Path) -> Iterator[tuple[str, int | BinaryIO]]:
    """(address for FFmpeg, its stdin) of `source`. A regular file is given by name, everything else on stdin."""
    cached = "cache:pipe:0"  # `cache` lets FFmpeg seek in a pipe: an m4a has its index at the end
    if str(source) == "-":
        if sys.stdin is None or sys.stdin.isatty() or os.path.samestat(os.fstat(0), Path(os.devnull).stat()):
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
        remedy = "Download it first: only files are read." if "://" in str(source) else "Check the name."
        raise UserError(os.EX_NOINPUT, f"cannot read {source}: {reason}", remedy) from error
    with file:
        if not stat.S_ISREG(found.st_mode):
            yield cached, file
        elif found.st_size:
            yield f"file:{ffmpeg_process.NAME}", subprocess.DEVNULL
        else:
            raise UserError(os.EX_DATAERR, f"{source} is empty", "Record it again, or give another file.")


def _undecodable(name: str, complaint: str) -> UserError:
    """Why FFmpeg, which said `complaint`, got no sound out of `name`."""
    remedy = "Record it again, or give another file."
    kind = file_kinds.describe(Path(name)) if name != "stdin" else None
    if kind:
        what, remedy = f"{name} is not a sound file, but {kind[0]}", kind[1]
    elif "does not contain any stream" in complaint or "matches no streams" in complaint:
        what, remedy = f"there is no sound in {name}", "It has pictures only: give a file with a voice in it."
    elif "not on whitelist" in complaint:  # a format or a protocol
        what = f"{name} is not a sound file, or of a format that is not read"
    elif missing := _NO_DECODER.search(complaint):
        what = f"this FFmpeg has no decoder for the sound in {name} ({(missing[1] or missing[2])[:40]})"
        return UserError(os.EX_UNAVAILABLE, what, ffmpeg_programs.install())
    elif complaint:
        reason = re.sub(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] *)+", "", complaint.splitlines()[-1])
        for where in ("Error opening input files: ", f"file:{name}: ", "cache:pipe:0: "):
            reason = reason.removeprefix(where)
        what = f"{name} is not audio that FFmpeg can read ({reason[:200]})"
    else:
        what = f"{name} has no sound in it"
    return UserError(os.EX_DATAERR, what, remedy)
