"""Draws jobs with one model: the interface for the pipe, a web page or a batch.

    painter = Painter.load(Settings.from_environment())
    for picture in painter.draw(Job("a red heart", seed=1)):
        Path("heart.png").write_bytes(png.encode(picture))

Any thread may call `draw`. They take turns, a picture at a time: one drawing uses the whole processor or GPU, so two at
once would both be slower and need twice the memory. This module uses no pipe, terminal or environment variable;
messages for the user are logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
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
from helpers.core.text import printable, shortened
from helpers.draw import diffusion, engines, png, safety, samplers, tones, wording
from helpers.draw.additions import Additions
from helpers.draw.choose_model import Model, check_hash, choose_model, detector, model_of, open_model
from helpers.draw.decoders import FULL, Decoder, choose_decoder
from helpers.draw.job import Job, Picture
from helpers.words import closed_world, prompt_syntax

if TYPE_CHECKING:
    from helpers.catalog.catalog import Catalog
    from helpers.draw.engines import Array, Engine

    Step = Callable[[int, int], None]
    Clean = Callable[[int, int, Array], None]
    Preview = Callable[[int, int, NDArray[np.uint8]], None]

log = logging.getLogger(__name__)

_POLL = 0.05  # seconds between checks whether a waiting job is cancelled


class Lost(NamedTuple):
    """The parts of a prompt that the model cannot use."""

    cut: str  # the end that exceeds the model's length; "" if all fits
    unknown: list[str]  # words outside the vocabulary of a model with a closed one; they are left out
    drawn_as: dict[str, str]  # {word of the prompt: what such a model draws for it}


class _Cancelled(Exception):
    pass


class Painter:
    """One loaded model. It holds one engine, for one picture size: a job with another size or precision, or with
    guidance above 1 after one without, reloads the engine. That takes a second or more, so draw jobs of the same size
    one after the other."""

    def __init__(
        self,
        model: Model,
        options: engines.Options | None = None,
        *,
        usual: Job | None = None,
        filter_folder: Path | None = None,
        models: Catalog | None = None,
    ) -> None:
        """usual: a typical job. The engine is loaded for its size, guidance and precision; its size and precision are
        the defaults for other jobs.
        filter_folder: the safety filter's network; pictures that it flags are left out.
        models: where a model is looked for that draws what this one cannot; None: the catalogue of this program.

        Raises: UserError 64 for a size, sampler or number of steps that the model cannot draw, 69 for a model that is
        missing, damaged or not supported by the engine.
        """
        self.model, self.usual, self._models = model, usual or Job(""), models
        self._options = options or engines.Options()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._made_for: tuple[object, ...] = ()
        self._decoders: dict[str, Decoder] = {}
        self._draws = model.entry.draws if model.entry else {}
        self._noted: set[str] = set()
        self._background = ThreadPoolExecutor(1)
        self._additions = Additions(model, models or catalog.read(), self._background, self._options.search)
        self._world = closed_world.load(model.folder)
        most = 1 if model.has_closed_vocabulary else engines.ENGINES[model.engine].chunks
        self._embeddings = wording.Embeddings(self._world, most)
        self._flags = safety.load(filter_folder) if filter_folder else None
        # Hashing may have to read all weights: do it in the background, while the first picture is drawn.
        self._sha256 = self._background.submit(model.sha256)
        with self._turn(self.usual) as engine:
            self._tokenizer = engine.tokenizer
            job = self._resolved(self.usual, engine)
            self.size = engine.size  # width and height of a picture, unless a job says another
            samplers.start(job.sampler or "", engine.scheduler, job.steps or 0, lambda: np.zeros(1))
            if (job.guidance or 0) > 1:
                self._embeddings.of(engine, replace(job, prompt=""))

    @classmethod
    def load(cls, settings: Settings) -> Painter:
        """The Painter for these settings. `usual` is the job that they describe; with `again` it is the job in that
        file, overridden by the other settings.

        Raises: the UserErrors of choose_model, model_of, png.read_job and Painter.
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
            decoder=settings.decoder,
            loras=settings.lora,
            plain=settings.plain_prompt,
        )
        if settings.again:
            drawn = png.read_job(Path(settings.again))
            kept = ("count", "typed", "plain")
            given = {
                key: value for key, value in vars(asked).items() if value not in (None, "", ()) and key not in kept
            }
            # A picture that names no decoder was drawn with the model's own
            asked = replace(drawn, **{"decoder": drawn.decoder or FULL, **given}, count=settings.count)
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
            search=settings.search,
        )
        flags = detector(model, models) if settings.safe else None
        return cls(model, options, usual=asked, filter_folder=flags, models=models)

    def warm(self, count: int = 1) -> None:
        """Run all networks once, so that the first picture is not slower than the next. count: pictures of a job."""
        with self._turn(self.usual) as engine:
            engine.warm(count)

    def takes_negative(self, job: Job) -> bool:
        """Whether a negative prompt has an effect."""
        return self._guidance(job) > 1

    def _guidance(self, job: Job) -> float:
        if job.guidance is not None:
            return job.guidance
        return replace(engines.defaults(self._additions.checkpoint(job)), **self._draws).guidance

    def lost(self, prompt: str) -> Lost:
        """The parts of `prompt` that the model cannot use."""
        prompt = prompt_syntax.plain(prompt)[0]
        if not self._world:
            cut = wording.chunks(self._tokenizer, [(prompt, 1.0)], self._embeddings.most)[1]
            return Lost(cut, self.model.unknown_words(prompt.removesuffix(cut)), {})
        reading = self._world.read(prompt)
        if not reading.subjects:
            return Lost("", [], {})  # `draw` says it
        return Lost(self._tokenizer.encode(reading.text).cut, reading.unknown, reading.drawn_as)

    def draw(
        self,
        job: Job,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_preview: Preview | None = None,
    ) -> Iterator[Picture]:
        """The pictures of a job, each as soon as it is ready; missing settings get the model's defaults.

        on_step: called after each step with (steps done, steps in total), counted over all pictures of the job.
        cancelled: called before each step; once it returns True, no further picture follows.
        on_preview: called with (step, steps, pixels) of a batch's first picture as `diffusion.has_preview` says, where
        that is cheap: with a small decoder, and without the safety filter, which previews would escape.

        Raises: UserError 64 as Painter does, 66 if the job has the hash of another model; FilteredPicture if the safety
        filter flagged every picture; BlankPicture if the model produced NaN or a single colour; NothingKnown if it has
        a closed world and nothing of the prompt is in it.
        """
        with contextlib.suppress(_Cancelled):
            yield from self._draw(job, on_step or (lambda done, of: None), cancelled, on_preview)

    def _draw(
        self, job: Job, on_step: Step, cancelled: Callable[[], bool] | None, on_preview: Preview | None
    ) -> Iterator[Picture]:
        if job.sha256:
            check_hash(self.model, job)
        if job.prompt.strip() and not prompt_syntax.plain(job.prompt)[0]:
            raise diffusion.NoPicture(os.EX_DATAERR, "the prompt has no words to draw", "Say what should be drawn.")
        if job.prompt.strip() and self._world:
            reading = self._world.read(prompt_syntax.plain(job.prompt)[0])
            if not reading.subjects:
                raise diffusion.NothingKnown(
                    self.model.name, job.prompt, reading.near, open_model(self.model.engine, self._models)
                )
        job, missing = self._additions.named_in(job)
        for message in missing:
            self._note(f"{message}: left out")
        with self._turn(job, cancelled) as engine:
            job = self._resolved(job, engine)
        noise, before, filtered = list(zip(job.seeds, job.variations, strict=True)), 0, 0
        total = (job.steps or 0) * len(noise)
        while noise:
            with self._turn(job, cancelled) as engine:
                batch, noise = noise[: engine.pictures], noise[engine.pictures :]

                def step(number: int, of: int, many: int = len(batch), before: int = before) -> None:
                    on_step(before + number * many, total)
                    if cancelled and number < of and cancelled():
                        raise _Cancelled

                def clean(number: int, of: int, latents: Array, engine: Engine = engine) -> None:
                    if on_preview and diffusion.has_preview(number, of):
                        with contextlib.suppress(diffusion.BlankPicture):
                            on_preview(number, of, diffusion.pixels(engine.decode(latents[:1]), engine.precision))

                shows = on_preview and job.decoder != FULL and not self._flags
                latents = self._sample(engine, job, batch, step, clean if shows else None)
                before += (job.steps or 0) * len(batch)
            for (seed, variation), one in zip(batch, latents, strict=True):
                with self._turn(job, cancelled) as engine:
                    pixels = diffusion.pixels(engine.decode(one[None]), engine.precision)
                    flagged = bool(self._flags and self._flags(pixels))
                if flagged:
                    filtered += 1
                else:
                    pixels = tones.applied(pixels, job.tones)
                    yield self._picture(pixels, seed, replace(job, variation=variation), engine)
        if filtered == job.count:
            raise diffusion.FilteredPicture
        if filtered:
            log.info("the safety filter flagged %d of %d pictures", filtered, job.count)

    def _sample(
        self, engine: Engine, job: Job, noise: list[tuple[int, int | None]], on_step: Step, on_clean: Clean | None
    ) -> Array:
        guidance = job.guidance or 0.0
        return diffusion.sample(
            engine,
            *self._embeddings.of(engine, job),
            seed=[seed for seed, _ in noise],
            variations=[variation for _, variation in noise],
            steps=job.steps or 0,
            guidance=guidance,
            sampler=job.sampler,
            on_step=on_step,
            on_clean=on_clean,
        )

    def _picture(self, pixels: NDArray[np.uint8], seed: int, job: Job, engine: Engine) -> Picture:
        job = replace(self._additions.hashed(job), sha256=self._sha256.result())
        return Picture(pixels, seed, job, engine.name, engine.version, engine.precision, __version__)

    def _resolved(self, job: Job, engine: Engine) -> Job:
        """The job as it is drawn: with a value for everything, and without what has no effect; one line says so."""
        job = replace(job, precision=job.precision or self.usual.precision, decoder=self._decoder(job).name)
        asked, job = job, job.resolved(engine.defaults, engine.size, self.model.name)
        prompt, pieces = prompt_syntax.plain(job.prompt, self._embeddings.reads(job, job.typed))
        negative, more = prompt_syntax.plain(job.negative, self._embeddings.reads(job, True))
        if job.plain:
            prompt, negative, pieces, more = job.prompt, job.negative, [], []
        if left_out := ", ".join(pieces + more):
            self._note(f"prompt syntax of other programs has no effect; left out: {shortened(left_out)}")
        if negative and (job.guidance or 0) <= 1:
            self._note(f"the negative prompt has no effect: {self.model.name} draws at guidance {job.guidance:g}")
            negative = ""
        if asked.guidance is not None and asked.guidance < 1 and asked.guidance != engine.defaults.guidance:
            self._note(f"a guidance of {job.guidance:g} draws as 1 does")
        one = (
            job.steps == 1 and engine.scheduler.get("timestep_spacing") == "trailing"
        )  # all begin at the last timestep
        if one and asked.sampler not in (None, "", engine.defaults.sampler):
            self._note("--sampler has no effect here: with one step, every sampler draws the same")
        if job.count > 1 and self.model.has_closed_vocabulary:
            self._note(f"the pictures will be much alike: {self.model.name} has one picture in mind for each prompt")
        return replace(job, prompt=prompt, negative=negative)

    def _note(self, text: str) -> None:
        """Log a line once; a loop draws many similar jobs."""
        if text not in self._noted:
            self._noted.add(text)
            log.info("%s", text)

    @contextlib.contextmanager
    def _turn(self, job: Job, cancelled: Callable[[], bool] | None = None) -> Iterator[Engine]:
        """The engine for a job; no other thread uses it until the `with` block ends."""
        while not self._lock.acquire(timeout=_POLL if cancelled else -1):
            if cancelled and cancelled():
                raise _Cancelled
        try:
            if cancelled and cancelled():
                raise _Cancelled
            yield self._fitting(job)
        finally:
            self._lock.release()

    def _decoder(self, job: Job) -> Decoder:
        asked = job.decoder or self.usual.decoder
        if asked not in self._decoders:
            self._decoders[asked] = choose_decoder(asked, self.model, self._models or catalog.read())
        return self._decoders[asked]

    def _fitting(self, job: Job) -> Engine:
        checkpoint = self._additions.checkpoint(job)
        guidance = self._guidance(job)
        size, precision = job.size or self.usual.size, job.precision or self.usual.precision
        decoder = self._decoder(job).folder
        need = (size, guidance > 1, precision, decoder, checkpoint.loras)
        if self._engine and (need == self._made_for or (self._engine.size, *need[1:]) == (size, *self._made_for[1:])):
            return self._engine
        if self._engine and (*self._made_for[:-1], checkpoint.loras) == need and hasattr(self._engine, "adapt"):
            self._embeddings.clear()
            self._engine.adapt(checkpoint)
            self._engine.defaults = replace(self._engine.defaults, **self._draws)
            self._made_for = need
            return self._engine
        self._engine = None  # first, to free its memory for the next one
        self._embeddings.clear()
        self._engine = engines.load(
            self.model.engine, checkpoint, replace(self._options, decoder=decoder),
            size=size, guidance=guidance > 1, precision=precision,
        )  # fmt: skip
        self._engine.defaults = replace(self._engine.defaults, **self._draws)
        self._made_for = need
        return self._engine
