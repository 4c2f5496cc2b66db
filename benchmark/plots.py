"""The plots, drawn only from the results."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.results import Figure, Results, Timeline, write
from helpers.core import extras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

TIMELINE, PICTURES, PALETTES = "benchmark-pipe.png", "benchmark-image.png", "benchmark-models.png"
COLOURS = {"starting and loading": "#c0c4cc", "recording": "#e4b363", "recognising": "#4c78a8", "filtering": "#9467bd",
           "sampling": "#54a24b", "writing": "#b5652b"}  # fmt: skip
STAGES = ("record", "transcribe", "remove_parentheses", "generate")


def check() -> None:
    """Check for matplotlib and jiwer before anything is measured. Raises: UserError 69."""
    extras.require("benchmark")


def has(results: Results, plot: str) -> bool:
    """Whether there is anything to draw in a plot."""
    return bool(_CHOSEN[plot](results))


def draw(results: Results, folder: Path) -> None:
    """Draw every plot for which there are figures. Raises UserError 73."""
    from matplotlib.figure import Figure as Picture

    for plot, chosen in _CHOSEN.items():
        if found := chosen(results):
            picture, content = Picture(layout="constrained"), io.BytesIO()
            _DRAWN[plot](picture, found)
            picture.savefig(content, dpi=110, format="png")
            write(folder / plot, content.getvalue())


def _cold_timelines(results: Results) -> list[Timeline]:
    cold = [line for line in results.timelines if ", cold: " in line.name]
    return cold or results.timelines


def _draw_timelines(picture: Picture, lines: list[Timeline]) -> None:
    """A row for each scene, a column for each way, on one scale."""
    rows = -(-len(lines) // 2)
    picture.set_size_inches(12, 2.2 * rows + 0.6)
    grid: Any = picture.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for axes, line in zip(grid.flat, lines, strict=False):
        for bar in line.bars:
            where = STAGES.index(bar.stage)
            axes.barh(where, bar.end - bar.start, left=bar.start, color=COLOURS[bar.what], height=0.7)
        for mark, moment in line.marks.items():
            axes.axvline(moment, color="#d62728" if mark == "picture" else "black", linestyle=":", linewidth=1.2)
            height = -0.75 if mark == "picture" else -0.45  # they may be close to each other
            axes.annotate(f"{mark} {moment:.1f} s", (moment, height), ha="right", va="bottom", fontsize=7)
        axes.set_title(line.name, fontsize=9)
        axes.set_yticks(range(len(STAGES)), STAGES, fontsize=8)
        axes.grid(axis="x", alpha=0.3)
    grid[0, 0].set_ylim(len(STAGES) - 0.4, -1.2)
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    handles = [_patch(colour) for colour in COLOURS.values()]
    picture.legend(handles, list(COLOURS), loc="outside lower center", ncols=len(COLOURS), fontsize=8, frameon=False)


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _steps_and_samplers(results: Results) -> list[Figure]:
    return [figure for figure in results.part("image") if figure.name.endswith((" / step", " / drawing", " / right"))]


def _draw_pictures(picture: Picture, figures: list[Figure]) -> None:
    """Seconds a step on the left, fidelity over time of every sampler on the right."""
    picture.set_size_inches(12, 4.6)
    left, right = picture.subplots(1, 2)
    _draw_steps(left, [figure for figure in figures if figure.name.endswith(" / step")])
    times = {figure.name.split(" / ")[1]: figure.median for figure in figures if figure.name.endswith(" / drawing")}
    shown = {figure.name.split(" / ")[1]: figure.median for figure in figures if figure.name.endswith(" / right")}
    for sampler in dict.fromkeys(subject.split(",")[0] for subject in times):
        points = [(times[subject], shown[subject], subject) for subject in times if subject.split(",")[0] == sampler]
        right.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", label=sampler)
        for x, y, subject in points:
            steps = subject.split(", ")[1].removesuffix(" steps")
            right.annotate(steps, (x, y), (0, 6), textcoords="offset points", fontsize=7, ha="center")
    right.set(
        xlabel="seconds a picture (the numbers are steps)",
        ylabel="pictures that show what was asked",
        xlim=(0, None),
        ylim=(0, 1.08 * max(shown.values(), default=1)),
    )
    right.grid(alpha=0.3)
    right.legend(loc="lower right", fontsize=8)


def _draw_steps(axes: Axes, figures: list[Figure]) -> None:
    names = [figure.name.split(" / ")[1].replace(", ", "\n", 1) for figure in figures]
    for place, figure in enumerate(figures):
        low, high = figure.quartiles
        colour = "#9a9fa8" if "PyTorch" in figure.name else "#4c78a8"
        spread = [[figure.median - low], [high - figure.median]]
        axes.errorbar([figure.median], [place], xerr=spread, fmt="o", color=colour, markersize=9)
        axes.annotate(f"{figure.median:.3g} s", (figure.median, place), (0, 8), textcoords="offset points",
                      fontsize=7, ha="center")  # fmt: skip
    axes.set_yticks(range(len(figures)), names, fontsize=7)
    axes.margins(0.12)
    axes.invert_yaxis()
    axes.set(xlabel="seconds a step (logarithmic)", xscale="log")
    axes.grid(axis="x", alpha=0.3)


def _recipes(results: Results) -> list[Figure]:
    return [
        figure for figure in results.part("models") if figure.name.endswith((" / size", " / picture, signal to noise"))
    ]


def _draw_palettes(picture: Picture, figures: list[Figure]) -> None:
    """Signal over size, a line for each kind of recipe."""
    picture.set_size_inches(7, 4.2)
    axes = picture.subplots()
    sizes = {figure.name.split(" / ")[1]: figure.median for figure in figures if figure.name.endswith(" / size")}
    signals = {figure.name.split(" / ")[1]: figure.median for figure in figures if figure.unit == "dB"}
    for kind in dict.fromkeys(recipe.split("-")[0] for recipe in signals):
        recipes = sorted((recipe for recipe in signals if recipe.split("-")[0] == kind), key=lambda one: sizes[one])
        (line,) = axes.plot([sizes[one] for one in recipes], [signals[one] for one in recipes], "o-", label=kind)
        for one in recipes:
            axes.annotate(one, (sizes[one], signals[one]), (4, 5), textcoords="offset points",
                          color=line.get_color(), fontsize=8)  # fmt: skip
    axes.axvline(sizes["16 bits"], color="grey", linestyle=":", label="16 bits")
    axes.set(xlabel="all networks, MB", ylabel="PSNR of the picture, dB", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


_CHOSEN: dict[str, Callable[[Results], list[Any]]] = {
    TIMELINE: _cold_timelines,
    PICTURES: _steps_and_samplers,
    PALETTES: _recipes,
}
_DRAWN: dict[str, Callable[[Any, list[Any]], None]] = {
    TIMELINE: _draw_timelines,
    PICTURES: _draw_pictures,
    PALETTES: _draw_palettes,
}
