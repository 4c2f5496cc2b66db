"""Hostile audio: files and streams that are damaged, lie about what they hold, or never end."""

from __future__ import annotations

import functools
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_sound import DECODERS, FTYP, MOST_TIME, RIFF, SYSTEM, box, chunk, held, png, record, seeds, wav, with_cover

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, WINDOW
from helpers.listen import audio, ffmpeg_process


def mutated(number: int) -> tuple[str, bytes]:
    """File number n: (its name, what is in it); the same each time."""
    chance = random.Random(number)
    name = chance.choice(sorted(seeds()))
    data = bytearray(seeds()[name])
    for _ in range(chance.randint(1, 3)):
        end = min(len(data), chance.choice([64, 512, len(data)]))  # more often where the header is
        place = chance.randrange(max(1, end))
        length = chance.choice([1, 4, 100, 5000])
        way = chance.randrange(7)
        if way == 0:
            for _ in range(chance.choice([1, 8, 200]) if data else 0):
                data[chance.randrange(min(end, len(data)) or 1)] ^= 1 << chance.randrange(8)
        elif way == 1:
            del data[place:]
        elif way == 2:
            del data[place : place + length]
        elif way == 3:
            data[place:place] = data[place : place + length] * chance.choice([1, 2, 50])
        elif way == 4:
            data[place:place] = chance.randbytes(length)
        elif way == 5:  # sizes, counts and rates that lie
            size = chance.choice([0, 1, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
            data[place : place + 4] = struct.pack(chance.choice("<>") + "I", size)
        else:
            other = seeds()[chance.choice(sorted(seeds()))]
            data[place:] = other[chance.randrange(len(other)) :]
    return name, bytes(data)


def test_damaged_files(
    tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """A damaged audio file is read as far as possible, or refused in one line; memory and time are limited."""
    tried = size(40, 2400)
    for number in range(tried):
        name, data = mutated(number)
        file = tmp_path / name
        file.write_bytes(data)
        decoder = DECODERS[number % 2] if SYSTEM else "bundled"
        streamed = number % 4 > 1
        with file.open("rb") as stdin:
            ended = record("-" if streamed else file, tmp_path, decoder, stdin if streamed else subprocess.DEVNULL)
        held(ended, f"mutated({number}), {name}, {decoder}, {'stdin' if streamed else 'file'}")
        file.unlink()
    record_property("tried", tried)


# What is in the file, and how record may end with it
MADE: dict[str, tuple[Callable[[], bytes], tuple[int, ...]]] = {
    "nothing": (lambda: b"", (65,)),
    "one byte": (lambda: b"R", (65,)),
    "a header alone": (lambda: wav(b""), (65,)),
    "one sample": (lambda: wav(b"\0\x40"), (0, 65)),
    "half a sample": (lambda: wav(b"\x40"), (65,)),
    "data of 4 GiB": (lambda: wav(says=2**32 - 1), (0,)),
    "data of no size": (lambda: wav(says=0), (0, 65)),
    "a format of 2 GiB": (lambda: RIFF + chunk(b"fmt ", wav()[20:36], 2**31 - 1) + chunk(b"data", bytes(64)), (65,)),
    "an unknown chunk of 4 GiB": (lambda: wav()[:36] + chunk(b"JUNK", bytes(64_000), 2**32 - 16), (65,)),
    "a thousand chunks": (lambda: RIFF + chunk(b"LIST", b"INFO") * 1000 + wav()[12:], (0,)),
    "no channels": (lambda: wav(channels=0), (65,)),
    "64 channels at 384 kHz": (lambda: wav(wav() * 40, channels=64, rate=384_000), (0, 65)),
    "65535 channels": (lambda: wav(channels=65_535), (65,)),
    "no rate": (lambda: wav(rate=0), (65,)),
    "a rate of 1 Hz": (lambda: wav(rate=1), (0, 65)),
    "a rate of 384 kHz": (lambda: wav(rate=384_000), (0,)),
    "a rate of 4 GHz": (lambda: wav(rate=2**32 - 1), (0, 65)),
    "8 bits": (lambda: wav(kind=1, bits=8), (0,)),
    "32 bits of floats": (
        lambda: wav(struct.pack("<8000f", *[(-1) ** i * 0.5 for i in range(8000)]), 3, bits=32),
        (0,),
    ),
    "floats that are none": (lambda: wav(struct.pack("<f", float("nan")) * 8000, 3, bits=32), (0, 65)),
    "endless floats": (lambda: wav(struct.pack("<f", float("inf")) * 8000, 3, bits=32), (0, 65)),
    "1 bit": (lambda: wav(bits=1), (0, 65)),
    "65535 bits": (lambda: wav(bits=65_535), (65,)),
    "a kind that nobody knows": (lambda: wav(kind=0x7FFF), (65,)),
    "a cover of 12,000 × 12,000 pixels": (lambda: with_cover(png(12_000, 12_000)), (0,)),
    "a tag of 256 MB": (lambda: b"ID3\4\0\0\x7f\x7f\x7f\x7f" + seeds()["cat.mp3"], (0, 65)),
    "a box of 2^62 bytes": (lambda: FTYP + struct.pack(">I4sQ", 1, b"mdat", 1 << 62) + bytes(64_000), (65,)),
    "a box within itself": (lambda: FTYP + box(b"moov", box(b"trak", box(b"mdia", b"", 2**32 - 1))), (65,)),
    "boxes 5,000 deep": (
        lambda: FTYP + functools.reduce(lambda inner, _: box(b"moov", inner), range(5000), b""),
        (65,),
    ),
    "text": (lambda: b"a burger\n" * 9, (65,)),
    "a page": (lambda: b"<!DOCTYPE html><html><audio src='file:///etc/passwd'></audio></html>", (65,)),
    "a program": (lambda: Path(sys.executable).read_bytes()[:100_000], (65,)),
    "a script": (lambda: b"#!/bin/sh\ntouch canary\n", (65,)),
    "a picture": (lambda: png(64, 64), (65,)),
    "a vast picture": (lambda: png(12_000, 12_000), (65,)),
    "zeros": (lambda: bytes(1 << 20), (65,)),
    "noise": (lambda: random.Random(1).randbytes(1 << 20), (65,)),
}


def test_headers_that_lie(
    tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """Files that are no audio, or have a wrong header, are read or refused in one line; they use no memory."""
    turns = size(1, 4)
    for number, (about, (data, codes)) in enumerate(MADE.items()):
        file = tmp_path / "sound.wav"
        file.write_bytes(data())
        for turn in range(number, number + turns):
            decoder, streamed = DECODERS[turn % 2], turn % 4 > 1
            with file.open("rb") as stdin:
                ended = record("-" if streamed else file, tmp_path, decoder, stdin if streamed else subprocess.DEVNULL)
            held(ended, (about, decoder, streamed), codes)
    assert not (tmp_path / "canary").exists()
    record_property("tried", len(MADE) * turns)


# ------------------------------------------------------------------------------------------------ endless


def repeated(data: bytes, head: bytes = b"") -> Iterator[bytes]:
    yield head
    while True:
        yield data


NULLS = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 1000  # packets of a transport stream that carry nothing
ENDLESS: dict[str, tuple[Callable[[], Iterator[bytes]], tuple[int, ...]]] = {
    "zeros": (lambda: repeated(bytes(1 << 16)), (65,)),
    "noise": (lambda: repeated(random.Random(2).randbytes(1 << 20)), (65,)),
    "text": (lambda: repeated(b"a burger\n" * 9999), (65,)),
    "a recording": (lambda: repeated(random.Random(3).randbytes(1 << 16), wav(says=2**32 - 1)), (0,)),
    "an mp3": (lambda: repeated(seeds()["cat.mp3"]), (0,)),
    "a box": (lambda: repeated(bytes(1 << 16), FTYP + struct.pack(">I4sQ", 1, b"mdat", 1 << 62)), (65,)),
    "a chunk": (lambda: repeated(bytes(1 << 16), wav()[:36] + chunk(b"JUNK", b"", 2**32 - 16)), (65,)),
    "packets of nothing": (lambda: repeated(NULLS, seeds()["transport.ts"]), (0, 65)),
}


def poured(pieces: Iterator[bytes], into: int) -> None:
    with os.fdopen(into, "wb", buffering=0) as pipe:
        for piece in pieces:
            try:
                pipe.write(piece)
            except BrokenPipeError:
                return


def test_streams_without_end(
    tmp_path: Path, size: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    """An endless stream is read up to the time limit, or refused; it fills neither memory nor the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    tried = [(name, DECODERS[(number + turn) % 2]) for turn in range(size(1, 2)) for number, name in enumerate(ENDLESS)]
    for name, decoder in tried:
        pieces, codes = ENDLESS[name]
        reader, writer = os.pipe()
        pouring = threading.Thread(target=poured, args=(pieces(), writer))
        pouring.start()
        # A whole GiB is written at full size only
        resource.setrlimit(resource.RLIMIT_FSIZE, (size(1 << 25, ffmpeg_process.LARGEST), limits[1]))
        try:
            with os.fdopen(reader, "rb") as stdin:
                held(record("-", tmp_path, decoder, stdin), (name, decoder), codes)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        pouring.join()
    record_property("tried", len(tried))


def test_a_day_in_one_file(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """From a file of eight hours, half a minute is read, and it costs what half a minute costs."""
    for number, decoder in enumerate(DECODERS):
        file = tmp_path / "day.wav"
        file.write_bytes(wav(says=8 * 3600 * 32_000))
        os.truncate(file, 8 * 3600 * 32_000)  # silence, which takes no room on the disk
        ended = record(file, tmp_path, decoder)
        held(ended, decoder, (0,))
        assert len(ended.pcm) == WINDOW * BYTES_PER_SECOND
        record_property("tried", number + 1)


# ------------------------------------------------------------------------------------------------ no files


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ("/dev/zero", (65,)),
        ("/dev/urandom", (65,)),
        ("/dev/null", (65,)),
        ("/", (66,)),
        (".", (66,)),
        ("/dev/fd/99", (66,)),
    ],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_no_file(tmp_path: Path, decoder: str, source: str, codes: tuple[int, ...]) -> None:
    """A device, a folder or a socket instead of a file is refused in one line."""
    held(record(source, tmp_path, decoder), source, codes)


def test_a_socket(tmp_path: Path) -> None:
    """A socket instead of a file is refused in one line."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.wav"))
        held(record(tmp_path / "socket.wav", tmp_path, "bundled"), "a socket", (66,))


def test_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    """A named pipe without a writer: the program waits; when it is stopped, no process is left."""
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "helpers.listen.record", "--input", str(fifo)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        writer = opened(fifo)
        process.terminate()
        out, err = process.communicate()
    assert (process.returncode, out, err) == (128 + signal.SIGTERM, b"", b"")
    os.close(writer)
    with pytest.raises(OSError, match="No such device"):  # nobody has it open
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


def opened(fifo: Path) -> int:
    """The writing end of a named pipe, as soon as somebody reads it."""
    end = time.monotonic() + MOST_TIME
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.01)


FAKES = {
    "hangs": ("exec sleep 600", "nothing came of it in 0.5 seconds"),
    "floods its log": ("head -c 50000000 /dev/zero | tr '\\0' x >&2; exit 1", "x{200}[)]"),
    "crashes": ("kill -SEGV $$", "it ended with: Segmentation fault"),
    "says nothing": ("exit 1", "has no sound in it"),
    "talks to the terminal": ("printf '\\033]0;x\\007 \\342\\200\\256 no\\n' >&2; exit 1", "can read [(].*no[)]"),
}


@pytest.mark.parametrize("fault", FAKES)
def test_an_ffmpeg_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """An FFmpeg that hangs, crashes or floods its log is stopped, and the file is refused in one line."""
    script, words = FAKES[fault]
    version = "case $* in *-version*) echo ffmpeg version 7.1; exit ;; esac"  # it runs, but not with this file
    (tmp_path / "ffmpeg").write_text(f"#!/bin/sh\n{version}\necho $$ >{tmp_path}/pid\n{script}\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    (tmp_path / "word.wav").write_bytes(wav())
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(audio, "PATIENCE", 0.5 if fault == "hangs" else 60.0)
    with pytest.raises(UserError, match=words) as error:
        audio.decode(tmp_path / "word.wav")
    assert error.value.code == 65 and len(error.value.message) < 500
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_ffmpeg_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file from which FFmpeg makes endless sound (its clock stands still) is cut at the time limit."""
    (tmp_path / "ffmpeg").write_text('#!/bin/sh\nulimit -f >"${0%/*}/limit"\nexec yes sound\n')
    (tmp_path / "ffmpeg").chmod(0o755)
    (tmp_path / "word.wav").write_bytes(wav())
    ended = record(tmp_path / "word.wav", tmp_path, "bundled", path=f"{tmp_path}:{os.environ['PATH']}")
    held(ended, "endless", (0,))
    assert len(ended.pcm) == WINDOW * BYTES_PER_SECOND
    assert int((tmp_path / "limit").read_text()) * 512 == ffmpeg_process.LARGEST  # what it may write to the disk
