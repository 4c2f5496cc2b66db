"""The extras: packages that only some uses need. pyproject.toml pins them; their purpose and size stand here.

`./shortcut_install.sh --extra NAME` installs one into .venv, where it stays when the environment is repaired or made
anew. A stage that needs one calls `require`; a shell script calls need_extra of helpers/shell/environment.sh.

`python -m helpers.core.extras [NAME…]` prints name, size and purpose of each, tab-separated: for the shell.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NamedTuple

from helpers.core.errors import UserError
from helpers.core.stage import run


class Extra(NamedTuple):
    """modules: what can be imported when it is installed; size: on disk, with all that it brings; purpose: as in
    "PURPOSE needs more Python packages"."""

    modules: tuple[str, ...]
    size: str
    purpose: str


EXTRAS = {
    "torch": Extra(("torch", "diffusers", "transformers"), "6 GB", "Drawing with PyTorch, or --safe,"),
    "convert": Extra(("coremltools",), "120 MB", "Converting a model to Core ML"),
    "benchmark": Extra(("jiwer", "matplotlib"), "6 GB, with torch and convert", "The benchmark"),
}
FORMER_NAMES = {"cuda": "torch"}


def command(name: str) -> str:
    """What a person types to install an extra."""
    return f"./shortcut_install.sh --extra {name}"


def missing(name: str) -> str:
    """The first module of an extra that is not installed, or ""; nothing is imported."""
    return next((module for module in EXTRAS[name].modules if importlib.util.find_spec(module) is None), "")


def require(name: str) -> None:
    """Raises: UserError 69 with the command that installs this extra, unless it is there."""
    if module := missing(name):
        extra = EXTRAS[name]
        what = f"{extra.purpose} needs more Python packages ({name}, about {extra.size}): {module} is missing"
        raise UserError(os.EX_UNAVAILABLE, what, f"Install them: {command(name)}")


def main(argv: list[str] | None = None) -> int:
    for asked in (sys.argv[1:] if argv is None else argv) or EXTRAS:
        name = FORMER_NAMES.get(asked, asked)
        if name not in EXTRAS:
            raise UserError(os.EX_USAGE, f"no extra is called {asked!r}", f"There are: {', '.join(EXTRAS)}.")
        print(name, EXTRAS[name].size, EXTRAS[name].purpose, sep="\t")
    return 0


if __name__ == "__main__":
    run("extras", main)
