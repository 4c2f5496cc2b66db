"""What a recogniser hears in the recordings of clips.py, by the way from the microphone to the line of text:

    python -m benchmark.ears MODEL [--what words,noise,silence,throat,beside] [--root CHECKOUT]

MODEL is what `pipeline.sh --whisper` takes. The stage `transcribe` of a loop gets each recording on stdin, so its
speech gate and all of its checks count. --root measures the programs of another checkout with the same recordings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmark import clips, pipe, speech
from benchmark.clips import Clip
from benchmark.results import Results
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, MARK
from helpers.listen.record import without_mark
from training.builtin.language_model import spoken

PARTS = ("words", "noise", "silence", "throat", "beside")
# Words that two descriptions may share without being about the same.
_COMMON = (
    "a an the of in on at to and or with by for from under over above below beside between near behind during "
    "into is are was were be it its i my me you your we he she they this that there so not no one two three do "
    "does can want see draw show make picture image photo painting drawing please would like "
)
COMMON = frozenset(_COMMON.split())


class Heard(NamedTuple):
    """What became of a clip: the line of text, empty if it was refused, and the seconds until it came."""

    clip: Clip
    text: str
    seconds: float

    @property
    def length(self) -> float:
        return len(self.clip.pcm) / BYTES_PER_SECOND

    @property
    def invented(self) -> bool:
        """Whether there is a text, and it shares no content word with what was said."""
        return bool(self.text) and not content(self.text) & content(self.clip.said)


def content(text: str) -> set[str]:
    return set(spoken(text).split()) - COMMON


def word_error_rate(heard: Iterable[Heard]) -> float:
    """In per cent. Case, punctuation and alternative spellings do not count."""
    return 100 * speech.errors((one.clip.said, one.text) for one in heard)


class Ears:
    """The stage transcribe of a loop, with a model; it is loaded when this returns."""

    def __init__(self, model: str, root: Path = ROOT, threads: int = 0) -> None:
        """threads: 0 for its own choice. Raises: UserError 70 if it does not start."""
        self.model, self.root, self.threads = model, root, threads
        self._folder = tempfile.TemporaryDirectory(prefix="audio-to-image.")
        self._events, self._said = Path(self._folder.name) / "events", (Path(self._folder.name) / "said").open("wb+")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("A2I_")}
        models = {name: value for name, value in os.environ.items() if name == "A2I_MODELS"}
        environment = kept | models | {"A2I_EVENTS": str(self._events), "PYTHONUTF8": "1", "PYTHONPATH": str(root)}
        began = time.monotonic()
        command = [sys.executable, "-m", "helpers.listen.transcribe", "--loop"]
        command += ["--whisper", model] if model else []
        self._process = subprocess.Popen(
            [*command, *(["--threads", str(threads)] if threads else [])],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        while not (ready := self._event("ready")):
            if self._process.poll() is not None:
                self._said.seek(0)
                raise UserError(os.EX_SOFTWARE, "transcribe did not start", self._said.read().decode().strip())
            time.sleep(0.005)
        self.loading = time.monotonic() - began
        self.name = str(ready.get("recogniser", model))

    def _event(self, what: str) -> dict[str, object]:
        lines = self._events.read_text().splitlines() if self._events.exists() else []
        return next((event for event in map(json.loads, lines) if event["event"] == what), {})

    def hear(self, clip: Clip) -> Heard:
        """Raises: UserError 70 if transcribe has ended."""
        assert self._process.stdin and self._process.stdout
        sound = without_mark(clip.pcm)
        writer = threading.Thread(target=self._send, args=(sound + MARK,))
        began = time.perf_counter()
        writer.start()
        line = self._process.stdout.readline()
        seconds = time.perf_counter() - began
        writer.join()
        if not line:
            self._said.seek(0)
            raise UserError(os.EX_SOFTWARE, f"transcribe ended at {clip.name}", self._said.read().decode()[-300:])
        return Heard(clip, line.decode().strip(), seconds)

    def _send(self, data: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:  # `hear` sees it
            return

    def memory(self) -> float:
        """MB that it and the processes it started have in memory now."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True)
        rows = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        family = {self._process.pid}
        family |= {pid for pid, parent, _ in rows if parent in family}
        return 1024 * sum(size for pid, _, size in rows if pid in family) / 1e6

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()
        self._folder.cleanup()

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def drawing() -> Iterator[None]:
    """The built-in model draws picture after picture."""
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as folder:
        command = [
            sys.executable,
            "-m",
            "helpers.draw.generate",
            "--model",
            "builtin",
            "--count",
            "64",
            "--steps",
            "20",
        ]
        settings = {"A2I_OUTPUT": folder, "PYTHONUTF8": "1", "A2I_QUIET": "1"}
        over = threading.Event()

        def draw() -> None:
            while not over.is_set():
                process = subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | settings, stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                assert process.stdin
                process.stdin.write(b"a cat on the beach\n")
                process.stdin.close()
                while process.poll() is None:
                    if over.wait(0.05):
                        process.kill()
                process.wait()

        thread = threading.Thread(target=draw)
        thread.start()
        time.sleep(3)  # it has loaded, and draws
        try:
            yield
        finally:
            over.set()
            thread.join()


def beside(ears: Ears, spoken_clips: list[Clip]) -> dict[str, list[float]]:
    """The seconds for eight clips alone, beside a drawing, and beside a second recogniser that is busy, too."""
    some = spoken_clips[::5][:8]
    found = {"alone": [ears.hear(clip).seconds for clip in some]}
    with drawing():
        found["beside a drawing"] = [ears.hear(clip).seconds for clip in some]
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            other.hear(some[0])

    with Ears(ears.model, ears.root, ears.threads) as other:
        thread = threading.Thread(target=keep_busy)
        thread.start()
        found["beside another recogniser"] = [ears.hear(clip).seconds for clip in some]
        over.set()
        thread.join()
    return found


# ---- the section of the benchmark


def measure(results: Results, quick: bool, tick: Callable[[], object]) -> None:
    """Add the figures of the speech model in A2I_WHISPER, or else of the best one on this machine: what it hears, and
    the pipe with it."""
    model = os.environ.get("A2I_WHISPER", "")
    if not model and speech.names() == ["builtin"]:
        results.notes.append("ears: no speech model is installed; A2I_WHISPER=FILE measures one")
        return
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as folder, Ears(model) as ears:
        measured(results, ears, Path(folder), PARTS, lambda heard: tick(), every=6 if quick else 1)
    try:
        pipe.measure(results, quick, tick, "ears", pipe.SCENES[1:])
    except UserError as error:  # what was heard is measured all the same
        results.notes.append(f"ears: the pipe was not measured: {error}")


def measured(
    results: Results,
    ears: Ears,
    folder: Path,
    parts: Iterable[str],
    on_heard: Callable[[Heard], object],
    every: int = 1,
) -> None:
    """Add the figures of these parts. every: 6 takes one clip of six; on_heard: called with each."""
    about = f"ears / {re.sub('[^ -~]|/', '', ears.name)}"

    def listen(all_of_them: Iterable[Clip]) -> list[Heard]:
        heard = []
        for clip in list(all_of_them)[::every]:
            heard.append(ears.hear(clip))
            on_heard(heard[-1])
        return heard

    def add(subject: str, quantity: str, unit: str, values: list[float], how: str) -> None:
        results.add(f"{about}{', ' if subject else ''}{subject} / {quantity}", unit, values, how)

    def count(subject: str, heard: list[Heard]) -> None:
        add(subject, "recordings", "recordings", [len(heard)], "benchmark/clips.py")
        add(subject, "with a line", "recordings", [sum(bool(one.text) for one in heard)], "a picture would be drawn")
        add(subject, "invented", "recordings", [sum(one.invented for one in heard)],
            "the line shares no content word with what was said")  # fmt: skip

    said = clips.spoken_clips(folder) if {"words", "beside"} & set(parts) else []
    if "words" in parts:
        groups: dict[str, list[Heard]] = defaultdict(list)
        for one in listen(said):
            groups["all spoken"].append(one)
            groups[one.clip.group].append(one)
        for group, heard in groups.items():
            add(group, "word error rate", "%", [word_error_rate(heard)], "case and punctuation do not count")
            count(group, heard)
        everything = groups["all spoken"]
        add("", "recognition", "s", [one.seconds for one in everything], "from the end of a recording to its line")
        add("", "real-time factor", "s/s", [one.seconds / one.length for one in everything], "for each recording")
        add("", "loading", "s", [ears.loading], "from the start of its process; once")
        add("", "memory", "MB", [ears.memory()], "of its processes, after the recordings")
    for ratio in clips.RATIOS if "noise" in parts else ():
        heard = listen(clips.noisy_clips(folder, ratio))
        subject = "noisy, clean" if ratio is None else f"noisy, {ratio} dB"
        add(subject, "word error rate", "%", [word_error_rate(heard)], "case and punctuation do not count")
        count(subject, heard)
    if "silence" in parts:
        count("without speech", listen(clips.silent_clips()))
    if "throat" in parts:
        kinds: dict[str, list[Heard]] = defaultdict(list)
        for one in listen(clips.throat_clips(folder)):
            kinds[one.clip.group].append(one)
        for kind, heard in kinds.items():
            count(f"like speech, {kind}", heard)
    if "beside" in parts:
        for place, seconds in beside(ears, said).items():
            add(place, "recognition", "s", seconds, "the same recordings")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="", help="as for --whisper; by default the best one here")
    parser.add_argument(
        "--what", default="words,noise,silence,throat", help=f"of {','.join(PARTS)} (default %(default)s)"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose programs are measured")
    parser.add_argument("--clips", type=Path, default=Path(tempfile.gettempdir()) / "clips", help="keeps the voices")
    parser.add_argument("--every", type=int, default=1, help="6: one clip of six")
    parser.add_argument("--threads", type=int, default=0, help="1 is quicker where the processor is busy")
    parser.add_argument("--texts", action="store_true", help="also what was heard, where it is not what was said")
    options = parser.parse_args()
    from benchmark import report, results

    found, seconds = results.new(quick=False), []

    def note(one: Heard) -> None:
        seconds.append(one.seconds)
        if options.texts and spoken(one.text) != spoken(one.clip.said):
            mark = "INVENTED" if one.invented else ""
            name = f"{one.clip.group}: {one.clip.name} ({one.seconds:.2f} s)"
            print(f"{name}: {one.clip.said!r} -> {one.text!r} {mark}", flush=True)

    model = str(Path(options.model).resolve()) if "/" in options.model else options.model
    with Ears(model, options.root.resolve(), options.threads) as ears:
        measured(found, ears, options.clips, options.what.split(","), note, options.every)
    for figure in found.figures.values():
        print(f"{figure.name.removeprefix('ears / ')}: {report.cell(figure)}")
    if seconds:
        print(f"{len(seconds)} recordings, {median(seconds):.2f} s in the middle, {max(seconds):.2f} s at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
