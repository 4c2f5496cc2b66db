"""The process in which whisper.cpp runs: `python -m helpers.listen.whisper_worker FD SETTINGS`.

It answers each recording with {"text": …, "language": …, "confidence": …}; see recogniser_process.py.
"""

from __future__ import annotations

import math
import os
from typing import Any

from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE, WINDOW
from helpers.listen import belief, endpointing
from helpers.listen.belief import Look
from helpers.listen.recogniser_process import main

# The encoder computes a window of 30 s in steps of 20 ms, whatever the length of the recording (`audio_ctx`). A window
# cut to the length takes a third of the time. A shorter one than 512 makes the decoder repeat itself. whisper.cpp reads
# a multiple of 256 steps (GGML_PAD in whisper.cpp), so with another number, such as the 1500 of the whole window, it
# would also read what was left there by the recording before, and its text would depend on that.
STEPS, SPARE, BLOCK = 50, 128, 256  # in a second; after the recording; in a block
LEAST_STEPS, MOST_STEPS = 512, 1280
LONGEST = (MOST_STEPS - SPARE) // STEPS  # seconds of sound in a window


class Worker:
    """whisper.cpp with a loaded model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: path, language (a code or `auto`), translate, threads, prompt and names (see whisper.py).

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
        self._prompt, self._names = settings["prompt"], settings["names"]
        # The language is detected in the window that the last recording had: whisper.cpp's own, for all of them
        self._detects = language == "auto"
        self._to_english = language == "en" or settings["translate"]
        self._model: Any = Model(
            settings["path"],
            n_threads=self._threads,
            language=language,
            translate=settings["translate"],
            suppress_nst=True,  # no notes, brackets and other signs that nobody speaks
            logprob_thold=belief.UNLIKELY,
            no_speech_thold=belief.NO_SPEECH,
            greedy={"best_of": 1},
            print_progress=False,
        )
        self._model.print_timings()  # a model that could not be loaded is a null pointer; this is its first use

    def transcribe(self, pcm: bytes) -> dict[str, Any]:
        """The words in `pcm` (s16le, 16 kHz, mono) as text, language and confidence."""
        import numpy as np

        heard, longest = [], WINDOW if self._detects else LONGEST
        for piece in endpointing.pieces(pcm, longest) if len(pcm) > longest * BYTES_PER_SECOND else [pcm]:
            samples = np.frombuffer(piece, np.int16).astype(np.float32) / 32768
            if self._prompt:
                heard.append(belief.heard(samples, self._prompt, self._look, self._names))
            else:
                heard.append(self._hear(samples))
        logs = [log for one in heard for log in one.logs if one.text]
        return {
            "text": " ".join(one.text for one in heard if one.text),
            "language": self._language(),
            "confidence": math.exp(sum(logs) / len(logs)) if logs else None,
        }

    def _hear(self, samples: Any) -> Look:
        """What is said in at most one window of samples (float32, -1…1), in another language than English.

        Unlikely text is decoded a second time. The probabilities stay those of the first time: at a higher temperature
        all tokens look likely.
        """
        heard = self._look(samples, "", quick=True)
        if heard.likely >= belief.LIKELY and not heard.loops:
            return heard
        heard = self._look(samples)
        if heard.likely >= belief.UNLIKELY:
            return heard
        self._refresh_no_speech()
        return heard._replace(text=self._look(samples, temperature_step=belief.RETRY_TEMPERATURE).text)

    def _look(self, samples: Any, prompt: str = "", quick: bool = False, temperature_step: float = 0) -> Look:
        """What whisper.cpp writes down for at most one window of samples. quick: in a window cut to their length."""
        import numpy as np

        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # it was never trained with less than a second
        steps = max(LEAST_STEPS, math.ceil((STEPS * len(samples) / RATE + SPARE) / BLOCK) * BLOCK)
        steps = 0 if self._detects else min(steps, MOST_STEPS) if quick else MOST_STEPS
        segments = self._model.transcribe(
            samples,
            no_timestamps=True,
            single_segment=True,
            max_tokens=belief.MOST_ENGLISH_TOKENS * len(samples) // RATE if self._to_english else 0,
            temperature_inc=temperature_step,
            initial_prompt=prompt,
            audio_ctx=steps,
        )
        text = " ".join(segment.text for segment in segments)
        return belief.look_of(text, self._logs())

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


if __name__ == "__main__":
    main(Worker)
