"""One run, one folder: its name, that it is whole or not there, what is kept of a run that failed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import run_folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A delicious burger!", "a-delicious-burger"),
        ("Käse & Crème brûlée", "kase-creme-brulee"),
        ("../../etc/passwd; $(reboot)", "etc-passwd-reboot"),
        ("日本語", ""),
        ("", ""),
        ("a very long sentence that goes on and on and on for ever", "a-very-long-sentence-that-goes-on-and-on"),
        ("x" * 100, "x" * 40),
    ],
)
def test_slug(prompt: str, name: str) -> None:
    assert run_folder.slug(prompt) == name


@given(st.text())
def test_slug_is_a_harmless_name(prompt: str) -> None:
    assert re.fullmatch("([a-z0-9]+(-[a-z0-9]+)*)?", run_folder.slug(prompt))
    assert len(run_folder.slug(prompt)) <= 41


def test_a_folder_is_whole_or_not_there(output: Path) -> None:
    with run_folder.RunFolder(output, 0) as run:
        run.write("image.png", b"png")
        assert not [path for path in output.iterdir() if not path.name.startswith(".")]
        final = run.finish("a burger")
    assert final.name.endswith("-a-burger") and (final / "image.png").read_bytes() == b"png"
    with pytest.raises(KeyError), run_folder.RunFolder(output, 0) as run:
        run.write("image.png", b"png")
        raise KeyError
    assert [path.name for path in output.iterdir()] == [final.name]


def test_runs_of_the_same_second_do_not_meet(output: Path) -> None:
    def one() -> None:
        with run_folder.RunFolder(output, 0) as run:
            run.write("image.png", b"png")
            run.finish("a burger")

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(output.glob("*/image.png"))) == 20
    assert len(list(output.iterdir())) == 20


@pytest.mark.parametrize("name", ["a file", "a/file/in the way"])
def test_an_output_folder_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a file").touch()
    with pytest.raises(UserError) as error:
        run_folder.RunFolder(tmp_path / name, 0)
    assert error.value.code == 73


def recorded(folder: Path, seconds: float) -> None:
    with wave.open(str(folder / "recording-1.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * int(16000 * seconds)))


@pytest.mark.parametrize(("seconds", "kept"), [(2.0, True), (0.3, False)])
def test_the_recording_of_a_failed_run_is_kept(output: Path, tmp_path: Path, seconds: float, kept: bool) -> None:
    session = tmp_path / "session"
    session.mkdir()
    recorded(session, seconds)
    (session / "generate.error").write_text("generate: no\n")
    environment = {"A2I_SESSION": str(session), "A2I_OUTPUT": str(output), "A2I_JSON": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "helpers.draw.run_folder", "--stage", "generate", "--code", "70"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    said = json.loads(done.stdout)
    assert (said["exit_code"], said["error"], said["stage"]) == (70, "generate: no", "generate")
    folders = list(output.iterdir()) if output.exists() else []
    assert len(folders) == kept
    if kept:
        assert sorted(path.name for path in folders[0].iterdir()) == ["prompt.wav", "run.json"]
        assert said["folder"] == str(folders[0])


def test_timeline_is_in_seconds_since_the_first_event(tmp_path: Path) -> None:
    lines = [
        {"stage": "generate", "event": "started", "time": 100.5},
        {"stage": "record", "event": "started", "time": 100.0},
        {"stage": "record", "event": "heard", "time": 103.25, "seconds": 3.0, "level_dbfs": -12.5},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"started": 0.0, "heard": 3.25, "heard_level_dbfs": -12.5, "heard_seconds": 3.0}
    assert run_folder.timeline(tmp_path) == {"record": record, "generate": {"started": 0.5}}
