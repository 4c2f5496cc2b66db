"""What is believed of Whisper's words: the rule alone, with the real sound and a stand-in for Whisper."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import recordings
from numpy.typing import NDArray

from benchmark import noises
from helpers.core.pcm import RATE
from helpers.listen import audio, belief
from helpers.listen.belief import NOTHING, Look

PROMPT = "A description of a picture."
SURE, LIKELY, UNSURE, UNLIKELY = [-0.1], [-0.45], [-0.75], [-1.4]

Samples = NDArray[np.float32]


@functools.cache
def voice() -> Samples:
    """A real voice, with a second of a nearly silent room before it."""
    said = np.frombuffer(audio.decode(str(recordings.JFK), 5), "<i2").astype(np.float32) / 32768
    return np.concatenate([np.random.default_rng(1).normal(0, 1e-4, RATE), said]).astype(np.float32)


def pink(random: np.random.Generator) -> noises.Sound:
    return noises.coloured(random, 1)


def noisy(ratio: float, make: Callable[[np.random.Generator], noises.Sound] = pink) -> Samples:
    """The voice with noise `ratio` dB below it."""
    clean = voice()
    noise = np.resize(make(np.random.default_rng(2)), len(clean))
    level = np.sqrt((clean[RATE:] ** 2).mean() / (noise**2).mean())
    return np.asarray(clean + noise * level * 10 ** (-ratio / 20), np.float32)


class Whisper:
    """Says one text after the other; asked: (samples, prompt, quick) of each look."""

    def __init__(self, *looks: Look) -> None:
        self._looks = list(looks)
        self.asked: list[tuple[Any, str, bool]] = []

    def __call__(self, samples: Any, prompt: str, quick: bool) -> Look:
        self.asked.append((samples, prompt, quick))
        return self._looks[len(self.asked) - 1]

    def heard(self, samples: Samples) -> Look:
        return belief.heard(samples, PROMPT, self)


@pytest.mark.parametrize("ratio", [0, 15, 60])
def test_what_is_sure_is_believed_at_once(ratio: int) -> None:
    whisper = Whisper(Look("a cat", SURE))
    assert whisper.heard(noisy(ratio)).text == "a cat"
    assert [(prompt, quick) for _, prompt, quick in whisper.asked] == [(PROMPT, True)]


@pytest.mark.parametrize(
    "ratio, first, again, text",
    [
        (60, UNSURE, UNLIKELY, "a cat on a mat"),
        (60, UNLIKELY, UNSURE, "a dog in a fog"),
        (60, UNLIKELY, UNLIKELY, ""),
        (15, UNLIKELY, UNSURE, "a dog in a fog"),
        (15, UNLIKELY, UNLIKELY, ""),
        (0, LIKELY, LIKELY, ""),  # other words than in the first look
        (0, UNSURE, SURE, ""),
    ],
)
def test_what_is_unsure_is_heard_again(ratio: int, first: list[float], again: list[float], text: str) -> None:
    whisper = Whisper(Look("a cat on a mat", first), Look("a dog in a fog", again))
    assert whisper.heard(noisy(ratio)).text == text and len(whisper.asked) == 2


@pytest.mark.parametrize("ratio, logs, text", [(0, UNSURE, True), (0, UNLIKELY, False), (60, [-1.0], True)])
def test_the_same_words_twice_are_believed(ratio: int, logs: list[float], text: bool) -> None:
    whisper = Whisper(Look("A cat on a mat.", logs), Look("a cat on a mat", logs))
    assert bool(whisper.heard(noisy(ratio)).text) == text


def test_thanks_that_are_unsure_are_none() -> None:
    assert Whisper(Look("Thank you.", UNSURE), Look("Thank you.", UNSURE)).heard(noisy(60)) == NOTHING
    assert Whisper(Look("Thank you.", SURE)).heard(noisy(60)).text == "Thank you."


def test_the_second_look_is_at_the_same_sound_moved() -> None:
    sound, loud = noisy(60), noisy(0)
    quiet = Whisper(Look("cats", UNSURE), Look("b", UNLIKELY, words=(("b", 0.2, 0.5),)))
    quiet.heard(sound)
    again, _, quick = quiet.asked[1]
    assert 0.8 * RATE < len(sound) - len(again) < 1.4 * RATE and quick and np.array_equal(again, sound[-len(again) :])
    noise = Whisper(Look("cats", UNSURE), Look("b", UNSURE))
    noise.heard(loud)
    again = noise.asked[1][0]
    assert len(again) - len(loud) == belief.MOVED * RATE and np.array_equal(again[-len(loud) :], loud)


def test_words_keep_their_times() -> None:
    sound = noisy(60)
    whisper = Whisper(Look("a cat", UNLIKELY), Look("a cat", UNSURE, words=(("a", 0.1, 0.2), ("cat", 0.2, 0.5))))
    found = whisper.heard(sound)
    cut = (len(sound) - len(whisper.asked[1][0])) / RATE
    assert [round(begin - cut, 3) for _, begin, _ in found.words] == [0.1, 0.2]
    assert [round(end - cut, 3) for _, _, end in found.words] == [0.2, 0.5]


def test_a_loop_is_heard_again_in_the_longest_window() -> None:
    loop = belief.look_of("a cat and a cat and a cat and a cat and a cat and", [-0.2, -0.4, -3] + [-0.01] * 9)
    assert loop.loops and loop.likely < -0.2
    whisper = Whisper(loop, Look("a cat and a dog", LIKELY))
    assert whisper.heard(noisy(30)).text == "a cat and a dog"
    assert [quick for _, _, quick in whisper.asked] == [True, False]


@pytest.mark.parametrize(
    "without, text",
    [(Look("A picture.", LIKELY), "A picture."), (Look("the weather", UNSURE), ""), (Look("", []), "")],
)
def test_words_of_the_initial_prompt_are_heard_without_it(without: Look, text: str) -> None:
    whisper = Whisper(Look("A picture.", SURE), without)
    assert whisper.heard(voice()).text == text
    assert [prompt for _, prompt, _ in whisper.asked] == [PROMPT, ""]


@pytest.mark.parametrize(
    "first, named, text",
    [
        (Look("draw me sore blacks", SURE), Look("Draw me Zorblax.", LIKELY), "Draw me Zorblax."),
        (Look("draw me a cat", SURE), Look("draw me a hat", SURE), "draw me a cat"),  # none of the names
        (Look("the weather is fine", SURE), Look("Zorblax, Kwimby.", SURE), "the weather is fine"),  # nobody said it
        (Look("draw me sore blacks", SURE), Look("Draw me Zorblax.", UNLIKELY), "draw me sore blacks"),
    ],
)
def test_a_name_is_taken_where_it_is_what_was_heard_without_it(first: Look, named: Look, text: str) -> None:
    whisper = Whisper(first, named)
    assert belief.heard(voice(), PROMPT, whisper, ["Zorblax", "Kwimby"]).text == text
    assert [prompt for _, prompt, _ in whisper.asked] == [PROMPT, f"{PROMPT} Zorblax, Kwimby."]


def test_a_name_that_is_unknown_otherwise() -> None:
    """Alone, it is no word that Whisper finds likely."""
    looks = Look("Sore blacks.", UNLIKELY), Look("so bless", UNLIKELY), Look("Zorblax.", LIKELY)
    assert belief.heard(voice(), PROMPT, Whisper(*looks), ["Zorblax"]).text == "Zorblax."


@pytest.mark.parametrize("make", [pink, noises.hum, lambda random: noises.coloured(random, 0)])
def test_noise_as_loud_as_the_voice_is_told_from_less(make: Callable[[np.random.Generator], noises.Sound]) -> None:
    ratios = [belief.voice_over_noise(noisy(ratio, make)) for ratio in (0, 5, 15, 30)]
    assert ratios[0] < belief.LOUDER < ratios[1] < ratios[2] < ratios[3]


def test_no_voice_at_all() -> None:
    assert belief.voice_over_noise(np.zeros(RATE, np.float32)) == math.inf
    assert belief.heard(np.zeros(RATE, np.float32), PROMPT, Whisper(Look("", []), NOTHING)) == NOTHING
