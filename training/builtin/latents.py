"""The latents: each 16×16 patch of a picture on its twenty principal components.

This encoder is linear, so encoding is fast, and decoder and UNet can be trained separately. An encoder trained together
with its decoder was much worse after the same time on a small machine. All weights depend on the basis, which is stored
in `basis.safetensors` beside this file: a new basis makes all weights invalid.
"""

from __future__ import annotations

import functools
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from training.builtin.scenes import GRID, SIZE, Picture, render
from training.builtin.vocabulary import Scene, sample_scene

CHANNELS = 20  # PSNR of held-out scenes: 28.4 dB with ten, 30.1 with sixteen, 31.4 with twenty
UNIT = 10  # the first ten components have a mean variance of one, so that more components do not change the scale
BASIS = Path(__file__).with_name("basis.safetensors")


def to_tensor(picture: Picture) -> torch.Tensor:
    """(height, width, 3) in 0…255 as float32 (3, height, width) in -1…1."""
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1


def _patches(pictures: torch.Tensor) -> torch.Tensor:
    """(n, 3, h, w) as (n, h/16 · w/16, 768)."""
    n, _, height, width = pictures.shape
    tiles = pictures.reshape(n, 3, height // GRID, GRID, width // GRID, GRID)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 3 * GRID * GRID)


@functools.cache
def _basis() -> tuple[torch.Tensor, torch.Tensor]:
    tensors = load_file(BASIS)
    return tensors["mean"], tensors["matrix"]


def encode(pictures: torch.Tensor) -> torch.Tensor:
    """(n, 3, h, w) in -1…1 as latents (n, 20, h/16, w/16), float32."""
    mean, matrix = (tensor.to(pictures.device) for tensor in _basis())
    n, _, height, width = pictures.shape
    latents = (_patches(pictures) - mean) @ matrix
    return latents.transpose(1, 2).reshape(n, CHANNELS, height // GRID, width // GRID)


REMEMBERED = 20_000  # cached scenes, 820 MB: enough to render every scene with one subject only once


@functools.cache
def _remembered() -> tuple[torch.Tensor, dict[Scene, int]]:
    """The cache of latents, in one block: separate tensors fragment the memory, and the process grows to 9 GB."""
    return torch.empty(REMEMBERED, CHANNELS, SIZE // GRID, SIZE // GRID, dtype=torch.float16), {}


def scene_latent(scene: Scene) -> torch.Tensor:
    """The latent of a scene: float16, (20, 32, 32)."""
    latents, places = _remembered()
    if scene not in places:
        latent = encode(to_tensor(render(scene))[None])[0].half()
        if len(places) == REMEMBERED:
            return latent
        latents[len(places)] = latent
        places[scene] = len(places)
    return latents[places[scene]].clone()


def make_basis(scenes: int = 600, patches: int = 256) -> None:
    """Find the principal components of random patches of random scenes, and write them to `basis.safetensors`.

    The standard deviation of a component in the latents is the fourth root of its eigenvalue: coarse structure has
    more weight, but less extremely than in the pixels.
    """
    random, generator = Random(0), torch.Generator().manual_seed(0)
    rows = []
    for _ in range(scenes):
        every = _patches(to_tensor(render(sample_scene(random)))[None])[0]
        rows.append(every[torch.randperm((SIZE // GRID) ** 2, generator=generator)[:patches]])
    x = torch.cat(rows)
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    values, vectors = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
    deviation = values.pow(0.25)
    scale = deviation / values.sqrt() / deviation[:UNIT].square().mean().sqrt()
    save_file({"mean": mean, "matrix": (vectors * scale).contiguous()}, BASIS)
