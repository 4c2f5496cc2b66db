"""Measure speed, size and quality on this machine, and write tables and plots.

    python -m benchmark all                        # 15 minutes; with --quick a few minutes
    python -m benchmark pipe --check docs/benchmarks.json
    python -m benchmark report --output docs       # tables and plots from docs/benchmarks.json, also in the README

In each comparison two commands run alternately in the same run; the result is their ratio. The values are stored in
benchmarks.json. The tables in benchmarks.md and the plots are made only from that file.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core import system
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.stage import Parser, run, say

if TYPE_CHECKING:
    from benchmark.results import Results

SECTIONS = ("pipe", "speech", "ears", "image", "memory", "models", "voices")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmark", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=(*SECTIONS, "all", "report"), metavar=f"{{{','.join(SECTIONS)},all,report}}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: faster, but less accurate")
    parser.add_argument(
        "-o", "--output", type=Path, default=ROOT / "outputs" / "benchmark", metavar="DIR",
        help="where benchmarks.json, benchmarks.md and the plots go (default outputs/benchmark)",
    )  # fmt: skip
    parser.add_argument(
        "--check", type=Path, metavar="STORED.json", help="end with 1 if a ratio is worse than in these results"
    )
    parser.add_argument("--keep", action="store_true", help="keep the other sections of benchmarks.json in DIR")
    parser.add_argument(
        "--recordings", type=Path, metavar="DIR", help="speech: your own, WAV with TXT beside it, or LibriSpeech"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # so that temporary models of some GB are deleted
    from benchmark import plots, report, results

    folder = arguments.output.expanduser().absolute()
    stored = results.load(arguments.check) if arguments.check else None
    plots.check()
    if arguments.what == "report":
        found = results.load(folder / "benchmarks.json")
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(os.EX_CANTCREAT, f"cannot write to {folder}: {error.strerror}") from error
        found = results.new(arguments.quick)
        if threads := os.environ.get("OMP_NUM_THREADS"):
            found.notes.append(f"PyTorch with all of the processor: OMP_NUM_THREADS was {threads}")
        sections = SECTIONS if arguments.what == "all" else (arguments.what,)
        measure(found, sections, arguments.recordings)
        if arguments.keep:
            found = results.replaced(results.load(folder / "benchmarks.json"), found, sections)
        results.save(found, folder / "benchmarks.json")
    plots.draw(found, folder)
    text = report.markdown(found)
    results.write(folder / "benchmarks.md", text.encode())
    if folder == ROOT / "docs":
        page = (ROOT / "README.md").read_text(encoding="utf-8")
        begin, end = "<!-- figures -->\n", "<!-- /figures -->"
        before, after = page.split(begin)[0], page.split(end)[1]
        results.write(ROOT / "README.md", f"{before}{begin}{report.readme(found)}{end}{after}".encode())
    print(text if sys.stdout.isatty() else folder / "benchmarks.md")
    worse = results.regressions(found, stored) if stored else []
    for line in worse:
        say(f"benchmark: worse than in {arguments.check}: {line}")
    return 1 if worse else 0


def measure(found: Results, sections: tuple[str, ...], recordings: Path | None) -> None:
    """Measure each section. If one fails, note it and measure the others.

    Raises: the error of the section if it is the only one.
    """
    from tqdm import tqdm

    from benchmark import ears, image, memory, models, pipe, speech, spoken

    measures: dict[str, Callable[[Callable[[], object]], None]] = {
        "pipe": lambda tick: pipe.measure(found, found.quick, tick),
        "speech": lambda tick: speech.measure(found, found.quick, tick, recordings),
        "ears": lambda tick: ears.measure(found, found.quick, tick),
        "image": lambda tick: image.measure(found, found.quick, tick),
        "memory": lambda tick: memory.measure(found, tick),
        "models": lambda tick: models.measure(found, found.quick, tick),
        "voices": lambda tick: spoken.measure(found, found.quick, tick),
    }
    for section in sections:
        with tqdm(desc=section, unit=" measured", disable=not sys.stderr.isatty()) as bar:
            try:
                measures[section](lambda: bar.update(1))
            except Exception as error:  # any error: keep the results of the other sections
                if len(sections) == 1:
                    raise
                found.notes.append(f"{section}: not measured completely: {system.private(str(error))}")
                say(f"benchmark: {found.notes[-1]}")


if __name__ == "__main__":
    run("benchmark", main)
