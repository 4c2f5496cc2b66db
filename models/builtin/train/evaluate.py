"""What the model can draw, measured: held-out captions through the project's own engine, judged by `judge.py`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from helpers import diffusion, engines
from models.builtin.train.judge import Judgement, compare, judge
from models.builtin.train.scenes import Picture, render
from models.builtin.vocabulary import KNOWN, PLAIN, SPELLINGS, UNSAID, Known, Scene, caption, sample_scene

Prompt = tuple[Scene, str]


def prompts(count: int, seed: int = 99, known: Known = KNOWN) -> list[Prompt]:
    """`count` scenes that training never saw, each with a caption of its own that names its background.

    Single subjects come in turn, so that each of them is asked for as often as the others.
    """
    random = Random(seed)
    turn: list[str] = []
    chosen: dict[str, Scene] = {}
    while len(chosen) < count:
        turn = turn or random.sample(known.subjects, len(known.subjects))
        feature = random.choices(list(known.features), list(known.features.values()))[0]
        subjects = [turn[-1]] if feature == "single" else known.subjects
        scene = sample_scene(random, subjects, {feature: 1.0}, test=True)
        text = caption(scene, random)
        named = scene.background not in PLAIN or any(word in text for word in _names(scene.background))
        if text not in chosen and scene.background != UNSAID and named:
            chosen[text] = scene
            if feature == "single":
                turn.pop()
    return [(scene, text) for text, scene in chosen.items()]


def _names(ground: str) -> Sequence[str]:
    return SPELLINGS.get(ground, (ground,))


def draw(folder: Path, texts: Sequence[str]) -> tuple[list[Picture], float]:
    """A picture of every text with the model in `folder` and its default settings, seeds 0, 1, …; seconds for each."""
    settings = engines.defaults(folder)
    engine = engines.load("cpu", folder, guidance=settings.guidance > 1)
    unwanted = engine.encode_text(engine.tokenizer.encode("").ids)
    pictures, seconds = [], []
    for seed, text in enumerate(texts):
        started = time.perf_counter()
        encoded = engine.encode_text(engine.tokenizer.encode(text).ids)
        how: dict[str, Any] = {"steps": settings.steps, "guidance": settings.guidance}
        pictures.append(diffusion.draw(engine, encoded, unwanted, seed=seed, **how))
        seconds.append(time.perf_counter() - started)
        if len(pictures) % 20 == 0:
            print(f"{len(pictures)} of {len(texts)} drawn", file=sys.stderr, flush=True)
    return pictures, float(np.median(seconds))


def figures(judgements: Iterable[Judgement]) -> dict[str, float]:
    """The share of pictures in which each thing is right; `pictures` is their number."""
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
    """{subject: [pictures that show it, pictures that were asked to]}, worst first."""
    counts: dict[str, list[int]] = {}
    for (scene, _), judgement in zip(asked, judgements, strict=True):
        shown = {subject.name for subject in judgement.read.subjects}
        for name in {subject.name for subject in scene.subjects}:
            row = counts.setdefault(name, [0, 0])
            row[0] += name in shown
            row[1] += 1
    return dict(sorted(counts.items(), key=lambda item: (item[1][0] / item[1][1], item[0])))


def sheet(asked: Sequence[Prompt], pictures: Sequence[Picture], judgements: Sequence[Judgement]) -> Image.Image:
    """Small pictures, eight in a row, with their captions; what is wrong stands below in red."""
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


def controls(asked: Sequence[Prompt], judgements: Sequence[Judgement], untrained: Path | None) -> dict[str, Any]:
    """What the figures are when they must be perfect (true scenes), and when they must be chance."""
    scenes = [scene for scene, _ in asked]
    rolled = scenes[1:] + scenes[:1]
    found = {
        "true scenes": figures(judge(render(scene), scene) for scene in scenes),
        "another prompt's picture": figures(compare(j.read, s) for j, s in zip(judgements, rolled, strict=True)),
    }
    if untrained:
        pictures, _ = draw(untrained, [text for _, text in asked[:24]])
        found["untrained"] = figures(judge(p, s) for p, s in zip(pictures, scenes, strict=False))
    return found


def evaluate(folder: Path, out: Path, *, count: int, known: Known = KNOWN, untrained: Path | None = None) -> None:
    """Draw, judge, print; write `evaluation.json` and `sheet.jpg` to `out`."""
    asked = prompts(count, known=known)
    pictures, seconds = draw(folder, [text for _, text in asked])
    judgements = [judge(picture, scene) for picture, (scene, _) in zip(pictures, asked, strict=True)]
    subjects = by_subject(asked, judgements)
    settings = engines.defaults(folder)
    result = {
        "prompts": count,
        "subjects": len(known.subjects),
        "sampler": f"{settings.sampler}, {settings.steps} steps, guidance {settings.guidance:g}",
        "seconds": round(seconds, 2),
        "right": {"everything": figures(judgements), **by_feature(asked, judgements)},
        "controls": controls(asked, judgements, untrained),
        "subjects not always right": {name: row for name, row in subjects.items() if row[0] < row[1]},
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    sheet(asked[:48], pictures[:48], judgements[:48]).save(out / "sheet.jpg", quality=88)
    (out / "evaluation.json").write_text(text, encoding="utf-8")
    print(text, end="")
