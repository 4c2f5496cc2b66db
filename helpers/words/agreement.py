"""Words that can be shown while somebody still speaks, because they will not change: LocalAgreement.

A recogniser that hears the same speech again and again, each time a little more of it, changes its mind about the last
words. A word is committed when three hypotheses in a row have it, and every word before it, and it is never taken back
(Macháček, Dabre, Bojar: Turning Whisper into Real-Time Transcription System, 2023, section 2.1; the rule is from Liu,
Spanakis, Niehues: Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis Selection,
2020. Both ask for two; with two, the built-in recogniser took words back in twice as many recordings).
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import NamedTuple

from helpers.words.repetition import UNSPACED

ANSWERS = 3  # that have to agree
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")  # or one letter of a script without spaces


class _Word(NamedTuple):
    plain: str  # what is compared: Whisper ends each hypothesis with a full stop
    end: int  # in the text


class _Answer(NamedTuple):
    plain: list[str]
    odds: float  # the logarithm of


class Agreement:
    """The committed words of one recording. `text` only grows."""

    def __init__(self, least: float) -> None:
        """least: the confidence that answers have to have, on average of their log odds."""
        self.text = ""
        self._least = math.log(least / (1 - least))
        self._plain: list[str] = []  # of the committed words
        self._answers: deque[_Answer] = deque(maxlen=ANSWERS)

    def hear(self, hypothesis: str, firm: str | None = None, confidence: float | None = None) -> str:
        """Take in the next hypothesis about the whole recording so far; returns the committed text.

        firm: its beginning that may be committed, by default all; confidence: 0…1, None for certain.
        """
        words = _words(hypothesis)
        odds = math.inf if confidence in (None, 1) else math.log(max(confidence, 1e-9) / (1 - confidence))
        self._answers.append(_Answer([word.plain for word in words], odds))
        if len(self._answers) < ANSWERS or sum(answer.odds for answer in self._answers) < ANSWERS * self._least:
            return self.text
        agreed = len(words if firm is None else _words(firm))
        while any(answer.plain[:agreed] != self._answers[-1].plain[:agreed] for answer in self._answers):
            agreed -= 1
        return self._commit(hypothesis, words[:agreed])

    def doubt(self) -> None:
        """There was no hypothesis this time: those before count no longer."""
        self._answers.clear()

    def conclude(self, hypothesis: str) -> str:
        """Take in a hypothesis to which nothing needs to agree, since nothing may follow; returns the committed text.

        It is the whole hypothesis, unless that contradicts what was committed.
        """
        self.doubt()
        return self._commit(hypothesis, _words(hypothesis))

    def _commit(self, hypothesis: str, words: list[_Word]) -> str:
        known = len(self._plain)
        plain = [word.plain for word in words]
        if len(plain) > known and plain[:known] == self._plain:
            begin = words[known - 1].end if known else 0
            self.text = (self.text + hypothesis[begin : words[-1].end].rstrip(".,;:!?…。、")).lstrip()
            self._plain = plain
        return self.text


def _words(text: str) -> list[_Word]:
    return [
        _Word(plain, found.end())
        for found in _WORD.finditer(text)
        if (plain := re.sub(r"^\W+|\W+$", "", found[0]).casefold())
    ]
