"""What a process of ours gives to another one that it starts."""

from __future__ import annotations

import os
import sys

# No PYTHON… variable and no site-packages of the home directory; the shell's list is in helpers/shell/environment.sh.
ISOLATED = ("-E", "-s", "-X", "utf8")


def module(name: str, *arguments: str) -> list[str]:
    """The command `python -m name arguments…`; as isolated as this process is."""
    options = ISOLATED if sys.flags.ignore_environment else ()
    bytecode = ("-B",) if options and sys.flags.dont_write_bytecode else ()
    return [sys.executable, *options, *bytecode, "-m", name, *arguments]


def environment() -> dict[str, str]:
    """A copy of os.environ. `dict(os.environ)` raises a KeyError while another thread imports NumPy, which sets two
    variables and deletes them again."""
    values = ((name, os.environ.get(name)) for name in list(os.environ))
    return {name: value for name, value in values if value is not None}
