"""Stable Diffusion through Core ML, on the GPU or the Neural Engine of a Mac; no PyTorch.

A model is a folder in Apple's layout (github.com/apple/ml-stable-diffusion): TextEncoder, Unet (or UnetChunk1 and
UnetChunk2) and VAEDecoder, compiled (.mlmodelc) or as packages (.mlpackage, which Core ML compiles again at each load),
with vocab.json and merges.txt; `convert_coreml.py` adds conversion.json, tokenizer_config.json and audio_to_image.json.
Stable Diffusion XL also has a TextEncoder2; its refiner is not used. The shapes of a network's inputs are read from its
own description.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.checkpoint import Checkpoint
from helpers.adapt.diffusers_folder import damaged, plain, read_config
from helpers.core import imports, system
from helpers.core.errors import UserError
from helpers.draw.engines import Defaults, Options, compute_units, defaults, xl
from helpers.draw.tokenizer import END, Tokenizer

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine

# scheduler_config.json of Stable Diffusion 1, 2.1-base and XL, for folders without it, such as Apple's.
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "clip_sample": False,
    "steps_offset": 1,
}
_XL_SCHEDULER = _SCHEDULER | {"timestep_spacing": "leading"}
_DTYPES = {"float16": np.float16, "float32": np.float32, "int32": np.int32}


def coremltools() -> Any:
    """The coremltools module. Raises ModuleNotFoundError where it is not installed.

    We import it without the frameworks that it converts from, which are slow to import (1.3 s instead of 8.8 s).
    """
    if module := sys.modules.get("coremltools"):
        return module
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with imports.without("torch", "transformers", "tensorflow", "sklearn", "xgboost"):
        return importlib.import_module("coremltools")


class Network:
    """One loaded Core ML model. Raises: UserError 69 if Core ML cannot load or run it.

    load: loads the model at a path; the result has a method predict(inputs) -> outputs, as in coremltools.
    """

    def __init__(self, path: Path, load: Callable[[Path], Any]) -> None:
        self.path, self.inputs = path, inputs(path)
        with self._explained():
            self._model = load(path)

    def __call__(self, **arrays: NDArray[Any]) -> dict[str, Array]:
        """The model's outputs by name. Inputs are converted to the shapes and types that it declares."""
        converted = {
            name: np.ascontiguousarray(arrays[name], dtype=dtype).reshape(shape)
            for name, (shape, dtype) in self.inputs.items()
        }
        with self._explained():
            outputs = self._model.predict(converted)
        return {name: np.asarray(array, dtype=np.float32) for name, array in outputs.items()}

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # coremltools raises plain Exception and RuntimeError
            message = f"Core ML cannot use {self.path}: {error}"
            raise UserError(os.EX_UNAVAILABLE, message, "Fetch the model again.") from error


def inputs(path: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of each input of a Core ML model, from its description, without loading it.

    Raises: UserError 69 for a model that is damaged.
    """
    try:
        if path.suffix == ".mlmodelc":
            schema = json.loads(plain(path / "metadata.json").read_text(encoding="utf-8"))[0]["inputSchema"]
            described = [(item["name"], json.loads(item["shape"]), item["dataType"].lower()) for item in schema]
        else:
            features = coremltools().utils.load_spec(str(path)).description.input
            kinds = {65552: "float16", 65568: "float32", 131104: "int32"}  # ArrayFeatureType.ArrayDataType
            described = [
                (item.name, item.type.multiArrayType.shape, kinds[item.type.multiArrayType.dataType])
                for item in features
            ]
        return {name: (tuple(map(int, shape)), _DTYPES[dtype]) for name, shape, dtype in described}
    except Exception as error:  # coremltools raises plain Exception
        raise damaged(path, f"{type(error).__name__}: {error}") from error


class CoreMl:
    """The engine; helpers.draw.engines.Engine says what its members are."""

    name = "coreml"
    precision = "f16"
    pictures = 1

    def __init__(self, folder: Path, frugal: bool) -> None:
        self._frugal = frugal
        unet = inputs(_paths(folder, "Unet")[0])
        self._pooled = unet["text_embeds"][0][-1] if "text_embeds" in unet else 0  # width of this input; only XL has it
        encoders = ("TextEncoder", "TextEncoder2") if self._pooled else ("TextEncoder",)
        self._paths = {part: _paths(folder, part) for part in (*encoders, "Unet", "VAEDecoder")}
        self._networks: dict[str, list[Network]] = {}
        try:
            self._batch, self.channels, height, width = unet["sample"][0]
            self._text_width = unet["encoder_hidden_states"][0][1]
            length = inputs(self._paths["TextEncoder"][0])["input_ids"][0][-1]
        except (KeyError, ValueError) as error:
            message = f"{folder} holds Core ML models, but not of Stable Diffusion: {error} is missing"
            raise UserError(os.EX_UNAVAILABLE, message, "Use another model.") from error
        conversion = _conversion(folder)
        self.factor: int = conversion.get("factor", 8)
        self.size = (width * self.factor, height * self.factor)
        self._scaling = conversion.get("scaling_factor", 0.13025 if self._pooled else 0.18215)
        self._shift = conversion.get("shift_factor", 0.0)
        self.scheduler: dict[str, Any] = conversion.get("scheduler", _XL_SCHEDULER if self._pooled else _SCHEDULER)
        # Stable Diffusion 2 has OpenCLIP's text encoder, 1024 wide, which was trained with padding of zeros.
        padding = "!" if self._text_width == 1024 else END
        self.tokenizer = Tokenizer(folder, length, padding)
        if self._pooled:
            self.tokenizer = xl.BothTokenizers(Tokenizer(folder, length, END), Tokenizer(folder, length, "!"))
        self.defaults: Defaults = defaults(folder)

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        if not self._pooled:
            return self._run("TextEncoder", input_ids=tokens)["last_hidden_state"]
        if np.array_equal(tokens, self.tokenizer.encode("").ids):  # model_index.json: force_zeros_for_empty_prompt
            return np.zeros((1, self.tokenizer.length + 1, self._text_width), np.float32)
        first = self._run("TextEncoder", input_ids=tokens[0])["hidden_embeds"]
        second = self._run("TextEncoder2", input_ids=tokens[1])
        return xl.packed(first, second["hidden_embeds"], second["pooled_outputs"])

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        count = len(latents)
        if count > self._batch:  # the network has batch size 1
            rows = [self.predict_noise(latents[i : i + 1], timestep, text[i : i + 1]) for i in range(count)]
            return np.concatenate(rows)
        if count < self._batch:  # the network has batch size 2
            latents, text = (np.repeat(array, self._batch, axis=0) for array in (latents, text))
        inputs: dict[str, NDArray[Any]] = {"sample": latents, "timestep": np.full(self._batch, timestep)}
        if self._pooled:
            inputs["time_ids"] = np.tile(xl.time_ids(self.size), self._batch)
            text, inputs["text_embeds"] = xl.unpacked(text, self._pooled)
        inputs["encoder_hidden_states"] = text.transpose(0, 2, 1)[:, :, None]
        return self._run("Unet", **inputs)["noise_pred"][:count]

    def decode(self, latents: Array) -> Array:
        return self._run("VAEDecoder", z=latents / self._scaling + self._shift)["image"]

    def warm(self, pictures: int = 1) -> None:
        """The first prediction of each network takes longer than the next ones."""
        for part in () if self._frugal else self._paths:
            for network in self._load(part):
                network(**{name: np.zeros(shape, dtype) for name, (shape, dtype) in network.inputs.items()})

    def load(self, unit: str) -> None:
        """Set the compute unit, and load all networks unless memory is low."""
        self._unit = unit
        self.version = f"coremltools {coremltools().__version__} {unit}"
        for part in () if self._frugal else self._paths:
            self._load(part)

    def _load(self, part: str) -> list[Network]:
        if self._frugal and part not in self._networks:
            self._networks.clear()
        if part not in self._networks:
            self._networks[part] = [Network(path, self._model) for path in self._paths[part]]
        return self._networks[part]

    def _model(self, path: Path) -> Any:
        """The model at `path`, loaded by coremltools."""
        ct = coremltools()
        kind = ct.models.CompiledMLModel if path.suffix == ".mlmodelc" else ct.models.MLModel
        return kind(str(path), compute_units=ct.ComputeUnit[self._unit])

    def _run(self, part: str, **arrays: NDArray[Any]) -> dict[str, Array]:
        """The outputs of a part; if a network is split, the outputs of one chunk are inputs of the next."""
        available: dict[str, NDArray[Any]] = dict(arrays)
        outputs: dict[str, Array] = {}
        for network in self._load(part):
            outputs = network(**available)
            available |= outputs
        return outputs


def load(
    checkpoint: Checkpoint, options: Options, *, size: tuple[int, int] | None, guidance: bool, precision: str
) -> Engine:
    """What helpers.draw.engines.load does for the engine "coreml"."""
    folder = checkpoint.folder
    weight = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    short = 0 < system.machine().memory < 4 * weight
    engine = CoreMl(folder, short if options.low_memory is None else options.low_memory)
    check(engine, size, precision)
    engine.load(compute_units.choose_unit(folder, options.compute_units))  # last: it may take minutes
    return engine


def check(engine: CoreMl, size: tuple[int, int] | None, precision: str) -> None:
    """Raises: UserError 64 for a size or precision that a Core ML model does not have."""
    if precision not in ("", "f16"):
        raise UserError(os.EX_USAGE, f"there is no precision {precision!r} in Core ML", "It computes in f16.")
    if size not in (None, engine.size):
        remedy = "Leave --size out, or convert one of that size: python -m helpers.compress.convert_coreml --help."
        message = f"this model draws {engine.size[0]}x{engine.size[1]} only: a Core ML model has one size"
        raise UserError(os.EX_USAGE, message, remedy)


def _paths(folder: Path, part: str) -> list[Path]:
    """The network, or the chunks of a split Unet in order; compiled ones if they exist."""
    for suffix in (".mlmodelc", ".mlpackage"):
        for names in ([part], [f"{part}Chunk1", f"{part}Chunk2"]):
            paths = [folder / (name + suffix) for name in names]
            if all(path.is_dir() for path in paths):
                return paths
    raise UserError(os.EX_UNAVAILABLE, f"the model in {folder} has no {part}.mlmodelc", "Fetch the model again.")


def _conversion(folder: Path) -> dict[str, Any]:
    """The settings of convert_coreml: scaling_factor, shift_factor, factor (pixels per latent) and scheduler."""
    path = folder / "conversion.json"
    return read_config(path) if path.is_file() else {}
