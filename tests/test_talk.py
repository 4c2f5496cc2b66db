"""The conversation as a host: what is typed or spoken becomes pictures of the built-in model, and changes of them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import microphone
import numpy as np
import pytest
import real_weights
from PIL import Image
from whole_pipe import Pipe

from benchmark.voices import speak
from helpers.core.lines import Line, Origin
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.draw import png, tones
from helpers.draw.painter import Painter
from helpers.talk import chain
from helpers.talk.host import Host
from training.builtin.judge import judge
from training.builtin.vocabulary import Scene, Subject

# What is said, and the picture that is then the current one: prompt, number of pictures, size
RED, NIGHT = "a red car on the beach", "a red car on the beach at night"
BLUE = "a blue car on the beach at night"
TURNS: list[tuple[str, tuple[str, int, str] | None]] = [
    (RED, (RED, 1, "512x512")),
    ("again", (RED, 1, "512x512")),
    ("four of them", (RED, 4, "512x512")),
    ("number two", (RED, 4, "512x512")),
    ("at night", (NIGHT, 1, "512x512")),
    ("make it blue", (BLUE, 1, "512x512")),
    ("two of them", (BLUE, 2, "512x512")),
    ("back", (BLUE, 1, "512x512")),
    ("back", (NIGHT, 1, "512x512")),
    ("wide", (NIGHT, 1, "640x448")),
    ("darker", (NIGHT, 1, "640x448")),
    ("more like this, two of them", (NIGHT, 2, "640x448")),
    ("what did you hear", None),
    ("save it", None),
    ("stop listening", None),
]


def talk(lines: list[str], output: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("A2I_")}
    return subprocess.run(
        [sys.executable, "-m", "helpers.talk", *options],
        input="".join(f"{line}\n" for line in lines),
        env={**clean, "A2I_OUTPUT": str(output), **settings},
        cwd=ROOT, text=True, capture_output=True, timeout=300,
    )  # fmt: skip


def run_of(picture: Path) -> dict[str, Any]:
    return dict(json.loads((picture.parent / "run.json").read_text()))


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], str, Path]:
    """The paths that the conversation printed, what it said, and its output folder."""
    output = tmp_path_factory.mktemp("typed")
    done = talk([said for said, _ in TURNS], output)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()], done.stderr, output


def check(printed: list[Path]) -> None:
    """That the paths of a conversation are those of TURNS, in order, with the right parents."""
    left, current = list(printed), Path()
    for said, wanted in TURNS:
        if not wanted:
            continue
        picture, before = left.pop(0), current
        run = run_of(picture)
        assert (run["prompt"].casefold().rstrip("."), run["count"], run["size"]) == wanted, said
        if said == "number two":
            assert picture.name == "image-2.png" and picture.parent == before.parent
        elif said != "back":
            parent = {"folder": before.parent.name, "file": before.name} if before.name else None
            change = run["change"].rstrip(".!").casefold().replace(",", "")
            assert (run["parent"], change) == (parent, said.replace(",", ""))
            del left[: wanted[1] - 1]
        current = picture
    assert not left


def test_a_conversation_of_fifteen_turns(typed: tuple[list[Path], str, Path]) -> None:
    printed, said, output = typed
    check(printed)
    assert f"heard: more like this, two of them; the prompt: {NIGHT}" in said
    assert [file.name for file in (output / "saved").iterdir()] == [f"{printed[-1].parent.name}.png"]
    for prompt, scene in {
        RED: Scene((Subject("car", "red"),), "beach"),
        NIGHT: Scene((Subject("car", "red"),), "night"),
        BLUE: Scene((Subject("car", "blue"),), "night"),
    }.items():
        picture = next(path for path in printed if run_of(path)["prompt"] == prompt)
        judgement = judge(np.asarray(Image.open(picture).convert("RGB")), scene)
        assert judgement.subjects and judgement.number, prompt


def test_each_picture_can_be_drawn_again(typed: tuple[list[Path], str, Path]) -> None:
    of_size: dict[str, Path] = {}
    for path in typed[0]:
        of_size.setdefault(f"{run_of(path)['size']} {png.read_job(path).tones}", path)
    of_size["varied"] = typed[0][-1]
    assert len(of_size) == 4  # usual, wide, wide and darker, a variation
    for path in of_size.values():
        painter = Painter.load(Settings(again=str(path)))
        (picture,) = painter.draw(painter.usual)
        assert png.encode(picture) == path.read_bytes()


def test_it_goes_on_from_any_picture(typed: tuple[list[Path], str, Path]) -> None:
    darker = next(path for path in typed[0] if png.read_job(path).tones)
    done = talk(["back", "back", "make it green"], typed[2], "--again", str(darker), "--steps", "1")
    assert done.returncode == 0, done.stderr
    opened, wide, night, green = map(Path, done.stdout.splitlines())
    assert (opened, run_of(wide)["size"], run_of(night)["prompt"]) == (darker, "640x448", NIGHT)
    assert run_of(green)["prompt"] == NIGHT.replace("red", "green")
    assert run_of(green)["parent"] == {"folder": night.parent.name, "file": night.name}


# ---- the chain in run.json is data


def test_a_chain_leads_nowhere_else(tmp_path: Path) -> None:
    picture = tmp_path / "runs" / "a" / "image.png"
    picture.parent.mkdir(parents=True)
    text = "a cat\nSteps: 1, Sampler: dpm++, Seed: 5, Size: 64x64, Tones: darker rm, Version: audio-to-image 1"
    picture.write_bytes(png.write(np.zeros((64, 64, 3), np.uint8), text))
    other = tmp_path / "image.png"
    other.write_bytes(picture.read_bytes())
    parents: list[object] = [
        {"folder": "..", "file": "image.png"},
        {"folder": "../..", "file": "image.png"},
        {"folder": str(tmp_path), "file": "image.png"},
        {"folder": "a", "file": "image.png"},  # itself
        {"folder": ["a"], "file": 5},
        {"folder": "gone", "file": "image.png"},
        *("a", [], None),
    ]
    for parent in parents:
        (picture.parent / "run.json").write_text(json.dumps({"parent": parent, "change": "\x1b[2Jdarker"}))
        (old,) = chain.read(picture)
        assert (old.change, old.job.tones) == ("[2Jdarker", ("darker",))
    for content in ("[" * 100_000, "{", "[]", ""):
        (picture.parent / "run.json").write_text(content)
        assert len(chain.read(picture)) == 1


# ---- what ends a drawing


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter.load(Settings())


class Slow:
    """A Painter whose drawings take as long as nothing ends them, once the first picture is there."""

    def __init__(self, painter: Painter) -> None:
        self._painter, self.drawing, self.drawn = painter, threading.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._painter, name)

    def draw(self, job: Any, on_step: Any, cancelled: Any, *_: Any) -> Iterator[Any]:
        self.drawn += 1
        if self.drawn > 1:
            self.drawing.set()
            limit = time.monotonic() + 20
            while time.monotonic() < limit:
                if cancelled():
                    return
                time.sleep(0.01)
        yield from self._painter.draw(job)


@pytest.mark.parametrize(("said", "line"), [("stop", "stop: "), ("back", "back: "), ("no", "back: ")])
def test_stop_and_back_end_a_drawing(
    tmp_path: Path, painter: Painter, said: str, line: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    slow = Slow(painter)
    monkeypatch.setattr("helpers.talk.host.Painter.load", lambda settings: slow)
    arrived: queue.Queue[Line | Exception | None] = queue.Queue()
    with (tmp_path / "out").open("wb") as pipe:
        host = Host(Settings(output=tmp_path), pipe, arrived)
        host.hear(Line("a red car", 1, Origin.SPOKEN))

        def speak_up() -> None:
            slow.drawing.wait(20)
            arrived.put(Line(said, 3, Origin.SPOKEN))

        speaker = threading.Thread(target=speak_up)
        speaker.start()
        host.hear(Line("at night", 2, Origin.SPOKEN))  # returns because it was ended
        speaker.join()
        host.hear(arrived.get_nowait())  # type: ignore[arg-type]
    first, shown = (tmp_path / "out").read_text().splitlines()
    assert first == shown  # the picture before, once more
    assert len(list(tmp_path.glob("*/run.json"))) == 1
    assert not list(tmp_path.glob(".run.*"))
    assert f"stopped\n{line}a red car" in capfd.readouterr().err


# ---- pixels


def test_tones_are_what_they_are_called() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    red, green, blue = (pixels[..., index].mean() for index in range(3))

    def means(*names: str) -> Any:
        return tones.applied(pixels, names).mean(axis=(0, 1))

    assert (means("darker") < (red, green, blue)).all() and (means("lighter") > (red, green, blue)).all()
    assert means("warmer")[0] > red and means("warmer")[2] < blue
    assert means("colder")[0] < red and means("colder")[2] > blue
    assert tones.applied(pixels, ["contrast"]).std() > pixels.std()
    assert tones.applied(pixels, ["bigger"] * 9).shape == (4096, 4096, 3)
    one_by_one = tones.applied(tones.applied(pixels, ["darker"]), ["warmer"])
    assert (one_by_one == tones.applied(pixels, ["darker", "warmer"])).all()


# ---- through the whole pipe


def test_lines_of_stdin_through_the_whole_pipe(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    done = subprocess.run(
        pipe.command("--talk", "--prompt", "-", "--seed", 5), env=pipe.environment(),
        input="a red car\ndarker\nquokkas\nstop listening\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    car, darker = map(Path, done.stdout.splitlines())
    before, after = (np.asarray(Image.open(path).convert("L")).mean() for path in (car, darker))
    assert after < before
    assert run_of(darker)["parent"] == {"folder": car.parent.name, "file": "image.png"}
    assert "builtin knows nothing in “quokkas”" in done.stderr


@pytest.mark.full
def test_the_same_conversation_spoken(tmp_path: Path) -> None:
    with microphone.running() as environment:
        pipe = Pipe(tmp_path)
        settings = {"A2I_WHISPER": real_weights.ggml("f16"), "PULSE_SERVER": environment["PULSE_SERVER"]}
        running = subprocess.Popen(
            pipe.command("--talk", "--seed", 5), env=pipe.environment(**settings), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said: list[str] = []
        assert running.stderr
        reader = threading.Thread(target=lambda: said.extend(iter(running.stderr.readline, "")))  # type: ignore[union-attr]
        reader.start()
        _wait(lambda: any("listening" in line for line in said), said)
        for number, (text, _) in enumerate(TURNS, 1):
            speak("rms", text, tmp_path / "said.wav")
            microphone.speak(environment, tmp_path / "said.wav")
            if text != "stop listening":
                _wait(partial(_heard, said, number), said)
        assert running.stdout
        printed = [Path(line) for line in running.stdout.read().splitlines()]
        assert running.wait(60) == 0
        reader.join()
    check(printed)


def _heard(said: list[str], least: int) -> bool:
    return sum(line.startswith("heard: ") for line in said) >= least


def _wait(happened: Any, said: list[str]) -> None:
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit, "".join(said)
        time.sleep(0.1)
