"""What every stage does the same: settings, events, errors, a clean stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.core.paths import ROOT
from helpers.core.text import printable

IMPORTS = """from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.settings import Settings
"""
READY = "stage.begin('record', Settings.from_environment())\nstage.event('ready')"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{IMPORTS}import errno, os, sys\n{code}\n"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    return subprocess.run(
        [sys.executable, "-c", program], env={**kept, **environment}, capture_output=True, text=True, cwd=ROOT
    )


@given(st.text())
def test_printable_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not any(
        unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") for c in shown
    )
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text", ["a burger", "Käse 🍔", "עברית", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "o'clock $(x) `y`"]
)
def test_printable_keeps_what_people_write(text: str) -> None:
    assert printable(text) == text


def test_an_error_is_two_lines_and_its_code() -> None:
    done = run("def main(a): raise UserError(66, 'no such file\\x1b[2J', 'name another')\nstage.run('record', main)")
    assert (done.returncode, done.stdout, done.stderr) == (66, "", "record: no such file [2J\n  name another\n")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("MemoryError()", "not enough memory"),
        ("OSError('Cannot allocate memory (os error 12)')", "not enough memory"),
        ("RuntimeError('Exception from x.cpp: std::bad_alloc')", "not enough memory"),
        ('RuntimeError("can\'t start new thread")', "no more processes"),
        ("BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')", "no more processes"),
    ],
)
def test_a_machine_that_is_too_small_is_no_bug(error: str, says: str) -> None:
    done = run(f"def main(a): raise {error}\nstage.run('generate', main)")
    assert done.returncode == 69 and says in done.stderr and "bug" not in done.stderr


def test_in_a_pipe_the_error_is_left_to_the_pipe(tmp_path: Path) -> None:
    done = run("def main(a): raise UserError(65, 'silent')\nstage.run('record', main)", A2I_SESSION=str(tmp_path))
    assert (done.returncode, done.stderr) == (65, "")
    assert (tmp_path / "record.error").read_text() == "record: silent\n"


def test_a_bug_shows_its_traceback_only_when_asked() -> None:
    code = "def main(a): raise ValueError('x' * 3)\nstage.run('generate', main)"
    done = run(code)
    assert done.returncode == 70
    assert done.stderr == "generate: unexpected error: ValueError: xxx\n  This is a bug; --verbose shows where.\n"
    assert "Traceback" in run(code, A2I_VERBOSE="1").stderr


def test_what_a_library_prints_does_not_reach_the_pipe() -> None:
    done = run(
        "pipe = stage.take_stdout()\nprint('chatter')\nos.system('echo more')\npipe.write(b'line\\n')\npipe.flush()"
    )
    assert done.stdout == "line\n"
    assert sorted(done.stderr.splitlines()) == ["chatter", "more"]


def test_a_reader_that_went_away_is_no_traceback() -> None:
    code = "def main(a):\n for i in range(100000): print('a line')\n return 0\nstage.run('generate', main)"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'"{sys.executable}" -c "$0" | head -n 1; echo "${{PIPESTATUS[0]}}"',
            f"{IMPORTS}{code}",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout == "a line\n141\n"
    assert done.stderr == ""


def test_events_are_whole_lines_from_many_processes(tmp_path: Path) -> None:
    code = "stage.begin('s', Settings.from_environment())\nfor i in range(200): stage.event('x' * 50, number=i)"
    environment = {**os.environ, "A2I_SESSION": str(tmp_path)}
    programs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{IMPORTS}{code}",
            ],
            env=environment,
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    assert [program.wait() for program in programs] == [0] * 4
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(lines) == 800
    assert all(json.loads(line)["stage"] == "s" for line in lines)


def test_a_full_disk_is_said_wherever_it_is_met() -> None:
    done = run("def main(a): raise OSError(28, 'No space left on device', '/a/file')\nstage.run('record', main)")
    assert done.returncode == 73
    assert done.stderr == "record: the disk is full (/a/file)\n  Make room and run again.\n"


def test_a_missing_package_is_reported_and_the_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "whole").touch()
    code = "def main(a): import gone\n"
    code += f"from pathlib import Path\nfrom helpers.core import paths\npaths.ROOT = Path({str(tmp_path)!r})\n"
    done = run(f"{code}stage.ROOT = paths.ROOT\nstage.run('record', main)")
    assert done.returncode == 69
    assert done.stderr.startswith("record: the Python package gone is missing\n")
    assert (tmp_path / ".venv" / "whole").exists()


def test_events_go_to_whoever_watches_and_do_not_wait_for_nobody(tmp_path: Path) -> None:
    fifo = tmp_path / "watched"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert run(READY, A2I_EVENTS=str(fifo)).returncode == 0
    assert json.loads(os.read(reader, 1000))["event"] == "ready"
    os.close(reader)
    for watched in (fifo, tmp_path / "no" / "folder"):
        assert run(READY, A2I_EVENTS=str(watched)).returncode == 0
