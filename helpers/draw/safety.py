"""The filter of --safe: Stable Diffusion 1's own safety checker, which works on CLIP's embedding of a picture.

It compares the embedding with those of 20 concepts, nearly all sexual. It does not detect violence, sometimes flags
harmless pictures, and was made for photographs and paintings, not for drawings. It runs locally, on the processor.
https://arxiv.org/abs/2210.04610 describes what it detects and what it misses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt import diffusers_folder
from helpers.adapt.checkpoint import Checkpoint
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.draw.engines import openvino_engine

if TYPE_CHECKING:
    from openvino import Model

    from helpers.draw.engines import Array

# CLIP's preprocessing (openai/CLIP, clip.py): mean and standard deviation of each colour
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
# transformers' defaults, which a configuration leaves out
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_LARGEST = 1024  # pixels, of a side
_SETS = ("special_care_embeds", "concept_embeds")  # of concepts: a special one makes the filter stricter for the others
_STRICTER = 0.01


def load(folder: Path) -> Callable[[NDArray[np.uint8]], bool]:
    """Load the filter from a model's folder `safety_checker`.

    Returns a function that takes a picture, uint8 (height, width, 3), and returns whether the filter flags it.

    Raises: UserError 69 for a damaged filter.
    """
    scores = load_scores(folder)
    return lambda pixels: bool((scores(pixels)[1] > 0).any())


def load_scores(folder: Path) -> Callable[[NDArray[np.uint8]], tuple[Array, Array]]:
    """Load the filter. Returns a function from a picture to the scores of the special concepts and of the others, each
    rounded to three digits; the filter flags a picture if one of the others is above 0. Raises as `load` does."""
    files = diffusers_folder.weight_files(folder)
    config = diffusers_folder.read_config(folder / "config.json")
    try:
        vision: dict[str, Any] = _VISION | config["vision_config"]
        side = vision["image_size"]
        if not 0 < side <= _LARGEST:
            raise ValueError(f"image_size is {side}")
        weights = {_plain(name): array for name, array in diffusers_folder.read_weights(folder).items()}
        concepts = {name: (_array(weights, name), _array(weights, f"{name}_weights")) for name in _SETS}
        for vectors, least in concepts.values():
            if vectors.shape != (len(least), len(weights["visual_projection.weight"])):
                raise ValueError(f"{vectors.shape} are the concepts, {least.shape} their thresholds")
        identity = [Checkpoint(folder).identity([folder / "config.json", *files]), openvino_engine.code()]
        network = openvino.compiled(lambda: _graph(vision, weights), openvino_engine.name(folder, "filter"), identity)
    except (UserError, OSError):
        raise
    except Exception as error:  # the runtime's exceptions, and any that an odd setting causes
        raise diffusers_folder.misfit(folder, error) from error

    def scores(pixels: NDArray[np.uint8]) -> tuple[Array, Array]:
        embedding = network(_clip_input(pixels, side))[0].ravel()
        special, others = (_cosines(embedding, vectors) - least for vectors, least in concepts.values())
        special = special.round(3)
        return special, (others + (_STRICTER if (special > 0).any() else 0)).round(3)

    return scores


def _graph(vision: dict[str, Any], weights: dict[str, NDArray[Any]]) -> Model:
    from helpers.draw.engines import openvino_graph

    own = {name: array for name, array in weights.items() if not name.startswith(_SETS)}
    return openvino_graph.image_encoder(vision, own)


def _plain(name: str) -> str:
    """The name of a weight without the prefixes that versions of transformers put before it."""
    while name.startswith("vision_model."):
        name = name.removeprefix("vision_model.")
    return name


def _array(weights: dict[str, NDArray[Any]], name: str) -> Array:
    if name not in weights or not np.isfinite(weights[name]).all():
        raise UserError(os.EX_UNAVAILABLE, f"the safety filter's {name} is damaged", "Fetch the filter again.")
    return weights[name].astype(np.float32)


def _cosines(vector: Array, others: Array) -> Array:
    return np.asarray(others @ vector / (np.linalg.norm(others, axis=1) * np.linalg.norm(vector)))


def _clip_input(pixels: NDArray[np.uint8], side: int) -> Array:
    """The central square of a picture as CLIP's input: (1, 3, side, side)."""
    from PIL import Image

    image = Image.fromarray(pixels)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return np.ascontiguousarray(((square - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None])
