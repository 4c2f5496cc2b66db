"""The recogniser whisper.cpp, in a process of its own: a damaged model is not an error there, but a SIGSEGV.

with whisper.Whisper(path, "en") as recogniser:
    transcript = recogniser.transcribe(pcm)    # UserError if whisper.cpp crashed, with its last message
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.catalog import ggml
from helpers.core.pcm import BYTES_PER_SECOND
from helpers.listen.recogniser_process import RecogniserProcess, cores
from helpers.listen.transcript import Transcript
from helpers.words import repetition

if TYPE_CHECKING:
    from helpers.listen.recognisers import Choice

# What Whisper reads before it listens. It has no example of a description, because Whisper writes that down where it
# hears syllables or a buzz. Word error rate over 61 clips with whisper_worker.py's short window: 8.2 %; with an example
# 9.4, without any prompt 10.6.
PROMPT = "A description of a picture."
MOST_NAMES = 400  # characters of the user's names: Whisper reads 224 tokens, and forgets the beginning of more


@contextlib.contextmanager
def load(choice: Choice) -> Iterator[Whisper]:
    """The loaded recogniser. Raises: UserError 64 for a language that Whisper does not know; 65 for a damaged model."""
    assert choice.path
    # What is to be translated is not English, whatever the usual language is.
    language = "auto" if choice.translate and choice.language == "en" else choice.language
    with Whisper(choice.path, language, choice.translate, choice.threads, choice.vocabulary) as recogniser:
        recogniser.wait_until_loaded()
        yield recogniser


def names_that_fit(language: str, vocabulary: Iterable[str] = ()) -> list[str]:
    """What Whisper can read of the user's vocabulary, the first names first; none for other languages than English,
    for which belief.py was measured."""
    names: list[str] = []
    for name in vocabulary if language == "en" else ():
        if sum(map(len, names)) + len(name) > MOST_NAMES:
            break
        names.append(name)
    return names


class Whisper(RecogniserProcess):
    """whisper.cpp with a model. It starts to load at once, and its process ends with the `with` block."""

    def __init__(
        self,
        path: Path,
        language: str = "en",
        translate: bool = False,
        threads: int | None = None,
        vocabulary: Iterable[str] = (),
    ) -> None:
        """Start to load the model file at `path`. language: a code such as `de`, or `auto`; threads: by default one
        per processor; vocabulary: names that it should expect. Raises what ggml.inspect raises."""
        model = ggml.inspect(path)
        self.name = f"whisper.cpp {path.name}"
        self.languages, self.translates = model.languages, model.translates
        settings = {
            "path": str(path.resolve()),
            "language": language,
            "translate": translate,
            "threads": threads or cores(),
            "prompt": PROMPT if language == "en" else "",
            "names": names_that_fit(language, vocabulary),
        }
        super().__init__("helpers.listen.whisper_worker", "whisper.cpp", path, ggml.remedy(path), settings)

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono), possibly none: without endless repetitions, and without what
        whisper.cpp itself takes for no speech. Call it after `wait_until_loaded`.

        Raises: UserError 65 if whisper.cpp crashed.
        """
        answer = self.ask(pcm)
        text = repetition.sayable(answer["text"], len(pcm) / BYTES_PER_SECOND)
        if not repetition.has_words(answer["text"]):
            text = ""
        return Transcript(text, answer["language"], answer["confidence"] if text else None)
