"""Render the scenes of the vocabulary: glyphs of Noto Color Emoji over painted backgrounds, 512×512.

Everything sits on a grid of 16 pixels, the stride of the latents, so that a subject has the same latents in
every position. Needs the font (Debian: fonts-noto-color-emoji; SIL Open Font License 1.1).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.builtin.vocabulary import GLYPH, HUES, PLAIN, Scene

SIZE, GRID = 512, 16
FONT = Path(os.environ.get("A2I_EMOJI_FONT", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"))
FONT_SIZE = 109  # the one size of the bitmaps in the font

Picture = NDArray[np.uint8]  # (height, width, 3), sRGB
Floats = NDArray[np.float32]
Colour = tuple[int, int, int]


# ------------------------------------------------------------------------------------------------- backgrounds


def _gradient(top: Any, bottom: Any, end: int = SIZE) -> Picture:
    """From `top` at the upper edge to `bottom` at row `end` and below."""
    t = np.clip(np.arange(SIZE) / end, 0, 1)[:, None, None]
    rows = np.array(top) * (1 - t) + np.array(bottom) * t
    return np.broadcast_to(rows, (SIZE, SIZE, 3)).astype(np.uint8).copy()


class _Canvas:
    """A background being painted, with its own random numbers."""

    def __init__(self, picture: Picture, random: Random) -> None:
        self.image, self.random = Image.fromarray(picture), random
        self.draw = ImageDraw.Draw(self.image)

    def point(self, bottom: int = SIZE) -> tuple[int, int]:
        return self.random.randrange(SIZE), self.random.randrange(bottom)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def box(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        self.draw.rectangle((left, top, right, bottom), fill=colour)

    def hills(self, y: int, height: int, colour: Colour) -> None:
        phase, wave = self.random.random() * 6.28, self.random.uniform(0.9, 1.5)
        edge = [(x, y + height * math.sin(wave * x / 80 + phase)) for x in range(0, SIZE + 1, 8)]
        self.draw.polygon([(0, SIZE), *edge, (SIZE, SIZE)], fill=colour)

    def cloud(self, x: int, y: int, size: int, colour: Colour) -> None:
        for dx, dy, r in ((-1.1, 0.25, 0.6), (-0.4, -0.1, 0.85), (0.4, -0.2, 0.9), (1.1, 0.2, 0.65), (0, 0.3, 0.8)):
            left, top = x + (dx - r) * size, y + (dy - r * 0.8) * size
            self.draw.ellipse((left, top, left + 2 * r * size, top + 1.6 * r * size), fill=colour)


def _stars(c: _Canvas, bottom: int) -> None:
    for _ in range(45):
        x, y = c.point(bottom)
        c.disc(x, y, c.random.choice((2, 3, 4)), (255, 250, 215))


def _night(c: _Canvas) -> None:
    _stars(c, 360)
    c.hills(430, 18, (14, 40, 40))


def _space(c: _Canvas) -> None:
    _stars(c, SIZE)
    for colour in ((220, 130, 80), (110, 150, 220)):
        c.disc(c.random.choice((60, 450)), c.random.randrange(50, 460), c.random.randrange(22, 42), colour)


def _beach(c: _Canvas) -> None:
    c.box(0, 250, SIZE, SIZE, (40, 140, 205))
    c.hills(340, 8, (235, 250, 255))
    c.hills(350, 8, (240, 212, 150))


def _ocean(c: _Canvas) -> None:
    for i, y in enumerate((280, 330, 385, 440)):
        c.hills(y, 9, (30 - 5 * i, 130 - 20 * i, 205 - 22 * i))


def _underwater(c: _Canvas) -> None:
    for _ in range(14):
        x, y = c.point()
        r = c.random.randrange(5, 13)
        c.draw.ellipse((x - r, y - r, x + r, y + r), outline=(190, 235, 250), width=3)
    c.hills(462, 10, (215, 195, 140))
    for _ in range(5):
        x = c.random.randrange(SIZE)
        c.draw.line([(x, 480), (x + 8, 430), (x - 6, 390)], fill=(40, 140, 80), width=12)


def _snow(c: _Canvas) -> None:
    for x in (40, 120, 400, 480):
        height = c.random.randrange(70, 110)
        c.draw.polygon([(x - 40, 345), (x, 345 - height), (x + 40, 345)], fill=(95, 135, 130))
    c.hills(345, 10, (246, 249, 253))
    for _ in range(35):
        c.disc(*c.point(), 4, (255, 255, 255))


def _forest(c: _Canvas) -> None:
    for x in range(-10, SIZE + 40, 64):
        x += c.random.randrange(-12, 12)
        c.box(x - 13, 0, x + 13, 400, (92, 66, 44))
        c.cloud(x, c.random.randrange(10, 60), 50, (45, 115 + c.random.randrange(20), 55))
    c.hills(390, 8, (60, 125, 55))


def _meadow(c: _Canvas) -> None:
    c.cloud(c.random.randrange(60, 450), c.random.randrange(50, 90), 38, (255, 255, 255))
    c.hills(330, 14, (130, 200, 90))
    c.hills(375, 10, (95, 175, 70))
    for _ in range(16):
        x, y = c.random.randrange(SIZE), c.random.randrange(400, 500)
        c.disc(x, y, 5, c.random.choice(((255, 240, 120), (255, 255, 255), (250, 150, 180))))


def _desert(c: _Canvas) -> None:
    c.disc(435, 75, 35, (255, 240, 170))
    c.hills(330, 22, (232, 185, 110))
    c.hills(390, 18, (218, 165, 90))


def _mountains(c: _Canvas) -> None:
    for x, height, grey in ((90, 230, 150), (430, 250, 150), (270, 280, 125)):
        x += c.random.randrange(-25, 25)
        top = 380 - height
        c.draw.polygon([(x - 190, 380), (x, top), (x + 190, 380)], fill=(grey - 30, grey - 15, grey + 10))
        cap = [(x - 48, top + 70), (x, top), (x + 48, top + 70), (x + 16, top + 52), (x - 14, top + 76)]
        c.draw.polygon(cap, fill=(250, 250, 255))
    c.hills(375, 10, (90, 160, 85))


def _sunset(c: _Canvas) -> None:
    c.disc(256, 340, 95, (255, 225, 120))
    c.box(0, 345, SIZE, SIZE, (125, 55, 90))
    for y in range(360, 512, 28):
        half = c.random.randrange(60, 130)
        c.box(256 - half, y, 256 + half, y + 7, (255, 165, 90))


def _city(c: _Canvas) -> None:
    x = -10
    while x < SIZE:
        width, height, grey = c.random.randrange(56, 90), c.random.randrange(150, 330), c.random.randrange(95, 150)
        c.box(x, 400 - height, x + width - 6, 400, (grey, grey + 5, grey + 25))
        for top in range(400 - height + 18, 380, 36):
            for left in range(x + 10, x + width - 18, 24):
                c.box(left, top, left + 10, top + 14, (250, 235, 160))
        x += width
    c.box(0, 400, SIZE, SIZE, (85, 88, 95))
    for x in range(20, SIZE, 110):
        c.box(x, 450, x + 55, 459, (240, 240, 235))


def _clouds(c: _Canvas) -> None:
    for x, y in ((80, 90), (430, 130), (70, 400), (420, 430), (250, 480)):
        c.cloud(x + c.random.randrange(-30, 30), y + c.random.randrange(-25, 25), 48, (250, 252, 255))


def _table(c: _Canvas) -> None:
    c.box(0, 345, SIZE, SIZE, (165, 110, 65))
    for y in (345, 400, 455):
        c.box(0, y, SIZE, y + 5, (135, 86, 48))


_HORIZON = 340
# Rows for the centres of subjects: a multiple of the latent grid apart, so that the UNet learns a subject once.
MIDDLE, GROUND = 256, 320
# setting: (painter, colour of the sky at the top, colour further down, row of that colour, row of the subject's centre)
_PAINTERS: dict[str, tuple[Callable[[_Canvas], None], Colour, Colour, int, int]] = {
    "night": (_night, (12, 18, 60), (40, 50, 110), _HORIZON, GROUND),
    "space": (_space, (8, 6, 22), (30, 12, 50), SIZE, MIDDLE),
    "beach": (_beach, (110, 190, 245), (200, 235, 250), _HORIZON, GROUND),
    "ocean": (_ocean, (140, 205, 250), (215, 240, 252), _HORIZON, GROUND),
    "underwater": (_underwater, (50, 170, 215), (8, 60, 120), SIZE, MIDDLE),
    "snow": (_snow, (175, 205, 235), (225, 235, 245), _HORIZON, GROUND),
    "forest": (_forest, (150, 205, 160), (90, 150, 90), _HORIZON, GROUND),
    "meadow": (_meadow, (105, 185, 250), (200, 232, 252), _HORIZON, GROUND),
    "desert": (_desert, (135, 200, 240), (250, 225, 180), _HORIZON, GROUND),
    "mountains": (_mountains, (120, 185, 240), (215, 235, 250), _HORIZON, GROUND),
    "sunset": (_sunset, (90, 50, 120), (255, 150, 70), _HORIZON, GROUND),
    "city": (_city, (150, 190, 230), (225, 225, 235), _HORIZON, GROUND),
    "clouds": (_clouds, (80, 160, 240), (170, 215, 250), SIZE, MIDDLE),
    "table": (_table, (240, 225, 200), (228, 208, 178), _HORIZON, GROUND),
}


@functools.cache
def background(name: str) -> Picture:
    """A background, 512×512; the same on every machine."""
    random = Random(f"{name}0")  # another number gives another drawing
    if name in PLAIN:
        light = 1 if name in ("white", "black") else random.uniform(0.95, 1.03)
        colour = np.array(PLAIN[name]) * light
        return _gradient(np.clip(colour * 1.05, 0, 255), np.clip(colour * 0.93, 0, 255))
    paint, top, bottom, end, _ = _PAINTERS[name]
    canvas = _Canvas(_gradient(top, bottom, end), random)
    paint(canvas)
    return np.asarray(canvas.image.filter(ImageFilter.GaussianBlur(1.2)))


# ----------------------------------------------------------------------------------------------------- subjects


@functools.cache
def _glyph(name: str) -> Image.Image:
    """The subject's glyph, square, at the size it has in the font; its colours are premultiplied by alpha."""
    image = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(image).text((0, 0), GLYPH[name], font=ImageFont.truetype(FONT, FONT_SIZE), embedded_color=True)
    image = image.crop(image.getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@functools.lru_cache(1500)
def sprite(name: str, side: int, colour: str | None = None) -> tuple[Floats, Floats]:
    """A subject `side` pixels wide and high, in its own colours or painted in one of HUES.

    Returns the colours premultiplied by alpha, (side, side, 3), 0…255, and alpha, (side, side, 1), 0…1.
    """
    rgba = _glyph(name)
    rgb, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    if colour:
        h, s, v = (np.asarray(channel).astype(int) for channel in rgb.convert("HSV").split())
        coloured = (s > 90) & (v > 60)  # grey and dark parts stay as they are
        h[coloured] = HUES[colour] * 255 // 360
        if colour in ("yellow", "orange", "pink"):  # dark shades of these would be olive, brown and purple
            v[coloured] = np.minimum(v[coloured] * 0.4 + 150, np.asarray(alpha)[coloured])
        if colour == "pink":
            s[coloured] = s[coloured] * 0.6
        rgb = Image.merge("HSV", [Image.fromarray(c.astype(np.uint8)) for c in (h, s, v)]).convert("RGB")
    lanczos = Image.Resampling.LANCZOS
    pixels = np.asarray(rgb.resize((side, side), lanczos)).astype(np.float32)
    opacity = np.asarray(alpha.resize((side, side), lanczos)).astype(np.float32)[..., None]
    return np.minimum(pixels, opacity), opacity / np.float32(255)


SIDES = {("", 1): 288, ("big", 1): 384, ("small", 1): 160, ("", 2): 208, ("", 3): 160}  # (size, count): pixels
_CENTRES = {1: (256,), 2: (136, 392), 3: (96, 256, 416)}


def placement(scene: Scene) -> list[tuple[int, int, int]]:
    """(side, left, top) of every subject, in pixels; left and top lie on the grid."""
    count = len(scene.subjects)
    side = SIDES[scene.size, count]
    middle = _PAINTERS[scene.background][4] if scene.background in _PAINTERS and scene.size != "big" else MIDDLE
    top = (middle - side // 2) // GRID * GRID
    return [(side, (x - side // 2) // GRID * GRID, top) for x in _CENTRES[count]]


def render(scene: Scene) -> Picture:
    """The picture of a scene, 512×512×3."""
    picture = background(scene.background).astype(np.float32)
    for (name, colour), (side, left, top) in zip(scene.subjects, placement(scene), strict=True):
        pixels, alpha = sprite(name, side, colour)
        window = picture[top : top + side, left : left + side]
        window *= 1 - alpha
        window += pixels
    return picture.clip(0, 255).astype(np.uint8)
