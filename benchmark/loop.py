"""Measure a --loop session with a headless microphone:  python -m benchmark.loop [--utterances N] [--seconds S]

Speaks a prompt of the built-in vocabulary every S seconds, and "stop listening" at the end. Prints the pictures, the
latency from the end of the speech to the picture with its parts, memory, and CPU use during silence. Exits with 1 if a
picture is missing or wrong, or if processes or files of the pipe are left. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from jiwer import wer

from benchmark.clips import Clip, samples
from benchmark.ears import Ears
from benchmark.noises import pcm
from benchmark.spoken_prompts import PROMPTS, VOICES
from benchmark.voices import speak
from helpers.core.paths import ROOT
from training.builtin.language_model import spoken

MICROPHONE = ROOT / "tests" / "microphone.sh"

TICK = os.sysconf("SC_CLK_TCK")


def prompts(folder: Path, count: int, whisper: str) -> list[tuple[str, Path]]:
    """(text, WAV) of `count` prompts that the recogniser `whisper` understands."""
    folder.mkdir()
    found: list[tuple[str, Path]] = []
    with Ears(whisper) as ears:
        for number in range(len(PROMPTS) * len(VOICES)):
            if len(found) == count:
                break
            text, voice = PROMPTS[number % len(PROMPTS)].text, VOICES[number % len(VOICES)]
            path = folder / f"{number}.wav"
            speak(voice, text, path)
            heard = ears.hear(Clip(path.name, voice, pcm(samples(path)), text)).text
            if spoken(heard) == spoken(text):
                found.append((heard, path))
    speak("slt", "stop listening", folder / "stop.wav")
    return found


@contextmanager
def microphone() -> Iterator[dict[str, str]]:
    """The environment in which recordings receive what `paplay` plays."""
    folder = Path(tempfile.mkdtemp(prefix="microphone."))  # a short path, since it contains a socket
    try:
        with (folder / "environment").open(
            "w+"
        ) as lines:  # not a pipe: the server stays running and would keep it open
            subprocess.run([MICROPHONE, folder], stdin=subprocess.DEVNULL, stdout=lines, check=True)
            lines.seek(0)
            server = lines.read().strip().removeprefix("export PULSE_SERVER=")
        yield {**os.environ, "PULSE_SERVER": server}
    finally:
        subprocess.run([MICROPHONE, "--stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def tree(pid: int) -> list[int]:
    """The process and all of its descendants."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def memory(pids: list[int]) -> float:
    """MB; shared pages count once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def cpu(pids: list[int]) -> float:
    """Seconds of CPU that the processes have used."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def events(path: Path, stage: str, what: str) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if (event["stage"], event["event"]) == (stage, what):
            yield event


def wait_for(path: Path, stage: str, what: str, count: int = 1, patience: float = 120) -> None:
    end = time.monotonic() + patience
    while len(list(events(path, stage, what))) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{stage} is not {what}")
        time.sleep(0.1)


def session(said: list[tuple[str, Path]], stop: Path, seconds: float, folder: Path, whisper: str) -> bool:
    """Run a session with the recogniser `whisper` and print the figures. Returns whether everything was correct."""
    noted, output = folder / "events", folder / "outputs"
    noted.touch()
    with microphone() as environment, (folder / "log").open("w") as log:
        settings = {"A2I_EVENTS": str(noted), "A2I_WHISPER": whisper, "A2I_OUTPUT": str(output)}
        command = [str(ROOT / "pipeline.sh"), "--loop", "--no-open", "--seed", "1"]
        pipe = subprocess.Popen(
            command, env={**environment, **settings}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        for name in ("record", "transcribe", "generate"):
            wait_for(noted, name, "ready")
        sizes, silent_cpu, silent_seconds, began = [], 0.0, 0.0, time.monotonic()
        for number, (text, wav) in enumerate(said, 1):
            for _ in range(3):  # a person would repeat it, too
                subprocess.run(["paplay", wav], env=environment, check=True)
                with suppress(TimeoutError):
                    wait_for(noted, "generate", "drawn", number, patience=20)
                    break
                print(f"said again: {text}")
            pids = tree(pipe.pid)
            sizes.append(memory(pids))
            time.sleep(0.5)
            pids, before, at = tree(pipe.pid), cpu(tree(pipe.pid)), time.monotonic()
            time.sleep(max(1.0, began + number * seconds - time.monotonic()))
            silent_cpu += cpu(pids) - before
            silent_seconds += time.monotonic() - at
        subprocess.run(["paplay", stop], env=environment, check=True)
        assert pipe.stdout
        printed = pipe.stdout.read().decode().splitlines()
        code = pipe.wait(60)
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    drawn = [plain((Path(path).parent / "prompt.txt").read_text()) for path in printed]
    other = [(text, one) for (text, _), one in zip(said, drawn, strict=False) if one != plain(text)]
    right = len(drawn) == len(said) and all(wer(plain(text), one) < 0.5 for text, one in other)
    quarter = max(1, len(sizes) // 4)
    print(f"exit code {code}; {len(drawn)} pictures of {len(said)} utterances, {len(drawn) - len(other)} word for word")
    for text, one in other:
        print(f"  {text} -> {one}")
    print(
        f"memory {median(sizes[:quarter]):.0f} MB in the first quarter, {median(sizes[-quarter:]):.0f} MB in the last"
    )
    print(f"CPU while nobody speaks: {100 * silent_cpu / silent_seconds:.1f} % of a core; processes left: {len(left)}")
    print_parts(noted)
    left_over = [path.name for path in output.iterdir() if path.name.startswith(".")]
    return right and code == 0 and not left and not left_over


def plain(text: str) -> str:
    """The words in small letters, without punctuation."""
    return re.sub(r"[^\w' ]", "", text.strip().lower())


def print_parts(noted: Path) -> None:
    """The median seconds between the last word and the picture, and their parts."""
    times: dict[str, dict[int, float]] = {}
    for name, what in (("record", "heard"), ("transcribe", "line"), ("generate", "prompt"), ("generate", "drawn")):
        times[what] = {event["number"]: event["time"] for event in events(noted, name, what)}
    ended = {event["number"]: event["time"] - event["silent"] for event in events(noted, "record", "heard")}
    steps = [("silence", ended, times["heard"]), ("recognition", times["heard"], times["line"])]
    steps += [("text", times["line"], times["prompt"]), ("drawing and PNG", times["prompt"], times["drawn"])]
    steps += [("from the end of the recording to the picture", times["heard"], times["drawn"])]
    steps += [("from the last word to the picture", ended, times["drawn"])]
    for name, before, after in steps:
        print(f"{name}: {median(after[number] - before[number] for number in times['drawn']):.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=15, help="seconds between two prompts (default %(default)s)")
    parser.add_argument("--whisper", default="builtin", help="the recogniser (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        said = prompts(folder / "said", options.utterances, options.whisper)
        return 0 if session(said, folder / "said" / "stop.wav", options.seconds, folder, options.whisper) else 1


if __name__ == "__main__":
    sys.exit(main())
