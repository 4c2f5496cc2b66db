"""Stable Diffusion on the processor, with the OpenVINO runtime, without PyTorch.

The graphs are built from an ordinary diffusers folder (`openvino_graph.py`) and compiled for one picture size.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.checkpoint import Checkpoint
from helpers.adapt.diffusers_folder import check_parts, factor, misfit, native_size, unknown
from helpers.core import mapped, openvino, system
from helpers.core.errors import UserError
from helpers.draw.engines import Defaults, Options, check_decoder, check_size, compute_units, defaults, xl
from helpers.draw.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openvino import Model

    from helpers.draw.engines import Array, Engine
    from helpers.draw.engines.openvino_int8 import Ranges

_CODE = ("layers.py", "architecture.py", "lcm.py", "openvino_graph.py", "openvino_int8.py")
_PARTS = ("unet", "vae", "text_encoder")  # the slowest to prepare first; Stable Diffusion XL has a text_encoder_2, too
_WORKSPACE = 1 << 30  # bytes, for the results between layers and for everything else


class OpenVino:
    """The engine; its members are described in helpers.draw.engines.Engine."""

    name = "openvino"
    pictures = 1

    def __init__(
        self,
        checkpoint: Checkpoint,
        configs: dict[str, dict[str, Any]],
        load_network: Callable[[str, int], openvino.Network],
        graph: Callable[[str, contextlib.ExitStack], Model],
        size: tuple[int, int],
        large: bool,
        frugal: bool,
        in_int8: bool,
        device: str,
    ) -> None:
        self._parts, self._load_network, self._large, self._frugal = tuple(configs), load_network, large, frugal
        self.graph = graph
        self.networks: dict[str, openvino.Network] = {}
        length = self._length = configs["text_encoder"]["max_position_embeddings"]  # of the UNet's text
        self._load_all()
        self.version = openvino.version() + (f" {device}" if device != "CPU" else "")
        self.precision = "int8" if in_int8 else self._network("unet").precision
        self.size = size
        self.channels: int = configs["vae"]["latent_channels"]
        self.factor: int = factor(configs["vae"])
        self.scheduler = checkpoint.config("scheduler")
        self.tokenizer = Tokenizer.of(checkpoint, length)
        self._second = configs.get("text_encoder_2", {})
        if self._second:
            second = Tokenizer.of(checkpoint, length, "tokenizer_2")
            self.tokenizer = xl.BothTokenizers(self.tokenizer, second, configs["text_encoder"]["hidden_size"])
        self._zero_empty = checkpoint.index().get("force_zeros_for_empty_prompt", True)
        self.defaults: Defaults = defaults(checkpoint)
        self._unet = configs["unet"]

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        if not self._second:
            return self._network("text_encoder")(tokens[None])[0]
        if self._zero_empty and np.array_equal(tokens, self.tokenizer.encode("").ids):
            return np.zeros((1, self.tokenizer.length + 1, self._unet["cross_attention_dim"]), np.float32)
        first, second = self._network("text_encoder")(tokens[:1]), self._network("text_encoder_2")(tokens[1:])
        return xl.packed(first[0], second[0], second[1][:, xl.end(tokens[1], self._second)])

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        from helpers.draw.engines.openvino_graph import added_features, time_features

        if (length := text.shape[1] - bool(self._second)) != self._length:  # a prompt of another number of chunks
            self.networks.pop("unet", None)  # first, to free its memory
            self._length = length
        inputs = [latents, time_features(self._unet, timestep), text]
        if self._second:
            text, pooled = xl.unpacked(text, self._second["projection_dim"])
            inputs[2:] = [np.ascontiguousarray(text), added_features(self._unet, pooled, xl.time_ids(self.size))]
        return self._network("unet")(*inputs)[0]

    def decode(self, latents: Array) -> Array:
        decoder = self._network("vae")
        picture = decoder(latents)[0]
        if self._large:
            decoder.rest()
        return picture

    def warm(self, pictures: int = 1) -> None:
        """Big models warm only the text encoder: a step of their UNet takes longer than warming saves."""
        for part in self._parts:
            if not self._large or part.startswith("text_encoder"):
                self._network(part).warm()

    def _load_all(self) -> None:
        """Load the networks unless memory is low. Large ones one after the other: each needs memory while it loads."""
        with ThreadPoolExecutor(1 if self._large else len(self._parts)) as pool:
            list(pool.map(self._network, () if self._frugal else self._parts))

    def _network(self, part: str) -> openvino.Network:
        if part not in self.networks:
            if self._frugal:
                self.networks.clear()
            self.networks[part] = self._load_network(part, self._length)
        return self.networks[part]


def load(
    checkpoint: Checkpoint, options: Options, *, size: tuple[int, int] | None, guidance: bool, precision: str
) -> Engine:
    """helpers.draw.engines.load for the engine "openvino"."""
    device = "CPU"
    if (asked := options.compute_units) not in ("", "CPU"):
        about = f"{openvino.version()} {openvino.describe(asked)}"
        device = compute_units.openvino_unit(checkpoint.folder, asked, about)
    return load_on(device, checkpoint, options, size=size, guidance=guidance, precision=precision)


def load_on(
    device: str,
    checkpoint: Checkpoint,
    options: Options,
    *,
    size: tuple[int, int] | None,
    guidance: bool,
    precision: str,
) -> OpenVino:
    """The engine on one of OpenVINO's devices: UNet and decoder compute there, a text encoder on the processor.

    Raises: as helpers.draw.engines.load; UserError 69 also for a device that this machine has not.
    """
    folder = checkpoint.folder
    precisions = openvino.PRECISIONS if device == "CPU" else ("f16", "f32")
    precision = precision or ("f32" if device == "CPU" else "f16")
    if precision not in precisions:
        names = ", ".join(precisions)
        raise UserError(os.EX_USAGE, f"there is no precision {precision!r} on OpenVINO's {device}", f"Use {names}.")
    if not openvino.describe(device):
        raise UserError(os.EX_UNAVAILABLE, f"OpenVINO finds no {device} on this machine", "Install its driver.")
    if not (checkpoint.is_file or (folder / "model_index.json").is_file()):
        raise UserError(os.EX_UNAVAILABLE, f"there is no Stable Diffusion model in {folder}", "Fetch the model again.")
    checkpoint = replace(checkpoint, decoder=options.decoder)
    has_second = bool(checkpoint.index().get("text_encoder_2"))
    parts = (*_PARTS, "text_encoder_2") if has_second else _PARTS
    configs = {part: checkpoint.config(part) for part in parts}
    try:
        scale = factor(configs["vae"])
        check_decoder(options.decoder, configs["vae"], configs["unet"])
        check_parts(configs["unet"], configs["vae"], *(configs[part] for part in parts if part.startswith("text")))
        if bool(configs["unet"].get("addition_embed_type")) != has_second:
            raise unknown("unet", "addition_embed_type", configs["unet"].get("addition_embed_type"))
        width, height = size or native_size(configs["unet"], scale)
        length = configs["text_encoder"]["max_position_embeddings"]
    except (KeyError, TypeError, AttributeError) as error:
        raise misfit(folder, error) from error
    check_size((width, height), scale)
    openvino.runtime()  # before the threads: only one of them would import it without its converter
    latents = (height // scale, width // scale)
    shapes: dict[str, tuple[int, ...]] = {"unet": (2 if guidance else 1, *latents, length), "vae": latents}
    shapes |= dict.fromkeys(parts[2:], (has_second,))
    ranges: dict[str, dict[str, float]] = {}
    if precision == "int8":
        from helpers.draw.engines import openvino_int8

        ranges = openvino_int8.read(checkpoint)
        if options.decoder:  # a small one, which was not measured
            del ranges["vae"]
    weights = {part: checkpoint.size(part) for part in parts}
    large = weights["unet"] > openvino.LARGE
    need = _WORKSPACE + sum(weights.values()) * (2 if precision == "f32" else 1)
    short = large and 0 < system.memory()[1] < need

    def shape(part: str, text: int) -> tuple[int, ...]:
        return (*shapes[part][:-1], text) if part == "unet" else shapes[part]

    def graph(part: str, stack: contextlib.ExitStack, text: int = length) -> Model:
        return _graph(checkpoint, part, shape(part, text), stack, ranges.get(part))

    def load_network(part: str, text: int) -> openvino.Network:
        place, is_text = checkpoint.place(part), part.startswith("text_encoder")
        identity = [checkpoint.key(part), code(), shape(part, text), ranges.get(part)]
        with contextlib.ExitStack() as stack:
            try:
                return openvino.compiled(
                    lambda: graph(part, stack, text),
                    name(place if place == options.decoder else folder, part),
                    identity,
                    # A text encoder is cheap and its errors change the picture: always float32.
                    precision="f32" if is_text else precision,
                    cache=options.cache,
                    in_place=is_text and weights[part] > openvino.LARGE,
                    device="CPU" if is_text else device,
                )
            except (UserError, OSError):
                raise
            except Exception as error:  # the runtime's exceptions, and any that an odd setting causes
                if device != "CPU":
                    said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
                    raise UserError(os.EX_UNAVAILABLE, f"OpenVINO cannot use the {device}: {said}") from error
                raise misfit(place, error) from error

    frugal = short if options.low_memory is None else options.low_memory
    return OpenVino(
        checkpoint, configs, load_network, graph, (width, height), large, frugal, precision == "int8", device
    )


def compiled_copies(folder: Path) -> list[Path]:
    """The compiled files in the cache for the model in `folder`, which may have been deleted."""
    return list(openvino.CACHE.glob(name(folder, "*")))


def code() -> list[bytes]:
    """The code that the graphs depend on, for the key of a compiled one."""
    return [Path(__file__).with_name(file).read_bytes() for file in _CODE]


def name(folder: Path, part: str) -> str:
    """The prefix of the names of a part's compiled files."""
    return f"{openvino.short(folder.resolve())}-{part}"


def _graph(
    checkpoint: Checkpoint, part: str, shape: tuple[int, ...], stack: contextlib.ExitStack, ranges: Ranges | None = None
) -> Model:
    """A part of a model; shape: the further arguments of its function in openvino_graph.py. Its weights do not stay in
    memory while `stack` is open. ranges: of the layers that compute in int8."""
    from helpers.draw.engines import openvino_graph

    builders: dict[str, Any] = {
        "unet": openvino_graph.unet,
        "vae": openvino_graph.decoder,
        "text_encoder": openvino_graph.text_encoder,
        "text_encoder_2": openvino_graph.text_encoder,
    }
    config, weights = checkpoint.config(part), checkpoint.weights(part)
    stack.enter_context(mapped.dropping(weights.values()))
    model: Model = builders[part](config, weights, *shape)
    if ranges:
        from helpers.draw.engines import openvino_int8

        openvino_int8.quantize(model, ranges)
    return model
