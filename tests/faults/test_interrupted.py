"""Ctrl-C and --stop at random moments of a run that listens at a headless microphone. Linux only."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import microphone
import processes
import pytest
from processes import wait_until
from whole_pipe import Pipe

Size = Callable[[int, int], int]
Record = Callable[[str, object], None]

# phase: (the event that it begins with, how long it takes at most, in seconds)
PHASES = {
    "start": (None, 1.0),
    "record": (("record", "ready"), 3.0),
    "transcribe": (("record", "heard"), 0.15),
    "generate": (("generate", "prompt"), 0.6),
}
WAYS = {"Ctrl-C": 1, "Ctrl-C twice": 2, "--stop": 0}
LATE = 0.3  # seconds before the picture is there in which it may not be stopped any more
ENDING = 0.1  # seconds after the end of a recording in which Ctrl-C may still be taken for what ends it

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")


@pytest.fixture(scope="module")
def sound() -> Iterator[dict[str, str]]:
    """The environment of a machine with a microphone."""
    with microphone.running() as environment:
        yield environment


class Trial(NamedTuple):
    """phase: of PHASES; way: of WAYS; moment: seconds after the phase began."""

    phase: str
    way: str
    moment: float

    def allowed(self, interrupted: list[float], heard: float, drawn: float) -> set[int]:
        """The exit codes that are right. interrupted: when Ctrl-C was pressed while the pipe ran; heard, drawn: when
        the recording ended and the picture was there; infinite if never.
        """
        if not interrupted and self.way != "--stop":
            return {0}  # it was over
        if len(interrupted) == 2 or (interrupted and interrupted[0] > heard):
            unsure = interrupted[-1] > drawn - LATE or (len(interrupted) == 1 and interrupted[0] < heard + ENDING)
            return {0, 130} if unsure else {130}
        if self.phase in ("start", "record"):
            return {0, 130, 65, 77}  # the recording ended, with what was heard until then, which may be nothing
        return {0}


def noted(events: Path, wanted: tuple[str, str] | None) -> float:
    """When the event was first noted, infinite if it was not; for None 0."""
    if not wanted:
        return 0
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return min((line["time"] for line in lines if (line["stage"], line["event"]) == wanted), default=math.inf)


def interrupt(trial: Trial, pipe: Pipe, sound: dict[str, str]) -> None:
    """Run the pipe, speak, interrupt it, and check how it ends."""
    wav, events, log = pipe.root / "examples" / "burger.wav", pipe.output.parent / "events", pipe.output.parent / "log"
    events.write_text("")
    settings = {"A2I_EVENTS": events, "A2I_WHISPER": "builtin", "PULSE_SERVER": sound["PULSE_SERVER"]}
    running = processes.start(pipe, **settings, A2I_STEPS=13)  # one step is over before it is interrupted
    speaker: list[subprocess.Popen[bytes]] = []

    def reached(what: tuple[str, str] | None) -> bool:
        """Whether the event was noted, or the run is over; speaks when the microphone is open."""
        if not speaker and noted(events, ("record", "ready")) < math.inf:
            speaker.append(subprocess.Popen(["paplay", wav], env=sound))
        return noted(events, what) < math.inf or running.poll() is not None

    assert wait_until(lambda: reached(PHASES[trial.phase][0]), 60), log.read_text()
    time.sleep(trial.moment)
    interrupted = []
    if trial.way == "--stop":
        pipe.run("--stop", PULSE_SERVER=sound["PULSE_SERVER"])
    for number in range(WAYS[trial.way]):
        time.sleep(0.2 * number)
        if running.poll() is None:
            interrupted.append(time.time())
            os.killpg(running.pid, signal.SIGINT)
    assert wait_until(lambda: reached(("record", "ready")) and running.poll() is not None, 40), f"{trial}: it hangs"
    for one in speaker:
        one.kill()
        one.wait()
    code, said = running.returncode, (trial, log.read_text(errors="replace"))
    assert running.stdout
    running.stdout.close()
    allowed = trial.allowed(interrupted, noted(events, ("record", "heard")), noted(events, ("generate", "drawn")))
    assert (128 - code if code < 0 else code) in allowed, (code, allowed, said)
    assert wait_until(lambda: not processes.of(pipe), 6), (processes.of(pipe), said)
    assert not [path for path in pipe.left() if path.parent != pipe.home], (pipe.left(), said)
    runs = pipe.runs() if pipe.output.exists() else []
    assert all((folder / "run.json").is_file() and (folder / "prompt.wav").is_file() for folder in runs), said
    pictures = list(pipe.output.glob("*/image.png"))
    unsure = allowed == {0, 130}  # Ctrl-C may have come after the picture, while the stages were ending
    assert len(pictures) in ({0, 1} if unsure and code else {int(code == 0)}), said
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in pictures), said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", PHASES)
def test_interrupted(
    tmp_path: Path, sound: dict[str, str], size: Size, record_property: Record, phase: str, way: str
) -> None:
    """Ctrl-C once or twice, or --stop, at a random moment: the right exit code, and only complete runs left."""
    record_property("tried", count := size(1, 20))
    source = random.Random(f"{phase} {way}")
    for number in range(count):
        (folder := tmp_path / str(number)).mkdir()
        pipe = Pipe(folder)
        try:
            interrupt(Trial(phase, way, source.uniform(0, PHASES[phase][1])), pipe, sound)
        finally:
            processes.clean(pipe)
