"""What a recogniser understood."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word and when it was said, in seconds from the beginning of the recording."""

    text: str
    begin: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """The words of one recording.

    text: empty where nothing was said; language: the code of the spoken language; confidence: 0…1, None where the
    recogniser does not tell (whisper.cpp: the geometric mean of its tokens' probabilities; the built-in recogniser: the
    chance that all words are right); words: empty where the recogniser does not tell when each word was said; firm: how
    many of the words at the beginning will hardly change when more is said, None where the recogniser does not tell.
    """

    text: str
    language: str
    confidence: float | None = None
    words: tuple[Word, ...] = ()
    firm: int | None = None
