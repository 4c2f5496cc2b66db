"""Thirty prompts of the built-in vocabulary, said by five synthetic voices:

    python -m benchmark.spoken_prompts FOLDER

Writes FOLDER/VOICE/NN.wav (16 kHz, mono) and FOLDER/prompts.tsv (file, voice, subject, background, prompt). The prompts
were chosen at random; half of the pairs of subject and background are never used in training.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmark.voices import speak

VOICES = ("slt", "rms", "awb", "kal", "espeak-us")


class Prompt(NamedTuple):
    """The text, and the content of the correct picture (names of training.builtin.vocabulary)."""

    subject: str
    background: str
    text: str


PROMPTS = (
    Prompt("burger", "blue", "a delicious burger on a blue background"),
    Prompt("cat", "beach", "a cat on the beach"),
    Prompt("castle", "sunset", "draw me a castle at sunset"),
    Prompt("penguin", "night", "a happy penguin at night"),
    Prompt("unicorn", "forest", "I want to see a unicorn in the forest"),
    Prompt("robot", "city", "a robot on the street"),
    Prompt("watermelon", "desert", "a picture showing a watermelon in a desert"),
    Prompt("sun", "orange", "draw the sun with an orange background"),
    Prompt("boat", "red", "I want a boat against a red background"),
    Prompt("ladybug", "night", "draw me a ladybug under a starry sky"),
    Prompt("rose", "beach", "a picture showing a rose on the sand"),
    Prompt("cake", "space", "I want to see a nice birthday cake among the planets"),
    Prompt("elephant", "gray", "make me a funny elephant over a plain gray background"),
    Prompt("butterfly", "sunset", "a drawing of a butterfly at dusk"),
    Prompt("banana", "underwater", "show me a picture of a yummy banana under water"),
    Prompt("owl", "gray", "generate an image of a lovely owl on gray"),
    Prompt("egg", "purple", "a painting of an egg against a purple background"),
    Prompt("sunflower", "ocean", "please draw a fancy sunflower at sea"),
    Prompt("pizza", "black", "a painting of a tasty pizza with a black background"),
    Prompt("carrot", "table", "a carrot on a desk"),
    Prompt("turtle", "brown", "could you draw me a turtle with a brown background"),
    Prompt("lion", "forest", "I want to see a lion in the jungle"),
    Prompt("car", "purple", "a photo of a new car against a purple background"),
    Prompt("balloon", "blue", "can you draw a balloon on a blue background"),
    Prompt("rocket", "space", "show me a rocket in space"),
    Prompt("dog", "snow", "a cute dog in the snow"),
    Prompt("snowman", "mountains", "make a picture of a snowman in front of mountains"),
    Prompt("guitar", "yellow", "imagine an old guitar in front of a yellow wall"),
    Prompt("whale", "clouds", "a blue whale above the clouds"),
    Prompt("house", "meadow", "paint a beautiful house in a meadow"),
)


class Recording(NamedTuple):
    """One prompt in one voice."""

    path: Path
    voice: str
    prompt: Prompt


def make(folder: Path, voices: Sequence[str] = VOICES) -> list[Recording]:
    """Make the recordings that are not yet in `folder`, a few seconds for all 150."""
    recordings = list(_recordings(folder, voices))
    for voice in voices:
        (folder / voice).mkdir(parents=True, exist_ok=True)
    missing = [recording for recording in recordings if not recording.path.exists()]
    with ThreadPoolExecutor() as threads:
        list(threads.map(_make, missing))
    lines = (
        f"{path}\t{voice}\t{prompt.subject}\t{prompt.background}\t{prompt.text}\n" for path, voice, prompt in recordings
    )
    (folder / "prompts.tsv").write_text("".join(lines))
    return recordings


def _recordings(folder: Path, voices: Sequence[str]) -> Iterator[Recording]:
    for voice in voices:
        for number, prompt in enumerate(PROMPTS, start=1):
            yield Recording(folder / voice / f"{number:02}.wav", voice, prompt)


def _make(recording: Recording) -> None:
    beside = recording.path.with_suffix(".part.wav")
    speak(recording.voice, recording.prompt.text, beside)
    beside.replace(recording.path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
