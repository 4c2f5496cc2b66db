"""The LoRAs of a job: found by their names, added to the model, and written down with their hashes."""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.adapt import found, lora, names
from helpers.adapt.lora import Lora
from helpers.core.errors import UserError
from helpers.core.settings import Adapter
from helpers.draw import engines
from helpers.words import prompt_syntax

if TYPE_CHECKING:
    from helpers.adapt.checkpoint import Checkpoint
    from helpers.catalog.catalog import Catalog
    from helpers.draw.choose_model import Model
    from helpers.draw.job import Job

_DIGITS = 12  # of a LoRA's hash, as the web UI writes it


class Additions:
    """What may be added to one model. The files are hashed in the background, while the first picture is drawn."""

    def __init__(self, model: Model, models: Catalog, background: Executor, search: Path | None = None) -> None:
        """search: a folder of the user's own with LoRAs in `loras`."""
        self._model, self._background = model, background
        self._folders = [models.folder / "loras", *found.lora_folders(found.home_folder(), search)]
        self._hashes: dict[Path, Future[str]] = {}

    def named_in(self, job: Job) -> tuple[Job, list[str]]:
        """The job without the `<lora:…>` in a prompt that was typed, and with those LoRAs; and what is missing."""
        if not job.typed or job.plain:
            return job, []
        prompt, tags = prompt_syntax.loras(job.prompt)
        there, missing = [], []
        for name, weight in tags:
            try:
                self._file(Adapter(name, weight), path=False)
                there.append(Adapter(name, weight))
            except UserError as error:
                missing.append(error.message)
        return replace(job, prompt=prompt, loras=(*job.loras, *there)), missing

    def checkpoint(self, job: Job) -> Checkpoint:
        """The model with the job's LoRAs.

        Raises: UserError 66 for one that is missing, or has not the hash in the job; 69 if the engine can have none.
        """
        loras = tuple(Lora(self._file(one), one.weight) for one in job.loras)
        if loras and not engines.ENGINES[self._model.engine].adapts:
            remedy = "Convert the model with it: python -m helpers.compress.convert_coreml MODEL --lora FILE -o DIR"
            raise UserError(os.EX_UNAVAILABLE, "a Core ML model takes no LoRA", remedy)
        return replace(self._model.checkpoint, loras=loras)

    def hashed(self, job: Job) -> Job:
        """The job with the hashes of its LoRAs."""
        loras = (one._replace(sha256=self._hash(self._file(one))[:_DIGITS]) for one in job.loras)
        return replace(job, loras=tuple(loras))

    def _file(self, adapter: Adapter, path: bool = True) -> Path:
        file = names.find_lora(adapter.name, self._folders, path)
        if file not in self._hashes:
            self._hashes[file] = self._background.submit(lora.sha256, file)
        if adapter.sha256 and not self._hash(file).startswith(adapter.sha256):
            message = f"the LoRA {file} has the hash {self._hash(file)[:_DIGITS]}, not {adapter.sha256}"
            raise UserError(os.EX_NOINPUT, message, "The picture would differ. --lora NAME draws with it anyway.")
        return file

    def _hash(self, file: Path) -> str:
        return self._hashes[file].result()
