"""The second stage: sound in, one line of text per recording out.

The recogniser loads while the recording is still being made, and recognises whenever the speaker pauses: after the last
word, most often, nothing is left to do.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import time
from pathlib import Path
from typing import BinaryIO

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, SILENCE_DBFS, WINDOW, loudest_dbfs
from helpers.core.session import PARTIAL
from helpers.core.settings import Settings, add_options
from helpers.core.text import printable, shortened
from helpers.listen import audio, recognisers
from helpers.listen.pcm_stream import Hearing
from helpers.listen.recognisers import Recogniser

NAME = "transcribe"
ENOUGH = ("stop listening", "please stop listening")  # said in a loop, it ends it
QUICK = 0.6  # seconds; less than the silence in which record waits whether the speaker goes on


def careful(recogniser: Recogniser) -> Recogniser:
    """`recogniser`, but asked only about sound in which somebody speaks, since Whisper hears "Thank you." in noise; its
    words are on one line, and its last answer is remembered.
    """
    from helpers.listen.endpointing import is_spoken

    @functools.lru_cache(maxsize=1)
    def words(pcm: bytes) -> str:
        return printable(recogniser(pcm)) if is_spoken(pcm) else ""

    def without_end(pcm: bytes) -> bytes:  # zeros, of which the mark of a loop takes some away
        sound = pcm.rstrip(b"\0")
        return sound + bytes(len(sound) % 2)

    return lambda pcm: words(without_end(pcm))


def recognise(recogniser: Recogniser, pcm: bytes, number: int) -> str:
    """The words in `pcm`, the recording with this number, on one line.

    Raises: UserError 65 when there are none.
    """
    began = time.monotonic()
    text = recogniser(pcm)
    if not text:
        loudest = loudest_dbfs(pcm)
        level = "silence" if loudest <= SILENCE_DBFS else f"{loudest:.0f} dBFS at the loudest"
        message = f"no words were heard in {len(pcm) / BYTES_PER_SECOND:.1f} seconds of audio ({level})"
        raise UserError(os.EX_DATAERR, message, "Speak closer to the microphone, or choose another: --list-devices.")
    stage.event("line", number=number, text=shortened(text), seconds=round(time.monotonic() - began, 3))
    stage.say(f"heard: {text}")
    return text


class Partial:
    """What has been understood while the speaker pauses, for record's line on the terminal.

    If nothing follows, it is the whole, and the recogniser, which remembers its last answer, is not asked again. It is
    asked only if it is quick enough to have answered before the recording ends.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._file = (stage.session() or Path(os.devnull)) / PARTIAL
        self._seconds = 0.0  # that it took the last time

    def show(self, pcm: bytes) -> None:
        if self._seconds > QUICK:
            return
        began = time.monotonic()
        with contextlib.suppress(UserError):  # it is told when the recording is over
            self._write(self._recogniser(pcm))
        self._seconds = time.monotonic() - began

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            beside = self._file.with_suffix(".part")
            beside.write_text(text, encoding="utf-8")
            beside.replace(self._file)


def write_down(hearing: Hearing, recogniser: Recogniser, loop: bool, pipe: BinaryIO) -> None:
    """A line for each recording that is heard; in a loop, one that has no words is an empty line, so that line number n
    is that of recording number n.

    Raises: UserError 65 for one without words, unless it is one of a loop.
    """
    partial, number = Partial(recogniser), 0
    for pcm, over in hearing.recordings():
        if not over:
            if not hearing.waiting():
                partial.show(pcm)
            continue
        number += 1
        text = ""
        try:
            text = recognise(recogniser, pcm, number)
        except UserError as error:
            if not loop:
                raise
            stage.say(f"{NAME}: {error.message}")
        if loop and re.sub(r"\W+", " ", text.casefold()).strip() in ENOUGH:
            return
        pipe.write(text.encode() + b"\n")
        pipe.flush()
        partial.clear()


def write_down_files(files: list[str], seconds: float, recogniser: Recogniser, pipe: BinaryIO) -> None:
    """A line for each file, of its first `seconds`, in order.

    Raises: the first UserError; the other files are written down all the same.
    """
    failure: UserError | None = None
    for number, file in enumerate(files, 1):
        try:
            text = recognise(recogniser, audio.decode(file, seconds), number)
        except UserError as error:
            if len(files) > 1:
                stage.say(printable(f"{NAME}: {file}: {error.message}"))
            failure = failure or error
        else:
            pipe.write(text.encode() + b"\n")
            pipe.flush()
    if failure:
        raise failure


def thread_count(text: str) -> int:
    """A whole number from 1 to 512, the most that ggml takes."""
    if not text.isdecimal() or not 1 <= int(text) <= 512:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to 512: {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = stage.Parser(
        prog="python -m helpers.listen.transcribe", description="Write down what is said: one line per recording."
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="audio files; raw PCM (16 kHz, mono, s16le) on stdin if none is given"
    )
    add_options(parser, Settings.from_environment(), "language", "translate", "whisper", "time", "loop")
    parser.add_argument("--threads", type=thread_count, default=None, metavar="N", help="default: one per processor")
    arguments = parser.parse_args(argv)
    pipe = stage.take_stdout()
    hearing = None if arguments.files else Hearing(arguments.loop)
    how = (arguments.whisper, arguments.language, arguments.translate, arguments.threads)
    with recognisers.load(*how) as recogniser:
        if hearing:
            write_down(hearing, careful(recogniser), arguments.loop, pipe)
        else:
            write_down_files(arguments.files, arguments.time or WINDOW, careful(recogniser), pipe)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
