"""The stage behind --confirm: it shows each recognised text on the terminal before it is drawn. Enter draws it, and so
do three seconds without a key. The text can be changed. Esc or Ctrl-C takes it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core import lines, stage
from helpers.core.errors import UserError
from helpers.core.lines import Line, Origin
from helpers.core.session import ASKING
from helpers.core.settings import Settings
from helpers.core.text import printable

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyPressEvent

    from helpers.words.conversation import Conversation

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
def in_front(tty: int, session: Path | None) -> Iterator[None]:
    """This process gets the keys of the terminal. Each stage is a process group of its own, and otherwise the group of
    pipeline.sh gets them. In `session` a file tells `record` not to draw on the terminal.
    """
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background process that takes the terminal would be stopped
    before = os.tcgetpgrp(tty)
    try:
        os.tcsetpgrp(tty, os.getpgrp())
        if session:
            (session / ASKING).touch()
        yield
    finally:
        os.tcsetpgrp(tty, before)
        if session:
            (session / ASKING).unlink(missing_ok=True)


def ask(text: str, tty: int, session: Path | None = None, patience: float = PATIENCE) -> str:
    """The text that is drawn instead of `text`: usually `text` itself; "" when it was taken back."""
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
        output.enable_cpr = False  # do not wait for the terminal to report the cursor's position
        prompt: PromptSession[str] = PromptSession(
            f"{HOW}\ndraw: ", input=Vt100Input(reader), output=output, key_bindings=keys
        )

        def wait_for_a_key() -> None:
            async def draw_it() -> None:
                await asyncio.sleep(patience)
                prompt.app.exit(result=prompt.default_buffer.text)

            waiting = prompt.app.create_background_task(draw_it())

            def stop_waiting(_: object) -> None:
                waiting.cancel()

            prompt.app.key_processor.before_key_press += stop_waiting

        with in_front(tty, session):
            return printable(prompt.prompt(default=text, pre_run=wait_for_a_key, handle_sigint=False))


def confirmed(line: Line, tty: int, session: Path | None) -> Line:
    """`line` as the user wants it. A changed text is a typed one; it still belongs to its recording."""
    text = ask(line.text, tty, session) if line.text else ""
    if line.text and not text:
        stage.say("taken back")
    return line if text == line.text else Line(text, line.id, Origin.TYPED)


def conversation(settings: Settings) -> Conversation | None:
    """The state of the conversation with --talk: its commands act at once, and "back" undoes them."""
    if not settings.talk:
        return None
    from helpers.words import grammar, styles
    from helpers.words.conversation import Conversation

    return Conversation(grammar.all_of(settings.language, bool(settings.translate), styles.read(settings.styles)))


def main(argv: list[str] | None = None) -> int:
    stage.Parser(prog="python -m helpers.words.confirm", description=__doc__).parse_args(argv)
    settings = Settings.from_environment()
    pipe = stage.take_stdout()
    tty = terminal()
    import prompt_toolkit.shortcuts  # noqa: F401  (now, not when the user waits for the question)

    stage.event("ready")
    kept, talk = False, conversation(settings)
    for heard in lines.read():
        is_command = talk and talk.understood(heard.text)[1]
        wanted = heard if is_command else confirmed(heard, tty, settings.session)
        if talk and wanted.text and talk.hear(wanted.text).kind in ("draw", "tone"):
            talk.drew([(0, None)] * (talk.now.request.count if talk.now else 0))
        kept = kept or bool(wanted.text)
        pipe.write(lines.encode(wanted, marked=bool(settings.session)))  # an empty line, too: one out for each one in
        pipe.flush()
    if not kept and not settings.loop:
        raise UserError(130, "nothing is to be drawn")
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
