"""Options of the test run: `--full` gives the fault tests (tests/faults) their full size, `--figures` writes what they
tried and what held into docs/faults.md. Without them they run at a size that fits a check of every change.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fault_figures import Row, store

FAULTS = "tests/faults/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the fault tests at their full size (hours)")
    parser.addoption("--figures", action="store_true", help="write what was tried and held into docs/faults.md")


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
    What it gives with `record_property("figure", text)` stands behind.
    """
    rows: dict[tuple[str, str], Row] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and report.nodeid.startswith(FAULTS):
                noted = dict(report.user_properties)
                key, tried = (report.nodeid.split("[")[0], noted["what"]), noted.get("tried", 1)
                row = rows.get(key, Row(*key, 0, 0, 0.0, ""))
                figure = "; ".join(filter(None, (row.figure, noted.get("figure", ""))))
                held = row.held + (tried if report.passed else 0)
                rows[key] = Row(*key, row.tried + tried, held, round(row.seconds + report.duration, 1), figure)
    if not rows:
        return
    terminalreporter.section("faults tried and held")
    for _, row in sorted(rows.items()):
        figure = f" ({row.figure})" if row.figure else ""
        terminalreporter.write_line(f"{row.held:7} of {row.tried:7}  {row.seconds:6.0f} s  {row.claim}{figure}")
    if config.getoption("figures"):
        store(rows.values())
