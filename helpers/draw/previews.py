"""What a picture will be, after each step: small pictures for whoever listens to the events.

A line longer than a pipe's atomic write (512 bytes on macOS, 4096 on Linux) could be torn by another stage's, so an
event names a file beside the stream instead of carrying the picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core import stage
from helpers.core.files import write_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from helpers.core.settings import Settings

_LARGEST = 512  # pixels, of a side
_QUALITY = 80  # of 100: 25 kB for 512×512


def listener(settings: Settings, number: int | None) -> Callable[[int, int, NDArray[np.uint8]], None] | None:
    """A function that shows a preview (step, steps, pixels) of line `number` to the listener, or None without one."""
    if not settings.events:
        return None
    folder = settings.control or Path(settings.events).absolute().parent

    def show(step: int, steps: int, pixels: NDArray[np.uint8]) -> None:
        from PIL import Image

        image, file = Image.fromarray(pixels), io.BytesIO()
        image.thumbnail((_LARGEST, _LARGEST))
        image.save(file, "JPEG", quality=_QUALITY)
        path = folder / f"preview-{number or 0}-{step}.jpg"
        try:
            write_whole(path, file.getvalue())
        except OSError:  # the disk is full, or the folder is gone: the picture matters more
            return
        stage.tell("preview", number=number, step=step, of=steps, file=str(path))

    return show
