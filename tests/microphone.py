"""microphone.sh for pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("microphone.sh")


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The environment of a process that hears what is played into the sink `mouth`; skips without PulseAudio."""
    if not (shutil.which("pulseaudio") and shutil.which("pactl")):
        pytest.skip("needs pulseaudio and pulseaudio-utils")
    folder = Path(tempfile.mkdtemp(prefix="microphone."))
    try:
        # Its output goes to a file: the listener that it leaves behind would keep a pipe open.
        with (folder / "environment").open("w+") as lines:
            subprocess.run([SCRIPT, folder], stdin=subprocess.DEVNULL, stdout=lines, check=True)
            lines.seek(0)
            server = lines.read().strip().removeprefix("export PULSE_SERVER=")
        yield {**os.environ, "PULSE_SERVER": server}
    finally:
        subprocess.run([SCRIPT, "--stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def unplug(environment: dict[str, str]) -> None:
    """The microphone goes away, and the sound server with it."""
    subprocess.run([SCRIPT, "--stop", _folder(environment)], check=True)


def plug(environment: dict[str, str]) -> None:
    """It is back."""
    subprocess.run([SCRIPT, _folder(environment)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def listeners(environment: dict[str, str]) -> int:
    """The programs that record from it, without the one that microphone.sh starts."""
    command = ["pactl", "list", "short", "source-outputs"]
    listed = subprocess.run(command, env=environment, capture_output=True, check=False).stdout
    return len(listed.splitlines()) - 1


def _folder(environment: dict[str, str]) -> str:
    return environment["PULSE_SERVER"].removeprefix("unix:").removesuffix("/native")


def speak(environment: dict[str, str], wav: Path) -> None:
    """Play a WAV file into the microphone; returns when it has been heard."""
    subprocess.run(["paplay", wav], env=environment, check=True)
