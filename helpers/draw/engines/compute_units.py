"""Which compute unit draws a model: tried once, then remembered. For Core ML, and for OpenVINO's neighbours of the
processor.

A unit that fails may kill its process with a signal and raise no exception, so each is tried in a process of its own,
`coreml_trial.py` or `openvino_trial.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

from helpers.core import files, interpreter, system
from helpers.core.errors import UserError
from helpers.core.paths import ROOT

log = logging.getLogger(__name__)

UNITS = ("CPU_AND_GPU", "CPU_AND_NE", "CPU_ONLY")  # Core ML's names, in the order in which they are tried
OPENVINO_UNITS = ("CPU", "GPU", "NPU")  # OpenVINO's names: the processor, Intel's GPU and neural unit
REMEMBERED = ROOT / ".cache" / "coreml" / "units.json"
PATIENCE = 900  # seconds for a trial: the Neural Engine takes minutes to prepare a model it sees for the first time


def choose_unit(folder: Path, asked: str = "") -> str:
    """The compute unit for a model: the one asked for, or what was found to work on this macOS, or is found now.

    Raises: UserError 64 for a name that is none, 69 if no unit computes the model.
    """
    if asked:
        if asked not in UNITS:
            raise UserError(os.EX_USAGE, f"there is no compute unit {asked!r}", f"Units: {', '.join(UNITS)}.")
        return asked
    key = f"{system.machine().build} {_identity(folder)}"
    remembered = _remembered()
    if key in remembered:
        return str(remembered[key]["unit"])
    unit, problems = _find_unit(folder)
    _remember({**remembered, key: {"model": str(folder), "unit": unit, "failed": problems}})
    return unit


def _find_unit(folder: Path) -> tuple[str, dict[str, str]]:
    """Try units until one works, on a Pro chip both fast ones. Returns the fastest, and why others failed."""
    first = "CPU_AND_GPU" if system.machine().has_big_gpu else "CPU_AND_NE"
    seconds: dict[str, float] = {}
    problems: dict[str, str] = {}
    for unit in sorted(UNITS, key=lambda unit: (unit != first, UNITS.index(unit))):
        if seconds and (unit == "CPU_ONLY" or not system.machine().chip.endswith("Pro")):
            break
        if unit == "CPU_AND_NE":
            log.info("The Neural Engine prepares the model: this takes minutes, and happens once.")
        try:
            seconds[unit] = try_unit(folder, unit)
        except UserError as error:
            problems[unit] = error.message
            log.info("Core ML on %s: %s; it is not used for this model", unit, error.message)
    if not seconds:
        message = f"Core ML cannot compute this model: {'; '.join(f'{u}: {p}' for u, p in problems.items())}"
        raise UserError(os.EX_UNAVAILABLE, message, "--model builtin draws without Core ML.")
    return min(seconds, key=lambda unit: seconds[unit]), problems


def openvino_unit(folder: Path, asked: str, about: str) -> str:
    """OpenVINO's device for a model: the one asked for, if it computes the model, or the processor; a line says so.

    about: what the answer depends on besides the model: versions, drivers. Core ML's names mean the processor.

    Raises: UserError 64 for a name that is none.
    """
    if asked in ("", "CPU", *UNITS):
        return "CPU"
    if asked not in OPENVINO_UNITS:
        names = ", ".join(OPENVINO_UNITS)
        raise UserError(os.EX_USAGE, f"there is no compute unit {asked!r} in OpenVINO", f"Units: {names}.")
    key = f"openvino {about} {asked} {_identity(folder)}"
    remembered = _remembered()
    if key not in remembered:
        log.info("trying the model on the %s: this may take minutes, and happens once", asked)
        unit, problems = asked, {}
        try:
            try_unit(folder, asked, "openvino")
        except UserError as error:
            unit, problems = "CPU", {asked: error.message}
        remembered[key] = {"model": str(folder), "unit": unit, "failed": problems}
        _remember(remembered)
    for unit, problem in remembered[key].get("failed", {}).items():
        log.info("OpenVINO on the %s: %s; the processor draws", unit, problem)
    return str(remembered[key]["unit"])


def try_unit(folder: Path, unit: str, engine: str = "coreml") -> float:
    """Seconds of one step of the model on `unit`, measured in another process.

    Raises: UserError 69 if it crashes, hangs, refuses, or its output cannot be a picture.
    """
    command = interpreter.module(f"helpers.draw.engines.{engine}_trial", str(folder), unit)
    # Without these variables it cannot report its error as the stage's own.
    environment = {key: value for key, value in os.environ.items() if key not in ("A2I_SESSION", "A2I_CONTROL")}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as child:
        try:
            output, errors = child.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            raise UserError(os.EX_UNAVAILABLE, f"no answer within {PATIENCE} s") from None
        except BaseException:
            child.kill()
            raise
    if child.returncode < 0:
        raise UserError(os.EX_UNAVAILABLE, f"crashed (signal {-child.returncode})")
    if child.returncode:
        said = errors.decode("utf-8", "replace").strip().splitlines() or [f"exit code {child.returncode}"]
        ours = [line.removeprefix(f"{engine}: ") for line in said if line.startswith(f"{engine}: ")]
        raise UserError(os.EX_UNAVAILABLE, (ours or said)[-1])
    return float(output)


def working() -> set[str]:
    """Core ML's units that were found to work, for any model."""
    return {str(found["unit"]) for key, found in _remembered().items() if not key.startswith("openvino ")}


def _identity(folder: Path) -> str:
    """A hash that changes with the model: of its path and the sizes and times of its files."""
    # coremltools rewrites the manifest of a package whenever it opens it.
    found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    files = [file for file in found if file.is_file() and file.name != "Manifest.json"]
    known = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr((str(folder.resolve()), known)).encode()).hexdigest()[:16]


def _remembered() -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: entry
        for key, entry in found.items()
        if isinstance(entry, dict) and entry.get("unit") in UNITS + OPENVINO_UNITS
    }


def _remember(units: dict[str, dict[str, Any]]) -> None:
    """Save the results, whole or not at all; without a writable cache the next run tries again."""
    with contextlib.suppress(OSError):
        REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(REMEMBERED, (json.dumps(units, indent=2) + "\n").encode())
