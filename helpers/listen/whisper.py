"""whisper.cpp in a process of its own, because a damaged model is not an error there but a SIGSEGV.

    model = whisper.inspect(path)                  # UserError when the file cannot be a Whisper model
    whisper.check(path)                            # UserError when its parts lie, for one of unknown origin
    with whisper.Whisper(model, "en") as recogniser:
        text = recogniser.transcribe(pcm)          # UserError when whisper.cpp died, with what it said last

The worker is `python -m helpers.listen.whisper FD SETTINGS`. Over a multiprocessing connection it gets PCM, one
recording a message, and answers each with a JSON object: {"text": …, "language": …}, or {"code": …, "message": …} and
ends. Its first answer, {}, says that the model is loaded. It ends when the connection does, so it never outlives
the stage.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE, WINDOW
from helpers.words import repetition

# What Whisper reads before it listens: it then writes a description, lower case and without a full stop less often.
PROMPT = "A short description of a picture: a red apple on a wooden table, soft morning light."

# The judgement of Whisper itself (openai/whisper, transcribe.py): words that it finds unlikely (mean log probability of
# a token) are tried again at a higher temperature, and are no words where it also takes the sound for no speech.
UNLIKELY = -1.0
NO_SPEECH = 0.6
# Once, at 0.6, and with one sample: whisper.cpp would go on until 1 in steps of 0.2 with five samples each, which takes
# many times as long for ever freer inventions.
HOTTER = 0.6
# Per second. English at the 7 words that a mouth can say has 9 to 10; a loop would go on to 220 for each recording.
MOST_ENGLISH_TOKENS = 25

# Header of a ggml Whisper file (whisper.cpp, models/convert-pt-to-ggml.py): magic and eleven numbers.
_MAGIC = b"lmgg"
_ENGLISH_ONLY = 51864  # tokens; multilingual models have one or two more
# Bits a weight takes by ggml file type, without the quantization version in the thousands; 2.5 is below any other.
_BITS = {0: 32, 1: 16, 2: 4.5, 3: 5, 7: 8.5, 8: 5.5, 9: 6}
_AUDIO_CONTEXT, _TEXT_CONTEXT = 1500, 448  # of every Whisper model; memory is taken for as many as a file says
_FILTER = 201  # frequencies of a mel filter
# Weights in a block and bytes of one, by ggml's type of a tensor (ggml.h): f32, f16, q4_0 … q8_0, bf16, q2_K … q6_K.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 30: (1, 2)}
_BLOCKS |= {10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)}


class Model(NamedTuple):
    """A file that looks like a Whisper model, and what its header says it can do."""

    path: Path
    multilingual: bool
    translates: bool


def inspect(path: Path) -> Model:
    """Read the header of the model file at `path`.

    Raises: UserError 65 not a Whisper model, or cut short; 66 no such file; 77 not permitted.
    """
    try:
        with path.open("rb") as file:
            header = file.read(48)
            size = os.fstat(file.fileno()).st_size
    except PermissionError as error:
        raise UserError(os.EX_NOPERM, f"{path} may not be read", "Give yourself the right to read it.") from error
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {path}: {error.strerror}", "Check the name.") from error
    if header[:4] != _MAGIC or len(header) < 48:
        raise _unusable(path, "is not a Whisper model in ggml format")
    sizes = struct.unpack("<11i", header[4:])
    tokens, heard, width, _, encoder, said, _, _, decoder, mels, kind = sizes
    known = _ENGLISH_ONLY <= tokens <= _ENGLISH_ONLY + 2 and mels in (80, 128)
    if not (known and (heard, said) == (_AUDIO_CONTEXT, _TEXT_CONTEXT) and min(sizes[:10]) > 0):
        raise _unusable(path, "is not a Whisper model in ggml format")
    weights = tokens * width + (12 * encoder + 16 * decoder) * width**2  # the matrices; the rest is small
    if size < weights * _BITS.get(kind % 1000, 2.5) / 8:
        raise _unusable(path, "is cut short")
    multilingual = tokens > _ENGLISH_ONLY
    # The turbo and distilled models have lost the layers, and the training, that translating takes.
    return Model(path, multilingual, translates=multilingual and decoder == encoder)


def check(path: Path) -> None:
    """Follow every length in a file that `inspect` has let pass, and that nobody has vouched for: whisper.cpp takes
    memory for what they say, and writes as many dimensions of a tensor as the file has over four places on its stack.

    Raises: UserError 65 for one that leads out of the file.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size

        def numbers(count: int) -> tuple[int, ...]:
            return struct.unpack(f"<{count}i", file.read(4 * count))

        def skip(count: int, most: int) -> None:
            if not 0 <= count <= most or file.tell() + count > size:
                raise ValueError
            file.seek(count, os.SEEK_CUR)

        try:
            file.seek(40)
            mels, _ = numbers(2)
            if numbers(2) != (mels, _FILTER):
                raise ValueError
            skip(4 * mels * _FILTER, size)
            (words,) = numbers(1)
            if words > _ENGLISH_ONLY + 2:
                raise ValueError
            for _ in range(words):
                skip(numbers(1)[0], 1000)
            while file.tell() < size:
                dimensions, name, kind = numbers(3)
                if not 1 <= dimensions <= 4:
                    raise ValueError
                shape = numbers(dimensions)
                weights, held = _BLOCKS[kind]
                skip(name, 1000)
                skip(math.prod(shape) // weights * held if min(shape) > 0 else -1, size)
        except (KeyError, ValueError, struct.error) as error:
            raise _unusable(path, "is damaged: its parts do not fit into it") from error


def _unusable(path: Path, why: str) -> UserError:
    return UserError(os.EX_DATAERR, f"{path} {why}", _fetch(path))


def _fetch(path: Path) -> str:
    """What to do about a damaged model file: the catalogue keeps a model in a folder of its name."""
    from helpers.catalog import catalog

    if path.parent.name in catalog.entries():
        name = path.parent.name
        return f"Get it anew: ./download_model.py --remove {name}; ./download_model.py {name}"
    return "Give another file; ./download_model.py list shows models that work."


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Whisper:
    """whisper.cpp with a model; it starts to load at once, and ends with the `with` block."""

    def __init__(self, model: Model, language: str = "en", translate: bool = False, threads: int | None = None) -> None:
        """Start to load `model`. language: a code such as `de`, or `auto`; threads: by default one per processor."""
        settings = {
            "path": str(model.path.resolve()),
            "language": language,
            "translate": translate,
            "threads": threads or cores(),
            "prompt": PROMPT if language == "en" else "",
        }
        self._path, self._detects = model.path, language == "auto"
        self._connection, theirs = multiprocessing.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        output = sys.stderr.fileno() if stage.is_set("VERBOSE") else self._log
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "helpers.listen.whisper", str(theirs.fileno()), json.dumps(settings)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
            )

    def wait_until_loaded(self) -> None:
        """Raises: UserError 64 for a language that Whisper does not know; 65 when it cannot load the model."""
        self._answer()

    def transcribe(self, pcm: bytes) -> str:
        """The words in `pcm` (s16le, 16 kHz, mono), possibly none: no loops, and nothing that whisper.cpp itself takes
        for no speech. Where the language is to be detected, the one that was found is noted.

        Raises: UserError 65 when whisper.cpp died of it.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is told by what it answers
            self._connection.send_bytes(pcm)
        answer = self._answer()
        if self._detects:
            stage.event("language", found=answer["language"])
        return repetition.sayable(answer["text"], len(pcm) / BYTES_PER_SECOND)

    def _answer(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            said = f"; it said: {complaint}" if (complaint := self._complaint()) else ""
            message = f"whisper.cpp crashed ({how}) on {self._path}{said}"
            raise UserError(os.EX_DATAERR, message, _fetch(self._path)) from error
        if missing := answer.get("missing"):
            raise ModuleNotFoundError(name=missing)
        if "message" in answer:
            raise UserError(answer["code"], answer["message"], answer["remedy"])
        return answer

    def _complaint(self) -> str:
        """The last line on the worker's stderr that tells of an error."""
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


# ---- the worker


def _work(connection: Connection, settings: dict[str, Any]) -> None:
    """Load the model, then answer recordings until nobody sends any more."""

    def answer(**what: object) -> None:
        connection.send_bytes(json.dumps(what).encode())

    try:
        import _pywhispercpp as library
        import numpy as np
        from pywhispercpp.model import Model as Engine
    except ModuleNotFoundError as error:
        return answer(missing=error.name)
    language = settings["language"]
    if language not in ("auto", *Engine.available_languages()):
        remedy = "Give a code such as en, de or ja, or auto."
        return answer(code=os.EX_USAGE, message=f"Whisper does not know the language {language!r}", remedy=remedy)
    engine: Any = Engine(
        settings["path"],
        n_threads=settings["threads"],
        language=language,
        translate=settings["translate"],
        initial_prompt=settings["prompt"],
        suppress_nst=True,  # no notes, brackets and other signs that nobody speaks
        logprob_thold=UNLIKELY,
        no_speech_thold=NO_SPEECH,
        greedy={"best_of": 1},
        print_progress=False,
    )
    engine.print_timings()  # a model that could not be loaded is a null pointer, and this the first use of it
    answer()

    def hear(samples: Any, hotter: float = 0) -> list[Any]:
        samples = np.pad(samples, (0, max(0, RATE - len(samples))))  # it was never taught with less than a second
        # Timestamps cost tokens and time, but only with them a longer recording is not cut in the middle of a word.
        short = len(samples) <= WINDOW * RATE
        english = language == "en" or settings["translate"]
        segments: list[Any] = engine.transcribe(
            samples,
            no_timestamps=short,
            single_segment=short,
            max_tokens=MOST_ENGLISH_TOKENS * len(samples) // RATE if short and english else 0,
            temperature_inc=hotter,
            extract_probability=True,
        )
        return segments

    def judged(samples: Any) -> str:
        """What is said in `samples`, at most one window: what whisper.cpp doubts is judged by it once more.

        It takes the probability of no speech from a row of logits that it has not computed (whisper.cpp 1.8.5 to 1.9.3;
        its pull request 3945), unless the language is detected; one step of the decoder after the start of a
        transcript, over what it has just heard, leaves there what belongs there.
        """
        segments = hear(samples)
        if any(doubts(segment) for segment in segments):
            library.whisper_decode(engine._ctx, library.whisper_token_sot(engine._ctx), 1, 0, settings["threads"])
            segments = hear(samples, HOTTER)
        return words(segments)

    def doubts(segment: Any) -> bool:
        return not segment.probability >= math.exp(UNLIKELY)  # a segment without a token has none

    def words(segments: list[Any]) -> str:
        return " ".join(segment.text for segment in segments)

    while True:
        samples = np.frombuffer(connection.recv_bytes(), np.int16).astype(np.float32) / 32768
        if len(samples) <= WINDOW * RATE:
            text = judged(samples)
        else:
            parts = hear(samples)
            hundredth = RATE // 100
            text = " ".join(
                judged(samples[part.t0 * hundredth : part.t1 * hundredth]) if doubts(part) else part.text
                for part in parts
            )
        answer(text=text, language=library.whisper_lang_str(library.whisper_full_lang_id(engine._ctx)))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage, which ends us
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _work(Connection(int(sys.argv[1])), json.loads(sys.argv[2]))
