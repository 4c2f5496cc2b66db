"""Cuts a file into what is said in it: each utterance is a prompt, and a pause of two seconds separates them.

In a memo people pause for a breath or a word, up to a second; two seconds are a new thought. The sound is decoded as a
stream and the utterances wait on the disk, so an hour takes no more memory than a minute.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.core import stage
from helpers.core.pcm import BYTES_PER_SECOND, RATE, WINDOW
from helpers.core.settings import Settings
from helpers.listen import audio, speakers
from helpers.listen.endpointing import Endpointer

PAUSE = 2.0  # seconds without speech between two prompts
LONG = 20.0  # seconds; in speech that goes on for longer, a pause of SHORT_PAUSE is enough, and after WINDOW none
SHORT_PAUSE = 0.4
AROUND = 0.3  # seconds before and after the turn of a speaker, but nothing of another turn
LONGEST = 4 * 3600.0  # seconds of a file that are heard by default: a stream on stdin may have no end
MANY = 10  # utterances; before more are drawn, their number is said


class Utterances:
    """What is said in one file. `len()` is their number, and iterating gives the PCM (s16le, 16 kHz, mono) of each.

    A file of at most 30 s without a pause of two seconds is one utterance, with all its silence; so is a file in which
    nobody speaks (its first 30 s).
    """

    def __init__(self, source: str, folder: Path, settings: Settings, progress: Callable[[float, int], None]) -> None:
        """source: a file, or - for stdin; folder: where they wait; settings: time (how much of it is heard, by default
        four hours), speakers (whether each is of one person; the whole sound is then in memory), models; progress:
        called after each second of sound with the seconds and the number of utterances so far.

        Raises: what audio.stream raises; with speakers, what speakers.turns raises; OSError.
        """
        self._pieces = Path(tempfile.mkdtemp(prefix="utterances.", dir=folder))
        self._count = 0
        self._beginning = bytearray()
        self.speakers: list[str] = []  # who speaks in each, with settings.speakers
        if settings.speakers:
            self._split_by_speaker(audio.stream(source, settings.time or LONGEST), settings.models, progress)
            return
        length = self._split(audio.stream(source, settings.time or LONGEST), progress)
        if not self._count or (self._count == 1 and length <= WINDOW):
            self._count = 1
            self._piece(0).write_bytes(self._beginning)
        self._beginning.clear()

    def _split(self, sound: Iterator[bytes], progress: Callable[[float, int], None]) -> float:
        """Write the utterances in `sound`; returns its length in seconds."""
        endpointer = Endpointer(PAUSE, WINDOW)
        spoken, length = bytearray(), 0
        for second in sound:
            length += len(second)
            self._beginning += second[: max(0, round(WINDOW * BYTES_PER_SECOND) - len(self._beginning))]
            for piece in endpointer.feed(second):
                if piece:
                    spoken += piece
                else:
                    self._end(spoken)
            endpointer.ends_after(SHORT_PAUSE if len(spoken) > LONG * BYTES_PER_SECOND else PAUSE)
            progress(length / BYTES_PER_SECOND, self._count)
        self._end(spoken)
        return length / BYTES_PER_SECOND

    def _split_by_speaker(self, sound: Iterator[bytes], models: Path, progress: Callable[[float, int], None]) -> None:
        """Write the turns in `sound`; nobody's is one utterance without a name, as in a file without --speakers."""
        pcm = bytearray()
        for second in sound:
            pcm += second
            progress(len(pcm) / BYTES_PER_SECOND, 0)
        turns = speakers.turns(bytes(pcm), models, PAUSE)
        ends, begins = [0.0, *(turn.end for turn in turns)], [*(turn.begin for turn in turns[1:]), math.inf]
        for turn, before, after in zip(turns, ends, begins, strict=False):
            begin, end = max(before, turn.begin - AROUND), min(after, turn.end + AROUND)
            self._end(pcm[2 * round(begin * RATE) : 2 * round(end * RATE)])
            self.speakers.append(turn.speaker)
        if not self._count:
            self._end(pcm[: round(WINDOW * BYTES_PER_SECOND)])
            self.speakers.append("")

    def _end(self, spoken: bytearray) -> None:
        if spoken:
            self._piece(self._count).write_bytes(spoken)
            self._count += 1
            spoken.clear()

    def _piece(self, number: int) -> Path:
        return self._pieces / str(number)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self._count):
            yield self._piece(number).read_bytes()
            self._piece(number).unlink()


class ReadingLine:
    """On a terminal, a line with how far a long file was read; cleared at the end of the `with` block."""

    def __init__(self, settings: Settings) -> None:
        self._shown = sys.stderr.isatty() and not settings.quiet
        self._minutes = 0

    def show(self, seconds: float, count: int) -> None:
        if self._shown and seconds // 60 > self._minutes:
            self._minutes = int(seconds // 60)
            sys.stderr.write(f"\r\x1b[Kreading: {self._minutes} minutes, {count} utterances")
            sys.stderr.flush()

    def __enter__(self) -> ReadingLine:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._minutes:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def announce(count: int, settings: Settings) -> None:
    """Say how many pictures there will be, and how long they will take, if they are many."""
    if count > MANY:
        each = last_drawing(settings.output)
        takes = "" if each is None else f", in about {duration(count * each * settings.count)}"
        stage.say(f"{count} utterances, one after another{takes} (Ctrl-C twice ends it)")


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def last_drawing(output: Path) -> float | None:
    """Seconds that the last picture in the folder of runs took; None if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        runs = (entry.path for entry in os.scandir(output) if entry.is_dir() and entry.name[:2] == "20")
        run = json.loads((Path(max(runs)) / "run.json").read_text(encoding="utf-8"))
        times = run["seconds"]["generate"]
        return max(0.0, float(times["drawn"]) - float(times["prompt"])) / max(1, len(run["pictures"]))
    return None
