"""Through the whole pipe: each picture has the transcript and the recording of its own words, or none."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from whole_pipe import Pipe

RECORD = """#!/bin/bash
for number in 1 2 3; do
  printf 'sound %s' "$number" >"$A2I_SESSION/recording-$number.wav"
  printf '%s\\n' "$number"
  [ "$A2I_LOOP" = 1 ] || break
  sleep 0.3
done
"""
TRANSCRIBE = """#!/bin/bash
names=(cat dog castle)
if [ "$A2I_LOOP" = 1 ]; then
  while read -r number; do printf 'a %s\\n' "${names[number - 1]}"; done
elif [ $# -gt 0 ]; then
  for _ in "$@"; do printf 'a %s\\n' "${names[count++]}"; done
else
  cat >/dev/null; printf 'a cat\\n'
fi
"""
ENRICH = {
    "none": "cat",
    "line by line": "sed -u 's/$/ on red/'",
    "at the end": "sed 's/$/ on red/'",
    "the other way round": "tac",
    "two lines": "sed -u 's/.*/& on red\\n& in the snow/'",
    "other words": "while read -r line; do echo a burger; done",
    "one of them": "sed -un '/cat/p'",
}


CASES = [("a loop", enrich) for enrich in ENRICH] + [("a file", "two lines"), ("three files", "the other way round")]


@pytest.mark.parametrize(("source", "enrich"), CASES)
def test_each_picture_has_its_own_words_and_sound(tmp_path: Path, source: str, enrich: str) -> None:
    pipe = Pipe(tmp_path)
    scripts = {"record": RECORD, "transcribe": TRANSCRIBE, "enrich": f"#!/bin/bash\n{ENRICH[enrich]}\n"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755 | stat.S_IXUSR)
    files = {"a loop": [], "a file": ["--input", "a.wav"], "three files": ["-i", "a", "-i", "b", "-i", "c"]}[source]
    settings = {f"A2I_{name.upper()}": tmp_path / name for name in scripts}
    done = pipe.run(*files, **settings, A2I_STEPS=1, A2I_LOOP=int(source == "a loop"), A2I_MODEL="builtin")
    assert done.returncode == 0, done.stderr
    runs = [json.loads((folder / "run.json").read_text()) | {"folder": folder} for folder in pipe.runs()]
    lines = {"two lines": 2, "one of them": 1}.get(enrich, 1) * (
        1 if source == "a file" or enrich == "one of them" else 3
    )
    assert len(runs) == lines
    names = ["cat", "dog", "castle"]
    for run in runs:
        if run["transcript"]:
            assert enrich == "other words" or run["transcript"].split()[1] in run["prompt"]
        if (wav := run["folder"] / "prompt.wav").exists():
            number = int(wav.read_text().split()[1])
            assert run["transcript"] == f"a {names[number - 1]}"
    known = [run for run in runs if run["transcript"]]
    assert len({run["transcript"] for run in known}) == len(known)
    if enrich not in ("other words", "two lines"):
        assert len(known) == len(runs)
