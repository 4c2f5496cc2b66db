"""What the benchmark does with its values: medians and ratios by rounds, the file, the check, tables and plots."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("matplotlib")

from benchmark import __main__ as benchmark
from benchmark import energy, plots, report, results
from benchmark.results import Bar, Results, Timeline
from helpers.core.errors import UserError


def found(scale: float = 1.0, ratio: float = 3.0) -> Results:
    """Results of every section, such as a run gives; all times are `scale` times as long."""
    made = results.new(quick=False)
    for scene in ("file, warm", "microphone, cold"):
        for way, factor in (("one after another", ratio), ("this pipe", 1.0)):
            made.add(
                f"pipe / {scene} / {way}", "s", [scale * factor, scale * factor * 1.1, scale * factor * 1.3], "now"
            )
            bars = [Bar("record", "recording", 0, 5), Bar("generate", "sampling", 5, 5 + factor)]
            made.timelines.append(Timeline(f"{scene}: {way}", bars, {"last word": 5.0, "picture": 5 + factor}))
        made.compare(f"pipe: {scene}", f"pipe / {scene} / one after another", f"pipe / {scene} / this pipe")
    made.add("speech / builtin / word error rate", "%", [5.31], "150 recordings")
    for sampler in ("dpm++", "ddim"):
        for steps in (2, 4):
            made.add(f"image / {sampler}, {steps} steps / drawing", "s", [0.1 * steps, 0.2 * steps], "judged")
            made.add(f"image / {sampler}, {steps} steps / right", "pictures", [3 + steps], "judged")
    for way in ("CPU engine, f32", "diffusers on PyTorch, f32"):
        made.add(f"image / the built-in model, {way} / step", "s", [0.123456, 0.2], "in turn")
    made.add("models / 16 bits / size", "MB", [52.0], "all")
    for recipe, size in (("palette-4", 14.0), ("palette-6", 20.0), ("mixed-4", 14.0)):
        made.add(f"models / {recipe} / size", "MB", [size], "all")
        made.add(f"models / {recipe} / picture, signal to noise", "dB", [2 * size], "all")
    made.notes.append("image: no energy counter")
    return made


def code(*arguments: object) -> int:
    with pytest.raises(UserError) as raised:
        benchmark.main([str(argument) for argument in arguments])
    assert "\n" not in raised.value.message
    return raised.value.code


# ---- values


def test_a_figure_is_the_median_with_quartiles() -> None:
    assert results.summary([4, 1, 2, 3, 100]) == (3, (2, 4), 5)
    assert results.summary([1.23456]) == (1.235, (1.235, 1.235), 1)


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    """A minute in which the machine is busy strikes both: the ratio stays."""
    made = results.new(quick=False)
    made.add("x / theirs / t", "s", [2, 20, 2], "")
    made.add("x / ours / t", "s", [1, 10, 2], "")
    made.compare("x", "x / theirs / t", "x / ours / t")
    assert made.ratios["x"].value == 2 and made.ratios["x"].quartiles == (1.5, 2) and made.ratios["x"].n == 3


def test_ways_are_measured_in_turn_after_a_round_that_does_not_count() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    ticks: list[None] = []
    values = results.in_turn({"a": lambda: way("a"), "b": lambda: way("b")}, 3, lambda: ticks.append(None))
    assert "".join(order) == "abababab" and len(ticks) == 8
    assert values == {"a": [3, 5, 7], "b": [4, 6, 8]}


# ---- the file


@settings(deadline=None, max_examples=20)
@given(
    st.dictionaries(
        st.text("abc ,/", min_size=1, max_size=9), st.lists(st.floats(0.001, 1e6), min_size=1, max_size=5), max_size=4
    )
)
def test_what_is_saved_is_read_back(values: dict[str, list[float]]) -> None:
    made = found()
    for name, some in values.items():
        made.add(f"x / {name} / y", "s", some, "é")
    with tempfile.TemporaryDirectory() as folder:
        results.save(made, Path(folder) / "kept.json")
        made.values = {}
        assert results.load(Path(folder) / "kept.json") == made


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 0}', '{"schema": 1, "figures": [{}]}', "null"])
def test_a_file_that_is_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "benchmarks.json").write_text(text)
    assert code("report", "--output", tmp_path) == os.EX_DATAERR
    assert code("pipe", "--check", tmp_path / "benchmarks.json") == os.EX_DATAERR
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.json"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert code("report", "--output", tmp_path) == os.EX_NOINPUT
    assert code("pipe", "--check", tmp_path / "none.json") == os.EX_NOINPUT


def test_a_machine_is_described_without_names() -> None:
    made = results.new(quick=True)
    assert os.uname().nodename not in json.dumps([made.machine, made.versions]) and "cores" in made.machine
    assert made.versions["openvino"] and made.memory.endswith("GB")


# ---- the check


def test_the_check_is_of_ratios_and_never_of_times(tmp_path: Path) -> None:
    assert results.regressions(found(scale=10), found()) == []
    assert results.regressions(found(ratio=9), found()) == []
    worse = results.regressions(found(ratio=2), found())
    assert [line.split(":")[1].strip() for line in worse] == ["file, warm", "microphone, cold"]
    assert worse[0] == "pipe: file, warm: 2.00, was 3.00"
    almost = 3 * (1 - results.TOLERANCE) * 1.01
    assert results.regressions(found(ratio=almost), found()) == []


@pytest.mark.parametrize(("ratio", "expected"), [(3.0, 0), (1.0, 1)])
def test_a_regression_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ratio: float, expected: int
) -> None:
    results.save(found(), tmp_path / "stored.json")

    def measured(made: Results, sections: tuple[str, ...], recordings: Path | None) -> None:
        made.ratios |= found(ratio=ratio).ratios

    monkeypatch.setattr(benchmark, "measure", measured)
    arguments = ["pipe", "--check", str(tmp_path / "stored.json"), "--output", str(tmp_path / "new")]
    assert benchmark.main(arguments) == expected
    said = capsys.readouterr()
    assert said.err.count("worse than in") == (2 if expected else 0)
    assert said.out.strip() == str(tmp_path / "new" / "benchmarks.md")


def test_a_section_that_fails_is_noted_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark import ears, image, memory, models, pipe, speech

    def broken(*_: object) -> None:
        raise UserError(70, "no picture was drawn")

    for module in (ears, image, memory, models, speech):
        monkeypatch.setattr(module, "measure", lambda made, *_: made.add("x / y / z", "s", [1], ""))
    monkeypatch.setattr(pipe, "measure", broken)
    made = results.new(quick=True)
    benchmark.measure(made, benchmark.SECTIONS, None)
    assert made.notes == ["pipe: not measured completely: no picture was drawn"] and "x / y / z" in made.figures
    with pytest.raises(UserError):
        benchmark.measure(made, ("pipe",), None)


def test_wrong_arguments_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code("everything") == os.EX_USAGE
    (tmp_path / "file").touch()
    assert code("pipe", "--output", tmp_path / "file" / "below") == os.EX_CANTCREAT
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert code("pipe", "--output", tmp_path) == os.EX_UNAVAILABLE


# ---- what is made of it


def test_everything_that_was_measured_is_in_the_tables() -> None:
    made = found()
    text = report.markdown(made)
    for figure in made.figures.values():
        assert figure.name.split(" / ")[1] in text and report.cell(figure) in text
    for ratio in made.ratios.values():
        assert f"| {ratio.name} | {report.number(ratio.value)} |" in text
    assert "0.162 s (0.143–0.181)" in text and "- image: no energy counter" in text
    assert all(row.count("|") == text.splitlines()[number - 1].count("|") for number, row in rows(text))
    assert report.markdown(made) == text and text.endswith("|\n")


def rows(text: str) -> list[tuple[int, str]]:
    """Lines of tables that follow another one, with their number."""
    lines = text.splitlines()
    return [(n, line) for n, line in enumerate(lines) if line.startswith("|") and n and lines[n - 1].startswith("|")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.5, "1.50"), (29.95, "29.9"), (123.4, "123"), (16000, "16000"), (0, "0")],
)
def test_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_report_makes_tables_and_plots_anew_from_the_file(tmp_path: Path) -> None:
    results.save(found(), tmp_path / "benchmarks.json")
    before = (tmp_path / "benchmarks.json").read_bytes()
    assert benchmark.main(["report", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "benchmarks.json").read_bytes() == before
    assert (tmp_path / "benchmarks.md").read_text("utf-8") == report.markdown(found())
    for plot in (plots.TIMELINE, plots.PICTURES, plots.PALETTES):
        with Image.open(tmp_path / plot) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20
        assert f"]({plot})" in report.markdown(found())
    assert len(list(tmp_path.iterdir())) == 5


def test_where_nothing_was_measured_there_is_no_plot(tmp_path: Path) -> None:
    made = results.new(quick=True)
    plots.draw(made, tmp_path)
    assert not list(tmp_path.iterdir()) and ".png" not in report.markdown(made)


# ---- energy


def test_rapl_is_the_sum_of_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):  # the last is a part of the first
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("1500000\n")
    with energy.counter() as (what, so_far):
        assert "RAPL" in what and so_far() == 3.0
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("4000000\n")
        assert so_far() == 5.5
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(energy.Silent, match="only root"), energy.counter():
        pass


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)


def test_the_power_of_a_gpu_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "RAPL", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "nvidia-smi", 'echo "$*" >&2; while echo 50.00; do sleep 0.05; done')
    began = time.monotonic()
    with energy.counter() as (what, so_far):
        while so_far() < 10:
            assert time.monotonic() < began + 30
            time.sleep(0.01)
        assert "NVML" in what and so_far() <= 50 * (time.monotonic() - began)
    tool(tmp_path, "nvidia-smi", "exit 9")
    with pytest.raises(energy.Silent, match="no power readings"), energy.counter():
        pass


def test_a_machine_without_a_counter_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(energy.Silent, match="no energy counter"), energy.counter():
        pass


def test_one_section_is_measured_again_and_the_others_stay() -> None:
    stored, now = found(), results.new(quick=False)
    stored.date, now.date = "2026-01-01", "2026-02-02"
    stored.add("ears / x / recognition", "s", [9.0], "then")
    stored.add("ears / gone / recognition", "s", [9.0], "then")
    stored.notes.append("ears: nothing")
    now.add("ears / x / recognition", "s", [1.0], "now")
    merged = results.replaced(stored, now, ("ears",))
    assert merged.part("ears") == now.part("ears") and merged.part("pipe") == stored.part("pipe")
    assert merged.ratios == stored.ratios and merged.timelines == stored.timelines
    assert merged.notes == ["image: no energy counter"] and merged.date == "2026-01-01, ears 2026-02-02"
