"""Which compute unit is tried, what happens when one fails, and that the answer is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import coreml_standin
import pytest
from coreml_models import converted

from helpers.core import system
from helpers.core.errors import UserError
from helpers.core.system import Machine, machine
from helpers.draw.engines import compute_units
from helpers.draw.engines.compute_units import choose_unit

NE, GPU, CPU = "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"
GB = 1 << 30


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A Mac with a base chip, whose children find the stand-in for Core ML."""
    monkeypatch.setattr(system, "machine", lambda: Machine("Apple M2", 16 * GB, "24G90"))
    monkeypatch.setattr(compute_units, "REMEMBERED", tmp_path / "cache" / "units.json")
    monkeypatch.delenv("A2I_COMPUTE_UNITS", raising=False)
    monkeypatch.setenv("PYTHONPATH", coreml_standin.environment()["PYTHONPATH"])
    monkeypatch.setenv("COREML_LOG", str(tmp_path / "loaded"))
    return monkeypatch


def tried(monkeypatch: pytest.MonkeyPatch, outcome: dict[str, float | str]) -> list[str]:
    """Replace the trial by a table: seconds, or why it fails; the units that are tried are noted."""
    order: list[str] = []

    def try_unit(folder: Path, unit: str, engine: str = "") -> float:
        order.append(unit)
        if isinstance(result := outcome[unit], str):
            raise UserError(os.EX_UNAVAILABLE, result)
        return result

    monkeypatch.setattr(compute_units, "try_unit", try_unit)
    return order


@pytest.mark.parametrize(
    ("chip", "memory", "order"),
    [
        ("Apple M1", 8 * GB, [NE, GPU, CPU]),
        ("Apple M4", 32 * GB, [NE, GPU, CPU]),
        ("Apple M1 Max", 32 * GB, [GPU, NE, CPU]),
        ("Apple M3 Ultra", 96 * GB, [GPU, NE, CPU]),
        ("Apple M2 Max", 8 * GB, [NE, GPU, CPU]),
        ("", 0, [NE, GPU, CPU]),
    ],
)
def test_units_are_tried_in_the_order_that_suits_the_chip(
    mac: pytest.MonkeyPatch, chip: str, memory: int, order: list[str]
) -> None:
    mac.setattr(system, "machine", lambda: Machine(chip, memory, "24G90"))
    seen = tried(mac, dict.fromkeys(order, "crashed (signal 6)"))
    with pytest.raises(UserError, match="cannot compute this model") as raised:
        choose_unit(converted("tiny"))
    assert (seen, raised.value.code) == (order, 69)
    assert not compute_units.REMEMBERED.exists()


@pytest.mark.parametrize(
    ("outcome", "winner", "seen"),
    [
        ({NE: 0.5, GPU: 0.3}, GPU, [NE, GPU]),
        ({NE: 0.3, GPU: 0.5}, NE, [NE, GPU]),
        ({NE: "crashed", GPU: 0.5}, GPU, [NE, GPU]),
        ({NE: "crashed", GPU: "crashed", CPU: 9.0}, CPU, [NE, GPU, CPU]),
    ],
)
def test_a_pro_is_measured(
    mac: pytest.MonkeyPatch, outcome: dict[str, float | str], winner: str, seen: list[str]
) -> None:
    mac.setattr(system, "machine", lambda: Machine("Apple M3 Pro", 36 * GB, "24G90"))
    order = tried(mac, outcome)
    assert choose_unit(converted("tiny")) == winner
    assert order == seen


def test_what_worked_is_remembered_for_this_model_and_this_macos(mac: pytest.MonkeyPatch) -> None:
    order = tried(mac, {NE: "crashed (signal 6)", GPU: 0.5})
    assert choose_unit(converted("tiny")) == GPU
    assert choose_unit(converted("tiny")) == GPU
    assert order == [NE, GPU]
    assert choose_unit(converted("tiny", batch=1)) == GPU  # another model
    mac.setattr(system, "machine", lambda: Machine("Apple M2", 16 * GB, "25A1"))
    assert choose_unit(converted("tiny")) == GPU
    assert order == [NE, GPU] * 3
    entry = next(iter(json.loads(compute_units.REMEMBERED.read_text()).values()))
    assert entry["failed"] == {NE: "crashed (signal 6)"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {"unit": "TPU"}}'])
def test_a_damaged_memory_is_made_anew(mac: pytest.MonkeyPatch, content: str) -> None:
    key = f"24G90 {compute_units._identity(converted('tiny'))}"
    compute_units.REMEMBERED.parent.mkdir()
    compute_units.REMEMBERED.write_text(content.replace('"a"', json.dumps(key)))
    tried(mac, {NE: 0.5})
    assert choose_unit(converted("tiny")) == NE
    assert json.loads(compute_units.REMEMBERED.read_text())[key]["unit"] == NE


def test_without_a_writable_cache_it_is_found_each_time(mac: pytest.MonkeyPatch) -> None:
    mac.setattr(compute_units, "REMEMBERED", Path("/dev/null/units.json"))
    order = tried(mac, {NE: 0.5})
    assert [choose_unit(converted("tiny")) for _ in range(2)] == [NE, NE]
    assert order == [NE, NE]


def test_the_choice_can_be_overridden(mac: pytest.MonkeyPatch) -> None:
    assert choose_unit(converted("tiny"), CPU) == CPU
    with pytest.raises(UserError) as raised:
        choose_unit(converted("tiny"), "TPU")
    assert raised.value.code == 64


WHY = {"crash": "crashed (signal 6)", "nan": "NaN", "black": "the same value everywhere", "hang": "no answer within"}


QUICK = (("crash", "Unet"), ("nan", "TextEncoder"), ("black", "VAEDecoder"), ("hang", "Unet"))
FAULTS = [
    pytest.param(fault, part, marks=[] if (fault, part) in QUICK else [pytest.mark.full])
    for fault in WHY
    for part in ("TextEncoder", "Unet", "VAEDecoder")
]


@pytest.mark.parametrize(("fault", "part"), FAULTS)
def test_a_fault_in_any_network_is_seen_from_outside(mac: pytest.MonkeyPatch, fault: str, part: str) -> None:
    if fault == "hang":
        mac.setattr(compute_units, "PATIENCE", 12)
    mac.setenv("COREML_FAULTS", json.dumps({NE: {part: fault}}))
    with pytest.raises(UserError) as raised:
        compute_units.try_unit(converted("tiny"), NE)
    assert WHY[fault] in raised.value.message
    if fault in ("nan", "black"):
        assert part in raised.value.message
    assert not compute_units.REMEMBERED.exists()


def test_the_next_unit_draws_and_it_is_said_once(mac: pytest.MonkeyPatch, caplog: Any, tmp_path: Path) -> None:
    caplog.set_level("INFO", "helpers")
    mac.setenv("COREML_FAULTS", json.dumps({NE: {"Unet": "crash"}}))
    assert choose_unit(converted("tiny")) == GPU
    assert caplog.messages == [
        "The Neural Engine prepares the model: this takes minutes, and happens once.",
        "Core ML on CPU_AND_NE: crashed (signal 6); it is not used for this model",
    ]
    caplog.clear()
    assert choose_unit(converted("tiny")) == GPU
    assert not caplog.messages
    assert [path.name for path in compute_units.REMEMBERED.parent.iterdir()] == ["units.json"]
    assert {line.split()[1] for line in (tmp_path / "loaded").read_text().splitlines()} == {NE, GPU}


def test_a_refusal_is_told_in_core_mls_words(mac: pytest.MonkeyPatch) -> None:
    mac.setenv("COREML_FAULTS", json.dumps({NE: {"Unet": "refuse"}}))
    with pytest.raises(UserError, match="Error computing NN outputs"):
        compute_units.try_unit(converted("tiny"), NE)


def test_an_interrupted_trial_leaves_no_process(mac: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mac.setenv("COREML_FAULTS", json.dumps({NE: {"TextEncoder": "hang"}}))
    program = "import sys; from pathlib import Path; from helpers.draw.engines import compute_units as c; "
    program += f"c.try_unit(Path({str(converted('tiny'))!r}), {NE!r})"
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / "loaded", time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n")) and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(log.read_text().split()[0])
    assert child != parent.pid
    parent.send_signal(2)
    parent.wait(10)
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def test_the_machine_is_asked_by_its_own_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """sysctl and sw_vers as macOS has them; they refuse what macOS does not know."""
    (tmp_path / "sysctl").write_text(
        '#!/bin/sh\n[ "$1 $#" = "-n 2" ] || exit 64\ncase $2 in hw.memsize) echo 34359738368 ;;\n'
        "machdep.cpu.brand_string) echo 'Apple M1 Max' ;;\n*) exit 1 ;; esac\n"
    )
    (tmp_path / "sw_vers").write_text('#!/bin/sh\n[ "$*" = -buildVersion ] && echo 24G90\n')
    for file in tmp_path.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    machine.cache_clear()
    assert machine() == Machine("Apple M1 Max", 32 * GB, "24G90")
    assert machine().has_big_gpu
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    machine.cache_clear()
    assert machine() == Machine("", 0, "")
    machine.cache_clear()
