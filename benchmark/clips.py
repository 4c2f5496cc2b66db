"""The fixed recordings that recognisers are measured with. All of them are made from seeds, or are in the repository.

    spoken_clips(folder)      # 39: prompts and everyday sentences in synthetic voices, the examples, and a real voice
    noisy_clips(folder, 15)   # 40 sentences under noise at 15 dB; None: the same without noise
    silent_clips()            # 200 in which nobody speaks
    throat_clips(folder)      # 60 that sound like speech: syllables, vowels, humming, speech backwards, many at once

folder: keeps what the voices say.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark import noises, spoken_prompts
from benchmark.noises import Sound, coloured, pcm
from benchmark.spoken_prompts import PROMPTS
from benchmark.voices import VOICES, speak
from helpers.core.files import beside
from helpers.core.paths import ROOT
from helpers.core.pcm import RATE

EXAMPLES = {  # file in examples/: (voice, text)
    "burger.wav": ("rms", "a delicious burger on a blue background"),
    "cat.mp3": ("awb", "draw me a cat on the beach"),
    "castle.m4a": ("espeak-us", "please draw a castle at sunset"),
    "penguin.ogg": ("slt", "a happy penguin at night"),
    "unicorn.flac": ("kal", "I would like a unicorn in the forest"),
    "rocket.mp4": ("espeak-gb", "show me a rocket in space"),
}
EVERYDAY = (  # what people ask for, with words that the built-in models do not know, and one way to spell them
    "an old fisherman mending his nets on a foggy pier",
    "three children flying kites above the dunes in autumn",
    "the interior of a crowded bakery early in the morning",
    "an oil painting of a sailing ship during a thunderstorm",
    "two chess players in a quiet library, seen from above",
    "a narrow street in Lisbon with laundry between the balconies",
    "my grandmother knitting a scarf beside the window",
    "a violinist playing in a subway station",
    "an abandoned factory covered with ivy",
    "a hedgehog asleep under fallen leaves",
)
JFK = ROOT / "tests" / "jfk.flac"
JFK_SAID = (
    "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
)
LEVEL = 0.05  # of speech (root mean square), -26 dBFS
BEFORE, AFTER = 0.8, 0.3  # seconds around the words, as the microphone's stage sends them
RATIOS = (None, 30, 15, 5, 0)  # dB of speech over noise
EACH = 12  # recordings of each kind that sound like speech

Make = Callable[[np.random.Generator], Sound]


class Clip(NamedTuple):
    """A recording (s16le, 16 kHz, mono), the group it belongs to, and its words."""

    name: str
    group: str
    pcm: bytes
    said: str


def spoken_clips(folder: Path) -> list[Clip]:
    """12 prompts of the built-in models, 6 examples, 10 everyday sentences in 2 voices each, a voice of 1961."""
    voices = spoken_prompts.VOICES
    found = [
        ("prompts", f"{voices[number % 5]} {number}", _said(folder, voices[number % 5], prompt.text), prompt.text)
        for number, prompt in enumerate(PROMPTS[:12])
    ]
    found += [("examples", name, ROOT / "examples" / name, words) for name, (_, words) in EXAMPLES.items()]
    for number, words in enumerate(EVERYDAY):
        for voice in (voices[number % 5], voices[(number + 3) % 5]):
            found.append(("everyday", f"{voice} {number}", _said(folder, voice, words), words))
    found.append(("jfk", JFK.name, JFK, JFK_SAID))
    return [Clip(name, group, pcm(samples(path)), words) for group, name, path, words in found]


def noisy_clips(folder: Path, ratio: int | None) -> Iterator[Clip]:
    """The 30 prompts and the 10 everyday sentences, in six voices in turn, under five kinds of noise in turn."""
    kinds: dict[str, Make] = {
        "white": lambda random: coloured(random, 0),
        "pink": lambda random: coloured(random, 1),
        "hum": noises.hum,
        "typing": noises.typing,
        "music": noises.music,
    }
    for number, words in enumerate([*(prompt.text for prompt in PROMPTS), *EVERYDAY]):
        voice, (kind, make) = list(VOICES)[number % len(VOICES)], list(kinds.items())[number % len(kinds)]
        sound = framed(trimmed(samples(_said(folder, voice, words))))
        if ratio is not None:
            noise = make(np.random.default_rng(2000 + number))[: len(sound)]
            sound = sound + noise * LEVEL * 10 ** (-ratio / 20) / np.sqrt((noise**2).mean())
        level = "clean" if ratio is None else f"{ratio} dB"
        yield Clip(f"{number} {voice}, {kind}", level, pcm(sound), words)


def silent_clips() -> Iterator[Clip]:
    """200 recordings in which nobody speaks."""
    for name, sound in noises.without_speech(200):
        yield Clip(name, "without speech", sound, "")


def throat_clips(folder: Path) -> Iterator[Clip]:
    """12 of each kind; said: the syllables, or of many voices at once the words of all."""
    voices = list(VOICES)
    for number in range(EACH):
        voice = voices[number % len(voices)]
        words = " ".join([("la", "da")[number // len(voices)]] * 6)
        yield _throat(number, "syllables", samples(_said(folder, voice, words)), words)
        yield _throat(number, "vowels", noises.buzz(np.random.default_rng(3000 + number)))
        yield _throat(number, "humming", noises.humming(np.random.default_rng(4000 + number)))
        sentence = [*EVERYDAY, *(prompt.text for prompt in PROMPTS)][number]
        yield _throat(number, "backwards", samples(_said(folder, voice, sentence))[::-1])
        several = [(voices[n], PROMPTS[(number + 5 * n) % len(PROMPTS)].text) for n in range(len(voices))]
        sounds = [trimmed(samples(_said(folder, one, words))) for one, words in several]
        babble = np.zeros(max(map(len, sounds)))
        for sound in sounds:
            babble += np.resize(sound, len(babble))
        yield _throat(number, "babble", babble, " ".join(words for _, words in several))


def _throat(number: int, kind: str, sound: Sound, said: str = "") -> Clip:
    return Clip(f"{number} {kind}", kind, pcm(framed(trimmed(sound))), said)


def _said(folder: Path, voice: str, words: str) -> Path:
    path = folder / f"{voice} {words[:60]}.wav"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            speak(voice, words, partial.with_suffix(".wav"))
            partial.with_suffix(".wav").rename(partial)
    return path


def samples(path: Path) -> Sound:
    """A sound file as 16 kHz, mono, -1…1."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2") / 32768


def trimmed(sound: Sound) -> Sound:
    """`sound` from its first to its last loud sample, at LEVEL."""
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1]
    return np.asarray(sound * LEVEL / np.sqrt((sound**2).mean()))


def framed(sound: Sound) -> Sound:
    """`sound` with a nearly silent room around it."""
    sound = np.concatenate([np.zeros(int(BEFORE * RATE)), sound, np.zeros(int(AFTER * RATE))])
    return sound + coloured(np.random.default_rng(len(sound)), 1, len(sound)) * 3e-4


def every(folder: Path) -> Iterator[Clip]:
    """All of them, one after the other."""
    noisy = chain.from_iterable(noisy_clips(folder, ratio) for ratio in RATIOS)
    return chain(spoken_clips(folder), noisy, silent_clips(), throat_clips(folder))
