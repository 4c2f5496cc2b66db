"""The last stage, with the built-in model on the CPU engine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.core.paths import ROOT
from helpers.draw import png
from helpers.draw.choose_model import Model


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("A2I_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("A2I_OUTPUT", str(tmp_path))
    yield


def run(text: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "helpers.draw.generate", "--steps", "1", *options]
    return subprocess.run(command, input=text, capture_output=True, cwd=ROOT)


def test_each_line_is_a_picture_and_empty_ones_are_none() -> None:
    done = run(b"a cat\n\n  \na dog\n", "--seed", "5")
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.decode().splitlines()]
    assert [(path.parent / "prompt.txt").read_text() for path in paths] == ["a cat\n", "a dog\n"]
    assert [path.parent.name[20:] for path in paths] == ["a-cat", "a-dog"]


def test_the_picture_carries_how_it_was_made() -> None:
    done = run('a "cat" – 🐈\n'.encode(), "--seed", "5", "--negative", "dog", "--guidance", "2.5")
    path = Path(done.stdout.decode().strip())
    image = Image.open(path)
    lines = str(image.info["parameters"]).splitlines()
    run_json = json.loads((path.parent / "run.json").read_text())
    assert lines[:2] == ['a "cat" – 🐈', "Negative prompt: dog"]
    digest = run_json["model"]["sha256"][:10]
    assert lines[2].startswith("Steps: 1, Sampler: ")
    assert f"CFG scale: 2.5, Seed: 5, Size: 512x512, Model hash: {digest}, Model: builtin, Version: " in lines[2]
    assert run_json["prompt"] == 'a "cat" – 🐈'


def test_count_takes_the_next_seeds() -> None:
    first = run(b"a cat\n", "--seed", "6", "--count", "2")
    path = Path(first.stdout.decode().splitlines()[1])
    assert path.name == "image-2.png"
    alone = run(b"a cat\n", "--seed", "7")
    same = Path(alone.stdout.decode().strip()).read_bytes() == path.read_bytes()
    assert same  # not in one line: a report of the difference takes minutes


def test_what_is_lost_is_said() -> None:
    done = run(b"a lighthouse and a quokka near a cat\n")
    assert "words that builtin does not know: lighthouse quokka" in done.stderr.decode()
    done = run(("a cat " + "and a dog " * 30).encode() + b"\n")
    assert "the prompt is longer than builtin reads; cut: " in done.stderr.decode()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--size", "512"], 64),
        (["--size", "500x512"], 64),
        (["--seed", "-2"], 64),
        (["--seed", str(2**64)], 64),
        (["--count", "0"], 64),
        (["--sampler", "best"], 64),
        (["--steps", "5000"], 64),
        (["--model", "nonsense"], 64),
        (["--model", "base.en-q5_1"], 64),
        (["--model", "stable-diffusion-2-1-base-coreml-gpu"], 69),
        (["--model", "/nowhere"], 66),
    ],
)
def test_wrong_options(options: list[str], code: int, tmp_path: Path) -> None:
    done = run(b"a cat\n", *options)
    assert done.returncode == code, done.stderr
    assert not done.stdout and b"Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_prompt_is_an_error() -> None:
    for text in (b"", b"\n\n"):
        done = run(text)
        assert done.returncode == 65
        assert done.stderr.startswith(b"generate: no prompt arrived on stdin\n")


def test_a_line_without_an_end_is_a_prompt_too() -> None:
    assert run(b"a cat").returncode == 0


def test_png_is_the_same_for_the_same_picture() -> None:
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    data = png.write(pixels, "a cat\nSteps: 1")
    assert data == png.write(pixels, "a cat\nSteps: 1")
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(image), pixels) and image.info["parameters"] == "a cat\nSteps: 1"


def test_unknown_words_are_those_of_a_closed_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\ncat\ni'd\n")
    model = Model("own", tmp_path, "openvino")
    assert model.unknown_words("A Cat, I’d say: a dog-dog!") == ["say", "dog"]
    (tmp_path / "words.txt").unlink()
    assert model.unknown_words("anything goes") == []
