"""How well the built-in recogniser hears: thirty prompts in five synthetic voices.

python -m tests.measure_speech [FOLDER]     prints the errors, the word error rate of each voice and of all, and the
                                            time a recording takes; keeps the recordings in FOLDER if one is given
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jiwer

from helpers import audio
from helpers.builtin_recogniser import BuiltinRecogniser
from helpers.stage import StageError
from models.builtin.language_model import spoken

sys.path.append(str(Path(__file__).parent))  # as pytest does
import spoken_prompts


class Heard(NamedTuple):
    """One recording: who said what, what was written, and the seconds that took."""

    voice: str
    said: str
    written: str
    seconds: float


def listen(recordings: Iterable[spoken_prompts.Recording]) -> list[Heard]:
    """What the built-in recogniser writes for each recording; nothing for one that it refuses."""
    recogniser = BuiltinRecogniser()
    heard = []
    for path, voice, prompt in recordings:
        pcm = audio.decode(path)
        began = time.monotonic()
        try:
            written = recogniser.transcribe(pcm)
        except StageError:
            written = ""
        heard.append(Heard(voice, spoken(prompt.text), written, time.monotonic() - began))
    return heard


def word_error_rate(heard: Iterable[Heard]) -> float:
    """Wrong words by words said. Case, punctuation and two spellings of one sound do not count."""
    pairs = [(item.said, item.written) for item in heard]
    return float(jiwer.wer([said for said, _ in pairs], [written for _, written in pairs]))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        heard = listen(spoken_prompts.make(folder))
    voices: defaultdict[str, list[Heard]] = defaultdict(list)
    for item in heard:
        voices[item.voice].append(item)
        if item.said != item.written:
            print(f"{item.voice:9}  {item.said}\n{'':9}  {item.written or '(nothing)'}")
    for voice, items in voices.items():
        print(f"{voice:9}  {word_error_rate(items):6.1%}")
    seconds = sorted(item.seconds for item in heard)
    right = sum(item.said == item.written for item in heard)
    print(f"all        {word_error_rate(heard):6.1%} word error rate; {right} of {len(heard)} without an error")
    print(f"           {seconds[len(seconds) // 2]:.2f} s a recording (median), {seconds[-1]:.2f} s at most")


if __name__ == "__main__":
    main()
