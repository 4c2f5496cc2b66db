"""Make text safe to show: spoken, downloaded or typed text never reaches a terminal or a log unfiltered."""

from __future__ import annotations

import re

# Control characters (C0 without tab and newline, DEL, C1), bidirectional controls, line and paragraph separators:
# such text could overwrite what a terminal or a log shows.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

LONGEST_MESSAGE = 1000  # characters; at most 4 bytes each, so that one write to a pipe stays whole (PIPE_BUF)


def printable(text: str) -> str:
    """`text` on one line and safe on any terminal: control and direction characters become spaces."""
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def shortened(text: str) -> str:
    """`text`, cut to LONGEST_MESSAGE."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 2]} …"
