"""A stage that fails, each one, in each way, with each source: what a person is told, what is left and what is kept."""

from __future__ import annotations

import os
import pty
import random
import select
import shlex
import signal
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import processes
import pytest
from processes import wait_until
from stage_promises import BLOCK, PAGE, PROMISES, STAGES, Promise, table
from whole_pipe import Pipe

# What a stage does wrong, as a shell script over the functions of STAGE; of an empty one there is no program.
FAULTS = {
    "is not installed": "",
    "fails at once": "heard; exit 1",
    "is killed": "(heard; sleep $moment; kill -KILL $$) & honest; sleep 1000",
    "hangs": "sleep 1000",
    "writes nothing": "drain",
    "writes half a line": "drain; half",
    "writes garbage": "drain; garbage",
    "writes one line without end": "drain; exec tr '\\0' $endless </dev/zero",
    "writes lines without end": "drain; exec yes 'a burger'",
}
# What a stage is made of; the sound is two seconds of noise, in a loop twice.
STAGE = r"""#!/bin/bash
stage={stage} moment={moment} endless=x
number=${{A2I_LOOP:+2}} number=${{number:-1}}
case $stage in record) endless='\0' ;; esac
heard() {{ # waits until what was spoken is kept
  [ $stage = record ] || [ -e "$A2I_SESSION/given" ] ||
    until [ -e "$A2I_SESSION/recording-$number.wav" ]; do sleep 0.01; done
}}
drain() {{ [ $stage = record ] || cat >/dev/null; }}
honest() {{
  local one line
  case $stage in
    record)
      trap '' INT
      for ((one = 1; one <= number; one++)); do
        [ -e "$A2I_SESSION/given" ] || cp {spoken} "$A2I_SESSION/recording-$one.wav"
      done
      for ((one = 1; one <= number; one++)); do
        tail -c +45 {spoken}
        [ $number = 1 ] || head -c 16000 /dev/zero
      done ;;
    transcribe) cat >/dev/null; for ((one = 1; one <= number; one++)); do echo 'a burger'; done ;;
    generate) while read -r line; do [ -z "$line" ] || printf '/pictures/%s.png\n' "$line"; sleep 0.01; done ;;
    *) cat ;;
  esac
}}
half() {{ # of a line, or of a sample, in a loop after one that is whole
  case $stage in
    record) tail -c +45 {speech}; [ $number = 1 ] || head -c 16000 /dev/zero; printf x ;;
    *) printf 'a burger' ;;
  esac
}}
garbage() {{ # what is written to be drawn has a word that can be
  case $stage in record) honest; return ;; remove_parentheses | enrich) printf 'cat ' ;; esac
  printf '\377\376\0\200%.0s' {{1..999}}
  echo
}}
"""


class Cell(NamedTuple):
    stage: str
    source: str
    promise: Promise

    def __str__(self) -> str:
        return f"{self.stage} {self.promise.fault}, {self.source}"


CELLS = [Cell(stage, source, promise) for promise in PROMISES for stage in promise.stages for source in promise.sources]

# Who tells of what a stage writes: the real one.
REAL = dict(zip(STAGES, ("transcribe", "remove_parentheses", "generate", "generate", ""), strict=True))


def program(pipe: Pipe, stage: str, does: str, moment: float = 0) -> Path:
    """A stage that does so; moment: seconds after which it is killed, if it is."""
    path = pipe.output.parent / stage
    spoken, speech = (shlex.quote(str(pipe.root / path)) for path in ("../spoken.wav", "examples/burger.wav"))
    functions = STAGE.format(stage=stage, spoken=spoken, speech=speech, moment=f"{moment:.3f}")
    path.write_text(f"{functions}{does}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path)
    with wave.open(str(tmp_path / "spoken.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(random.Random(1).randbytes(64000))
    yield pipe
    processes.clean(pipe)


def settings(pipe: Pipe, cell: Cell) -> dict[str, object]:
    """The stages of the run: the faulty one, the real one that tells of it, and honest ones."""
    chosen: dict[str, object] = {"A2I_WHISPER": "builtin", "A2I_STEPS": 1, "A2I_QUIET": 1}
    if cell.source == "a loop":
        chosen["A2I_LOOP"] = 1
    for stage in STAGES:
        name, does = f"A2I_{stage.upper()}", FAULTS[cell.promise.fault]
        if stage == cell.stage:
            moment = random.Random(str(cell)).uniform(0, 0.5)
            chosen[name] = program(pipe, stage, does, moment) if does else "/nowhere/program --option"
        elif stage == REAL[cell.stage] and ("writes" in cell.promise.fault or cell.promise.line.startswith(stage)):
            continue
        elif stage != "enrich" and (stage, cell.source) != ("record", "a file"):
            chosen[name] = program(pipe, stage, "honest")
    return chosen


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
def test_faulty_stage(pipe: Pipe, cell: Cell) -> None:
    """A stage that fails: the right exit code, one line with the first cause, no rest, the speech saved."""
    promise, spoken = cell.promise, pipe.output.parent / "spoken.wav"
    options = ["--input", spoken] if cell.source == "a file" else []
    running = processes.start(pipe, *options, **settings(pipe, cell))
    assert running.stdout
    if promise.code == 130 or promise.fault == "hangs":
        assert wait_until(lambda: list(pipe.temporary.glob(f"*/{cell.stage}.pid"))), "it does not start"
        stalled = (cell.stage, cell.source) == ("transcribe", "a loop") and promise.fault == "hangs"  # the pipe is full
        if cell.stage != "record":
            kept = pipe.output.glob
            assert wait_until(
                lambda: len([*kept(".session.*/recording-*.wav")]) == (2 if cell.source == "a loop" else 1)
            )
        if cell.stage != "record" and not stalled:
            assert wait_until(lambda: not list(pipe.temporary.glob("*/record.pid")), 30), "the recording is not over"
        if promise.fault == "writes lines without end":
            assert running.stdout.readline()
            transcripts = len(list(pipe.output.glob(".session.*/transcript-*.txt")))
            assert transcripts < 1 << 17  # it waits for what is drawn
        for _ in range(2 if stalled else 1):
            os.killpg(running.pid, signal.SIGINT)
            wait_until(lambda: running.poll() is not None, 0.5)
    elif promise.then.startswith("until nobody reads"):
        running.stdout.read(1 << 16)
        running.stdout.close()
    else:
        assert wait_until(lambda: running.poll() is not None, 60), "it hangs"
    code = running.wait(20)
    said = (pipe.output.parent / "log").read_text(errors="replace").splitlines()
    assert code == promise.code, said
    if promise.line:
        assert said[0].startswith(promise.line.replace("STAGE", cell.stage)), said
    assert bool(said) == bool(promise.line) and len(said) <= 2, said
    assert wait_until(lambda: not processes.of(pipe), 5), processes.of(pipe)
    assert not pipe.left()
    runs = pipe.runs() if pipe.output.exists() else []
    assert all((folder / "run.json").exists() for folder in runs)
    if code not in (0, 69) and cell.stage != "record":
        recordings = {"a file": 0, "the microphone": 1, "a loop": 2}[cell.source]
        assert sum((folder / "prompt.wav").exists() for folder in runs) >= recordings


def test_killed_question(pipe: Pipe) -> None:
    """--confirm is killed while it asks: the line names it, and the speech is saved."""
    cell = Cell("generate", "the microphone", PROMISES[0])
    stages = settings(pipe, cell) | {"A2I_GENERATE": "cat", "A2I_CONFIRM": 1, "TERM": "xterm"}
    terminal, other = pty.openpty()
    running = processes.start_on(other, pipe, **stages)
    shown = b""
    while b"draw: " not in shown:
        assert select.select([terminal], [], [], 20)[0], "it does not ask"
        shown += os.read(terminal, 4096)
    (number,) = (int(path.read_text()) for path in pipe.temporary.glob("*/confirm.pid"))
    os.kill(number, signal.SIGKILL)
    assert running.wait(20) == 137
    assert (pipe.output.parent / "log").read_text() == "pipeline: confirm was ended by signal 9\n"
    assert [path.name for folder in pipe.runs() for path in sorted(folder.iterdir())] == [
        "prompt.wav",
        "run.json",
        "transcript.txt",
    ]
    assert not pipe.left() and wait_until(lambda: not processes.of(pipe), 5)
    os.close(terminal)
    os.close(other)


def test_the_page_shows_what_is_tested() -> None:
    """The table in docs/faults.md is the one that the tests check."""
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found and found[0] == table(), "write it anew: python -m tests.stage_promises"
    assert {(promise.fault, stage) for promise in PROMISES for stage in promise.stages} >= {
        (fault, stage)
        for fault in FAULTS
        for stage in STAGES
        if (fault, stage) != ("writes lines without end", "record")
    }
