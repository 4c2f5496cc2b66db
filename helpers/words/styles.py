"""Styles in the form of AUTOMATIC1111's web UI: `styles.csv` with name, prompt, negative_prompt.

Ours is in this folder; the user's own, in the program's folder, adds to it and overrides it. A style with {prompt} goes
around the words, another one behind them (modules/styles.py of the web UI, merge_prompts).
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import NamedTuple

from helpers.core.errors import UserError
from helpers.core.settings import Settings
from helpers.core.text import printable

OURS = Path(__file__).with_name("styles.csv")
LARGEST = 1 << 20  # bytes of a file
LONGEST = 2000  # characters of a prompt
NONE = "none"  # the name of no style


class Style(NamedTuple):
    """What a style adds to a prompt and to the negative one."""

    prompt: str
    negative: str = ""

    def applied(self, prompt: str, negative: str = "") -> tuple[str, str]:
        return _merged(self.prompt, prompt), _merged(self.negative, negative)


def _merged(style: str, text: str) -> str:
    if "{prompt}" in style:
        return style.replace("{prompt}", text)
    return ", ".join(part for part in (text, style) if part)


def read(own: Path = Settings.styles) -> dict[str, Style]:
    """The styles by name. own: the user's file; it need not be there if it is the default one.

    Raises: UserError 65 for a bad file, 66 for one that cannot be read.
    """
    styles = _parse(OURS)
    if own != Settings.styles or own.exists():
        styles |= _parse(own)
    return styles


def _parse(file: Path) -> dict[str, Style]:
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {file}: {error.strerror}", "Check the file.") from error
    if len(data) > LARGEST:
        raise UserError(os.EX_DATAERR, f"{file} is larger than 1 MiB", "Keep only the styles that you use.")
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), restkey="more", strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(os.EX_DATAERR, f"{file}: {error}", "It is a CSV file in UTF-8.") from error
    styles = {}
    for number, row in enumerate(rows, 2):
        if "name" not in row or "prompt" not in row or "more" in row:
            what = f"{file}, row {number}: not name,prompt,negative_prompt"
            raise UserError(os.EX_DATAERR, what, "Put a text with commas in quotes, and name the columns in row 1.")
        name, prompt, negative = (printable(row.get(key) or "") for key in ("name", "prompt", "negative_prompt"))
        if max(len(prompt), len(negative)) > LONGEST:
            raise UserError(os.EX_DATAERR, f"{file}, row {number}: longer than {LONGEST} characters", "Shorten it.")
        if name and name.casefold() != NONE:  # the web UI writes a row None without content
            styles[name] = Style(prompt, negative)
    return styles
