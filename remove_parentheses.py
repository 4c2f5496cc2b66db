#!/usr/bin/env -S python3 -E
"""Remove what the speech recogniser wrote but nobody said: [BLANK_AUDIO], (music), *sighs*, ♪, >>, <|en|>, repetition …

A filter: one line in, one line out. What may be the speaker's own words stays: "a heart with an arrow (red)". The
known annotations and invented sentences are in helpers/words/hallucinations.json.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH leaves it out

from helpers.core import lines, stage
from helpers.core.errors import UserError
from helpers.core.lines import Line
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.words import repetition

NAME = "remove_parentheses"
LISTS = ROOT / "helpers" / "words" / "hallucinations.json"

# Nobody speaks these brackets, so whatever is in them was written by the recogniser.
_WRITTEN = {"[": "]", "【": "】", "［": "］", "〔": "〕", "<|": "|>", "{\\": "}"}
# These may hold the speaker's words: "a heart (red)", a sign that says 「…」.
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
    """hallucinations.json, prepared for look-ups. Annotations went through `_plain`, sentences through `_solid`."""

    whole: frozenset[str]  # annotations
    starts: frozenset[str]
    ends: frozenset[str]
    parts: tuple[str, ...]  # of annotations in scripts without spaces
    tails: tuple[str, ...]  # what may follow an annotation
    asides: frozenset[str]  # first words of spoken asides; annotations have none: (a dog barking), but (dog barking)
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
    """Words in lower case with one space between them, without punctuation."""
    return " ".join(re.sub(r"[\W_]+", " ", _folded(text)).split())


def _solid(text: str) -> str:
    """Letters and digits only, without years: some credits end with one."""
    return re.sub(r"(?<!\d)(?:19|20)\d\d(?!\d)|[\W_]+", "", _folded(text))


def _folded(text: str) -> str:
    """`text` in lower case; in Turkish, too, where I is the capital of ı and İ the capital of i."""
    return text.casefold().replace("\u0307", "").replace("ı", "i")


def is_annotation(text: str) -> bool:
    """Whether a text in brackets describes a sound or silence, so nobody said it."""
    if re.search(r"[A-Z]_[A-Z]", text):
        return True
    plain = _plain(text)
    if not plain:
        return not _speaks(text)
    patterns = lists()
    for tail in patterns.tails:
        plain = plain.removesuffix(tail)
    words = plain.split()
    if plain in patterns.whole or any(plain == part or (len(part) > 1 and part in plain) for part in patterns.parts):
        return len(plain) <= 60
    if len(words) > _LONGEST_ANNOTATION or words[0] in patterns.asides:
        return False
    return any(
        " ".join(words[:count]) in patterns.starts or " ".join(words[-count:]) in patterns.ends
        for count in range(1, min(3, len(words)) + 1)
    )


def _speaks(text: str) -> bool:
    """Whether `text` has a letter, a digit or a pictogram, not only punctuation."""
    return any(sign.isalnum() or (unicodedata.category(sign) == "So" and sign != "\ufffd") for sign in text)


def _without_brackets(text: str) -> str:
    """`text` without annotations in brackets. One pass in linear time; brackets may be nested or unbalanced."""
    out: list[str] = []
    open_at: list[int] = []  # positions in `out` of the brackets that are still open
    waiting = dict.fromkeys(_CLOSING.values(), 0)
    alone = not _speaks(_outside(text))  # only brackets: then even those with plain words are annotations

    def judge(start: int) -> bool:
        """Whether out[start:], a bracket and its content, is removed."""
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
    """The part of `text` that is outside of all brackets."""
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
    """Remove *actions*, music signs, tags and the labels of speakers."""
    text = _STARRED.sub(lambda found: " " if re.search(r"[^\W\d_]", found[1]) else found[0], text)
    text = _STARRED_APART.sub(lambda found: " " if found[1].isupper() or is_annotation(found[1]) else found[0], text)
    text = _SUNG.sub(lambda found: " " if is_annotation(found[1]) else found[0], text)
    text = re.sub(f"[{_NOTES}]", " ", _TAG.sub("", text))
    return _NEXT_SPEAKER.sub("", _SPEAKER.sub("", text))


def _is_invented(text: str, annotated: bool) -> bool:
    """Whether `text` consists only of sentences that Whisper invents where nobody speaks.

    annotated: whether annotations were removed from it. A doubtful sentence ("you", "Thank you.") may be real speech:
    it counts as invented only when it is repeated or came with an annotation.
    """
    solid, patterns = _solid(text), lists()
    if not 0 < len(solid) <= _LONGEST_INVENTION:
        return False
    # position up to which the text is made of known sentences → (how many, whether one of them is certain)
    reached = {0: (0, False)}
    lengths = {len(sentence) for sentence in patterns.sentences | patterns.doubtful}
    for start in range(len(solid)):
        if start not in reached:
            continue
        count, certain = reached.pop(start)
        for length in lengths:
            sentence = solid[start : start + length]
            if sentence in patterns.sentences or sentence in patterns.doubtful:
                before = reached.get(start + len(sentence), (0, False))
                sure = certain or before[1] or sentence in patterns.sentences
                reached[start + len(sentence)] = (max(count + 1, before[0]), sure)
        if not reached:
            return False
    count, certain = reached.get(len(solid), (0, False))
    return count > 1 or (count == 1 and (certain or annotated))


def remove_parentheses(text: str) -> str:
    """The words of `text`, one utterance, that somebody said, on one line; "" when nobody said anything.

    Filtering the result again does not change it.
    """
    said = printable(text.replace("\ufeff", " "))
    annotated = False
    for _ in range(20):  # one removal may uncover another; twice at most in practice
        cleaned = repetition.collapse(printable(_without_marks(_without_brackets(said))))
        if cleaned == said:
            break
        annotated = True
        cleaned = re.sub(r",(?:\s*,)+", ",", re.sub(r"\s+([,.;!?…])", r"\1", cleaned))
        said = cleaned.lstrip(",.;:!?…、。 ")
    return said if _speaks(said) and not _is_invented(said, annotated) else ""


def filter_lines(heard: Iterable[Line], settings: Settings) -> int:
    """Filter lines to stdout, each as soon as it arrives; each keeps its id and origin.

    Raises: UserError 65 when nothing was said in any line, or there is no line; but in a loop nobody has to speak.
    """
    unsaid, words = "", settings.loop  # unsaid: about the last line; an error only if no other line has words
    for line in heard:
        if unsaid:
            stage.say(unsaid)
        said = line._replace(text=remove_parentheses(line.text))
        sys.stdout.buffer.write(lines.encode(said, marked=bool(settings.session)))
        sys.stdout.buffer.flush()
        words = words or bool(said.text)
        unsaid = "" if said.text else f"nothing was said: {line.text[:80]}".removesuffix(": ")
        if settings.loop and not line.text:
            unsaid = ""  # transcribe has already said so
    if unsaid and not words:
        raise UserError(os.EX_DATAERR, unsaid, "Speak up, or check the microphone: --list-devices shows them.")
    if unsaid:
        stage.say(unsaid)
    elif not words:
        raise UserError(65, "no text arrived on stdin", "Pipe some into it, one utterance a line.")
    return 0


def main(argv: list[str] | None = None) -> int:
    stage.Parser(prog="remove_parentheses.py", description=(__doc__ or "").split("\n\n")[0]).parse_args(argv)
    return filter_lines(lines.read(), Settings.from_environment())


if __name__ == "__main__":
    stage.run(NAME, main)
