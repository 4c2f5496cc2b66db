"""Quality and speed of each available recogniser: word error rate, real-time factor, loading time, memory.

The recordings are thirty prompts in synthetic voices (spoken_prompts.py), or a folder of the user's: WAV files with a
text file of the same name for the words, or LibriSpeech's layout (FLAC files, with their words in `*.trans.txt`).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmark import spoken_prompts, voices
from benchmark.results import Results
from benchmark.worker import Worker
from helpers.catalog import catalog
from helpers.core.settings import Settings
from helpers.listen.recognisers import RECOGNISERS
from training.builtin.language_model import spoken


class Sample(NamedTuple):
    """A recording, its speaker, and its words."""

    path: Path
    voice: str
    said: str


class Heard(NamedTuple):
    """The recognised text of a recording, the seconds of recognition, and its length in seconds."""

    sample: Sample
    written: str
    seconds: float
    length: float


def measure(results: Results, quick: bool, tick: Callable[[], object], folder: Path | None = None) -> None:
    """Add the figures and ratios of this section; folder: the user's recordings instead of the synthetic ones."""
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as temporary, contextlib.ExitStack() as stack:
        samples = of_folder(folder) if folder else synthetic(Path(temporary))
        if not samples:
            missing = "no recording with a text was found" if folder else "no synthetic voice is installed"
            results.notes.append(f"speech: {missing}; nothing was measured")
            return
        samples = samples[:: 6 if quick else 1]
        workers = {name: stack.enter_context(Worker("recogniser", name=name)) for name in names()}
        heard: dict[str, list[Heard]] = {name: [] for name in workers}
        for sample in samples:
            for name, worker in workers.items():
                _, answer = worker.ask("hear", path=str(sample.path))
                heard[name].append(Heard(sample, answer["text"], answer["seconds"], answer["length"]))
            tick()
        for name, worker in workers.items():
            add(results, name, heard[name])
            results.add(f"speech / {name} / loading", "s", [worker.loaded], "from the start of its process; once")
            results.add(f"speech / {name} / memory", "MB", [worker.ask("memory")[1]], "peak of its processes")
    builtin, *others = workers
    for name in others:
        results.compare(
            f"speech: real-time factor, {name} / {builtin}",
            f"speech / {name} / real-time factor",
            f"speech / {builtin} / real-time factor",
        )


def add(results: Results, name: str, heard: list[Heard]) -> None:
    """Add the quality and speed of a recogniser."""
    voices: dict[str, list[Heard]] = defaultdict(list)
    for item in heard:
        voices[item.sample.voice].append(item)
    how = f"{len(heard)} recordings of {len(voices)} voices; case, punctuation and alternative spellings do not count"
    subject = f"speech / {name}"
    results.add(f"{subject} / word error rate", "%", [100 * word_error_rate(heard)], how)
    results.add(
        f"{subject} / real-time factor", "s/s", [item.seconds / item.length for item in heard], "for each recording"
    )
    said = sum(len(spoken(item.sample.said).split()) for item in heard)
    right = said * max(0.0, 1 - word_error_rate(heard))
    results.add(f"{subject} / words said", "words", [said], how)
    results.add(f"{subject} / words right", "words", [right], "words said, less the errors")
    results.compare(f"speech: words right / words said, {name}", f"{subject} / words right", f"{subject} / words said")
    for voice, items in voices.items():
        results.add(f"speech / {name}, voice {voice} / its word error rate", "%", [100 * word_error_rate(items)], how)


def word_error_rate(heard: Iterable[Heard]) -> float:
    """Wrong words divided by spoken words. Case, punctuation and alternative spellings do not count."""
    return errors((item.sample.said, item.written) for item in heard)


def errors(pairs: Iterable[tuple[str, str]]) -> float:
    """The word error rate of (said, written), 0…: 1 if as many words are wrong as were said."""
    import jiwer

    said, written = zip(*((spoken(said), spoken(written)) for said, written in pairs), strict=True)
    return float(jiwer.wer(list(said), list(written)))


def names() -> list[str]:
    """The recognisers on this machine: the built-in one, and each other that is installed with each of its models."""
    entries = catalog.read(Settings.from_environment(names=["models"]).models).entries.values()
    kinds = {name for name, kind in RECOGNISERS.items() if kind.is_installed()}
    return ["builtin", *(entry.name for entry in entries if entry.kind in kinds and entry.is_present())]


def synthetic(folder: Path) -> list[Sample]:
    """The spoken prompts, in the voices that are installed."""
    if not shutil.which("ffmpeg"):
        return []
    installed = [voice for voice in spoken_prompts.VOICES if shutil.which(voices.VOICES[voice][0])]
    recordings = spoken_prompts.make(folder, installed)
    return [Sample(path, voice, prompt.text) for path, voice, prompt in recordings]


def of_folder(folder: Path) -> list[Sample]:
    """Every recording under `folder` that has a text; the name of its folder is the speaker."""
    samples = []
    for listed in sorted(folder.rglob("*.trans.txt")):  # LibriSpeech: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt
        for line in listed.read_text(encoding="utf-8").splitlines():
            name, _, said = line.partition(" ")
            if (path := listed.with_name(f"{name}.flac")).is_file():
                samples.append(Sample(path, listed.parent.parent.name, said))
    for path in sorted(folder.rglob("*.wav")):
        if (text := path.with_suffix(".txt")).is_file():
            samples.append(Sample(path, path.parent.name, " ".join(text.read_text(encoding="utf-8").split())))
    return samples
