"""Recognise which scene of the small vocabulary a picture shows, without seeing the prompt.

Two small networks (reader.py), trained on rendered scenes only, classify it: one the background and the layout, the
other the subject in each place of that layout. They judge whether the content is right, not whether it is drawn well.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from training.builtin.scenes import GRID, SIDES, Picture, placement, sprite
from training.builtin.vocabulary import BACKGROUNDS, HUES, PAINTABLE, SUBJECTS, Scene, Subject

READER = Path(__file__).with_name("judge.xml")
SIDE = 64  # pixels of the networks' input
LAYOUTS = tuple(SIDES)  # (size, count)
PAINTS = (None, *HUES)


class Judgement(NamedTuple):
    """Which properties of a scene are right in a picture, and the scene that was recognised."""

    subjects: bool  # every requested subject is present, in any colour
    number: bool  # the exact number of subjects
    colour: bool  # the requested colours (true if none)
    size: bool  # the requested size (true if none)
    background: bool
    read: Scene

    @property
    def all(self) -> bool:
        """Whether everything is right."""
        return all(self[:5])


def whole(picture: Picture) -> Picture:
    """The picture at 64×64."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))


def crop(picture: Picture, side: int, left: int, top: int) -> Picture:
    """The surroundings of a place in the picture, at 64×64."""
    box = (left - GRID, top - GRID, left + side + GRID, top + side + GRID)
    return np.asarray(Image.fromarray(picture).crop(box).resize((SIDE, SIDE), Image.Resampling.BOX))


@functools.cache
def _reader() -> Any:
    import openvino

    return openvino.Core().compile_model(
        READER, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )  # the same result on every machine


def read(picture: Picture) -> Scene:
    """The scene that a 512×512×3 picture looks most like."""

    def as_input(pictures: list[Picture]) -> Any:
        return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 255

    def ask(scene: Picture, places: list[Picture]) -> tuple[Any, Any]:
        answers = _reader()([as_input([scene]), as_input(places)])
        return answers[0][0], answers[1]

    small = whole(picture)
    seen, _ = ask(small, [small])
    size, count = LAYOUTS[int(seen[len(BACKGROUNDS) :].argmax())]
    ground = BACKGROUNDS[int(seen[: len(BACKGROUNDS)].argmax())]
    places = placement(Scene((Subject(SUBJECTS[0]),) * count, ground, size))
    _, named = ask(small, [crop(picture, *place) for place in places])
    subjects = []
    for scores in named:
        name, colour = SUBJECTS[int(scores[: len(SUBJECTS)].argmax())], PAINTS[int(scores[len(SUBJECTS) :].argmax())]
        subjects.append(Subject(name, colour if name in PAINTABLE else None))
    return Scene(tuple(subjects), ground, size)


@functools.cache
def _same_colour(name: str, hue: str) -> bool:
    """Whether the subject naturally has this colour, so that painting it changes nothing visible."""
    own, painted = (sprite(name, SIDES["", 1], colour)[0] for colour in (None, hue))
    alpha = sprite(name, SIDES["", 1])[1].mean()
    return float(np.abs(own - painted).mean() / alpha) < 12


def compare(seen: Scene, scene: Scene) -> Judgement:
    """Compare `seen`, recognised in the picture, with the requested `scene`."""

    def colour_right(asked: Subject) -> bool:
        found = [subject.colour for subject in seen.subjects if subject.name == asked.name]
        own = asked.colour and _same_colour(asked.name, asked.colour)
        return asked.colour in found or bool(own and None in found)

    return Judgement(
        subjects={subject.name for subject in scene.subjects} <= {subject.name for subject in seen.subjects},
        number=len(seen.subjects) == len(scene.subjects),
        colour=all(colour_right(subject) for subject in scene.subjects if subject.colour),
        size=not scene.size or seen.size == scene.size,
        background=seen.background == scene.background,
        read=seen,
    )


def judge(picture: Picture, scene: Scene) -> Judgement:
    """Read a picture (uint8, 512×512×3) and compare it with the scene that was asked for."""
    return compare(read(picture), scene)
