"""Writes options.sh, the table of options for pipeline.sh, from Settings:  python -m helpers.shell.options

The shell reads the table without Python, so a wrong value is refused in milliseconds. A test holds both equal.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.core import settings
from helpers.core.settings import OPTIONS, variable

FILE = Path(__file__).with_suffix(".sh")

TEMPLATE = """\
# shellcheck shell=bash disable=SC2034
# The options of pipeline.sh. Do not edit: change Settings in helpers/core/settings.py, then run
# python -m helpers.shell.options

VARIABLES='{variables}'

find_option() {{ # <flag or variable>: sets variable, kind, and low and high or choices; false for an unknown one
  case $1 in
{cases}
    *) return 1 ;;
  esac
}}
"""


def kind(of: Callable[[str], Any]) -> str:
    """The kind of a value and its range, as assignments of the shell."""
    match of:
        case settings.Number(low=low, high=high, whole=whole):
            return f"kind={'whole' if whole else 'number'} low={low:.10g} high={high:.10g}"
        case settings.Seed():
            return f"kind=seed high={settings.LARGEST_SEED}"
        case settings.Size(low=low, high=high):
            return f"kind=size low={low} high={high}"
        case settings.Choice(names=names):
            return f"kind=choice choices={shlex.quote(' '.join(names))}"
    return f"kind={type(of).__name__.lower()}"  # text, folder, switch, language


def table() -> str:
    """The content of options.sh."""
    cases = [
        f"    {' | '.join((*option.flags, variable(name)))}) variable={variable(name)} {kind(option.kind)} ;;"
        for name, option in OPTIONS.items()
    ]
    return TEMPLATE.format(variables=" ".join(map(variable, OPTIONS)), cases="\n".join(cases))


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")
