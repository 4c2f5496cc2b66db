"""The decoder: from latents back to pixels. Its sharpness is the sharpness of every picture."""

from __future__ import annotations

import random

import torch

from training.builtin import networks
from training.builtin.latents import encode, to_tensor
from training.builtin.optimise import Training
from training.builtin.run import Run
from training.builtin.scenes import GRID, SIZE, placement, render
from training.builtin.vocabulary import Scene, sample_scene

NOISE = 0.25  # largest noise added to the latents: the UNet's latents have errors of this size, even on plain colours
CROPS = ((160, 8, 0.5), (256, 3, 0.3), (512, 1, 0.2))  # (side, batch size, probability): small crops train fastest


def crops(r: random.Random, side: int, count: int) -> torch.Tensor:
    """`count` square pieces of random scenes on the grid, mostly around a subject: (count, 3, side, side), -1…1."""
    pieces = []
    for _ in range(count):
        scene = sample_scene(r)
        if r.random() < 0.8:
            wide, left, top = r.choice(placement(scene))
            x, y = (start + r.randrange(-side // 3, max(wide - side, 0) + side // 3) for start in (left, top))
        else:
            x, y = r.randrange(SIZE), r.randrange(SIZE)
        x, y = (max(0, min(SIZE - side, start)) // GRID * GRID for start in (x, y))
        pieces.append(to_tensor(render(scene)[y : y + side, x : x + side]))
    return torch.stack(pieces)


def edges(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The differences between neighbours, down and across."""
    return pictures[..., 1:, :] - pictures[..., :-1, :], pictures[..., 1:] - pictures[..., :-1]


def loss(decoded: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error of the pixels, and absolute error of the edges, for sharp edges."""
    error = (wanted - decoded).abs().mean() + 2 * (wanted - decoded).square().mean()
    for a, b in zip(edges(wanted), edges(decoded), strict=True):
        error = error + (a - b).abs().mean()
    return error


def test_scenes(count: int = 16) -> list[Scene]:
    """A fixed set of held-out scenes of every kind."""
    r = random.Random(7)
    return [sample_scene(r, test=True) for _ in range(count)]


def psnr(decoder: torch.nn.Module, pictures: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of pictures (n, 3, h, w) that were encoded and decoded."""
    with torch.no_grad(), networks.half(pictures.device):
        decoded = torch.cat([decoder(encode(picture[None])) for picture in pictures]).float().clamp(-1, 1)
    error = ((pictures - decoded) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def train(run: Run, *, total: int, batch: int = 8, rate: float = 8e-4) -> None:
    """Train until `total` crops have been seen in this run; `batch` is that of the smallest crops."""
    where = networks.device()
    vae = networks.vae()
    run.weights("vae", vae)
    decoder = torch.nn.Sequential(vae.post_quant_conv, vae.decoder).to(where)
    training = Training(run, "decoder", decoder, rate=rate, total=total, average=0.999)
    pictures = torch.stack([to_tensor(render(scene)) for scene in test_scenes()]).to(where)
    r = random.Random(f"decoder {training.samples}")
    training.report(1, lambda: {"psnr": psnr(training.averaged, pictures)})
    while not training.done:
        side, count, _ = r.choices(CROPS, [chance for *_, chance in CROPS])[0]
        count = max(1, count * batch // CROPS[0][1])
        x = crops(r, side, count).to(where)
        latents = encode(x)
        latents = latents + NOISE * torch.rand(count, 1, 1, 1, device=where) * torch.randn_like(latents)
        with networks.half(where):
            decoded = decoder(latents)
        training.update(loss(decoded.float(), x), count)
        training.report(200, lambda: {"psnr": psnr(training.averaged, pictures)})
