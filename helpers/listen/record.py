"""Record: the microphone or an audio file as raw PCM (s16le, 16 kHz, mono) on stdout, and as a WAV file beside it.

The recording ends when the speaker does (`endpointing.py`). In a loop it goes on, and each utterance has its own file.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, CHUNK, MARK, RATE, WINDOW, loudest_dbfs, write_wav
from helpers.core.settings import Settings, add_options
from helpers.core.terminal import Meter
from helpers.core.text import printable
from helpers.listen import audio, microphone
from helpers.listen.levels import SoundCheck

if TYPE_CHECKING:
    from helpers.listen.endpointing import Listener

NAME = "record"
MICROPHONE_WINDOW = 10.0  # seconds
Source = Callable[[str, Callable[[], bool]], Generator[bytes, None, None]]  # as microphone.listen
TOO_SHORT = 0.5  # seconds; a microphone that was stopped this early may not have begun yet


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage.Parser(
        prog="python -m helpers.listen.record",
        description="Record the microphone, or read an audio file, as raw PCM (s16le, 16 kHz, mono) on stdout.",
    )
    settings = Settings.from_environment()
    add_options(parser, settings, "time", "device", "silence", "fixed_window", "loop")
    parser.add_argument(
        "--input", metavar="FILE", help="an audio file instead of the microphone; - reads it from stdin"
    )
    parser.add_argument("--wav", metavar="FILE", type=Path, help="keep the recording as FILE")
    parser.add_argument("--list-devices", action="store_true", help="print the microphones, one name a line, and end")
    return parser.parse_args(argv)


def list_devices() -> int:
    names = [printable(device.name) for device in microphone.devices()]
    if not names:
        raise UserError(os.EX_UNAVAILABLE, "no microphone was found", "Connect one, and see that it is not disabled.")
    print("\n".join(names))
    return 0


def send(pcm: bytes) -> None:
    """Hand PCM to the next stage at once. A terminal is spared."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(pcm)
        sys.stdout.buffer.flush()


def hang_up() -> None:
    """Tell the next stage that this was all, and not only when the interpreter has ended, 50 ms later."""
    if not sys.stdout.isatty():
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)


def without_mark(pcm: bytes) -> bytes:
    """`pcm` without a silence that could be taken for the mark: some microphones send zeros while nobody speaks."""
    heard = bytearray(pcm)
    for start in range(0, len(heard), CHUNK):
        if not any(heard[start : start + CHUNK]):
            heard[start] = 1
    return bytes(heard)


class Utterance:
    """What is said goes to the next stage at once, and into a file when it is over."""

    def __init__(self, wav: Callable[[int], Path | None], marked: bool = False) -> None:
        """wav: where number 1, 2 … is kept; marked: whether the end of each is marked in the stream, as in a loop."""
        self._wav, self._marked = wav, marked
        self._pcm = bytearray()
        self.number = 0  # of those that are over

    def hear(self, pcm: bytes) -> None:
        self._pcm += pcm
        send(without_mark(pcm) if self._marked else pcm)

    def keep(self) -> None:
        """Put what has been said so far into its file."""
        if self._pcm and (wav := self._wav(self.number + 1)):
            write_wav(wav, self._pcm)

    def end(self, silent: float = 0) -> None:
        """It is over, if there is one; silent: the seconds since its last word."""
        if not self._pcm:
            return
        self.keep()
        self.number += 1
        seconds, level = len(self._pcm) / BYTES_PER_SECOND, loudest_dbfs(self._pcm)
        more = {"seconds": round(seconds, 3), "level_dbfs": round(level, 1), "silent": round(silent, 3)}
        stage.event("heard", number=self.number, **more)
        if self._marked:
            send(MARK)
        self._pcm.clear()


def record_microphone(
    arguments: argparse.Namespace, wav: Callable[[int], Path | None], source: Source | None = None
) -> None:
    """Record until the speaker has ended, the window is full, SIGINT comes or the microphone goes away; in a loop only
    the last two end it. What is said is sent while it is said.

    Raises: UserError 65 nobody spoke; 69 no microphone; 77 no permission, or it gives only silence; 130 stopped before
    it began.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:  # any number of times: a terminal and the pipe both send it
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    window = arguments.time or MICROPHONE_WINDOW
    shown = sys.stderr.isatty() and not stage.is_set("QUIET")
    meter = Meter(math.inf if arguments.loop else window, shown, stage.session())
    check, utterance = SoundCheck(), Utterance(wav, marked=arguments.loop)
    loaded = ThreadPoolExecutor(1).submit(listen, arguments, window)  # while the microphone opens
    listener: Listener | Everything | None = None
    with contextlib.closing((source or microphone.listen)(arguments.device, lambda: stopped)) as chunks:
        try:
            for chunk in chunks:
                if not chunk:
                    continue
                if not listener:
                    stage.event("ready")
                    stage.say(invitation(arguments, window))
                    listener = loaded.result()
                if not arguments.loop:
                    chunk = chunk[: 2 * round((window - check.seconds) * RATE)]
                meter.show(check.seconds, check.hear(chunk))
                for piece in listener.hear(chunk):
                    if piece:
                        utterance.hear(piece)
                    else:
                        utterance.end(listener.silent)
                if arguments.loop:
                    if check.seconds > window and check.is_silent():
                        break
                elif utterance.number or check.seconds >= window:
                    break
            else:
                if not stopped:
                    stage.say(f"{NAME}: the microphone went away after {check.seconds:.1f} s")
        except (SystemExit, BrokenPipeError):  # everything is to end, or nobody takes the sound any more
            utterance.keep()
            raise
        finally:
            meter.clear()
    if listener and not check.is_silent():
        utterance.end(listener.silent)
    if complaint := check.complaint():
        stage.say(f"{NAME}: {complaint}")
    if not utterance.number:
        raise unheard(check, stopped)


def invitation(arguments: argparse.Namespace, window: float) -> str:
    if arguments.loop:
        return 'speak: one picture for each thing you say ("stop listening", or Ctrl-C, ends it)'
    end = "" if arguments.fixed_window else "it ends when you do, "
    return f"speak now ({end}{window:g} s at most, Ctrl-C ends it sooner)"


class Everything:
    """In the place of a Listener where the whole window is kept."""

    silent = 0.0

    def hear(self, pcm: bytes) -> Iterator[bytes | None]:
        yield pcm


def listen(arguments: argparse.Namespace, window: float) -> Listener | Everything:
    if arguments.fixed_window:
        return Everything()
    from helpers.listen.endpointing import Listener

    return Listener(arguments.silence, window if arguments.loop else math.inf)


def unheard(check: SoundCheck, stopped: bool) -> UserError:
    """Why there is nothing to draw."""
    if stopped and check.seconds < TOO_SHORT:
        return UserError(130, "stopped before anything was heard")
    if check.is_silent():
        return UserError(os.EX_NOPERM, "the microphone gave only silence", microphone.unmute())
    heard = f"I heard nothing in {check.seconds:.1f} s: nobody spoke ({check.loudest:.0f} dBFS at the loudest)"
    return UserError(os.EX_DATAERR, heard, "Speak closer to the microphone, or choose another: --list-devices.")


def read_file(source: str, seconds: float, wav: Callable[[int], Path | None]) -> None:
    """Decode the first `seconds` of a file, or of stdin, send and keep them. Raises what audio.decode raises."""
    pcm = audio.decode(source, seconds)
    stage.event("ready")
    utterance = Utterance(wav)
    utterance.hear(pcm)
    utterance.end()


def terminate(number: int, frame: FrameType | None) -> None:
    """End at once; FFmpeg is taken along on the way out."""
    sys.exit(128 + number)


def main(argv: list[str] | None = None, source: Source | None = None) -> int:
    """source: what to record instead of the microphone."""
    arguments = parse(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    if arguments.list_devices:
        return list_devices()
    folder = stage.session()
    if sys.stdout.isatty() and not (folder or arguments.wav):
        raise UserError(os.EX_USAGE, "stdout is a terminal", "Pipe it into a stage or a file, or keep it: --wav FILE.")

    def wav(number: int) -> Path | None:
        return arguments.wav or (folder / f"recording-{number}.wav" if folder else None)

    if arguments.input is not None:
        read_file(arguments.input, arguments.time or WINDOW, wav)
    else:
        record_microphone(arguments, wav, source)
    hang_up()
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
