"""The recogniser whisper.cpp, in a process of its own: a damaged model is not an error there, but a SIGSEGV.

with whisper.Whisper(path, "en") as recogniser:
    transcript = recogniser.transcribe(pcm)    # UserError if whisper.cpp crashed, with its last message
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.catalog import ggml
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND
from helpers.listen.transcript import Transcript
from helpers.words import repetition

if TYPE_CHECKING:
    from helpers.listen.recognisers import Choice

log = logging.getLogger(__name__)

# What Whisper reads before it listens: it then writes a description, and less often in lower case without a full stop.
PROMPT = "A short description of a picture: a red apple on a wooden table, soft morning light."


@contextlib.contextmanager
def load(choice: Choice) -> Iterator[Whisper]:
    """The loaded recogniser. Raises: UserError 64 for a language that Whisper does not know; 65 for a damaged model."""
    assert choice.path
    # What is to be translated is not English, whatever the usual language is.
    language = "auto" if choice.translate and choice.language == "en" else choice.language
    with Whisper(choice.path, language, choice.translate, choice.threads) as recogniser:
        recogniser.wait_until_loaded()
        yield recogniser


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Whisper:
    """whisper.cpp with a model. It starts to load at once, and its process ends with the `with` block."""

    def __init__(self, path: Path, language: str = "en", translate: bool = False, threads: int | None = None) -> None:
        """Start to load the model file at `path`. language: a code such as `de`, or `auto`; threads: by default one
        per processor. Raises what ggml.inspect raises."""
        model = ggml.inspect(path)
        self.name = f"whisper.cpp {path.name}"
        self.languages, self.translates = model.languages, model.translates
        self._path = path
        settings = {
            "path": str(path.resolve()),
            "language": language,
            "translate": translate,
            "threads": threads or cores(),
            "prompt": PROMPT if language == "en" else "",
        }
        self._connection, theirs = multiprocessing.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        output = sys.stderr.fileno() if log.isEnabledFor(logging.DEBUG) else self._log
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "helpers.listen.whisper_worker", str(theirs.fileno()), json.dumps(settings)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
            )

    def wait_until_loaded(self) -> None:
        """Raises: UserError 64 for a language that Whisper does not know; 65 if it cannot load the model."""
        self._answer()

    def transcribe(self, pcm: bytes) -> Transcript:
        """The words in `pcm` (s16le, 16 kHz, mono), possibly none: without endless repetitions, and without what
        whisper.cpp itself takes for no speech. Call it after `wait_until_loaded`.

        Raises: UserError 65 if whisper.cpp crashed.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _answer reports the crash
            self._connection.send_bytes(pcm)
        answer = self._answer()
        text = repetition.sayable(answer["text"], len(pcm) / BYTES_PER_SECOND)
        return Transcript(text, answer["language"], answer["confidence"] if text else None)

    def _answer(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            code = self._process.wait()
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            said = f"; it said: {complaint}" if (complaint := self._complaint()) else ""
            message = f"whisper.cpp crashed ({ended}) on {self._path}{said}"
            raise UserError(os.EX_DATAERR, message, ggml.remedy(self._path)) from error
        if missing := answer.get("missing"):
            raise ModuleNotFoundError(name=missing)
        if "message" in answer:
            raise UserError(answer["code"], answer["message"], answer["remedy"])
        return answer

    def _complaint(self) -> str:
        """The last line on the worker's stderr that reports an error."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        words = ("error", "fail", "invalid", "bad ", "assert")
        return next((line.strip() for line in reversed(lines) if any(word in line.lower() for word in words)), "")

    def __enter__(self) -> Whisper:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._log.close()
