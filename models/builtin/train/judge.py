"""Reads a picture back: which scene of the little world is this? It knows nothing of the prompt.

Template matching at 64×64: the background is the nearest of all of them; then, of all layouts (one subject in three
sizes, two, three), the one whose best sprites explain most of what differs from that background. Kinder than the eye:
it tells whether the right thing is there and not whether it is drawn well.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

from models.builtin.train.scenes import SIDES, SIZE, Floats, Picture, background, placement, sprite
from models.builtin.vocabulary import BACKGROUNDS, HUES, PAINTABLE, SUBJECTS, VARIANTS, Scene, Subject

SCALE = 8  # pixels of the picture per pixel of the comparison
_SHIFTS = (-2, 0, 2)  # a subject may sit a grid cell off its place
_CANDIDATES = [Subject(name) for name in SUBJECTS] + [Subject(name, hue) for name in PAINTABLE for hue in HUES]


class Judgement(NamedTuple):
    """What of a scene is right in a picture, and what the picture was read as."""

    subjects: bool  # every subject asked for is there, in any colour
    number: bool  # as many as asked for, and no more
    colour: bool  # the colours asked for (true where none was)
    size: bool  # the size asked for (true where none was)
    background: bool
    read: Scene

    @property
    def all(self) -> bool:
        """Whether the picture shows what was asked, in everything."""
        return all(self[:5])


def _small(picture: Picture) -> Floats:
    side = SIZE // SCALE
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
    return np.asarray(image, np.float32) / np.float32(255)


def _pool(values: Floats) -> Floats:
    side = len(values) // SCALE
    pooled: Floats = values.reshape(side, SCALE, side, SCALE, -1).mean((1, 3), dtype=np.float32)
    return pooled


@functools.cache
def _backgrounds() -> list[tuple[str, Floats]]:
    return [(name, _small(background(name, variant))) for name in BACKGROUNDS for variant in range(VARIANTS)]


@functools.cache
def _templates(side: int) -> tuple[Floats, Floats, Floats, Floats]:
    """For every candidate: colours t, alpha a, a·t and a², as rows of side/8 · side/8 · 3."""
    colours, alphas = [], []
    for name, hue in _CANDIDATES:
        rgb, alpha = sprite(name, side, hue)
        colours.append(_pool(rgb / np.float32(255)).ravel())
        alphas.append(np.repeat(_pool(alpha), 3, axis=2).ravel())
    t, a = np.stack(colours), np.stack(alphas)
    return t, a, a * t, a * a


def _best(picture: Floats, ground: Floats, side: int, left: int, top: int) -> tuple[float, Subject]:
    """The candidate that explains most at one place, and how much squared error it takes away."""
    t, a, at, aa = _templates(side)
    differences, grounds = [], []
    for dy in _SHIFTS:
        for dx in _SHIFTS:
            y, x, n = top // SCALE + dy, left // SCALE + dx, side // SCALE
            if y < 0 or x < 0 or y + n > len(picture) or x + n > len(picture):
                continue
            b = ground[y : y + n, x : x + n].ravel()
            differences.append(picture[y : y + n, x : x + n].ravel() - b)
            grounds.append(b)
    d, g = np.stack(differences), np.stack(grounds)
    # With the sprite the picture would differ from the ground by u = t - a·g: the gain is |d|² - |d - u|².
    # (The templates come first in every product: the other way round it takes fifteen times as long.)
    energy = np.einsum("ij,ij->i", t, t)[:, None] - 2 * at @ g.T + aa @ (g * g).T
    gain = 2 * (t @ d.T - a @ (d * g).T) - energy
    best = gain.max(1)
    k = int(best.argmax())
    return float(best[k]), _CANDIDATES[k]


def read(picture: Picture) -> Scene:
    """The scene that a 512×512×3 picture looks most like."""
    x = _small(picture)
    # A subject covers much of the picture: differences count up to a quarter, so that it does not outvote the rest.
    name, ground = min(_backgrounds(), key=lambda known: float(np.abs(x - known[1]).clip(max=0.25).mean()))
    best: tuple[float, Scene] | None = None
    for size, count in SIDES:
        places = placement(Scene((Subject(SUBJECTS[0]),) * count, name, size))
        found = [_best(x, ground, *place) for place in places]
        scene = Scene(tuple(subject for _, subject in found), name, size)
        gain = sum(gain for gain, _ in found)
        if best is None or gain > best[0]:
            best = gain, scene
    assert best is not None
    return best[1]


@functools.cache
def _same_colour(name: str, hue: str) -> bool:
    """Whether the subject has this colour of its own, so that nobody could tell the difference."""
    own, painted = (sprite(name, SIDES["", 1], colour)[0] for colour in (None, hue))
    alpha = sprite(name, SIDES["", 1])[1].mean()
    return float(np.abs(own - painted).mean() / alpha) < 12


def compare(seen: Scene, scene: Scene) -> Judgement:
    """What of `scene`, which was asked for, is right in `seen`, which was read from the picture."""

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
