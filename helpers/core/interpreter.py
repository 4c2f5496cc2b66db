"""What a process of ours gives to another one that it starts."""

from __future__ import annotations

import os
import sys

# No PYTHON… variable and no site-packages of the home directory; the shell's list is in helpers/shell/environment.sh.
ISOLATED = ("-E", "-s", "-X", "utf8")


def isolated() -> tuple[str, ...]:
    """The options of an isolated Python, which writes bytecode only if this process does."""
    return (*ISOLATED, "-B") if sys.flags.dont_write_bytecode else ISOLATED


def module(name: str, *arguments: str) -> list[str]:
    """The command `python -m name arguments…`; as isolated as this process is."""
    return [sys.executable, *(isolated() if sys.flags.ignore_environment else ()), "-m", name, *arguments]


def environment() -> dict[str, str]:
    """A copy of os.environ. `dict(os.environ)` raises a KeyError while another thread imports NumPy, which sets two
    variables and deletes them again."""
    values = ((name, os.environ.get(name)) for name in list(os.environ))
    return {name: value for name, value in values if value is not None}
