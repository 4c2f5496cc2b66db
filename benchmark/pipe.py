"""Compare the pipe with the same programs run one after another: the time from the start, or from the last word, to the
picture; with a warm and with a cold file cache.

"One after another" works without a pipe: record the whole window to a file, transcribe it, filter the text, draw; each
program loads after the previous one has ended. Programs, models and settings are the same in both.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.results import Bar, Results, Timeline
from helpers.core import system
from helpers.core.errors import UserError
from helpers.core.paths import ROOT

PYTHON = ".venv/bin/python"  # of pipeline.sh; relative, since A2I_RECORD is split at spaces
WINDOW = 5.0  # seconds of the microphone
SAID = ROOT / "examples" / "burger.wav"
MICROPHONE = "benchmark.microphone"
OURS, THEIRS = "this pipe", "one after another"

Events = dict[str, dict[str, float]]  # by stage and event, in seconds since the start of the run


class Scene(NamedTuple):
    """The input: a file, or the microphone, whose last word ends at `end` (seconds)."""

    name: str
    end: float | None


SCENES = (
    Scene("file", None),
    Scene("microphone, speech to the end of the window", WINDOW),
    Scene("microphone, speech ends at 3 s", 3.0),
)


def measure(
    results: Results,
    quick: bool,
    tick: Callable[[], object],
    section: str = "pipe",
    scenes: Sequence[Scene] = SCENES,
) -> None:
    """Add the figures, ratios and timelines of these scenes. Raises: UserError 70 if a way fails twice."""
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as name:
        folder = Path(name)
        ways: dict[str, Callable[[Scene, Path], Events]] = {THEIRS: one_after_another, OURS: this_pipe}
        for run in (this_pipe, one_after_another):  # creates the environment and caches the compiled models
            run(scenes[0], folder)
        caches = ("warm", "cold") if drop_cache([]) else ("warm",)
        if len(caches) == 1:
            results.notes.append(
                "pipe: this system cannot drop files from its cache on request, so there are no cold runs"
            )
        for scene in scenes[:2] if quick else scenes:
            for cache in caches[-1:] if quick else caches:
                runs: dict[str, list[Events]] = {way: [] for way in ways}
                for _ in range(2 if quick else 3 if scene.end else 5):
                    for way in ways:
                        try:
                            runs[way].append(once(ways[way], scene, cache, folder))
                        except UserError as error:  # a `pipeline.sh --stop` from elsewhere, say
                            note = f"pipe: a run of {way} failed and was repeated: {system.private(error.remedy)}"
                            results.notes.append(note)
                            runs[way].append(once(ways[way], scene, cache, folder))
                        tick()
                add(results, scene, cache, runs, section)


def once(way: Callable[[Scene, Path], Events], scene: Scene, cache: str, folder: Path) -> Events:
    """One run; for a cold one, its files are first dropped from the file cache."""
    if cache == "cold":
        drop_cache(cached_files())
    return way(scene, folder)


def add(results: Results, scene: Scene, cache: str, runs: dict[str, list[Events]], section: str = "pipe") -> None:
    """Add the times of the runs of a scene."""
    what = "from the last word to the picture" if scene.end else "from the start to the picture"
    for way, events in runs.items():
        seconds = [waited(one) for one in events]
        name = f"{section} / {scene.name}, {cache} / {way}"
        chosen = os.environ.get("A2I_MODEL") or os.environ.get("A2I_WHISPER")
        how = "the chosen models" if chosen else "the built-in models"
        results.add(name, "s", seconds, f"{what}, {how}; both ways alternately")
        middle = sorted(events, key=waited)[len(events) // 2]
        if section == "pipe":  # the others are not in its plot
            results.timelines.append(timeline(f"{scene.name}, {cache}: {way}", middle))
    names = [f"{section} / {scene.name}, {cache} / {way}" for way in (THEIRS, OURS)]
    results.compare(f"{section}: {THEIRS} / {OURS}, {scene.name}, {cache}", *names)


def waited(events: Events) -> float:
    """Seconds from the last word, or with a file from the start, to the picture on disk."""
    return events["generate"]["drawn"] - events["record"].get("said", 0.0)


def timeline(name: str, events: Events) -> Timeline:
    """The timeline of a run: what each stage did and when."""
    bars = []
    for stage in ("record", "transcribe", "generate"):
        noted = events[stage]
        bars.append(Bar(stage, "starting and loading", noted.get("launched", 0.0), noted["ready"]))
    record, transcribe, generate = events["record"], events["transcribe"], events["generate"]
    bars.append(Bar("record", "recording", record["ready"], record["heard"]))
    able = max(record["heard"], transcribe["ready"])
    bars.append(Bar("transcribe", "recognising", able, transcribe["line"]))
    text = events["remove_parentheses"]
    bars.append(Bar("remove_parentheses", "filtering", text.get("launched", transcribe["line"]), text["done"]))
    bars.append(Bar("generate", "sampling", generate["prompt"], generate["drawn"]))
    bars.append(Bar("generate", "writing", generate["drawn"], generate["done"]))
    marks = {"picture": generate["drawn"]} | ({"last word": record["said"]} if "said" in record else {})
    rounded = [bar._replace(start=round(bar.start, 3), end=round(max(bar.start, bar.end), 3)) for bar in bars]
    return Timeline(name, rounded, {mark: round(moment, 3) for mark, moment in marks.items()})


# ---- the two ways


def this_pipe(scene: Scene, folder: Path) -> Events:
    """A run of pipeline.sh."""
    settings, noted = environment(scene, folder)
    command = ["./pipeline.sh", "--no-open"]
    if scene.end is None:
        command += ["--input", str(SAID)]
    else:
        command += ["--time", f"{WINDOW:g}"]
        settings["A2I_RECORD"] = f"{PYTHON} -m {MICROPHONE}"
    began = time.time()
    program(command, settings)
    return events(noted, began)


def one_after_another(scene: Scene, folder: Path) -> Events:
    """The same programs, each after the one before."""
    settings, noted = environment(scene, folder)
    wav, began = folder / "prompt.wav", time.time()

    def launch(stage: str, module: str, *arguments: str, text: bytes = b"") -> bytes:
        note(noted, stage)
        return program([PYTHON, "-m", module, *arguments], settings, text)

    if scene.end is None:
        launch("record", "helpers.listen.record", "--input", str(SAID), "--wav", str(wav))
    else:
        launch("record", MICROPHONE, "--fixed-window", "--time", f"{WINDOW:g}", "--wav", str(wav))
    words = launch("transcribe", "helpers.listen.transcribe", str(wav))
    prompt = launch("remove_parentheses", "remove_parentheses", text=words)
    launch("generate", "helpers.draw.generate", text=prompt)
    return events(noted, began)


def environment(scene: Scene, folder: Path) -> tuple[dict[str, str], Path]:
    """The environment of a run, and the file for its events. Of the user's settings only the models count."""
    noted = folder / "events.jsonl"
    noted.unlink(missing_ok=True)
    theirs = ("A2I_MODEL", "A2I_WHISPER", "A2I_MODELS", "A2I_ENGINE", "A2I_PRECISION")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("A2I_") or name in theirs}
    settings = {"A2I_MODEL": "builtin", "A2I_WHISPER": "builtin", "PYTHONUTF8": "1"} | kept
    settings |= {"A2I_OUTPUT": str(folder / "outputs"), "A2I_EVENTS": str(noted), "A2I_SEED": "1", "A2I_QUIET": "1"}
    return settings | {"BENCHMARK_WAV": str(SAID), "BENCHMARK_END": str(scene.end)}, noted


def program(command: list[str], settings: dict[str, str], text: bytes = b"") -> bytes:
    """Run one program and return its stdout. Raises: UserError 70 with its stderr if it fails."""
    run = subprocess.run(command, cwd=ROOT, env=settings, input=text, capture_output=True, check=False)
    if run.returncode:
        said = run.stderr.decode(errors="replace").strip()
        raise UserError(os.EX_SOFTWARE, f"{' '.join(command[:3])} ended with {run.returncode}", said)
    return run.stdout


def note(noted: Path, stage: str) -> None:
    with noted.open("a") as file:
        file.write(json.dumps({"stage": stage, "event": "launched", "time": time.time()}) + "\n")


def events(noted: Path, began: float) -> Events:
    """The events of the stages, in seconds since `began`. Raises: UserError 70 if nothing was drawn."""
    found: Events = {}
    for line in noted.read_text(encoding="utf-8").splitlines():
        event: dict[str, Any] = json.loads(line)
        found.setdefault(event["stage"], {})[event["event"]] = event["time"] - began
    if "drawn" not in found.get("generate", {}):
        raise UserError(os.EX_SOFTWARE, "no picture was drawn")
    return found


# ---- a cold file cache


def cached_files() -> list[Path]:
    """The files that a run reads: models, compiled models, Python packages, the program."""
    folders = [ROOT / "models", ROOT / "helpers", ROOT / ".cache" / "openvino", ROOT / ".venv" / "lib"]
    if asked := os.environ.get("A2I_MODELS"):
        folders.append(Path(asked))
    return [file for folder in folders for file in folder.rglob("*") if file.is_file()]


def drop_cache(files: Iterable[Path]) -> bool:
    """Drop `files` from the system's file cache, as after a restart; False if the system cannot do that (macOS). Files
    that other programs use, such as the Python interpreter, stay in the cache."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    return True
