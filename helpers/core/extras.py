"""Extras: optional Python packages. pyproject.toml pins their versions; this table gives their size and purpose.

`./shortcut_install.sh --extra NAME` installs an extra into .venv. It stays there when the environment is repaired or
rebuilt. A stage that needs an extra calls `require`; a shell script calls need_extra of helpers/shell/environment.sh.

`python -m helpers.core.extras [NAME…]` prints the name, size and purpose of each, tab-separated, for the shell.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NamedTuple

from helpers.core.errors import UserError
from helpers.core.stage import run


class Extra(NamedTuple):
    """modules: the modules that it provides; size: on disk, with its dependencies; purpose: the start of the sentence
    "… needs more Python packages"."""

    modules: tuple[str, ...]
    size: str
    purpose: str


EXTRAS = {
    "torch": Extra(("torch", "diffusers", "transformers"), "6 GB", "Drawing with PyTorch"),
    "faster-whisper": Extra(("ctranslate2", "faster_whisper"), "330 MB", "The recogniser faster-whisper"),
    "faster-whisper-nvidia": Extra(
        ("ctranslate2", "faster_whisper", "nvidia.cublas"), "1.2 GB", "faster-whisper on an NVIDIA GPU"
    ),
    "seamless": Extra(("torch", "transformers", "sentencepiece"), "6 GB, with torch", "The recogniser SeamlessM4T"),
    "voices": Extra(("sentencex", "markdown_it"), "6 MB", "This voice or script"),
    "convert": Extra(("coremltools",), "120 MB", "Converting a model to Core ML"),
    "benchmark": Extra(("jiwer", "matplotlib"), "6 GB, with torch and convert", "The benchmark"),
    "speakers": Extra(("pyannote.audio",), "7 GB, with torch", "--speakers"),
}
FORMER_NAMES = {"cuda": "torch"}


def command(name: str) -> str:
    """The command that installs an extra."""
    return f"./shortcut_install.sh --extra {name}"


def missing(name: str) -> str:
    """The first module of an extra that is not installed, or "". Imports nothing but a package around a module."""
    return next((module for module in EXTRAS[name].modules if not _is_here(module)), "")


def _is_here(module: str) -> bool:
    package, _, inner = module.rpartition(".")
    if inner and package and importlib.util.find_spec(package) is None:
        return False
    return importlib.util.find_spec(module) is not None


def require(name: str) -> None:
    """Check that an extra is installed. Raises: UserError 69 with the command that installs it."""
    if module := missing(name):
        extra = EXTRAS[name]
        what = f"{extra.purpose} needs more Python packages ({name}, about {extra.size}): {module} is missing"
        raise UserError(os.EX_UNAVAILABLE, what, f"Install them: {command(name)}")


def main(argv: list[str] | None = None) -> int:
    for asked in (sys.argv[1:] if argv is None else argv) or EXTRAS:
        name = FORMER_NAMES.get(asked, asked)
        if name not in EXTRAS:
            raise UserError(os.EX_USAGE, f"no extra is called {asked!r}", f"Choose one of: {', '.join(EXTRAS)}.")
        print(name, EXTRAS[name].size, EXTRAS[name].purpose, sep="\t")
    return 0


if __name__ == "__main__":
    run("extras", main)
