"""SIGKILL at any moment, in a run and in the first installation: nothing is left half made, nothing goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import microphone
import processes
import pytest
from PIL import Image
from processes import wait_until
from whole_pipe import Pipe

Size = Callable[[int, int], int]
Record = Callable[[str, object], None]
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")

TARGETS = ("pipeline.sh", "its group", "a stage", "everything")


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path)
    yield pipe
    processes.clean(pipe)


def whole(folder: Path) -> None:
    """Each file of a run's folder can be read to its end."""
    run = json.loads((folder / "run.json").read_text())
    for path in folder.iterdir():
        if path.suffix == ".png":
            Image.open(path).load()
        if path.suffix == ".wav":
            with wave.open(str(path)) as sound:
                assert len(sound.readframes(sound.getnframes())) == path.stat().st_size - 44 == 2 * sound.getnframes()
    names = {path.name for path in folder.iterdir()}
    assert {"run.json", "image.png", "prompt.txt"} <= names if run["exit_code"] == 0 else {"prompt.wav"} <= names


def program(pipe: Pipe, name: str, text: str) -> Path:
    path = pipe.output.parent / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def next_run(pipe: Pipe) -> subprocess.CompletedProcess[str]:
    """A quick one: what it starts with is real, and it draws nothing."""
    return pipe.run("--prompt", "next", A2I_GENERATE="sed s/next/drawn/")


def left(pipe: Pipe) -> list[Path]:
    """What runs left besides, without the settings that the sound server's library keeps in HOME."""
    return [path for path in pipe.left() if path.parent != pipe.home]


def recordings(pipe: Pipe, seconds: float = 1) -> int:
    """How many of at least so many seconds lie in working folders."""
    return sum(path.stat().st_size >= 44 + 32000 * seconds for path in pipe.output.glob(".session.*/recording-*.wav"))


def strike(pipe: Pipe, running: subprocess.Popen[str], target: str, source: random.Random) -> str:
    """Kill it; returns what was hit. Of everything that was killed nothing is left, not even unburied."""
    found = processes.of(pipe)
    stages = [pid for pid, command in found.items() if "-m helpers." in command or "remove_parentheses" in command]
    if target == "pipeline.sh":
        running.kill()
    elif target == "its group":
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(running.pid, signal.SIGKILL)
    elif target == "a stage" and stages:
        chosen = source.choice(stages)
        processes.kill([chosen])
        return found[chosen]
    elif target == "everything":
        while now := processes.of(pipe):
            found |= now
            processes.kill(list(now))
        running.wait()
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))
    return target


@pytest.fixture
def sound(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment of a run with this source: a microphone where it wants one."""
    if request.node.callspec.params["source"] != "microphone":
        yield {}
        return
    with microphone.running() as environment:
        yield environment


@pytest.mark.parametrize("source", ["prompt", "file", "microphone"])
def test_killed_run(pipe: Pipe, sound: dict[str, str], size: Size, record_property: Record, source: str) -> None:
    """SIGKILL at random moments: files are complete, no process is left, the next run cleans up and works."""
    record_property("tried", count := {"prompt": size(2, 50), "file": size(3, 60), "microphone": size(4, 90)}[source])
    wav, log, events = pipe.root / "examples" / "burger.wav", pipe.output.parent / "log", pipe.output.parent / "events"
    sources: dict[str, list[object]] = {"prompt": ["--prompt", "a burger"], "file": ["--input", wav], "microphone": []}
    settings = {"A2I_WHISPER": "builtin", "A2I_EVENTS": events} | {k: sound[k] for k in sound if k == "PULSE_SERVER"}
    chance, longest, kept = random.Random(f"killed {source}"), 0.0, 0
    for number in range(-1, count):  # the first is not killed: it says how long a run takes
        events.write_text("")
        running, speaker, began = processes.start(pipe, *sources[source], **settings), None, time.monotonic()
        if sound:
            assert wait_until(lambda: '"stage": "record", "event": "ready"' in events.read_text()), log.read_text()
            speaker, began = subprocess.Popen(["paplay", wav], env=sound), time.monotonic()
        if number < 0:
            assert running.wait(60) == 0, log.read_text()
            longest = time.monotonic() - began
            continue
        moment, target = (
            chance.uniform(0, size(80, 100) / 100 * longest),
            TARGETS[(number + len(source)) % len(TARGETS)],
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(max(0, moment - (time.monotonic() - began)))
        struck = strike(pipe, running, target, chance)
        what = f"{source}, trial {number}: {struck} at {moment:.2f} s"
        code = running.wait(40)
        assert wait_until(lambda: not processes.of(pipe), 6), (what, processes.of(pipe))
        if speaker:
            speaker.wait()
        said = log.read_text()
        assert "Traceback" not in said, (what, said)
        if target == "a stage":
            assert not left(pipe), (what, left(pipe))
            assert code == 0 or "was ended by signal 9" in said or code in (65, 130), (what, code, said)
        for folder in pipe.runs():
            whole(folder)
        assert all(path.name.startswith(".session.") for path in pipe.output.glob(".*")), what
        found, before = recordings(pipe) if sound else 0, len(pipe.runs())
        after = next_run(pipe)
        assert (after.returncode, after.stdout) == (0, "drawn\n"), (what, after)
        assert not left(pipe), (what, left(pipe))
        assert len(pipe.runs()) == before + found, (what, after.stderr)
        kept += found
        for folder in pipe.runs():
            whole(folder)
    print(f"{source}: {kept} recordings were found in what was killed, and kept")


WAYS = {
    "SIGKILL": (signal.SIGKILL, -9),
    "a terminal that is closed": (signal.SIGHUP, 129),
    "Ctrl-C twice, transcribe hangs": (signal.SIGINT, 130),
    "Ctrl-C twice": (signal.SIGINT, 130),
    "transcribe is killed": (signal.SIGKILL, 137),
    "SIGTERM": (signal.SIGTERM, 143),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All ways, or those that differ most."""
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", list(WAYS)[:: 1 if metafunc.config.getoption("full") else 2])


@pytest.mark.parametrize("source", ["microphone"])
def test_what_was_spoken(pipe: Pipe, sound: dict[str, str], source: str, way: str) -> None:
    """Ended during speech, by a signal or with a stage that hangs: the speech so far is saved."""
    events = pipe.output.parent / "events"
    events.touch()
    hangs = {"A2I_TRANSCRIBE": "sleep 1000"} if "hangs" in way else {}
    settings = {"A2I_EVENTS": events, "PULSE_SERVER": sound["PULSE_SERVER"], "A2I_WHISPER": "builtin", **hangs}
    running = processes.start(pipe, "--silence", 10, **settings)
    assert wait_until(lambda: '"stage": "record", "event": "ready"' in events.read_text())
    microphone.speak(sound, pipe.root / "examples" / "burger.wav")
    number, code = WAYS[way]
    if "transcribe is killed" in way:
        (pid,) = (int(file.read_text()) for file in pipe.temporary.glob("*/transcribe.pid"))
    else:
        pid = running.pid
    os.kill(pid, number)
    if number == signal.SIGINT:
        assert wait_until(lambda: list(pipe.temporary.glob("*/stopping")))
        os.kill(running.pid, number)
    assert running.wait(20) == code
    assert wait_until(lambda: not processes.of(pipe), 6), processes.of(pipe)
    if way == "SIGKILL":
        assert recordings(pipe) == 1
        assert next_run(pipe).returncode == 0
    (kept,) = pipe.runs()
    whole(kept)
    assert (kept / "prompt.wav").stat().st_size > 1.5 * 32000 and not (kept / "image.png").exists()
    assert not left(pipe)


def recording(folder: Path, seconds: float, name: str = "recording-1.wav") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / name), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(round(seconds * 32000)))


@pytest.fixture
def dead(pipe: Pipe) -> str:
    """The name, up to its last dot, of the working folder of a run that was killed."""
    running = processes.start(pipe, "--prompt", "x", A2I_GENERATE="sleep 60")
    assert wait_until(lambda: list(pipe.temporary.glob("*/generate.pid")))
    strike(pipe, running, "everything", random.Random(0))
    (folder,) = pipe.output.glob(".session.*")
    assert f".{running.pid}." in folder.name
    next_run(pipe)
    assert not folder.exists() and not pipe.left()
    return folder.name.rpartition(".")[0]


def test_what_is_kept_of_a_killed_run(pipe: Pipe, dead: str) -> None:
    """After killed runs, the next one saves each recording of a second or more and deletes the rest."""
    sessions = [pipe.output / f"{dead}.{name}" for name in "abcdef"]
    recording(sessions[0], 2)
    recording(sessions[1], 0.9)
    recording(sessions[2], 3)
    (sessions[2] / "given").touch()  # a file that the user has
    recording(sessions[3] / ".run.1", 4, "prompt.wav")  # the picture was almost there
    recording(sessions[4], 5)
    recording(sessions[4], 6, "recording-2.wav")  # a loop
    recording(sessions[5], 7)
    whole = sessions[5] / "recording-1.wav"
    whole.write_bytes(whole.read_bytes()[:30])  # of a recorder that writes as it hears
    (pipe.root / ".cache" / "recording").mkdir(exist_ok=True)
    (pipe.root / ".cache" / "recording" / dead.rpartition(".")[2]).touch()
    after = next_run(pipe)
    assert (after.returncode, after.stdout) == (0, "drawn\n")
    assert sorted((folder / "prompt.wav").stat().st_size // 32000 for folder in pipe.runs()) == [2, 4, 5, 6]
    assert all(json.loads((folder / "run.json").read_text())["exit_code"] == 137 for folder in pipe.runs())
    assert after.stderr.count("is kept: /") == 4
    assert not pipe.left()


def test_what_belongs_to_others_stays(pipe: Pipe, dead: str) -> None:
    """The working folder of a live run, or of a run on another machine, is not touched."""
    script = subprocess.Popen(["bash", "-c", "sleep 60; true"], start_new_session=True)  # a pipeline.sh, say
    running = processes.start(pipe, A2I_RECORD="sleep 60", A2I_TRANSCRIBE="cat")
    assert wait_until(lambda: list(pipe.temporary.glob("*/record.pid")))
    (live,) = pipe.output.glob(".session.*")
    machine, number = dead.removeprefix(".session.").rsplit(".", 1)
    other = pipe.output / f".session.another-{machine}.{number}.a"
    stages_go_on = pipe.output / f"{dead}.b"
    starting = pipe.output / f".session.{machine}.{script.pid}.c"
    for folder in (live, other, stages_go_on, starting):
        recording(folder, 2)
    control = pipe.temporary / f"audio-to-image.{machine}.{number}.b"
    control.mkdir()
    (control / "generate.pid").write_text(f"{running.pid}\n")
    assert next_run(pipe).returncode == 0
    assert (
        all((folder / "recording-1.wav").exists() for folder in (live, other, stages_go_on, starting))
        and not pipe.runs()
    )
    os.killpg(running.pid, signal.SIGINT)  # it is not disturbed
    assert running.wait(20) == 65
    assert len(pipe.runs()) == 1
    assert next_run(pipe).returncode == 0 and not stages_go_on.exists() and len(pipe.runs()) == 2
    assert other.exists() and starting.exists()
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()
    assert next_run(pipe).returncode == 0 and not starting.exists() and other.exists() and len(pipe.runs()) == 3


def test_many_find_the_same(pipe: Pipe, dead: str, size: Size) -> None:
    """Eight runs at once find the rest of a killed run: it is saved once."""
    for number in range(trials := size(3, 30)):
        recording(pipe.output / f"{dead}.{number}", 2)
        many = [processes.start(pipe, "--prompt", "next", A2I_GENERATE="cat") for _ in range(8)]
        assert [one.wait(60) for one in many] == [0] * 8
        assert len(pipe.runs()) == number + 1 and not pipe.left(), number
        assert "Traceback" not in (pipe.output.parent / "log").read_text(errors="replace")
    assert trials == len(pipe.runs())


PYTHON = """#!/bin/bash
# An installation that takes as long as the test wants; two at once, or one that is disturbed, are noted.
case "$1 $2 $3" in
  '-I -m venv')
    [ "$4" = -- ] && mkdir -p "$5/bin" "$5/lib/python3.x/site-packages/one" && cp "$0" "$5/bin/python" ;;
  '-I '*/pip.py' install')
    if ! mkdir {folder}/pip; then echo "two at once" >>{folder}/wrong; fi
    echo x >>{folder}/pips
    mktemp -d "$TMPDIR/pip.XXXXXX" >/dev/null
    until [ -e {folder}/go ]; do sleep 0.05; done
    [ -d {root}/.venv/lib ] || echo "it is gone" >>{folder}/wrong
    mkdir {root}/.venv/lib/python3.x/site-packages/audio_to_image-1.dist-info
    rmdir {folder}/pip ;;
  '-I -c import pathlib'*) echo "$0" ;; # the Python behind .venv/bin/python: here that one itself
  *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def first(pipe: Pipe) -> dict[str, str]:
    """The settings of a first run, whose installation waits for a file `go`, and notes when it goes wrong."""
    shutil.rmtree(pipe.root / ".venv")
    bin = pipe.output.parent / "bin"
    bin.mkdir()
    places = {"folder": pipe.output.parent, "root": f"'{pipe.root}'", "python": sys.executable}
    text = PYTHON
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", str(place))
    program(pipe, "bin/python3", text)
    return {"PATH": f"{bin}:{os.environ['PATH']}", "A2I_GENERATE": "cat"}


def installing(pipe: Pipe) -> bool:
    return (pipe.output.parent / "pip").exists()


def test_killed_installation(pipe: Pipe, first: dict[str, str]) -> None:
    """SIGKILL of pipeline.sh in the first installation: the next run waits for it and starts no second one."""
    running = processes.start(pipe, "--prompt", "x", **first)
    assert wait_until(lambda: installing(pipe))
    running.kill()
    running.wait()
    after = processes.start(pipe, "--prompt", "x", **first)
    log = pipe.output.parent / "log"
    assert wait_until(lambda: "another run is installing" in log.read_text())
    (pipe.output.parent / "go").touch()
    assert after.communicate(timeout=30)[0] == "x\n" and after.returncode == 0
    assert not (pipe.output.parent / "wrong").exists() and (pipe.output.parent / "pips").read_text() == "x\n"
    assert not processes.of(pipe) and not pipe.left() and not (pipe.root / ".venv" / "tmp").exists()


def test_everything_killed_in_the_installation(pipe: Pipe, first: dict[str, str]) -> None:
    """SIGKILL of all processes in the first installation, also at its start: the next run installs again."""
    running = processes.start(pipe, "--prompt", "x", **first)
    assert wait_until(lambda: installing(pipe))
    strike(pipe, running, "everything", random.Random(0))
    (pipe.output.parent / "pip").rmdir()
    (pipe.output.parent / "go").touch()
    after = pipe.run("--prompt", "x", **first)
    assert (after.returncode, after.stdout) == (0, "x\n"), after
    (pipe.root / ".venv" / "whole").unlink()
    (pipe.root / ".venv.lock").mkdir()  # killed before it could write whose it is
    after = pipe.run("--prompt", "x", **first)
    assert (after.returncode, after.stdout) == (0, "x\n"), after
    assert not (pipe.output.parent / "wrong").exists() and not pipe.left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_installation(pipe: Pipe, first: dict[str, str], number: signal.Signals) -> None:
    """Ctrl-C and similar signals in the first installation: no process and nothing in TMPDIR is left."""
    running = processes.start(pipe, "--prompt", "x", **first)
    assert wait_until(lambda: installing(pipe))
    os.killpg(running.pid, number)
    assert running.wait(20) == 130
    assert not processes.of(pipe) and not pipe.left()
    assert not (pipe.root / ".venv.lock").exists() and not (pipe.root / ".venv" / "whole").exists()
