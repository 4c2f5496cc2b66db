"""One run, one folder: `outputs/2026-11-20T22-48-00-a-delicious-burger/` with everything that belongs to a picture.

    prompt.wav       the recording                  image.png, image-2.png …   the pictures
    transcript.txt   the recogniser's text          run.json                   settings, model, seeds, seconds
    prompt.txt       the prompt as drawn

A folder is filled under a hidden name and then renamed, so it is complete or does not exist.

`python -m helpers.draw.run_folder --stage NAME --code N` is called by pipeline.sh when a run failed: it keeps
the recording, if there is one, and with --json prints a report.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import shutil
import sys
import tempfile
import time
import unicodedata
import wave
from pathlib import Path
from typing import Any

from helpers.core import stage
from helpers.core.errors import UserError
from helpers.core.settings import Settings

SHORTEST_KEPT = 1.0  # seconds; a shorter recording of a failed run is not kept


def slug(prompt: str) -> str:
    """`prompt` as the end of a folder's name: a-z, 0-9 and single hyphens, at most 40 characters, whole words."""
    plain = unicodedata.normalize("NFKD", prompt.casefold()).encode("ascii", "ignore").decode()
    name = ""
    for word in re.findall("[a-z0-9]+", plain):
        if name and len(name) + len(word) >= 40:
            break
        name += ("-" if name else "") + word[:40]
    return name


class RunFolder:
    """The folder of one prompt while it is filled. `finish` gives it its final name; without that, leaving the `with`
    block deletes it."""

    def __init__(self, output: Path, started: float, filled_in: Path | None = None) -> None:
        """output: the parent of the run folders; started: seconds since the epoch, for the name; filled_in: the
        parent while it is filled, on the same disk, by default `output`.

        Raises: UserError 73.
        """
        self.output, self.started = output.absolute(), started
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=".run.", dir=filled_in or self.output))
        except OSError as error:
            raise cannot_write(self.output, error) from error
        self._taken: dict[Path, Path] = {}  # files of the session: current path → original path

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.path.is_dir():
            for now, before in self._taken.items():
                now.replace(before)
            shutil.rmtree(self.path, ignore_errors=True)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file. Raises: UserError 73 when the disk is full or the folder was deleted."""
        data = content.encode() if isinstance(content, str) else content
        try:
            (self.path / name).write_bytes(data)
        except OSError as error:
            raise cannot_write(self.output, error) from error

    def take(self, file: Path, name: str) -> None:
        """Move a file of the session here; deleting the folder moves it back. Raises: UserError 73."""
        try:
            file.rename(self.path / name)
        except OSError as error:
            raise cannot_write(self.output, error) from error
        self._taken[self.path / name] = file

    def finish(self, prompt: str) -> Path:
        """Give the folder its final name and return it; if the name exists, -2, -3 … is added."""
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(self.started))
        name = "-".join(filter(None, (stamp, slug(prompt))))
        number = 1
        while True:
            final = self.output / (name if number == 1 else f"{name}-{number}")
            try:
                if not final.exists():
                    self.path.rename(final)
                    return final
            except OSError as error:  # another run just took the name
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise cannot_write(self.output, error) from error
            number += 1


def cannot_write(output: Path, error: OSError) -> UserError:
    """The error for a run folder that cannot be written."""
    if error.errno == errno.ENOSPC:
        return UserError(os.EX_CANTCREAT, f"the disk of {output} is full", "Make room and run again.")
    message = f"cannot write to {output}: {error.strerror}"
    return UserError(os.EX_CANTCREAT, message, "--output DIR keeps the runs somewhere else.")


def events(folder: Path | None) -> list[dict[str, Any]]:
    """The events that the stages have written so far, in order of time; folder: `Settings.control`."""
    if not folder or not (folder / "events.jsonl").is_file():
        return []
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda event: float(event["time"]))


def timeline(folder: Path | None, number: int | None = 1) -> dict[str, dict[str, Any]]:
    """For each stage its events ("started", "ready", "heard" …) in seconds since the first event, with their details.

    folder: `Settings.control`. number: the id of a line (`helpers.core.lines`); events of other lines are left out.
    """
    stages: dict[str, dict[str, Any]] = {}
    noted = events(folder)
    for event in noted:
        if event.pop("number", number) != number:
            continue
        times, kind = stages.setdefault(event["stage"], {}), event["event"]
        times[kind] = round(event["time"] - noted[0]["time"], 3)
        details = event.keys() - {"stage", "event", "time", "text"}
        times.update({f"{kind}_{key}": event[key] for key in sorted(details)})
    return stages


def keep_recording(settings: Settings, name: str, code: int, error: str) -> dict[str, Any]:
    """After a failed run: keep its recording in a folder of its own. Returns the report for --json."""
    result: dict[str, Any] = {"error": error, "stage": name, "exit_code": code, "seconds": timeline(settings.control)}
    for recording in sorted((settings.session or Path(os.devnull)).glob("recording-*.wav")):
        try:
            with wave.open(str(recording)) as sound:
                seconds = sound.getnframes() / sound.getframerate()
        except (wave.Error, EOFError):  # the user's own recorder was killed while it wrote the file
            continue
        if seconds >= SHORTEST_KEPT:
            with RunFolder(settings.output, recording.stat().st_mtime, settings.session) as run:
                run.take(recording, "prompt.wav")
                spoken = recording.with_name(recording.name.replace("recording", "transcript")).with_suffix(".txt")
                if spoken.is_file():
                    run.take(spoken, "transcript.txt")
                with contextlib.suppress(UserError):  # even on a full disk the recording can be renamed
                    run.write("run.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
                kept = run.finish("")
            stage.say(f"  The recording is kept: {kept / 'prompt.wav'}")
            result["folder"] = str(kept)
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.draw.run_folder", description="Keep the recording of a failed run."
    )
    parser.add_argument("--stage", required=True, help="the stage that failed")
    parser.add_argument("--code", type=int, required=True, help="its exit code")
    arguments = parser.parse_args(argv)
    settings = Settings.from_environment()
    stage.begin("pipeline", settings)
    report = settings.control / f"{arguments.stage}.error" if settings.control else None
    error = report.read_text(encoding="utf-8").strip() if report and report.is_file() else ""
    result = keep_recording(settings, arguments.stage, arguments.code, error)
    if settings.json:
        with contextlib.suppress(OSError):  # stdout may be what failed
            os.write(1, f"{json.dumps(result)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
