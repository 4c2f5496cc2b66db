"""The last stage: a line of text on stdin is a prompt, a picture in a folder of its own, and a path on stdout.

The model is loaded while the line is still being spoken; when it arrives, only the sampling is left. With `--again
FILE` nothing is read: the picture in FILE is drawn again.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.core import lines, session, stage
from helpers.core.errors import UserError
from helpers.core.lines import Line, Origin
from helpers.core.settings import Settings, add_options, with_arguments
from helpers.core.text import printable

if TYPE_CHECKING:
    from helpers.draw.job import Job, Picture
    from helpers.draw.painter import Painter

NAME = "generate"
AHEAD = 100  # lines that may wait to be drawn; who sends more has to wait as well
_OPTIONS = ("model", "steps", "seed", "guidance", "sampler", "negative", "size", "count", "precision", "safe", "again")


def arrivals() -> queue.Queue[Line | Exception | None]:
    """Read stdin in a thread from now on: each line, then None, or what went wrong; some lines ahead."""
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


def say_what_is_lost(painter: Painter, prompt: str) -> None:
    """Name the words of `prompt` that the picture cannot show, on one line each kind."""

    def some(words: list[str]) -> str:
        return " ".join(words[:8]) + (f" … ({len(words)} words)" if len(words) > 8 else "")

    cut, unknown = painter.lost(prompt)
    if cut:
        stage.say(f"{NAME}: the prompt is longer than {painter.model.name} reads; cut: {some(cut.split())}")
    if unknown:
        stage.say(f"{NAME}: words that {painter.model.name} does not know: {some(unknown)}")


def with_progress(painter: Painter, job: Job, hidden: bool) -> Iterator[Picture]:
    """The pictures of a job, with a progress bar while they are drawn."""
    from tqdm import tqdm

    with tqdm(desc="drawing", unit="step", leave=False, disable=hidden) as bar:

        def on_step(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield from painter.draw(job, on_step)


def transcript(folder: Path | None, line: Line) -> str:
    """What the recogniser wrote of the recording that a line is from; "" where that is unknown."""
    if folder and line.id:
        file = session.transcript(folder, line.id)
        if file.is_file():
            return printable(file.read_text(encoding="utf-8", errors="replace"))
    return ""


def about(picture: Picture, spoken: str, language: str) -> dict[str, Any]:
    """run.json's content, but for the files and the times; picture: one of those that were drawn."""
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
        "engine": {"name": picture.engine, "version": picture.engine_version, "precision": picture.precision},
        "language": language,
    }


def keep(settings: Settings, line: Line, pictures: Iterable[Picture]) -> dict[str, Any]:
    """Put the pictures of a line, each as it is drawn, and everything about them into a folder of their own.

    Returns run.json's content with the final paths.
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
        run["pictures"] = files
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


def parse(argv: list[str] | None) -> Settings:
    parser = stage.Parser(
        prog="python -m helpers.draw.generate", description="Draw each line of stdin; print each picture's path."
    )
    settings = Settings.from_environment()
    add_options(parser, settings, *_OPTIONS)
    return with_arguments(settings, parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    settings = parse(argv)
    pipe = stage.take_stdout()
    arrived: queue.Queue[Line | Exception | None] = queue.Queue()
    if not settings.again:
        arrived = arrivals()
    from helpers.draw.diffusion import NoPicture
    from helpers.draw.painter import Painter

    painter = Painter.load(settings)
    if settings.again:
        arrived.put(Line(painter.usual.prompt, 0, Origin.TYPED))
        arrived.put(None)
    elif arrived.empty():
        painter.warm(settings.count)
    stage.event("ready")

    hidden = settings.quiet or settings.loop or not sys.stderr.isatty()  # record has the line of a terminal
    drawn, failure = False, None
    ahead: Iterator[Line | Exception] = iter(arrived.get, None)
    for line in ahead:
        if isinstance(line, Exception):
            raise line
        if not line.text:
            continue
        stage.event("prompt", number=line.id)
        waiting = sum(isinstance(later, Line) and bool(later.text) for later in tuple(arrived.queue))
        stage.say(f"drawing: {line.text}" + (f" ({waiting} more to draw)" if waiting else ""))
        say_what_is_lost(painter, line.text)
        job = replace(painter.usual, prompt=line.text)
        try:
            result = keep(settings, line, with_progress(painter, job, hidden))
        except NoPicture as error:  # no reason to give up the other lines
            if settings.loop:
                stage.say(f"{NAME}: {error.message}")
            failure = failure or error
            continue
        output = json.dumps(result) if settings.json else "\n".join(result["paths"])
        pipe.write(os.fsencode(f"{output}\n"))  # a folder's name may be no UTF-8
        pipe.flush()
        drawn = True
    if failure and not settings.loop:
        raise failure
    if not (drawn or settings.loop):
        remedy = "printf 'a burger\\n' | python -m helpers.draw.generate"
        raise UserError(os.EX_DATAERR, "no prompt arrived on stdin", remedy)
    return 0


if __name__ == "__main__":
    stage.run(NAME, main)
