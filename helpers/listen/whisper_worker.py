"""The process in which whisper.cpp runs: `python -m helpers.listen.whisper_worker FD SETTINGS`.

It answers each recording with {"text": …, "language": …, "confidence": …}; see recogniser_process.py.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any, NamedTuple

from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE, WINDOW
from helpers.listen import endpointing
from helpers.listen.recogniser_process import main
from helpers.words import repetition

# The encoder computes a window of 30 s in steps of 20 ms, whatever the length of the recording (`audio_ctx`). A window
# cut to the length takes a third of the time. A shorter one than 512 makes the decoder repeat itself. whisper.cpp reads
# a multiple of 256 steps (GGML_PAD in whisper.cpp), so with another number, such as the 1500 of the whole window, it
# would also read what was left there by the recording before, and its text would depend on that.
STEPS, SPARE, BLOCK = 50, 128, 256  # in a second; after the recording; in a block
LEAST_STEPS, MOST_STEPS = 512, 1280
LONGEST = (MOST_STEPS - SPARE) // STEPS  # seconds of sound in a window

# The mean log probability of a token tells speech from what Whisper invents. Measured with Whisper base and the initial
# prompt of whisper.py over 260 clips of benchmark/clips.py and 280 like them. Text below LIKELY gets a second look, at
# the sound from just before the first word on: word error rate over the 39 spoken clips with it 10.3 %, without 10.9,
# with a second look in the longest window, which takes twice as long, 11.2.
LIKELY = -0.5
ONSET, ROOM = 30, 0.1  # dB below the loud moments; seconds before it
# Then the least that is believed depends on how much louder the voice is than what is around it. In a quiet room words
# are clear, and what is not clear is none: speech backwards, a crowd. Some noise makes words unlikely. As loud as the
# voice, it makes Whisper invent sentences.
QUIET, LOUD = 40, 12  # dB between a loud and a quiet moment (percentiles 90 and 10)
# Each of 79 clear sentences has -0.84 or more, or the same words in both looks. Of 17 sounds like speech, those with
# words have -1.05 or less, and few of the words are the same; but "da da da" can become "Jada". To refuse a clear
# sentence is worse.
LEAST_IN_QUIET, LEAST_IN_NOISE, LEAST_IN_LOUD_NOISE = -0.9, -0.95, -0.75

# Without an initial prompt, so for other languages, Whisper's own rule (openai/whisper, transcribe.py): words that it
# finds unlikely are decoded again at a higher temperature, and are dropped if it also takes the sound for no speech.
UNLIKELY = -1.0
NO_SPEECH = 0.6
# One retry, at 0.6, with one sample: whisper.cpp would go on to 1 in steps of 0.2 with five samples each, which takes
# many times as long and invents more and more.
RETRY_TEMPERATURE = 0.6
# Per second. English at 7 words per second, as fast as anybody speaks, has 9 to 10; a loop would go on to 220 in each
# recording.
MOST_ENGLISH_TOKENS = 25


class Heard(NamedTuple):
    """The text of one window. logs: the log probabilities of its tokens; where the text ends in a loop, of those before
    it begins: later all of them look likely."""

    text: str
    logs: list[float]
    loops: bool = False

    @property
    def likely(self) -> float:
        """The mean log probability of a token: nearer to 0 is more likely."""
        return sum(self.logs) / len(self.logs) if self.logs else -math.inf


class Worker:
    """whisper.cpp with a loaded model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: path, language (a code or `auto`), translate, threads, prompt (see whisper.py).

        Raises: UserError 64 for a language that Whisper does not know; UserError 66 for a file whose name is not
        UTF-8; ModuleNotFoundError. A damaged model ends the process with a signal.
        """
        import _pywhispercpp
        from pywhispercpp.model import Model

        language = settings["language"]
        if language not in ("auto", *Model.available_languages()):
            remedy = "Give a code such as en, de or ja, or auto."
            raise UserError(os.EX_USAGE, f"Whisper does not know the language {language!r}", remedy)
        try:
            settings["path"].encode()
        except UnicodeEncodeError as error:
            what = f"whisper.cpp opens no file whose name is not UTF-8: {settings['path']}"
            raise UserError(os.EX_NOINPUT, what, "Rename the file or its folder.") from error
        self._library = _pywhispercpp
        self._threads = settings["threads"]
        self._prompt = settings["prompt"]
        # The language is detected in the window that the last recording had: whisper.cpp's own, for all of them
        self._detects = language == "auto"
        self._to_english = language == "en" or settings["translate"]
        self._model: Any = Model(
            settings["path"],
            n_threads=self._threads,
            language=language,
            translate=settings["translate"],
            suppress_nst=True,  # no notes, brackets and other signs that nobody speaks
            logprob_thold=UNLIKELY,
            no_speech_thold=NO_SPEECH,
            greedy={"best_of": 1},
            print_progress=False,
        )
        self._model.print_timings()  # a model that could not be loaded is a null pointer; this is its first use

    def transcribe(self, pcm: bytes) -> dict[str, Any]:
        """The words in `pcm` (s16le, 16 kHz, mono) as text, language and confidence."""
        import numpy as np

        heard, longest = [], WINDOW if self._detects else LONGEST
        for piece in endpointing.pieces(pcm, longest) if len(pcm) > longest * BYTES_PER_SECOND else [pcm]:
            heard.append(self._hear(np.frombuffer(piece, np.int16).astype(np.float32) / 32768))
        logs = [log for one in heard for log in one.logs if one.text]
        return {
            "text": " ".join(one.text for one in heard if one.text),
            "language": self._language(),
            "confidence": math.exp(sum(logs) / len(logs)) if logs else None,
        }

    def _hear(self, samples: Any) -> Heard:
        """What is said in at most one window of samples (float32, -1…1)."""
        quick = self._decode(samples, self._prompt, quick=True)
        if quick.likely >= LIKELY and not quick.loops and not self._is_echo(quick):
            return quick
        return self._doubt(samples, quick) if self._prompt else self._retry(samples)

    def _doubt(self, samples: Any, quick: Heard) -> Heard:
        """The text after a second look, from the first word on, or none."""
        if self._is_echo(quick):
            plain = self._decode(samples, "", quick=True)
            return plain if plain.likely >= LIKELY else Heard("", [])
        first = onset(samples)
        again = quick
        if first or quick.loops:  # a loop ends in another window
            again = self._decode(samples[first:], self._prompt, quick=not quick.loops)
        looks = [look for look in (quick, again) if not look.loops] or [quick]
        found = max(looks, key=lambda look: look.likely)
        louder = contrast(samples)
        least = LEAST_IN_QUIET if louder >= QUIET else LEAST_IN_NOISE if louder >= LOUD else LEAST_IN_LOUD_NOISE
        same = louder >= QUIET and first > 0 and _words(quick.text) == _words(again.text)
        return found if found.likely >= least or same else Heard("", [])

    def _retry(self, samples: Any) -> Heard:
        """The text in the longest window; unlikely text is decoded a second time. The probabilities stay those of the
        first time: at a higher temperature all tokens look likely."""
        heard = self._decode(samples)
        if heard.likely >= UNLIKELY:
            return heard
        self._refresh_no_speech()
        return heard._replace(text=self._decode(samples, temperature_step=RETRY_TEMPERATURE).text)

    def _is_echo(self, heard: Heard) -> bool:
        """Whether the words are none but those of the initial prompt: Whisper writes them where it hears none."""
        return set(_words(heard.text)) <= set(_words(self._prompt))

    def _decode(self, samples: Any, prompt: str = "", quick: bool = False, temperature_step: float = 0) -> Heard:
        """What whisper.cpp writes down for at most one window of samples. quick: in a window cut to their length."""
        import numpy as np

        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # it was never trained with less than a second
        steps = max(LEAST_STEPS, math.ceil((STEPS * len(samples) / RATE + SPARE) / BLOCK) * BLOCK)
        steps = 0 if self._detects else steps if quick else MOST_STEPS
        segments = self._model.transcribe(
            samples,
            no_timestamps=True,
            single_segment=True,
            max_tokens=MOST_ENGLISH_TOKENS * len(samples) // RATE if self._to_english else 0,
            temperature_inc=temperature_step,
            initial_prompt=prompt,
            audio_ctx=steps,
        )
        text = " ".join(segment.text for segment in segments)
        logs = self._logs()
        once = repetition.collapse(text)
        if once == text:
            return Heard(text, logs)
        before = next((at for at, (a, b) in enumerate(zip(once, text, strict=False)) if a != b), len(once)) / len(text)
        return Heard(text, logs[: max(1, round(before * len(logs)))], loops=True)

    # What pywhispercpp does not offer: the uses of its private module and of the model's context.

    def _logs(self) -> list[float]:
        """The log probabilities of the tokens just written."""
        context, library = self._model._ctx, self._library
        return [
            library.whisper_full_get_token_data(context, segment, token).plog
            for segment in range(library.whisper_full_n_segments(context))
            for token in range(library.whisper_full_n_tokens(context, segment))
        ]

    def _refresh_no_speech(self) -> None:
        """Let the next call see the right probability of no speech.

        whisper.cpp (1.8.5 to 1.9.3; its pull request 3945) reads that probability from stale logits, unless it detects
        the language. One decoder step after the start-of-transcript token, over the sound just heard, fills them.
        """
        context = self._model._ctx
        start = self._library.whisper_token_sot(context)
        self._library.whisper_decode(context, start, 1, 0, self._threads)

    def _language(self) -> str:
        """The language of the last recording: the one that was set or, with `auto`, the one that was detected."""
        context = self._model._ctx
        return str(self._library.whisper_lang_str(self._library.whisper_full_lang_id(context)))


def contrast(samples: Any) -> float:
    """How much louder the loud moments (32 ms) of a recording are than the quiet ones, in dB. samples: -1…1."""
    import numpy as np

    levels = _levels(samples, 512)
    return float(20 * np.log10(np.percentile(levels, 90) / np.percentile(levels, 10)))


def onset(samples: Any) -> int:
    """The sample just before the first word, or 0 where noise hides it. samples: -1…1."""
    import numpy as np

    levels = _levels(samples, 160)
    first = np.argmax(levels > np.percentile(levels, 90) * 10 ** (-ONSET / 20)) * 160
    return max(0, int(first - ROOM * RATE))


def _levels(samples: Any, size: int) -> Any:
    """The root mean square of each `size` samples."""
    import numpy as np

    return np.sqrt((samples[: len(samples) // size * size].reshape(-1, size) ** 2).mean(axis=1)) + 1 / 32768


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


if __name__ == "__main__":
    main(Worker)
