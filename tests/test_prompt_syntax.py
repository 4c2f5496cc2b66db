"""Other programs' prompt syntax: the words stay, the numbers and signs go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from helpers.words.prompt_syntax import plain


@pytest.mark.parametrize(
    ("prompt", "drawn", "ignored"),
    [
        ("a (red:1.3) apple on a table", "a red apple on a table", ["(red:1.3)"]),
        ("(red:1.2)", "red", ["(red:1.2)"]),
        ("(a red apple:0.8), a table", "a red apple, a table", ["(a red apple:0.8)"]),
        ("a ((red)) apple", "a red apple", ["((red))"]),
        ("a (((red:1.1))) apple", "a red apple", None),
        ("<lora:x:0.8> a cat", "a cat", ["<lora:x:0.8>"]),
        ("a cat <hypernet:a b:1>, a dog", "a cat, a dog", None),
        ("a [blue] cat", "a blue cat", ["[blue]"]),
        ("a [cat:dog:0.5] here", "a cat here", ["[cat:dog:0.5]"]),
        ("a cat [hat:0.5]", "a cat hat", ["[hat:0.5]"]),
        ("a [cat|dog] here", "a cat here", ["[cat|dog]"]),
        ("a {cat|dog} here", "a cat here", ["{cat|dog}"]),
        ("a {{red}} cat", "a red cat", None),
        ("a cat BREAK a dog", "a cat, a dog", ["BREAK"]),
        ("a cat AND a dog", "a cat and a dog", ["AND"]),
        ("a cat --ar 16:9 --v 5 --no dogs, birds --tile", "a cat", None),
        ("cat::2 dog::1", "cat, dog", None),
        ("a (red)1.3 cat", "a red cat", ["(red)1.3"]),
        ("a (red)++ cat", "a red cat", ["(red)++"]),
        ("a cat, embedding:bad-hands", "a cat", ["embedding:bad-hands"]),
        ("a (embedding:sub/some.pt:1.2) cat", "a cat", None),
        ("a ((((red)))) cat (a (big) ((old)) one)", "a red cat (a (big) old one)", None),
        ("a red++ cat, small--", "a red cat, small", ["red++", "small--"]),
        ('("a cat", "a dog").blend(0.5, 0.5)', "a cat, a dog", None),
        ('a "cat".swap(dog) withLora(x, 0.8)', "a cat", None),
        ("a cat <segment:face> <wildcard[2]:hat> <random:on a mat,at sea>", "a cat on a mat", None),
        ("a {2$$red|blue} {1-2$$ and $$big|old} {0.3::cat|0.7::dog}", "a red big cat", None),
        ("1.3::red cat:: on a mat, {blue:1.2}", "red cat, on a mat, blue", None),
        ("/imagine prompt: a cat —ar 16:9 –no dogs --p", "a cat --p", ["/imagine prompt:", "—ar 16:9", "–no dogs"]),
        ("!dream a cat -s50 -W512", "a cat", None),
        ("a cat Negative prompt: dogs Steps: 20, Sampler: Euler a", "a cat", None),
        ("a cat Steps: 20, Sampler: Euler a, Seed: 5", "a cat", None),
        (r"a sign \(red\) here", "a sign (red) here", []),
        ("a __colour__ cat", "a cat", ["__colour__"]),
    ],
)
def test_syntax_is_not_drawn(prompt: str, drawn: str, ignored: list[str] | None) -> None:
    found = plain(prompt)
    assert found[0] == drawn
    assert found[1] == ignored if ignored is not None else found[1]


@pytest.mark.parametrize(
    "prompt",
    [
        "a heart with an arrow (red)",
        "a clock that shows 10:30",
        "a clock (at 10:30)",
        "a ratio (4:3)",
        "A CAT AND A DOG BREAK DANCE",
        "a robot -- in the snow",
        "C++ on a blackboard, std::vector",
        "a cat: it sleeps; 3 apples",
        "ein Hund (groß) und 2.5 Äpfel",
        "a face :) or :(",
        "a red robot — in the snow – at 5",
        "C++ and A+, well-known, a <3, 2 < 3 > 1",
        "steps: 20 of them, a temperature of -5",
        "()",
    ],
)
def test_ordinary_words_stay(prompt: str) -> None:
    assert plain(prompt) == (prompt, [])


@given(some.text("ab (:1.3)[]{}|<>lora--AND\\,", max_size=40))
def test_any_text(prompt: str) -> None:
    """It never fails, keeps the words outside of the syntax, and has nothing left to find."""
    drawn, ignored = plain(prompt)
    assert len(drawn) <= len(prompt) + len(ignored) * 3
    if not ignored and "\\" not in prompt:
        assert drawn == prompt
