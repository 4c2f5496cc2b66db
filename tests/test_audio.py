"""Decoding, levels, WAV files and the microphone inputs of a Mac; the voices are sine waves."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import pytest

from helpers.core import ffmpeg_programs, stage
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE, WINDOW, level_dbfs, loudest_dbfs, write_wav
from helpers.core.settings import Settings
from helpers.listen import audio, microphone

SECONDS = 2.0
FORMATS = ["wav", "mp3", "m4a", "ogg", "opus", "flac", "aac", "aiff", "webm", "mka", "caf", "wma", "au", "w64", "amr"]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *arguments], check=True)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two seconds of a 440 Hz tone (44.1 kHz, stereo, -9 dBFS) as tone.wav, tone.mp3 …"""
    folder = tmp_path_factory.mktemp("sounds")
    t = np.arange(round(44_100 * SECONDS)) / 44_100
    tone = (0.5 * 32767 * np.sin(2 * np.pi * 440 * t)).astype("<i2")
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(np.stack([tone, tone], axis=1).tobytes())
    for extension in FORMATS[1:]:
        rate = ["-ar", "8000", "-ac", "1", "-c:a", "libopencore_amrnb"] if extension == "amr" else []
        try:
            ffmpeg("-i", folder / "tone.wav", *rate, folder / f"tone.{extension}")
        except subprocess.CalledProcessError:  # Debian's FFmpeg has no encoder for it
            (folder / f"tone.{extension}").unlink(missing_ok=True)
    return folder


def pitch(pcm: bytes) -> float:
    """The strongest frequency, in Hz."""
    samples = np.frombuffer(pcm, "<i2")
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * RATE / len(samples)


def refused(source: str | Path, code: int, words: str, seconds: float = WINDOW) -> None:
    with pytest.raises(UserError, match=words) as error:
        audio.decode(source, seconds)
    assert error.value.code == code
    assert error.value.remedy


@pytest.mark.parametrize("extension", FORMATS)
def test_decodes(sounds: Path, extension: str) -> None:
    source = sounds / f"tone.{extension}"
    if not source.exists():
        pytest.skip("this FFmpeg cannot make one")
    pcm = audio.decode(source)
    assert abs(len(pcm) / BYTES_PER_SECOND - SECONDS) < 0.15
    assert abs(pitch(pcm) - 440) < 2
    assert abs(loudest_dbfs(pcm) - -9.0) < 1


def test_decodes_with_the_bundled_ffmpeg(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "imageio_ffmpeg" in next(ffmpeg_programs.found())
    assert abs(pitch(audio.decode(sounds / "tone.m4a")) - 440) < 2
    refused(Path(__file__), 65, "is not a sound file, but a text")


def test_decodes_a_video(sounds: Path, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=2:s=64x64", "-i", sounds / "tone.wav", tmp_path / "film.mp4")
    assert abs(pitch(audio.decode(tmp_path / "film.mp4")) - 440) < 2


def test_video_without_sound(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", tmp_path / "film.mp4")
    refused(tmp_path / "film.mp4", 65, "there is no sound in .*film.mp4")


@pytest.mark.parametrize(
    "name", ["-x", "-i.mp3", "a:b", "http:x", "concat:tone.wav|tone.wav", "pipe:0", "%d.wav", "$(x) 'ü' \"\n.m4a", "~"]
)
def test_a_name_is_a_name(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shutil.copy(sounds / "tone.wav", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert audio.decode(name) == audio.decode(sounds / "tone.wav")


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"],
)
@pytest.mark.parametrize("name", ["list.wav", "list.m3u8"])
def test_playlists_are_not_followed(sounds: Path, tmp_path: Path, playlist: str, name: str) -> None:
    shutil.copy(sounds / "tone.mp3", tmp_path)
    (tmp_path / name).write_text(playlist.format("tone.mp3"))
    refused(tmp_path / name, 65, f"{name} is not a sound file")


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.wav", 66, "none.wav: No such file")
    refused(tmp_path, 66, "it is a folder")
    refused("a\0b.wav", 66, "not a file name")
    refused("http://127.0.0.1:9/a.wav", 66, "No such file")


def test_forbidden_file(sounds: Path, tmp_path: Path) -> None:
    shutil.copy(sounds / "tone.wav", tmp_path)
    (tmp_path / "tone.wav").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        refused(tmp_path / "tone.wav", 77, "tone.wav may not be read")
    finally:
        os.seteuid(user)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "empty.wav", 65, "empty.wav is empty")
    refused("/dev/null", 65, "not audio")
    write_wav(tmp_path / "none.wav", b"")
    refused(tmp_path / "none.wav", 65, "none.wav")


@pytest.mark.parametrize("extension", ["wav", "mp3", "m4a", "ogg", "aac", "flac", "webm", ""])
def test_text_is_not_audio(tmp_path: Path, extension: str) -> None:
    for number, text in enumerate(
        ["hello\n", Path(__file__).read_text(), "1\n00:00:01,0 --> 00:00:02,0\nhi\n", "\0" * 9]
    ):
        source = tmp_path / f"text{number}.{extension}"
        source.write_text(text)
        refused(source, 65, "is not ")


@pytest.mark.parametrize("extension", ["mp3", "wav", "aac"])
def test_truncated_file_gives_what_is_there(
    sounds: Path, tmp_path: Path, extension: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (sounds / f"tone.{extension}").read_bytes()
    source = tmp_path / f"cut.{extension}"
    source.write_bytes(whole[: len(whole) // 2])
    assert abs(len(audio.decode(source)) / BYTES_PER_SECOND - SECONDS / 2) < 0.3
    assert capfd.readouterr() == ("", "")


def test_truncated_m4a_has_no_index(sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.m4a").write_bytes((sounds / "tone.m4a").read_bytes()[:5000])
    refused(tmp_path / "cut.m4a", 65, "cut.m4a is not audio that FFmpeg can read")


def test_silence(tmp_path: Path) -> None:
    for name, value in (("zero.wav", 0), ("noise.wav", 3)):  # 3 of 32768: -80.8 dBFS
        write_wav(tmp_path / name, np.full(16_000, value, "<i2").tobytes())
        refused(tmp_path / name, 65, f"{name} is silent")
    write_wav(tmp_path / "faint.wav", np.concatenate([np.zeros(32_000), np.full(800, 5)]).astype("<i2").tobytes())
    assert audio.decode(tmp_path / "faint.wav")
    refused(tmp_path / "faint.wav", 65, "the first 1 seconds of .*faint.wav are silent", seconds=1)


def test_only_the_window_is_used(sounds: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage.begin("record", Settings())
    source = sounds / "tone.wav"
    assert len(audio.decode(source, 0.5)) == 16_000
    assert capfd.readouterr().err == f"record: {source} is longer: the first 0.5 seconds of {source} are used\n"
    assert audio.decode(source, 0.5) == audio.decode(source, 2)[:16_000]
    capfd.readouterr()
    audio.decode(source, SECONDS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("extension", ["wav", "mp3"])
def test_an_hour_costs_no_more_than_the_window(sounds: Path, tmp_path: Path, extension: str) -> None:
    small, hour, short = (tmp_path / f"{name}.{extension}" for name in ("small", "hour", "short"))
    ffmpeg("-i", sounds / "tone.wav", "-ar", "8000", "-ac", "1", small)
    for target, times in ((hour, "1800"), (short, "16")):
        ffmpeg("-stream_loop", times, "-i", small, "-c", "copy", target)

    def cost(source: Path) -> float:
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert len(audio.decode(source)) == 30 * BYTES_PER_SECOND
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

    assert min(cost(hour) for _ in range(3)) < 2 * min(cost(short) for _ in range(3)) + 0.05


def test_named_pipe(sounds: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes((sounds / "tone.m4a").read_bytes()))  # index at the end
    writer.start()
    assert audio.decode(fifo) == audio.decode(sounds / "tone.m4a")
    writer.join()


def test_no_ffmpeg(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    refused(sounds / "tone.wav", 69, "FFmpeg is missing")


# Each a program first on PATH that is there, and is of no use.
BROKEN = {
    "no program": (b"\x7fELF not", "Exec format error"),
    "libraries were upgraded": (
        b"#!/bin/sh\necho 'dyld[1]: Library not loaded: /opt/homebrew/opt/x264/lib/libx264.164.dylib' >&2\nexit 134\n",
        "Library not loaded",
    ),
    "a library is missing": (b"#!/bin/sh\nkill -ABRT $$\n", "Aborted"),
    "exits with 127": (b"#!/bin/sh\nexit 127\n", "exit code 127"),
    "crashes": (b"#!/bin/sh\nkill -SEGV $$\n", "Segmentation fault"),
    "hangs": (b"#!/bin/sh\nexec sleep 60\n", "does not answer"),
    "older than an option": (
        b"#!/bin/sh\ncase $* in *-version*) echo 'ffmpeg version 0.6' ;; "
        b"*) echo \"Unrecognized option 'max_alloc'\" >&2; exit 1 ;; esac\n",
        "Unrecognized option",
    ),
    "built without s16le": (
        b"#!/bin/sh\ncase $* in *-version*) echo 'ffmpeg version 7.1' ;; "
        b"*) echo \"[aost#0:0 @ 0x55] Unknown encoder 'pcm_s16le'\" >&2; exit 1 ;; esac\n",
        "Unknown encoder",
    ),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A broken FFmpeg is first on PATH; what is said about it."""
    script, what = BROKEN[request.param]
    (tmp_path / "ffmpeg").write_bytes(script)
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(audio, "SLOW", 0.2)
    monkeypatch.setattr(ffmpeg_programs, "SOON", 2.0)
    stage.begin("record", Settings())
    return what


def test_a_broken_ffmpeg_gives_way_to_the_bundled_one(
    sounds: Path, broken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert abs(pitch(audio.decode(sounds / "tone.wav")) - 440) < 2
    (said,) = capfd.readouterr().err.splitlines()  # once
    assert said.startswith("record: ") and "ffmpeg is broken (" in said and broken in said


def test_where_no_ffmpeg_works_the_recording_is_not_blamed(
    sounds: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="FFmpeg does not work") as error:
        audio.decode(sounds / "tone.wav")
    assert error.value.code == 69 and broken in error.value.message and "nstall" in error.value.remedy
    assert "tone.wav" not in error.value.message + error.value.remedy


def test_a_broken_ffmpeg_is_not_a_missing_microphone(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(microphone, "PATIENCE", 0.3)
    with pytest.raises(UserError, match="FFmpeg does not work") as error:
        list(microphone.listen())
    assert error.value.code == 69 and broken in error.value.message


def test_a_stream_goes_to_the_next_ffmpeg_whole(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg").write_bytes(BROKEN["libraries were upgraded"][0])
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes((sounds / "tone.wav").read_bytes()))
    writer.start()
    assert abs(pitch(audio.decode(fifo)) - 440) < 2
    writer.join()


@pytest.mark.parametrize(
    "complaint",
    [
        "[ist#0:0/aac @ 0x5561] Decoding requested, but no decoder found for: aac",
        "Decoder (codec aac) not found for input stream #0:0",
    ],
)
@pytest.mark.parametrize("bundled", [True, False])
def test_an_ffmpeg_without_the_decoder(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: str, bundled: bool
) -> None:
    (tmp_path / "ffmpeg").write_text(
        f"#!/bin/sh\ncase $* in *-version*) echo 'ffmpeg version 7.1' ;; *) echo '{complaint}' >&2; exit 1 ;; esac\n"
    )
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    if bundled:
        assert abs(pitch(audio.decode(sounds / "tone.m4a")) - 440) < 2
    else:
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        refused(sounds / "tone.m4a", 69, r"this FFmpeg has no decoder for the sound in .*tone.m4a \(aac\)")


def test_levels() -> None:
    t = np.arange(16_000)
    square, sine = np.where(t % 2, 32767, -32768), 32767 * np.sin(2 * np.pi * t / 32)
    assert abs(level_dbfs(square.astype("<i2").tobytes())) < 0.01
    assert abs(level_dbfs(sine.astype("<i2").tobytes()) - -3.01) < 0.01
    assert level_dbfs(bytes(100)) == level_dbfs(b"") == loudest_dbfs(b"") == -math.inf
    quiet = bytes(320_000) + square[:800].astype("<i2").tobytes()
    assert level_dbfs(quiet) < -20 and abs(loudest_dbfs(quiet)) < 0.01


def test_wav_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "prompt.wav"
    write_wav(path, b"\1\0" * 100)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as on a full disk
    try:
        with pytest.raises(UserError, match=r"cannot write .*prompt\.wav") as error:
            write_wav(path, b"\2\0" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.code == 73
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["prompt.wav"]


# ------------------------------------------------------------------- the microphone inputs that are not at hand

VERSION = "case $* in *-version*) echo ffmpeg version 7.1; exit ;; esac"
AVFOUNDATION = """\
[AVFoundation indev @ 0x7fb] AVFoundation video devices:
[AVFoundation indev @ 0x7fb] [0] FaceTime HD Camera
[AVFoundation indev @ 0x7fb] AVFoundation audio devices:
[AVFoundation indev @ 0x7fb] [0] iPhone Microphone
[AVFoundation indev @ 0x7fb] [1] MacBook Pro Microphone
: Input/output error
"""


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An FFmpeg of a Mac with two microphones; the file that its arguments are noted in, a line for each run."""
    program, calls = tmp_path / "ffmpeg", tmp_path / "calls"
    program.write_text(
        "#!/bin/sh\n"
        f'printf "%s " "$@" >>"{calls}"; echo >>"{calls}"\n'
        f"case \"$*\" in *list_devices*) cat >&2 <<'END'\n{AVFOUNDATION}END\nexit 1;; esac\n"
        'printf "\\001\\002\\003\\004"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(microphone, "SYSTEMS", ("avfoundation",))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    return calls


def test_mac_uses_the_default_microphone(mac: Path) -> None:
    assert b"".join(microphone.listen()) == b"\1\2\3\4"
    (call,) = mac.read_text().splitlines()
    assert call.startswith("-f avfoundation -i :default -f s16le -ac 1 -ar 16000 ")
    assert "-nostdin" in call.split()


def test_mac_finds_a_microphone_by_name(mac: Path) -> None:
    assert [device.name for device in microphone.devices()] == ["iPhone Microphone", "MacBook Pro Microphone"]
    for name in ("MacBook Pro Microphone", "macbook"):
        assert b"".join(microphone.listen(name)) == b"\1\2\3\4"
        assert "-i :MacBook Pro Microphone -f s16le" in mac.read_text().splitlines()[-1]
    for name, words in (("Microphone", "2 microphones are called"), ("FaceTime", "no microphone is called")):
        with pytest.raises(UserError, match=words) as error:
            list(microphone.listen(name))
        assert error.value.code == 69
        assert "iPhone Microphone, MacBook Pro Microphone" in error.value.remedy


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("cannot open audio device default (Permission denied)", 77, "may not be used"),
        ("default: Connection refused", 69, "no microphone was found"),
        ("Unknown input format: 'pulse'", 69, "this FFmpeg cannot record"),
        ("Unrecognized option 'fragment_size'.", 69, "this FFmpeg cannot record"),
    ],
)
def test_why_no_microphone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int, words: str) -> None:
    (tmp_path / "ffmpeg").write_text(f'#!/bin/sh\n{VERSION}\necho "{said}" >&2\nexit 1\n')
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(microphone, "SYSTEMS", ("pulse", "alsa"))
    with pytest.raises(UserError, match=words) as error:
        list(microphone.listen())
    assert error.value.code == code and error.value.remedy


def test_microphone_that_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg").write_text(f'#!/bin/sh\n{VERSION}\necho $$ >"{tmp_path}/pid"\nexec sleep 60\n')
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(microphone, "SYSTEMS", ("pulse",))
    monkeypatch.setattr(microphone, "PATIENCE", 0.3)
    with pytest.raises(UserError, match=re.escape("no sample arrived within 0.3 seconds")):
        list(microphone.listen())
    with pytest.raises(ProcessLookupError):  # it is not left behind
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_address_is_no_file() -> None:
    with pytest.raises(UserError, match="cannot read https://") as error:
        audio.decode("https://example.com/a.mp3", 10)
    assert error.value.code == 66 and error.value.remedy == "Download it first: only files are read."
