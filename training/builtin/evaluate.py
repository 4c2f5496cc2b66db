"""Measure the quality of the model: draw held-out captions with the project's engine, and judge them (judge.py)."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from helpers.draw import diffusion, engines
from training.builtin.decoder import test_scenes
from training.builtin.judge import Judgement, compare, judge
from training.builtin.latents import encode, to_tensor
from training.builtin.run import Run
from training.builtin.save import save
from training.builtin.scenes import Picture, render
from training.builtin.vocabulary import FEATURES, PLAIN, SPELLINGS, SUBJECTS, UNSAID, Scene, caption, sample_scene

Prompt = tuple[Scene, str]
ASKED = {
    "size": 0.08,
    "colour": 0.09,
    "count": 0.09,
    "pair": 0.09,
}  # the rest are single subjects: with 200 prompts, each subject once
FRESH = 500  # rendered scenes that the judge is measured on
SHOWN = 48  # first pictures on the sheet; wrong ones of the others are added
UNTRAINED = 24  # pictures of an untrained model
STEPS = (2, 4, 20)  # to compare the model's own number of steps with


def prompts(count: int, seed: int = 99) -> list[Prompt]:
    """`count` scenes that training never saw, each with a caption of its own that names its background.

    Single subjects take turns, so that all are equally frequent.
    """
    random = Random(seed)
    kinds = [feature for feature, share in ASKED.items() for _ in range(math.ceil(share * count))]
    kinds = [*["single"] * (count - len(kinds)), *kinds]
    random.shuffle(kinds)
    turn: list[str] = []
    chosen: dict[str, Scene] = {}
    while len(chosen) < count:
        turn = turn or random.sample(SUBJECTS, len(SUBJECTS))
        feature = kinds[len(chosen)]
        scene = sample_scene(random, turn[-1:] if feature == "single" else SUBJECTS, {feature: 1.0}, test=True)
        text = caption(scene, random)
        named = scene.background not in PLAIN or any(word in text for word in _names(scene.background))
        if text not in chosen and scene.background != UNSAID and named:
            chosen[text] = scene
            if feature == "single":
                turn.pop()
    return [(scene, text) for text, scene in chosen.items()]


def _names(ground: str) -> Sequence[str]:
    return SPELLINGS.get(ground, (ground,))


def draw(folder: Path, texts: Sequence[str], steps: int | None = None) -> tuple[list[Picture], float]:
    """A picture of every text with the model in `folder` and its default settings, seeds 0, 1, …; seconds for each."""
    settings = engines.defaults(folder)
    engine = engines.load("openvino", folder, guidance=settings.guidance > 1)
    unwanted = engine.encode_text(engine.tokenizer.encode("").ids)
    how: dict[str, Any] = {"steps": steps or settings.steps, "guidance": settings.guidance}
    pictures, seconds = [], []
    for seed, text in enumerate(texts):
        started = time.perf_counter()
        encoded = engine.encode_text(engine.tokenizer.encode(text).ids)
        pictures.append(diffusion.draw(engine, encoded, unwanted, seed=seed, **how))
        seconds.append(time.perf_counter() - started)
        if len(pictures) % 20 == 0:
            print(f"{len(pictures)} of {len(texts)} drawn", file=sys.stderr, flush=True)
    return pictures, float(np.median(seconds))


def decoder_psnr(folder: Path) -> float:
    """Mean peak signal-to-noise ratio in dB of held-out scenes that were encoded, and decoded by the model's engine."""
    engine = engines.load("openvino", folder)
    ratios = []
    for scene in test_scenes():
        picture = render(scene)
        decoded = diffusion.pixels(engine.decode(encode(to_tensor(picture)[None]).numpy()), engine.precision)
        error = np.square((decoded.astype(np.float32) - picture) / 255).mean()
        ratios.append(-10 * np.log10(error))
    return float(np.mean(ratios))


def figures(judgements: Iterable[Judgement]) -> dict[str, float]:
    """The share of pictures in which each property is correct; `pictures` is their number."""
    rows = list(judgements)
    names = ("subjects", "number", "colour", "size", "background", "all")
    shares = {name: round(float(np.mean([getattr(row, name) for row in rows])), 3) for name in names}
    return {"pictures": len(rows), **shares}


def by_feature(asked: Sequence[Prompt], judgements: Sequence[Judgement]) -> dict[str, dict[str, float]]:
    """The figures of each kind of scene."""
    features = dict.fromkeys(scene.feature for scene, _ in asked)
    return {
        feature: figures(j for (scene, _), j in zip(asked, judgements, strict=True) if scene.feature == feature)
        for feature in features
    }


def by_subject(asked: Sequence[Prompt], judgements: Sequence[Judgement]) -> dict[str, list[int]]:
    """{subject: [pictures that show it, pictures that should]}, worst first."""
    counts: dict[str, list[int]] = {}
    for (scene, _), judgement in zip(asked, judgements, strict=True):
        shown = {subject.name for subject in judgement.read.subjects}
        for name in {subject.name for subject in scene.subjects}:
            row = counts.setdefault(name, [0, 0])
            row[0] += name in shown
            row[1] += 1
    return dict(sorted(counts.items(), key=lambda item: (item[1][0] / item[1][1], item[0])))


def sheet(asked: Sequence[Prompt], pictures: Sequence[Picture], judgements: Sequence[Judgement]) -> Image.Image:
    """Small pictures, eight in a row, with their captions; errors are below in red."""
    side, strip, columns = 192, 28, 8
    image = Image.new("RGB", (columns * side, -(-len(asked) // columns) * (side + strip)), "white")
    drawing = ImageDraw.Draw(image)
    for i, ((_, text), picture, judgement) in enumerate(zip(asked, pictures, judgements, strict=True)):
        x, y = i % columns * side, i // columns * (side + strip)
        image.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, y))
        drawing.text((x + 2, y + side + 1), text[:34], fill="black")
        if not judgement.all:
            seen = judgement.read
            what = " + ".join(" ".join(filter(None, subject)) for subject in seen.subjects)
            drawing.text((x + 2, y + side + 14), f"{seen.size} {what} / {seen.background}".strip()[:34], fill="red")
    return image


def controls(asked: Sequence[Prompt], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Control experiments: the figures must be perfect for fresh renders, and at chance level for wrong pictures."""
    scenes = [scene for scene, _ in asked]
    random = Random("fresh")
    fresh = [sample_scene(random, features=dict.fromkeys(FEATURES, 1.0), test=True) for _ in range(FRESH)]
    rolled = scenes[1:] + scenes[:1]
    with tempfile.TemporaryDirectory() as folder:
        untrained = Path(folder) / "untrained"
        save(Run(Path(folder)), untrained, trained=False)
        pictures, _ = draw(untrained, [text for _, text in asked[:UNTRAINED]])
    return {
        "true scenes": figures(judge(render(scene), scene) for scene in fresh),
        "another prompt's picture": figures(compare(j.read, s) for j, s in zip(judgements, rolled, strict=True)),
        "untrained": figures(judge(p, s) for p, s in zip(pictures, scenes, strict=False)),
    }


def evaluate(folder: Path, out: Path, *, count: int) -> None:
    """Draw, judge, print; write `evaluation.json` and `sheet.jpg` to `out`."""
    asked = prompts(count)
    texts = [text for _, text in asked]
    pictures, seconds = draw(folder, texts)
    judgements = [judge(picture, scene) for picture, (scene, _) in zip(pictures, asked, strict=True)]
    settings = engines.defaults(folder)
    steps = {settings.steps: figures(judgements[:SHOWN])}
    for more in STEPS:
        drawn, _ = draw(folder, texts[:SHOWN], more)
        steps[more] = figures(judge(picture, scene) for picture, (scene, _) in zip(drawn, asked, strict=False))
    number = f"{settings.steps} step{'s' * (settings.steps > 1)}"
    result = {
        "prompts": count,
        "sampler": f"{settings.sampler}, {number}, guidance {settings.guidance:g}",
        "seconds": round(seconds, 2),
        "right": {"everything": figures(judgements), **by_feature(asked, judgements)},
        "controls": controls(asked, judgements),
        "steps": dict(sorted(steps.items())),
        "decoder PSNR": round(decoder_psnr(folder), 2),
        "subjects not always right": {k: row for k, row in by_subject(asked, judgements).items() if row[0] < row[1]},
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    shown = [i for i in range(count) if i < SHOWN or not judgements[i].all]
    some = [asked[i] for i in shown], [pictures[i] for i in shown], [judgements[i] for i in shown]
    sheet(*some).save(out / "sheet.jpg", quality=88)
    (out / "evaluation.json").write_text(text, encoding="utf-8")
    print(text, end="")
