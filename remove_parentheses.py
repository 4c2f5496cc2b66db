#!/usr/bin/env python3
"""Take out what the speech recogniser wrote and nobody said: [BLANK_AUDIO], (music), *sighs*, ♪, >>, <|en|>, a loop …

A filter, one line in and one line out. Whatever may be the speaker's own words stays: "a heart with an arrow (red)".
What is taken for an annotation or an invented sentence stands in helpers/words/hallucinations.json.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.text import printable
from helpers.words import repetition

NAME = "remove_parentheses"
LISTS = ROOT / "helpers" / "words" / "hallucinations.json"

# Nobody can say these brackets: what stands in them was written by the recogniser, whatever it is.
_WRITTEN = {"[": "]", "【": "】", "［": "］", "〔": "〕", "<|": "|>", "{\\": "}"}
# A speaker's words may stand in these: "a heart (red)", a sign that says 「…」.
_SPOKEN = {"(": ")", "（": "）", "「": "」", "『": "』"}
_CLOSING = {closing: opening for opening, closing in (_WRITTEN | _SPOKEN).items()}
_BRACKETS = re.compile(
    "(" + "|".join(map(re.escape, sorted({*_WRITTEN, *_SPOKEN, *_CLOSING}, key=len, reverse=True))) + ")"
)

_NOTES = "♩♪♫♬♭♮♯🎵🎶"
_SUNG = re.compile(f"[{_NOTES}]([^{_NOTES}]{{1,80}})[{_NOTES}]")
_STARRED = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]{1,60})(?<=[^\s*])\*(?![\w*])")  # *sighs*
_STARRED_APART = re.compile(r"(?<![\w*])\*\s+([^*]{1,60}?)\s+\*(?![\w*])")  # * DING *
_TAG = re.compile(r"</?(?:i|b|u|em|strong|font|br|c|v)\b[^<>]{0,60}>", re.IGNORECASE)  # of subtitles
_SPEAKER = re.compile(
    r"^(?:\s+|>{2,}|[-–—]+(?=\s|[^\W\d])|[*•](?=\s)|(?i:speaker)[ _]?\d{1,3}:|(?:WO)?MAN:|BOY:|GIRL:|NARRATOR:)+"
)
_NEXT_SPEAKER = re.compile(r"(?<=\s)>{2,}(?=\s)")
_LONGEST_ANNOTATION = 5  # words
_LONGEST_INVENTION = 10_000  # letters; a window of 30 s holds far fewer


class Lists(NamedTuple):
    """hallucinations.json, ready for look-ups; every text is `plain`."""

    whole: frozenset[str]  # annotations
    starts: frozenset[str]
    ends: frozenset[str]
    parts: tuple[str, ...]  # of annotations in writing without spaces
    tails: tuple[str, ...]  # what may follow an annotation
    asides: frozenset[str]  # words that a spoken aside begins with, and no annotation: (a dog barking), (dog barking)
    sentences: frozenset[str]  # invented ones
    doubtful: frozenset[str]


@functools.cache
def lists() -> Lists:
    data = json.loads(LISTS.read_text(encoding="utf-8"))
    annotations = [pattern for patterns in data["annotations"].values() for pattern in patterns]

    def every(texts: dict[str, list[str]]) -> frozenset[str]:
        return frozenset(_solid(text) for language in texts.values() for text in language)

    return Lists(
        whole=frozenset(_plain(pattern) for pattern in annotations),
        starts=frozenset(_plain(pattern) for pattern in annotations if pattern.endswith(" *")),
        ends=frozenset(_plain(pattern) for pattern in annotations if pattern.startswith("* ")),
        parts=tuple(_plain(part) for parts in data["annotation_parts"].values() for part in parts),
        tails=tuple(f" {tail}" for tail in data["annotation_tails"]),
        asides=frozenset(data["aside_starts"]),
        sentences=every(data["sentences"]),
        doubtful=every(data["doubtful"]),
    )


def _plain(text: str) -> str:
    """Lower case words with one space between them, without punctuation."""
    return " ".join(re.sub(r"[\W_]+", " ", _folded(text)).split())


def _solid(text: str) -> str:
    """Letters and digits alone, without the year that some credits end with."""
    return re.sub(r"(?<!\d)(?:19|20)\d\d(?!\d)|[\W_]+", "", _folded(text))


def _folded(text: str) -> str:
    """`text` without the difference of case, in Turkish as well, where I is the capital of ı and İ that of i."""
    return text.casefold().replace("\u0307", "").replace("ı", "i")


def is_annotation(text: str) -> bool:
    """Whether a text that stood in brackets names a sound, or silence, and so was not said."""
    if re.search(r"[A-Z]_[A-Z]", text):
        return True
    plain = _plain(text)
    if not plain:
        return not _speaks(text)
    known = lists()
    for tail in known.tails:
        plain = plain.removesuffix(tail)
    words = plain.split()
    if plain in known.whole or any(plain == part or (len(part) > 1 and part in plain) for part in known.parts):
        return len(plain) <= 60
    if len(words) > _LONGEST_ANNOTATION or words[0] in known.asides:
        return False
    return any(
        " ".join(words[:count]) in known.starts or " ".join(words[-count:]) in known.ends
        for count in range(1, min(3, len(words)) + 1)
    )


def _speaks(text: str) -> bool:
    """Whether there is a letter, a digit or a pictogram in `text`; punctuation alone says nothing."""
    return any(sign.isalnum() or (unicodedata.category(sign) == "So" and sign != "\ufffd") for sign in text)


def _without_brackets(text: str) -> str:
    """One pass over nested and unbalanced brackets, in linear time."""
    out: list[str] = []
    open_at: list[int] = []  # where in `out` the brackets stand that are still open
    waiting = dict.fromkeys(_CLOSING.values(), 0)
    alone = not _speaks(_outside(text))  # nothing but brackets: then those with words are annotations, too

    def judge(start: int) -> bool:
        """Whether out[start:], a bracket and what stands in it, is to go."""
        if out[start] in _WRITTEN or (alone and out[start] in "(（" and not open_at):
            return True
        return len(out) - start < 16 and is_annotation("".join(out[start + 1 :]))

    for piece in _BRACKETS.split(text):
        if piece in waiting:
            open_at.append(len(out))
            waiting[piece] += 1
            out.append(piece)
        elif piece in _CLOSING and waiting[_CLOSING[piece]]:
            while out[open_at[-1]] != _CLOSING[piece]:  # [music (soft]: the inner one was never closed
                waiting[out[open_at[-1]]] -= 1
                out[open_at.pop()] = ""
            start = open_at.pop()
            waiting[out[start]] -= 1
            if judge(start):
                out[start:] = [" "]
            else:
                out.append(piece)
        elif piece in _CLOSING and piece != "}":  # never opened
            if not open_at and len(out) < 16 and is_annotation("".join(out)):
                out.clear()
        else:
            out.append(piece)
    while open_at:  # never closed
        start = open_at.pop()
        rest = "".join(out[start + 1 :]) if len(out) - start < 16 else ""
        if rest and (is_annotation(rest) or (out[start] in _WRITTEN and not _speaks("".join(out[:start])))):
            out[start:] = [" "]
        else:
            out[start] = ""
    return "".join(out)


def _outside(text: str) -> str:
    """What of `text` stands in no bracket at all."""
    depth, out = 0, []
    for piece in _BRACKETS.split(text):
        if piece in _CLOSING:
            depth = max(0, depth - 1)
        elif piece in _WRITTEN or piece in _SPOKEN:
            depth += 1
        elif not depth:
            out.append(piece)
    return "".join(out)


def _without_marks(text: str) -> str:
    """Take out *actions*, music signs, tags and the marks of speakers."""
    text = _STARRED.sub(lambda found: " " if re.search(r"[^\W\d_]", found[1]) else found[0], text)
    text = _STARRED_APART.sub(lambda found: " " if found[1].isupper() or is_annotation(found[1]) else found[0], text)
    text = _SUNG.sub(lambda found: " " if is_annotation(found[1]) else found[0], text)
    text = re.sub(f"[{_NOTES}]", " ", _TAG.sub("", text))
    return _NEXT_SPEAKER.sub("", _SPEAKER.sub("", text))


def _is_invented(text: str, annotated: bool) -> bool:
    """Whether `text` is nothing but sentences that Whisper makes up where nobody speaks.

    A doubtful one ("you", "Thank you.") may have been said; not when it is repeated or stands with an annotation.
    """
    solid, known = _solid(text), lists()
    if not 0 < len(solid) <= _LONGEST_INVENTION:
        return False
    reached = {
        0: (0, False)
    }  # how far the text is made of known sentences: of how many, and is a certain one among them
    lengths = {len(sentence) for sentence in known.sentences | known.doubtful}
    for start in range(len(solid)):
        if start not in reached:
            continue
        count, certain = reached.pop(start)
        for length in lengths:
            sentence = solid[start : start + length]
            if sentence in known.sentences or sentence in known.doubtful:
                before = reached.get(start + len(sentence), (0, False))
                sure = certain or before[1] or sentence in known.sentences
                reached[start + len(sentence)] = (max(count + 1, before[0]), sure)
        if not reached:
            return False
    count, certain = reached.get(len(solid), (0, False))
    return count > 1 or (count == 1 and (certain or annotated))


def remove_parentheses(text: str) -> str:
    """The words of `text`, one utterance, that somebody said, on one line; empty when nobody said anything.

    The result goes through unchanged when it is filtered again.
    """
    said = printable(text.replace("\ufeff", " "))
    annotated = False
    for _ in range(20):  # what one removal uncovers; twice at most in practice
        cleaned = repetition.collapse(printable(_without_marks(_without_brackets(said))))
        if cleaned == said:
            break
        annotated = True
        cleaned = re.sub(r",(?:\s*,)+", ",", re.sub(r"\s+([,.;!?…])", r"\1", cleaned))
        said = cleaned.lstrip(",.;:!?…、。 ")
    return said if _speaks(said) and not _is_invented(said, annotated) else ""


def filter_lines(lines: Iterable[str]) -> int:
    """Filter `lines` to stdout, each as soon as it arrives.

    Raises: UserError 65 when nothing was said in any line, or there is none; but in a loop nobody has to say anything.
    """
    unsaid, words = "", stage.is_set("LOOP")  # what to tell about the last line, when it is clear if it is an error
    for heard in lines:
        if unsaid:
            stage.say(unsaid)
        said = remove_parentheses(heard)
        sys.stdout.buffer.write(said.encode() + b"\n")
        sys.stdout.buffer.flush()
        words = words or bool(said)
        unsaid = "" if said else f"nothing was said: {heard[:80]}".removesuffix(": ")
        if stage.is_set("LOOP") and not heard:
            unsaid = ""  # transcribe has told
    if unsaid and not words:
        raise UserError(os.EX_DATAERR, unsaid, "Speak up, or check the microphone: --list-devices shows them.")
    if unsaid:
        stage.say(unsaid)
    elif not words:
        raise UserError(65, "no text arrived on stdin", "Pipe some into it, one utterance a line.")
    return 0


def main(argv: list[str] | None = None) -> int:
    stage.Parser(prog="remove_parentheses.py", description=(__doc__ or "").split("\n\n")[0]).parse_args(argv)
    return filter_lines(stage.lines())


if __name__ == "__main__":
    stage.run(NAME, main)
