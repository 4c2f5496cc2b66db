"""Measured values and their spread: figures, ratios of figures, timelines. They are stored as JSON; tables and plots
are made only from that (report.py, plots.py).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from helpers.catalog.catalog import human
from helpers.core import system
from helpers.core.errors import UserError
from helpers.core.files import write_whole

SCHEMA = 1
TOLERANCE = 0.25  # a ratio may drop by this share before it counts as worse: on a shared machine rounds differ by 10 %
PACKAGES = ("openvino", "pocketsphinx", "pywhispercpp", "numpy", "torch", "diffusers", "coremltools")


class Figure(NamedTuple):
    """One measured quantity. name: `section / subject / quantity`; quartiles: of the n values; how: the method."""

    name: str
    unit: str
    median: float
    quartiles: tuple[float, float]
    n: int
    how: str


class Ratio(NamedTuple):
    """Figure `a` divided by figure `b`, round by round: the median and the quartiles. More is better in all of them."""

    name: str
    value: float
    quartiles: tuple[float, float]
    n: int
    a: str
    b: str


class Bar(NamedTuple):
    """What a stage did from `start` to `end`, in seconds."""

    stage: str
    what: str
    start: float
    end: float


class Timeline(NamedTuple):
    """One run, of median length; marks: moments by their name."""

    name: str
    bars: list[Bar]
    marks: dict[str, float]


@dataclass
class Results:
    """All results of a run of the benchmark."""

    machine: str
    memory: str
    versions: dict[str, str]
    date: str
    quick: bool
    figures: dict[str, Figure] = field(default_factory=dict)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    timelines: list[Timeline] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # reasons for missing figures
    values: dict[str, list[float]] = field(default_factory=dict)  # the values of each figure, not stored

    def add(self, name: str, unit: str, values: Sequence[float], how: str) -> None:
        """Add a figure for the values of a quantity."""
        self.values[name] = list(values)
        self.figures[name] = Figure(name, unit, *summary(values), how)

    def compare(self, name: str, a: str, b: str) -> None:
        """Add the ratio figure `a` / figure `b`; their values were measured alternately."""
        rounds = [x / y for x, y in zip(self.values[a], self.values[b], strict=True)]
        self.ratios[name] = Ratio(name, *summary(rounds), a, b)

    def part(self, section: str) -> list[Figure]:
        """The figures of a section, in the order in which they were measured."""
        return [figure for figure in self.figures.values() if figure.name.split(" / ")[0] == section]


def summary(values: Sequence[float]) -> tuple[float, tuple[float, float], int]:
    """Median, quartiles and number, with four digits."""
    low, middle, high = (float(f"{value:.4g}") for value in np.percentile(values, (25, 50, 75)))
    return middle, (low, high), len(values)


def new(quick: bool) -> Results:
    """Empty results for this machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = system.private(system.system())
    return Results(machine, human(system.memory()[0]), versions, time.strftime("%Y-%m-%d"), quick)


def in_turn(
    ways: Mapping[str, Callable[[], float]], rounds: int, tick: Callable[[], object] = lambda: None, warm: int = 1
) -> dict[str, list[float]]:
    """The values of each way (for example seconds) in each round. The ways alternate, A B A B …, so that a busy moment
    affects all of them. `warm` rounds before that do not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-warm, rounds):
        for name, way in ways.items():
            value = way()
            tick()
            if number >= 0:
                found[name].append(value)
    return found


def save(results: Results, file: Path) -> None:
    """Write the results as JSON, atomically. Raises: UserError 73."""
    data = {"schema": SCHEMA, **asdict(results)} | {
        "figures": [figure._asdict() for figure in results.figures.values()],
        "ratios": [ratio._asdict() for ratio in results.ratios.values()],
        "timelines": [line._asdict() | {"bars": [bar._asdict() for bar in line.bars]} for line in results.timelines],
    }
    del data["values"]
    parts = [
        f"{_json(key)}: {_lines(value) if isinstance(value, list) else _json(value)}" for key, value in data.items()
    ]
    write(file, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def _lines(items: list[Any]) -> str:
    """A JSON list with one item per line, for readable diffs."""
    return "[\n" + ",\n".join(map(_json, items)) + "\n]" if items else "[]"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def write(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises UserError 73."""
    try:
        write_whole(file, content)
    except OSError as error:
        raise UserError(os.EX_CANTCREAT, f"cannot write {file}: {error.strerror}", "Name another --output.") from error


def load(file: Path) -> Results:
    """Read a file that `save` wrote. Raises: UserError 66 if it does not exist, 65 if it is another kind of file."""
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise ValueError("it has another version")
        figures = [Figure(**one | {"quartiles": tuple(one["quartiles"])}) for one in data.pop("figures")]
        ratios = [Ratio(**one | {"quartiles": tuple(one["quartiles"])}) for one in data.pop("ratios")]
        lines = [
            Timeline(one["name"], [Bar(**bar) for bar in one["bars"]], one["marks"]) for one in data.pop("timelines")
        ]
        return Results(
            **data,
            figures={figure.name: figure for figure in figures},
            ratios={ratio.name: ratio for ratio in ratios},
            timelines=lines,
        )
    except OSError as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(os.EX_DATAERR, f"{file} does not contain results of this benchmark: {error}") from error


def replaced(stored: Results, now: Results, sections: Sequence[str]) -> Results:
    """`stored` with these sections of `now` instead of its own; the date names them."""
    ours = re.compile(rf"({'|'.join(sections)})( / |: )")
    merged = Results(**{**vars(stored), "date": f"{stored.date}, {', '.join(sections)} {now.date}"})
    merged.figures = {name: one for name, one in stored.figures.items() if not ours.match(name)} | now.figures
    merged.ratios = {name: one for name, one in stored.ratios.items() if not ours.match(name)} | now.ratios
    merged.notes = [note for note in stored.notes if not ours.match(note)] + now.notes
    merged.timelines = now.timelines or stored.timelines  # of the pipe alone
    return merged


def regressions(now: Results, stored: Results) -> list[str]:
    """A line for each ratio that is worse than the stored one by more than TOLERANCE. Times are not compared: they
    depend on the machine."""
    return [
        f"{name}: {ratio.value:.2f}, was {stored.ratios[name].value:.2f}"
        for name, ratio in now.ratios.items()
        if name in stored.ratios and ratio.value < (1 - TOLERANCE) * stored.ratios[name].value
    ]
