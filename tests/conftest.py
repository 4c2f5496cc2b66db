"""What the tiers of tests/run.sh leave out: `--fast` what is slow, or needs PyTorch or a microphone; `--full` nothing.
Without either, what is marked full is left out, and the fault tests (tests/faults) run at a smaller size.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from helpers.core.paths import ROOT

SLICES = 3  # of the matrix of faulty stages; each commit runs one of them
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


def slice_of_commit() -> tuple[int, str]:
    """(the slice that this commit runs, 0…SLICES-1; the commit), so that a few commits run all slices."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = found.stdout.strip() or "0"
    return int(commit[:8], 16) % SLICES, commit[:8]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    if not config.getoption("full") and any("test_faulty_stage" in getattr(one, "nodeid", "") for one in reports):
        number, commit = slice_of_commit()
        terminalreporter.write_line(f"faulty stages: slice {number + 1} of {SLICES}, by commit {commit}; --full: all")


@pytest.fixture(autouse=True)
def _log() -> None:
    """What the rooms report reaches caplog, also after a test that ran a program in this process."""
    log = logging.getLogger("helpers")
    log.propagate = True
    log.handlers.clear()


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`size(quick, full)`: the one of the two that this test run wants."""
    return lambda quick, full: full if request.config.getoption("full") else quick
