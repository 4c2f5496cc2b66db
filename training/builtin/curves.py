"""Plot the training curves from the log."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

HISTORY = "training.jsonl"  # the log of the run, stored beside the weights


def curves(model: Path) -> None:
    """Draw `curves.png` in a model's folder: the gate of each kind of scene, and the decoder's sharpness.

    The gate (unet.py) is the squared error of the latents that the UNet makes of pure noise: with the right caption
    (solid), and with one word changed (dashed). Where the two curves separate, the UNet uses that word.
    """
    right, wrong, sharp = defaultdict(list), defaultdict(list), []
    for line in map(json.loads, (model / HISTORY).read_text(encoding="utf-8").splitlines()):
        seen = line["samples"]
        for feature, errors in line.get("gate", {}).items():
            right[feature].append((seen, errors[0]))
            wrong[feature].append((seen, errors[1]))
        if "psnr" in line:
            sharp.append((seen, line["psnr"]))
    picture = Figure((10, 3.6), layout="constrained")
    gate, decoder = picture.subplots(1, 2)
    for number, feature in enumerate(right):
        gate.plot(*zip(*right[feature], strict=True), color=f"C{number}", label=feature)
        gate.plot(*zip(*wrong[feature], strict=True), color=f"C{number}", linestyle="--", linewidth=0.8)
    gate.set(xlabel="samples that the UNet has seen", ylabel="squared error of latents", ylim=0)
    gate.legend(fontsize=8)
    decoder.plot(*zip(*sorted(sharp), strict=True), color="C0")
    decoder.set(xlabel="crops that the decoder has seen", ylabel="dB PSNR on held-out scenes")
    for axes in (gate, decoder):
        axes.grid(alpha=0.3)
    picture.savefig(model / "curves.png", dpi=100)
