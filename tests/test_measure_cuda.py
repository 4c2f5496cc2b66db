"""The program that measures a GPU runs here, too, in small, and says that it is none."""

from __future__ import annotations

import re

import measure_cuda
import pytest


def test_the_arithmetic_of_stable_diffusion_2_1_base() -> None:
    """Counted layer by layer, by hand and by others: 1608.5 and 2515 GFLOP."""
    step, decoding = measure_cuda.arithmetic(measure_cuda.SD21)
    assert step == pytest.approx(1608.5, abs=0.1) and decoding == pytest.approx(2515, abs=1)


@pytest.mark.skipif(measure_cuda.torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_does_not_begin() -> None:
    with pytest.raises(SystemExit, match="no NVIDIA GPU"):
        measure_cuda.main([])


def test_it_runs_in_small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("A2I_LOOP", "0")
    measure_cuda.main(["small"])
    said = capsys.readouterr().out
    assert measure_cuda.torch.cuda.is_available() or "the times say nothing of a GPU" in said.splitlines()[0]
    rows = re.findall(r"^ +(\d+) +(\d+) +[\d.]+ .*loop ([\d.]+)x; ([\d.]+)x the floor$", said, re.MULTILINE)
    assert [row[:2] for row in rows] == [("2", "1"), ("3", "1"), ("2", "2"), ("3", "2")]
    parts = [float(value) for value in re.findall(r"([\d.]+) ms", said.split("line to PNG")[1].splitlines()[0])]
    total, rest = map(float, re.findall(r"([\d.]+) ms", said.split("\nof ")[1]))
    assert len(parts) == 5 and sum(parts) == pytest.approx(total, abs=0.5)
    assert rest == pytest.approx(total - parts[1] - parts[2], abs=0.5)
