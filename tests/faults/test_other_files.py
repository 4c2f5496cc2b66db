"""Sound files, and names of them, that want FFmpeg to open something else: another file, a connection, a program."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
from hostile_sound import DECODERS, SYSTEM, box, held, record, seeds, wav, with_cover

BUNDLED = sorted((Path(imageio_ffmpeg.__file__).parent / "binaries").glob("ffmpeg-*"))
NAMES = ["http://127.0.0.1:{port}/a.wav", "tcp://127.0.0.1:{port}", "concat:canary.wav|canary.wav", "file:canary.wav"]
NAMES += [
    "subfile,,start,0,end,0,,:canary.wav",
    "data:audio/wav;base64,{sound}",
    "async:canary.wav",
    "cache:canary.wav",
]
NAMES += [
    "crypto:canary.wav",
    "pipe:0",
    "lavfi",
    "sine=440",
    "amovie=canary.wav",
    "%03d.wav",
    "canar*.wav",
    "canary.wa?",
]
NAMES += [
    "-i",
    "-f",
    "--help",
    "-version",
    "@canary.wav",
    "~/canary.wav",
    "canary.wav\nx",
    "canary.wav|",
    "$(touch made)",
]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server on this machine that nobody is to ask."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


def canary(folder: Path) -> Path:
    """A file beside the one that is named, with sound in it that nobody is to hear."""
    file = folder / "canary.wav"
    file.write_bytes(wav())
    (folder / "001.wav").write_bytes(wav())
    return file


def test_names_that_mean_something_to_ffmpeg(
    tmp_path: Path,
    listener: socket.socket,
    size: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """A file name is only a name, even if FFmpeg could read it as an address, list, pattern or option."""
    sound = base64.b64encode(canary(tmp_path).read_bytes()[:2000]).decode().replace("/", "_")
    names = NAMES[:: size(2, 1)]
    for number, shape in enumerate(names):
        name = shape.format(port=listener.getsockname()[1], sound=sound[:100])
        held(record(name, tmp_path, DECODERS[number % 2]), name, (66,))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(seeds()["word.wav" if SYSTEM else "burger.wav"])
        ended = record(name, tmp_path, DECODERS[number % 2])
        held(ended, name, (0,))
        assert ended.pcm not in wav()
    assert not (tmp_path / "made").exists()
    record_property("tried", 2 * len(names))


def alias(path: bytes) -> bytes:
    """A reference of QuickTime to sound in another file, as FFmpeg reads it (libavformat/mov.c, mov_read_dref)."""
    record = (
        bytes(10) + bytes([4]) + b"disk".ljust(27, b"\0") + bytes(12) + bytes([1]) + b"x".ljust(63, b"\0") + bytes(16)
    )
    record += struct.pack(">hh", 1, 1) + bytes(16)
    record += struct.pack(">hh", 2, len(path)) + path + bytes(len(path) % 2)
    record += struct.pack(">hh", 18, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hh", -1, 0)
    return box(b"alis", bytes(4) + record.ljust(200, b"\0"))


def with_reference(entry: bytes) -> bytes:
    """A QuickTime file whose sound is said to be in another one. Its index is its last box, so nothing else moves."""
    data = seeds()["word.mov"]
    place, path = 0, []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = data.index(kind, place) - 4
        path.append(place)
    old = struct.unpack_from(">I", data, place)[0]
    new = box(b"dref", struct.pack(">II", 0, 1) + entry)
    out = bytearray(data)
    for at in path[:-1]:
        struct.pack_into(">I", out, at, struct.unpack_from(">I", data, at)[0] + len(new) - old)
    out[place : place + old] = new
    return bytes(out)


HLS = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:9\n{}#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT9S">'
    '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="0" bandwidth="9" codecs="mp4a.40.2"><BaseURL>{}'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {} RTP/AVP 0\n"
# What a file holds that makes FFmpeg open another one, if it is let: by a path, and by an address
TRAPS: dict[str, Callable[[str, str], bytes]] = {
    "a playlist of HLS": lambda path, address: HLS.format("", path).encode(),
    "one of the network": lambda path, address: HLS.format("", address).encode(),
    "its key": lambda path, address: HLS.format(f'#EXT-X-KEY:METHOD=AES-128,URI="{path}"\n', address).encode(),
    "its beginning": lambda path, address: HLS.format(f'#EXT-X-MAP:URI="{path}"\n', path).encode(),
    "concat within it": lambda path, address: HLS.format("", f"concat:{path}|{path}").encode(),
    "a playlist of playlists": lambda path, address: b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\n" + path.encode(),
    "m3u": lambda path, address: f"{path}\n{address}\n".encode(),
    "pls": lambda path, address: f"[playlist]\nFile1={path}\nNumberOfEntries=1\n".encode(),
    "ffconcat": lambda path, address: f"ffconcat version 1.0\nfile '{path}'\n".encode(),
    "ffconcat of the network": lambda path, address: f"ffconcat version 1.0\nfile '{address}'\n".encode(),
    "DASH": lambda path, address: DASH.format(path).encode(),
    "DASH of the network": lambda path, address: DASH.format(address).encode(),
    "SDP": lambda path, address: SDP.format(re.findall(r":(\d+)", address)[0]).encode(),
    "asx": lambda path, address: f'<asx version="3.0"><entry><ref href="{address}"/></entry></asx>'.encode(),
    "ram": lambda path, address: address.encode(),
    "a filter": lambda path, address: f"amovie='{path}'".encode(),
    "AviSynth": lambda path, address: f'WavSource("{path}")\n'.encode(),
    "VapourSynth": lambda path, address: f'open("{path}").read()\n'.encode(),
    "an alias": lambda path, address: with_reference(alias(path.encode())),
    "an address": lambda path, address: with_reference(box(b"url ", bytes(4) + address.encode() + b"\0")),
    "a picture's address": lambda path, address: with_cover(address.encode()).replace(b"image/png", b"-->\0\0\0\0\0\0"),
}
TRAP_NAMES = ["trap.wav", "trap.mp4", "trap.m3u8", "trap", "trap.mp3", "trap.avs"]
ELSEWHERE = re.compile(r"/(etc|lib|lib64|usr|proc|sys|opt)/|/dev/(null|urandom|random|shm)|/tmp/ffcache")


def traced(folder: Path, decoder: str) -> Path:
    """A folder whose ffmpeg is this one. It notes in a file beside it, for each time that it runs, what it opens and
    whom it asks."""
    if (
        not shutil.which("strace")
        or subprocess.run(["strace", "-qq", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no program can be traced here")
    (folder / "bin").mkdir(exist_ok=True)
    shim = folder / "bin" / "ffmpeg"
    real = SYSTEM if decoder == "system" else BUNDLED[0]
    trace = f"strace -f -qq -s 9999 -e trace=open,openat,creat,execve,socket,connect -o '{folder}/calls'.$$"
    shim.write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\nexec {trace} '{real}' \"$@\"\n")
    shim.chmod(0o755)
    return folder / "bin"


def asked(folder: Path) -> tuple[set[str], int, int]:
    """(the files that were opened or looked for, how many sockets were made, how many programs FFmpeg started), since
    it was last asked."""
    traces = list(folder.glob("calls.*"))
    assert traces
    calls = "".join(trace.read_text(errors="replace") for trace in traces)
    for trace in traces:
        trace.unlink()
    files = {found[1] for found in re.finditer(r'(?:openat\(\w+, |open\(|creat\()"([^"]*)"', calls)}
    return (
        {file for file in files if not ELSEWHERE.match(file)},
        calls.count("socket("),
        calls.count("execve(") - len(traces),
    )


def test_files_that_name_others(
    tmp_path: Path,
    listener: socket.socket,
    size: Callable[[int, int], int],
    record_property: Callable[[str, object], None],
) -> None:
    """FFmpeg opens only the named file, no program and no connection, whatever the file contains."""
    other = canary(tmp_path)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/canary.wav"
    turns = size(1, 4 * len(TRAP_NAMES))
    traps = [trap for trap in TRAPS if "word.mov" in seeds() or trap not in ("an alias", "an address")]
    for number, trap in enumerate(traps):
        for turn in range(number, number + turns):
            file = tmp_path / TRAP_NAMES[turn % len(TRAP_NAMES)]
            file.write_bytes(TRAPS[trap](str(other), address))
            decoder, streamed = DECODERS[turn // 6 % 2], turn // 12 % 2 == 1
            path = f"{traced(tmp_path, decoder)}:/usr/bin:/bin"
            with file.open("rb") as stdin:
                source, given = ("-", stdin) if streamed else (file, subprocess.DEVNULL)
                ended = record(source, tmp_path, decoder, given, path)
            held(ended, (trap, file.name, decoder, streamed))
            assert ended.code == 65 or trap in ("an address", "a picture's address"), (trap, file.name)
            assert asked(tmp_path) == (set() if streamed else {str(file)}, 0, 0), (trap, file.name)
    record_property("tried", len(traps) * turns)


def test_the_traps_are_real(tmp_path: Path) -> None:
    """Without our restrictions, FFmpeg would open the other file (so the tests above can fail)."""
    ffmpeg, other = traced(tmp_path, "system") / "ffmpeg", canary(tmp_path)
    for trap in ("a playlist of HLS", "ffconcat", "an alias"):
        file = tmp_path / "trap.m3u8"
        file.write_bytes(TRAPS[trap](str(other), ""))
        more = ["-enable_drefs", "1", "-use_absolute_path", "1"] if trap == "an alias" else []
        more += ["-safe", "0"] if trap == "ffconcat" else []
        command = [str(ffmpeg), "-nostdin", *more, "-i", str(file), "-f", "null", "-"]
        subprocess.run(command, check=False, capture_output=True)
        assert str(other) in asked(tmp_path)[0], trap


def test_no_picture_is_decoded(tmp_path: Path) -> None:
    """FFmpeg may use audio decoders only; the larger part, which decodes pictures, is not used."""
    if not SYSTEM:
        pytest.skip("there is no FFmpeg on this machine")
    (tmp_path / "ffmpeg").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"${{0%/*}}/arguments"\nexec {SYSTEM} "$@"\n')
    (tmp_path / "ffmpeg").chmod(0o755)
    (tmp_path / "word.wav").write_bytes(wav())
    held(record(tmp_path / "word.wav", tmp_path, "system", path=f"{tmp_path}:/usr/bin:/bin"), "its arguments", (0,))
    arguments = (tmp_path / "arguments").read_text().splitlines()
    allowed = arguments[arguments.index("-codec_whitelist") + 1].split(",")
    listed = subprocess.run([SYSTEM, "-v", "quiet", "-decoders"], capture_output=True, text=True, check=True).stdout
    kinds = {name: kind for kind, name in re.findall(r"^ ([VAS])[.\w]{5} (\w+)", listed, re.MULTILINE)}
    assert {"aac", "mp3float", "opus", "pcm_s16le"} <= kinds.keys() and "V" in kinds.values()
    assert {kinds[name] for name in allowed if name in kinds} == {"A"}
