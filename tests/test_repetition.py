"""Loops: what Whisper says over and over is said once, what a person repeats stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.words.repetition import collapse, has_words, sayable

LOOPS = {
    "a burger a burger a burger a burger a": "a burger",
    "draw a burger a burger a burger a burger": "draw a burger",
    "the the the the": "the",
    "A cat, a cat, a cat, a cat.": "A cat.",
    "I want a cat. I want a cat. I want a cat. I want a cat. I": "I want a cat",
    "don't don't don't don't stop": "don't stop",
    "the cat and the the the the dog": "the cat and the dog",
    "a a a a b a a a a b a a a a b a a a a b": "a b",
    "ありがとうありがとうありがとうありがとう": "ありがとう",
    "一只猫，一只猫，一只猫，一只猫。": "一只猫。",
    "кошка КОШКА Кошка кошка на пляже": "кошка на пляже",
    "नाना नाना नाना नाना": "नाना",
    "แมวแมวแมวแมว": "แมว",
    "-- - -- - -- - -- -": "-- - -- - -- - -- -",  # no words
}
PERSONS = """\
a very very very big dog
a cat and a cat
a cat and a dog and a cat and a dog
no no no
knock knock, who is there
a sign that says 5 5 5 5 5
New York, New York
a cat. a cat. a cat.
a row of houses, a row of trees, a row of people
ha ha ha
3 3 3 3 and 1 2 1 2 1 2 1 2
"""


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_is_said_once(text: str) -> None:
    assert collapse(text) == LOOPS[text]


@pytest.mark.parametrize("text", PERSONS.splitlines())
def test_what_a_person_repeats_stays(text: str) -> None:
    assert collapse(text) == text
    assert sayable(text, 10) == text


@pytest.mark.parametrize(
    "seconds, words, text",
    [
        (1, "a red cat a red cat a red", "a red cat"),
        (2, "a red cat a red cat a red", None),
        (1, "a cat a cat a cat a", None),  # 7 words in a second are none too many
        (0.1, "a red apple on a wooden table", None),  # Whisper is given a whole second
        (1, "one two three four five six seven eight nine ten eleven twelve 13 14", None),
        (1, "one two three four five six seven eight nine ten eleven twelve 13 14 15", ""),
    ],
)
def test_more_words_than_a_mouth_can_say(seconds: float, words: str, text: str | None) -> None:
    assert sayable(words, seconds) == (words if text is None else text)


reproducible = settings(deadline=None, derandomize=True)
words = st.lists(st.sampled_from(["a", "b", "the", "cat", "Cat", "cat,", "5", "猫", "."]), max_size=40).map(" ".join)


@reproducible
@given(words)
def test_every_word_is_still_there_and_nothing_else(text: str) -> None:
    once = collapse(text)
    assert collapse(once) == once
    assert {word.casefold() for word in once.split()} <= {word.casefold() for word in text.split()}
    said = {word.strip(",.").casefold() for word in text.split()}
    assert {word.strip(",.").casefold() for word in once.split()} | {""} == said | {""}


@reproducible
@given(st.lists(st.from_regex("[a-z]{2,8}", fullmatch=True), min_size=1, max_size=12, unique=True), st.integers(4, 9))
def test_any_phrase_as_often_as_you_like(phrase: list[str], times: int) -> None:
    text = " ".join(phrase)
    assert collapse(" ".join([text] * times)) == text
    assert collapse(" ".join(["draw", *phrase * times, *phrase[:-1]])) == f"draw {text}"
    assert collapse(" ".join([text] * 3)) == " ".join([text] * 3)


@pytest.mark.parametrize("unit", ["you ", "a b ", "笑", "a " * 39 + "b ", "a b a a b b a b "])
def test_a_long_line_takes_a_moment(unit: str) -> None:
    for letters in (9_999, 200_000):
        began = time.process_time()
        collapse((unit * letters)[:letters])
        assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "sung",
    [
        "",
        "?",
        "…",
        "La la la",
        "Oh, hey, oh, hey!",
        "A-E-E-O",
        "Mmmmmm",
        "Hmmmm",
        "Jajajajaja",
        "You you you",
        "la Allah " * 3,
    ],
)
def test_what_is_sung_or_hummed_has_no_words(sung: str) -> None:
    assert not has_words(sung)


@pytest.mark.parametrize(
    "said",
    ["7", "B 52", "a cat", "no", "go cat go", "cat, cat, cat", "ask not", "猫", "Ы", "New York New York"],
)
def test_words_are_words(said: str) -> None:
    assert has_words(said)
