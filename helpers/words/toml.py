"""Data files in TOML, with the parser of Python 3.11, or tomli before."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def read(file: Path) -> dict[str, Any]:
    """Raises: OSError, and the parser's ValueError."""
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content: dict[str, Any] = parser.loads(file.read_text(encoding="utf-8"))
    return content
