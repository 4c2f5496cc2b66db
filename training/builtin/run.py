"""A run folder: checkpoints that survive a kill, and a log that plots.

RUN/log.jsonl          one line of JSON per report of any step: time, step, samples, figures
RUN/{text,unet,decoder}.pt   the latest checkpoint of each step, with everything needed to resume
RUN/tokenizer/         only for a model trained from scratch
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from training.builtin.vocabulary import FOLDER


class Run:
    """The folder of a training run, and the model folder that it starts from (None: from scratch)."""

    def __init__(self, folder: Path, start: Path | None = FOLDER) -> None:
        self.folder, self.start = folder, start
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def vocabulary(self) -> Path:
        """The folder whose `tokenizer/` belongs to this run."""
        return self.start or self.folder

    def log(self, step: str, **figures: object) -> None:
        """Write one line to the log and to stdout."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step, **rounded})
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def save(self, step: str, state: dict[str, Any]) -> None:
        """Write a checkpoint atomically over the last one."""
        target = self.folder / f"{step}.pt"
        part = target.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)

    def load(self, step: str) -> dict[str, Any] | None:
        """The latest checkpoint of a step, or None."""
        path = self.folder / f"{step}.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def weights(self, part: str, network: Any) -> bool:
        """Fill `network` (`text_encoder`, `unet` or `vae`) from the folder that the run starts from, if any.

        The folder's network may have another shape. Then only the common weights, and the common part of each weight,
        are copied. Copied outputs ignore new inputs (weight zero): with more latent components, the first ones are
        the old ones.
        """
        if self.start is None:
            return False
        known = type(network).from_pretrained(self.start / part).float().state_dict()
        for name, weight in network.state_dict().items():
            if name in known:
                shared = [slice(min(sizes)) for sizes in zip(weight.shape, known[name].shape, strict=True)]
                weight[shared[0]] = 0
                weight[tuple(shared)] = known[name][tuple(shared)]
        return True
