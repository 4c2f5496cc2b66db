"""What is believed of Whisper's words; the same for whisper.cpp and faster-whisper.

    heard = belief.heard(samples, prompt, look, names)     # look(samples, prompt, quick) -> Look, at temperature 0

Whisper writes fluent sentences where nobody spoke, or where noise is as loud as the voice. It also writes the initial
prompt there. Its own probability of a token tells most of them from what was said; a second look tells more: the same
sound, a little moved, makes the same words of what was said, and other words of what was not.

The limits were chosen with Whisper base (q5_1) and the initial prompt of whisper.py, over recordings like those of
benchmark/clips.py with other sentences, voices and noise. Those of clips.py: of 40 sentences under noise as loud as the
voice, 15 became other sentences without the rule, none with it (23 refused); under noise 5 dB below, 3 were refused.
Of 28 and 29 like them, 9 became 1, and 1 was refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from helpers.core.pcm import RATE
from helpers.listen import vad
from helpers.words import repetition

# Whisper's own rule (openai/whisper, transcribe.py), for all languages but English: words that it finds unlikely are
# decoded again at a higher temperature, and are dropped if it also takes the sound for no speech.
UNLIKELY, NO_SPEECH = -1.0, 0.6
# One retry, at 0.6, with one sample: Whisper would go on to 1 in steps of 0.2 with five samples each, which takes many
# times as long and invents more and more.
RETRY_TEMPERATURE = 0.6
# Per second. English at 7 words per second, as fast as anybody speaks, has 9 to 10; a loop would go on to 220 in each
# recording.
MOST_ENGLISH_TOKENS = 25

# The mean log probability of a token from which on English words are believed at once.
LIKELY = -0.5
# Otherwise there is a second look, and the more likely text needs at least this. Some noise makes words unlikely. Of 79
# clear sentences, one is below, and became other words; of 60 sounds like speech, two are above.
LEAST, LEAST_IN_NOISE = -0.8, -1.1
# The end of many films that it was trained with: it writes this where it hears no words.
THANKS = re.compile(r"\W*thank(s| you)\b", re.IGNORECASE)
# In a quiet room the second look begins just before the first word.
QUIET = 40  # dB between a loud and a quiet moment (percentiles 90 and 10)
ONSET, ROOM = 30, 0.1  # dB below the loud moments; seconds before the first word
# In noise it hears the same with some silence before it.
MOVED = 0.25  # seconds
# Where the noise is as loud as the voice, Whisper is sure of sentences that nobody said. There the words need to be
# more likely, or four of five words the same in both looks.
LOUDER = 5.0  # dB of the voice with the noise over the noise alone: 3 if both are as loud
LIKELY_IN_LOUD_NOISE, SAME_IN_LOUD_NOISE = -0.3, 0.8
SILENT, FEW = 0.1, 3  # probability of speech below which a frame is noise; so few frames tell nothing

# The user's names, behind the initial prompt, make Whisper write them also where something else was said: over 39 clips
# without any of them, the word error rate rose from 10.3 to 13.4 %. So they get a look of their own. It counts only if
# it writes one of them, and so much of its letters is the same as without them. 40 sentences with 20 made-up names in
# five synthetic voices: 37.0 % without, 28.7 with them (faster-whisper: 36.6 and 24.1); the 39 clips stay as they are.
SAME_LETTERS = 0.5


class Look(NamedTuple):
    """The text of one window. logs: the log probabilities of its tokens; where the text ends in a loop, of those before
    it begins: later all of them look likely. words: (text, begin, end) of each word, in seconds, if they are known."""

    text: str
    logs: list[float]
    loops: bool = False
    words: tuple[tuple[str, float, float], ...] = ()

    @property
    def likely(self) -> float:
        """The mean log probability of a token: nearer to 0 is more likely."""
        return sum(self.logs) / len(self.logs) if self.logs else -math.inf


NOTHING = Look("", [])


def look_of(text: str, logs: list[float], words: tuple[tuple[str, float, float], ...] = ()) -> Look:
    """What was written, with the log probabilities of its tokens."""
    once = repetition.collapse(text)
    if once == text:
        return Look(text, logs, words=words)
    before = next((at for at, (a, b) in enumerate(zip(once, text, strict=False)) if a != b), len(once)) / len(text)
    return Look(text, logs[: max(1, round(before * len(logs)))], True, words)


def heard(samples: Any, prompt: str, look: Callable[[Any, str, bool], Look], names: Sequence[str] = ()) -> Look:
    """What is said in at most one window of English, or NOTHING. samples: float32, -1…1; look: gets samples, an initial
    prompt, and whether the window may be cut to their length; names: that the user wants to be known."""
    first = look(samples, prompt, True)
    found = _believed(first, samples, prompt, look)
    if not names:
        return found
    named = look(samples, f"{prompt} {', '.join(names)}.", True)
    letters = _letters(named)
    listed = any("".join(_words(name)) in letters for name in names)
    alike = _in_common(letters, _letters(first)) >= SAME_LETTERS
    least = LEAST_IN_NOISE if found.text else LIKELY
    return named if listed and alike and named.likely >= least and not named.loops else found


def _believed(first: Look, samples: Any, prompt: str, look: Callable[[Any, str, bool], Look]) -> Look:
    """The first look, or a second one, or NOTHING."""
    if _is_echo(first, prompt):
        plain = look(samples, "", True)
        return plain if plain.likely >= LIKELY and not plain.loops else NOTHING
    if first.likely >= LIKELY_IN_LOUD_NOISE and not first.loops:
        return first
    masked = voice_over_noise(samples) < LOUDER
    if first.likely >= LIKELY and not first.loops and not masked:
        return first
    start = onset(samples)
    moved = samples[start:] if start else _later(samples)
    again = look(moved, prompt, not first.loops)  # a loop ends in another window
    by = start / RATE if start else -MOVED
    again = again._replace(words=tuple((text, max(0, begin + by), end + by) for text, begin, end in again.words))
    looks = [one for one in (first, again) if not one.loops] or [first]
    found = max(looks, key=lambda one: one.likely)
    same = _in_common(_words(first.text), _words(again.text))
    if contrast(samples) >= QUIET:
        believed = found.likely >= LEAST or (found.likely >= LEAST_IN_NOISE and start > 0 and same == 1)
    elif masked:
        believed = found.likely >= LEAST and same >= SAME_IN_LOUD_NOISE
    else:
        believed = found.likely >= LEAST_IN_NOISE
    return found if believed and not THANKS.match(found.text) else NOTHING


def voice_over_noise(samples: Any) -> float:
    """How much louder the moments are in which the voice detector hears somebody than those in which it does not, in
    dB. samples: float32, -1…1."""
    import numpy as np

    levels = _levels(samples, vad.FRAME) ** 2
    speech = vad.Detector().feed((samples * 32767).astype("<i2").tobytes())[: len(levels)]
    voice, noise = levels[speech >= vad.BEGINS], levels[speech < SILENT]
    if not len(voice):
        return math.inf  # nothing to compare
    if len(noise) < FEW:
        noise = np.sort(levels)[:FEW]
    return float(10 * np.log10(voice.mean() / noise.mean()))


def contrast(samples: Any) -> float:
    """How much louder the loud moments (32 ms) of a recording are than the quiet ones, in dB. samples: -1…1."""
    import numpy as np

    levels = _levels(samples, vad.FRAME)
    return float(20 * np.log10(np.percentile(levels, 90) / np.percentile(levels, 10)))


def onset(samples: Any) -> int:
    """The sample just before the first word, or 0 where noise hides it. samples: -1…1."""
    import numpy as np

    levels = _levels(samples, 160)
    first = np.argmax(levels > np.percentile(levels, 90) * 10 ** (-ONSET / 20)) * 160
    return max(0, int(first - ROOM * RATE))


def _in_common(one: Sequence[str], other: Sequence[str]) -> float:
    """How much of two texts is the same, in order, 0…1."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _later(samples: Any) -> Any:
    import numpy as np

    return np.pad(samples, (int(MOVED * RATE), 0))


def _levels(samples: Any, size: int) -> Any:
    """The root mean square of each `size` samples."""
    import numpy as np

    return np.sqrt((samples[: len(samples) // size * size].reshape(-1, size) ** 2).mean(axis=1)) + 1 / 32768


def _is_echo(look: Look, prompt: str) -> bool:
    """Whether the words are none but those of the initial prompt: Whisper writes them where it hears none."""
    return set(_words(look.text)) <= set(_words(prompt))


def _letters(look: Look) -> str:
    return "".join(_words(look.text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
