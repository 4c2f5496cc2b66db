"""What the tiers of tests/run.sh leave out: `--fast` what is slow, or needs PyTorch or a microphone; `--full` nothing.
Without either, what is marked full is left out, and the fault tests (tests/faults) run at a smaller size.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import pytest

MICROPHONES = frozenset(("heard", "sound"))  # fixtures that start a sound server
REFERENCE = (
    "diffusers",
    "jiwer",
    "matplotlib",
    "silero_vad",
    "torch",
    "transformers",
)  # what results are compared with


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only what is quick and needs no PyTorch")
    parser.addoption("--full", action="store_true", help="the fault tests at their full size (hours)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("fast"):
        for name in REFERENCE:
            sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed: importorskip skips


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    fast, full = config.getoption("fast"), config.getoption("full")
    for item in items:
        if item.path.parent.name == "faults" or MICROPHONES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    skipped = {"slow"} if fast else set()
    if not full:
        skipped.add("full")
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in skipped)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(autouse=True)
def _log() -> None:
    """What the rooms report reaches caplog, also after a test that ran a program in this process."""
    log = logging.getLogger("helpers")
    log.propagate = True
    log.setLevel(logging.NOTSET)
    log.handlers.clear()


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`size(quick, full)`: the one of the two that this test run wants."""
    return lambda quick, full: full if request.config.getoption("full") else quick
