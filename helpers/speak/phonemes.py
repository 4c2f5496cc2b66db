"""Text to phonemes, by the program eSpeak NG (GPL-3.0-or-later), a process of its own; nothing of it is linked."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from os import EX_UNAVAILABLE

from helpers.core import extras, interpreter
from helpers.core.errors import UserError
from helpers.core.packages import install_hint
from helpers.core.text import printable
from helpers.speak.voice import ANOTHER

PATIENCE = 20.0  # seconds; a sentence takes 0.02
# eSpeak drops punctuation, which these voices need for their melody. So it gets the text between these marks. A full
# stop inside a sentence belongs to an abbreviation or a number.
_MARKS = re.compile(r"\s*([,;:!?—…]+|\.+\W*$)(?=\W|$)\s*")
_SWITCH = re.compile(r"\([a-z-]+\)")  # where eSpeak changes the language: `(en)ˈɪntəne͡t(de)`


def sentences(text: str, language: str) -> list[str]:
    """The sentences of a text: `Dr. Smith paid 3.50, e.g. for a boat.` is one.

    Raises: UserError 69 without the extra.
    """
    extras.require("voices")
    from sentencex import segment

    return [sentence.strip() for sentence in segment(language, text) if sentence.strip()]


def phonemes(sentence: str, voice: str) -> str:
    """The sentence in the International Phonetic Alphabet, with its punctuation. voice: of eSpeak, such as `en-us`.

    Raises: UserError 69 if the program is missing or fails.
    """
    return "".join(_clauses(sentence, voice)).strip()


def _clauses(sentence: str, voice: str) -> Iterator[str]:
    parts = _MARKS.split(sentence)  # text, mark, text, mark …
    for text, mark in zip(parts[::2], [*parts[1::2], ""], strict=True):
        if text:
            yield _spoken(text, voice)
        if mark:
            yield f"{mark[0]} "


def _spoken(text: str, voice: str) -> str:
    command = ["espeak-ng", "-q", "--ipa", "-b", "1", "-v", voice, "--stdin"]
    try:
        run = subprocess.run(
            command, input=f"{text}\n".encode(), capture_output=True, timeout=PATIENCE, check=False,
            env=interpreter.environment(),
        )  # fmt: skip
    except FileNotFoundError as error:
        remedy = f"Install it: {install_hint('espeak-ng')}"
        raise UserError(EX_UNAVAILABLE, "this voice needs the program espeak-ng", remedy) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(EX_UNAVAILABLE, "espeak-ng hangs", ANOTHER) from error
    if run.returncode:
        said = printable(run.stderr.decode(errors="replace"))[:200]
        raise UserError(EX_UNAVAILABLE, f"espeak-ng does not work: {said}", ANOTHER)
    return _SWITCH.sub("", " ".join(run.stdout.decode(errors="replace").split()))
