"""What is said about a picture besides its prompt, made part of its job: `helpers.words.grammar` understands it."""

from __future__ import annotations

import logging
import math
import os
import secrets
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from helpers.catalog import catalog
from helpers.core.errors import UserError
from helpers.core.settings import RANDOM_SEED, Settings
from helpers.draw.job import Job
from helpers.draw.painter import Painter
from helpers.words import enrich, grammar, styles
from helpers.words.grammar import Grammar
from helpers.words.said import Options, Spoken
from helpers.words.styles import Style

if TYPE_CHECKING:
    from helpers.words.language_model import LanguageModel

log = logging.getLogger(__name__)

_SEEDS = 2**32  # seeds by chance are below this
_RATIO = 1.5  # of the sides of a wide or tall picture, as most cameras have it
_MULTIPLE = 64  # pixels; sides that every Stable Diffusion model can draw
_LARGEST = 2  # times the model's own size, for each side


class Hearing:
    """The styles, and the grammars of the languages that are spoken; read when they are first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def styles(self) -> dict[str, Style]:
        """By name. Raises: the UserErrors of styles.read."""
        return styles.read(self._settings.styles)

    @cached_property
    def grammars(self) -> list[Grammar]:
        """Of the languages that the recogniser may write. Raises: the UserErrors of styles.read."""
        entries = catalog.read(self._settings.models).entries.values()
        models = [entry.name for entry in entries if entry.kind == "image"]
        return grammar.all_of(self._settings.language, bool(self._settings.translate), self.styles, models)

    @cached_property
    def _model(self) -> LanguageModel | None:
        """Raises: UserError 64 for a wrong address."""
        asked = self._settings
        if not asked.llm:
            return None
        from helpers.words.language_model import LanguageModel

        model = LanguageModel(asked.llm, asked.llm_model, asked.llm_key)
        log.info("each prompt is sent to %s, for more words", model.host)
        return model

    @property
    def usual_style(self) -> str:
        """The style of every picture: a name, enrich.AUTO, or ""."""
        return self._settings.style

    def style(self, name: str) -> Style:
        """Raises: UserError 64 for a name that is none, and those of styles.read."""
        if name not in self.styles:
            raise UserError(os.EX_USAGE, f"there is no style {name!r}", f"Styles: auto, {', '.join(self.styles)}.")
        return self.styles[name]

    def enriched(self, prompt: str, seed: int, painter: Painter) -> str:
        """`prompt` with more words, for a model that has a use for them; one line says which."""
        if painter.model.has_closed_vocabulary:
            return prompt
        more = (self._model.rewritten(prompt) or prompt) if self._model else enrich.enriched(prompt, seed)
        log.info("%s", f"enriched: {more}" if more != prompt else "nothing to enrich")
        return more

    def options(self, text: str) -> Spoken:
        """`text` without the options in it, and these."""
        if not self._settings.spoken_options:
            return Spoken(text)
        found = (one.options(text) for one in self.grammars)
        return next((spoken for spoken in found if spoken.options), Spoken(text))


class Painters:
    """The Painter of the settings, or of a model that was said; one at a time is held."""

    def __init__(self, settings: Settings, painter: Painter) -> None:
        self._settings, self._painter, self._model = settings, painter, ""

    def of(self, model: str = "") -> Painter:
        """model: a name of the catalogue; "": that of the settings. Raises: the UserErrors of Painter.load."""
        if model != self._model:
            painter = Painter.load(replace(self._settings, model=model or self._settings.model))
            self._painter, self._model = painter, model
        return self._painter


def applied(job: Job, options: Options, painter: Painter, hearing: Hearing) -> Job:
    """`job` as it was said to be. Nothing that the model cannot do is an error: a size becomes the nearest one, and a
    negative prompt has no effect at a guidance of 1. Raises: the UserErrors of styles.read."""
    size = options.size or (shaped(painter.size, options.shape) if options.shape else None)
    prompt, negative = job.prompt, ", ".join(filter(None, (job.negative, *options.without)))
    usual = hearing.usual_style
    style = options.style or (usual if usual != enrich.AUTO else "")
    seed = job.seed if options.seed is None else options.seed
    if options.fancy or usual == enrich.AUTO:
        seed = secrets.randbelow(_SEEDS) if seed in (None, RANDOM_SEED) else seed
        prompt = hearing.enriched(prompt, seed or 0, painter)
    if style not in ("", styles.NONE):
        prompt, negative = hearing.style(style).applied(prompt, negative)
    return replace(
        job,
        prompt=prompt,
        negative=negative,
        count=options.count or job.count,
        size=nearest(size, painter.size) if size else job.size,
        seed=seed,
    )


def shaped(size: tuple[int, int], shape: str) -> tuple[int, int]:
    """A size of about as many pixels as `size`; shape: wide, tall or square."""
    side = math.sqrt(size[0] * size[1])
    wide = {"wide": math.sqrt(_RATIO), "tall": 1 / math.sqrt(_RATIO)}.get(shape, 1.0)
    return round(side * wide), round(side / wide)


def nearest(size: tuple[int, int], own: tuple[int, int]) -> tuple[int, int]:
    """The size next to `size` that a model draws whose own size is `own`."""
    if size == own:
        return own
    width, height = (
        min(max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE), _LARGEST * limit)
        for side, limit in zip(size, own, strict=True)
    )
    return width, height
