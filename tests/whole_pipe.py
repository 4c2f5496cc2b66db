"""The whole pipe in a place of its own: a copy of the programs whose environment is the one that the tests run in."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.core.paths import ROOT

SHELL = os.environ.get("A2I_TEST_BASH", "bash")


class Pipe:
    """root: of the copy; output: where its runs are kept; home: its HOME, empty."""

    def __init__(self, folder: Path) -> None:
        self.root, self.output, self.home = folder / "a cöpy", folder / "outputs", folder / "home"
        self.temporary = folder / "tmp"
        for path in (self.root / ".venv" / "bin", self.home, self.temporary):
            path.mkdir(parents=True)
        for name in ("pipeline.sh", "pyproject.toml", "remove_parentheses.py", "download_model.py"):
            shutil.copy2(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "helpers", self.root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("models", "examples"):
            (self.root / name).symlink_to(ROOT / name)
        (self.root / ".venv" / "lib" / "python3.x" / "site-packages" / "one").mkdir(parents=True)
        python = self.root / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(0o755)
        stamp = f"root={shlex.quote(str(self.root))}; . helpers/shell/environment.sh; environment_stamp >.venv/whole"
        subprocess.run(["bash", "-c", stamp], cwd=self.root, check=True)
        whole = self.root / ".venv" / "whole"
        lines = whole.read_text().splitlines()
        lines[2] = str(python)  # the Python behind it; here it is a script and no link
        whole.write_text("\n".join(lines) + "\n")
        (self.root / ".cache").mkdir()
        (self.root / ".cache" / "speech-model-offered").touch()  # so that no run asks a hub

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a run that opens nothing; settings: A2I_… without the A2I_, or other variables as HOME."""
        known = {name: os.environ[name] for name in ("PATH", "PULSE_SERVER", "OMP_NUM_THREADS") if name in os.environ}
        place = {"HOME": self.home, "TMPDIR": self.temporary, "A2I_OUTPUT": self.output, "A2I_OPEN": 0}
        return {**known, **{name: str(value) for name, value in {**place, **settings}.items()}}

    def command(self, *options: object) -> list[str]:
        return [SHELL, str(self.root / "pipeline.sh"), *map(str, options)]

    def run(self, *options: object, **settings: object) -> subprocess.CompletedProcess[str]:
        """One run to its end, without a microphone: stdin is empty."""
        return subprocess.run(
            self.command(*options),
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def runs(self) -> list[Path]:
        """The folders of the runs that were kept, in order."""
        return sorted(path for path in self.output.iterdir() if not path.name.startswith("."))

    def left(self) -> list[Path]:
        """What runs left besides: working folders, announcements, files in HOME."""
        hidden = list(self.output.glob(".*")) if self.output.is_dir() else []
        announced = list((self.root / ".cache" / "recording").glob("*"))
        return [*hidden, *announced, *self.temporary.iterdir(), *self.home.iterdir()]
