"""The recogniser faster-whisper (CTranslate2), in a process of its own: see faster_whisper_worker.py.

with faster_whisper.FasterWhisper(folder, "en") as recogniser:
    recogniser.wait_until_loaded()
    transcript = recogniser.transcribe(pcm)
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.catalog import ct2, ggml
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND
from helpers.listen import whisper
from helpers.listen.recogniser_process import RecogniserProcess, cores
from helpers.listen.transcript import Transcript, Word
from helpers.words import repetition

if TYPE_CHECKING:
    from helpers.listen.recognisers import Choice

log = logging.getLogger(__name__)


@contextlib.contextmanager
def load(choice: Choice) -> Iterator[FasterWhisper]:
    """The loaded recogniser; on the processor if the GPU cannot be used, and a warning says why.

    Raises: UserError 64 for a language that Whisper does not know; 65 for a damaged model.
    """
    assert choice.path
    language = "auto" if choice.translate and choice.language == "en" else choice.language
    arguments = choice.path, language, choice.translate, choice.threads
    with contextlib.ExitStack() as stack:
        recogniser = stack.enter_context(
            FasterWhisper(*arguments, on_gpu=ct2.uses_nvidia(), vocabulary=choice.vocabulary)
        )
        try:
            recogniser.wait_until_loaded()
        except UserError as error:
            if error.code != os.EX_UNAVAILABLE:
                raise
            log.warning("%s; the processor is used", error.message)
            recogniser = stack.enter_context(FasterWhisper(*arguments, vocabulary=choice.vocabulary))
            recogniser.wait_until_loaded()
        yield recogniser


class FasterWhisper(RecogniserProcess):
    """faster-whisper with a model. It starts to load at once, and its process ends with the `with` block."""

    def __init__(
        self,
        folder: Path,
        language: str = "en",
        translate: bool = False,
        threads: int | None = None,
        on_gpu: bool = False,
        precision: str = "",
        vocabulary: Iterable[str] = (),
    ) -> None:
        """Start to load the model in `folder`. language: a code such as `de`, or `auto`; threads: by default one per
        processor; precision: CTranslate2's name of a type, by default int8 on a processor and float16 on a GPU;
        vocabulary: names that it should expect.

        Raises: UserError 65 if it is no such model.
        """
        model = ct2.inspect(folder)
        self.name = f"faster-whisper {folder.name}"
        self.languages, self.translates = model
        settings: dict[str, Any] = {
            "path": str(folder.resolve()),
            "language": language,
            "translate": translate,
            "threads": threads or cores(),
            "prompt": whisper.PROMPT if language == "en" else "",
            "names": whisper.names_that_fit(language, vocabulary),
            "device": "cuda" if on_gpu else "cpu",
            "precision": precision or ("float16" if on_gpu else "int8"),
        }
        remedy = ggml.remedy(folder / "model.bin")
        super().__init__("helpers.listen.faster_whisper_worker", "faster-whisper", folder, remedy, settings)

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono), possibly none, and when each was said: without endless repetitions,
        and without what Whisper itself takes for no speech. Call it after `wait_until_loaded`.

        Raises: UserError 65 if it crashed.
        """
        answer = self.ask(pcm)
        text = repetition.sayable(answer["text"], len(pcm) / BYTES_PER_SECOND)
        words = tuple(Word(*word) for word in answer["words"]) if text == answer["text"] else ()
        return Transcript(text, answer["language"], answer["confidence"] if text else None, words)
