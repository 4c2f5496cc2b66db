"""The last stage with --talk: each line on stdin is a new prompt, or a change of the current picture.

    printf '%s\n' 'a red car on the beach' 'at night' 'make it blue' back | python -m helpers.talk

What is meant is decided by `helpers.words.conversation`; this draws, keeps and shows it. Each result is a run of its
own, whose run.json names the picture that it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.lines import Line
from helpers.core.settings import Settings, add_options, with_arguments
from helpers.draw.generate import NAME, OPTIONS, arrivals
from helpers.words import stop_phrases


def parse(argv: list[str] | None) -> Settings:
    parser = stage.Parser(
        prog="python -m helpers.talk", description="Draw each line of stdin, or change the picture as it says."
    )
    settings = Settings.from_environment()
    add_options(parser, settings, *OPTIONS, "language", "translate")
    return replace(with_arguments(settings, parser.parse_args(argv)), loop=True)


def main(argv: list[str] | None = None) -> int:
    settings = parse(argv)
    if os.isatty(0) and settings.session:  # in the background, where reading a terminal stops a program
        remedy = "Type into a pipe: cat | ./pipeline.sh --talk --prompt -"
        raise UserError(os.EX_NOINPUT, "stdin is a terminal", remedy)
    pipe = stage.take_stdout()
    arrived = arrivals()
    from helpers.talk.host import Host

    host = Host(settings, pipe, arrived)
    stage.event("ready")
    ahead: Iterator[Line | Exception] = iter(arrived.get, None)
    for line in ahead:
        if isinstance(line, Exception):
            raise line
        if stop_phrases.is_stop(line.text):
            break
        if line.text:
            host.hear(line)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
