"""The stage record: the microphone or an audio file as raw PCM (s16le, 16 kHz, mono) on stdout, and as a WAV file.

The recording ends when the speaker does (`endpointing.py`). In a loop it goes on, and each utterance has its own file.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from helpers.core import session, stage
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, CHUNK, MARK, RATE, WINDOW, loudest_dbfs, write_wav
from helpers.core.settings import Settings, add_options, with_arguments
from helpers.core.terminal import Meter
from helpers.core.text import printable
from helpers.listen import audio, microphone, reopening
from helpers.listen.levels import FULL_SCALE, LevelCheck, is_clipped
from helpers.words import stop_phrases

if TYPE_CHECKING:
    from helpers.listen.endpointing import Endpointer

NAME = "record"
MICROPHONE_WINDOW = 10.0  # seconds
TOO_SHORT = 0.5  # seconds; a microphone that was stopped this early may not have begun yet

Source = Callable[[str, Callable[[], bool]], Generator[bytes | None, None, None]]  # as reopening.listen_on


def parse(argv: list[str] | None, settings: Settings) -> argparse.Namespace:
    parser = stage.Parser(
        prog="python -m helpers.listen.record",
        description="Record the microphone, or read an audio file, as raw PCM (s16le, 16 kHz, mono) on stdout.",
    )
    add_options(parser, settings, "time", "device", "silence", "fixed_window", "loop", "speakers")
    parser.add_argument(
        "--input", metavar="FILE", help="an audio file instead of the microphone; - reads it from stdin"
    )
    parser.add_argument("--wav", metavar="FILE", type=Path, help="save the recording as FILE")
    parser.add_argument("--list-devices", action="store_true", help="print the microphones, one name per line, and end")
    return parser.parse_args(argv)


def list_devices() -> int:
    names = [printable(device.name) for device in microphone.devices()]
    if not names:
        raise UserError(os.EX_UNAVAILABLE, "no microphone was found", "Connect one, and see that it is not disabled.")
    print("\n".join(names))
    return 0


def send(pcm: bytes) -> None:
    """Hand PCM to the next stage at once; nothing to a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(pcm)
        sys.stdout.buffer.flush()


def hang_up() -> None:
    """Close the pipe to the next stage now, and not 50 ms later, when the interpreter has ended."""
    if not sys.stdout.isatty():
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)


def without_mark(pcm: bytes) -> bytes:
    """`pcm` without silence that could be taken for the mark: some microphones send zeros while nobody speaks."""
    changed = bytearray(pcm)
    for start in range(0, len(changed), CHUNK):
        if not any(changed[start : start + CHUNK]):
            changed[start] = 1
    return bytes(changed)


class Utterance:
    """Sends each utterance to the next stage while it is spoken, and saves it in a file at its end."""

    def __init__(self, wav: Callable[[int], Path | None], marked: bool = False) -> None:
        """wav: the file of number 1, 2 …; marked: whether a mark ends each in the stream, as in a loop."""
        self._wav, self._marked = wav, marked
        self._pcm = bytearray()
        self.number = 0  # of complete utterances

    def add(self, pcm: bytes) -> None:
        self._pcm += pcm
        send(without_mark(pcm) if self._marked else pcm)

    def save(self) -> None:
        """Write what has been said so far into its file."""
        if self._pcm and (wav := self._wav(self.number + 1)):
            write_wav(wav, self._pcm)

    def end(self, silent: float = 0) -> None:
        """It is complete, if there is one. silent: the seconds since its last word."""
        if not self._pcm:
            return
        self.save()
        self.number += 1
        seconds, level = len(self._pcm) / BYTES_PER_SECOND, loudest_dbfs(self._pcm)
        more = {"seconds": round(seconds, 3), "level_dbfs": round(level, 1), "silent": round(silent, 3)}
        stage.event("heard", number=self.number, **more)
        if self._marked:
            send(MARK)
        self._pcm.clear()


def record_microphone(settings: Settings, wav: Callable[[int], Path | None], source: Source) -> None:
    """Record until the speaker has ended, the window is full, SIGINT arrives or the source ends; in a loop, only the
    last two end it. Speech is sent while it is spoken. source: microphone.listen, which ends when the microphone goes
    away, or reopening.listen_on.

    Raises: UserError 65 nobody spoke; 69 no microphone; 77 no permission, or only silence; 130 stopped before it began.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:  # may come twice: a terminal and the pipe both send it
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    window = settings.time or MICROPHONE_WINDOW
    hotkey = bool(settings.events)
    speaking = settings.session / session.SPEAKING if settings.session and settings.loop else None
    shown = sys.stderr.isatty() and not settings.quiet
    meter = Meter(math.inf if settings.loop else window, shown, settings.session)
    check, utterance = LevelCheck(), Utterance(wav, marked=settings.loop)
    loading = ThreadPoolExecutor(1).submit(load_endpointer, settings, window)  # while the microphone opens
    endpointer: Endpointer | WholeWindow | None = None
    held = False
    with contextlib.closing(source(settings.device, lambda: stopped)) as chunks:
        try:
            for chunk in chunks:
                if speaking and speaking.exists():  # what is heard now is our own voice
                    held = True
                    continue
                if held:
                    chunk, held = None, False
                if chunk is None and endpointer:  # a gap: what was said before it does not go on after it
                    utterance.end(endpointer.silent)
                    endpointer = load_endpointer(settings, window)
                    check.gap()
                if not chunk:
                    continue
                if not endpointer:
                    stage.event("ready")
                    stage.say(invitation(settings, window))
                    endpointer = loading.result()
                if not settings.loop:
                    chunk = chunk[: 2 * round((window - check.seconds) * RATE)]
                meter.show(check.seconds, check.feed(chunk))
                for piece in endpointer.feed(chunk):
                    if piece:
                        utterance.add(piece)
                    else:
                        utterance.end(endpointer.silent)
                if settings.loop:
                    if check.seconds > window and check.is_silent():
                        break
                elif utterance.number or check.seconds >= window:
                    break
            else:
                if not stopped:
                    stage.say(f"{NAME}: the microphone went away after {check.seconds:.1f} s")
        except (SystemExit, BrokenPipeError):  # everything is to end, or the next stage is gone
            utterance.save()
            raise
        finally:
            meter.clear()
    if endpointer and not check.is_silent():
        utterance.end(endpointer.silent)
    if complaint := check.complaint():
        stage.say(f"{NAME}: {complaint}")
    if not utterance.number:
        raise unheard(check, stopped, hotkey)


def invitation(settings: Settings, window: float) -> str:
    if settings.loop:
        phrase = stop_phrases.phrase(settings.language, bool(settings.translate))
        return f'speak: one picture for each thing you say ("{phrase}", or Ctrl-C, ends it)'
    end = "" if settings.fixed_window else "it ends when you do, "
    return f"speak now ({end}{window:g} s at most, Ctrl-C ends it sooner)"


class WholeWindow:
    """Takes the place of an Endpointer with --fixed-window: all sound is kept."""

    silent = 0.0

    def feed(self, pcm: bytes) -> Iterator[bytes | None]:
        yield pcm


def load_endpointer(settings: Settings, window: float) -> Endpointer | WholeWindow:
    if settings.fixed_window:
        return WholeWindow()
    from helpers.listen.endpointing import Endpointer

    return Endpointer(settings.silence, window if settings.loop else math.inf)


def unheard(check: LevelCheck, stopped: bool, hotkey: bool) -> UserError:
    """Why there is nothing to draw."""
    if stopped and check.seconds < TOO_SHORT:
        return UserError(130, "stopped before anything was heard")
    if check.is_silent():
        return UserError(os.EX_NOPERM, "the microphone gave only silence", microphone.unmute(hotkey))
    heard = f"I heard nothing in {check.seconds:.1f} s: nobody spoke ({check.loudest:.0f} dBFS at the loudest)"
    return UserError(os.EX_DATAERR, heard, "Speak closer to the microphone, or choose another: --list-devices.")


def read_file(source: str, settings: Settings, wav: Callable[[int], Path | None]) -> None:
    """Decode a file, or stdin, to its end or for the time that was given; send and save each utterance in it. Outside
    of a session, which tells the next stage that there are several, it is one recording of at most 30 s by default.

    Raises: what audio.stream raises.
    """
    if not settings.session:
        stage.event("ready")
        utterance = Utterance(wav)
        for second in audio.stream(source, settings.time or WINDOW):
            utterance.add(second)
        utterance.end()
        return
    from helpers.listen.long_files import ReadingLine, Utterances, announce

    with ReadingLine(settings) as line:
        utterances = Utterances(source, settings.session, settings, line.show)
    for number, speaker in enumerate(utterances.speakers, 1):
        session.speaker(settings.session, number).write_text(f"{speaker}\n", encoding="utf-8")
    stage.event("ready")
    several = len(utterances) > 1
    if several:
        (settings.session / session.SEVERAL).touch()
    announce(len(utterances), settings)
    utterance = Utterance(wav, marked=several)
    clipped = False
    for pcm in utterances:
        if not clipped and is_clipped(pcm, FULL_SCALE):
            clipped = True
            stage.say(f"{NAME}: the sound is clipped, so words may be misheard")
        utterance.add(pcm)
        utterance.end()


def terminate(number: int, frame: FrameType | None) -> None:
    """End at once; FFmpeg is ended on the way out."""
    sys.exit(128 + number)


def main(argv: list[str] | None = None, source: Source | None = None) -> int:
    """source: what to record instead of the microphone."""
    settings = Settings.from_environment()
    arguments = parse(argv, settings)
    settings = with_arguments(settings, arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    # The voice detector's matrices are small. With a thread on each of two busy cores they took six times the time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if arguments.list_devices:
        return list_devices()
    if sys.stdout.isatty() and not (settings.session or arguments.wav):
        raise UserError(os.EX_USAGE, "stdout is a terminal", "Pipe it into a stage or a file, or save it: --wav FILE.")

    def wav(number: int) -> Path | None:
        return arguments.wav or (session.recording(settings.session, number) if settings.session else None)

    if arguments.input is not None:
        read_file(arguments.input, settings, wav)
    else:
        once = functools.partial(microphone.listen, hotkey=bool(settings.events))
        default = functools.partial(reopening.listen_on, once) if settings.loop else once
        record_microphone(settings, wav, source or default)
    hang_up()
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
