"""--say: reads back what was heard, costs no picture, and the microphone does not hear it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import microphone
import pytest
from processes import wait_until
from whole_pipe import Pipe

from benchmark.voices import speak
from helpers.core.lines import Line, Origin, encode
from helpers.core.paths import ROOT
from helpers.core.session import SPEAKING
from helpers.speak import player

SAY = [sys.executable, "-m", "helpers.speak.say"]
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="the stand-in for the loudspeaker is Linux's")


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Its voice says every text in the same 0.1 s; its loudspeaker writes down how much it played, and the session."""
    (tmp_path / "sound.wav").write_bytes(player.wav(b"\1\2" * 800, 8000))
    voice = executable(tmp_path / "voice", f"cat >>'{tmp_path}/said'; cat '{tmp_path}/sound.wav'")
    for name in ("pw-cat", "paplay"):
        executable(tmp_path / "bin" / name, f"ls '{tmp_path}/session' >>'{tmp_path}/held'; wc -c >>'{tmp_path}/played'")
    (tmp_path / "session").mkdir()
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    return {"PATH": path, "A2I_VOICE": str(voice), "A2I_SESSION": str(tmp_path / "session"), "PYTHONUTF8": "1"}


def lines(*texts: str, origin: Origin = Origin.SPOKEN) -> bytes:
    return b"".join(encode(Line(text, number, origin), True) for number, text in enumerate(texts, 1))


def run(machine: dict[str, str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(SAY, cwd=ROOT, env=machine, input=given, capture_output=True, check=False, timeout=30)


def test_each_line_is_said_and_passed_on(machine: dict[str, str], tmp_path: Path) -> None:
    given = lines("a red car", "", "a $(cat) [[volm 0]]")
    done = run(machine, given)
    assert (done.returncode, done.stdout, done.stderr) == (0, given, b"")
    assert (tmp_path / "said").read_text().splitlines()[1:] == ["a red car", "a $(cat) [ [volm 0] ]"]  # 0: its rate
    assert (tmp_path / "played").read_text().split() == ["1600", "1600"]
    assert (tmp_path / "held").read_text().split().count(SPEAKING) == 2
    assert not (tmp_path / "session" / SPEAKING).exists()


def test_what_was_typed_is_not_said(machine: dict[str, str], tmp_path: Path) -> None:
    assert run(machine, lines("a red car", origin=Origin.TYPED)).stdout
    assert not (tmp_path / "played").exists()


@pytest.mark.parametrize("what", ["voice", "bin/pw-cat"])
def test_a_voice_that_fails_costs_no_line(machine: dict[str, str], tmp_path: Path, what: str) -> None:
    executable(tmp_path / what, "exit 3")
    executable(tmp_path / "bin" / "paplay", "exit 3")
    executable(tmp_path / "bin" / "aplay", "exit 3")
    given = lines("a red car", "a blue car")
    done = run(machine, given)
    assert (done.returncode, done.stdout) == (0, given)
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(b"say: ")
    assert not (tmp_path / "session" / SPEAKING).exists()


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not here")
def test_it_does_not_hear_itself(tmp_path: Path) -> None:
    """The whole pipe in a loop: what it says aloud is played into the microphone, and nothing is drawn of it."""
    sentence, drawn, log = tmp_path / "sentence.wav", tmp_path / "drawn", tmp_path / "log"
    speak("slt", "a cat on the beach", sentence)
    pipe = Pipe(tmp_path)
    with microphone.running() as heard, drawn.open("wb") as out, log.open("wb") as errors:
        settings = {"A2I_WHISPER": "builtin", "A2I_VOICE": "espeak-ng", "A2I_GENERATE": "cat"}
        environment = pipe.environment(**settings, PULSE_SERVER=heard["PULSE_SERVER"])
        command = pipe.command("--loop", "--say")
        running = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
        )
        assert wait_until(lambda: b"speak:" in log.read_bytes(), 60), log.read_text()
        for number in (1, 2):
            microphone.speak(heard, sentence)
            assert wait_until(lambda: drawn.read_text().count("\n") >= number, 60), log.read_text()  # noqa: B023
            time.sleep(4)  # it says 1.3 s
        running.send_signal(signal.SIGINT)
        assert running.wait(20) in (0, 130)
    assert drawn.read_text().count("cat") == drawn.read_text().count("\n") == 2
