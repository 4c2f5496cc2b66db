"""The spoken examples, and the spoken prompts that recogniser and pipe are measured with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark import spoken_prompts
from examples import make_examples
from helpers.core.pcm import BYTES_PER_SECOND, CHUNK, level_dbfs, loudest_dbfs
from helpers.listen import audio
from training.builtin.vocabulary import PLAIN, SETTINGS, SUBJECTS, Scene, Subject, held_out, unknown_words

FOLDER = Path(make_examples.__file__).parent
TOOLS = ("flite", "text2wave", "espeak-ng", "ffmpeg")
needs_voices = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")


def envelope(pcm: bytes) -> NDArray[np.float64]:
    """The level of every 50 ms, in dBFS from -60."""
    return np.array([max(-60, level_dbfs(pcm[i : i + CHUNK])) for i in range(0, len(pcm), CHUNK)])


def test_examples_are_whole() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert files == {*make_examples.EXAMPLES, "__init__.py", "make_examples.py", "README.md"}
    assert next(iter(make_examples.EXAMPLES.items())) == (
        "burger.wav",
        ("rms", "a delicious burger on a blue background"),
    )
    assert sum((FOLDER / name).stat().st_size for name in make_examples.EXAMPLES) < 300_000
    assert len({voice for voice, _ in make_examples.EXAMPLES.values()}) == len(make_examples.EXAMPLES)
    rows = (FOLDER / "README.md").read_text().splitlines()
    for name, (_, text) in make_examples.EXAMPLES.items():
        assert any(row.startswith(f"| {name}") and row.endswith(f"| {text} |") for row in rows)


@pytest.mark.parametrize("name", make_examples.EXAMPLES)
def test_example_is_a_short_loud_voice(name: str) -> None:
    pcm = audio.decode(FOLDER / name)
    assert 1.5 < len(pcm) / BYTES_PER_SECOND < 4
    assert loudest_dbfs(pcm) > -25
    assert envelope(pcm)[:4].max() < -45 and envelope(pcm)[-4:].max() < -45  # silence around it
    assert unknown_words(make_examples.EXAMPLES[name][1]) == []


@needs_voices
@pytest.mark.slow
def test_examples_are_what_the_script_makes(tmp_path: Path) -> None:
    make_examples.main([str(tmp_path)])
    for name in make_examples.EXAMPLES:
        made, kept = envelope(audio.decode(tmp_path / name)), envelope(audio.decode(FOLDER / name))
        assert abs(len(made) - len(kept)) <= 4, name
        size = min(len(made), len(kept))
        assert np.corrcoef(made[:size], kept[:size])[0, 1] > 0.8, name


def test_spoken_prompts_are_of_the_vocabulary() -> None:
    prompts = spoken_prompts.PROMPTS
    assert len(prompts) == len(set(prompts)) == 30 and len(spoken_prompts.VOICES) == 5
    assert len({prompt.subject for prompt in prompts}) > 25 and len({prompt.background for prompt in prompts}) > 15
    for subject, background, text in prompts:
        assert subject in SUBJECTS and background in {*PLAIN, *SETTINGS}
        assert unknown_words(text) == [] and text.isascii() and text.replace(" ", "").isalpha()
    assert sum(held_out(Scene((Subject(subject),), background)) for subject, background, _ in prompts) == 15


@needs_voices
def test_spoken_prompts_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken_prompts, "PROMPTS", spoken_prompts.PROMPTS[:1])
    recordings = spoken_prompts.make(tmp_path)
    assert [recording.path.relative_to(tmp_path) for recording in recordings] == [
        Path(voice) / "01.wav" for voice in spoken_prompts.VOICES
    ]
    sounds = [audio.decode(recording.path) for recording in recordings]
    assert len(set(sounds)) == 5 and all(loudest_dbfs(sound) > -25 for sound in sounds)
    before = recordings[0].path.stat().st_mtime_ns
    spoken_prompts.make(tmp_path)
    assert recordings[0].path.stat().st_mtime_ns == before
    assert len((tmp_path / "prompts.tsv").read_text().splitlines()) == 5
