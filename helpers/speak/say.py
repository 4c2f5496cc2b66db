"""The stage say, with --say: reads back what was heard, and passes each line on before it speaks.

The voice loads while the microphone is open. In a loop the microphone is held while it speaks, and a moment longer, so
that the program never hears itself. A voice that fails costs no picture: one line says so.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from helpers.core import lines, session, stage
from helpers.core.errors import UserError
from helpers.core.lines import Origin, encode
from helpers.core.settings import Settings
from helpers.speak import player, voices
from helpers.speak.voice import Voice, speakable

NAME = "say"
ECHO = 0.3  # seconds that a room answers


@contextlib.contextmanager
def microphone_held(settings: Settings) -> Iterator[None]:
    """Inside the `with` block, record ignores what the microphone hears."""
    if not settings.session:
        yield
        return
    speaking = settings.session / session.SPEAKING
    speaking.touch()
    try:
        yield
        time.sleep(ECHO)
    finally:
        speaking.unlink(missing_ok=True)


def read_back(text: str, loading: Future[Voice], settings: Settings) -> bool:
    """Say a text. Returns whether the voice works."""
    try:
        said, voice = speakable(text), loading.result()
        with microphone_held(settings):
            player.play(voice.say(said), voice.rate)
    except UserError as error:
        stage.say(f"{NAME}: {error.message}")
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    settings = Settings.from_environment()
    stage.Parser(prog="python -m helpers.speak.say", description="Say each spoken line aloud.").parse_args(argv)
    pipe = stage.take_stdout()
    language = "en" if settings.translate or settings.language == "auto" else settings.language
    request = voices.Request(settings.voice, language, settings.models)
    loading = ThreadPoolExecutor(1).submit(voices.load, request)
    works = True
    for line in lines.read():
        pipe.write(encode(line, marked=bool(settings.session)))
        pipe.flush()
        if works and line.text and line.origin is Origin.SPOKEN:
            works = read_back(line.text, loading, settings)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
