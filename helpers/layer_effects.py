"""How much an error in each layer's weights changes what a network computes, measured layer by layer on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers import diffusion, engines, palettes
from helpers.engines import openvino_graph
from helpers.engines.architecture import todays_names
from helpers.engines.weights import read_config, read_weights

if TYPE_CHECKING:
    from helpers.engines import Array, Engine

_PROBE = 4  # bits of the palette whose error is put into one layer at a time
_PROMPTS = ("a red heart on a green background", "a cat in the snow")
_MOMENTS = (0.1, 0.4, 0.7)  # of the sampling, from its beginning

Inputs = tuple[NDArray[Any], ...]


class Samples(NamedTuple):
    """What the networks of a model were given while pictures were drawn."""

    size: tuple[int, int]
    text_encoder: list[Inputs]
    unet: list[Inputs]
    vae: list[Inputs]


@functools.lru_cache
def samples(source: Path) -> Samples:
    """Draw a few pictures with the model in `source` and keep what its networks are given on the way."""
    settings = engines.defaults(source)
    engine = engines.load("cpu", source, guidance=True)
    kept = Samples(engine.size, [], [], [])
    config = read_config(source / "unet" / "config.json")
    watched = _Watched(engine, kept, {int(moment * settings.steps) for moment in _MOMENTS}, config)
    empty = watched.encode_text(engine.tokenizer.encode("").ids)
    for seed, prompt in enumerate(_PROMPTS):
        text = watched.encode_text(engine.tokenizer.encode(prompt).ids)
        guidance = max(settings.guidance, 1.01)
        diffusion.draw(watched, text, empty, seed=seed, steps=settings.steps, guidance=guidance)
    return kept


class _Watched:
    """An engine that keeps what it is asked."""

    def __init__(self, engine: Engine, kept: Samples, steps: set[int], unet: dict[str, Any]) -> None:
        self._engine, self._kept, self._steps, self._unet, self._step = engine, kept, steps, unet, 0
        for name in (
            "name",
            "version",
            "precision",
            "size",
            "channels",
            "factor",
            "scheduler",
            "tokenizer",
            "defaults",
        ):
            setattr(self, name, getattr(engine, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        self._kept.text_encoder.append((tokens[None].copy(),))
        return self._engine.encode_text(tokens)

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        if self._step in self._steps:
            features = openvino_graph.time_features(self._unet, timestep)
            self._kept.unet.append((latents.copy(), features, text.copy()))
        self._step += 1
        return self._engine.predict_noise(latents, timestep, text)

    def decode(self, latents: Array) -> Array:
        self._step = 0
        self._kept.vae.append((latents.copy(),))
        return self._engine.decode(latents)


@functools.lru_cache
def gains(source: Path, part: str) -> dict[str, float]:
    """For each layer (name of its weight) of a part (unet, vae, text_encoder) of the model in `source`: the mean
    squared error of the output for each unit of squared error in the layer's weights.

    Each layer in turn is computed with a palette of 4 bits, all others as they are. The network is compiled once, with
    its weights as inputs.
    """
    kept = samples(source)
    network, original = _with_open_weights(source, part, kept)
    inputs: list[Inputs] = getattr(kept, part)

    def outputs(given: Mapping[str, NDArray[Any]]) -> list[Array]:
        return [network([*sample, *given.values()], share_inputs=True)[0].copy() for sample in inputs]

    exact = outputs(original)
    found = {}
    for name, weight in original.items():
        half = weight.astype(np.float16)
        changed = palettes.kmeans(half, _PROBE).decoded().reshape(half.shape).astype(weight.dtype)
        error = float(np.sum((changed.astype(np.float64) - weight) ** 2))
        rough = outputs({**original, name: changed})
        effect = float(np.mean([np.mean((a - b) ** 2) for a, b in zip(exact, rough, strict=True)]))
        found[name] = effect / error if error else 0.0
    return found


def _with_open_weights(source: Path, part: str, kept: Samples) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The compiled network with each weight of two or more axes as an input behind its own, and these weights."""
    from openvino import Core
    from openvino import opset15 as op

    config, weights = read_config(source / part / "config.json"), todays_names(read_weights(source / part))
    inputs: list[Inputs] = getattr(kept, part)
    if part == "unet":
        batch, _, height, width = inputs[0][0].shape
        model = openvino_graph.unet(config, weights, batch, height, width, inputs[0][2].shape[1])
    elif part == "vae":
        model = openvino_graph.decoder(config, weights, *inputs[0][0].shape[2:])
    else:
        model = openvino_graph.text_encoder(config, weights)
    opened, original = [], {}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "Constant" and len(node.shape) > 1 and name in weights:
            parameter = op.parameter(list(node.shape), node.get_element_type().to_dtype())
            node.output(0).replace(parameter.output(0))
            opened.append(parameter)
            original[name] = weights[name].reshape(list(node.shape))
    model.add_parameters(opened)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return Core().compile_model(model, "CPU", options), original
