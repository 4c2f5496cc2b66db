"""Which decoder turns latents into pixels: the model's own, or a small one (TAESD) that takes a thirtieth of the work.

A small decoder is made for one space of latents. Nearly all models of Stable Diffusion 1 and 2 have the same one, and
those of XL another; a model's own decoder says which, by the scale of its latents.
https://github.com/madebyollin/taesd
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from helpers.adapt.diffusers_folder import factor, read_config
from helpers.catalog.catalog import Catalog
from helpers.core.errors import UserError
from helpers.core.text import printable
from helpers.draw import engines
from helpers.draw.choose_model import Model

FULL, SMALL = "full", "small"
_SCALES = {0.18215: "taesd", 0.13025: "taesdxl"}  # a model's scaling_factor: the catalogue's decoder for its latents


class Decoder(NamedTuple):
    """A decoder: full, small (the model's own is one), or the name of a small one of the catalogue and its folder."""

    name: str
    folder: Path | None = None


def choose_decoder(asked: str, model: Model, models: Catalog) -> Decoder:
    """The decoder to draw with. asked: full, small, the name of a small one (from a picture's settings), or "": a small
    one if the model's engine is slow and the decoder is on this machine.

    Raises: UserError 69 if the model has none as asked, with the command that gets it.
    """
    own, fitting = _own(model)
    entry = models.entries.get(fitting)
    if not asked and own == FULL and engines.ENGINES[model.engine].slow and entry and entry.is_present():
        return Decoder(entry.name, entry.folder)
    if asked in ("", FULL, own):
        return Decoder(own)
    if not fitting or asked not in (SMALL, fitting):
        what = "small decoder" if asked == SMALL else f"decoder {printable(asked)[:80]}"
        raise UserError(os.EX_UNAVAILABLE, f"there is no {what} for {model.name}", "Draw with --decoder full.")
    small = models.require(fitting)
    return Decoder(small.name, small.folder)


def _own(model: Model) -> tuple[str, str]:
    """What the model's own decoder is, and the name of the small one for its latents, or ""."""
    converted, path = model.folder / "conversion.json", model.folder / "vae" / "config.json"
    if converted.is_file():
        return str(read_config(converted).get("decoder", FULL)), ""
    if not (path.is_file() or model.folder.is_file()):
        return FULL, ""
    config: dict[str, Any] = model.checkpoint.config("vae")
    if config.get("_class_name") == "AutoencoderTiny":
        return SMALL, ""
    try:
        usual = config.get("latent_channels") == 4 and factor(config) == 8
        return FULL, _SCALES.get(config.get("scaling_factor", 0.18215), "") if usual else ""
    except (KeyError, TypeError):  # the engine says what is wrong with it
        return FULL, ""
