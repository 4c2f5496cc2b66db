"""OpenVINO's module, without its telemetry. Other modules get it from helpers.core.openvino."""

from __future__ import annotations

import functools
from typing import Any

from helpers.core import imports


@functools.lru_cache(maxsize=1)
def runtime() -> Any:
    """The openvino module, which takes 0.1 s to import.

    We skip its model converter, which loads openvino_telemetry: that reports each import to Google Analytics. The
    runtime itself sends nothing.
    """
    with imports.without("openvino.tools.ovc"):
        import openvino

    return openvino
