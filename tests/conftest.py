"""Options of the test run: `--full` gives the fault tests (tests/faults) their full size, `--figures` writes what they
tried and what held as a table. Without them they run at a size that fits a check of every change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

FAULTS = "tests/faults/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the fault tests at their full size (hours)")
    parser.addoption("--figures", type=Path, metavar="FILE", help="write what was tried and held (JSON)")


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`size(quick, full)`: the one of the two that this test run wants."""
    return lambda quick, full: full if request.config.getoption("full") else quick


@pytest.fixture(autouse=True)
def _name_of_figure(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    if request.node.nodeid.startswith(FAULTS):
        record_property("what", str(request.function.__doc__ or request.function.__name__).splitlines()[0].rstrip("."))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A table of the fault tests: a row for each test function, by the first line of its docstring.

    A test counts as one trial, or as many as it gives with `record_property("tried", n)`; of one that failed none held.
    """
    rows: dict[tuple[str, str], list[float]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and report.nodeid.startswith(FAULTS):
                noted = dict(report.user_properties)
                row = rows.setdefault((report.nodeid.split("::")[0], noted["what"]), [0, 0, 0.0])
                row[0] += noted.get("tried", 1)
                row[1] += noted.get("tried", 1) if report.passed else 0
                row[2] += report.duration
    if not rows:
        return
    terminalreporter.section("faults tried and held")
    for (path, what), (tried, held, seconds) in sorted(rows.items()):
        terminalreporter.write_line(f"{held:7.0f} of {tried:7.0f}  {seconds:6.0f} s  {Path(path).stem}: {what}")
    if file := config.getoption("figures"):
        found = [
            {"test": path, "what": what, "tried": tried, "held": held, "seconds": round(seconds, 1)}
            for (path, what), (tried, held, seconds) in sorted(rows.items())
        ]
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
