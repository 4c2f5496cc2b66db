"""What people say to a picture: commands, options inside a prompt, and prompts that look alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from utterances import same, understood, utterances

from helpers.core.errors import UserError
from helpers.core.lines import Line, Origin, encode
from helpers.core.paths import ROOT
from helpers.draw.spoken import nearest, shaped
from helpers.words import grammar, styles
from helpers.words.grammar import Grammar
from helpers.words.said import Command, Options, in_words

PRECISION, RECALL = 0.99, 0.95


@lru_cache
def english() -> Grammar:
    found = Grammar.of("en", styles.read(), ["sd-turbo", "builtin"])
    assert found
    return found


@pytest.mark.parametrize("held_out", [False, True])
def test_prompts_are_hardly_ever_taken_for_commands_and_commands_are_understood(held_out: bool) -> None:
    said = [one for one in utterances() if one.held_out == held_out]
    meant = {one: understood(one) for one in said}
    assert len(said) >= 300
    taken = [one for one in said if meant[one] != "prompt"]
    commands = [one for one in said if one.meaning != "prompt"]
    right = [one for one in commands if same(meant[one], one.meaning)]
    wrong = [one.text for one in taken if one.meaning == "prompt"]
    assert 1 - len(wrong) / len(taken) >= PRECISION, wrong
    assert len(right) / len(commands) >= RECALL, [one.text for one in commands if one not in right]


@pytest.mark.parametrize("language", grammar.languages())
def test_every_language_says_the_same_things(language: str) -> None:
    here, there = (found.content for found in (Grammar.of(language), Grammar.of("en")) if found)
    assert here.keys() >= there.keys()
    for part in ("commands", "end", "start", "say", "shapes", "styles"):
        assert here[part].keys() == there[part].keys(), part
    assert set(there["styles"]) - {"none"} == styles.read().keys()


def test_names_of_ones_own_can_be_said() -> None:
    own = Grammar.of("en", ["my aunt's kitchen"], ["sd-turbo"])
    assert own
    assert own.options("a cat in my aunt's kitchen").options == Options()
    assert own.options("a cat in my aunt's kitchen style").options == Options(style="my aunt's kitchen")
    assert own.options("a bee on a flower with the model SD Turbo").options == Options(model="sd-turbo")


def test_a_word_counts_only_if_it_is_in_the_prompt() -> None:
    assert english().command("make the car blue", "two cars at sea") == Command("colour", text="blue", thing="cars")
    assert english().command("make the car blue", "a boat at sea") is None
    assert english().command("paint the town red", "a car") is None


@pytest.mark.parametrize(
    "text", ["", " ", ",,, ", "a " * 5000, "wide, " * 300, "four of them " * 100, "(((", "\u202e"], ids=range(8)
)
def test_anything_can_be_said(text: str) -> None:
    english().command(text, "a cat")
    english().options(text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("abd ,.four of them wide no text") | st.characters(), max_size=60))
def test_options_take_words_from_the_ends_only(text: str) -> None:
    assert english().options(text).text in text


def test_more_than_anybody_wants_is_no_option() -> None:
    assert english().options("a beach, ninety nine pictures").options == Options()
    assert english().options("a beach, 99 pictures").options == Options()


def test_what_was_understood_is_said() -> None:
    options = english().options("a beach, wide, four pictures, no people, as an oil painting").options
    assert in_words(options) == "wide, four pictures, without people, as oil painting"


def test_shapes_have_the_pixels_of_the_model() -> None:
    assert nearest(shaped((512, 512), "wide"), (512, 512)) == (640, 448)
    assert nearest(shaped((512, 512), "tall"), (512, 512)) == (448, 640)
    assert nearest(shaped((1024, 1024), "wide"), (1024, 1024)) == (1280, 832)
    assert nearest(shaped((768, 512), "square"), (768, 512)) == (640, 640)
    assert nearest((9999, 9999), (512, 512)) == (1024, 1024)


# ---- the files of styles


def test_styles_are_read_as_the_web_ui_writes_them(tmp_path: Path) -> None:
    own = tmp_path / "styles.csv"
    own.write_bytes(
        '\ufeffname,prompt,negative_prompt\r\nNone,,\r\nmine,"a {prompt}, ""big""",small\r\nend,"x, y"\r\n'.encode()
    )
    found = styles.read(own)
    assert found["mine"].applied("cat") == ('a cat, "big"', "small")
    assert found["end"].applied("cat", "dog") == ("cat, x, y", "dog")
    assert "None" not in found
    assert "watercolour" in found


BAD = [b"what,prompt\na,b\n", b"name,prompt\na,b,c,d\n", b"name,prompt\n\xff,b\n", b'name,prompt\n"a,b']


@pytest.mark.parametrize("content", BAD)
def test_a_bad_file_of_styles_is_named(tmp_path: Path, content: bytes) -> None:
    own = tmp_path / "mine.csv"
    own.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.csv") as raised:
        styles.read(own)
    assert raised.value.code == os.EX_DATAERR


# ---- in the pipe


def draw(tmp_path: Path, *lines: Line, **environment: str) -> tuple[list[dict[str, object]], str]:
    """The run.json of each line's picture, and what is said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("A2I_")}
    done = subprocess.run(
        [sys.executable, "-m", "helpers.draw.generate", "--seed", "5"],
        input=b"".join(encode(line, marked=True) for line in lines),
        env={**clean, "A2I_OUTPUT": str(tmp_path), **environment},
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    folders = dict.fromkeys(Path(path).parent for path in done.stdout.decode().splitlines())
    return [json.loads((folder / "run.json").read_text()) for folder in folders], done.stderr.decode()


def test_what_is_said_besides_the_prompt_is_done(tmp_path: Path) -> None:
    wide, plain = draw(
        tmp_path,
        Line("A red car on the beach, wide, two pictures.", 1, Origin.SPOKEN),
        Line("a red car, wide", 2, Origin.TYPED),
    )[0]
    assert (wide["prompt"], wide["count"], wide["size"]) == ("A red car on the beach", 2, "640x448")
    assert (plain["prompt"], plain["count"], plain["size"]) == ("a red car, wide", 1, "512x512")


def test_one_switch_leaves_all_in_the_prompt(tmp_path: Path) -> None:
    (run,), said = draw(tmp_path, Line("a red car, two pictures", 1, Origin.SPOKEN), A2I_SPOKEN_OPTIONS="0")
    assert (run["prompt"], run["count"]) == ("a red car, two pictures", 1)
    assert "two pictures)" not in said
