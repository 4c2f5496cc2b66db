"""The status line on the terminal: the microphone's level, and the last words recognised so far."""

from __future__ import annotations

import math
import shutil
import sys
import unicodedata
from pathlib import Path

from helpers.core.session import ASKING, PARTIAL
from helpers.core.text import printable


class Meter:
    """One line on the terminal: the time left, the level, and the text recognised so far."""

    def __init__(self, left: float, shown: bool, session: Path | None = None) -> None:
        """left: seconds until the recording ends, infinite in a loop; shown: whether to use the terminal at all;
        session: the working folder of the running pipe, where transcribe and confirm write their state.
        """
        self._left, self._shown, self._session = left, shown, session

    def show(self, heard: float, level: float) -> None:
        """heard: seconds recorded so far; level: of the last 50 ms, in dBFS."""
        if self._shown and not (self._session and (self._session / ASKING).exists()):
            line = f"{meter(self._left - heard, level)}  "
            draw((line + ending(self._understood(), columns() - len(line))).rstrip())

    def _understood(self) -> str:
        if not self._session:
            return ""
        try:
            return printable((self._session / PARTIAL).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return ""

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            draw("")


def meter(left: float, level: float) -> str:
    """The seconds left, and a bar that shows levels from -60 to -10 dBFS."""
    cells = round(20 * min(max((level + 60) / 50, 0), 1))
    time = f"{left:5.1f} s left" if math.isfinite(left) else "  listening"
    return f"{time}  [{'#' * cells:20}]"


def draw(line: str) -> None:
    """Replace the terminal's current line, on stderr. The line is cut to the width of the terminal; "" clears it."""
    sys.stderr.write(f"\r{fitting(line, columns())}\x1b[K")
    sys.stderr.flush()


def columns() -> int:
    """The width of the terminal, but for its last column: a letter there would begin a new line on some."""
    return shutil.get_terminal_size().columns - 1


def fitting(line: str, cells: int) -> str:
    """The start of `line` that fits into `cells` columns. Chinese, Japanese and Korean characters take two columns."""
    for end, letter in enumerate(line):
        cells -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if cells < 0:
            return line[:end]
    return line


def ending(line: str, cells: int) -> str:
    """The end of `line` that fits into `cells` columns, after "…" if something is left out."""
    if fitting(line, cells) == line:
        return line
    return "…" + fitting(line[::-1], cells - 1)[::-1] if cells > 1 else ""
