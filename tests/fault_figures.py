"""What the fault tests tried and what held: docs/faults.json, and the table of it in docs/faults.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from helpers.core.paths import ROOT

STORE, PAGE = ROOT / "docs" / "faults.json", ROOT / "docs" / "faults.md"
BLOCK = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)


class Row(NamedTuple):
    """A claim (the first line of a test's docstring), how often it was tried and held, and what was measured."""

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


def store(rows: Iterable[Row]) -> None:
    """Put these rows in the place of older ones of the same tests, leave out tests that are gone, write both files."""
    new = {row.test: row for row in rows}
    kept = {row.test: row for row in stored() if f"def {row.test.split('::')[1]}(" in source(row)}
    every = [row for _, row in sorted({**kept, **new}.items())]
    content = json.dumps([row._asdict() for row in every], indent=1, ensure_ascii=False) + "\n"
    STORE.write_text(content, encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: table(every), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def source(row: Row) -> str:
    """The text of its test file; empty if that is gone."""
    file = ROOT / file_of(row)
    return file.read_text(encoding="utf-8") if file.exists() else ""
