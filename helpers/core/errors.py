"""The one kind of error that a person is shown: what is wrong, what to do, and the exit code."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can understand and fix.

    message: what is wrong, one line; remedy: what to do, one line or empty; code: the exit code, of sysexits.h (64
    wrong option, 65 wrong data, 66 no such input, 69 something is missing, 70 a bug, 73 cannot write, 77
    not allowed).
    """

    def __init__(self, code: int, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy
