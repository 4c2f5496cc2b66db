"""A voice's ONNX file, computed by OpenVINO, and its samples as PCM."""

from __future__ import annotations

from os import EX_DATAERR, EX_NOINPUT
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.openvino import Network
from helpers.core.text import printable, shortened


def load(path: Path, needs: set[str]) -> Network:
    """The network, compiled or from the cache. needs: the inputs that it must have.

    Raises: UserError 65 if it is damaged or another kind of network, 66 if there is no such file.
    """
    remedy = f"Download it again, or choose another voice: {printable(path.name)} does not work."
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(
            EX_NOINPUT, f"cannot read {printable(str(path))}: {error.strerror}", "Name another file."
        ) from error
    identity = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    name = f"voice-{openvino.short(str(path.resolve()))}"
    try:
        network = openvino.compiled(lambda: openvino.runtime().Core().read_model(path), name, identity)
    except RuntimeError as error:
        message = f"not a network that can speak: {shortened(printable(str(error)))[:200]}"
        raise UserError(EX_DATAERR, message, remedy) from error
    if missing := needs - set(network.inputs):
        raise UserError(EX_DATAERR, f"the network has no input {sorted(missing)[0]!r}", remedy)
    return network


def pcm(samples: NDArray[Any]) -> bytes:
    """Samples from -1 to 1 as s16le. Raises: UserError 65 if they are no numbers, as those of damaged weights."""
    if not np.isfinite(samples).all():
        raise UserError(EX_DATAERR, "the voice's network computes no sound", "Download the voice again.")
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
