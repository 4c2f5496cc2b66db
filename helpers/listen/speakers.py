"""Who speaks when in a recording: pyannote.audio's speaker diarization, in a process of its own.

    for turn in speakers.turns(pcm, settings.models): ...    # Turn(begin, end, "speaker 1")

pyannote.audio opens its weights with Python's pickle, and reports its use to its makers. So its process has PyTorch's
weights-only loader in force, telemetry off, and no way to the hub: the model's files come from `download_model.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from helpers.catalog import catalog
from helpers.core import extras
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.text import printable

ENVIRONMENT = {
    "PYANNOTE_METRICS_ENABLED": "false",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # PyTorch prefers it to the weights_only=False of pyannote.audio
    "HF_HUB_OFFLINE": "1",
}


class Turn(NamedTuple):
    """One person speaks from `begin` to `end`, in seconds. speaker: `speaker 1` is the first who speaks."""

    begin: float
    end: float
    speaker: str


def turns(pcm: bytes, models: Path, pause: float) -> list[Turn]:
    """The turns of the people in `pcm` (s16le, 16 kHz, mono), in order, without overlap.

    models: the folder of downloaded models; pause: turns of one person that are at most so many seconds apart are one.
    Raises: UserError 69 if the extra or the model is missing, or pyannote.audio fails.
    """
    extras.require("speakers")
    folder = catalog.read(models).default("speakers").require().folder
    process = subprocess.run(
        [sys.executable, "-m", "helpers.listen.speakers_worker", str(folder.resolve())],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        input=pcm,
        capture_output=True,
    )
    if process.returncode:
        said = (process.stderr.decode(errors="replace").split("\n\n")[-1].strip() or "no message").splitlines()[-1]
        message = f"pyannote.audio failed: {printable(said)[:200]}"
        raise UserError(os.EX_UNAVAILABLE, message, f"Install it again: {extras.command('speakers')}")
    return joined([(float(begin), float(end), str(label)) for begin, end, label in json.loads(process.stdout)], pause)


def joined(found: list[tuple[float, float, str]], pause: float) -> list[Turn]:
    """Turns of `found` (begin, end, label), numbered in the order in which people begin to speak; see `turns`."""
    numbers: dict[str, int] = {}
    result: list[Turn] = []
    for begin, end, label in sorted(found):
        speaker = f"speaker {numbers.setdefault(label, len(numbers) + 1)}"
        if result and result[-1].speaker == speaker and begin - result[-1].end <= pause:
            result[-1] = result[-1]._replace(end=max(end, result[-1].end))
        else:
            result.append(Turn(begin, end, speaker))
    return result
