"""The second stage: sound in, one line of text per recording out.

The recogniser loads while the recording is still being made: a thread takes in stdin from the start, and after the
last sample only the recognition is left. whisper.cpp recognises (helpers.whisper); where none of its models is on
disk, the built-in recogniser does (helpers.builtin_recogniser).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import threading
import time

from helpers import audio, recognisers, stage
from helpers.recognisers import Recogniser
from helpers.stage import StageError

NAME = "transcribe"
LONGEST = 600  # seconds taken from stdin: 19 MB, many times what anybody says about one picture


class Recording(threading.Thread):
    """Takes in all of stdin from now on, so that a full pipe never stalls the microphone while a model loads."""

    def __init__(self) -> None:
        if os.isatty(0):
            remedy = "Give a file, or pipe raw PCM into it."
            raise StageError(os.EX_NOINPUT, "no audio on stdin", remedy)
        super().__init__(daemon=True)
        self._pcm = bytearray()
        self._error: OSError | None = None
        self.start()

    def run(self) -> None:
        most = LONGEST * audio.BYTES_PER_SECOND
        try:
            while data := os.read(0, min(1 << 16, most - len(self._pcm))):
                self._pcm += data
        except OSError as error:
            self._error = error
        if len(self._pcm) >= most:
            stage.say(f"{NAME}: only the first {LONGEST // 60} minutes are used")
            os.close(0)
        with contextlib.suppress(OSError):  # a full disk is not what this thread has to report
            stage.event(NAME, "heard", seconds=len(self._pcm) / audio.BYTES_PER_SECOND)

    def pcm(self) -> bytes:
        """Wait for the end of it. Raises: StageError 65 for nothing, or what is not raw PCM; 66 unreadable."""
        self.join()
        if self._error:
            message = f"cannot read stdin: {self._error.strerror}"
            raise StageError(os.EX_NOINPUT, message, "Pipe raw PCM into it, or give it files.")
        if len(self._pcm) < 2:
            raise StageError(os.EX_DATAERR, "no audio arrived", "Record something, or give a file.")
        if self._pcm.startswith((b"RIFF", b"OggS", b"fLaC", b"ID3", b"caff")):
            remedy = "Give the file as an argument instead."
            raise StageError(os.EX_DATAERR, "stdin is an audio file, not raw PCM (16 kHz, mono, s16le)", remedy)
        return bytes(self._pcm[: len(self._pcm) // 2 * 2])


def recognise(recogniser: Recogniser, pcm: bytes) -> str:
    """The words in `pcm` on one line.

    Raises: StageError 65 when there are none.
    """
    loudest = audio.loudest_dbfs(pcm)
    began = time.monotonic()
    # Whisper hears "Thank you." in silence: it is not asked.
    text = stage.printable(recogniser(pcm)) if loudest > audio.SILENCE_DBFS else ""
    if not text:
        level = "silence" if loudest <= audio.SILENCE_DBFS else f"{loudest:.0f} dBFS at the loudest"
        message = f"no words were heard in {len(pcm) / audio.BYTES_PER_SECOND:.1f} seconds of audio ({level})"
        raise StageError(os.EX_DATAERR, message, "Speak closer to the microphone, or choose another: --list-devices.")
    stage.event(NAME, "line", seconds=round(time.monotonic() - began, 3))
    stage.say(f"heard: {text}")
    return text


def language_code(text: str) -> str:
    """`text` as Whisper wants it: `en-GB` is `en`."""
    code = re.split("[-_]", text.lower())[0]
    if not re.fullmatch("[a-z]{2,4}", code):
        raise argparse.ArgumentTypeError(f"not a language code such as en or de: {text!r}")
    return code


def thread_count(text: str) -> int:
    """A whole number from 1 to 512, the most that ggml takes."""
    if not text.isdecimal() or not 1 <= int(text) <= 512:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to 512: {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    setting = stage.setting
    parser = stage.Parser(
        prog="python -m helpers.transcribe", description="Write down what is said: one line per recording."
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="audio files; raw PCM (16 kHz, mono, s16le) on stdin if none is given"
    )
    parser.add_argument(
        "--language",
        type=language_code,
        default=setting("LANGUAGE", "en"),
        metavar="CODE",
        help="spoken language, for example de, or auto (default: %(default)s)",
    )
    parser.add_argument(
        "--translate", action="store_true", default=stage.is_set("TRANSLATE"), help="write English whatever is spoken"
    )
    parser.add_argument(
        "--whisper",
        default=setting("WHISPER"),
        metavar="NAME",
        help="speech model of the catalogue, a file, or builtin (default: the best that is here)",
    )
    parser.add_argument(
        "--time",
        metavar="SECONDS",
        type=audio.window,
        default=setting("TIME") or audio.WINDOW,
        help=f"how much of each file is used (default {audio.WINDOW:g})",
    )
    parser.add_argument("--threads", type=thread_count, default=None, metavar="N", help="default: one per processor")
    arguments = parser.parse_args(argv)
    pipe = stage.take_stdout()
    recording = None if arguments.files else Recording()

    failure: StageError | None = None
    with recognisers.load(arguments.whisper, arguments.language, arguments.translate, arguments.threads) as engine:
        for file in arguments.files or [None]:
            try:
                text = recognise(engine, recording.pcm() if recording else audio.decode(file, arguments.time))
            except StageError as error:
                if len(arguments.files) > 1:
                    stage.say(stage.printable(f"{NAME}: {file}: {error.message}"))
                failure = failure or error
            else:
                pipe.write(text.encode() + b"\n")
                pipe.flush()
    if failure:
        raise failure
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
