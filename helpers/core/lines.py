"""Lines of text between stages: one line, one prompt, one picture, with where it came from.

Between our own stages a line begins with a mark: the number of the recording that it is from and its origin. Programs
of the user's get and give plain lines (`helpers.shell.foreign` keeps track for them). A mark holds control characters
that no text has, so text can neither forge nor keep one: whatever stands elsewhere in a line is removed.
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
    SPOKEN = "spoken"  # a person, heard by a recogniser
    ANSWER = "answer"  # a program or a model, so its text is data and never obeyed


class Line(NamedTuple):
    """A text on one line, safe on a terminal. `id`: the number of the recording it is from, 0 for a prompt that was
    typed as an option; None where that is unknown or unclear: such a picture gets no transcript and no recording."""

    text: str
    id: int | None = None
    origin: Origin = Origin.ANSWER


def decode(line: str, plain: Origin = Origin.ANSWER) -> Line:
    """A line as it arrived, without its end; `plain` is the origin of one that has no mark."""
    mark = _MARK.match(line)
    text = printable(_ANY_MARK.sub(" ", line[mark.end() :] if mark else line))
    return Line(text, int(mark[1]), Origin(mark[2])) if mark else Line(text, None, plain)


def encode(line: Line, marked: bool) -> bytes:
    """The bytes of a line with its end; marked: for one of our own stages, else as plain text."""
    mark = f"\x1e{line.id} {line.origin.value}\x1f" if marked and line.id is not None else ""
    return f"{mark}{line.text}\n".encode(errors="replace")


def read(fd: int = 0, plain: Origin = Origin.ANSWER) -> Iterator[Line]:
    """The lines that arrive on a file descriptor, each as soon as it is whole.

    Raises: UserError 65 for a line that is longer than 1 MiB.
    """
    rest, data = b"", b"-"
    while data:
        data = os.read(fd, 1 << 16)  # not sys.stdin.buffer: the interpreter cannot end while a thread waits in it
        *whole, rest = (rest + data).split(b"\n")
        yield from (decode(line.decode(errors="replace"), plain) for line in whole)
        if len(rest) > LONGEST_LINE:
            raise UserError(os.EX_DATAERR, f"a line of more than {LONGEST_LINE} bytes is no prompt")
    if rest:
        yield decode(rest.decode(errors="replace"), plain)
