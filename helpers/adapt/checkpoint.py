"""A model on this machine: its parts as the engines read them, and a key for caches made from them.

model = Checkpoint(Path("dreamer.safetensors"))     # or a folder in diffusers' layout
model.config("unet"), model.weights("unet")         # under diffusers' names
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from helpers.adapt import diffusers_folder, lora, single_file
from helpers.adapt.diffusers_folder import read_config
from helpers.adapt.few_steps import few_steps
from helpers.adapt.lora import Lora
from helpers.adapt.original_names import vae_weights
from helpers.core.errors import UserError
from helpers.core.paths import ROOT

CLIP = ROOT / "models" / "clip"  # the tokenizer of all models in one file


@dataclass(frozen=True)
class Checkpoint:
    """A model: a folder in diffusers' or in Apple's layout, or one file (`single_file`)."""

    folder: Path  # or the file
    vae: Path | None = None  # the folder `vae` of another model, for a file without one
    decoder: Path | None = None  # the folder of a decoder that is used instead of the model's own
    loras: tuple[Lora, ...] = ()  # merged into the weights

    @property
    def is_file(self) -> bool:
        return self.folder.is_file()

    def place(self, part: str) -> Path:
        """The folder or the file that a part (`unet`, `vae`, `text_encoder`, `text_encoder_2`) is read from.

        Raises: UserError 69 for a file that is damaged, or has no such part.
        """
        if part == "vae" and self.decoder:
            return self.decoder
        if not self.is_file:
            return self.folder / part
        return self.folder if part in single_file.layout(self.folder).configs else self._lent_vae()

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part, or of the `scheduler`.

        Raises: UserError 69 if it is missing, damaged or not supported.
        """
        if part == "scheduler" and (kind := few_steps(self.loras)):
            return {**replace(self, loras=()).config(part), **kind}
        if self.is_file and part == "scheduler":
            return dict(single_file.layout(self.folder).configs[part])
        place = self.place(part)
        if place == self.folder:
            return dict(single_file.layout(place).configs[part])
        if place.is_file():
            return single_file.vae_layout(place, single_file.layout(self.folder).family)[0]
        return read_config(place / ("scheduler_config.json" if part == "scheduler" else "config.json"))

    def weights(self, part: str) -> dict[str, NDArray[Any]]:
        """Every tensor of a part under diffusers' names. Raises: UserError 69 for a file that is missing or damaged."""
        place = self.place(part)
        if loras := self._loras(part):
            base = replace(self, loras=())
            return lora.merged(base.weights(part), part, loras, base.config(part))
        if place == self.folder:
            return single_file.weights(place, part)
        if place.is_file():
            config, prefix = single_file.vae_layout(place, "")
            return vae_weights(single_file.beginning(place, prefix), len(config["block_out_channels"]))
        return diffusers_folder.read_weights(place)

    def size(self, part: str) -> int:
        """Bytes of a part's weights, about."""
        place = self.place(part)
        if place == self.folder:
            return single_file.size(place, part)
        return sum(file.stat().st_size for file in diffusers_folder.weight_files(place))

    def key(self, part: str) -> str:
        """What the key of a cache of this part holds: it changes with every file that the part is read from.

        Raises: UserError 69 or OSError for a file that is missing.
        """
        place = self.place(part)
        if loras := self._loras(part):
            added = [one.key() for one in loras]
            return hashlib.sha256(repr([replace(self, loras=()).key(part), added]).encode()).hexdigest()
        if not place.is_file():
            return Checkpoint(place).identity([place / "config.json", *diffusers_folder.weight_files(place)])
        beside = place.with_suffix(".yaml")
        return Checkpoint(place).identity([place, *([beside] if beside.is_file() else [])])

    def index(self) -> dict[str, Any]:
        """model_index.json. Raises: UserError 69 if there is none."""
        if not self.is_file:
            return read_config(self.folder / "model_index.json")
        if single_file.layout(self.folder).family == "xl":
            return {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}
        return {"_class_name": "StableDiffusionPipeline"}

    def tokenizer(self, name: str = "tokenizer") -> tuple[Path, str]:
        """The folder of a tokenizer, and the token that pads where its files do not say: Stable Diffusion 2 and the
        second text encoder of XL were trained with "!", which is 0."""
        end = "<|endoftext|>"
        if not self.is_file:
            return self.folder / name, end
        second = single_file.layout(self.folder).family == "2" or name == "tokenizer_2"
        return CLIP, "!" if second else end

    def identity(self, files: Iterable[Path]) -> str:
        """A hash of the folder's path and of the names, sizes and times of the given files. A
        cache with it in the key never returns an entry for files that have changed.

        Raises: OSError for a file that is missing.
        """
        stats = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
        return hashlib.sha256(repr([str(self.folder.resolve()), stats]).encode()).hexdigest()

    def _loras(self, part: str) -> list[Lora]:
        """Those that change a part; one with the weight 0 changes none. Raises: UserError 69 for a damaged one."""
        return [one for one in self.loras if one.weight and part in lora.parts(one.file)]

    def _lent_vae(self) -> Path:
        if found := single_file.vae_beside(self.folder) or self.vae:
            return found
        family = single_file.layout(self.folder).family
        other = {"1": "stable-diffusion-1-5", "2": "stable-diffusion-2-1-base", "xl": "stable-diffusion-xl"}[family]
        raise UserError(
            os.EX_UNAVAILABLE,
            f"{self.folder} has no autoencoder (VAE)",
            f"Put one beside it as {self.folder.stem}.vae.safetensors, or get one with ./download_model.py {other}",
        )
