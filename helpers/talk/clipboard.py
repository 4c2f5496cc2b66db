"""A picture on the clipboard, through a program of the system."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# macOS takes the file's name as an argument, never as source text.
_SCRIPT = "on run argv\nset the clipboard to (read (POSIX file (item 1 of argv)) as «class PNGf»)\nend run"
_SECONDS = 10


def copy(file: Path) -> str:
    """Copy the PNG in `file`. Returns a line that says what happened."""
    with file.open("rb") as png:
        for command in (
            ["osascript", "-e", _SCRIPT, str(file)],
            ["wl-copy", "--type", "image/png"],
            ["xclip", "-selection", "clipboard", "-t", "image/png"],
        ):
            if not shutil.which(command[0]):
                continue
            png.seek(0)
            try:
                # xclip goes on in the background with what it was given: its output must not be waited for
                nothing = subprocess.DEVNULL
                subprocess.run(command, stdin=png, stdout=nothing, stderr=nothing, timeout=_SECONDS, check=True)
            except (OSError, subprocess.SubprocessError):
                continue
            return "copied to the clipboard"
    return f"there is no clipboard here (wl-copy or xclip); the picture is {file}"
