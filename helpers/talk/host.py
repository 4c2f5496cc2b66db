"""Does what `helpers.words.conversation` says: draws, changes pixels, keeps and shows each result."""

from __future__ import annotations

import json
import os
import queue
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.files import write_whole
from helpers.core.lines import Line
from helpers.core.settings import Settings
from helpers.draw import tones
from helpers.draw.diffusion import NoPicture
from helpers.draw.generate import NAME, deliver, keep, report_lost, with_progress
from helpers.draw.job import Job, Picture
from helpers.draw.painter import Painter
from helpers.draw.spoken import Hearing, Painters, applied
from helpers.talk import chain, clipboard
from helpers.words.conversation import Conversation, Intent, Request, Step
from helpers.words.said import in_words

SAVED = "saved"  # the folder, among the runs, of the pictures that were asked to be saved
_VARIATION = 2**32  # seeds of variations are below this
_QUIET = ("heard", "save", "copy", "show")  # commands that need no drawing, and end none


class _Stopped(Exception):
    pass


@dataclass
class _Result:
    """A drawing of the conversation. pictures: without their pixels, which are in the files."""

    run: dict[str, Any]
    pictures: list[Picture]
    paths: list[Path]


class Host:
    """One conversation. `arrived` is looked into while something is drawn: "stop" and "back" end the drawing."""

    def __init__(self, settings: Settings, pipe: BinaryIO, arrived: queue.Queue[Line | Exception | None]) -> None:
        """Raises: the UserErrors of Painter.load, styles.read, and of chain.read with settings.again."""
        self._settings, self._pipe, self._arrived = settings, pipe, arrived
        painter = Painter.load(settings)
        if settings.again:  # other pictures are drawn with its settings, too, but from other noise
            painter.usual = replace(painter.usual, seed=settings.seed, variation=None, tones=())
        self._painters = Painters(replace(settings, again=""), painter)
        self._hearing = Hearing(settings)
        self._talk = Conversation(self._hearing.grammars, settings.spoken_options)
        self._results: dict[int, _Result] = {}
        self._hidden = settings.quiet or bool(settings.session) or not sys.stderr.isatty()
        self._stopped_by = ""  # the kind of the command that has ended a drawing, until it is heard
        if settings.again:
            self._open(Path(settings.again))
        if arrived.empty():
            self._painters.of().warm(settings.count)
            self._talk.understood("a picture")

    # ---- an utterance

    def hear(self, line: Line) -> None:
        """Do what a line asks for. Raises: UserError 73 if a result cannot be kept."""
        kind, stopped_by = self._kind(line.text), self._stopped_by
        if stopped_by:
            if kind != stopped_by:  # said before the drawing was stopped, and not drawn any more
                return
            self._stopped_by = ""  # its work is done
            self._show(Intent("show", kind))
            return
        stage.event("prompt", number=line.id)
        intent = self._talk.hear(line.text)
        getattr(self, f"_{intent.kind}")(*((intent, line) if intent.kind in ("draw", "tone") else (intent,)))

    def _kind(self, text: str) -> str:
        command = self._talk.understood(text)[1]
        return command.kind if command else ""

    def _waiting(self) -> list[Line]:
        return [line for line in tuple(self._arrived.queue) if isinstance(line, Line) and line.text]

    def _say(self, intent: Intent) -> None:
        stage.say(intent.said)

    def _stop(self, intent: Intent) -> None:
        stage.say("nothing is being drawn")

    # ---- pictures

    def _draw(self, intent: Intent, line: Line, refines: bool = False) -> None:
        step = self._talk.now
        assert step
        try:
            painter = self._painters.of(step.request.options.model)
            job = self._job(painter, step.request)
            self._check_without(step, painter, job)
            many = step.request.count if step.request.count > 1 else None
            said = in_words(replace(step.request.options, count=many))
            stage.say(f"drawing: {step.request.prompt}" + (f" ({said})" if said else ""))
            report_lost(painter, job.prompt)
            self._keep(step, line, self._drawn(painter, job, refines))
        except _Stopped:
            self._talk.failed()
            stage.say("stopped")
        except NoPicture as error:
            self._talk.failed()
            stage.say(f"{NAME}: {error.message}")
        except UserError as error:
            if error.code not in (os.EX_USAGE, os.EX_UNAVAILABLE):
                raise
            self._talk.failed()
            stage.say(f"{NAME}: {error.message}")

    def _drawn(self, painter: Painter, job: Job, refines: bool) -> Iterator[Picture]:
        """The pictures of a job. Raises: _Stopped if a command has ended it before the first one."""

        before = self._waiting()  # said before the drawing began: not meant for it

        def cancelled() -> bool:
            waiting = self._waiting()
            kinds = [self._kind(line.text) for line in waiting[len(before) :]]
            if "stop" in kinds:
                self._stopped_by = "stop"
            elif kinds[:1] == ["back"] and not before:
                self._stopped_by = "back"
            return bool(self._stopped_by) or (refines and any(self._kind(line.text) not in _QUIET for line in waiting))

        count = 0
        for picture in with_progress(painter, job, self._hidden, cancelled):
            count += 1
            yield picture
        if not count:
            raise _Stopped

    def _tone(self, intent: Intent, line: Line) -> None:
        """Change the pixels at once; then, if the model has words for it, draw it so, with the same seed."""
        step = self._talk.now
        assert step and step.before
        before = self._results[step.before.number]
        old = before.pictures[step.before.picture - 1]
        new = step.request.tones[len(step.before.request.tones) :]
        pixels = tones.applied(_pixels(before.paths[step.before.picture - 1]), new)
        picture = replace(old, pixels=pixels, job=replace(old.job, count=1, tones=(*old.job.tones, *new)))
        stage.say(
            intent.said + (f": {pixels.shape[1]}x{pixels.shape[0]}, without new detail" if "bigger" in new else "")
        )
        self._keep(step, line, iter([picture]))
        request = self._talk.in_words_of(intent.said)
        if request and not self._painters.of(request.options.model).model.has_closed_vocabulary:
            self._talk.go_on(request, f"{intent.said}, drawn anew")
            self._draw(Intent("draw"), Line("", None, line.origin), refines=True)

    def _keep(self, step: Step, line: Line, pictures: Iterator[Picture]) -> None:
        """Write the pictures of a step into a run of its own, and print their paths."""
        kept: list[Picture] = []

        def noted() -> Iterator[Picture]:
            for picture in pictures:
                kept.append(replace(picture, pixels=np.zeros((0, 0, 3), np.uint8)))
                yield picture

        parent = None
        if step.before and (result := self._results.get(step.before.number)):
            path = result.paths[step.before.picture - 1].absolute()
            if path.parent.parent == _runs(self._settings):
                parent = {"folder": path.parent.name, "file": path.name}
        run = keep(self._settings, line, noted(), asked=step.request.prompt, change=step.change, parent=parent)
        paths = [Path(path) for path in run["paths"]]
        self._results[step.number] = _Result(run, kept, paths)
        self._talk.drew((picture.seed, picture.job.variation) for picture in kept)
        self._print(json.dumps(run) if self._settings.json else "\n".join(run["paths"]), paths[0].parent)

    def _print(self, text: str, folder: Path) -> None:
        deliver(self._pipe, os.fsencode(f"{text}\n"), str(folder))

    def _job(self, painter: Painter, request: Request) -> Job:
        """The job of a request. What it is to be without is in the negative prompt where the model takes one."""
        seed, variation = request.noise or (painter.usual.seed, None)
        if request.varied:
            variation = secrets.randbelow(_VARIATION)
        usual = replace(
            painter.usual,
            prompt=request.prompt, seed=seed, variation=variation, count=request.count, tones=request.tones,
        )  # fmt: skip
        job = applied(usual, request.options, painter, self._hearing)
        return job if painter.takes_negative(job) else replace(job, negative="")

    def _check_without(self, step: Step, painter: Painter, job: Job) -> None:
        """Say how a picture becomes one without something. Raises: NoPicture if this model cannot do it."""
        before = step.before.request if step.before else Request("")
        if not (new := step.request.options.without[len(before.options.without) :]) or painter.takes_negative(job):
            return
        what = f"{painter.model.name} takes no negative prompt (guidance {job.guidance or 1:g})"
        if step.request.prompt != before.prompt:
            stage.say(f"without {', '.join(new)}: not in the prompt, but {what}")
        else:
            raise NoPicture(os.EX_DATAERR, f"{what}: it cannot leave out {', '.join(new)}", "")

    # ---- what is done with a picture

    def _show(self, intent: Intent) -> None:
        """Print the current picture's path again, which opens it."""
        step = self._talk.now
        if not step:
            stage.say("there is no picture yet")
            return
        result = self._results[step.number]
        path = result.paths[step.picture - 1]
        stage.say(f"{intent.said or 'shown'}: {step.request.prompt}")
        self._print(json.dumps({**result.run, "paths": [str(path)]}) if self._settings.json else str(path), path.parent)

    def _path(self, intent: Intent) -> Path:
        assert intent.step
        return self._results[intent.step.number].paths[intent.step.picture - 1]

    def _save(self, intent: Intent) -> None:
        """Copy the picture to where all saved ones are. Raises: UserError 73."""
        path = self._path(intent)
        file = _runs(self._settings) / SAVED / f"{path.parent.name}{path.stem.removeprefix('image')}.png"
        try:
            file.parent.mkdir(exist_ok=True)
            write_whole(file, path.read_bytes())
        except OSError as error:
            raise UserError(os.EX_CANTCREAT, f"cannot write {file}: {error.strerror}", "Make room there.") from error
        stage.say(f"saved: {file}")

    def _copy(self, intent: Intent) -> None:
        stage.say(clipboard.copy(self._path(intent)))

    # ---- pictures of earlier

    def _open(self, file: Path) -> None:
        """Go on from a picture in a file, and from those that it was made from."""
        step = None
        for number, old in enumerate(chain.read(file), 1):
            request = Request(old.job.prompt, noise=(old.job.seed or 0, old.job.variation), tones=old.job.tones)
            step = Step(number, request, old.change, step, drawn=((old.job.seed or 0, old.job.variation),))
            self._results[number] = _Result({"prompt": old.job.prompt}, [old.picture()], [old.file])
        if step:
            self._talk.opened(step)
            self._show(Intent("show", "opened"))


def _runs(settings: Settings) -> Path:
    return settings.output.absolute()


def _pixels(file: Path) -> tones.Pixels:
    """Raises: UserError 66 if it was deleted."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {file}: it was deleted or changed", "Leave it there.") from error
