"""A long text as sound files: each paragraph one, all of it one more.

Headings and horizontal rules of Markdown begin a section. Paragraph 3 of section 2 of review.md is
`review_part2_3.wav`; all of it, with pauses, is `review_combined.wav`. What a broken run has finished is not spoken
again: `review_parts.json` has a hash of what each file was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.core import extras
from helpers.core.errors import UserError
from helpers.core.files import beside, write_whole
from helpers.core.text import printable
from helpers.speak import loudness
from helpers.speak.player import wav
from helpers.speak.voice import Voice, speakable

LARGEST = 10_000_000  # bytes of a script: a thousand books' pages, a day of speech
PARAGRAPH, SECTION = 0.6, 1.2  # seconds of pause after a paragraph, and before a section
_RAMP = 0.005  # seconds in which a file becomes loud and silent again, so that no joint clicks


class Part(NamedTuple):
    """A paragraph: section and number, from 1, and its words."""

    section: int
    number: int
    text: str


def read(path: Path) -> list[Part]:
    """The paragraphs of a text or Markdown file; code, pictures and addresses of links are left out.

    Raises: UserError 65 if there is nothing to say, or too much; 66 if it cannot be read; 69 without the extra.
    """
    extras.require("voices")
    from markdown_it import MarkdownIt

    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(
            os.EX_NOINPUT, f"cannot read {printable(str(path))}: {error.strerror}", "Name another file."
        ) from error
    if len(content) > LARGEST:
        raise UserError(os.EX_DATAERR, f"{printable(path.name)} is longer than {LARGEST // 1_000_000} MB", "Cut it.")
    # Four spaces do not make text code, and < no markup: most scripts are plain text
    tokens = (
        MarkdownIt("commonmark", {"html": False}).disable("code").parse(content.decode("utf-8-sig", errors="replace"))
    )
    parts: list[Part] = []
    section, fresh = 0, True
    for token in tokens:
        if token.type in ("heading_open", "hr"):
            fresh = True
        elif token.type == "inline":
            inside = (child for child in token.children or [] if child.type != "image")
            words = "".join(" " if "break" in child.type else child.content for child in inside)
            with contextlib.suppress(UserError):  # a paragraph without a word
                section += fresh
                parts.append(Part(section, 1 if fresh else parts[-1].number + 1, speakable(words)))
                fresh = False
    if not parts:
        raise UserError(os.EX_DATAERR, f"there is nothing to say in {printable(path.name)}", "Write something into it.")
    return parts


def speak(
    parts: list[Part], name: str, folder: Path, voice: Voice, identity: str, speed: float, on_part: Callable[[], object]
) -> Path:
    """Write the files of a script into `folder`, and return the path of the whole.

    identity: of the voice, with everything that changes its sound; on_part: called after each paragraph.
    Raises: UserError 73 if a file cannot be written, and what the voice raises.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        list_file = folder / f"{name}_parts.json"
        made = _list(list_file)
        files = []
        for part in parts:
            file = folder / f"{name}_part{part.section}_{part.number}.wav"
            key = hashlib.sha256(json.dumps([part.text, identity, speed, loudness.TARGET]).encode()).hexdigest()
            if made.get(file.name) != key or not file.exists():
                pcm = b"".join(voice.say(part.text, speed))
                write_whole(file, wav(_without_clicks(loudness.equal(pcm, voice.rate), voice.rate), voice.rate))
                made[file.name] = key
                write_whole(list_file, json.dumps(made, indent=1).encode())
            files.append((part, file))
            on_part()
        whole = folder / f"{name}_combined.wav"
        with beside(whole) as partial, wave.open(str(partial), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(voice.rate)
            for pcm in _joined(files, voice.rate):
                out.writeframes(pcm)
        return whole
    except OSError as error:
        message = f"cannot write into {printable(str(folder))}: {error.strerror}"
        raise UserError(os.EX_CANTCREAT, message, "Make room there, or choose another folder: --to FOLDER") from error


def _list(file: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _joined(files: list[tuple[Part, Path]], rate: int) -> Iterator[bytes]:
    section = 1
    for number, (part, file) in enumerate(files):
        if number:
            yield bytes(2 * int(rate * (SECTION if part.section != section else PARAGRAPH)))
        section = part.section
        with wave.open(str(file)) as sound:
            yield sound.readframes(sound.getnframes())


def _without_clicks(pcm: bytes, rate: int) -> bytes:
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    ramp = np.linspace(0, 1, min(int(_RAMP * rate), len(samples)), dtype=np.float32)
    if len(ramp):
        samples[: len(ramp)] *= ramp
        samples[-len(ramp) :] *= ramp[::-1]
    return samples.astype("<i2").tobytes()
