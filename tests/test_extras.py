"""The registry of extras: pyproject.toml and the shell agree with it; and what is said where an extra is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.core import extras
from helpers.core.errors import UserError
from helpers.core.paths import ROOT


def requirements(*names: str) -> list[str]:
    """What environment.sh reads from pyproject.toml for the base and these extras."""
    script = f'. "$root/helpers/shell/environment.sh"; requirements {" ".join(names)}'
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "root": str(ROOT)}, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_every_extra_is_pinned_and_its_modules_come_with_it() -> None:
    base = requirements()
    for name, extra in extras.EXTRAS.items():
        pins = [pin for pin in requirements(name) if pin not in base]
        assert pins and all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
        names = {
            re.sub("[-_.]", "-", pin.partition("==")[0].lower()).removesuffix("-cu12").removesuffix("-py")
            for pin in pins
        }
        assert names >= {re.sub("[-_.]", "-", module) for module in extra.modules}
    assert set(requirements("cuda")) == set(requirements("torch"))
    assert set(requirements("benchmark")) > set(requirements("torch")) | set(requirements("convert"))


def test_the_shell_reads_the_requirements_as_pip_does() -> None:
    metadata = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"] + requirements("dev"):
        metadata.Requirement(text)
    assert requirements() == project["dependencies"]


def test_an_extra_that_is_missing_names_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "coremltools" else found(name))
    with pytest.raises(UserError) as raised:
        extras.require("convert")
    assert raised.value.code == 69 and "120 MB" in raised.value.message
    assert raised.value.remedy == "Install them: ./shortcut_install.sh --extra convert"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    extras.require("convert")


def test_the_list_for_the_shell(capsys: Any) -> None:
    extras.main(["cuda"])
    assert capsys.readouterr().out == "torch\t6 GB\tDrawing with PyTorch\n"
    extras.main([])
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == list(extras.EXTRAS)
    with pytest.raises(UserError) as raised:
        extras.main(["nonsense"])
    assert raised.value.code == 64 and ", ".join(extras.EXTRAS) in raised.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("name", extras.EXTRAS)
def test_it_resolves_with_the_base(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("pip fetches gigabytes for this: --full")
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    command = [str(tmp_path / "bin" / "python"), "-m", "pip", "install", "--dry-run", "--quiet", *requirements(name)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Failed to establish" in done.stderr or "Temporary failure" in done.stderr:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr
