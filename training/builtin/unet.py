"""The UNet: from noise and a caption to the latent of the scene, with the text encoder frozen."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from training.builtin import networks
from training.builtin.latents import scene_latent
from training.builtin.optimise import Training
from training.builtin.run import Run
from training.builtin.scenes import GRID, SIZE, placement
from training.builtin.text import load as load_text
from training.builtin.vocabulary import HUES, SIZES, Scene, Subject, caption, sample_scene

UNCONDITIONAL = 0.05  # share of the samples without a caption, for classifier-free guidance
SUBJECT = 3.0  # weight of the error where a subject is, against 1 beside it: backgrounds are learnt soon
NOISY = 0.8  # share of the samples from the noisiest twentieth of the steps, where the caption decides everything


class Samples(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor, str]]):
    """Endless latents of random scenes, the weights of their errors, and a caption each."""

    def __init__(self, subjects: Sequence[str], features: Mapping[str, float], seed: int) -> None:
        self.subjects, self.features, self.seed = subjects, features, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, str]]:
        worker = torch.utils.data.get_worker_info()
        r = random.Random(f"{self.seed} {worker.id if worker else 0}")
        while True:
            scene = sample_scene(r, self.subjects, self.features)
            yield scene_latent(scene), weights(scene), "" if r.random() < UNCONDITIONAL else caption(scene, r)


def weights(scene: Scene) -> torch.Tensor:
    """How much the error of each latent of a scene counts: (1, 32, 32), with a mean of 1."""
    counts = torch.ones(1, SIZE // GRID, SIZE // GRID)
    for side, left, top in placement(scene):
        counts[:, top // GRID : (top + side) // GRID, left // GRID : (left + side) // GRID] = SUBJECT
    return counts / counts.mean()


def _wrong(scene: Scene, subjects: Sequence[str], r: random.Random) -> Scene:
    """`scene` with its own feature changed and nothing else: another subject, colour, size or number."""
    first = scene.subjects[0]
    if scene.feature == "colour":
        hue = r.choice([hue for hue in HUES if hue != first.colour])
        return replace(scene, subjects=(first._replace(colour=hue),))
    if scene.feature == "size":
        return replace(scene, size=r.choice([size for size in SIZES if size != scene.size]))
    if scene.feature == "count":
        return replace(scene, subjects=(first,) * (5 - len(scene.subjects)))
    other = Subject(r.choice([s for s in subjects if s not in {subject.name for subject in scene.subjects}]))
    return replace(scene, subjects=(*scene.subjects[:-1], other))


class Gate:
    """How much the caption is heeded: the loss from pure noise with the right caption against one wrong word.

    Zero terminal SNR makes the last step plain regression from text to picture, so the gap is there or it is not.
    No gap after five minutes of training means: stop and look.
    """

    def __init__(self, subjects: Sequence[str], features: Mapping[str, float], encode: Any, count: int = 32) -> None:
        r = random.Random(3)
        self.sets = {}
        for feature in features:
            scenes = [sample_scene(r, subjects, {feature: 1.0}, test=True) for _ in range(count)]
            latents = torch.stack([scene_latent(scene) for scene in scenes]).float()
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
            right = encode([caption(scene, random.Random(1)) for scene in scenes])
            wrong = encode([caption(_wrong(scene, subjects, r), random.Random(1)) for scene in scenes])
            self.sets[feature] = latents.to(right.device), noise.to(right.device), right, wrong

    def __call__(self, unet: Any, scheduler: Any) -> dict[str, list[float]]:
        """{feature: [loss with the right caption, loss with the wrong one]}"""
        return {
            feature: [
                round(float(loss(unet, scheduler, x, noise, torch.full((len(x),), 999, device=x.device), c)), 4)
                for c in (right, wrong)
            ]
            for feature, (x, noise, right, wrong) in self.sets.items()
        }


def loss(
    unet: Any, scheduler: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, c: Any, weights: Any = 1.0
) -> torch.Tensor:
    """Weighted mean squared error of the predicted velocity (Salimans & Ho 2022, arXiv:2202.00512)."""
    with networks.half(x.device):
        velocity = unet(scheduler.add_noise(x, noise, t), t, c).sample
    error: torch.Tensor = (weights * (velocity.float() - scheduler.get_velocity(x, noise, t)).square()).mean()
    return error


def timesteps(count: int) -> torch.Tensor:
    """Random timesteps 0…999, more of them at the noisy end, and spread evenly: no batch is all easy or all hard."""
    u = (torch.arange(count) + torch.rand(count)) / count
    noisy, rest = 1000 - 50 * u / NOISY, 1000 * (1 - ((u - NOISY) / (1 - NOISY)).clamp(0) ** 1.6)
    return torch.where(u < NOISY, noisy, rest).long().clamp(0, 999)


def train(
    run: Run,
    subjects: Sequence[str],
    features: Mapping[str, float],
    *,
    total: int,
    batch: int = 16,
    rate: float = 1e-3,
    workers: int = 0,
) -> None:
    """Train until `total` samples have been seen in this run."""
    where = networks.device()
    tokenizer = networks.tokenizer(run.vocabulary)
    text = load_text(run).to(where).requires_grad_(False).eval()  # trained along, it forgot the subjects
    unet = networks.unet()
    run.weights("unet", unet)
    training = Training(run, "unet", unet.to(where), rate=rate, total=total, average=0.999)
    scheduler = networks.scheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(where)

    def encode(texts: Sequence[str]) -> Any:
        with torch.no_grad(), networks.half(where):
            return text(networks.tokens(tokenizer, texts).to(where))[0].float()

    gate = Gate(subjects, features, encode)
    data = torch.utils.data.DataLoader(
        Samples(subjects, features, training.samples), batch, num_workers=workers, pin_memory=where.type == "cuda"
    )
    compiled = torch.compile(unet) if where.type == "cuda" else unet
    training.report(1, lambda: {"gate": gate(training.averaged, scheduler)})
    if training.done:
        return
    for latents, counts, texts in data:
        x = latents.to(where, non_blocking=True).float()
        noise = torch.randn_like(x)
        error = loss(compiled, scheduler, x, noise, timesteps(batch).to(where), encode(texts), counts.to(where))
        training.update(error, batch)
        training.report(400, lambda: {"gate": gate(training.averaged, scheduler)})
        if training.done:
            return
