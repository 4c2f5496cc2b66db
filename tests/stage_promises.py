"""The promises for stages that fail: tests/faults/test_stage_faults.py checks this table, and docs/faults.md shows it.
`python -m tests.stage_promises` writes it into the page.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from helpers.core.paths import ROOT

PAGE = ROOT / "docs" / "faults.md"
BLOCK = re.compile(r"(?<=<!-- stages -->\n).*?(?=<!-- /stages -->)", re.DOTALL)
STAGES = ("record", "transcribe", "remove_parentheses", "enrich", "generate")
TEXT = STAGES[1:4]  # those that write text
SOURCES = ("a file", "the microphone", "a loop")


class Promise(NamedTuple):
    """What happens when one of `stages` does this: the exit code, how the first line on stderr begins (with --quiet;
    none where it is no failure), and what else there is to say. The code 130 comes of Ctrl-C.
    """

    stages: tuple[str, ...]
    fault: str
    sources: tuple[str, ...]
    code: int
    line: str = ""
    then: str = ""


ONCE, LOOP = SOURCES[:2], SOURCES[2:]
HEARD, CTRL_C = "the program waits for the next recording", "Ctrl-C ends it"
PROMISES = [
    Promise(STAGES, "is not installed", SOURCES, 69, "pipeline: there is no program '/nowhere/program'", "at once"),
    Promise(STAGES, "fails at once", SOURCES, 1, "pipeline: STAGE failed with exit code 1"),
    Promise(STAGES, "is killed", SOURCES, 137, "pipeline: STAGE was ended by signal 9"),
    Promise(("record",), "hangs", SOURCES, 65, "transcribe: no audio arrived", "Ctrl-C ends the recording"),
    Promise(STAGES[1:], "hangs", SOURCES, 130, "", CTRL_C),
    Promise(("record",), "writes nothing", SOURCES, 65, "transcribe: no audio arrived"),
    Promise(("transcribe",), "writes nothing", ONCE, 65, "remove_parentheses: no text arrived on stdin"),
    Promise(TEXT[1:], "writes nothing", ONCE, 65, "generate: no prompt arrived on stdin"),
    Promise(TEXT, "writes nothing", LOOP, 0, "", HEARD),
    Promise(("generate",), "writes nothing", SOURCES, 0, "", "no picture, and no error"),
    Promise(STAGES, "writes half a line", SOURCES, 0, "", "it is used as a complete line"),
    Promise(("record",), "writes garbage", ONCE, 65, "transcribe: no words were heard in 2.0 seconds"),
    Promise(("transcribe",), "writes garbage", ONCE, 65, "remove_parentheses: nothing was said: \ufffd"),
    Promise(("record", "transcribe"), "writes garbage", LOOP, 0, "", HEARD),
    Promise(TEXT[1:], "writes garbage", SOURCES, 0, "", "it is drawn as text, with � for bytes that are not UTF-8"),
    Promise(("generate",), "writes garbage", SOURCES, 0, "", "its output is passed on unchanged"),
    Promise(("record",), "writes one line without end", ONCE, 65, "transcribe: no words were heard in 600.0 seconds"),
    Promise(("record",), "writes one line without end", LOOP, 65, "transcribe: no audio arrived"),
    Promise(TEXT, "writes one line without end", SOURCES, 65, "STAGE: a prompt is longer than 1048576"),
    Promise(TEXT, "writes lines without end", SOURCES, 130, "", f"each is drawn; {CTRL_C}"),
    Promise(("generate",), "writes one line without end", SOURCES, 0, "", "until nobody reads the output any more"),
    Promise(("generate",), "writes lines without end", SOURCES, 0, "", "until nobody reads the output any more"),
]


def table() -> str:
    """The promises in Markdown."""
    lines = [
        "| stage | fault | input | exit code | message | what happens |",
        "| --- | --- | --- | --: | --- | --- |",
    ]
    for promise in PROMISES:
        stages = "any" if promise.stages == STAGES else ", ".join(promise.stages)
        sources = "" if promise.sources == SOURCES else " or ".join(promise.sources)
        said = f"`{promise.line} …`" if promise.line else ""
        lines.append(f"| {stages} | {promise.fault} | {sources} | {promise.code} | {said} | {promise.then} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
