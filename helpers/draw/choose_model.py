"""Which model draws: the one the user names, the best one for this machine, or the one that drew a picture."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from helpers.adapt.checkpoint import Checkpoint
from helpers.catalog import catalog
from helpers.catalog.catalog import Catalog, Entry
from helpers.core import paths
from helpers.core.errors import UserError
from helpers.core.files import sha256, write_whole
from helpers.core.text import printable
from helpers.draw import engines
from helpers.draw.job import Job

log = logging.getLogger(__name__)

_MOST_HASHES = 100  # that are remembered


@dataclass(frozen=True)
class Model:
    """An image model on disk: what the user calls it, its folder (diffusers' or Apple's layout), and its engine."""

    name: str
    folder: Path
    engine: str
    entry: Entry | None = field(default=None, compare=False)  # of the catalogue, if it is in there

    def sha256(self, cache: Path = paths.CACHE) -> str:
        """What tells one checkpoint from another: the sha256 of the UNet's weight files, one after the other in the
        order of their names, which for the usual single file is that file's own.

        The catalogue knows it for a single file that it pins. Any other is read once, and remembered in `cache` until
        a file changes.
        """
        files = sorted([*self.folder.glob("unet/*.safetensors"), *self.folder.glob("Unet*/**/weight.bin")])
        if len(files) == 1 and (pinned := self._pinned(files[0])):
            return pinned
        identity = Checkpoint(self.folder).identity(files)
        remembered = _remembered(cache)
        if identity not in remembered:
            remembered = {**remembered, identity: sha256(files)}
            _remember(cache, remembered)
        return remembered[identity]

    def _pinned(self, file: Path) -> str:
        """The sha256 that the catalogue pins for a file of this model, or ""."""
        if not self.entry or self.entry.shipped:
            return ""
        with contextlib.suppress(OSError, ValueError):
            for known in self.entry.contents():
                if self.folder / known.path == file and known.fits(self.folder):
                    return known.sha256
        return ""

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of `prompt` that a model with a closed vocabulary (`words.txt`) has never seen, in order."""
        path = self.folder / "words.txt"
        if not path.is_file():
            return []
        known = set(path.read_text(encoding="utf-8").split())
        words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", prompt.casefold().replace("’", "'"))
        return list(dict.fromkeys(word for word in words if word not in known))


def choose_model(name: str = "", engine: str = "", models: Catalog | None = None) -> Model:
    """The model a user names: a folder, or a name of the catalogue; "" is the best one for this machine. Where that is
    not on disk, the built-in one. engine: the one that the user asks for.

    Raises: UserError 64 for a name that nobody knows, 66 for a folder that is not there, 69 for a model that this
    machine, or the engine that is asked for, does not draw with.
    """
    models = models or catalog.read()
    here = engines.available(engine)
    if not engine:
        for kind in engines.ENGINES.values():
            if advice := kind.advice():
                log.info("%s", advice)
    if os.sep in name:
        return _folder(name, here)
    entry = models.find(name) if name else models.default(engines.role(here[0]))
    if entry.kind != "image":
        raise UserError(os.EX_USAGE, f"{name} draws no pictures: it is a {entry.kind} model")
    able = [one for one in here if one in entry.engines or engines.ENGINES[one].models in entry.engines]
    if not able:
        message = f"{name} is computed by {' or '.join(entry.engines)}, which is not on this machine"
        raise UserError(os.EX_UNAVAILABLE, message, f"Models for {here[0]}: ./download_model.py list")
    if problem := entry.problem():
        log.info("%s is %s, the built-in model draws; ./download_model.py %s gets it", entry.name, problem, entry.name)
        entry = models.default("openvino")
        return Model(entry.name, entry.path, "openvino", entry)
    return Model(entry.name, entry.path, able[0], entry)


def _folder(name: str, here: tuple[str, ...]) -> Model:
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(os.EX_NOINPUT, f"there is no model folder {name}")
    able = [engine for engine in here if engine in engines.engines_of(folder)]
    if not able:
        message = f"{name} is computed by {' or '.join(engines.engines_of(folder))}, which is not on this machine"
        raise UserError(os.EX_UNAVAILABLE, message, "Leave --model out to draw with what is here.")
    return Model(printable(folder.name), folder, able[0])


def model_of(job: Job, engine: str = "", models: Catalog | None = None) -> Model:
    """The model that a job names, which is the same as the one that drew a picture if their hashes are.

    Raises: UserError 66, which names the model and its hash, if it is not here or is another one.
    """
    models = models or catalog.read()
    if not job.model:
        return choose_model("", engine, models)
    what = f"the model {job.model}" + (f" (hash {job.sha256})" if job.sha256 else "")
    remedy = "--model NAME draws with another one; the picture then differs."
    entry = models.entries.get(job.model)
    if entry is None or entry.kind != "image":
        raise UserError(os.EX_NOINPUT, f"{what} is not on this machine", remedy)
    if entry.problem():
        raise UserError(os.EX_NOINPUT, f"{what} is not on this machine", f"Get it: ./download_model.py {entry.name}")
    model = choose_model(job.model, engine, models)
    check_hash(model, job)
    return model


def check_hash(model: Model, job: Job) -> None:
    """Raises: UserError 66 if `job` names the hash of another model."""
    if job.sha256 and not model.sha256().startswith(job.sha256):
        message = f"the model {model.name} has the hash {model.sha256()[: len(job.sha256)]}, not {job.sha256}"
        remedy = "It would draw another picture. --model NAME draws with it all the same."
        raise UserError(os.EX_NOINPUT, message, remedy)


def detector(model: Model, models: Catalog | None = None) -> Path:
    """The folder of the safety filter's network: the model's own, or the one that was downloaded for all.

    Raises: UserError 69 with the command that gets it.
    """
    fetched = (models or catalog.read()).default("filter")
    for folder in (model.folder, fetched.folder):
        if (folder / "safety_checker").is_dir():
            return folder / "safety_checker"
    remedy = f"Get one with: ./download_model.py {fetched.name}   ({catalog.human(fetched.bytes)})"
    raise UserError(os.EX_UNAVAILABLE, "--safe needs a detector, and there is none on this machine", remedy)


def _remembered(cache: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((cache / "model-hashes.json").read_text(encoding="utf-8"))
        if isinstance(known, dict) and all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in known.values()):
            return known
    return {}


def _remember(cache: Path, hashes: dict[str, str]) -> None:
    file = cache / "model-hashes.json"
    newest = dict(list(hashes.items())[-_MOST_HASHES:])
    with contextlib.suppress(OSError):  # read-only or full: the next start reads the weights again
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(newest, indent=1) + "\n").encode())
