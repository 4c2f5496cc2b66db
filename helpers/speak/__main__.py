"""The stage speak: lines of text in, speech out, through the loudspeaker or into a file.

python -m helpers.speak "a red car"                        # aloud
python -m helpers.speak "ein rotes Auto" --to car.wav --language de
python -m helpers.speak --script review.md --voice piper-joe  # review_part1_1.wav … review_combined.wav
python -m helpers.speak --to - <prompts.txt | …            # PCM as the pipe has it: 16 kHz, mono, s16le
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.core import lines, stage
from helpers.core.errors import UserError
from helpers.core.files import write_whole
from helpers.core.pcm import RATE
from helpers.core.settings import Number, Settings, add_options, argument_type, with_arguments
from helpers.core.text import printable
from helpers.speak import player, voices
from helpers.speak.voice import FASTEST, SLOWEST, Voice, speakable

NAME = "speak"


def parser(settings: Settings) -> stage.Parser:
    made = stage.Parser(prog="python -m helpers.speak", description="Say text aloud, or write speech into a file.")
    made.add_argument("text", nargs="?", help="what is said; the lines on stdin if it is not given")
    made.add_argument(
        "--script", type=Path, metavar="FILE", help="say a text or Markdown file, a sound file per paragraph"
    )
    made.add_argument(
        "--to", metavar="FILE", help="write a WAV file (with --script: into this folder; -: PCM on stdout)"
    )
    speeds = argument_type(Number(SLOWEST, FASTEST, whole=False))
    made.add_argument("--speed", type=speeds, default=1.0, metavar="X", help=f"from {SLOWEST} to {FASTEST}; 1 is usual")
    made.add_argument(
        "--volume", type=argument_type(Number(0, 2, whole=False)), default=1.0, metavar="X", help="from 0 to 2"
    )
    made.add_argument("--list", action="store_true", help="list the voices")
    add_options(made, settings, "voice", "language")
    return made


def _given(text: str | None) -> Iterator[str]:
    """What is to be said: the argument, or each line on stdin that has words."""
    if text is not None:
        yield speakable(text)
        return
    if sys.stdin.isatty():
        raise UserError(os.EX_USAGE, "there is nothing to say", "Give a text, or --script FILE; --help shows all.")
    spoken = False
    for line in lines.read():
        if line.text:
            yield speakable(line.text)
            spoken = True
    if not spoken:
        raise UserError(os.EX_DATAERR, "no text arrived on stdin", "Give a text, or --script FILE; --help shows all.")


def _sound(voice: Voice, texts: Iterable[str], arguments: argparse.Namespace) -> Iterator[bytes]:
    for text in texts:
        for piece in voice.say(text, arguments.speed):
            yield piece if arguments.volume == 1 else _louder(piece, arguments.volume)


def _louder(pcm: bytes, factor: float) -> bytes:
    import numpy as np

    samples = np.frombuffer(pcm, "<i2").astype(np.float32) * factor
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


def _script(arguments: argparse.Namespace, settings: Settings) -> Path:
    """Say a script into files. Returns the path of the whole."""
    from tqdm import tqdm

    from helpers.speak import script

    file: Path = arguments.script
    parts = script.read(file)
    request = _request(settings)
    voice, chosen = voices.load(request), voices.choose(request)
    folder = Path(arguments.to) if arguments.to else settings.output / file.stem
    identity = f"{chosen} {chosen.path and chosen.path.stat().st_mtime_ns}"
    quiet = settings.quiet or not sys.stderr.isatty()
    with tqdm(total=len(parts), unit=" paragraphs", disable=quiet, leave=False) as progress:
        return script.speak(parts, file.stem, folder, voice, identity, arguments.speed, progress.update)


def _request(settings: Settings) -> voices.Request:
    return voices.Request(settings.voice, "en" if settings.language == "auto" else settings.language, settings.models)


def _into_file(path: Path, pieces: Iterable[bytes], rate: int) -> None:
    sound = player.wav(b"".join(pieces), rate)
    try:
        if path.exists() and not path.is_file():  # a device or a fifo, such as /dev/stdout, is not replaced
            path.write_bytes(sound)
        else:
            write_whole(path, sound)
    except OSError as error:
        message = f"cannot write {printable(str(path))}: {error.strerror}"
        raise UserError(os.EX_CANTCREAT, message, "Make room there, or name another file.") from error


def main(argv: list[str] | None = None) -> int:
    settings = Settings.from_environment()
    arguments = parser(settings).parse_args(argv)
    settings = with_arguments(settings, arguments)
    if arguments.list:
        for voice in voices.listed(_request(settings)):
            print(f"{'*' if voice.here else ' '} {voice.name:24} {voice.language:12} {voice.about}")
        return 0
    if arguments.script:
        print(_script(arguments, settings))
        return 0
    loaded = voices.load(_request(settings))
    stage.event("ready", voice=printable(loaded.name))
    if arguments.to == "-":
        from helpers.speak.loudness import resampled

        pipe = stage.take_stdout()
        for text in _given(arguments.text):
            pipe.write(resampled(b"".join(_sound(loaded, [text], arguments)), loaded.rate, RATE))
            pipe.flush()
        return 0
    sound = _sound(loaded, _given(arguments.text), arguments)
    if arguments.to:
        _into_file(Path(arguments.to), sound, loaded.rate)
    else:
        player.play(sound, loaded.rate)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
