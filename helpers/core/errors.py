"""The one kind of error that a person is shown: what is wrong, what to do, and the exit code."""

from __future__ import annotations

import errno
import os
import re


class UserError(Exception):
    """An error that the user can understand and fix.

    message: what is wrong, one line; remedy: what to do, one line or empty; code: the exit code, of sysexits.h (64
    wrong option, 65 wrong data, 66 no such input, 69 something is missing, 70 a bug, 73 cannot write, 77
    not allowed).
    """

    def __init__(self, code: int, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


def no_memory(error: object) -> UserError | None:
    """The error for `error` if it says that memory, or the number of processes and threads, was used up."""
    if isinstance(error, MemoryError) or re.search("bad_alloc|Cannot allocate memory", str(error)):  # C++, Rust
        return UserError(os.EX_UNAVAILABLE, "there is not enough memory", "Close other programs, or raise `ulimit -v`.")
    if "can't start new thread" in str(error) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
        what = "the system starts no more processes or threads"
        return UserError(os.EX_UNAVAILABLE, what, "Close other programs, or raise `ulimit -u`.")
    return None
