"""`python -m helpers.doctor [--json]`: what works on this machine and what does not, one line each, with what to do.

It records three seconds of the microphone, checks the SHA-256 of every model and draws a picture. It changes nothing,
and nothing leaves the machine. What it prints can be put into a bug report: it has no name, path or prompt of yours.
It ends with 0 only if a picture can be drawn, else with the exit code of what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable

from helpers.core import stage, system
from helpers.core.errors import UserError
from helpers.core.settings import Settings, add_options, with_arguments
from helpers.doctor import checks
from helpers.doctor.checks import NEEDED, REPAIR, Finding, worse

NAME = "doctor"
_COLOURS = {"ok": "\x1b[32m", "!": "\x1b[33m", "no": "\x1b[31m"}


def lines(name: str, finding: Finding) -> str:
    """A finding as it is printed: its state, its name, what was found; on the next line what to do."""
    colour, plain = (_COLOURS[finding.state], "\x1b[0m") if _coloured() else ("", "")
    text = f"{colour}{finding.state:>2}{plain}  {name:11}{filled(finding.text, ' ' * 15).lstrip()}"
    return "\n".join(filter(None, [text, filled(finding.remedy, f"{' ' * 15}→ ")]))


def filled(text: str, before: str = "") -> str:
    """`text` in lines that fit the terminal, each as far to the right as `before` moves the first one."""
    width = max(40, min(100, shutil.get_terminal_size().columns)) - 1
    return textwrap.fill(text, width, initial_indent=before, subsequent_indent=" " * len(before))


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def verdict(findings: dict[str, Finding]) -> tuple[int, str]:
    """The exit code, and one line that says what it means."""
    failed = [name for name, finding in findings.items() if finding.state == "no"]
    for name in failed:
        if name in NEEDED:
            return findings[name].code, f"No picture can be drawn: see {name}."
    if failed:
        return 0, f"A picture can be drawn with --prompt, but not from speech: see {failed[0]}."
    return 0, "A picture can be drawn."


def examine(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    """The result of a check. An error that it did not expect is a result, too."""
    try:
        found = check(settings)
    except UserError as error:
        found = worse(error)
    except ModuleNotFoundError as error:
        found = Finding("no", f"the Python package {error.name} is missing", REPAIR, os.EX_UNAVAILABLE)
    except Exception as error:
        found = Finding("no", f"the check failed: {type(error).__name__}: {error}", "This is a bug.", os.EX_SOFTWARE)
    return found._replace(text=system.private(found.text), remedy=system.private(found.remedy))


def main(argv: list[str] | None = None) -> int:
    parser = stage.Parser(prog="python -m helpers.doctor", description=(__doc__ or "").split("\n\n")[0])
    settings = Settings.from_environment()
    add_options(parser, settings, "json")
    settings = with_arguments(settings, parser.parse_args(argv))
    stage.begin(NAME, settings)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pipeline.sh ignores it in what it starts
    pipe = stage.take_stdout() if settings.json else None  # libraries print
    if not settings.json:
        print(filled(system.private(system.system())), end="\n\n")
    findings: dict[str, Finding] = {}
    for name, check in checks.CHECKS.items():
        findings[name] = examine(check, settings)
        if not settings.json:
            print(lines(name, findings[name]), flush=True)
    code, text = verdict(findings)
    if pipe:
        listed = {name: finding._asdict() for name, finding in findings.items()}
        answer = {"system": system.private(system.system()), "checks": listed, "verdict": text, "code": code}
        pipe.write(json.dumps(answer, indent=2, ensure_ascii=False).encode() + b"\n")
        pipe.flush()
    else:
        print(f"\n{text}\nYou can put all of this into a bug report: it has no private data.")
    return code


if __name__ == "__main__":
    stage.run(NAME, main)
