"""Scripts: what becomes a section, and files that are the same after a break."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.speak import loudness, programs, script

pytest.importorskip("markdown_it")
REVIEW = """# The *red* kettle

It boils in 3.5 minutes, e.g. for Dr. Smith.
It is `quiet`.

![a picture](kettle.png) See [the shop](https://example.com/x?y=1).

```
not said
```

## Price

    It costs 30 euros.

---

- cheap
- <b>good</b>

***
"""


class Tone:
    """A voice that says a word as a tone, the louder the longer the text is; it counts what it says."""

    name, language, rate = "tone", "en", 8000

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str, speed: float = 1.0) -> Iterator[bytes]:
        self.said.append(text)
        length = int(self.rate * (1 + len(text) / 20) / speed)
        level = min(0.9, 0.01 * len(text))
        wave_ = np.sin(2 * np.pi * 300 * np.arange(length) / self.rate) * level
        yield (wave_ * 32767).astype("<i2").tobytes()


def parts(folder: Path, text: str = REVIEW) -> list[script.Part]:
    (folder / "review.md").write_text(text)
    return script.read(folder / "review.md")


def spoken(folder: Path, voice: Tone, speed: float = 1.0, identity: str = "tone") -> Path:
    return script.speak(parts(folder), "review", folder / "out", voice, identity, speed, lambda: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.wav")}


def test_sections_and_paragraphs(tmp_path: Path) -> None:
    assert [tuple(part) for part in parts(tmp_path)] == [
        (1, 1, "The red kettle"),
        (1, 2, "It boils in 3.5 minutes, e.g. for Dr. Smith. It is quiet."),
        (1, 3, "See the shop."),
        (2, 1, "Price"),
        (2, 2, "It costs 30 euros."),
        (3, 1, "cheap"),
        (3, 2, "<b>good</b>"),
    ]


def test_plain_text_is_one_section(tmp_path: Path) -> None:
    assert [tuple(part) for part in parts(tmp_path, "one\ntwo\n\n\nthree")] == [(1, 1, "one two"), (1, 2, "three")]


@pytest.mark.parametrize(("content", "code"), [(b"", 65), (b"...\n\n---", 65), (b"a" * (script.LARGEST + 1), 65)])
def test_a_script_with_nothing_to_say(tmp_path: Path, content: bytes, code: int) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        script.read(tmp_path / "a.txt")
    assert error.value.code == code


def test_the_files(tmp_path: Path) -> None:
    whole = spoken(tmp_path, Tone())
    made = contents(whole.parent)
    assert sorted(made) == sorted(
        [f"review_part{section}_{number}.wav" for section, number, _ in parts(tmp_path)] + ["review_combined.wav"]
    )
    with wave.open(str(whole)) as sound:
        pcm, rate = sound.readframes(sound.getnframes()), sound.getframerate()
    samples = np.frombuffer(pcm, "<i2") / 32768
    quiet = np.convolve(np.abs(samples) < 1e-4, np.ones(int(0.55 * rate)), "valid") >= int(0.55 * rate) - 0.5
    assert np.flatnonzero(np.diff(quiet.astype(int)) == 1).size == len(made) - 2  # a pause between any two
    for path in whole.parent.glob("review_part*_*.wav"):
        with wave.open(str(path)) as sound:
            pcm = sound.readframes(sound.getnframes())
        loud, ends = loudness.measured(pcm, rate), np.frombuffer(pcm, "<i2")[[0, -1]] / 32768
        assert np.abs(ends).max() < 10 ** (-50 / 20)  # no click where silence follows
        assert abs(loud - loudness.TARGET) <= 0.5, path.name


def test_what_is_there_is_not_said_again(tmp_path: Path) -> None:
    whole = spoken(tmp_path, Tone())
    before = contents(whole.parent)
    (whole.parent / "review_part1_2.wav").unlink()
    again = Tone()
    spoken(tmp_path, again)
    assert again.said == [parts(tmp_path)[1].text] and contents(whole.parent) == before
    for change in ({"speed": 1.5}, {"identity": "another voice"}):
        other = Tone()
        spoken(tmp_path, other, **change)
        assert len(other.said) == 7


def test_a_damaged_list_is_made_anew(tmp_path: Path) -> None:
    whole = spoken(tmp_path, Tone())
    before = contents(whole.parent)
    (whole.parent / "review_parts.json").write_text("[")
    spoken(tmp_path, Tone())
    assert contents(whole.parent) == before and len(json.loads((whole.parent / "review_parts.json").read_text())) == 7


@pytest.mark.skipif(not programs.is_here("espeak-ng"), reason="espeak-ng is not here")
def test_a_killed_script_goes_on(tmp_path: Path) -> None:
    """A script of 600 words, killed in the middle and started again: the same bytes as undisturbed."""
    text = "\n\n".join(f"Paragraph {number}. " + "A red car stands on the wide beach. " * 7 for number in range(10))
    (tmp_path / "long.txt").write_text(text)
    command = [
        sys.executable,
        "-m",
        "helpers.speak",
        "--voice",
        "espeak-ng",
        "--script",
        str(tmp_path / "long.txt"),
        "--to",
    ]
    subprocess.run([*command, str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    run = subprocess.Popen([*command, str(tmp_path / "killed")], cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(list((tmp_path / "killed").glob("long_part*.wav"))) < 4:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "killed" / "long_combined.wav").exists()
    subprocess.run([*command, str(tmp_path / "killed")], cwd=ROOT, check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot write into") as error:
        spoken(tmp_path, Tone())
    assert error.value.code == 73
