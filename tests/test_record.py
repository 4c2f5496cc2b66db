"""record: what arrives on stdout, what is kept, what is said, and that no FFmpeg stays behind."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import microphone
import numpy as np
import pytest

from benchmark.voices import speak
from helpers.core import session, terminal
from helpers.core.pcm import CHUNK, MARK, write_wav
from helpers.listen import audio

ROOT = Path(__file__).resolve().parent.parent
RECORD = [sys.executable, "-m", "helpers.listen.record"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("A2I_", "PYTHON"))}


@pytest.fixture(scope="module")
def heard() -> Iterator[dict[str, str]]:
    """The environment of a machine with a microphone."""
    with microphone.running() as environment:
        yield {name: value for name, value in environment.items() if not name.startswith(("A2I_", "PYTHON"))}


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s that are unlike themselves at every shift: a sweep with a rhythm, 16 kHz mono."""
    t = np.arange(24_000) / 16_000
    sound = 0.4 * np.sin(2 * np.pi * (200 + 900 * t) * t) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t))
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    write_wav(path, (sound * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something that a person might say, 1.7 s."""
    path = tmp_path_factory.mktemp("sentence") / "sentence.wav"
    speak("slt", "a cat on the beach", path)
    return path


def start(environment: dict[str, str], *arguments: str | Path, **more: object) -> subprocess.Popen[bytes]:
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([*RECORD, *arguments], cwd=ROOT, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def run(environment: dict[str, str], *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*RECORD, *arguments], cwd=ROOT, env=environment, input=stdin, capture_output=True, timeout=60, check=False
    )


def until_ready(process: subprocess.Popen[bytes]) -> None:
    """Wait until the recorder says that samples arrive."""
    assert process.stderr
    line = process.stderr.readline()
    assert b"speak now" in line, line


def events(session: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (session / "events.jsonl").read_text().splitlines()]


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def gone(pid: int, seconds: float = 2) -> bool:
    """Whether the process ends within `seconds`; a zombie that nobody reaps has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def similarity(pcm: bytes, voice: Path) -> float:
    """The highest normalised cross-correlation of the voice with any stretch of the recording: 1 is the same."""
    recorded = np.frombuffer(pcm, "<i2").astype(float)
    with wave.open(str(voice)) as file:
        said = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    assert len(recorded) >= len(said)
    size = 1 << (len(recorded) + len(said)).bit_length()
    products = np.fft.irfft(np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(said, size)), size)[: len(recorded)]
    energy = np.concatenate([[0], np.cumsum(recorded**2)])
    stretch = energy[np.minimum(np.arange(len(recorded)) + len(said), len(recorded))] - energy[:-1]
    return float(np.max(products / np.sqrt(np.maximum(stretch, 1) * np.sum(said**2))))


# ------------------------------------------------------------------------------------------------ the microphone


def test_hears_a_voice_whole(heard: dict[str, str], voice: Path, tmp_path: Path) -> None:
    process = start({**heard, "A2I_SESSION": str(tmp_path)}, "--fixed-window", "--time", "4")
    until_ready(process)
    microphone.speak(heard, voice)
    pcm, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert len(pcm) == 4 * 32_000
    assert similarity(pcm, voice) > 0.95
    with wave.open(str(tmp_path / "recording-1.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        assert file.readframes(file.getnframes()) == pcm
    noted = events(tmp_path)
    assert [event["event"] for event in noted] == ["started", "ready", "heard", "done"]
    assert noted[2]["seconds"] == 4
    assert -20 < noted[2]["level_dbfs"] < 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "recording-1.wav"]


def test_ends_when_the_speaker_does(heard: dict[str, str], sentence: Path, tmp_path: Path) -> None:
    process = start({**heard, "A2I_SESSION": str(tmp_path)}, "--time", "30")
    until_ready(process)
    time.sleep(1)  # nobody is that quick; the silence is left out
    microphone.speak(heard, sentence)
    pcm, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, b"")
    assert similarity(pcm + bytes(32_000), sentence) > 0.9  # whose file ends with silence
    with wave.open(str(sentence)) as file:
        assert len(pcm) / 2 < file.getnframes() + 16_000
    event = next(event for event in events(tmp_path) if event["event"] == "heard")
    assert 0.7 < event["silent"] < 0.9


def test_a_longer_silence_can_be_asked_for(heard: dict[str, str], sentence: Path, tmp_path: Path) -> None:
    process = start({**heard, "A2I_SESSION": str(tmp_path)}, "--time", "30", "--silence", "2.5")
    until_ready(process)
    for _ in range(2):
        microphone.speak(heard, sentence)
        time.sleep(0.8)  # with the silence in the files 1.5 s
    pcm, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    with wave.open(str(sentence)) as file:
        assert len(pcm) / 2 > 2 * file.getnframes()


def test_where_nobody_speaks_nothing_is_sent(heard: dict[str, str], voice: Path, tmp_path: Path) -> None:
    process = start(heard, "--time", "3", "--wav", tmp_path / "none.wav")
    until_ready(process)
    microphone.speak(heard, voice)  # loud, but a sweep
    pcm, said = process.communicate(timeout=20)
    assert (process.returncode, pcm) == (65, b"")
    assert re.search(rb"I heard nothing in 3.0 s: nobody spoke \(-\d+ dBFS at the loudest\)\n  Speak closer", said)
    assert list(tmp_path.iterdir()) == []


def test_a_loop_marks_and_keeps_each_utterance(heard: dict[str, str], sentence: Path, tmp_path: Path) -> None:
    output = (tmp_path / "pcm").open("w+b")  # not a pipe: it holds two seconds
    process = start({**heard, "A2I_SESSION": str(tmp_path)}, "--loop", stdout=output)
    assert process.stderr
    process.stderr.readline()
    for number in (1, 2):
        microphone.speak(heard, sentence)
        while not (tmp_path / f"recording-{number}.wav").exists():
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 0
    with output:
        output.seek(0)
        parts = output.read().split(MARK)
    assert len(parts) == 3 and not parts[2].strip(b"\0")
    for number, part in enumerate(parts[:2], 1):
        with wave.open(str(tmp_path / f"recording-{number}.wav")) as file:
            pcm = file.readframes(file.getnframes())
        assert similarity(pcm + bytes(32_000), sentence) > 0.9  # whose file ends with silence
        assert abs(len(pcm) - len(part)) < CHUNK  # zeros at its end are part of the mark


def test_a_microphone_that_goes_away_is_told(heard: dict[str, str], sentence: Path) -> None:
    process = start(heard, "--time", "30")
    until_ready(process)
    (ffmpeg,) = children(process.pid)
    speaker = subprocess.Popen(["paplay", sentence], env=heard)
    time.sleep(1.2)
    os.kill(ffmpeg, signal.SIGKILL)
    pcm, said = process.communicate(timeout=5)
    speaker.wait()
    assert process.returncode == 0 and len(pcm) > 16_000
    assert re.fullmatch(rb"record: the microphone went away after \d\.\d s\n", said)


def test_sends_samples_as_they_arrive(heard: dict[str, str]) -> None:
    process = start(heard, "--fixed-window", "--time", "10")
    assert process.stdout
    until_ready(process)
    arrived = time.monotonic()
    gaps = []
    for _ in range(20):  # 50 ms each; FFmpeg's own buffer holds a second, which would be one long gap
        process.stdout.read(1600)
        gaps.append(time.monotonic() - arrived)
        arrived += gaps[-1]
    assert max(gaps) < sum(gaps) / 2, gaps
    process.terminate()
    process.communicate(timeout=5)


def test_interrupt_keeps_what_was_heard(heard: dict[str, str], voice: Path, tmp_path: Path) -> None:
    process = start(heard, "--fixed-window", "--time", "60", "--wav", tmp_path / "kept.wav")
    until_ready(process)
    (ffmpeg,) = children(process.pid)
    microphone.speak(heard, voice)
    for _ in range(3):  # a terminal and the pipe both send it
        process.send_signal(signal.SIGINT)
    pcm, said = process.communicate(timeout=5)
    assert process.returncode == 0, said
    assert similarity(pcm, voice) > 0.95
    with wave.open(str(tmp_path / "kept.wav")) as file:
        assert file.getnframes() * 2 == len(pcm)
    assert gone(ffmpeg)


def test_interrupt_of_a_terminal_does_not_reach_ffmpeg(heard: dict[str, str]) -> None:
    process = start(heard, "--time", "60", start_new_session=True)
    until_ready(process)
    (ffmpeg,) = children(process.pid)
    assert os.getpgid(ffmpeg) != os.getpgid(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode in (77, 130)  # nobody spoke
    assert gone(ffmpeg)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_orphan(heard: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    process = start(heard, "--time", "60", "--wav", tmp_path / "none.wav")
    until_ready(process)
    (ffmpeg,) = children(process.pid)
    process.send_signal(number)
    process.communicate(timeout=5)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert gone(ffmpeg)
    assert list(tmp_path.iterdir()) == []


def test_ends_with_the_next_stage(heard: dict[str, str]) -> None:
    process = start(heard, "--fixed-window", "--time", "60")
    assert process.stdout and process.stderr
    until_ready(process)
    (ffmpeg,) = children(process.pid)
    process.stdout.close()
    assert process.wait(timeout=5) == 141
    assert process.stderr.read() == b""
    assert gone(ffmpeg)


def test_silence_is_a_muted_microphone(heard: dict[str, str], tmp_path: Path) -> None:
    done = run(heard, "--time", "1", "--wav", tmp_path / "silent.wav")
    assert done.returncode == 77
    assert b"record: the microphone gave only silence\n  Unmute it" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_lists_and_finds_devices_by_name(heard: dict[str, str]) -> None:
    done = run(heard, "--list-devices")
    assert (done.returncode, done.stderr) == (0, b"")
    names = done.stdout.decode().splitlines()
    assert len(names) == 1
    for name in (names[0], names[0].upper(), "mouth.monitor", names[0][2:9]):
        assert run(heard, "--time", "0.2", "--device", name).returncode == 77, name  # found, and silent
    done = run(heard, "--device", "no\x1bsuch")
    assert done.returncode == 69
    assert done.stderr.decode().startswith("record: no microphone is called no such\n  There are: ")


@pytest.mark.parametrize("arguments", [(), ("--list-devices",), ("--device", "Yeti")])
def test_no_microphone(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run({**CLEAN, "PULSE_SERVER": f"unix:{tmp_path}/nowhere"}, *arguments)
    assert (done.returncode, done.stdout) == (69, b"")
    assert re.fullmatch(rb"record: no microphone [^\n]+\n  [^\n]+\n", done.stderr), done.stderr


def on_a_terminal(environment: dict[str, str]) -> str:
    """What `record --time 0.7` writes on stderr when that is a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = start(environment, "--time", "0.7", stderr=theirs)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 10)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the terminal's other end is closed
            break
    process.communicate(timeout=10)
    os.close(ours)
    return shown.decode()


def test_meter_on_a_terminal_only(heard: dict[str, str]) -> None:
    shown = on_a_terminal(heard)
    assert re.search(
        r"speak now .*\r\n\r  0\.\d s left  \[ {20}\] *\x1b\[K\r.*\r  0\.0 s left .*\r\x1b\[Krecord: ", shown, re.DOTALL
    )
    assert "\n" not in shown[shown.index(" s left") : shown.rindex(" s left")]
    assert " s left" not in on_a_terminal({**heard, "A2I_QUIET": "1"})
    assert " s left" not in run(heard, "--time", "0.5").stderr.decode()


def test_the_line_shows_what_is_understood_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = terminal.Meter(10, shown=True, session=tmp_path)
    (tmp_path / session.PARTIAL).write_text("a cat \x1b[2J on")
    line.show(1, -35)
    assert capsys.readouterr().err == "\r  9.0 s left  [##########          ]  a cat [2J on\x1b[K"
    (tmp_path / session.ASKING).touch()  # confirm has the terminal
    line.show(2, -35)
    assert capsys.readouterr().err == ""


def test_a_line_fits_the_terminal() -> None:
    assert [terminal.fitting("a cat", cells) for cells in (5, 4)] == ["a cat", "a ca"]
    assert [terminal.fitting("雪の犬", cells) for cells in (6, 5)] == ["雪の犬", "雪の"]


def test_of_many_words_the_last_are_shown() -> None:
    assert [terminal.ending("a cat", cells) for cells in (5, 4, 1)] == ["a cat", "…cat", ""]
    assert terminal.ending("雪の犬", 5) == "…の犬"


def test_meter() -> None:
    assert terminal.meter(9.96, -100) == " 10.0 s left  [                    ]"
    assert terminal.meter(3, -35) == "  3.0 s left  [##########          ]"
    assert terminal.meter(0, 0) == "  0.0 s left  [####################]"


# ------------------------------------------------------------------------------------------------------- a file


def test_file_to_stdout_and_session(voice: Path, tmp_path: Path) -> None:
    done = run({**CLEAN, "A2I_SESSION": str(tmp_path)}, "--input", voice)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == 48_000 and similarity(done.stdout, voice) > 0.999
    assert (tmp_path / "recording-1.wav").stat().st_size == 48_044
    assert [event["event"] for event in events(tmp_path)] == ["started", "ready", "heard", "done"]


def test_a_clipped_file_is_named_so_also_if_it_is_understood(tmp_path: Path) -> None:
    speech = np.frombuffer(audio.decode(ROOT / "examples/burger.wav"), "<i2")
    write_wav(tmp_path / "loud.wav", (speech * 6.0).clip(-32768, 32767).astype("<i2").tobytes())
    said = [
        run({**CLEAN, "A2I_SESSION": str(tmp_path)}, "--input", file).stderr
        for file in (tmp_path / "loud.wav", ROOT / "examples/burger.wav")
    ]
    assert said == [b"record: the sound is clipped, so words may be misheard\n", b""]


def test_file_on_stdin(voice: Path) -> None:
    assert run(CLEAN, "--input", "-", stdin=voice.read_bytes()).stdout == run(CLEAN, "--input", voice).stdout


def test_time_cuts_a_file_and_says_so(voice: Path) -> None:
    for done in (run(CLEAN, "--input", voice, "--time", "1"), run({**CLEAN, "A2I_TIME": "1"}, "--input", voice)):
        assert len(done.stdout) == 32_000
        assert done.stderr.decode() == f"record: {voice} is longer: the first 1 seconds of {voice} are used\n"


def test_error_goes_to_the_session(tmp_path: Path) -> None:
    done = run({**CLEAN, "A2I_SESSION": str(tmp_path)}, "--input", "missing.wav")
    assert (done.returncode, done.stdout, done.stderr) == (66, b"", b"")
    assert (tmp_path / "record.error").read_text().startswith("record: cannot read missing.wav")
    assert not (tmp_path / "recording-1.wav").exists()


@pytest.mark.parametrize("name", ["no/such.wav", ".", "x" * 300])
def test_unwritable_wav(voice: Path, tmp_path: Path, name: str) -> None:
    done = run(CLEAN, "--input", voice, "--wav", tmp_path / name)
    assert done.returncode == 73
    assert b"record: cannot write" in done.stderr and b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "3601", "ten", ""])
def test_senseless_times_are_refused(value: str) -> None:
    done = run(CLEAN, "--time", value)
    assert done.returncode != 0 and b"Traceback" not in done.stderr and b"--time" in done.stderr


def test_no_pcm_on_a_terminal(voice: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    assert start(CLEAN, "--input", voice, stdout=theirs).wait(timeout=10) == 64
    assert start(CLEAN, "--input", voice, "--wav", tmp_path / "kept.wav", stdout=theirs).wait(timeout=10) == 0
    assert not select.select([ours], [], [], 0)[0]
    assert (tmp_path / "kept.wav").stat().st_size == 48_044
    os.close(ours)
    os.close(theirs)


def test_help_imports_nothing_heavy() -> None:
    said = subprocess.run([sys.executable, "-X", "importtime", *RECORD[1:], "--help"], cwd=ROOT, capture_output=True)
    imported = {line.split(b"|")[-1].strip() for line in said.stderr.splitlines()}
    assert said.returncode == 0 and b"argparse" in imported
    assert not imported & {b"numpy", b"openvino", b"safetensors", b"ffmpeg"}
