"""A filter between what was heard and what is drawn, with a person in it (--confirm): each line is shown on the
terminal and may be edited. Enter draws it, and so do three seconds without a key; Esc or Ctrl-C takes it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.terminal import ASKING
from helpers.core.text import printable

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyPressEvent

NAME = "confirm"
PATIENCE = 3  # seconds
HOW = f"Enter, or {PATIENCE} seconds: draw it; Esc: take it back; or change it"


def terminal() -> int:
    """The terminal that the pipe was started from, as a file descriptor.

    Raises: UserError 69 when there is none.
    """
    try:
        return os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        message = "there is no terminal to ask on"
        raise UserError(os.EX_UNAVAILABLE, message, "Leave --confirm out.") from error


@contextlib.contextmanager
def in_front(tty: int) -> Iterator[None]:
    """The terminal's keys are for us: each stage is a process group of its own, and the pipe's has them else."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else asking for it from behind would stop us
    before, folder = os.tcgetpgrp(tty), stage.session()
    try:
        os.tcsetpgrp(tty, os.getpgrp())
        if folder:
            (folder / ASKING).touch()
        yield
    finally:
        os.tcsetpgrp(tty, before)
        if folder:
            (folder / ASKING).unlink(missing_ok=True)


def ask(text: str, tty: int, patience: float = PATIENCE) -> str:
    """What is to be drawn instead of `text`: mostly `text` itself; empty when it is taken back."""
    from prompt_toolkit.input.vt100 import Vt100Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output.vt100 import Vt100_Output
    from prompt_toolkit.shortcuts import PromptSession

    keys = KeyBindings()

    @keys.add("escape", eager=True)
    @keys.add("c-c")
    @keys.add("c-d")
    def _take_back(event: KeyPressEvent) -> None:
        event.app.exit(result="")

    with os.fdopen(os.dup(tty), "r") as reader, os.fdopen(os.dup(tty), "w") as writer:
        output = Vt100_Output.from_pty(writer, term=os.environ.get("TERM", "dumb"))
        output.enable_cpr = False  # no terminal has to answer where the cursor is
        session: PromptSession[str] = PromptSession(
            f"{HOW}\ndraw: ", input=Vt100Input(reader), output=output, key_bindings=keys
        )

        def wait_for_a_key() -> None:
            async def draw_it() -> None:
                await asyncio.sleep(patience)
                session.app.exit(result=session.default_buffer.text)

            waiting = session.app.create_background_task(draw_it())

            def stop_waiting(_: object) -> None:
                waiting.cancel()

            session.app.key_processor.before_key_press += stop_waiting

        with in_front(tty):
            return printable(session.prompt(default=text, pre_run=wait_for_a_key, handle_sigint=False))


def main(argv: list[str] | None = None) -> int:
    stage.Parser(prog="python -m helpers.words.confirm", description=__doc__).parse_args(argv)
    pipe = stage.take_stdout()
    tty = terminal()
    import prompt_toolkit.shortcuts  # noqa: F401  (now, and not when something has been heard)

    stage.event("ready")
    kept = False
    for heard in stage.lines():
        wanted = ask(heard, tty) if heard else ""
        if heard and not wanted:
            stage.say("taken back")
        kept = kept or bool(wanted)
        pipe.write(wanted.encode() + b"\n")  # an empty one, too: lines are counted
        pipe.flush()
    if not kept and not stage.is_set("LOOP"):
        raise UserError(130, "nothing is to be drawn")
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
