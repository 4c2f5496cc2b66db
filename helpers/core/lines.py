"""Lines of text between stages: one line is one prompt and one picture. Each line carries its origin.

Between our own stages a line begins with a mark: the number of its recording, and its origin. The user's own programs
read and write plain lines (`helpers.shell.foreign` keeps track of them). A mark contains control characters, which are
removed from all text: text cannot forge a mark, and a mark in the middle of a line is deleted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from helpers.core.errors import UserError
from helpers.core.text import printable

LONGEST_LINE = 1 << 20  # bytes; a recording of 30 s gives less than a thousand
_MARK = re.compile("\x1e([0-9]{1,9}) (typed|spoken|answer)\x1f")
_ANY_MARK = re.compile("\x1e[^\x1e\x1f\n]{0,30}\x1f")


class Origin(str, Enum):
    """Who made a text."""

    TYPED = "typed"  # a person, on a keyboard
    SPOKEN = "spoken"  # a person, through speech recognition
    ANSWER = "answer"  # a program or a model, so its text is data, never a command


class Line(NamedTuple):
    """A text on one line, safe on a terminal. `id`: the number of its recording, or 0 for a prompt given as an option.
    None if the recording is unknown: the picture then gets no transcript and no recording."""

    text: str
    id: int | None = None
    origin: Origin = Origin.ANSWER


def decode(line: str, plain: Origin = Origin.ANSWER) -> Line:
    """Parse a received line (without its line break); `plain` is the origin of a line without a mark."""
    mark = _MARK.match(line)
    text = printable(_ANY_MARK.sub(" ", line[mark.end() :] if mark else line))
    return Line(text, int(mark[1]), Origin(mark[2])) if mark else Line(text, None, plain)


def encode(line: Line, marked: bool) -> bytes:
    """The bytes of a line with its line break; marked: with a mark, for our own stages, otherwise as plain text."""
    mark = f"\x1e{line.id} {line.origin.value}\x1f" if marked and line.id is not None else ""
    return f"{mark}{line.text}\n".encode(errors="replace")


def unmarked(line: bytes) -> bytes:
    """A received line without its mark, otherwise byte for byte."""
    text = line.decode(errors="surrogateescape")
    mark = _MARK.match(text)
    return text[mark.end() :].encode(errors="surrogateescape") if mark else line


def read(fd: int = 0, plain: Origin = Origin.ANSWER) -> Iterator[Line]:
    """Yield the lines from a file descriptor, each as soon as it is complete. Raises what `read_bytes` raises."""
    return (decode(line.decode(errors="replace"), plain) for line in read_bytes(fd))


def read_bytes(fd: int = 0) -> Iterator[bytes]:
    """Yield the lines as they are, without their line breaks.

    Raises: UserError 65 for a line that is longer than 1 MiB.
    """
    rest, data = b"", b"-"
    while data:
        data = os.read(fd, 1 << 16)  # not sys.stdin.buffer: the interpreter cannot end while a thread waits in it
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
        if len(rest) > LONGEST_LINE:
            raise UserError(
                os.EX_DATAERR, f"a prompt is longer than {LONGEST_LINE} bytes", "Send one prompt on each line."
            )
    if rest:
        yield rest
