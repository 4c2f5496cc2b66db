"""Train the text encoder first, alone: every padding token must encode the scene.

Without this pre-training the UNet ignored the caption for an hour. The text encoder is frozen afterwards.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch.nn import functional

from training.builtin import networks
from training.builtin.optimise import Training
from training.builtin.run import Run
from training.builtin.vocabulary import BACKGROUNDS, HUES, SIZES, SUBJECTS, Scene, caption, sample_scene

_HUES, _SIZES = [None, *HUES], ["", *SIZES]
QUESTIONS = {  # classification question: number of classes
    "first": len(SUBJECTS),
    "last": len(SUBJECTS),
    "background": len(BACKGROUNDS),
    "size": len(_SIZES),
    "number": 3,
    "colour": len(_HUES),
}


def answers(scene: Scene) -> list[int]:
    """The right answer to each of QUESTIONS."""
    first, last = scene.subjects[0], scene.subjects[-1]
    return [
        SUBJECTS.index(first.name),
        SUBJECTS.index(last.name),
        BACKGROUNDS.index(scene.background),
        _SIZES.index(scene.size),
        len(scene.subjects) - 1,
        _HUES.index(first.colour),
    ]


class Reader(torch.nn.Module):
    """The text encoder with a classification head; the head is not saved."""

    def __init__(self, text: torch.nn.Module) -> None:
        super().__init__()
        self.text = text
        self.head = torch.nn.Linear(networks.WIDTH, sum(QUESTIONS.values()))

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """tokens: (n, 32); padding: bool, (n, 32) → answers at all the padding tokens, (m, answers)."""
        states: torch.Tensor = self.head(self.text(tokens)[0])
        return states[padding].float()


def load(run: Run) -> Any:
    """The text encoder of a run: its own, or the one of the folder it starts from.

    Raises:
        SystemExit: there is neither.
    """
    text = networks.text_encoder(networks.tokenizer(run.vocabulary))
    if state := run.load("text"):
        weights = state["averaged"].items()
        text.load_state_dict({key[5:]: value for key, value in weights if key.startswith("text.")})
    elif not run.weights("text_encoder", text):
        raise SystemExit("train: the text encoder is missing: run the step `text` first")
    return text


def train(run: Run, *, total: int, batch: int = 128, rate: float = 1e-3) -> None:
    """Train until `total` captions have been read; makes the tokenizer first where there is none."""
    where = networks.device()
    r = random.Random(5)
    if run.start is None and not (run.folder / "tokenizer" / "vocab.json").exists():
        networks.make_tokenizer(run.folder, [caption(sample_scene(r), r) for _ in range(60_000)])
    tokenizer = networks.tokenizer(run.vocabulary)
    text = networks.text_encoder(tokenizer)
    run.weights("text_encoder", text)
    training = Training(run, "text", Reader(text).to(where), rate=rate, total=total, average=0.99)
    reader = training.network
    r = random.Random(f"text {training.samples}")
    right = torch.zeros(len(QUESTIONS))  # a running mean

    def report() -> dict[str, Any]:
        return {"right": dict(zip(QUESTIONS, right.numpy().round(3).tolist(), strict=True))}

    while not training.done:
        scenes = [sample_scene(r) for _ in range(batch)]
        tokens = networks.tokens(tokenizer, [caption(scene, r) for scene in scenes]).to(where)
        padding = tokens == tokenizer.eos_token_id
        wanted = torch.tensor([answers(scene) for scene in scenes], device=where)
        wanted = wanted[:, None].expand(-1, networks.TOKENS, -1)[padding]
        with networks.half(where):
            found = reader(tokens, padding).split(list(QUESTIONS.values()), -1)
        error = torch.stack([functional.cross_entropy(f, w) for f, w in zip(found, wanted.T, strict=True)]).sum()
        now = torch.tensor([float((f.argmax(-1) == w).float().mean()) for f, w in zip(found, wanted.T, strict=True)])
        right.lerp_(now, max(0.05, 1 / (training.steps + 1)))
        training.update(error, batch)
        training.report(50, report)
