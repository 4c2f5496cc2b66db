"""What the three trainings share: the optimiser, the learning rate, the averaged weights, the checkpoint."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from training.builtin.run import Run

SAVE_EVERY = 240.0  # seconds; a checkpoint of the UNet is 345 MB


class Training:
    """Trains `network.parameters()` that require a gradient, and keeps a running average of all its weights.

    The learning rate rises over the first 100 steps, stays, and falls to zero over the last two fifths of `total`
    samples: a run can be lengthened before that without having been planned so, and a cut one is finished by a smaller
    total.
    """

    def __init__(self, run: Run, step: str, network: Any, *, rate: float, total: int, average: float) -> None:
        self.run, self.step, self.network = run, step, network
        self.rate, self.total, self.keep = rate, total, average
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
        self.samples = self.steps = 0
        self.loss = 0.0
        state = run.load(step)
        if state:
            network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.samples, self.steps, self.loss = state["samples"], state["steps"], state["loss"]
        self.averaged = copy.deepcopy(network).eval()
        if state:
            self.averaged.load_state_dict(state["averaged"])
        self._averages = [
            a for a, w in zip(self.averaged.parameters(), network.parameters(), strict=True) if w.requires_grad
        ]
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_stop)
        self._started = self._saved = time.monotonic()
        self._samples_before = self.samples

    def update(self, loss: torch.Tensor, samples: int) -> None:
        """One step down `loss`, the mean over `samples` new samples."""
        left = max(0.0, 1 - self.samples / self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (self.steps + 1) / 100) * min(1.0, left / 0.4 + 0.01)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.steps += 1
        self.samples += samples
        self.loss += (float(loss.detach()) - self.loss) * max(0.01, 1 / self.steps)
        with torch.no_grad():
            keep = min(self.keep, self.steps / (self.steps + 20))
            torch._foreach_lerp_(self._averages, self.weights, 1 - keep)

    def _on_stop(self, *_: object) -> None:
        self._stop = True

    def report(self, every: int, figures: Callable[[], dict[str, Any]]) -> None:
        """Log the figures every `every` steps, save every few minutes, and both at the end.

        Raises:
            SystemExit: SIGTERM came; the checkpoint is written.
        """
        if self.done or self.steps % every == 0:
            speed = (self.samples - self._samples_before) / (time.monotonic() - self._started)
            with torch.no_grad():
                self.run.log(self.step, samples=self.samples, loss=self.loss, **figures(), per_second=round(speed, 1))
        if self.done or self._stop or time.monotonic() - self._saved > SAVE_EVERY:
            self.save()
        if self._stop:
            raise SystemExit(f"train: stopped after {self.samples} samples; the same command carries on")

    def save(self) -> None:
        self._saved = time.monotonic()
        self.run.save(
            self.step,
            {
                "network": self.network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "samples": self.samples,
                "steps": self.steps,
                "loss": self.loss,
            },
        )

    @property
    def done(self) -> bool:
        return self.samples >= self.total
