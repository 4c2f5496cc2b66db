"""The filter of --safe: Stable Diffusion 1's own safety checker, which works on CLIP's embedding of a picture.

It compares the embedding with those of 20 concepts, nearly all sexual. It does not detect violence, sometimes flags
harmless pictures, and was made for photographs and paintings, not for drawings. It runs locally, on the processor.
https://arxiv.org/abs/2210.04610 describes what it detects and what it misses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt import diffusers_folder
from helpers.draw.engines import nvidia

# CLIP's preprocessing (openai/CLIP, clip.py): side in pixels, mean and standard deviation of each colour
_SIDE = 224
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def load(folder: Path) -> Callable[[NDArray[np.uint8]], bool]:
    """Load the filter from a model's folder `safety_checker`.

    Returns a function that takes a picture, uint8 (height, width, 3), and returns whether the filter flags it.

    Raises: UserError 69 for a damaged filter, or if PyTorch, which runs it, is missing.
    """
    nvidia.check_packages()
    files = diffusers_folder.weight_files(folder)
    half, config = ".fp16." in files[0].name, diffusers_folder.read_config(folder / "config.json")
    diffusers_folder.library("transformers").utils.logging.disable_progress_bar()
    torch = diffusers_folder.library("torch")
    module = importlib.import_module("diffusers.pipelines.stable_diffusion.safety_checker")
    kind = module.StableDiffusionSafetyChecker
    try:
        with torch.device("meta"):
            described = sum(one.numel() for one in kind(kind.config_class(**config)).parameters())
        diffusers_folder.check_amount(described, files)
        checker, found = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
            variant="fp16" if half else None, dtype=torch.float32,
        )  # fmt: skip
    except Exception as error:  # torch, safetensors and transformers have exceptions of their own
        raise diffusers_folder.misfit(folder, error) from error
    if lost := sorted(found["missing_keys"]):
        raise diffusers_folder.misfit(folder, ValueError(f"{lost[0]} is missing"))
    return lambda pixels: bool(checker(clip_input=_clip_input(pixels), images=[pixels.copy()])[1][0])


def _clip_input(pixels: NDArray[np.uint8]) -> Any:
    """The central square of a picture as CLIP's input: a tensor, (1, 3, 224, 224)."""
    from PIL import Image

    image = Image.fromarray(pixels)
    scale = _SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - _SIDE) // 2, (image.height - _SIDE) // 2
    square = np.asarray(image.crop((left, top, left + _SIDE, top + _SIDE)), np.float32) / 255
    normal = ((square - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]
    return importlib.import_module("torch").from_numpy(np.ascontiguousarray(normal))
