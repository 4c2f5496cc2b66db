"""The recogniser that needs no download: pocketsphinx with its own acoustic model of US English, and a language model
of the subjects that the built-in image model can draw (training.builtin.language_model).

It loads in a tenth of a second, takes about a twentieth of the length of a recording, and knows some 500 words, and
the names that the user has listed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from helpers.catalog import catalog
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.listen import denoise, pronunciation
from helpers.listen.transcript import Transcript

if TYPE_CHECKING:
    from helpers.listen.recognisers import Choice

log = logging.getLogger(__name__)

FOLDER = ROOT / "models" / "builtin" / "recogniser"

PEAK = 8000  # of 32768; every recording is scaled to this peak
# Room noise for recordings that have none: the acoustic model was not trained with digital silence between words.
# Without it, a gated or synthetic voice had a word error rate of 65 %, with it 5 %. Any microphone adds more than this.
NOISE = 30
FRAME = RATE // 50  # samples; 20 ms
FRAMES = 100  # of pocketsphinx, in a second
MARGIN = RATE // 5  # samples of silence that stay before the first word and after the last
# Words outside its vocabulary become a random sequence of words in it. A score below this is taken for such a sequence:
# it refused 1 in 100 correctly recognised prompts (synthetic voices), and 7 in 10 sentences about something else.
LEAST_SCORE = -9.5
FLUENT = -2.0  # the mean log probability of a word in a caption
# A score at which half of the recordings are recognised word for word. The chance follows the logistic function of the
# score: 9 in 10 above -5, 1 in 10 below -8 (the recordings of tests/recordings.py with speech).
EVEN_SCORE = -5.9
# A word is firm if this many seconds of speech follow it, and if it, or a firm one after it, has at least this
# probability among all that the decoder considered.
FOLLOWED, PROBABLE = 0.4, 0.8


@contextlib.contextmanager
def load(choice: Choice) -> Iterator[BuiltinRecogniser]:
    """The loaded recogniser, which lowers noise first. Raises: UserError 69 if its files are missing."""
    better = catalog.read().speech(choice.language, choice.translate).name
    log.warning("the built-in recogniser knows few words; a better one: ./download_model.py %s", better)
    yield BuiltinRecogniser(denoise.denoised, choice.vocabulary)


class BuiltinRecogniser:
    """English about the built-in subjects. It is loaded when it is made."""

    name, languages, translates = "pocketsphinx", "en", False

    def __init__(self, prepare: Callable[[bytes], bytes] = lambda pcm: pcm, vocabulary: Iterable[str] = ()) -> None:
        """prepare: what is done to a recording first, for example against noise; vocabulary: names that it should
        expect, each of one or more words.

        Raises: UserError 69 if its files are missing.
        """
        import numpy  # noqa: F401  (now, and not when the recording has ended)
        from pocketsphinx import Decoder

        self._prepare = prepare
        files = {"lm": str(FOLDER / "captions.arpa"), "dict": str(FOLDER / "pronunciations.dict")}
        try:
            self._decoder = Decoder(**files, samprate=RATE, loglevel="FATAL")
        except RuntimeError as error:
            message = f"the built-in recogniser cannot be loaded from {FOLDER}"
            raise UserError(os.EX_UNAVAILABLE, message, "Get its files back: git restore models/builtin") from error
        self._learn(word for name in vocabulary for word in name.split())

    def _learn(self, words: Iterable[str]) -> None:
        """Add the words that it does not know, each as likely as the average one in its language model."""
        new = {key: word for word in words if not self._decoder.lookup_word(key := plain(word))}
        entries = [
            (key if number == 1 else f"{key}({number})", phones)
            for key, variants in (pronunciation.pronunciations(new).items() if new else ())
            for number, phones in enumerate(variants, 1)
        ]
        self._spelling = {key: new[key] for key, _ in entries if key in new}
        for number, (key, phones) in enumerate(entries, 1):
            self._decoder.add_word(key, phones, update=number == len(entries))

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono), in lower case; none if nothing in it is louder than the rest.

        Raises: UserError 65 for speech about something else.
        """
        speech = trimmed(self._prepare(pcm))
        text, score = self._recognised(speech)
        if text and score < LEAST_SCORE:
            message = f"this was not understood; the nearest words are: {text}"
            better = catalog.read().default("english").name
            remedy = (
                f'Say it simply, as in "a cat on the beach", or get a better recogniser: ./download_model.py {better}'
            )
            raise UserError(os.EX_DATAERR, message, remedy)
        text = " ".join(self._spelling.get(word, word) for word in text.split())
        if not text:
            return Transcript("", "en")
        return Transcript(text, "en", 1 / (1 + math.exp(EVEN_SCORE - score)), firm=self._firm(len(speech)))

    def _recognised(self, speech: bytes) -> tuple[str, float]:
        """The nearest words, and a score of how well they fit; see LEAST_SCORE."""
        if not speech:
            return "", 0.0
        # Its own noise removal carries what it knows of the noise from one utterance to the next: the same sound gave
        # other words, depending on what was heard before. This forgets it in 0.1 ms, and keeps the words it has learnt.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        # All at once: the cepstral mean of the whole utterance works far better than a running one.
        self._decoder.process_raw(speech, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        if not hypothesis or not hypothesis.hypstr:
            return "", 0.0
        text: str = hypothesis.hypstr
        seconds = len(speech) / BYTES_PER_SECOND
        return text, math.log(max(hypothesis.prob, 1e-300)) / seconds + self._fluency(text)

    def _firm(self, length: int) -> int:
        """How many words of the last hypothesis, which is about `length` bytes of speech, are firm; see FOLLOWED."""
        latest = (length - 2 * MARGIN) / BYTES_PER_SECOND - FOLLOWED
        words = [one for one in self._decoder.seg() if one.word[0] not in "<["]  # without silence and noise
        followed = [one for one in words if one.end_frame / FRAMES <= latest]
        return max((number for number, one in enumerate(followed, 1) if one.prob >= PROBABLE), default=0)

    def _fluency(self, text: str) -> float:
        """The mean log probability of a word of `text` in the language model: about -2, for random words -5."""
        words = ["<s>", *text.split(), "</s>"]
        model = self._decoder.get_lm()
        scores = [
            model.prob(words[max(0, i - 2) : i + 1][::-1])  # word first
            for i in range(1, len(words))
            if not {words[i], words[i - 1]} & self._spelling.keys()  # of which the model knows nothing
        ]
        if not scores:
            return FLUENT
        return math.log(1.0001) * float(sum(scores)) / len(scores)  # pocketsphinx counts in powers of 1.0001


def plain(word: str) -> str:
    """A word of the user's as its dictionary has it: in lower case, without what could be taken for a variant."""
    return word.casefold().strip(".,;:!?()").partition("(")[0]


def trimmed(pcm: bytes) -> bytes:
    """The speech in `pcm`, from the first to the last loud frame, scaled to a fixed peak and with some room noise.

    Empty if no frame is louder than the others, as in steady noise, a hum or a tone. Long silence is cut because it
    shifts the cepstral mean: 3 s before and after the speech doubled the word error rate.
    """
    import numpy as np

    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    loudness = np.abs(samples)
    # A click of a few samples is no measure of a voice, whose peak is at most 1.6 times this quantile
    peak = min(loudness.max(initial=0), 4 * np.percentile(loudness, 99.97)) if len(samples) else 0
    samples = (samples * (PEAK / max(1, peak))).clip(-PEAK, PEAK)
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
