"""Ctrl-C and --stop at random moments of the whole pipe:  python -m tests.interruptions [--moments N]

Each trial speaks into a headless microphone and interrupts the pipe in one of its phases: once, twice, or by --stop.
The exit code has to be right, no process may be left, and no file but those of whole runs. Prints a table; exits with 1
when a trial failed. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from examples.make_examples import speak
from helpers.core.paths import ROOT

sys.path.append(str(Path(__file__).parent))  # as pytest does
import microphone

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


def _time(events: Path, wanted: tuple[str, str]) -> float:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return min((line["time"] for line in lines if (line["stage"], line["event"]) == wanted), default=math.inf)


def _noted(events: Path, wanted: tuple[str, str] | None) -> bool:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return not wanted or any((line["stage"], line["event"]) == wanted for line in lines)


def _processes(session: int) -> list[str]:
    """The command lines of the processes of a session that are still there after a second."""
    command = ["ps", "-o", "stat=,args=", "-s", str(session)]
    for _ in range(10):
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        if not (left := [line for line in lines if not line.startswith("Z")]):
            break
        time.sleep(0.1)
    return left


def run(trial: Trial, environment: dict[str, str], wav: Path, folder: Path) -> tuple[int, str]:
    """Run one trial in an empty folder; returns its exit code and what was wrong with it, or an empty string."""
    events, temporary, outputs = folder / "events", folder / "tmp", folder / "outputs"
    events.touch()
    temporary.mkdir()
    settings = {"A2I_EVENTS": str(events), "TMPDIR": str(temporary), "A2I_OUTPUT": str(outputs)}
    settings |= {
        "A2I_WHISPER": "builtin",
        "A2I_OPEN": "0",
        "A2I_STEPS": "13",
    }  # one step is over before it is interrupted
    with (folder / "log").open("wb") as log:
        pipe = subprocess.Popen(
            [str(ROOT / "pipeline.sh")],
            env={**environment, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job may not hear of it
        )
        speaker, interrupted = None, []
        end = time.monotonic() + 60
        began = PHASES[trial.phase][0]
        while pipe.poll() is None and not _noted(events, began) and time.monotonic() < end:
            if not speaker and _noted(events, ("record", "ready")):
                speaker = subprocess.Popen(["paplay", str(wav)], env=environment)
            time.sleep(0.01)
        if trial.phase == "record":
            speaker = subprocess.Popen(["paplay", str(wav)], env=environment)
        time.sleep(trial.moment)
        if trial.way == "--stop":
            command = [str(ROOT / "pipeline.sh"), "--stop"]
            subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False)
        for number in range(WAYS[trial.way]):
            if pipe.poll() is None:
                time.sleep(0.2 * number)
                interrupted.append(time.time())
                os.killpg(pipe.pid, signal.SIGINT)
        if not speaker and _wait_ready(pipe, events):
            speaker = subprocess.Popen(["paplay", str(wav)], env=environment)
        try:
            code = pipe.wait(40)
            code = 128 - code if code < 0 else code  # as a shell says it
        except subprocess.TimeoutExpired:
            os.killpg(pipe.pid, signal.SIGKILL)
            return -1, "it hangs"
        if speaker:
            speaker.kill()
            speaker.wait()
    allowed = trial.allowed(interrupted, _time(events, ("record", "heard")), _time(events, ("generate", "drawn")))
    wrong = _wrong(code, allowed, outputs, temporary, pipe.pid)
    return code, f"exit code {code}: {wrong}" if wrong else ""


def _wait_ready(pipe: subprocess.Popen[bytes], events: Path) -> bool:
    """Whether the microphone opens in spite of what happened."""
    while pipe.poll() is None:
        if _noted(events, ("record", "ready")):
            return True
        time.sleep(0.01)
    return False


def _wrong(code: int, allowed: set[int], outputs: Path, temporary: Path, session: int) -> str:
    if code not in allowed:
        return f"it should be {allowed}"
    if left := _processes(session):
        return f"left running: {left}"
    if left := [path.name for path in temporary.iterdir()]:
        return f"left in the temporary folder: {left}"
    runs = list(outputs.iterdir()) if outputs.exists() else []
    if any(path.name.startswith(".") or not (path / "run.json").is_file() for path in runs):
        return f"half of a run is left: {[path.name for path in runs]}"
    pictures = list(outputs.glob("*/image.png"))
    unsure = allowed == {0, 130}  # Ctrl-C may have come after the picture, while the stages were ending
    expected = {0, 1} if unsure and code else {int(code == 0)}
    if len(pictures) not in expected or any(not path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in pictures):
        return f"{len(pictures)} pictures"
    if any(not (path / "prompt.wav").is_file() for path in runs):
        return "what was spoken is not kept"
    return ""


def trials(moments: int, seed: int = 0) -> list[Trial]:
    source = random.Random(seed)
    return [
        Trial(phase, way, source.uniform(0, longest))
        for phase, (_, longest) in PHASES.items()
        for way in WAYS
        for _ in range(moments)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="of each phase and way (default %(default)s)")
    parser.add_argument("--phase", choices=PHASES, help="this one alone")
    options = parser.parse_args()
    held: dict[tuple[str, str], Counter[int]] = {}
    failed = 0
    with tempfile.TemporaryDirectory() as name, microphone.running() as environment:
        wav = Path(name) / "said.wav"
        speak("slt", "a cat at night", wav)
        chosen = [trial for trial in trials(options.moments) if options.phase in (None, trial.phase)]
        for number, trial in enumerate(chosen):
            folder = Path(name) / str(number)
            folder.mkdir()
            code, wrong = run(trial, environment, wav, folder)
            if wrong:
                failed += 1
                print(f"{trial}: {wrong}\n{(folder / 'log').read_text(errors='replace')}", flush=True)
            else:
                held.setdefault(trial[:2], Counter())[code] += 1
    for (phase, way), codes in held.items():
        said = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items()))
        print(f"{phase:12}{way:14}{codes.total()} of {options.moments}: {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
