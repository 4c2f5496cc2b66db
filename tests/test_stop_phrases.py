"""What ends a session with --loop."""

from __future__ import annotations

import pytest

from helpers.words import stop_phrases


@pytest.mark.parametrize(
    "text", ["Stop listening.", "please stop listening", "Arrête d’écouter !", "Nicht mehr zuhören."]
)
def test_words_that_end_it(text: str) -> None:
    assert stop_phrases.is_stop(text)


@pytest.mark.parametrize("text", ["", "a man who will not stop listening", "stop", "a cat"])
def test_words_that_are_drawn(text: str) -> None:
    assert not stop_phrases.is_stop(text)


def test_the_phrase_that_is_shown_is_one_that_works() -> None:
    for language in ("en", "de", "fr", "ja", "auto"):
        for translate in (False, True):
            assert stop_phrases.is_stop(stop_phrases.phrase(language, translate))
    assert stop_phrases.phrase("fr", translate=True) == stop_phrases.phrase("ja", translate=False) == "stop listening"
