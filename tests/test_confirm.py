"""confirm: what was heard is shown on the terminal, and drawn, changed or taken back with its keys."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def confirm(heard: str, keys: bytes, folder: Path, session: Path | str = "") -> tuple[int, str, str]:
    """(exit code, stdout, what was on the terminal) of the stage, behind the shell that has the terminal's keys; `keys`
    are pressed when it asks for the first time.
    """
    (folder / "heard").write_text(heard)
    script = f'set -m; "{sys.executable}" -m helpers.words.confirm <"$1/heard" >"$1/drawn" & wait "$!"; exit "$?"'
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.update(TERM="xterm", A2I_SESSION=str(session))
        os.execvp("bash", ["bash", "-c", script, "confirm", str(folder)])
    shown, pressed = b"", False
    while select.select([terminal], [], [], 20)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # it has ended
            break
        if b"draw: " in shown and not pressed:
            pressed = True
            os.write(terminal, keys)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), (folder / "drawn").read_text(), shown.decode()


@pytest.mark.parametrize(
    ("keys", "code", "drawn"),
    [
        (b"\r", 0, "a cat\n"),
        (b" at night\r", 0, "a cat at night\n"),
        (b"\x01\x1b[C\x1b[C\x0b" + "ünï 🍔 $(id)".encode() + b"\r", 0, "a ünï 🍔 $(id)\n"),  # home, right, right, kill
        (b"\x1b", 130, "\n"),
        (b"\x03", 130, "\n"),
        (b"\x15\r", 130, "\n"),  # all of it deleted
    ],
)
def test_keys(tmp_path: Path, keys: bytes, code: int, drawn: str) -> None:
    assert confirm("a cat\n", keys, tmp_path)[:2] == (code, drawn)


def test_a_command_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_TALK", "1")
    code, drawn, shown = confirm("a cat\nat night\nmake it blue\nback\n", b"\r", tmp_path)
    assert (code, drawn) == (0, "a cat\nat night\nmake it blue\nback\n")
    assert "a cat" in shown and "at night" not in shown and "blue" not in shown


def test_after_three_seconds_it_is_drawn(tmp_path: Path) -> None:
    began = time.monotonic()
    code, drawn, shown = confirm("a cat\n", b"", tmp_path)
    assert (code, drawn) == (0, "a cat\n")
    assert time.monotonic() - began >= 3
    assert "Esc: take it back" in shown


def test_a_key_stops_the_clock(tmp_path: Path) -> None:
    (tmp_path / "heard").write_text("a cat\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.update(TERM="xterm", A2I_SESSION="")
        sys.stdin = open(tmp_path / "heard")  # noqa: SIM115, PTH123
        os.dup2(sys.stdin.fileno(), 0)
        os.execv(sys.executable, [sys.executable, "-m", "helpers.words.confirm"])
    shown = b""
    while b"draw: " not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"s")
    assert not os.waitpid(pid, os.WNOHANG)[0]
    time.sleep(3.5)
    assert not os.waitpid(pid, os.WNOHANG)[0]
    os.write(terminal, b"\r")
    while select.select([terminal], [], [], 10)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"a cats" in shown
    os.close(terminal)


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    code, drawn, _ = confirm("a cat\n\na dog\n", b"\x1b\r", tmp_path)
    assert (code, drawn) == (0, "\n\na dog\n")


def test_in_a_session_a_changed_text_is_typed_and_keeps_its_number(tmp_path: Path) -> None:
    heard = "\x1e7 spoken\x1fa cat\n"
    assert confirm(heard, b"\r", tmp_path, tmp_path)[1] == heard
    assert confirm(heard, b" at night\r", tmp_path, tmp_path)[1] == "\x1e7 typed\x1fa cat at night\n"
    assert confirm(heard, b"\r", tmp_path)[1] == "a cat\n"


def test_what_was_heard_cannot_move_the_cursor(tmp_path: Path) -> None:
    code, drawn, _ = confirm("a \x1b[2Jcat\u202e\n", b"\r", tmp_path)
    assert (code, drawn) == (0, "a [2Jcat\n")


def test_without_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "helpers.words.confirm"]
    done = subprocess.run(
        command, cwd=ROOT, input=b"a cat\n", capture_output=True, start_new_session=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (69, b"")
    assert done.stderr == b"confirm: there is no terminal to ask on\n  Leave --confirm out.\n"
