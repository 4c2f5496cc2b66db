"""Sound files to attack with, whole and made up, and `record --input` to be attacked: a real process, as the pipe has
it, with the system's FFmpeg or the one that imageio-ffmpeg brings.
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import measured
import pytest

from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, WINDOW
from helpers.core.text import printable

MOST_MEMORY = 300  # MB, of record and FFmpeg together
MOST_TIME = 60.0  # seconds, on a machine that has other things to do; 0.3 on one that has not
SYSTEM = shutil.which("ffmpeg")
DECODERS = ["system", "bundled"]
RIFF = b"RIFF\xff\xff\xff\xffWAVE"


class Ended(NamedTuple):
    """What became of a process; peak: MB of it or of what it started; taken: seconds."""

    code: int
    pcm: bytes
    said: str
    peak: float
    taken: float


def record(
    source: object, folder: Path, decoder: str, stdin: BinaryIO | int = subprocess.DEVNULL, path: str = ""
) -> Ended:
    """Run `record --input source`; path: its PATH, where the decoder alone does not say it."""
    if decoder == "system" and not SYSTEM:
        pytest.skip("there is no FFmpeg on this machine")
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    settings = {"PATH": path or {"system": os.environ["PATH"], "bundled": "/nonexistent"}[decoder]}
    settings |= {"TMPDIR": str(temporary), "HOME": str(temporary), "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with (folder / "out").open("wb+") as out, (folder / "err").open("wb+") as err:
        command = [sys.executable, "-m", "helpers.listen.record", f"--input={source}"]
        code, peak = measured.run(command, 2 * MOST_TIME, cwd=folder, env=settings, stdin=stdin, stdout=out, stderr=err)
        out.seek(0)
        err.seek(0)
        ended = Ended(code, out.read(), err.read().decode(), peak, time.monotonic() - began)
    assert not list(temporary.iterdir())
    return ended


def held(ended: Ended, about: object, codes: tuple[int, ...] = (0, 65)) -> None:
    """What is promised of every file, whatever is in it."""
    assert ended.code in codes, (about, ended)
    assert ended.peak <= MOST_MEMORY and ended.taken <= MOST_TIME, (about, ended.peak, ended.taken)
    assert printable(ended.said.replace("\n", " ")) == " ".join(ended.said.split()), (about, ended.said)
    if ended.code:
        message, remedy = ended.said.splitlines()
        assert message.startswith("record: ") and "unexpected" not in message and len(message) < 1000, (about, message)
        assert remedy.startswith("  ") and not ended.pcm, (about, ended)
    else:
        assert ended.said == "" or re.search(" is longer: |: (channel|track) .* is used", ended.said), (
            about,
            ended.said,
        )
        assert 0 < len(ended.pcm) <= WINDOW * BYTES_PER_SECOND and len(ended.pcm) % 2 == 0, about


SEEDS = "wav mp3 m4a ogg opus flac aac aiff webm mka caf wma au w64 avi flv mov ac3 wv tta mxf mp2 3gp"
KINDS = {
    "float.wav": "-c:a pcm_f32le",
    "eight.wav": "-c:a pcm_u8",
    "law.wav": "-c:a pcm_alaw",
    "adpcm.wav": "-c:a adpcm_ms",
    "fast.wav": "-ar 384000",
    "wide.wav": "-ac 8 -c:a pcm_s24le",
    "fragments.mp4": "-c:a aac -movflags frag_keyframe+empty_moov",
    "transport.ts": "-c:a mp2 -f mpegts",
}


@functools.cache
def seeds() -> dict[str, bytes]:
    """Whole files of many kinds: those of examples/, and a word of them in other formats where FFmpeg makes them."""
    examples = sorted((ROOT / "examples").glob("*.[mowf]*"))
    found = {file.name: file.read_bytes() for file in examples if file.suffix != ".md"}
    with tempfile.TemporaryDirectory() as folder:
        source = ["-ss", "0.5", "-t", "0.4", "-i", str(ROOT / "examples" / "burger.wav")]
        for name, how in {**{f"word.{kind}": "" for kind in SEEDS.split()}, **KINDS}.items() if SYSTEM else ():
            target = Path(folder) / name
            command = ["ffmpeg", "-nostdin", "-loglevel", "quiet", "-bitexact", *source, *how.split(), str(target)]
            if subprocess.run(command, check=False).returncode == 0:
                found[name] = target.read_bytes()
    return found


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """A chunk of RIFF; size: what it says that it has, instead of the truth."""
    return name + struct.pack("<I", len(data) if size is None else size) + data


def wav(
    data: bytes = random.Random(0).randbytes(64_000),
    kind: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    says: int | None = None,
) -> bytes:
    """A WAV file with this header, true or not; says: the size of its data, instead of the truth."""
    block = channels * bits // 8
    sound = struct.pack("<HHIIHH", kind, channels, rate, rate * block % 2**32, block % 2**16, bits)
    return RIFF + chunk(b"fmt ", sound) + chunk(b"data", data, says)


def box(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """A box of MP4; size: what it says that it has, instead of the truth."""
    return struct.pack(">I", 8 + len(data) if size is None else size) + kind + data


@functools.cache
def png(width: int, height: int) -> bytes:
    """A picture of one colour: small, and large when it is drawn."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(1)
    rows = b"".join(squeeze.compress(bytes(1 + width * 4)) for _ in range(height)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


def with_cover(picture: bytes) -> bytes:
    """An MP3 with a picture in its ID3 tag."""
    frame = b"\0image/png\0\3\0" + picture

    def syncsafe(size: int) -> bytes:
        return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))

    tag = b"APIC" + syncsafe(len(frame)) + b"\0\0" + frame
    return b"ID3\4\0\0" + syncsafe(len(tag)) + tag + seeds()["cat.mp3"]


FTYP = box(b"ftyp", b"M4A \0\0\0\0M4A mp42isom")
