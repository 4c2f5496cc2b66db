"""Train the two small networks of the judge: only on rendered scenes, never on a model's pictures.

One names the background and the layout of a whole picture, the other the subject and the colour in one place of it.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import nn

from training.builtin import networks
from training.builtin.judge import LAYOUTS, PAINTS, READER, SIDE, crop, whole
from training.builtin.optimise import Training
from training.builtin.run import Run
from training.builtin.scenes import GRID, Floats, Picture, placement, render
from training.builtin.vocabulary import BACKGROUNDS, FEATURES, SUBJECTS, sample_scene

EVENLY = dict.fromkeys(FEATURES, 1.0)  # each kind of scene as often as the others
CROPS = 2  # per subject, at different offsets


def network(*answers: int) -> nn.Module:
    """(n, 3, 64, 64) pixels, 0…1, to the scores of each question's answers, one after another: (n, sum(answers))."""
    layers: list[nn.Module] = []
    before = 3
    for channels, stride in ((24, 2), (48, 1), (48, 2), (96, 1), (96, 2), (128, 1), (128, 2)):
        layers += [nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        before = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(before * (SIDE // 16) ** 2, sum(answers)))


class Reader(nn.Module):
    """Both networks, to be trained and saved as one."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = network(len(BACKGROUNDS), len(LAYOUTS))
        self.subject = network(len(SUBJECTS), len(PAINTS))

    def forward(self, scenes: torch.Tensor, subjects: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scene(scenes), self.subject(subjects)


def worsened(picture: Picture, r: Random) -> Picture:
    """Degrade a picture as a model might: blur, grain, shifted colours. Its content stays the same."""
    image = Image.fromarray(picture)
    if r.random() < 0.6:
        side = r.randrange(picture.shape[0] // 8, picture.shape[0])
        image = image.resize((side, side), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) * r.uniform(0.9, 1.1) + r.uniform(-12, 12)
    if r.random() < 0.5:
        grain = np.random.default_rng(r.randrange(2**32))
        spots = (SIDE // r.choice((1, 2, 4)),) * 2
        noise = Image.fromarray(grain.integers(0, 256, (*spots, 3), np.uint8)).resize(image.size)
        pixels += (np.asarray(noise, np.float32) - 128) * r.uniform(0, 0.3)
    return pixels.clip(0, 255).astype(np.uint8)


def examples(r: Random) -> tuple[Floats, list[int], list[Floats], list[list[int]]]:
    """One scene: its pixels and answers, and those of crops around each of its subjects."""
    scene = sample_scene(r, features=EVENLY)
    picture = render(scene)
    layout = LAYOUTS.index((scene.size, len(scene.subjects)))
    pieces, named = [], []
    for subject, place in zip(scene.subjects, placement(scene), strict=True):
        for _ in range(CROPS):
            left, top = (start + r.randint(-GRID, GRID) for start in place[1:])
            piece = crop(picture, int(place[0] * r.uniform(0.92, 1.08)), left, top)
            pieces.append(as_input(worsened(piece, r)))
            named.append([SUBJECTS.index(subject.name), PAINTS.index(subject.colour)])
    small = whole(picture)
    return as_input(worsened(small, r)), [BACKGROUNDS.index(scene.background), layout], pieces, named


def as_input(picture: Picture) -> Floats:
    """(64, 64, 3) in 0…255 as (3, 64, 64) in 0…1."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / np.float32(255)


def loss(scores: torch.Tensor, right: torch.Tensor, first: int) -> torch.Tensor:
    """The cross entropy of both questions; the first has `first` answers."""
    entropy = nn.functional.cross_entropy
    return entropy(scores[:, :first], right[:, 0]) + entropy(scores[:, first:], right[:, 1])


def train(run: Run, *, total: int, batch: int = 32, rate: float = 2e-3, path: Path = READER) -> None:
    """Train until `total` scenes have been seen in this run, then write the reader to `path`, beside the judge."""
    where = networks.device()
    reader = Reader().to(where)
    training = Training(run, "judge", reader, rate=rate, total=total, average=0.998)
    r = Random(f"judge {training.samples}")
    while not training.done:
        made = [examples(r) for _ in range(batch)]
        scenes, answers = np.stack([one[0] for one in made]), torch.tensor([one[1] for one in made])
        pieces = np.stack([piece for one in made for piece in one[2]])
        named = torch.tensor([names for one in made for names in one[3]])
        seen = reader(torch.from_numpy(scenes).to(where), torch.from_numpy(pieces).to(where))
        error = loss(seen[0], answers.to(where), len(BACKGROUNDS)) + loss(seen[1], named.to(where), len(SUBJECTS))
        training.update(error, batch)
        training.report(200, dict)
    for averaged, now in zip(training.averaged.buffers(), reader.buffers(), strict=True):
        averaged.copy_(now)  # the batch norms' statistics are averages already
    save(training.averaged.cpu().eval(), path)


def save(reader: nn.Module, path: Path) -> None:
    """Write the reader as an OpenVINO model, in 16 bits, so that the judge needs no torch."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # What openvino.convert_model does, without its report to Google Analytics.
    example = torch.zeros(1, 3, SIDE, SIDE)
    frontend = FrontEndManager().load_by_framework("pytorch")
    traced = TorchScriptPythonDecoder(reader, example_input=(example, example))  # must outlive the conversion
    model = frontend.convert(frontend.load(traced))
    model.reshape({tensor.any_name: [-1, 3, SIDE, SIDE] for tensor in model.inputs})
    openvino.save_model(model, path, compress_to_fp16=True)
