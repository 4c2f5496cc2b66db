"""How much an error in each layer's weights changes what a network computes, measured layer by layer on the CPU."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import read_config, read_weights
from helpers.compress import palettes
from helpers.core import openvino
from helpers.draw import diffusion, engines
from helpers.draw.engines import openvino_graph
from helpers.draw.engines.architecture import diffusers_names

if TYPE_CHECKING:
    from helpers.draw.engines import Array

_PROBE = 4  # bits of the palette that is tried in one layer at a time
_PROMPTS = ("a red heart on a green background", "a cat in the snow")
_MOMENTS = (0.1, 0.4, 0.7)  # fractions of the steps, from the first

Inputs = tuple[Any, ...]


@functools.lru_cache
def samples(source: Path) -> dict[str, list[Inputs]]:
    """The inputs of the networks (text_encoder, unet, vae) of the model in `source` while it draws a few pictures.

    The UNet always computes with and without the prompt; both count.
    """
    settings = engines.defaults(source)
    engine = engines.load("openvino", source, guidance=True)
    calls: dict[str, list[Inputs]] = {name: [] for name in ("encode_text", "predict_noise", "decode")}
    for name, inputs in calls.items():
        setattr(engine, name, _recording(getattr(engine, name), inputs))
    empty = engine.encode_text(engine.tokenizer.encode("").ids)
    for seed, prompt in enumerate(_PROMPTS):
        text = engine.encode_text(engine.tokenizer.encode(prompt).ids)
        guidance = max(settings.guidance, 1.01)
        engine.decode(diffusion.sample(engine, text, empty, seed=seed, steps=settings.steps, guidance=guidance))
    config, steps = read_config(source / "unet" / "config.json"), len(calls["predict_noise"]) // len(_PROMPTS)
    chosen = [
        calls["predict_noise"][picture * steps + int(moment * steps)]
        for picture in range(len(_PROMPTS))
        for moment in _MOMENTS
    ]
    return {
        "text_encoder": [(tokens[None],) for (tokens,) in calls["encode_text"]],
        "unet": [(latents, openvino_graph.time_features(config, at), text) for latents, at, text in chosen],
        "vae": calls["decode"],
    }


def _recording(function: Callable[..., Array], inputs: list[Inputs]) -> Callable[..., Array]:
    """The same function, which also appends its arguments to `inputs`."""

    def recorded(*arguments: Any) -> Array:
        inputs.append(copy.deepcopy(arguments))
        return function(*arguments)

    return recorded


@functools.lru_cache
def gains(source: Path, part: str) -> dict[str, float]:
    """For each layer (name of its weight) of a part (unet, vae, text_encoder) of the model in `source`: the mean
    squared error of the output for each unit of squared error in the layer's weights.

    Each layer in turn gets a palette of 4 bits, all others stay unchanged. The network is compiled once, with its
    weights as inputs.
    """
    inputs = samples(source)[part]
    network, original = _with_open_weights(source, part, inputs)

    def outputs(weights: Mapping[str, NDArray[Any]]) -> list[Array]:
        return [network([*sample, *weights.values()], share_inputs=True)[0].copy() for sample in inputs]

    exact = outputs(original)
    effects = {}
    for name, weight in original.items():
        changed = palettes.kmeans(weight.astype(np.float16), _PROBE).decoded().reshape(weight.shape)
        error = float(np.sum((changed.astype(np.float64) - weight) ** 2))
        rough = outputs({**original, name: changed.astype(weight.dtype)})
        effect = float(np.mean([np.mean((a - b) ** 2) for a, b in zip(exact, rough, strict=True)]))
        effects[name] = effect / error if error else 0.0
    return effects


def _with_open_weights(source: Path, part: str, inputs: list[Inputs]) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The compiled network, whose matrices and kernels are additional inputs after its own, and these weights."""
    op = openvino.runtime().opset15
    config, weights = read_config(source / part / "config.json"), diffusers_names(read_weights(source / part))
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
        if node.get_type_name() == "Constant" and name in weights and weights[name].ndim > 1:
            parameter = op.parameter(list(node.shape), node.get_element_type().to_dtype())
            node.output(0).replace(parameter.output(0))
            opened.append(parameter)
            original[name] = weights[name].reshape(list(node.shape))
    model.add_parameters(opened)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return openvino.runtime().Core().compile_model(model, "CPU", options), original
