"""More words for a plain prompt: the kinds of prompts, the phrases by rule, and the models that get none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.draw.job import Job
from helpers.draw.spoken import Hearing, applied
from helpers.words import enrich, kinds, toml
from helpers.words.said import Options
from training.prompt_kinds import HELD_OUT, accuracy, read

LEAST = 0.9  # of the prompts of another source


def test_kinds_of_prompts_of_another_source() -> None:
    assert accuracy(kinds.load(), read(HELD_OUT)) >= LEAST
    assert kinds.FILE.stat().st_size < 1 << 20


@pytest.mark.parametrize(
    ("prompt", "kind"),
    {
        "a cat wearing a hat": "animal",
        "two bowls of soup on a table": "food",
        "a man with a dog": "person",
        "a dog with a man": "animal",
        "a painting of a castle by the sea": "building",
        "happiness": "abstract",
    }.items(),
)
def test_it_is_about_its_first_thing(prompt: str, kind: str) -> None:
    assert kinds.kind_of(prompt)[0] == kind


def test_every_kind_has_phrases() -> None:
    content = toml.read(enrich.FILE)
    assert set(content["add"]) == set(kinds.KINDS)
    for kind, facets in content["add"].items():
        assert facets.keys() == content["said"].keys(), kind


def test_what_is_missing_is_added_once() -> None:
    plain = enrich.enriched("a dog on the beach", 5)
    assert plain.startswith("a dog on the beach, ") and plain.count(",") <= 4
    assert enrich.enriched(plain, 5) == plain
    assert "light" not in enrich.enriched("a dog at night", 5)
    assert "photo" not in enrich.enriched("an oil painting of a dog", 5).removeprefix("an oil painting of a dog")


def test_the_same_seed_gives_the_same_words_after_a_change() -> None:
    before, after = (enrich.enriched(prompt, 7).partition(", ")[2] for prompt in ("a red car", "a blue car"))
    assert before == after
    assert len({enrich.enriched("a red car", seed) for seed in range(20)}) > 1


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_nothing_is_taken_away(prompt: str) -> None:
    assert enrich.enriched(prompt, 1).startswith(prompt.rstrip(" .,;"))


def painter(closed: bool) -> Any:
    return SimpleNamespace(size=(512, 512), model=SimpleNamespace(has_closed_vocabulary=closed))


def test_a_model_of_few_words_gets_none() -> None:
    hearing = Hearing(Settings(style="auto"))
    assert applied(Job("a dog", seed=5), Options(), painter(True), hearing).prompt == "a dog"
    more = applied(Job("a dog"), Options(), painter(False), hearing)
    assert more.prompt == enrich.enriched("a dog", more.seed or 0) != "a dog"
    assert applied(Job("a dog", seed=5), Options(), painter(False), Hearing(Settings())).prompt == "a dog"
    fancy = applied(Job("a dog", seed=5), Options(fancy=True), painter(False), Hearing(Settings()))
    assert fancy.prompt == enrich.enriched("a dog", 5)


def test_a_style_for_every_picture() -> None:
    hearing = Hearing(Settings(style="pop art"))
    assert "halftone" in applied(Job("a dog"), Options(), painter(False), hearing).prompt
    said = applied(Job("a dog"), Options(style="pixel art"), painter(False), hearing).prompt
    assert "pixel art" in said and "halftone" not in said
    assert applied(Job("a dog"), Options(style="none"), painter(False), hearing).prompt == "a dog"


def test_a_style_that_is_none_is_named(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("A2I_")}
    done = subprocess.run(
        [sys.executable, "-m", "helpers.draw.generate"], input=b"a cat\n", capture_output=True, cwd=ROOT,
        env={**clean, "A2I_OUTPUT": str(tmp_path), "A2I_STYLE": "baroque"},
    )  # fmt: skip
    assert done.returncode == 64
    assert re.search(rb"there is no style 'baroque'\n +Styles: auto, watercolour, ", done.stderr)
