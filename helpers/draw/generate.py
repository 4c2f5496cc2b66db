"""The last stage: each line on stdin is a prompt. Its picture goes into a folder of its own, the path to stdout.

The model is loaded while the user is still speaking, so that only the sampling remains when the line arrives. With
`--again FILE` stdin is not read: the picture in FILE is drawn again.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from helpers.core import lines, session, stage
from helpers.core.errors import UserError
from helpers.core.lines import Line, Origin
from helpers.core.settings import Settings, add_options, with_arguments
from helpers.core.text import printable
from helpers.draw import previews

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.draw.job import Job, Picture
    from helpers.draw.painter import Painter

NAME = "generate"
AHEAD = 100  # lines that may wait to be drawn; then reading pauses, and the writer blocks
OPTIONS = (
    *("model", "steps", "seed", "guidance", "sampler", "decoder", "negative", "size", "count", "precision"),
    *("plain_prompt", "lora"),
    *("safe", "again"),
)


def arrivals() -> queue.Queue[Line | Exception | None]:
    """Start a thread that reads stdin, up to AHEAD lines ahead; it queues each line, then None or the exception."""
    arrived: queue.Queue[Line | Exception | None] = queue.Queue(AHEAD)

    def read() -> None:
        try:
            for line in lines.read():
                arrived.put(line)
            arrived.put(None)
        except Exception as error:
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    return arrived


def report_lost(painter: Painter, prompt: str) -> None:
    """Say which words of `prompt` the model cannot use: one line for those cut off, one for unknown ones, and one for
    those that are drawn as something else."""

    def shortened(words: list[str]) -> str:
        return " ".join(words[:8]) + (f" … ({len(words)} words)" if len(words) > 8 else "")

    cut, unknown, drawn_as = painter.lost(prompt)
    if cut:
        stage.say(f"{NAME}: the prompt is longer than {painter.model.name} reads; cut: {shortened(cut.split())}")
    if unknown:
        stage.say(f"{NAME}: words that {painter.model.name} does not know: {shortened(unknown)}")
    if drawn_as:
        stage.say(f"{NAME}: " + ", ".join(f"{word}: drawn as {known}" for word, known in list(drawn_as.items())[:4]))


def with_progress(
    painter: Painter,
    job: Job,
    hidden: bool,
    cancelled: Callable[[], bool] | None = None,
    on_preview: Callable[[int, int, NDArray[np.uint8]], None] | None = None,
) -> Iterator[Picture]:
    """The pictures of a job, with a progress bar while they are drawn. cancelled, on_preview: as for Painter.draw."""
    from tqdm import tqdm

    with tqdm(desc="drawing", unit="step", leave=False, disable=hidden) as bar:

        def on_step(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield from painter.draw(job, on_step, cancelled, on_preview)


def transcript(folder: Path | None, line: Line) -> str:
    """The recogniser's text for the recording that a line comes from; "" if there is none."""
    if folder and line.id:
        file = session.transcript(folder, line.id)
        if file.is_file():
            return printable(file.read_text(encoding="utf-8", errors="replace"))
    return ""


def about(picture: Picture, spoken: str, language: str) -> dict[str, Any]:
    """The content of run.json, without files and times; picture: any picture of the run."""
    drawn = picture.job
    return {
        "version": picture.version,
        "prompt": drawn.prompt,
        "transcript": spoken,
        "negative_prompt": drawn.negative,
        "seed": drawn.seed,
        "count": drawn.count,
        "steps": drawn.steps,
        "guidance": drawn.guidance,
        "sampler": drawn.sampler,
        "size": "x".join(map(str, drawn.size or ())),
        "model": {"name": drawn.model, "sha256": drawn.sha256},
        **({"loras": [one._asdict() for one in drawn.loras]} if drawn.loras else {}),
        "decoder": drawn.decoder,
        "engine": {"name": picture.engine, "version": picture.engine_version, "precision": picture.precision},
        "language": language,
    }


def keep(settings: Settings, line: Line, pictures: Iterable[Picture], **more: Any) -> dict[str, Any]:
    """Write the pictures of a line, each as soon as it is drawn, and all about them into a folder of their own.
    more: for run.json.

    Returns the content of run.json with the final paths.
    """
    from helpers.draw import png
    from helpers.draw.run_folder import RunFolder, timeline

    spoken, run, files = transcript(settings.session, line), dict[str, Any](), []
    with RunFolder(settings.output, time.time(), settings.session) as folder:
        for index, picture in enumerate(pictures, 1):
            name = "image.png" if index == 1 else f"image-{index}.png"
            folder.write(name, png.encode(picture))
            files.append({"file": name, "seed": picture.seed})
            run = run or about(picture, spoken, settings.language)
        stage.event("drawn", number=line.id)
        run |= {**more, "pictures": files}
        if spoken:
            folder.write("transcript.txt", spoken + "\n")
        folder.write("prompt.txt", run["prompt"] + "\n")
        if settings.session and line.id:
            recording = session.recording(settings.session, line.id)
            if recording.is_file():
                folder.take(recording, "prompt.wav")
        run["seconds"] = timeline(settings.control, line.id)
        run["exit_code"] = 0
        folder.write("run.json", json.dumps(run, indent=2, ensure_ascii=False) + "\n")
        final = folder.finish(run["prompt"])
    paths = [str(final / picture["file"]) for picture in run["pictures"]]
    return {**run, "folder": str(final), "paths": paths}


def keep_whatever_size(
    settings: Settings, line: Line, painter: Painter, job: Job, hidden: bool, asked: str
) -> dict[str, Any]:
    """Draw and keep a job; a size that was said, and that the model cannot draw, is left out. asked: the prompt without
    the words of a style."""
    more = {"asked": asked} if asked != job.prompt else {}
    show = previews.listener(settings, line.id)
    try:
        return keep(settings, line, with_progress(painter, job, hidden, on_preview=show), **more)
    except UserError as error:
        if error.code != os.EX_USAGE or job.size == painter.usual.size:
            raise
        stage.say(f"{NAME}: {error.message}; drawn at its own size")
        job = replace(job, size=painter.usual.size)
        return keep(settings, line, with_progress(painter, job, hidden, on_preview=show), **more)


def deliver(pipe: BinaryIO, output: bytes, folder: str) -> None:
    """Write to stdout. Raises: BrokenPipeError if nobody reads; UserError 73 for any other error."""
    try:
        pipe.write(output)
        pipe.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        pipe.raw.close()  # type: ignore[attr-defined]  # otherwise the rest of it is written, and fails, again
        what = f"cannot write to stdout: {error.strerror}"
        raise UserError(os.EX_CANTCREAT, what, f"The picture is kept in {folder}.") from error


def parse(argv: list[str] | None) -> Settings:
    parser = stage.Parser(
        prog="python -m helpers.draw.generate", description="Draw each line of stdin; print each picture's path."
    )
    settings = Settings.from_environment()
    add_options(parser, settings, *OPTIONS)
    return with_arguments(settings, parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    settings = parse(argv)
    pipe = stage.take_stdout()
    arrived: queue.Queue[Line | Exception | None] = queue.Queue()
    if not settings.again:
        arrived = arrivals()
    from helpers.draw.diffusion import NoPicture
    from helpers.draw.painter import Painter
    from helpers.draw.spoken import Hearing, Painters, applied
    from helpers.words.said import Spoken, in_words

    painter = Painter.load(settings)
    if settings.again:
        arrived.put(Line(painter.usual.prompt, 0, Origin.TYPED))
        arrived.put(None)
    hearing = Hearing(settings)
    if arrived.empty():  # the speaker still speaks
        painter.warm(settings.count)
        hearing.options("a picture, wide")
    painters, seed = Painters(settings, painter), painter.usual.seed
    stage.event("ready")

    hidden = settings.quiet or settings.loop or not sys.stderr.isatty()  # with --loop, record uses the terminal's line
    drawn, failure = False, None
    ahead: Iterator[Line | Exception] = iter(arrived.get, None)
    for line in ahead:
        if isinstance(line, Exception):
            raise line
        if not line.text:
            continue
        stage.event("prompt", number=line.id)
        waiting = sum(isinstance(later, Line) and bool(later.text) for later in tuple(arrived.queue))
        spoken = hearing.options(line.text) if line.origin is Origin.SPOKEN else Spoken(line.text)
        said = f" ({in_words(spoken.options)})" if spoken.options else ""
        stage.say(f"drawing: {spoken.text}{said}" + (f" ({waiting} more to draw)" if waiting else ""))
        report_lost(painter, spoken.text)
        try:
            painter = painters.of(spoken.options.model)
            usual = replace(
                painter.usual,
                prompt=spoken.text,
                typed=painter.usual.typed if settings.again else line.origin is Origin.TYPED,
            )
            if spoken.options.same_seed:
                usual = replace(usual, seed=seed)
            job = usual if settings.again else applied(usual, spoken.options, painter, hearing)
            result = keep_whatever_size(settings, line, painter, job, hidden, spoken.text)
        except NoPicture as error:  # the other lines may still work
            if settings.loop:
                stage.say(f"{NAME}: {error.message}")
            failure = failure or error
            continue
        output = json.dumps(result) if settings.json else "\n".join(result["paths"])
        seed = result["seed"]
        deliver(pipe, os.fsencode(f"{output}\n"), result["folder"])  # a folder's name may not be UTF-8
        drawn = True
    if failure and not settings.loop:
        raise failure
    if not (drawn or settings.loop):
        remedy = "printf 'a burger\\n' | python -m helpers.draw.generate"
        raise UserError(os.EX_DATAERR, "no prompt arrived on stdin", remedy)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
