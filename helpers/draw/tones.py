"""Changes of a drawn picture's pixels: they take a hundredth of a second, where a new drawing takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

LARGEST = 4096  # pixels of a side that is not made larger
_LEVELS = np.arange(256) / 255


def _table(
    red: NDArray[np.float64], green: NDArray[np.float64], blue: NDArray[np.float64]
) -> Callable[[Pixels], Pixels]:
    """A change by a value, 0…1, for each of the 256 levels of each colour."""
    tables = [(levels.clip(0, 1) * 255).round().astype(np.uint8) for levels in (red, green, blue)]
    return lambda pixels: np.stack([table[pixels[..., index]] for index, table in enumerate(tables)], axis=-1)


def _twice(pixels: Pixels) -> Pixels:
    from PIL import Image

    height, width = pixels.shape[:2]
    if max(height, width) * 2 > LARGEST:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width * 2, height * 2), Image.Resampling.LANCZOS))


_DARK, _LIGHT = _LEVELS**1.5 * 0.95, 1 - (1 - _LEVELS) ** 1.5 * 0.95
_MORE, _SAME, _LESS = _LEVELS ** (1 / 1.25), _LEVELS, _LEVELS**1.25

TONES: dict[str, Callable[[Pixels], Pixels]] = {
    "darker": _table(_DARK, _DARK, _DARK),
    "lighter": _table(_LIGHT, _LIGHT, _LIGHT),
    "warmer": _table(_MORE, _SAME, _LESS),
    "colder": _table(_LESS, _SAME, _MORE),
    "contrast": _table(*[(_LEVELS - 0.5) * 1.4 + 0.5] * 3),
    "bigger": _twice,
}


def applied(pixels: Pixels, tones: Iterable[str]) -> Pixels:
    """pixels: uint8, (height, width, 3), RGB; tones: keys of TONES. Returns the same kind; bigger: twice the size."""
    for tone in tones:
        pixels = TONES[tone](pixels)
    return np.ascontiguousarray(pixels)
