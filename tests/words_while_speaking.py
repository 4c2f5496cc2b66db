"""What record and transcribe show while somebody speaks into the headless microphone, and how soon:

    PYTHONPATH=. python tests/words_while_speaking.py [--first 0] [--last 99] [--whisper builtin]

Plays recordings of tests/recordings.py with speech, without the silence around it. Prints in how many no word was taken
back, that is, each partial text began like the next one and like the final text; whether the final texts are those of
the same sound without any partial text; and how long after its end the first word was shown, for the recordings whose
first word was understood. When a word ends is told by pocketsphinx, which aligns the text with the voice; when the
voice has ended is told by record.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import microphone
import recordings
from recordings import Recording

from benchmark.spoken_prompts import PROMPTS
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE, write_wav
from helpers.listen import builtin_recogniser
from training.builtin.language_model import spoken

BEFORE, AFTER = 0.5, 0.3  # seconds of noise that are played, too
PAUSE = 1.3  # seconds between two recordings; record's silence is 0.8


class Utterance(NamedTuple):
    """recording: its number; partials: (seconds since the epoch, text); final: empty if it was not understood; again:
    the final text without any partial text; ended: when its last word had been said."""

    recording: int
    partials: list[tuple[float, str]]
    final: str
    again: str
    ended: float

    def kept(self) -> bool:
        """Whether no word was taken back."""
        texts = [words(text) for _, text in self.partials] + [words(self.final)]
        return all(b[: len(a)] == a for a, b in itertools.pairwise(texts))


def words(text: str) -> list[str]:
    return re.sub(r"[^\w' ]", "", text.lower()).split()


def listened(chosen: Sequence[tuple[int, Recording]], folder: Path, whisper: str = "builtin") -> list[Utterance]:
    """Play the recordings, and gather what record and transcribe make of them."""
    session, noted = folder / "session", folder / "events"
    session.mkdir()
    noted.touch()
    began: list[tuple[float, int]] = []
    with microphone.running() as heard:
        clean = {name: value for name, value in heard.items() if not name.startswith("A2I_")}
        environment = {**clean, "A2I_SESSION": str(session), "A2I_EVENTS": str(noted), "A2I_QUIET": "1"}
        transcribe = [sys.executable, "-m", "helpers.listen.transcribe", "--loop", "--whisper", whisper]
        record = subprocess.Popen(
            [sys.executable, "-m", "helpers.listen.record", "--loop"], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        )
        listener = subprocess.Popen(
            transcribe, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stream = bytearray()
        copier = threading.Thread(target=copy, args=(record, listener, stream))
        copier.start()
        while {"record", "transcribe"} - {one["stage"] for one in events(noted) if one["event"] == "ready"}:
            time.sleep(0.1)
        for number, recording in chosen:
            first, last = recording.begins - BEFORE, recording.ends + AFTER
            wav = folder / "play.wav"
            write_wav(wav, recording.pcm[2 * max(0, round(first * RATE)) : 2 * round(last * RATE)])
            began.append((time.time(), number))
            microphone.speak(heard, wav)
            time.sleep(PAUSE)
        record.send_signal(signal.SIGINT)
        assert listener.stdout
        final = lines(listener.stdout.read())
        copier.join()
        listener.wait()
        record.wait()
    # The same stream again, all at once: recordings of the session would lack what the marks do to its zeros
    (folder / "again").mkdir()
    environment |= {"A2I_SESSION": str(folder / "again"), "A2I_EVENTS": str(folder / "again" / "events")}
    again = lines(subprocess.run(transcribe, cwd=ROOT, env=environment, input=stream, stdout=subprocess.PIPE).stdout)
    assert not any(event["event"] == "partial" for event in events(folder / "again" / "events"))
    found = []
    for number, (text, without) in enumerate(zip(final, again, strict=True), 1):
        mine = [event for event in events(noted) if event.get("number") == number]
        end = next(event for event in mine if (event["stage"], event["event"]) == ("record", "heard"))
        ended = end["time"] - end["silent"]
        recording_number = [which for at, which in began if at < ended][-1]
        partials = [(event["time"], event["text"]) for event in mine if event["event"] == "partial"]
        found.append(Utterance(recording_number, partials, text, without, ended))
    return found


def copy(record: subprocess.Popen[bytes], listener: subprocess.Popen[bytes], stream: bytearray) -> None:
    """What one writes, the other reads, and `stream` keeps."""
    assert record.stdout and listener.stdin
    while data := os.read(record.stdout.fileno(), 1 << 16):
        stream += data
        listener.stdin.write(data)
        listener.stdin.flush()
    listener.stdin.close()


def lines(written: bytes) -> list[str]:
    # Not splitlines: the mark of a line counts as the end of one
    return [line.rpartition("\x1f")[2] for line in written.decode().split("\n")[:-1]]


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pcm_of(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        pcm: bytes = file.readframes(file.getnframes())
    return pcm


def first_words(folder: Path) -> list[tuple[str, float]]:
    """The first word of each sentence, and the seconds from its last sound to the end of that word, or nothing."""
    decoder: Any = builtin_recogniser.BuiltinRecogniser()._decoder
    found = []
    texts = [""] * len(recordings.PHRASES) + [spoken(prompt.text) for prompt in PROMPTS]
    for text, (_, sound) in zip(texts, recordings.sentences(folder), strict=True):
        word, rest = "", 0.0
        if text:
            pcm = builtin_recogniser.trimmed((sound * 32767).astype("<i2").tobytes())
            decoder.set_align_text(text)
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
            segments = [(one.word, one.end_frame / 100) for one in decoder.seg() if one.word[0] not in "<["]
            word = re.sub(r"\(\d\)$", "", segments[0][0])
            rest = len(pcm) / BYTES_PER_SECOND - builtin_recogniser.MARGIN / RATE - segments[0][1]
        found.append((word, rest))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=99)
    parser.add_argument("--whisper", default="builtin")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spoken_first = first_words(folder / "voices")
        everything = list(enumerate(recordings.with_speech(folder / "voices")))
        said = listened(everything[options.first : options.last + 1], folder, options.whisper)
    late = []
    for one in said:
        word, rest = spoken_first[one.recording % len(spoken_first)]
        if one.partials and word and words(one.partials[0][1])[:1] == [word] == words(one.final)[:1]:
            late.append(one.partials[0][0] - (one.ended - rest))
        if not one.kept() or one.final != one.again:
            print(f"{everything[one.recording][1].name}: {[text for _, text in one.partials]} -> {one.final!r}")
            print("" if one.final == one.again else f"  but without partial texts: {one.again!r}")
    print(f"{len(said)} utterances, {sum(bool(one.final) for one in said)} understood,", end=" ")
    print(f"{sum(bool(one.partials) for one in said)} with partial texts", end="; ")
    print(f"no word taken back in {sum(one.kept() for one in said)}", end="; ")
    print(f"the final text is the same without them in {sum(one.final == one.again for one in said)}")
    shown = sum(len(words(one.partials[-1][1])) for one in said if one.partials and one.final)
    print(f"{shown} of {sum(len(words(one.final)) for one in said)} words were shown before the end of the recording")
    if late:
        late.sort()
        quick = sum(second <= 1 for second in late)
        print(f"first word shown after {median(late):.2f} s (median; {late[0]:.2f} to {late[-1]:.2f})", end="; ")
        print(f"within a second in {quick} of {len(late)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
