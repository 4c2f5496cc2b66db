"""Core ML models for tests: converted from small ones and from the built-in one, once for all tests of a run."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from small_models import BUILTIN, random_model

from helpers.compress import convert_coreml

_FOLDER = tempfile.TemporaryDirectory(prefix="audio-to-image.")  # deleted when the tests end


@functools.cache
def source(name: str) -> Path:
    """The diffusers folder of a small model (a key of small_models.MODELS), or `builtin`."""
    return BUILTIN if name == "builtin" else random_model(Path(_FOLDER.name) / name, name)


def converted(
    name: str, attention: str = "original", batch: int = 2, chunked: bool = False, system: str = "macOS14"
) -> Path:
    """Its folder of packages."""
    folder = Path(_FOLDER.name) / f"{name}-{attention}-{batch}-{system}{'-chunked' * chunked}"
    if not folder.exists():
        folder.mkdir()
        convert_coreml.convert(source(name), folder, attention, None, batch, system)
        if chunked:
            convert_coreml.chunk(folder)
    return folder
