"""Full, forbidden and vanishing disks, many runs at once: nothing is lost, nothing overwritten, one line says it."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from whole_pipe import Pipe

from helpers.core.errors import UserError
from helpers.draw import run_folder

Size = Callable[[int, int], int]
Record = Callable[[str, object], None]
needs_mount = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root mounts a disk")


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    return Pipe(tmp_path)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """mount(folder, options): a small disk there, until the test is over."""
    mounted: list[Path] = []

    def disk(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "disk", folder], check=True)
        mounted.append(folder)

    yield disk
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def whole(folder: Path) -> bool:
    """Whether a run's folder holds all that belongs to a run, and can be read."""
    run = json.loads((folder / "run.json").read_text())
    if run["exit_code"] == 0:
        for picture in run["pictures"]:
            Image.open(folder / picture["file"]).load()
        assert (folder / "prompt.txt").read_text() == run["prompt"] + "\n"
    if (folder / "prompt.wav").exists() or run["exit_code"]:
        with wave.open(str(folder / "prompt.wav")) as sound:
            assert len(sound.readframes(sound.getnframes())) == 2 * sound.getnframes()
    return True


def one_line(stderr: str) -> list[str]:
    """The lines that say what is wrong: without what was heard and drawn, and without the remedy below."""
    usual = ("heard: ", "drawing: ", "transcribe: the built-in recogniser knows few words", "  ")
    return [line for line in stderr.splitlines() if not line.startswith(usual)]


@needs_mount
@pytest.mark.parametrize("source", ["prompt", "file"])
def test_full_disk(
    pipe: Pipe, mount: Callable[[Path, str], None], size: Size, record_property: Record, source: str
) -> None:
    """The disk becomes full at some write: 73 and one line, or a complete run, and nothing else on it."""
    sources: dict[str, list[object]] = {
        "prompt": ["--prompt", "a burger"],
        "file": ["--input", pipe.root / "examples" / "burger.wav"],
    }
    options = sources[source]
    assert pipe.run(*options).returncode == 0
    needed = sum(file.stat().st_size for file in pipe.runs()[0].iterdir()) // 1024
    shutil.rmtree(pipe.output)
    mount(pipe.output, "size=64m")
    room = [*range(0, 60, size(60, 4)), *random.Random(7).sample(range(60, needed + 80), size(2, 40)), needed + 200]
    record_property("tried", len(room))
    codes = set()
    for kilobytes in room:
        with (pipe.output / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, (64 * 1024 - kilobytes) * 1024)
        done = pipe.run(*options)
        codes.add(done.returncode)
        kept = [path for path in pipe.runs() if path.name != "ballast"]
        assert done.returncode == (0 if kept else 73), (kilobytes, done)
        assert all(map(whole, kept)) and not pipe.left(), kilobytes
        if not kept:
            assert len(one_line(done.stderr)) == 1 and "full" in one_line(done.stderr)[0], (kilobytes, done.stderr)
        for path in kept:
            shutil.rmtree(path)
    assert codes == {0, 73}


@needs_mount
def test_recording_on_a_full_disk(
    pipe: Pipe, mount: Callable[[Path, str], None], size: Size, record_property: Record
) -> None:
    """The disk has room for the recording, but not for a picture: 73, one line, the recording is saved."""
    mount(pipe.output, "size=64m")
    spoken = pipe.output.parent / "spoken"
    spoken.write_text(
        f"#!{sys.executable}\nimport os, shutil, sys\n"
        f"shutil.copy('{pipe.root}/examples/burger.wav', os.environ['A2I_SESSION'] + '/recording-1.wav')\n"
        f"sys.stdout.buffer.write(open('{pipe.root}/examples/burger.wav', 'rb').read()[44:])\n"
    )
    spoken.chmod(0o755)
    record_property("tried", len(room := range(140, 400, size(80, 8))))
    for kilobytes in room:
        with (pipe.output / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, (64 * 1024 - kilobytes) * 1024)
        done = pipe.run(A2I_RECORD=spoken)
        kept = [path for path in pipe.runs() if path.name != "ballast"]
        assert len(kept) == 1 and (kept[0] / "prompt.wav").stat().st_size > 70_000, (kilobytes, done)
        assert (done.returncode == 0) == (kept[0] / "image.png").exists() and done.returncode in (0, 73), done
        shutil.rmtree(kept[0])


@needs_mount
def test_full_temporary_folder(pipe: Pipe, mount: Callable[[Path, str], None]) -> None:
    """The folder for temporary files is full: 73 and one line."""
    mount(pipe.temporary, "size=4k,nr_inodes=1")
    done = pipe.run("--prompt", "a burger")
    assert done.returncode == 73 and str(pipe.temporary) in one_line(done.stderr)[0], done
    assert not pipe.output.exists() or not pipe.left()


@needs_mount
def test_read_only_folder(pipe: Pipe, mount: Callable[[Path, str], None]) -> None:
    """The output folder is on a read-only disk: 73 and one line, before anything is drawn."""
    mount(pipe.output, "size=1m,ro")
    done = pipe.run("--prompt", "a burger")
    assert done.returncode == 73 and len(one_line(done.stderr)) == 1, done
    assert str(pipe.output) in done.stderr and "--output" in done.stderr and "drawing" not in done.stderr


@needs_mount
def test_read_only_program(pipe: Pipe, mount: Callable[[Path, str], None]) -> None:
    """The program's own folder is read-only: it still draws."""
    shutil.rmtree(pipe.root / ".cache")
    mount(pipe.root / ".cache", "size=1m,ro")
    done = pipe.run("--input", pipe.root / "examples" / "burger.wav", HF_ENDPOINT="http://hub.invalid")
    assert done.returncode == 0 and whole(pipe.runs()[0]), done


@pytest.mark.parametrize("place", ["outputs", "outputs/deeper", ".cache", "TMPDIR"])
def test_file_where_a_folder_should_be(pipe: Pipe, place: str) -> None:
    """A file where a folder should be: 73 and one line, or it is not needed; the file is unchanged."""
    file, settings = pipe.output.parent / "file", {}
    file.write_text("mine")
    if place == ".cache":
        shutil.rmtree(pipe.root / ".cache")
        file = file.rename(pipe.root / ".cache")
    elif place == "TMPDIR":
        settings = {"TMPDIR": file}
    else:
        settings = {"A2I_OUTPUT": file if place == "outputs" else file / "deeper"}
    done = pipe.run("--prompt", "a burger", **settings)
    assert file.read_text() == "mine"
    if place == ".cache":
        assert done.returncode == 0 and whole(pipe.runs()[0])
    else:
        assert done.returncode == 73 and len(one_line(done.stderr)) == 1, done


@pytest.mark.parametrize("moment", ["started", "ready", "prompt"])
def test_vanishing_folder(pipe: Pipe, size: Size, record_property: Record, moment: str) -> None:
    """The output folder is deleted during a run: 73 and one line, or a complete run in a new folder."""
    record_property("tried", trials := size(1, 10))
    for trial in range(trials):
        events = pipe.temporary.parent / f"events-{trial}"
        process = subprocess.Popen(
            pipe.command("--prompt", "a burger"),
            env=pipe.environment(A2I_EVENTS=events),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and not (events.exists() and f'"event": "{moment}"' in events.read_text()):
            time.sleep(0.005)
        time.sleep(random.Random(trial).uniform(0, 0.05) if trial else 0)
        shutil.rmtree(pipe.output, ignore_errors=True)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == (0 if stdout else 73), (process.returncode, stderr)
        assert stdout or len(one_line(stderr)) == 1, stderr
        if stdout:
            assert whole(Path(stdout.strip()).parent)
        assert not pipe.left()
        shutil.rmtree(pipe.output, ignore_errors=True)


def test_recording_outlives_a_run_that_cannot_be_kept(tmp_path: Path) -> None:
    """The last file of a run cannot be written: the recording stays, and the next run saves it."""
    (recording := tmp_path / "recording-1.wav").write_bytes(b"spoken")
    with pytest.raises(UserError), run_folder.RunFolder(tmp_path, 0) as run:
        run.take(recording, "prompt.wav")
        run.write("no such folder/run.json", "")
    assert recording.read_bytes() == b"spoken"


def test_many_runs(pipe: Pipe, size: Size, record_property: Record) -> None:
    """Thousands of runs in the folder: the next one is as fast, and has a name of its own."""
    record_property("tried", count := size(2_000, 10_000))
    quick, slow = [], []
    pipe.run("--prompt", "a burger")

    def seconds(output: Path) -> float:
        start = time.monotonic()
        done = pipe.run("--prompt", "a burger", A2I_OUTPUT=output)
        assert done.returncode == 0 and Path(done.stdout.strip()).is_relative_to(output), done
        return time.monotonic() - start

    full = pipe.output.parent / "full"
    for number in range(count):
        (full / f"2026-11-20T22-48-{number:05}-a-burger").mkdir(parents=True)
    for _ in range(size(3, 9)):
        quick.append(seconds(pipe.output))
        slow.append(seconds(full))
    assert len(list(full.iterdir())) == count + len(slow)
    assert statistics.median(slow) < size(200, 125) / 100 * statistics.median(quick)


def test_runs_at_once(pipe: Pipe, size: Size, record_property: Record) -> None:
    """Eight runs at once, with the same second and prompt: eight complete folders."""
    record_property("tried", 8 * (rounds := size(1, 10)))
    for _ in range(rounds):
        running = [
            subprocess.Popen(
                pipe.command("--prompt", "a burger"),
                env=pipe.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(8)
        ]
        ended = [(process.communicate(timeout=240), process.returncode) for process in running]
        assert [code for _, code in ended] == 8 * [0], ended
        paths = {stdout.strip() for (stdout, _), _ in ended}
        assert len(paths) == 8 and {str(path / "image.png") for path in pipe.runs()} == paths
        assert all(map(whole, pipe.runs())) and not pipe.left()
        shutil.rmtree(pipe.output)


def test_names_of_the_same_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Size, record_property: Record
) -> None:
    """Many folders of the same second and words, made by eight threads at once, all get different names."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> Path:
        with run_folder.RunFolder(tmp_path, 0) as run:
            run.write("prompt.txt", str(number))
            return run.finish("a burger")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(size(200, 1000))))
    assert [int((path / "prompt.txt").read_text()) for path in made] == list(range(len(made)))
    assert len(set(made)) == len(made) == len(list(tmp_path.iterdir()))
    record_property("tried", len(made))
