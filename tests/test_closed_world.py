"""What the built-in model makes of a prompt from outside its world."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.core.paths import ROOT
from helpers.draw.choose_model import open_model
from helpers.words import closed_world
from training.builtin import kinds
from training.builtin.vocabulary import SUBJECTS, SYNONYMS, caption, sample_scene

FOLDER = ROOT / "models" / "builtin"


@pytest.fixture(scope="module")
def world() -> closed_world.World:
    found = closed_world.load(FOLDER)
    assert found
    return found


def test_a_folder_without_a_list_is_open(tmp_path: Path) -> None:
    assert closed_world.load(tmp_path) is None


def test_the_list_is_that_of_the_vocabulary() -> None:
    import json

    content = json.loads(kinds.WORLD.read_text(encoding="utf-8"))
    assert content["subjects"] == kinds.subjects() and content["settings"] == kinds.settings()
    assert set(content["kinds"]) <= set(SUBJECTS)
    assert {subject for near in content["near"] for subject in near.split(",")} <= set(SUBJECTS)
    assert "WordNet" in (FOLDER / "wordnet-license.txt").read_text(encoding="utf-8")


def test_what_it_knows_stays_as_it_is(world: closed_world.World) -> None:
    r = random.Random(1)
    for _ in range(1500):
        scene = sample_scene(r)
        text = caption(scene, r)
        reading = world.read(text)
        assert reading.text == text and not reading.unknown and not reading.drawn_as, text
        assert {subject.name for subject in scene.subjects} <= set(reading.subjects), (text, reading)


@pytest.mark.parametrize(
    ("prompt", "text", "drawn_as", "unknown"),
    [
        ("a poodle on the beach", "a dog on the beach", {"poodle": "dog"}, []),
        ("Two poodles, please", "Two dogs, please", {"poodles": "dog"}, []),
        ("a sports car at night", "a car at night", {"sports car": "car"}, []),
        ("my grandmother riding a bicycle in paris", "a bicycle", {}, ["grandmother", "riding", "paris"]),
        ("a cat, with a sword, in the snow", "a cat, in the snow", {}, ["sword"]),
        ("a happy cat and a quokka", "a happy cat", {}, ["quokka"]),
        ("three robins at a palace", "three birds at a castle", {"robins": "bird", "palace": "castle"}, []),
    ],
)
def test_kinds_are_drawn_and_unknown_words_left_out(
    world: closed_world.World, prompt: str, text: str, drawn_as: dict[str, str], unknown: list[str]
) -> None:
    reading = world.read(prompt)
    assert (reading.text, reading.drawn_as, reading.unknown) == (text, drawn_as, unknown)
    assert reading.subjects


@pytest.mark.parametrize(
    ("prompt", "near"),
    [
        ("a lighthouse in a storm", ["house", "castle"]),
        ("happy birthday", ["cake"]),
        ("under the stars", ["star"]),
        ("a blue background", []),
        ("on orange", []),
        ("an orange background", []),
        ("a kangaroo", ["elephant", "monkey", "bear"]),
        ("猫", []),
        ("🐈", []),
    ],
)
def test_a_prompt_without_a_subject_has_none(world: closed_world.World, prompt: str, near: list[str]) -> None:
    reading = world.read(prompt)
    assert not reading.subjects and reading.near == near


def test_a_colour_is_no_fruit(world: closed_world.World) -> None:
    assert world.read("an orange cat on an orange background").subjects == ["cat"]
    assert world.read("an orange poodle").subjects == ["dog"]
    assert world.read("an orange on a table").subjects == ["orange"]


def test_every_name_is_understood(world: closed_world.World) -> None:
    for subject in SUBJECTS:
        for name in (subject, *SYNONYMS.get(subject, ())):
            assert world.read(f"draw a {name}").subjects == [subject], name


def test_any_text_can_be_read(world: closed_world.World) -> None:
    r = random.Random(3)
    letters = "abc orange poodle cat,.;!? '’–\n\t" + "ñ猫\u202e\x00"
    words = ["cat", "orange", "poodles", "in", "the", "quokka", "on", "a", ",", "at", "night", "’s"]
    for _ in range(3000):
        text = "".join(r.choices(letters, k=r.randrange(20))) + " ".join(r.choices(words, k=r.randrange(8)))
        once = world.read(text)
        again = world.read(once.text)
        assert not again.unknown and not again.drawn_as, (text, once)  # nothing unknown is left


def draw(text: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("A2I_")}
    environment |= {"A2I_OUTPUT": str(tmp_path), "A2I_MODELS": str(tmp_path / "none"), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "helpers.draw.generate", "--model", "builtin", "--seed", "4", *options]
    return subprocess.run(command, input=text, text=True, capture_output=True, cwd=ROOT, env=environment)


def test_nothing_is_drawn_of_what_it_does_not_know_and_the_next_line_is(tmp_path: Path) -> None:
    done = draw("a lighthouse in a storm\na poodle at noon\na dog\n", tmp_path)
    assert done.returncode == 65
    assert "generate: builtin knows nothing in “a lighthouse in a storm”; it can draw: house, castle" in done.stderr
    assert "./download_model.py " in done.stderr and "gets a model that draws anything" in done.stderr
    assert "generate: poodle: drawn as dog" in done.stderr
    assert "words that builtin does not know: noon" in done.stderr and "lighthouse storm" not in done.stderr
    poodle, dog = (Path(line) for line in done.stdout.splitlines())
    assert (poodle.parent / "prompt.txt").read_text() == "a poodle at noon\n"  # what was said is kept
    from PIL import Image

    assert Image.open(poodle).tobytes() == Image.open(dog).tobytes()


def test_a_model_that_draws_anything_is_named() -> None:
    assert open_model("openvino").startswith(("./download_model.py ", "--model "))
    assert "builtin" in open_model("no engine has this name")
