"""Which model draws: the one the user names, the best one for this machine, or the one that drew a picture."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from helpers.adapt import other_forms
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

_MOST_HASHES = 100  # kept in the cache


@dataclass(frozen=True)
class Model:
    """An image model on disk: what the user calls it, its folder (diffusers' or Apple's layout) or file, its engine."""

    name: str
    folder: Path
    engine: str
    entry: Entry | None = field(default=None, compare=False)  # its catalogue entry, if it has one
    vae: Path | None = field(default=None, compare=False)  # of another model, for a file without one

    @property
    def checkpoint(self) -> Checkpoint:
        """Its parts, as the engines read them."""
        return Checkpoint(self.folder, self.vae)

    def sha256(self, cache: Path = paths.CACHE) -> str:
        """The checkpoint's hash: the SHA-256 of the UNet's weight files, concatenated in the order of their names. For
        the usual single file, and for a model in one file, it is the hash of that file.

        It is taken from the catalogue if that pins the file. Otherwise the files are read once, and the hash is kept
        in `cache` until one of them changes.
        """
        files = sorted([*self.folder.glob("unet/*.safetensors"), *self.folder.glob("Unet*/**/weight.bin")])
        files = [self.folder] if self.folder.is_file() else files
        if len(files) == 1 and (pinned := self._pinned(files[0])):
            return pinned
        identity = Checkpoint(self.folder).identity(files)
        hashes = _cached_hashes(cache)
        if identity not in hashes:
            hashes = {**hashes, identity: sha256(files)}
            _cache_hashes(cache, hashes)
        return hashes[identity]

    def _pinned(self, file: Path) -> str:
        """The SHA-256 that the catalogue pins for a file of this model, or ""."""
        if not self.entry or self.entry.shipped:
            return ""
        with contextlib.suppress(OSError, ValueError):
            for pinned in self.entry.contents():
                if self.folder / pinned.path == file and pinned.fits(self.folder):
                    return pinned.sha256
        return ""

    @property
    def has_closed_vocabulary(self) -> bool:
        """Whether it knows the words of its `words.txt` only, as the built-in model does."""
        return (self.folder / "words.txt").is_file()

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of `prompt` that a model with a closed vocabulary (`words.txt`) has never seen, in order."""
        if not self.has_closed_vocabulary:
            return []
        vocabulary = set((self.folder / "words.txt").read_text(encoding="utf-8").split())
        words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", prompt.casefold().replace("’", "'"))
        return list(dict.fromkeys(word for word in words if word not in vocabulary))


def choose_model(name: str = "", engine: str = "", models: Catalog | None = None) -> Model:
    """The model that the user names: a folder or a catalogue name; "" is the best one for this machine. If that model
    is not on disk, the built-in one is used instead. engine: the engine that the user asks for.

    Raises: UserError 64 for an unknown name, 66 for a missing folder, 69 for a model that no engine of this machine, or
    not the given engine, can run.
    """
    models = models or catalog.read()
    available = engines.available(engine)
    if not engine:
        for kind in engines.ENGINES.values():
            if advice := kind.advice():
                log.info("%s", advice)
    if os.sep in name:
        return _folder(name, available, models)
    entry = models.find(name) if name else models.default(engines.role(available[0]))
    if entry.kind != "image":
        raise UserError(os.EX_USAGE, f"{name} draws no pictures: it is a {entry.kind} model")
    able = [one for one in available if one in entry.engines or engines.ENGINES[one].models in entry.engines]
    if not able:
        message = f"{name} needs the engine {' or '.join(entry.engines)}, which this machine does not have"
        raise UserError(os.EX_UNAVAILABLE, message, f"Models for {available[0]}: ./download_model.py list")
    if problem := entry.problem():
        # Where a processor draws, the built-in model is as good as expected: it says itself what it cannot draw
        if name or problem != "missing" or available[0] != "openvino":
            get = f"get it: ./download_model.py {entry.name}"
            log.info("%s is %s: using the built-in model; %s", entry.name, problem, get)
        entry = models.default("builtin")
        return Model(entry.name, entry.path, "openvino", entry)
    return Model(entry.name, entry.path, able[0], entry)


def _folder(name: str, available: tuple[str, ...], models: Catalog) -> Model:
    folder = Path(name).expanduser().resolve()
    if not folder.exists():
        raise other_forms.missing(name, "image", models)
    other_forms.check(folder)
    able = [engine for engine in available if engine in engines.engines_of(folder)]
    if not able:
        message = f"{name} needs the engine {' or '.join(engines.engines_of(folder))}, which this machine does not have"
        raise UserError(os.EX_UNAVAILABLE, message, "Leave --model out to use the default model.")
    if folder.is_file():
        return Model(printable(folder.stem), folder, able[0], vae=_lent_vae(folder, models))
    return Model(printable(folder.name), folder, able[0])


def _lent_vae(file: Path, models: Catalog) -> Path | None:
    """The autoencoder of a downloaded model of the same kind as the one in `file`."""
    from helpers.adapt import single_file

    names = {"1": ("stable-diffusion-1-5",), "2": ("stable-diffusion-2-1-base", "sd-turbo")}
    wanted = names.get(single_file.layout(file).family, ("stable-diffusion-xl", "sdxl-turbo"))
    entries = (models.entries.get(name) for name in wanted)
    return next((entry.folder / "vae" for entry in entries if entry and entry.is_present()), None)


def open_model(engine: str, models: Catalog | None = None) -> str:
    """How to get a model that draws anything with this engine: one on this machine, or the smallest to download."""
    able = [
        entry
        for entry in (models or catalog.read()).entries.values()
        if entry.kind == "image" and not entry.shipped and engine in entry.engines
    ]
    if here := next((entry for entry in able if entry.is_present()), None):
        return f"--model {here.name} draws anything."
    if not able:
        return "Say something of what its card lists: models/builtin/README.md"
    small = min(able, key=lambda entry: entry.bytes)
    return f"./download_model.py {small.name} gets a model that draws anything ({catalog.human(small.bytes)})."


def model_of(job: Job, engine: str = "", models: Catalog | None = None) -> Model:
    """The model that a job names. If the job has a hash, the model must have the same one.

    Raises: UserError 66, which names the model and its hash, if the model is missing or its hash differs.
    """
    models = models or catalog.read()
    if not job.model:
        return choose_model("", engine, models)
    name = f"the model {job.model}" + (f" (hash {job.sha256})" if job.sha256 else "")
    remedy = "--model NAME draws with another one; the picture then differs."
    entry = models.entries.get(job.model)
    if entry is None or entry.kind != "image":
        raise UserError(os.EX_NOINPUT, f"{name} is not on this machine", remedy)
    if entry.problem():
        raise UserError(os.EX_NOINPUT, f"{name} is not on this machine", f"Get it: ./download_model.py {entry.name}")
    model = choose_model(job.model, engine, models)
    check_hash(model, job)
    return model


def check_hash(model: Model, job: Job) -> None:
    """Raises: UserError 66 if the hash in `job` is that of another model."""
    if job.sha256 and not model.sha256().startswith(job.sha256):
        message = f"the model {model.name} has the hash {model.sha256()[: len(job.sha256)]}, not {job.sha256}"
        remedy = "The picture would differ. --model NAME draws with it anyway."
        raise UserError(os.EX_NOINPUT, message, remedy)


def detector(model: Model, models: Catalog | None = None) -> Path:
    """The folder of the safety filter's network: the model's own, or the one downloaded for all models.

    Raises: UserError 69 with the command that gets it.
    """
    shared = (models or catalog.read()).default("filter")
    for folder in (model.folder, shared.folder):
        if (folder / "safety_checker").is_dir():
            return folder / "safety_checker"
    remedy = f"Get it: ./download_model.py {shared.name}   ({catalog.human(shared.bytes)})"
    raise UserError(
        os.EX_UNAVAILABLE, "--safe needs the model of the safety filter, which is not on this machine", remedy
    )


def _cached_hashes(cache: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        hashes = json.loads((cache / "model-hashes.json").read_text(encoding="utf-8"))
        if isinstance(hashes, dict) and all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in hashes.values()):
            return hashes
    return {}


def _cache_hashes(cache: Path, hashes: dict[str, str]) -> None:
    file = cache / "model-hashes.json"
    newest = dict(list(hashes.items())[-_MOST_HASHES:])
    with contextlib.suppress(OSError):  # read-only or full: the next start reads the weights again
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(newest, indent=1) + "\n").encode())
