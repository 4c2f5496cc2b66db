"""Draws jobs with one model; the seam for whoever wants pictures: the pipe, a page, a batch.

    painter = Painter.load(Settings.from_environment())
    for picture in painter.draw(Job("a red heart", seed=1)):
        Path("heart.png").write_bytes(png.encode(picture))

Any thread may call `draw`. They take turns, a picture at a time: one drawing uses all of the processor or GPU, so two
at once would both be slower and need twice the memory. Nothing here knows a pipe, a terminal or the environment; what
a person should know is logged.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers import __version__
from helpers.catalog import catalog
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.draw import diffusion, engines, png, safety, samplers
from helpers.draw.choose_model import Model, check_hash, choose_model, detector, model_of
from helpers.draw.job import Job, Picture

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine

log = logging.getLogger(__name__)

_TEXTS = 8  # encoded prompts that are kept: the negative prompt is nearly always the same
_PATIENCE = 0.05  # seconds between two questions whether a waiting job is cancelled


class Lost(NamedTuple):
    """What a picture cannot show of its prompt."""

    cut: str  # the end that the model does not read; "" if it reads all
    unknown: list[str]  # words that a model with a closed vocabulary does not know


class _Cancelled(Exception):
    pass


class Painter:
    """One model, loaded. It holds one engine, for one picture size: a job of another size, precision or kind of
    guidance (above 1, or not) has the engine loaded anew, which takes a second or more, so hosts that can choose should
    draw jobs of one size one after the other."""

    def __init__(
        self,
        model: Model,
        options: engines.Options | None = None,
        *,
        usual: Job | None = None,
        filter_folder: Path | None = None,
    ) -> None:
        """usual: a job like those that will come; the engine is loaded for its size, guidance and precision, and jobs
        that leave size or precision open are drawn with these.
        filter_folder: of the safety filter's network; pictures that it flags are left out.

        Raises: UserError 64 for a size, sampler or number of steps that the model cannot draw, 69 for a model that is
        missing, damaged or of a kind that the engine does not compute.
        """
        self.model, self.usual = model, usual or Job("")
        self._options = options or engines.Options()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._made_for: tuple[object, ...] = ()
        self._texts: dict[str, Array] = {}
        self._flags = safety.load(filter_folder) if filter_folder else None
        # The weights may have to be read to know their hash. That is done while the first picture is drawn.
        self._sha256 = ThreadPoolExecutor(1).submit(model.sha256)
        with self._turn(self.usual) as engine:
            self._tokenizer = engine.tokenizer
            job = self._resolved(self.usual, engine)
            samplers.start(job.sampler or "", engine.scheduler, job.steps or 0, lambda: np.zeros(1))
            if (job.guidance or 0) > 1:
                self._encode(engine, job.negative)

    @classmethod
    def load(cls, settings: Settings) -> Painter:
        """The Painter that the settings ask for. `usual` is the job that they describe, of the prompt alone if there
        is one; with `again` it is that of the file, changed by the options that are given beside it.

        Raises: what choose_model, model_of and png.read_job raise, and Painter itself.
        """
        models = catalog.read(settings.models)
        asked = Job(
            printable(settings.prompt),
            printable(settings.negative),
            seed=settings.seed,
            count=settings.count,
            steps=settings.steps,
            guidance=settings.guidance,
            sampler=settings.sampler or None,
            size=settings.size,
            precision=settings.precision,
        )
        if settings.again:
            drawn = png.read_job(Path(settings.again))
            given = {key: value for key, value in vars(asked).items() if value not in (None, "") and key != "count"}
            asked = replace(drawn, **given, count=settings.count)
        if settings.again and not settings.model:
            model = model_of(asked, settings.engine, models)
        else:
            model = choose_model(settings.model, settings.engine, models)
            asked = replace(asked, sha256="")
        options = engines.Options(
            low_memory=settings.low_memory,
            compute_units=settings.compute_units,
            allow_pickle=settings.allow_pickle,
            apple_python=settings.apple_python,
            goes_on=settings.loop,
        )
        return cls(model, options, usual=asked, filter_folder=detector(model, models) if settings.safe else None)

    def warm(self, count: int = 1) -> None:
        """Run everything once, so that the first picture is as quick as the next. count: pictures of a job to come."""
        with self._turn(self.usual) as engine:
            engine.warm(count)

    def lost(self, prompt: str) -> Lost:
        """What a picture cannot show of `prompt`."""
        cut = self._tokenizer.encode(prompt).cut
        return Lost(cut, self.model.unknown_words(prompt.removesuffix(cut)))

    def draw(
        self,
        job: Job,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Picture]:
        """The pictures of a job, each as it is ready; what the job leaves open is chosen for it.

        on_step: called after each step with the number of steps that are done and of all, over all pictures of the
        job. cancelled: asked before each step; once it says yes, no further picture comes.

        Raises: UserError 64 as Painter does, 66 if the job names the hash of another model; NoPicture where there is
        nothing to show, because the safety filter took every picture or what came out is none.
        """
        with contextlib.suppress(_Cancelled):
            yield from self._draw(job, on_step or (lambda done, of: None), cancelled)

    def _draw(
        self, job: Job, on_step: Callable[[int, int], None], cancelled: Callable[[], bool] | None
    ) -> Iterator[Picture]:
        if job.sha256:
            check_hash(self.model, job)
        with self._turn(job, cancelled) as engine:
            job = self._resolved(job, engine)
        seeds, before, filtered = job.seeds, 0, 0
        total = (job.steps or 0) * len(seeds)
        while seeds:
            with self._turn(job, cancelled) as engine:
                some, seeds = seeds[: engine.pictures], seeds[engine.pictures :]

                def step(number: int, of: int, many: int = len(some), before: int = before) -> None:
                    on_step(before + number * many, total)
                    if cancelled and number < of and cancelled():
                        raise _Cancelled

                latents = self._sample(engine, job, some, step)
                before += (job.steps or 0) * len(some)
            for seed, one in zip(some, latents, strict=True):
                with self._turn(job, cancelled) as engine:
                    pixels = diffusion.pixels(engine.decode(one[None]), engine.precision)
                    flagged = bool(self._flags and self._flags(pixels))
                if flagged:
                    filtered += 1
                else:
                    yield self._picture(pixels, seed, job, engine)
        if filtered == job.count:
            raise diffusion.FilteredPicture
        if filtered:
            log.info("the safety filter took %d of %d pictures", filtered, job.count)

    def _sample(self, engine: Engine, job: Job, seeds: list[int], on_step: Callable[[int, int], None]) -> Array:
        guidance = job.guidance or 0.0
        return diffusion.sample(
            engine,
            self._encode(engine, job.prompt),
            self._encode(engine, job.negative) if guidance > 1 else None,
            seed=seeds,
            steps=job.steps or 0,
            guidance=guidance,
            sampler=job.sampler,
            on_step=on_step,
        )

    def _picture(self, pixels: NDArray[np.uint8], seed: int, job: Job, engine: Engine) -> Picture:
        job = replace(job, sha256=self._sha256.result())
        return Picture(pixels, seed, job, engine.name, engine.version, engine.precision, __version__)

    def _resolved(self, job: Job, engine: Engine) -> Job:
        job = replace(job, precision=job.precision or self.usual.precision)
        return job.resolved(engine.defaults, engine.size, self.model.name)

    def _encode(self, engine: Engine, text: str) -> Array:
        if text not in self._texts:
            while len(self._texts) >= _TEXTS:
                del self._texts[next(iter(self._texts))]
            self._texts[text] = engine.encode_text(engine.tokenizer.encode(text).ids)
        self._texts[text] = self._texts.pop(text)  # the last to go
        return self._texts[text]

    @contextlib.contextmanager
    def _turn(self, job: Job, cancelled: Callable[[], bool] | None = None) -> Iterator[Engine]:
        """The engine for a job, which nobody else uses until the `with` block ends."""
        while not self._lock.acquire(timeout=_PATIENCE if cancelled else -1):
            if cancelled and cancelled():
                raise _Cancelled
        try:
            if cancelled and cancelled():
                raise _Cancelled
            yield self._fitting(job)
        finally:
            self._lock.release()

    def _fitting(self, job: Job) -> Engine:
        guidance = engines.defaults(self.model.folder).guidance if job.guidance is None else job.guidance
        size, precision = job.size or self.usual.size, job.precision or self.usual.precision
        need = (size, guidance > 1, precision)
        if self._engine and (need == self._made_for or (self._engine.size, *need[1:]) == (size, *self._made_for[1:])):
            return self._engine
        self._engine = None  # first, so that there is memory for the next
        self._texts.clear()
        self._engine = engines.load(
            self.model.engine, self.model.folder, self._options,
            size=size, guidance=guidance > 1, precision=precision,
        )  # fmt: skip
        self._made_for = need
        return self._engine
