"""The recogniser that needs no download: pocketsphinx, its own acoustic model of US English, and a language model of
the built-in image model's little world (training.builtin.language_model).

It is loaded in a tenth of a second, takes about a twentieth of the length of a recording, and knows some 500 words.
"""

from __future__ import annotations

import math
import os

from helpers.catalog import catalog
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE

FOLDER = ROOT / "models" / "builtin" / "recogniser"

PEAK = 8000  # of 32768; every recording is brought to it
# Room noise for recordings that have none: the acoustic model has never heard digital silence between words. Without
# it a gated or synthetic voice had a word error rate of 65 %, with it 5 %. A microphone brings more of it than this.
NOISE = 30
FRAME = RATE // 50  # samples; 20 ms
MARGIN = RATE // 5  # samples of silence that stay before the first word and after the last
# Speech of other words becomes a salad of the known ones. Below this it is taken for one: of prompts that were heard
# well (synthetic voices) 1 in 100 lay there, of speech about something else 7 in 10.
DOUBT = -9.5


class BuiltinRecogniser:
    """English of the little world; loaded when it is made. Raises UserError 69 when its files are not there."""

    def __init__(self) -> None:
        import numpy  # noqa: F401  (now, and not when the recording has ended)
        from pocketsphinx import Decoder

        files = {"lm": str(FOLDER / "captions.arpa"), "dict": str(FOLDER / "pronunciations.dict")}
        try:
            self._decoder = Decoder(**files, samprate=RATE, loglevel="FATAL")
        except RuntimeError as error:
            message = f"the built-in recogniser cannot be loaded from {FOLDER}"
            raise UserError(os.EX_UNAVAILABLE, message, "Get its files back: git restore models/builtin") from error

    def transcribe(self, pcm: bytes) -> str:
        """The words in `pcm` (s16le, 16 kHz, mono), in lower case; none when nothing in it rises above the rest.

        Raises: UserError 65 for speech that is not of the little world.
        """
        speech = trimmed(pcm)
        if not speech:
            return ""
        self._decoder.start_utt()
        # All at once: the cepstral mean of the whole utterance serves far better than a running one.
        self._decoder.process_raw(speech, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        if not hypothesis or not hypothesis.hypstr:
            return ""
        text: str = hypothesis.hypstr
        seconds = len(speech) / BYTES_PER_SECOND
        if math.log(max(hypothesis.prob, 1e-300)) / seconds + self._fluency(text) < DOUBT:
            message = f"this was not understood; the nearest words are: {text}"
            better = catalog.default("english").name
            remedy = (
                f'Say it simply, as in "a cat on the beach", or get a better recogniser: ./download_model.py {better}'
            )
            raise UserError(os.EX_DATAERR, message, remedy)
        return text

    def _fluency(self, text: str) -> float:
        """The mean log probability of a word of `text` in the language model: about -2, for a salad of words -5."""
        words = ["<s>", *text.split(), "</s>"]
        model = self._decoder.get_lm()
        steps = range(1, len(words))
        scores = (model.prob(words[max(0, i - 2) : i + 1][::-1]) for i in steps)  # the word, then its history backwards
        return math.log(1.0001) * float(sum(scores)) / len(steps)  # pocketsphinx counts in powers of 1.0001


def trimmed(pcm: bytes) -> bytes:
    """What of `pcm` is speech, from the first to the last loud frame, at an even level and with some room noise.

    Empty when no frame is louder than the others, as in steady noise, a hum or a tone. Long silence has to go because
    it shifts the cepstral mean: 3 s of it before and after doubled the word error rate.
    """
    import numpy as np

    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    samples *= PEAK / max(1, np.abs(samples).max(initial=0))
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    if not len(frames):
        return b""
    levels = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(levels > max(2.5 * np.percentile(levels, 10), 0.02 * levels.max()))  # 8 dB, -34 dB
    if not len(loud):
        return b""
    first, last = loud[0] * FRAME, (loud[-1] + 1) * FRAME
    samples = np.pad(samples, MARGIN)[first : last + 2 * MARGIN]
    samples += np.random.default_rng(0).normal(0, NOISE, len(samples))
    return samples.astype(np.int16).tobytes()
