"""Emphasis in a prompt that was typed, with the meaning that it has in AUTOMATIC1111's web UI.

    parse("a (red:1.2) apple on [snow]")  # [("a ", 1.0), ("red", 1.2), (" apple on ", 1.0), ("snow", 1 / 1.1)]

The grammar is that of its modules/prompt_parser.py (parse_prompt_attention): (more) is 1.1, [less] is 1 / 1.1, both may
be nested, (so much:1.3), and a backslash before a bracket makes it a letter. One difference: a time in brackets, as in
(at 10:30), is no weight.
"""

from __future__ import annotations

import re

MORE = 1.1
BREAK = ("BREAK", -1.0)  # what follows begins in a new chunk

_PART = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse(prompt: str) -> list[tuple[str, float]]:
    """The pieces of a prompt with their weights; BREAK stands between two chunks."""
    pieces: list[tuple[str, float]] = []
    round_ones: list[int] = []
    square_ones: list[int] = []

    def weigh(begin: int, weight: float) -> None:
        pieces[begin:] = [(text, old * weight) if (text, old) != BREAK else BREAK for text, old in pieces[begin:]]

    for found in _PART.finditer(prompt):
        text, number = found[0], _number(found)
        if len(text) == 2 and text[0] == "\\":
            pieces.append((text[1], 1.0))
        elif text == "(":
            round_ones.append(len(pieces))
        elif text == "[":
            square_ones.append(len(pieces))
        elif number is not None and round_ones:
            weigh(round_ones.pop(), number)
        elif text.endswith(")") and round_ones:
            if found[1]:
                pieces.append((text[:-1], 1.0))
            weigh(round_ones.pop(), MORE)
        elif text == "]" and square_ones:
            weigh(square_ones.pop(), 1 / MORE)
        else:
            for index, part in enumerate(_BREAK.split(text)):
                pieces += [BREAK] if index else []
                pieces.append((part, 1.0))
    for begin in round_ones:
        weigh(begin, MORE)
    for begin in square_ones:
        weigh(begin, 1 / MORE)
    return _joined(pieces)


def escaped(prompt: str) -> str:
    """`prompt` so that `parse` finds all of it as it is, without emphasis."""
    return re.sub(r"([()\[\]\\])", r"\\\1", prompt)


def unescaped(prompt: str) -> str:
    """The inverse of `escaped`."""
    return re.sub(r"\\([()\[\]\\])", r"\1", prompt)


def is_possible(prompt: str) -> bool:
    """Whether `parse` may find something in a prompt."""
    return bool(re.search(r"[()\[\]\\]|\bBREAK\b", prompt))


def _number(found: re.Match[str]) -> float | None:
    """The weight of `:1.2)`; None for anything else, such as the end of (at 10:30)."""
    before = found.string[: found.start()]
    if not found[1] or (before[-1:].isdigit() and "." not in found[1]):
        return None
    try:
        return float(found[1])
    except ValueError:  # two points
        return None


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """With neighbours of one weight in one piece."""
    result: list[tuple[str, float]] = []
    for piece in pieces:
        if result and piece != BREAK != result[-1] and piece[1] == result[-1][1]:
            result[-1] = (result[-1][0] + piece[0], piece[1])
        elif piece[0]:
            result.append(piece)
    return result or [("", 1.0)]
