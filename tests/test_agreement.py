"""Words that three hypotheses in a row agree on are committed, and never taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.words.agreement import Agreement


@pytest.mark.parametrize(
    ("hypotheses", "committed"),
    [
        (["a", "a cat", "a cat on", "a cat on the"], ["", "", "a", "a cat"]),
        (["draw me", "draw me a cat", "draw me a castle", "draw me a castle"], ["", "", "draw me", "draw me a"]),
        (["A cat.", "A cat on", "a cat, on the beach.", "a cat, on the beach."], ["", "", "a cat", "a cat on"]),
        (["a lion", "a lion", "a lion on", "a home", "a home", "a home on red"], ["", "", "a lion", "a lion", "a lion", "a lion"]),  # noqa: E501
        (["a cat", "", "a cat", "a cat", "a cat"], ["", "", "", "", "a cat"]),
        (["雪の", "雪の犬。", "雪の犬と"], ["", "", "雪の"]),
        (["…", "… a", "a dog", "a"], ["", "", "", "a"]),
    ],
)  # fmt: skip
def test_what_three_agree_on(hypotheses: list[str], committed: list[str]) -> None:
    agreement = Agreement(0.1)
    assert [agreement.hear(text) for text in hypotheses] == committed


def test_what_is_not_firm_is_not_committed() -> None:
    agreement = Agreement(0.1)
    heard = [("a cat on", "a cat"), ("a cat on", "a cat"), ("a cat on the", "a"), ("a cat on the", "a cat on")]
    assert [agreement.hear(text, firm) for text, firm in heard] == ["", "", "a", "a cat on"]


def test_the_three_have_to_be_sure() -> None:
    agreement = Agreement(0.5)
    sure = [0.4, 0.4, 0.4, 0.9, None]  # the mean of the log odds decides
    assert [agreement.hear("a cat", confidence=confidence) for confidence in sure] == ["", "", "", "a cat", "a cat"]


def test_no_answer_begins_the_count_again() -> None:
    agreement = Agreement(0.1)
    assert [agreement.hear("a cat"), agreement.hear("a cat")] == ["", ""]
    agreement.doubt()
    assert [agreement.hear("a cat") for _ in range(3)] == ["", "", "a cat"]


def test_at_a_pause_everything_is_committed_unless_it_contradicts() -> None:
    agreement = Agreement(0.1)
    agreement.hear("a cat")
    assert agreement.conclude("a cat on the beach.") == "a cat on the beach"
    assert agreement.conclude("a cap on the beach at night") == "a cat on the beach"
    assert agreement.conclude("a cat on the beach at night") == "a cat on the beach at night"


words = st.lists(st.sampled_from(["a", "cat", "Cat,", "雪", "...", "owl."]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(st.booleans(), words), max_size=12))
def test_it_only_grows(heard: list[tuple[bool, str]]) -> None:
    agreement, before = Agreement(0.1), ""
    for pause, text in heard:
        after = (agreement.conclude if pause else agreement.hear)(text)
        assert after.startswith(before) and after == agreement.text == after.strip()
        before = after


@given(words)
def test_what_is_said_three_times_is_committed_whole(text: str) -> None:
    agreement = Agreement(0.1)
    assert agreement.hear(text) == agreement.hear(text) == ""
    plain = [word.strip(".,").casefold() for word in text.split() if word.strip(".,")]
    assert [word.strip(".,").casefold() for word in agreement.hear(text).split() if word.strip(".,")] == plain
