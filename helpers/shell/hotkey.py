"""The events of a pipe, JSON lines on stdin, as the lines that hotkey.sh reads: a word, and after a tab a text.

`ready`: the microphone is open; `stopped`: the recording has ended; `heard TEXT`; `failed MESSAGE. REMEDY`. The event
`over` ends it. It imports nothing of ours: before the first run there is only the system's Python, of any version.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO, TextIO

WORDS = {
    ("record", "ready"): "ready",
    ("record", "heard"): "stopped",
    ("transcribe", "line"): "heard",
    ("pipeline", "failed"): "failed",
    ("hotkey", "over"): "over",
}


def main(events: BinaryIO, out: TextIO) -> None:
    for line in iter(events.readline, b""):
        try:
            event = json.loads(line.decode("utf-8", "replace"))
            word = WORDS.get((event["stage"], event["event"]))
        except (ValueError, TypeError, KeyError):
            continue  # of a program of the user's own
        if word == "over":
            return
        if word:
            text, message, remedy = (" ".join(str(event.get(x) or "").split()) for x in ("text", "message", "remedy"))
            out.write(f"{word}\t{text or (message.rstrip('.') + '. ' + remedy if remedy else message)}\n")
            out.flush()


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    main(sys.stdin.buffer, sys.stdout)
