"""Every performance number in the README and in docs/ was measured by a program of this repository, or is a setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark import faults, pipe, plots, report, results
from helpers.catalog import catalog
from helpers.core.extras import EXTRAS
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND
from helpers.core.settings import Settings
from helpers.listen import endpointing, pcm_stream, reopening

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
STORED = results.load(DOCS / "benchmarks.json")

_UNITS = {"s": ("s", 1), "ms": ("s", 1e-3), "seconds": ("s", 1), "second": ("s", 1), "minutes": ("s", 60),
          "kB": ("B", 1e3), "KiB": ("B", 1024), "MB": ("B", 1e6), "GB": ("B", 1e9), "s/s": ("s", 1),
          "GFLOP": ("FLOP", 1e9), "TFLOP/s": ("FLOP/s", 1e12), "dB": ("dB", 1), "%": ("%", 1), "×": ("×", 1),
          "times": ("×", 1), "J": ("J", 1)}  # fmt: skip
_AMOUNT = r"\d+(?:\.\d+)?"
_NAMES = "|".join(sorted(_UNITS, key=len, reverse=True))
NUMBER = re.compile(rf"(?<![\w.])(?:({_AMOUNT})(?: to |–|-))?({_AMOUNT}) ?({_NAMES})(?!\w)")


def said_by(file: str, text: str) -> str:
    """The program that says it, as proof that it does."""
    assert text in (ROOT / file).read_text(encoding="utf-8"), f"{file} does not say {text}"
    return text


# What is no measurement: (number, unit) and the code that it comes from.
SETTINGS = {
    (Settings().silence, "s"): "how long nobody speaks before the recording ends",
    (endpointing.BEFORE, "s"): "of sound before the first word",
    (pipe.WINDOW, "s"): "the window of the benchmark's microphone",
    (pipe.SCENES[2].end, "s"): "where speech ends in one of its scenes",
    (64, "KiB"): "a pipe of the system holds so much",
    (65536 / BYTES_PER_SECOND, "s"): "of sound in a pipe",
    (pcm_stream.LONGEST, "s"): "of one recording that are heard",
    (reopening.LONGEST, "s"): "that a microphone may be away in a loop",
    (float(said_by("helpers/shell/environment.sh", "450 MB")[:3]), "MB"): "what the first run says that it installs",
    (float(said_by("tests/recordings.py", "(30, 15, 5)")[-2]), "dB"): "the loudest noise in the tests of the detector",
    (
        float(said_by("helpers/compress/quantize.py", "default=30")[-2:]),
        "dB",
    ): "the least quality at 8 bits, by default",
    (11, "s"): "the length of a recording that others have measured with",
}


def known() -> Iterator[tuple[float, str]]:
    """Every number that may stand in a page, in base units: seconds, bytes …"""
    for value, unit in SETTINGS:
        yield base(float(value or 0), unit)
    for figure in STORED.figures.values():
        for value in (figure.median, *figure.quartiles):
            yield base(value, figure.unit)
    for ratio in STORED.ratios.values():
        for value in (ratio.value, *ratio.quartiles):
            yield value, "×"
    for line in STORED.timelines:
        yield from ((moment, "s") for moment in line.marks.values())
    for entry in catalog.read().entries.values():
        yield entry.bytes, "B"
        yield entry.memory_mb * 1e6, "B"
    for extra in EXTRAS.values():
        yield from stated(extra.size)
    for _, text, _ in report.PUBLISHED:
        yield from stated(text)
    yield from stated(STORED.memory)
    for row in faults.stored():
        yield from stated(row.figure)
    evaluation = json.loads((ROOT / "models" / "builtin" / "evaluation.json").read_text(encoding="utf-8"))
    for value in numbers(evaluation):
        yield from ((value * scale, unit) for unit, scale in _UNITS.values())


def base(value: float, unit: str) -> tuple[float, str]:
    name, scale = _UNITS.get(unit, (unit, 1))
    return value * scale, name


def numbers(value: Any) -> Iterator[float]:
    """Those in a JSON value, wherever they stand."""
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, (int, float)):
        yield float(value)


def stated(text: str) -> Iterator[tuple[float, str]]:
    for match in NUMBER.finditer(text):
        for amount in filter(None, match.groups()[:2]):
            yield base(float(amount), match[3])


def unexplained(text: str) -> list[str]:
    """The performance numbers in `text` that nothing explains; one is explained by what rounds to it."""
    allowed = set(known())
    found = []
    for match in NUMBER.finditer(text):
        name, scale = _UNITS[match[3]]
        for amount in filter(None, match.groups()[:2]):
            digits = len(amount.partition(".")[2])
            explained = any(
                unit == name and amount in (f"{value / scale:.{digits}f}", report.number(value / scale))
                for value, unit in allowed
            )
            if not explained:
                found.append(f"{amount} {match[3]}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_number_was_measured_or_is_a_setting(page: Path) -> None:
    for line in page.read_text(encoding="utf-8").splitlines():
        assert unexplained(line) == [], line


def test_a_number_from_nowhere_is_found() -> None:
    assert unexplained("It takes 8.6421 s, 12345 MB and 98.7 %; 91 to 93 dB; 777.7× and 17.77 TFLOP/s") == [
        "8.6421 s", "12345 MB", "98.7 %", "91 dB", "93 dB", "777.7 ×", "17.77 TFLOP/s",
    ]  # fmt: skip
    figure = next(figure for figure in STORED.figures.values() if figure.unit == "s")
    assert unexplained(f"It takes {report.cell(figure)}, `-t 7`, 512×512, -30 dBFS, 16 kHz") == []
    assert unexplained(f"It takes {figure.median * 1.07:.5g} s") != []


def test_the_tables_are_made_of_what_is_stored() -> None:
    """After another run, or a change of report.py: python -m benchmark report --output docs"""
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == report.markdown(STORED)
    for plot in (plots.TIMELINE, plots.PICTURES, plots.PALETTES):
        assert (DOCS / plot).is_file() == plots.has(STORED, plot)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- figures -->\n{report.readme(STORED)}<!-- /figures -->" in page


def test_what_is_promised_of_the_pipe_was_measured() -> None:
    """Half the time from the last word to the picture, or less, after a cold start."""
    assert STORED.ratios[f"pipe: {pipe.THEIRS} / {pipe.OURS}, {pipe.SCENES[1].name}, cold"].value >= 2
