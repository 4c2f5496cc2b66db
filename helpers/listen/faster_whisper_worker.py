"""The process in which faster-whisper runs: `python -m helpers.listen.faster_whisper_worker FD SETTINGS`.

It answers each recording with {"text": …, "language": …, "confidence": …, "words": [[text, begin, end], …]}; see
recogniser_process.py. A process of its own, because CTranslate2 (4.8) loads CUDA 12's cuBLAS, PyTorch (2.13) CUDA 13's,
and because a damaged model may crash it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

from helpers.core.errors import UserError
from helpers.core.pcm import RATE, WINDOW
from helpers.listen.recogniser_process import main
from helpers.listen.whisper_worker import MOST_ENGLISH_TOKENS, NO_SPEECH, RETRY_TEMPERATURE, UNLIKELY

# CTranslate2 writes half as many tokens as it is told, and never more than half of the decoder's 448 positions.
MOST_TOKENS = 220
# In the order in which one needs the other. CTranslate2 opens libcublas.so.12 by name, and finds it if it is loaded.
_CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")


class Worker:
    """faster-whisper with a loaded model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: path, language (a code or `auto`), translate, threads, prompt (see whisper.py), device, precision.

        Raises: UserError 64 for a language that Whisper does not know, 65 for a damaged model, 69 for a GPU that cannot
        be used; ModuleNotFoundError.
        """
        import ctranslate2
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import _LANGUAGE_CODES

        language, device, precision = settings["language"], settings["device"], settings["precision"]
        if language not in ("auto", *_LANGUAGE_CODES):
            remedy = "Give a code such as en, de or ja, or auto."
            raise UserError(os.EX_USAGE, f"Whisper does not know the language {language!r}", remedy)
        try:
            if device == "cuda":
                _load_cublas()
            if precision not in ctranslate2.get_supported_compute_types(device):
                precision = "auto"  # the quickest that this machine has
            self._model: Any = WhisperModel(
                settings["path"],
                device=device,
                compute_type=precision,
                cpu_threads=settings["threads"],
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:  # CTranslate2 and tokenizers have no others
            why = str(error).partition("\n")[0]
            if device == "cuda":
                raise UserError(os.EX_UNAVAILABLE, f"the NVIDIA GPU cannot be used: {why}") from error
            raise UserError(os.EX_DATAERR, f"faster-whisper cannot load {settings['path']}: {why}") from error
        self._language = None if language == "auto" else language
        self._task = "translate" if settings["translate"] else "transcribe"
        self._prompt = settings["prompt"]
        self._to_english = language == "en" or settings["translate"]

    def transcribe(self, pcm: bytes) -> dict[str, Any]:
        """The words in `pcm` (s16le, 16 kHz, mono): text, language, confidence, and when each word was said."""
        import numpy as np

        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
        segments, language = self._decode(samples, self._prompt)
        if self._prompt and _words(segments) and _words(segments) <= set(_split(self._prompt)):
            # Whisper writes words of the initial prompt down where it hears none.
            segments, language = self._decode(samples)
            segments = [segment for segment in segments if segment.no_speech_prob <= NO_SPEECH]
        logs = [segment.avg_logprob for segment in segments for _ in segment.tokens]
        if any(segment.avg_logprob < UNLIKELY for segment in segments):
            segments, language = self._decode(samples, self._prompt, RETRY_TEMPERATURE)  # without what is no speech
        words = [(word.word.strip(), word.start, word.end) for segment in segments for word in segment.words or ()]
        return {
            "text": " ".join(segment.text.strip() for segment in segments),
            "language": language,
            # Of the first time: at a higher temperature all tokens look likely.
            "confidence": math.exp(sum(logs) / len(logs)) if logs else None,
            "words": [(text, round(float(begin), 2), round(float(end), 2)) for text, begin, end in words],
        }

    def _decode(self, samples: Any, prompt: str = "", temperature: float = 0) -> tuple[list[Any], str]:
        """The segments that faster-whisper finds in samples (float32, -1…1), and their language."""
        import numpy as np

        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # it was never trained with less than a second
        short = len(samples) <= WINDOW * RATE
        limit = 2 * MOST_ENGLISH_TOKENS * len(samples) // RATE
        segments, info = self._model.transcribe(
            samples,
            language=self._language,
            task=self._task,
            beam_size=1,
            best_of=1,
            temperature=[temperature],
            log_prob_threshold=UNLIKELY,
            no_speech_threshold=NO_SPEECH,
            initial_prompt=prompt or None,
            condition_on_previous_text=False,
            without_timestamps=short,
            word_timestamps=True,
            max_new_tokens=limit if self._to_english and limit <= MOST_TOKENS else None,
        )
        # One window is one segment; faster-whisper would look for more in the silence after the last word.
        return list(islice(segments, 1) if short else segments), info.language


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _words(segments: list[Any]) -> set[str]:
    return {word for segment in segments for word in _split(segment.text)}


def _load_cublas() -> None:
    """Load cuBLAS of CUDA 12 from the package nvidia-cublas-cu12. Raises OSError."""
    found = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cublas")
    for folder in found.submodule_search_locations or () if found else ():
        for name in _CUBLAS:
            ctypes.CDLL(str(Path(folder) / "lib" / name), ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    main(Worker)
