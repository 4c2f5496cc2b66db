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
from itertools import islice
from pathlib import Path
from typing import Any

from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE, WINDOW
from helpers.listen import belief, endpointing
from helpers.listen.belief import Look
from helpers.listen.recogniser_process import main

# CTranslate2 writes half as many tokens as it is told, and never more than half of the decoder's 448 positions.
MOST_TOKENS = 220
LONGEST = WINDOW - 1  # seconds of English in a window: belief.py may move it a little
# In the order in which one needs the other. CTranslate2 opens libcublas.so.12 by name, and finds it if it is loaded.
_CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")


class Worker:
    """faster-whisper with a loaded model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: path, language (a code or `auto`), translate, threads, prompt and names (see whisper.py), device,
        precision.

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
        self._prompt, self._names = settings["prompt"], settings["names"]
        self._to_english = language == "en" or settings["translate"]
        self._spoken = language  # what was detected in the last recording

    def transcribe(self, pcm: bytes) -> dict[str, Any]:
        """The words in `pcm` (s16le, 16 kHz, mono): text, language, confidence, and when each word was said."""
        import numpy as np

        heard: list[Look] = []
        words: list[tuple[str, float, float]] = []
        at = 0.0
        longest = LONGEST if self._prompt else math.inf
        for piece in endpointing.pieces(pcm, longest) if len(pcm) > longest * BYTES_PER_SECOND else [pcm]:
            samples = np.frombuffer(piece, np.int16).astype(np.float32) / 32768
            if self._prompt:
                heard.append(belief.heard(samples, self._prompt, self._look, self._names))
            else:
                heard.append(self._hear(samples))
            words += [(text, round(at + begin, 2), round(at + end, 2)) for text, begin, end in heard[-1].words]
            at += len(samples) / RATE
        logs = [log for one in heard for log in one.logs if one.text]
        return {
            "text": " ".join(one.text for one in heard if one.text),
            "language": self._spoken,
            "confidence": math.exp(sum(logs) / len(logs)) if logs else None,
            "words": words,
        }

    def _hear(self, samples: Any) -> Look:
        """What is said in samples (float32, -1…1), in another language than English.

        Unlikely text is decoded a second time, without what is no speech. The probabilities stay those of the first
        time: at a higher temperature all tokens look likely.
        """
        segments = self._decode(samples)
        heard = _look_of(segments)
        if any(segment.avg_logprob < belief.UNLIKELY for segment in segments):
            again = _look_of(self._decode(samples, temperature=belief.RETRY_TEMPERATURE))
            return again._replace(logs=heard.logs)
        return heard

    def _look(self, samples: Any, prompt: str, quick: bool) -> Look:
        return _look_of(self._decode(samples, prompt))

    def _decode(self, samples: Any, prompt: str = "", temperature: float = 0) -> list[Any]:
        """The segments that faster-whisper finds in samples (float32, -1…1)."""
        import numpy as np

        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # it was never trained with less than a second
        short = len(samples) <= WINDOW * RATE
        limit = 2 * belief.MOST_ENGLISH_TOKENS * len(samples) // RATE
        segments, info = self._model.transcribe(
            samples,
            language=self._language,
            task=self._task,
            beam_size=1,
            best_of=1,
            temperature=[temperature],
            log_prob_threshold=belief.UNLIKELY,
            no_speech_threshold=belief.NO_SPEECH,
            initial_prompt=prompt or None,
            condition_on_previous_text=False,
            without_timestamps=short,
            word_timestamps=True,
            max_new_tokens=limit if self._to_english and limit <= MOST_TOKENS else None,
        )
        self._spoken = info.language
        # One window is one segment; faster-whisper would look for more in the silence after the last word.
        return list(islice(segments, 1) if short else segments)


def _look_of(segments: list[Any]) -> Look:
    logs = [segment.avg_logprob for segment in segments for _ in segment.tokens]
    words = ((word.word.strip(), float(word.start), float(word.end)) for one in segments for word in one.words or ())
    return belief.look_of(" ".join(segment.text.strip() for segment in segments), logs, tuple(words))


def _load_cublas() -> None:
    """Load cuBLAS of CUDA 12 from the package nvidia-cublas-cu12. Raises OSError."""
    found = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cublas")
    for folder in found.submodule_search_locations or () if found else ():
        for name in _CUBLAS:
            ctypes.CDLL(str(Path(folder) / "lib" / name), ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    main(Worker)
