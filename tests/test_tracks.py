"""Recordings whose usual mix has no voice: which track or channel is taken. And files that are no recordings."""

from __future__ import annotations

import struct
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.core.pcm import RATE, level_dbfs
from helpers.listen import audio, tracks
from helpers.listen.endpointing import is_spoken
from helpers.listen.highpass import HighPass, highpass
from helpers.listen.speech_gate import SpeechGate
from helpers.listen.tracks import Part, Track
from helpers.listen.transcript import Transcript

Sound = NDArray[Any]
BURGER = Path(__file__).parent.parent / "examples" / "burger.wav"


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *arguments], check=True)


@pytest.fixture(scope="module")
def voice() -> Sound:
    return np.frombuffer(audio.decode(BURGER), "<i2")


def write(path: Path, *channels: Sound) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.stack(channels, axis=1).astype("<i2").tobytes())
    return path


def heard(path: Path, voice: Sound) -> float:
    """How much of what is decoded is the voice, upside down or not: the correlation of both."""
    pcm = np.frombuffer(audio.decode(path), "<i2").astype(float)
    assert abs(len(pcm) - len(voice)) < 0.2 * RATE
    spectra = np.fft.rfft(pcm, 1 << 17) * np.fft.rfft(voice.astype(float), 1 << 17).conj()
    return float(np.abs(np.fft.irfft(spectra)).max() / np.sqrt((pcm**2).sum() * (voice.astype(float) ** 2).sum()))


def test_channels_that_cancel_each_other(voice: Sound, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A balanced lead in a stereo input; with a hum in both channels, the mix is not even silent."""
    hum = 200 * np.sin(2 * np.pi * 50 * np.arange(len(voice)) / RATE)
    none = 0 * voice
    assert heard(write(tmp_path / "inverted.wav", voice, -voice), voice) > 0.99
    assert "channel 1 is used" in caplog.text
    assert heard(write(tmp_path / "hum.wav", voice + hum, -voice + hum), voice) > 0.9
    assert heard(write(tmp_path / "front.wav", voice, -voice, none, none, none, none), voice) > 0.99
    assert heard(write(tmp_path / "surround.wav", none, none, none, none, voice, -voice), voice) > 0.99


def test_more_channels_than_ffmpeg_can_mix(voice: Sound, tmp_path: Path) -> None:
    channels = [voice // 1000] * 32
    channels[7] = voice
    assert heard(write(tmp_path / "many.wav", *channels), voice) > 0.99


def test_a_mix_in_which_somebody_speaks_stays(voice: Sound, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert heard(write(tmp_path / "left.wav", voice, 0 * voice), voice) > 0.99
    assert heard(write(tmp_path / "late.wav", voice, np.roll(voice, 8)), voice) > 0.8
    assert "is used" not in caplog.text


@pytest.mark.parametrize("first", ["anullsrc=r=48000:cl=stereo", "sine=300:r=48000"])
def test_the_microphone_is_the_second_track(
    voice: Sound, tmp_path: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    """OBS writes the sound of the desktop first, in a film."""
    film = ["-f", "lavfi", "-t", "4", "-i", "testsrc=r=5:s=32x32"]
    maps = ["-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:a", "aac", "-shortest"]
    ffmpeg(*film, "-f", "lavfi", "-t", "4", "-i", first, "-i", BURGER, *maps, tmp_path / "obs.mkv")
    assert heard(tmp_path / "obs.mkv", voice) > 0.9
    assert "track 2 is used" in caplog.text


def test_where_nobody_speaks_in_any_track(tmp_path: Path) -> None:
    silence = ["-f", "lavfi", "-t", "1", "-i", "anullsrc=r=16000:cl=mono"]
    ffmpeg(*silence, *silence, "-map", "0:a", "-map", "1:a", "-c:a", "flac", tmp_path / "two.mka")
    with pytest.raises(UserError, match=r"two.mka is silent"):
        audio.decode(tmp_path / "two.mka")


def test_the_tracks_of_a_log() -> None:
    log = """[info] Input #0, matroska,webm, from 'x':
[info]   Stream #0:0(eng): Video: h264 (High), yuv420p, 64x48, 10 fps
[info]   Stream #0:1[0x2](und): Audio: aac (LC) (mp4a / 0x6134706D), 48000 Hz, stereo, fltp, 2 kb/s (default)
[info]   Stream #0:2: Audio: pcm_s16le ([1][0][0][0] / 0x0001), 16000 Hz, 32 channels, s16, 8192 kb/s
[info]   Stream #0:3: Audio: ac3, 48000 Hz, 5.1(side), fltp, 448 kb/s
[info]   Stream #0:4: Audio: pcm_s16le, 8000 Hz, mono, s16
[info]     title           : Stream #0:9: Audio: pcm, 1 Hz, mono
[info] Output #0, s16le, to 'pipe:1':
[info]   Stream #0:0(und): Audio: pcm_s16le, 16000 Hz, mono, s16, 256 kb/s
"""
    found = tracks.read(log)
    assert found == [Track(1, 2), Track(2, 32), Track(3, 6), Track(4, 1)]
    assert tracks.parts(found)[:5] == [Part(1), Part(2), Part(3), Part(4), Part(1, 0)]
    assert tracks.parts(found[:1]) == [Part(1, 0), Part(1, 1)]
    assert tracks.parts(found[3:]) == []


@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_a_header_that_says_less_than_there_is(voice: Sound, tmp_path: Path, size: int) -> None:
    """A recorder that was killed leaves the size of the first moment."""
    whole = BURGER.read_bytes()
    at = whole.index(b"data") + 4
    (tmp_path / "cut.wav").write_bytes(whole[:at] + struct.pack("<I", size) + whole[at + 4 :])
    assert heard(tmp_path / "cut.wav", voice) > 0.99


def test_what_follows_the_sound_is_not_sound(voice: Sound, tmp_path: Path) -> None:
    more = b"LIST" + struct.pack("<I", 4000) + b"INFO" + bytes(range(1, 251)) * 16
    (tmp_path / "more.wav").write_bytes(BURGER.read_bytes() + more[:4008])
    assert audio.decode(tmp_path / "more.wav") == audio.decode(BURGER)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("photo.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(99), "a picture"),
        ("photo.wav", b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
        ("notes.wav", "Grüße, hello\n".encode() * 9, "a text"),
        ("list.mp3", b"#EXTM3U\na.mp3\n", "a playlist"),
        ("page.mp3", b"<!DOCTYPE html><html></html>", "a web page"),
        ("memo.m4a.zip", b"PK\x03\x04" + bytes(99), "an archive"),
        ("lfs.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        ("p.aup3", b"SQLite format 3\0" + bytes(99), "Audacity"),
        ("song.mid", b"MThd\0\0\0\6\0\1\0\1\0`MTrk\0\0\0\0", "MIDI"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not a sound file, but .*{what}") as error:
        audio.decode(tmp_path / name)
    assert error.value.code == 65 and ("Playlists" in error.value.remedy) == (what == "a playlist")


def test_a_protected_file_says_so(tmp_path: Path) -> None:
    """iTunes' old songs: the sound is encrypted under the name of another codec."""
    ffmpeg("-i", BURGER, "-c:a", "aac", tmp_path / "song.m4a")
    song = (tmp_path / "song.m4a").read_bytes()
    at = song.index(b"mp4a", song.index(b"stsd"))
    (tmp_path / "song.m4p").write_bytes(song[:at] + b"drms" + song[at + 4 :])
    with pytest.raises(UserError, match=r"song.m4p .*protected"):
        audio.decode(tmp_path / "song.m4p")


@pytest.mark.parametrize(("level", "offset", "rumble"), [(-30, 0.01, 0), (-40, 0.1, 0), (-26, 0, 0.02)])
def test_an_offset_or_rumble_is_no_sound(voice: Sound, level: int, offset: float, rumble: float) -> None:
    """Under a quiet voice, both were louder than it: nobody spoke, said the gate."""
    time = np.arange(len(voice)) / RATE
    more = 32768 * (offset + rumble * np.sin(2 * np.pi * 20 * time))
    quiet = (voice * 10 ** (level / 20) + more).astype("<i2").tobytes()
    assert is_spoken(quiet)
    assert not is_spoken(more.astype("<i2").tobytes())

    class Recogniser:
        name, languages, translates = "test", "en", False

        def transcribe(self, pcm: bytes) -> Transcript:
            assert abs(level_dbfs(pcm) - level_dbfs((voice * 10 ** (level / 20)).astype("<i2").tobytes())) < 1
            return Transcript("a burger", "en")

    assert SpeechGate(Recogniser()).transcribe(quiet).text == "a burger"


def test_the_high_pass() -> None:
    """Its response, its start without a click, and pieces of any length."""
    time = np.arange(2 * RATE) / RATE
    for hertz, expected in ((20, -19.1), (60, -3.0), (200, 0.0)):
        tone = (10_000 * np.sin(2 * np.pi * hertz * time)).astype("<i2").tobytes()
        assert level_dbfs(highpass(tone)[RATE:]) - level_dbfs(tone) == pytest.approx(expected, abs=0.2)
    assert not any(highpass(np.full(5000, 3000, "<i2").tobytes()))
    noise = np.random.default_rng(0).integers(-9000, 9000, 9001).astype("<i2").tobytes()
    stream, at, pieces = HighPass(), 0, b""
    for length in [2, 510, 512, 514, 4000, len(noise)]:
        pieces += stream.feed(noise[at : at + length])
        at += length
    assert pieces == highpass(noise)


def test_a_voice_after_the_window(voice: Sound, tmp_path: Path) -> None:
    late = write(tmp_path / "late.wav", np.concatenate([np.zeros(2 * RATE), voice]))
    with pytest.raises(UserError, match=r"the first 1 seconds of .* are silent") as error:
        audio.decode(late, 1)
    assert "--time" in error.value.remedy
