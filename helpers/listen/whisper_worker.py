"""The process in which whisper.cpp runs: `python -m helpers.listen.whisper_worker FD SETTINGS`.

It answers each recording with {"text": …, "language": …, "confidence": …}; see recogniser_process.py.
"""

from __future__ import annotations

import math
import os
from typing import Any

from helpers.core.errors import UserError
from helpers.core.pcm import RATE, WINDOW
from helpers.listen.recogniser_process import main

# Whisper's own rule (openai/whisper, transcribe.py): words that it finds unlikely (mean log probability of a token) are
# decoded again at a higher temperature, and are dropped if it also takes the sound for no speech.
UNLIKELY = -1.0
NO_SPEECH = 0.6
# One retry, at 0.6, with one sample: whisper.cpp would go on to 1 in steps of 0.2 with five samples each, which takes
# many times as long and invents more and more.
RETRY_TEMPERATURE = 0.6
# Per second. English at 7 words per second, as fast as anybody speaks, has 9 to 10; a loop would go on to 220 in each
# recording.
MOST_ENGLISH_TOKENS = 25


class Worker:
    """whisper.cpp with a loaded model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: path, language (a code or `auto`), translate, threads, prompt (see whisper.py).

        Raises: UserError 64 for a language that Whisper does not know; ModuleNotFoundError. A damaged model ends the
        process with a signal.
        """
        import _pywhispercpp
        from pywhispercpp.model import Model

        language = settings["language"]
        if language not in ("auto", *Model.available_languages()):
            remedy = "Give a code such as en, de or ja, or auto."
            raise UserError(os.EX_USAGE, f"Whisper does not know the language {language!r}", remedy)
        self._library = _pywhispercpp
        self._threads = settings["threads"]
        self._to_english = language == "en" or settings["translate"]
        self._model: Any = Model(
            settings["path"],
            n_threads=self._threads,
            language=language,
            translate=settings["translate"],
            initial_prompt=settings["prompt"],
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

        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
        texts: list[str] = []
        probabilities: list[float] = []
        if len(samples) <= WINDOW * RATE:
            texts, probabilities = self._decode_twice_if_unlikely(samples)
        else:
            for part in self._decode(samples):
                text, probability = [part.text], [part.probability]
                if _is_unlikely(part):
                    sound = samples[part.t0 * RATE // 100 : part.t1 * RATE // 100]
                    text, probability = self._decode_twice_if_unlikely(sound)
                texts += text
                probabilities += probability
        logs = [math.log(probability) for probability in probabilities if probability > 0]
        return {
            "text": " ".join(texts),
            "language": self._language(),
            "confidence": math.exp(sum(logs) / len(logs)) if logs else None,
        }

    def _decode(self, samples: Any, temperature_step: float = 0) -> list[Any]:
        """The segments that whisper.cpp finds in samples (float32, -1…1)."""
        import numpy as np

        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # it was never trained with less than a second
        # Timestamps cost tokens and time, but without them a longer recording is cut in the middle of a word.
        short = len(samples) <= WINDOW * RATE
        segments: list[Any] = self._model.transcribe(
            samples,
            no_timestamps=short,
            single_segment=short,
            max_tokens=MOST_ENGLISH_TOKENS * len(samples) // RATE if short and self._to_english else 0,
            temperature_inc=temperature_step,
            extract_probability=True,
        )
        return segments

    def _decode_twice_if_unlikely(self, samples: Any) -> tuple[list[str], list[float]]:
        """The texts and probabilities of the segments in at most one window of samples.

        Unlikely text is decoded a second time. The probabilities stay those of the first time: at a higher temperature
        all tokens look likely.
        """
        segments = self._decode(samples)
        texts = [segment.text for segment in segments]
        if any(map(_is_unlikely, segments)):
            self._refresh_no_speech()
            texts = [segment.text for segment in self._decode(samples, RETRY_TEMPERATURE)]
        return texts, [segment.probability for segment in segments]

    # What pywhispercpp does not offer: the two uses of its private module and of the model's context.

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


def _is_unlikely(segment: Any) -> bool:
    return not segment.probability >= math.exp(UNLIKELY)  # NaN for a segment without tokens


if __name__ == "__main__":
    main(Worker)
