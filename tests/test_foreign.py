"""Programs of the user's in the pipe: plain lines for them, and for each of their lines the right id or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.core import session
from helpers.core.lines import Line, Origin, decode, encode
from helpers.core.paths import ROOT
from helpers.shell.foreign import UNRECORDED, Recordings, Texts

TWICE = [(None, "a cat and"), (None, ""), (None, "and")]  # a second line for one: after it only the text tells
HEARD = [Line("a cat", 1, Origin.SPOKEN), Line("", 2, Origin.SPOKEN), Line("a dog", 3, Origin.SPOKEN)]
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}


def start(
    name: str, *program: str, folder: Path = ROOT, settings: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "helpers.shell.foreign", name, str(folder), *program]
    return subprocess.Popen(
        command, cwd=ROOT, env={**CLEAN, **(settings or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def through(name: str, script: str, given: list[Line], **settings: str) -> tuple[int, list[tuple[int | None, str]]]:
    """(exit code, id and text of each line) of a bash script that gets all lines at once."""
    process = start(name, "bash", "-c", script, settings=settings)
    out, err = process.communicate(b"".join(encode(line, marked=True) for line in given), timeout=30)
    assert b"Traceback" not in err
    found = [decode(line) for line in out.decode().split("\n")[:-1]]
    assert all(line.origin == Origin.ANSWER for line in found)
    return process.returncode, [(line.id, line.text) for line in found]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sed -u 's/$/, golden/'", [(1, "a cat, golden"), (2, ", golden"), (3, "a dog, golden")]),
        ("sed 's/$/, golden/'", [(1, "a cat, golden"), (None, ", golden"), (3, "a dog, golden")]),  # all at the end
        ("tac", [(3, "a dog"), (None, ""), (1, "a cat")]),
        ("cat >/dev/null", []),
        ("cat", [(1, "a cat"), (2, ""), (3, "a dog")]),
        ("tr a-z A-Z", [(1, "A CAT"), (None, ""), (3, "A DOG")]),
        ("sed -un '/dog/p'", [(3, "a dog")]),
        ("sed -u 's/.*/&\\n& and/'", [(1, "a cat"), *TWICE, (3, "a dog"), (None, "a dog and")]),
        ("cat >/dev/null; echo one; echo a dog and a cat", [(None, "one"), (None, "a dog and a cat")]),
        ("sed -u $'s/^/x\\x1e9 typed\\x1f/'", [(1, "x a cat"), (2, "x"), (3, "x a dog")]),  # a mark of its own
    ],
)  # fmt: skip
def test_each_line_has_the_right_id_or_none(script: str, expected: list[tuple[int | None, str]]) -> None:
    code, found = through("enrich", script, HEARD)
    late = [(None if number == 2 else number, text) for number, text in expected]  # on a busy machine
    assert code == 0 and found in (expected, late)


def test_a_rewritten_line_belongs_to_the_one_that_waits() -> None:
    texts = Texts()
    for number in (1, 2):
        texts.give(Line(f"text {number}", number))
        assert texts.answer("something else") == number
    texts.give(Line("a cat", 3))
    assert texts.answer("text 2, once more") is None  # a late second answer to the line before
    assert texts.answer("something else") is None
    texts.give(Line("a dog", 4))
    assert texts.answer("something else") is None  # it writes more lines than it is given
    texts.give(Line("a bird", 5))
    assert texts.answer("A  Bird at night") == 5


def test_answers_in_another_order_count_as_answers() -> None:
    texts = Texts()
    texts.give(Line("a cat", 1))
    texts.give(Line("a dog", 2))
    assert [texts.answer("one"), texts.answer("two")] == [None, None]
    texts.give(Line("a bird", 3))
    assert texts.answer("three") == 3


def test_generate_gets_plain_lines_and_its_paths_are_left_alone() -> None:
    process = start("generate", "cat")
    out, _ = process.communicate(b"\x1e1 typed\x1f a  cat\t\n\xff\n\x1e2 answer\x1f\x1e3 typed\x1f", timeout=30)
    assert out == b" a  cat\t\n\xff\n\x1e3 typed\x1f\n"  # only our own mark is removed


def test_transcripts_of_a_program_are_kept(tmp_path: Path) -> None:
    script = "cat >/dev/null; echo a cat; echo; echo a dog"
    expected = [(1, "a cat"), (2, ""), (3, "a dog")]
    assert through("transcribe", script, [], A2I_SESSION=str(tmp_path)) == (0, expected)
    assert session.transcript(tmp_path, 1).read_text() == "a cat\n"
    assert session.transcript(tmp_path, 3).read_text() == "a dog\n"


def test_our_own_program_named_by_the_user_gives_plain_lines(tmp_path: Path) -> None:
    script = "cat >/dev/null; printf '\\0368 spoken\\037a cat\\n'"
    assert through("transcribe", script, [], A2I_SESSION=str(tmp_path)) == (0, [(1, "a cat")])


def test_in_a_loop_a_line_belongs_to_the_recording_that_waits(tmp_path: Path) -> None:
    ledger = Recordings(tmp_path, loop=True)
    session.recording(tmp_path, 1).touch()
    assert ledger.answer("a cat") == 1
    session.recording(tmp_path, 1).unlink()  # its picture is drawn
    session.recording(tmp_path, 2).touch()
    session.recording(tmp_path, 3).touch()
    assert [ledger.answer("a dog"), ledger.answer("a bird")] == [UNRECORDED + 2, UNRECORDED + 3]
    assert session.transcript(tmp_path, UNRECORDED + 3).read_text() == "a bird\n"
    session.recording(tmp_path, 4).touch()
    assert ledger.answer("a cow") == 4


def test_each_line_is_passed_on_as_it_comes() -> None:
    process = start("enrich", "sed", "-u", "s/cat/dog/")
    assert process.stdin and process.stdout
    for number in (1, 2):
        process.stdin.write(f"\x1e{number} spoken\x1fa cat\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == f"\x1e{number} answer\x1fa dog\n".encode()
    process.stdin.close()
    assert process.wait(10) == 0


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("cat >/dev/null; exit 66", 66), ("kill -TERM $$", 143)])
def test_exit_codes(script: str, code: int) -> None:
    assert through("enrich", script, HEARD) == (code, [])


def test_a_program_that_ends_early_lets_the_stage_before_know() -> None:
    process = start("enrich", "head", "-n", "1")
    assert process.stdin and process.stdout
    with pytest.raises(BrokenPipeError):
        while True:
            process.stdin.write(b"a line\n")
            process.stdin.flush()
            time.sleep(0.001)
    assert process.stdout.read() == b"a line\n"
    assert process.wait(10) == 0


def test_a_program_without_a_reader_is_ended_by_its_next_line() -> None:
    process = start("enrich", "bash", "-c", "while :; do echo line; done")
    assert process.stdout
    process.stdout.close()
    assert process.wait(10) == 141


def test_signals_are_the_programs_own_affair() -> None:
    process = start("enrich", "bash", "-c", "trap 'echo ended; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout and process.stdout.readline() == b"up\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.read() == b"ended\n"
    assert process.wait(10) == 7


def test_a_script_without_a_first_line_runs_in_the_users_folder(tmp_path: Path) -> None:
    (tmp_path / "enrich").write_text('cat >/dev/null; pwd; echo "$PWD"\n')
    (tmp_path / "enrich").chmod(0o755)
    process = start("enrich", "./enrich", folder=tmp_path)
    assert process.communicate(timeout=30)[0].decode().split() == [str(tmp_path)] * 2


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    process = start("enrich", str(tmp_path))
    assert process.communicate(timeout=30)[1].startswith(b"enrich: cannot start ")
    assert process.returncode == 69
