"""Many pictures and many runs: memory and open files stay as they were, and the last is as quick as the first."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from whole_pipe import Pipe

from helpers.core.paths import ROOT

Size = Callable[[int, int], int]
Record = Callable[[str, object], None]
PROMPTS = ["a burger", "a robot in the snow", "two red apples", "a cat and a dog on a beach", "a big castle at night"]
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def memory(pid: int) -> float:
    """The memory of a process, in MB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def test_one_process(tmp_path: Path, size: Size, record_property: Record) -> None:
    """Pictures in one process: constant memory, open files, threads; the last tenth as fast as the first."""
    record_property("tried", count := size(60, 1000))
    environment = {**os.environ, "A2I_OUTPUT": str(tmp_path), "A2I_STEPS": str(size(1, 4)), "A2I_QUIET": "1"}
    generate = subprocess.Popen(
        [sys.executable, "-m", "helpers.draw.generate"],
        cwd=ROOT,
        env={key: value for key, value in environment.items() if key != "A2I_SESSION"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert generate.stdin and generate.stdout
    seconds, used, files, threads = [], [], [], []
    for number in range(count):
        start = time.monotonic()
        generate.stdin.write(PROMPTS[number % len(PROMPTS)] + "\n")
        generate.stdin.flush()
        assert Path(generate.stdout.readline().strip()).is_file()
        seconds.append(time.monotonic() - start)
        used.append(memory(generate.pid))
        files.append(len([*Path(f"/proc/{generate.pid}/fd").iterdir()]))
        threads.append(len([*Path(f"/proc/{generate.pid}/task").iterdir()]))
    generate.stdin.close()
    assert generate.wait(timeout=60) == 0
    first, last = slice(count // 10, 2 * count // 10), slice(-count // 10, None)  # the first ones warm it
    slower = statistics.median(seconds[last]) / statistics.median(seconds[first])
    grown = statistics.median(used[last]) - statistics.median(used[first])
    record_property("figure", f"{slower:.2f}× the seconds, {grown:+.1f} MB, {files[-1] - files[0]:+} files")
    assert len(set(files)) == 1 and len(set(threads[5:])) == 1
    assert grown < 10, (used[first], used[last])
    assert slower < (1.3 if count >= 100 else 2)


def test_many_runs_one_after_another(tmp_path: Path, size: Size, record_property: Record) -> None:
    """Many runs, one after another: nothing is left behind; the last are as fast as the first."""
    record_property("tried", count := size(6, 200))
    pipe, seconds = Pipe(tmp_path), []
    shared = set(Path("/dev/shm").iterdir())
    for _ in range(count):
        start = time.monotonic()
        done = pipe.run("--input", pipe.root / "examples" / "burger.wav", "--json")
        seconds.append(time.monotonic() - start)
        assert json.loads(done.stdout)["exit_code"] == 0, done
    assert len(pipe.runs()) == count and not pipe.left()
    assert set(Path("/dev/shm").iterdir()) <= shared
    of_copy = subprocess.run(["pgrep", "-f", str(pipe.root)], capture_output=True, text=True, check=False).stdout
    assert not of_copy, of_copy
    tenth = max(3, count // 10)
    slower = statistics.median(seconds[-tenth:]) / statistics.median(seconds[:tenth])
    record_property("figure", f"{slower:.2f}× the seconds")
    assert slower < (1.3 if count >= 100 else 2)
