"""The line on the terminal that shows that the microphone hears, and what is understood while somebody speaks."""

from __future__ import annotations

import math
import os
import shutil
import sys
import unicodedata
from pathlib import Path

from helpers.core import stage
from helpers.core.text import printable

# In the session: what transcribe has understood so far; and, while confirm has the terminal, an empty file.
PARTIAL, ASKING = "partial.txt", "asking"


class Meter:
    """One line on the terminal: what is left of the window, the level, and what has been understood so far."""

    def __init__(self, left: float) -> None:
        self._left = left  # seconds; infinite in a loop
        self._shown = sys.stderr.isatty() and not stage.is_set("QUIET")
        self._partial = (stage.session() or Path(os.devnull)) / PARTIAL  # without a session none

    def show(self, heard: float, level: float) -> None:
        """heard: seconds of sound so far; level: of the last 50 ms, in dBFS."""
        if self._shown and not self._partial.with_name(ASKING).exists():
            draw(f"{meter(self._left - heard, level)}  {self._understood()}".rstrip())

    def _understood(self) -> str:
        try:
            return printable(self._partial.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return ""

    def clear(self) -> None:
        if self._shown:
            draw("")


def meter(left: float, level: float) -> str:
    """The seconds that are left, and a bar for the level (dBFS) from -60 to -10."""
    cells = round(20 * min(max((level + 60) / 50, 0), 1))
    time = f"{left:5.1f} s left" if math.isfinite(left) else "  listening"
    return f"{time}  [{'#' * cells:20}]"


def draw(line: str) -> None:
    """Replace the line that the cursor is in, on stderr; nothing wraps, an empty one clears it."""
    sys.stderr.write(f"\r{fitting(line, shutil.get_terminal_size().columns - 1)}\x1b[K")
    sys.stderr.flush()


def fitting(line: str, cells: int) -> str:
    """As much of `line` as fits into so many cells of a terminal; Chinese, Japanese and Korean letters take two."""
    for end, letter in enumerate(line):
        cells -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if cells < 0:
            return line[:end]
    return line
