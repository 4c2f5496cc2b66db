"""The checks of this machine, in the order of the pipe: each says what works, what does not, and what to do about it.

They change nothing, and nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from helpers.catalog import catalog, ct2
from helpers.catalog.catalog import Entry, human
from helpers.core import extras, ffmpeg_programs, interpreter, nvidia_driver, openvino, stage, system, terminal
from helpers.core.errors import UserError
from helpers.core.files import sha256
from helpers.core.paths import ROOT
from helpers.core.pcm import level_dbfs
from helpers.core.settings import Settings
from helpers.core.text import printable
from helpers.draw import engines
from helpers.draw.engines import compute_units
from helpers.install import wanted_models
from helpers.listen import microphone, recognisers, translation
from helpers.listen.levels import LevelCheck

SECONDS = 3.0  # of the microphone that are recorded
QUIET_DBFS = -50.0  # somebody who speaks close to a microphone of normal gain reaches -30
ROOM = 1 << 30  # bytes of free disk that are enough: a picture with its recording takes less than 2 MB
LEAST_ROOM = 20 << 20
PATIENCE = 300  # seconds after which the test picture is given up; it takes about one
INSTALLER = ROOT / "shortcut_install.sh"
JOURNAL = ROOT / ".cache" / "install" / "journal"
REPAIR = "Run ./pipeline.sh: it repairs its environment .venv first."
PROMPT = "a cat on the beach"


class Finding(NamedTuple):
    """The result of a check. state: `ok`, `!` (works, but …) or `no`; remedy: what to do; code: exit code of a `no`."""

    state: str
    text: str
    remedy: str = ""
    code: int = 0


def worse(error: UserError) -> Finding:
    return Finding("no", error.message, error.remedy, error.code)


# ---- the checks, in the order of the pipe


def environment(settings: Settings) -> Finding:
    """The packages of pyproject.toml, each in the version that is pinned there."""
    try:
        wanted = metadata.requires("audio-to-image") or []
    except metadata.PackageNotFoundError:
        return Finding("no", "the packages of pyproject.toml are not installed", REPAIR, os.EX_UNAVAILABLE)
    pinned: defaultdict[str, set[str]] = defaultdict(set)  # two versions where Python's own decides
    for name, version in re.findall(r"^([\w-]+)==([\w.]+)(?!.*extra ==)", "\n".join(wanted), re.MULTILINE):
        pinned[name].add(version)
    there = {}
    for name in pinned:
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another system, or named below
            there[name] = metadata.version(name)
    for module in ("ffmpeg", "numpy", "openvino", "pocketsphinx", "pywhispercpp", "PIL", "tokenizers", "safetensors"):
        try:
            openvino.runtime() if module == "openvino" else __import__(module)  # without its telemetry
        except Exception as error:
            return Finding("no", f"{module} cannot be loaded: {error}", REPAIR, os.EX_UNAVAILABLE)
    other = [f"{name} {there[name]}" for name in there if there[name] not in pinned[name]]
    if other:
        return Finding("!", f"these packages have other versions than the tested ones: {', '.join(other)}", REPAIR)
    some = ", ".join(f"{name} {there[name]}" for name in ("openvino", "pywhispercpp", "numpy") if name in there)
    return Finding("ok", f"{platform.python_version()}, {len(there)} packages with the pinned versions: {some}")


def ffmpeg(settings: Settings) -> Finding:
    """Which FFmpeg is used, and whether it can record."""
    install, broken = ffmpeg_programs.install(), ""
    best = Finding("no", "FFmpeg is missing", install, os.EX_UNAVAILABLE)
    for program in ffmpeg_programs.found():
        listed = system.said(program, "-devices")
        if defect := ffmpeg_programs.defect(program) or ("" if listed else "it does not list its devices"):
            broken = broken or f"{system.short(program)} does not run: {defect}"
            best = Finding("no", broken, install, os.EX_UNAVAILABLE) if best.state == "no" else best
            continue
        version = re.search(r"version (\S+)", system.said(program, "-version"))
        text = f"{version[1][:20] if version else 'of unknown version'}, {system.short(program)}"
        inputs = [name for name in microphone.SYSTEMS if re.search(rf"^ D\S* +\S*{name}", listed, re.M)]
        if inputs and not broken:
            return Finding("ok", f"{text}, records with {' and '.join(inputs)}")
        if inputs:
            return Finding("!", f"{broken}; {text} is used", install)
        if best.state == "no":
            best = Finding("!", f"{broken}; {text}, reads files but cannot record".removeprefix("; "), install)
    return best


def listening(settings: Settings) -> Finding:
    """The level of the microphone in three seconds."""
    try:
        name, sound = _device(settings), LevelCheck()
        if sys.stderr.isatty():
            stage.say(f"Say something: the microphone is recorded for {SECONDS:g} seconds.")
        line = terminal.Meter(SECONDS, shown=sys.stderr.isatty() and not settings.quiet)
        pcm = bytearray()
        with contextlib.closing(microphone.listen(settings.device)) as chunks:
            for chunk in chunks:
                if chunk:
                    pcm += chunk
                    line.show(sound.seconds, sound.feed(chunk))
                if sound.seconds >= SECONDS:
                    break
        line.clear()
    except UserError as error:
        return worse(error)
    text = f"{name}: {sound.loudest:.0f} dBFS at the loudest, {level_dbfs(pcm):.0f} on average"
    if sound.is_silent():
        return Finding("no", f"{name} gives only silence", microphone.unmute(), os.EX_NOPERM)
    if complaint := sound.complaint():
        what, _, remedy = complaint.partition(": ")
        return Finding("!", f"{text}; {what}", remedy[:1].upper() + remedy[1:])
    if sound.loudest < QUIET_DBFS:
        return Finding(
            "!", f"{text}; too quiet, if you spoke", "Speak while it records, or raise the microphone's input level."
        )
    return Finding("ok", text)


def speech(settings: Settings) -> Finding:
    """Which recogniser the pipe would use."""
    language, translate = settings.language, translation.decided(settings)[0]
    request = recognisers.Request(settings.whisper, language, translate, models=settings.models)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            choice = recognisers.choose(request)
    except UserError as error:
        return worse(error)
    better = recognisers.default_model(language, translate, catalog.read(settings.models))
    if not choice.path:
        return Finding("!", "the built-in recogniser, which knows few words", f"./download_model.py {better.name}")
    kind = recognisers.RECOGNISERS[choice.kind]
    text = f"{kind.title} with {choice.path.name}, language {language}{' to English' * translate}"
    if choice.kind == "faster-whisper":
        text += f", on the {'NVIDIA GPU' if ct2.uses_nvidia() else 'processor'}"
    if better.kind != choice.kind and not settings.whisper:
        return Finding("!", f"{text}; a better one suits this machine", f"./download_model.py {better.name}")
    if choice.kind == "faster-whisper" and nvidia_driver.is_loaded() and not ct2.uses_nvidia():
        return Finding("!", text, f"For the NVIDIA GPU: {extras.command('faster-whisper-nvidia')}")
    return Finding("ok", text)


def models(settings: Settings) -> Finding:
    """Size and SHA-256 of every downloaded model; and whether a better one suits this machine."""
    here = ["builtin"]
    fetched = [
        entry
        for entry in catalog.read(settings.models).entries.values()
        if entry.files and entry.problem() != "missing"
    ]
    size = sum(entry.bytes for entry in fetched) or 1
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        _progress(settings, f"checking {entry.name}", done / size)

    for entry in fetched:
        damaged = Finding(
            "no",
            f"{entry.name} is damaged",
            f"./download_model.py --remove {entry.name}; ./download_model.py {entry.name}",
            os.EX_DATAERR,
        )
        if entry.problem():
            return damaged
        for file in entry.contents():
            digest = sha256([entry.folder / file.path], read)
            if file.sha256 and digest != file.sha256:
                return damaged
        here.append(f"{entry.name} {human(entry.bytes)}")
    _progress(settings, "", 0)
    text = ", ".join(here) + ("; every pinned SHA-256 is right" if fetched else "")
    better = [entry.name for entry in _suitable(settings) if entry.kind == "image" and entry.problem()]
    if not better:
        return Finding("ok", text)
    return Finding("!", f"{text}; a better one suits this machine", f"./download_model.py {better[0]}")


def engine(settings: Settings) -> Finding:
    """Which engine draws, and what is missing for a faster one."""
    try:
        best = engines.available(settings.engine)[0]
        text = engines.ENGINES[best].about()
        if best == "apple":
            from helpers.draw.engines import apple

            text = apple.version(settings.apple_python)
    except UserError as error:
        return worse(error)
    units = settings.compute_units or ", ".join(sorted(compute_units.working()))
    if best == "coreml" and units:
        text += f", {units}"
    if best == "openvino" and (unit := settings.compute_units) in compute_units.OPENVINO_UNITS[1:]:
        text += f"; {unit}: {openvino.describe(unit) or 'OpenVINO finds none, so the processor draws'}"
    if advice := next(filter(None, (kind.advice() for kind in engines.ENGINES.values())), ""):
        return Finding("!", text, advice[:1].upper() + advice[1:])
    return Finding("ok", text)


def memory(settings: Settings) -> Finding:
    """Whether there is enough memory for the models."""
    total, free = system.memory()
    here = sum(entry.memory_mb for entry in _suitable(settings) if not entry.problem())
    need = max(catalog.read(settings.models).find("builtin").memory_mb, here) * 10**6
    text = f"{human(total)}, {human(free)} free; the models on this machine need {human(need)}"
    if free and free < need:
        return Finding("!", text, "Close other programs, or use the small models: --model builtin --whisper builtin.")
    return Finding("ok", text)


def disk(settings: Settings) -> Finding:
    """Whether pictures can be saved."""
    folder = settings.output.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    elsewhere = "--output DIR saves the pictures somewhere else."
    try:
        tempfile.TemporaryFile(dir=there).close()
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("no", f"cannot write to {system.short(folder)}: {error.strerror}", elsewhere, os.EX_CANTCREAT)
    text = f"{human(free)} free for {system.short(folder)}"
    if free < LEAST_ROOM:
        return Finding("no", text, f"Make room. {elsewhere}", os.EX_CANTCREAT)
    return Finding("ok", text) if free >= ROOM else Finding("!", text, f"Make room soon. {elsewhere}")


def shortcut(settings: Settings) -> Finding:
    """Whether a key is bound, as the installer sees it."""
    bind = "./shortcut_install.sh binds one."
    if not JOURNAL.exists():
        return Finding("!", "no key is bound", bind)
    found = re.search(r"^shortcut +(.*)$", system.said("bash", str(INSTALLER), "--status"), re.M)
    text = found[1] if found else "the installer does not say"
    bound = found and not re.match("no |not |this desktop", text)
    return Finding("ok", text) if bound else Finding("!", text, bind)


def picture(settings: Settings) -> Finding:
    """The proof: a picture, drawn by the built-in model in a process of its own, then deleted."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"A2I_MODEL": "builtin", "A2I_ENGINE": "openvino", "A2I_SEED": "1"}
        environment |= {"A2I_OUTPUT": folder, "A2I_QUIET": "1"}
        began = time.monotonic()
        try:
            run = subprocess.run(
                interpreter.module("helpers.draw.generate"),
                input=f"{PROMPT}\n".encode(),
                cwd=ROOT,
                env=environment,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Finding("no", f"no picture after {PATIENCE} seconds", _VERBOSE, os.EX_SOFTWARE)
        seconds = time.monotonic() - began
        drawn = Path(run.stdout.decode(errors="replace").strip() or folder)
        whole = drawn.is_file() and drawn.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    if run.returncode == 0 and whole:
        return Finding("ok", f"drawn by the built-in model in {seconds:.1f} s, loading included")
    said = run.stderr.decode(errors="replace").strip().splitlines()
    how = f"signal {-run.returncode}" if run.returncode < 0 else f"exit code {run.returncode}"
    what = said[0].removeprefix("generate: ") if said else f"no picture was drawn ({how})"
    code = run.returncode if run.returncode >= os.EX_USAGE else os.EX_SOFTWARE
    return Finding("no", what, said[1].strip() if len(said) > 1 else _VERBOSE, code)


_VERBOSE = f'./pipeline.sh --prompt "{PROMPT}" --model builtin --verbose shows why.'
CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "Python": environment,
    "FFmpeg": ffmpeg,
    "microphone": listening,
    "speech": speech,
    "models": models,
    "engine": engine,
    "memory": memory,
    "disk": disk,
    "shortcut": shortcut,
    "picture": picture,
}
# If one of these fails, no picture can be drawn.
NEEDED = ("Python", "models", "engine", "disk", "picture")


# ---- what the checks ask the system


def _device(settings: Settings) -> str:
    """The name of the microphone that is used. Raises: UserError 69."""
    if name := settings.device:
        return microphone.find(name).name
    known, inputs = microphone.devices(), []
    if sys.platform == "darwin":
        with contextlib.suppress(ValueError):
            sound = json.loads(system.said("system_profiler", "-json", "SPAudioDataType"))["SPAudioDataType"]
            items = [item for group in sound for item in group.get("_items", [])]
            inputs = [item["_name"] for item in items if "coreaudio_default_audio_input_device" in item]
    else:
        default = system.said("pactl", "get-default-source").strip()
        inputs = [device.name for device in known if device.address == default]
    names = inputs or [device.name for device in known][:1]
    return printable(names[0]) if names else "the default one"


def _suitable(settings: Settings) -> list[Entry]:
    """The speech and image model for this machine; none where A2I_ENGINE is wrong, which `engine` reports."""
    try:
        return wanted_models.suitable(settings)
    except UserError:
        return []


def _progress(settings: Settings, what: str, part: float) -> None:
    """A bar on the terminal; an empty `what` clears it."""
    if sys.stderr.isatty() and not settings.quiet:
        terminal.draw(f"{what} [{'#' * round(20 * part):20}] {part:4.0%}" if what else "")
