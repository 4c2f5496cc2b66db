"""A file is heard to its end: each utterance becomes a line, the memory stays flat, and short files stay whole."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmark import spoken_prompts
from benchmark.voices import speak
from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE, write_wav
from helpers.core.settings import Settings
from helpers.listen import audio, long_files
from helpers.listen.long_files import Utterances

NUMBERS = (0, 2, 19, 24)  # four short prompts
TEXTS = [spoken_prompts.PROMPTS[number].text for number in NUMBERS]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_prompts, "PROMPTS", tuple(spoken_prompts.PROMPTS[number] for number in NUMBERS))
        made = spoken_prompts.make(tmp_path_factory.mktemp("spoken"), ("rms",))
    return [audio.decode(recording.path) for recording in made]


def room(seconds: float) -> bytes:
    """The noise of a quiet room."""
    return np.random.default_rng(0).normal(0, 8, round(seconds * RATE)).astype("<i2").tobytes()


@pytest.fixture
def memo(tmp_path: Path, spoken: list[bytes]) -> Callable[..., Path]:
    def make(pause: float, count: int = 4) -> Path:
        path = tmp_path / "memo.wav"
        write_wav(path, room(1) + b"".join(spoken[i % 4] + room(pause) for i in range(count)))
        return path

    return make


def cut(path: Path, folder: Path, seconds: float | None = None) -> list[bytes]:
    utterances = Utterances(str(path), folder, Settings(time=seconds), lambda seconds, count: None)
    cut = list(utterances)
    assert len(utterances) == len(cut)
    return cut


def run(tmp_path: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A pipe of our stages, in a session; python is the one that runs the tests."""
    session = tmp_path / "session"
    session.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("A2I_")}
    clean |= {"A2I_SESSION": str(session), "A2I_MODELS": str(tmp_path), "PYTHONUTF8": "1", **variables}
    shell = ["bash", "-c", f"set -o pipefail; {command}".replace("python", sys.executable)]
    return subprocess.run(shell, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=100, check=False)


# ---- where a file is cut


def test_pauses_of_two_seconds_separate_prompts(memo: Callable[..., Path], spoken: list[bytes], tmp_path: Path) -> None:
    cuts = cut(memo(2.5), tmp_path)
    assert len(cuts) == 4
    for piece, whole in zip(cuts, spoken, strict=True):
        assert 0 < len(piece) / BYTES_PER_SECOND < len(whole) / BYTES_PER_SECOND + 1.5


def test_shorter_pauses_do_not(memo: Callable[..., Path], tmp_path: Path) -> None:
    path = memo(0.5)
    assert cut(path, tmp_path) == [audio.decode(path)]  # bit for bit


@pytest.mark.parametrize("sound", [room(3), room(3)[:-1] + b"\1"])
def test_where_nobody_speaks_the_beginning_is_one_recording(tmp_path: Path, sound: bytes) -> None:
    write_wav(tmp_path / "room.wav", sound)
    assert cut(tmp_path / "room.wav", tmp_path) == [sound]
    write_wav(tmp_path / "long.wav", room(40))
    assert [len(piece) for piece in cut(tmp_path / "long.wav", tmp_path)] == [30 * BYTES_PER_SECOND]


def test_one_sentence_in_a_long_silence_is_found(spoken: list[bytes], tmp_path: Path) -> None:
    write_wav(tmp_path / "late.wav", bytes(50 * BYTES_PER_SECOND) + spoken[1] + bytes(20 * BYTES_PER_SECOND))
    (piece,) = cut(tmp_path / "late.wav", tmp_path)
    assert len(piece) < len(spoken[1]) + 2 * BYTES_PER_SECOND


def test_speech_without_pauses_is_cut_between_words(spoken: list[bytes], tmp_path: Path) -> None:
    write_wav(tmp_path / "lecture.wav", b"".join(spoken[i % 4] for i in range(14)))  # 40 s, pauses of 0.7 s
    cuts = cut(tmp_path / "lecture.wav", tmp_path)
    assert len(cuts) == 2 and all(len(piece) <= 24 * BYTES_PER_SECOND for piece in cuts)
    loud = [math.sqrt(np.square(np.frombuffer(piece[-3200:], "<i2").astype(float)).mean()) for piece in cuts]
    assert max(loud) < 200  # the last tenth of a second is no word


def test_time_limits_a_file(memo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = memo(2.5)
    stage.begin("record", Settings())
    assert len(cut(path, tmp_path, 9)) == 2
    assert capsys.readouterr().err == f"record: {path} is longer: the first 9 seconds of {path} are used\n"
    assert len(cut(path, tmp_path, 3600)) == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", [None, 0.5, 3.0, 31.0, 90.0])
@pytest.mark.parametrize("length", [33.3337, 90, 31.05])  # also whole seconds: nothing is left at their end
def test_the_stream_is_the_file(tmp_path: Path, length: float, seconds: float | None) -> None:
    sound = room(length)
    write_wav(tmp_path / "room.wav", sound)
    limit = len(sound) if seconds is None else round(seconds * BYTES_PER_SECOND)
    pieces = list(audio.stream(tmp_path / "room.wav", seconds))
    assert b"".join(pieces) == sound[:limit] and max(map(len, pieces)) <= BYTES_PER_SECOND


def test_a_silent_file_is_said(tmp_path: Path) -> None:
    write_wav(tmp_path / "silent.wav", bytes(33 * BYTES_PER_SECOND))
    with pytest.raises(UserError, match=r"silent\.wav is silent") as caught:
        cut(tmp_path / "silent.wav", tmp_path)
    assert caught.value.code == 65


# ---- through the stages


def test_each_utterance_is_a_line_and_a_recording(memo: Callable[..., Path], tmp_path: Path) -> None:
    path = memo(2.5)
    done = run(tmp_path, f"python -m helpers.listen.record --input {path} | python -m helpers.listen.transcribe")
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (
        0,
        [f"\x1e{number} spoken\x1f{text}" for number, text in enumerate(TEXTS, 1)],
    )
    for number, text in enumerate(TEXTS, 1):
        assert (tmp_path / "session" / f"transcript-{number}.txt").read_text() == f"{text}\n"
        assert (tmp_path / "session" / f"recording-{number}.wav").is_file()
    assert "utterances" not in done.stderr  # they are few


def test_an_utterance_without_words_costs_nothing_else(spoken: list[bytes], tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    speak("rms", "the stock market fell sharply on tuesday afternoon", other)  # it is refused
    write_wav(tmp_path / "memo.wav", spoken[0] + room(3) + audio.decode(other) + room(3) + spoken[1])
    done = run(
        tmp_path,
        f"python -m helpers.listen.record --input {tmp_path / 'memo.wav'} | python -m helpers.listen.transcribe",
    )
    assert done.returncode == 0
    assert [line.split("\x1f")[1] for line in done.stdout.split("\n")[:-1]] == [TEXTS[0], TEXTS[1]]
    assert "not understood" in done.stderr


def test_several_files_are_numbered_through(memo: Callable[..., Path], tmp_path: Path) -> None:
    path = memo(2.5, 2)
    done = run(tmp_path, f"python -m helpers.listen.transcribe {path} missing.wav {path}")
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (
        66,
        [f"\x1e{number} spoken\x1f{TEXTS[i]}" for number, i in ((1, 0), (2, 1), (4, 0), (5, 1))],
    )


def test_many_are_announced_with_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(output=tmp_path)
    stage.begin("record", settings)
    long_files.announce(10, settings)
    assert capsys.readouterr().err == ""
    long_files.announce(300, settings)
    assert capsys.readouterr().err == "300 utterances, one after another (Ctrl-C twice ends it)\n"
    for name, seconds in (("2026-01-01T00-00-00-old", 90), ("2026-02-01T00-00-00-a-cat", 2)):
        run = {"seconds": {"generate": {"prompt": 1.0, "drawn": 1.0 + seconds}}, "pictures": [{}]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    long_files.announce(300, settings)
    assert "in about 10 minutes" in capsys.readouterr().err


def test_the_memory_is_flat(tmp_path: Path, spoken: list[bytes]) -> None:
    """Ten minutes: their PCM has 19 MB."""
    with (tmp_path / "long.pcm").open("wb") as file:
        for i in range(60):
            file.write(spoken[i % 4] + room(10 - len(spoken[i % 4]) / BYTES_PER_SECOND))
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", "16000", "-i", tmp_path / "long.pcm", tmp_path / "long.flac"],
        check=True,
    )
    program = (
        "import resource, sys; from pathlib import Path; from helpers.core.settings import Settings;"
        "from helpers.listen.long_files import Utterances;"
        "t = Settings(time=float(sys.argv[3])); u = Utterances(sys.argv[1], Path(sys.argv[2]), t, lambda s, n: None);"
        "n = sum(1 for _ in u);"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for seconds, count in ((40, 4), (600, 60)):
        command = [sys.executable, "-c", program, str(tmp_path / "long.flac"), str(tmp_path), str(seconds)]
        found, peak = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        assert int(found) == count
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] + 8000  # kB on Linux
