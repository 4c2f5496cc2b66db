"""Names of the files in the working folder of a running pipe (`Settings.session`)."""

from __future__ import annotations

from pathlib import Path

PARTIAL = "partial.txt"  # the text recognised so far, while the speaker pauses
SEVERAL = "several"  # exists if record sends several recordings of one file; a mark ends each, as in a loop
SPEAKING = "speaking"  # exists while the say stage speaks: the microphone hears it, too
ASKING = "asking"  # exists while the confirm stage uses the terminal


def recording(session: Path, number: int) -> Path:
    """Where recording `number`, from 1, is kept until its picture is drawn."""
    return session / f"recording-{number}.wav"


def transcript(session: Path, number: int) -> Path:
    """Where the recogniser's text of recording `number` is kept: one line."""
    return session / f"transcript-{number}.txt"


def speaker(session: Path, number: int) -> Path:
    """Where the name of the person who speaks in recording `number` is kept, with --speakers: one line."""
    return session / f"speaker-{number}.txt"
