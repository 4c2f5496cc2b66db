"""Record: the microphone or an audio file as raw PCM (s16le, 16 kHz, mono) on stdout, and as a WAV file beside it."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

from helpers import audio, microphone, stage

NAME = "record"
MICROPHONE_WINDOW = 10.0  # seconds
TOO_SHORT = 0.5  # seconds; a microphone that was stopped this early may not have begun yet


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage.Parser(
        prog="python -m helpers.record",
        description="Record the microphone, or read an audio file, as raw PCM (s16le, 16 kHz, mono) on stdout.",
    )
    window_help = f"longest recording (default {MICROPHONE_WINDOW:g}; of a file the first {audio.WINDOW:g} are used)"
    parser.add_argument(
        "--time", metavar="SECONDS", type=audio.window, default=stage.setting("TIME") or None, help=window_help
    )
    parser.add_argument("--device", metavar="NAME", default=stage.setting("DEVICE"), help="microphone, by name")
    parser.add_argument(
        "--input", metavar="FILE", help="an audio file instead of the microphone; - reads it from stdin"
    )
    parser.add_argument("--wav", metavar="FILE", type=Path, help="keep the recording as FILE")
    parser.add_argument("--list-devices", action="store_true", help="print the microphones, one name a line, and end")
    return parser.parse_args(argv)


def list_devices() -> int:
    names = [stage.printable(device.name) for device in microphone.devices()]
    if not names:
        raise stage.StageError(
            os.EX_UNAVAILABLE, "no microphone was found", "Connect one, and see that it is not disabled."
        )
    print("\n".join(names))
    return 0


def meter(left: float, level: float) -> str:
    """One line for a terminal: the seconds that are left, and a bar for the level (dBFS) from -60 to -10."""
    cells = round(20 * min(max((level + 60) / 50, 0), 1))
    return f"{left:5.1f} s left  [{'#' * cells:20}]"


def draw(line: str) -> None:
    """Replace the line that the cursor is in, on stderr; nothing wraps, an empty one clears it."""
    room = shutil.get_terminal_size().columns - 1
    sys.stderr.write(f"\r{line[:room]:{min(room, 40)}}" + ("" if line else "\r"))
    sys.stderr.flush()


def send(pcm: bytes) -> None:
    """Hand PCM to the next stage at once. A terminal is spared."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(pcm)
        sys.stdout.buffer.flush()


def record_microphone(device: str, seconds: float) -> bytes:
    """Record until `seconds` are full, SIGINT comes or the microphone goes away; send and return what was heard.

    Raises: StageError 69 no microphone; 77 no permission, or it gives only silence; 130 stopped before it began.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:  # any number of times: a terminal and the pipe both send it
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    show = sys.stderr.isatty() and not stage.is_set("QUIET")
    pcm, full = bytearray(), 2 * round(seconds * audio.RATE)
    with contextlib.closing(microphone.listen(device, lambda: stopped)) as chunks:
        try:
            for chunk in chunks:
                if chunk and not pcm:
                    stage.event(NAME, "ready")
                    stage.say(f"speak now ({seconds:g} s, Ctrl-C ends it sooner)")
                chunk = chunk[: full - len(pcm)]
                pcm += chunk
                if chunk:
                    send(chunk)
                    if show:
                        draw(meter(seconds - len(pcm) / audio.BYTES_PER_SECOND, audio.level_dbfs(chunk)))
                if len(pcm) == full:
                    break
        finally:
            if show and pcm:
                draw("")
    if audio.loudest_dbfs(pcm) <= audio.SILENCE_DBFS:
        if stopped and len(pcm) < TOO_SHORT * audio.BYTES_PER_SECOND:
            raise stage.StageError(130, "stopped before anything was heard")
        raise stage.StageError(os.EX_NOPERM, "the microphone gave only silence", microphone.UNMUTE)
    return bytes(pcm)


def read_file(source: str, seconds: float) -> bytes:
    """Decode the first `seconds` of a file, or of stdin; send and return them. Raises what audio.decode raises."""
    pcm = audio.decode(source, seconds)
    stage.event(NAME, "ready")
    send(pcm)
    return pcm


def terminate(number: int, frame: FrameType | None) -> None:
    """End at once; FFmpeg is taken along on the way out."""
    sys.exit(128 + number)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    if arguments.list_devices:
        return list_devices()
    session = stage.session()
    wav = arguments.wav or (session / "prompt.wav" if session else None)
    if sys.stdout.isatty() and not wav:
        raise stage.StageError(
            os.EX_USAGE, "stdout is a terminal", "Pipe it into a stage or a file, or keep it: --wav FILE."
        )
    if arguments.input is not None:
        pcm = read_file(arguments.input, arguments.time or audio.WINDOW)
    else:
        pcm = record_microphone(arguments.device, arguments.time or MICROPHONE_WINDOW)
    if wav:
        audio.write_wav(wav, pcm)
    level = round(audio.loudest_dbfs(pcm), 1)
    stage.event(NAME, "heard", seconds=round(len(pcm) / audio.BYTES_PER_SECOND, 3), level_dbfs=level)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
