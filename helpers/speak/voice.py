"""What a voice is, and the text that every voice may be given."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from helpers.core.errors import UserError
from helpers.core.text import printable

LONGEST = 1 << 16  # characters of one text: about an hour of speech
SLOWEST, FASTEST = 0.5, 2.0
ANOTHER = "Choose another voice: python -m helpers.speak --list shows them."
# eSpeak and macOS's `say` take `[[…]]` for phonemes and commands (`[[volm 1]]`), and nothing else for markup.
_COMMANDS = re.compile(r"\[(?=\[)|\](?=\])")


class Voice(Protocol):
    """Turns text into speech. name: for messages; language: that it speaks, a code such as `en` or `de`; rate: samples
    per second of its PCM."""

    @property
    def name(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def rate(self) -> int: ...

    def say(self, text: str, speed: float = 1.0) -> Iterator[bytes]:
        """PCM (s16le, mono), piece by piece, the first one before the whole text is spoken.

        text: from `speakable`; speed: from SLOWEST to FASTEST. Raises: UserError 65 if it cannot say this, 69 if it
        does not work.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """A voice that can be used, not loaded yet. kind: of the registry; path: of its model, None if it needs none;
    speaker: one of the several that it has, or empty; language: that it speaks."""

    kind: str
    name: str
    language: str
    path: Path | None = None
    speaker: str = ""


def speakable(text: str) -> str:
    """`text` on one line, without control characters and without what a voice would take for a command.

    Raises: UserError 65 if nothing is left, or if it is longer than LONGEST.
    """
    if len(text) > LONGEST:
        remedy = "Cut it, or write it into a file for --script."
        raise UserError(os.EX_DATAERR, f"a text is longer than {LONGEST} characters", remedy)
    said = _COMMANDS.sub(lambda bracket: f"{bracket[0]} ", printable(text))
    if not re.search(r"\w", said):
        raise UserError(os.EX_DATAERR, "there is nothing to say", "Give it words.")
    return said
