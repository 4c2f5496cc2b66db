"""Run the fault tests and write their results:  python -m benchmark.faults

Runs each attack of tests/faults at full size, for an hour or more, and writes docs/faults.json and the table in
docs/faults.md. A test counts as one try, or as n tries with `record_property("tried", n)`; if it fails, all of
its tries failed. The text of `record_property("figure", text)` is the last column.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from helpers.core.paths import ROOT

STORE, PAGE = ROOT / "docs" / "faults.json", ROOT / "docs" / "faults.md"
BLOCK = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)


class Row(NamedTuple):
    """A claim (the first line of a test's docstring), how often it was tried and passed, and the measured value."""

    test: str
    claim: str
    tried: int
    held: int
    seconds: float
    figure: str


def file_of(row: Row) -> str:
    """The test file, from the repository's root."""
    return row.test.split("::")[0]


def stored() -> list[Row]:
    """The rows of the last full runs."""
    return [Row(**row) for row in json.loads(STORE.read_text(encoding="utf-8"))] if STORE.exists() else []


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown, by the file of the test."""
    lines = ["| what was tried | times | passed | failed | measured |", "| --- | --: | --: | --: | --- |"]
    of_file = ""
    for row in rows:
        if (file := file_of(row)) != of_file:
            of_file = file
            lines.append(f"| **[{file.rpartition('/')[2]}](../{file})** | | | | |")
        lines.append(f"| {row.claim} | {row.tried:,} | {row.held:,} | {row.tried - row.held:,} | {row.figure} |")
    return "\n".join(lines) + "\n"


def claims(file: Path) -> dict[str, str]:
    """The first line of each test's docstring, without its full stop."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    tests = [one for one in body if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")]
    return {test.name: (ast.get_docstring(test) or test.name).splitlines()[0].rstrip(".") for test in tests}


def rows_of(report: Path) -> list[Row]:
    """The rows of a JUnit file that pytest wrote, one for each test function; skipped tests do not count."""
    rows: dict[str, Row] = {}
    for case in ET.parse(report).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        file, name = f"{case.get('classname', '').replace('.', '/')}.py", case.get("name", "").split("[")[0]
        noted = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        tried, test = int(noted.get("tried", 1)), f"{file}::{name}"
        held = tried if case.find("failure") is None and case.find("error") is None else 0
        before = rows.get(test, Row(test, claims(ROOT / file)[name], 0, 0, 0.0, ""))
        figure = "; ".join(filter(None, (before.figure, noted.get("figure", ""))))
        seconds = round(before.seconds + float(case.get("time", 0)), 1)
        rows[test] = before._replace(
            tried=before.tried + tried, held=before.held + held, seconds=seconds, figure=figure
        )
    return list(rows.values())


def store(rows: Iterable[Row]) -> None:
    """Replace older rows of the same tests, drop tests that no longer exist, and write both files."""
    new = {row.test: row for row in rows}
    kept = {row.test: row for row in stored() if f"def {row.test.split('::')[1]}(" in source(row)}
    every = [row for _, row in sorted({**kept, **new}.items())]
    content = json.dumps([row._asdict() for row in every], indent=1, ensure_ascii=False) + "\n"
    STORE.write_text(content, encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: table(every), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def source(row: Row) -> str:
    """The text of its test file; empty if the file does not exist."""
    file = ROOT / file_of(row)
    return file.read_text(encoding="utf-8") if file.exists() else ""


def main() -> int:
    """Arguments go to pytest, for example a single file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["--full", f"--junitxml={report}", *(sys.argv[1:] or ["tests/faults"])]
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", *options], cwd=ROOT, check=False).returncode
        store(rows_of(report))
    return code


if __name__ == "__main__":
    sys.exit(main())
