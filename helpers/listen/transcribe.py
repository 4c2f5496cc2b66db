"""The stage transcribe: sound in, one line of text per recording out.

The recogniser loads while the microphone is still open, and recognises whenever the speaker pauses. So after the last
word there is usually nothing left to do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from helpers.core import session, stage
from helpers.core.errors import UserError
from helpers.core.files import write_whole
from helpers.core.lines import Line, Origin, encode
from helpers.core.pcm import BYTES_PER_SECOND, SILENCE_DBFS, loudest_dbfs
from helpers.core.settings import Settings, add_options, with_arguments
from helpers.core.text import printable
from helpers.listen import recognisers
from helpers.listen.levels import TOO_LOUD, is_clipped
from helpers.listen.partial import EVERY, Partial
from helpers.listen.pcm_stream import PcmStream
from helpers.listen.transcript import Transcript
from helpers.words import own_words, stop_phrases
from helpers.words.own_words import Corrections

if TYPE_CHECKING:
    from helpers.listen.long_files import Utterances
    from helpers.listen.speech_gate import SpeechGate

NAME = "transcribe"


class Lines:
    """Recognises recordings, and writes a line for each."""

    def __init__(self, recogniser: SpeechGate, settings: Settings, pipe: BinaryIO, corrections: Corrections) -> None:
        self._recogniser, self._settings, self._pipe = recogniser, settings, pipe
        self._corrections = corrections
        # To translate with the usual language means that the language is detected
        self._detects = settings.language == "auto" or (settings.language == "en" and bool(settings.translate))

    def recognise(self, pcm: bytes, number: int, speaker: str = "") -> Transcript:
        """The transcript of recording `number`, with the user's replacements and without fillers. In a session, what
        the recogniser heard is kept before. speaker: who says it, for the kept transcript, the terminal and run.json.

        Raises: UserError 65 if there are no words in it.
        """
        began = time.monotonic()
        try:
            transcript = self._recogniser.transcribe(pcm)
        except UserError as error:
            if error.code == os.EX_DATAERR and is_clipped(pcm):
                raise UserError(error.code, error.message, TOO_LOUD) from error
            raise
        if self._detects and transcript.language:
            stage.event("language", found=transcript.language, number=number)
        if not transcript.text:
            from helpers.listen.highpass import highpass  # numpy; the recogniser has loaded it

            loudest = loudest_dbfs(highpass(pcm))
            level = "silence" if loudest <= SILENCE_DBFS else f"{loudest:.0f} dBFS at the loudest"
            message = f"no words were heard in {len(pcm) / BYTES_PER_SECOND:.1f} seconds of audio ({level})"
            closer = "Speak closer to the microphone, or choose another: --list-devices."
            remedy = TOO_LOUD if is_clipped(pcm) else closer
            raise UserError(os.EX_DATAERR, message, remedy)
        label = f"{speaker}: " if speaker else ""
        self._keep(label + transcript.text, number)
        text = self._corrected(transcript)
        if not text:
            raise UserError(os.EX_DATAERR, f"only this was heard: {transcript.text}", "Say what you want to see.")
        # The first 300 characters: a longer event would not reach a fifo in one piece
        seconds = round(time.monotonic() - began, 3)
        more = {"speaker": speaker} if speaker else {}
        stage.event("line", number=number, seconds=seconds, text=text[:300], **more)
        stage.say(f"heard: {label}{text}")
        return replace(transcript, text=text)

    def _corrected(self, transcript: Transcript) -> str:
        written = "en" if self._settings.translate else transcript.language or self._settings.language
        return self._corrections.applied(transcript.text, written)

    def _keep(self, text: str, number: int) -> None:
        """Write the transcript of recording `number` into the session, if there is one."""
        if folder := self._settings.session:
            file = session.transcript(folder, number)
            try:
                write_whole(file, f"{text}\n".encode())
            except OSError as error:
                message = f"cannot write {file}: {error.strerror}"
                raise UserError(os.EX_CANTCREAT, message, "Make room there, or choose another folder.") from error

    def _speaker(self, number: int) -> str:
        """Who speaks in recording `number` of the session; empty if record did not find out."""
        if not (self._settings.session and self._settings.speakers):
            return ""
        with contextlib.suppress(OSError):
            return session.speaker(self._settings.session, number).read_text(encoding="utf-8").strip()
        return ""

    def write(self, text: str, number: int) -> None:
        """Write the line of recording `number`; in a session it is marked."""
        self._pipe.write(encode(Line(text, number, Origin.SPOKEN), marked=bool(self._settings.session)))
        self._pipe.flush()

    def _of_utterances(self, utterances: Utterances, number: int) -> UserError | None:
        """A line for each of the utterances in a file, from `number` on; one without words has no line. Returns what
        is wrong if none has words."""
        lines, failure = 0, None
        names = utterances.speakers or [""] * len(utterances)
        for at, (pcm, speaker) in enumerate(zip(utterances, names, strict=True), number):
            try:
                self.write(self.recognise(pcm, at, speaker).text, at)
                lines += 1
            except UserError as error:
                if len(utterances) > 1:
                    stage.say(f"{NAME}: {error.message}")
                failure = failure or error
        return None if lines else failure

    def of_stream(self, stream: PcmStream) -> None:
        """A line for each recording of a stream. In a loop, one without words is an empty line, so that line N belongs
        to recording N. Of several recordings of one file, one without words has no line.

        Raises: UserError 65 for one without words, but not in a loop; of several, only if none has words.
        """
        partial = Partial(self._recogniser, self._corrected, self._settings.session)
        number = lines = 0
        failure: UserError | None = None
        for pcm, complete, speaking in stream.recordings(EVERY):
            if not complete:
                if not stream.has_more():
                    (partial.grow if speaking else partial.pause)(pcm)
                continue
            number += 1
            text = ""
            try:
                text = self.recognise(pcm, number, self._speaker(number)).text
            except UserError as error:
                if not stream.marked:
                    raise
                stage.say(f"{NAME}: {error.message}")
                failure = failure or error
            if self._settings.loop and stop_phrases.is_stop(text):
                return
            if text or self._settings.loop:
                self.write(text, number)
                lines += 1
            partial.end()
        if failure and not lines:
            raise failure

    def of_files(self, files: list[str]) -> None:
        """A line for each utterance in each file, in order. They are numbered through; an unreadable file is one.

        Raises: after all files, the UserError of the one that failed; of several, how many did.
        """
        from helpers.listen.long_files import ReadingLine, Utterances, announce

        failures: list[tuple[str, UserError]] = []
        with tempfile.TemporaryDirectory(prefix="audio-to-image.", dir=self._settings.session) as folder:
            read: list[tuple[str, Utterances | UserError]] = []
            with ReadingLine(self._settings) as line:
                for file in files:
                    try:
                        read.append((file, Utterances(file, Path(folder), self._settings, line.show)))
                    except UserError as error:
                        read.append((file, error))
            announce(sum(len(found) for _, found in read if isinstance(found, Utterances)), self._settings)
            number = 1
            for file, found in read:
                failure = found if isinstance(found, UserError) else self._of_utterances(found, number)
                number += 1 if isinstance(found, UserError) else len(found)
                if failure:
                    failures.append((file, failure))
        if len(failures) > 1:
            for file, failure in failures:
                stage.say(printable(f"{NAME}: {_of(file, failure)}"))
            first = failures[0][1]
            raise UserError(first.code, f"{len(failures)} of {len(files)} recordings cannot be used", first.remedy)
        for file, failure in failures:
            raise UserError(failure.code, _of(file, failure) if len(files) > 1 else failure.message, failure.remedy)


def _of(file: str, error: UserError) -> str:
    """What is wrong, with the file's name once."""
    return error.message if file in error.message else f"{file}: {error.message}"


def thread_count(text: str) -> int:
    """A whole number from 1 to 512, the most that ggml takes."""
    if not text.isdecimal() or not 1 <= int(text) <= 512:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to 512: {text!r}")
    return int(text)


def note_recording(number: int, seconds: float) -> None:
    with contextlib.suppress(OSError):  # a full disk: not for this thread to report
        stage.event("heard", number=number, seconds=seconds)


def main(argv: list[str] | None = None) -> int:
    settings = Settings.from_environment()
    parser = stage.Parser(
        prog="python -m helpers.listen.transcribe", description="Write down what is said: one line per recording."
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="audio files; raw PCM (16 kHz, mono, s16le) on stdin if none is given"
    )
    add_options(parser, settings, "language", "translate", "whisper", "time", "loop", "speakers")
    parser.add_argument("--threads", type=thread_count, default=None, metavar="N", help="default: one per processor")
    arguments = parser.parse_args(argv)
    settings = with_arguments(settings, arguments)
    pipe = stage.take_stdout()
    corrections = Corrections(settings.replacements)

    def several() -> bool:  # whether record sends more than one recording of a file
        return bool(settings.session and (settings.session / session.SEVERAL).exists())

    stream = None if arguments.files else PcmStream(settings.loop, note_recording, is_marked=several)
    request = recognisers.Request(
        settings.whisper,
        settings.language,
        bool(settings.translate),
        arguments.threads,
        settings.models,
        own_words.vocabulary(settings.vocabulary),
    )
    with recognisers.load(request) as recogniser:
        stage.event("ready", recogniser=printable(recogniser.name))
        from helpers.listen.speech_gate import SpeechGate  # numpy; after --help, and while the microphone is open

        lines = Lines(SpeechGate(recogniser), settings, pipe, corrections)
        if stream:
            lines.of_stream(stream)
        else:
            lines.of_files(arguments.files)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
