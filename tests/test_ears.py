"""The benchmark of the ears: the recordings are what they claim to be, and each gets its own line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import whisper_fixture

from benchmark import clips, ears, results
from benchmark.clips import Clip
from benchmark.ears import Ears, Heard
from benchmark.noises import Sound
from helpers.core.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_fixture.write(tmp_path_factory.mktemp("model") / "model.bin", "a burger")


def test_the_noise_is_as_loud_as_it_says(folder: Path) -> None:
    def samples(clip: Clip) -> Sound:
        return np.frombuffer(clip.pcm, "<i2") / 32768

    clean = next(clips.noisy_clips(folder, None))
    for ratio in (15, 0):
        noisy = next(clips.noisy_clips(folder, ratio))
        noise = np.sqrt(np.mean((samples(noisy) - samples(clean)) ** 2))
        assert noisy.said == clean.said and 20 * np.log10(clips.LEVEL / noise) == pytest.approx(ratio, abs=0.1)


def test_the_recordings_are_always_the_same(folder: Path) -> None:
    once, again = (list(islice(clips.throat_clips(folder), 4)) for _ in range(2))
    assert once == again and [clip.group for clip in once] == ["syllables", "vowels", "humming", "backwards"]
    assert [clip.said for clip in once] == ["la la la la la la", "", "", ""]


def test_each_recording_gets_its_line(folder: Path, model: Path) -> None:
    speech, silence = next(clips.noisy_clips(folder, None)), next(clips.silent_clips())
    with Ears(str(model)) as loaded:
        assert [loaded.hear(clip).text for clip in (speech, silence, speech)] == ["a burger", "", "a burger"]
        assert loaded.loading > 0 and loaded.memory() > 20 and "model.bin" in loaded.name


def test_a_recogniser_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not start") as caught:
        Ears(str(tmp_path / "none.bin"))
    assert "none.bin" in caught.value.remedy


@pytest.mark.parametrize(
    "said, text, invented",
    [
        ("a cat on the beach", "A cat.", False),
        ("a cat on the beach", "On the.", True),  # no content word
        ("a cat on the beach", "", False),  # refused
        ("", "Thank you.", True),
        ("la la la", "La.", False),
    ],
)
def test_what_counts_as_invented(said: str, text: str, invented: bool) -> None:
    assert Heard(Clip("", "", b"", said), text, 0).invented == invented


@pytest.mark.slow
def test_the_figures(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = list(islice(clips.noisy_clips(folder, None), 2))  # one of the two is about a burger
    monkeypatch.setattr(clips, "spoken_clips", lambda _: some)
    found = results.new(quick=True)
    told: list[Heard] = []
    with Ears(str(model), threads=1) as loaded:
        ears.measured(found, loaded, folder, ("words",), told.append)
    name = "ears / whisper.cpp model.bin"
    assert [one.text for one in told] == ["a burger"] * 2
    assert found.figures[f"{name}, all spoken / with a line"].median == 2
    assert found.figures[f"{name}, all spoken / invented"].median == 1
    assert found.figures[f"{name}, all spoken / word error rate"].median > 60
    assert found.figures[f"{name} / recognition"].n == 2


def test_without_a_speech_model_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_MODELS", str(tmp_path))
    monkeypatch.delenv("A2I_WHISPER", raising=False)
    found = results.new(quick=True)
    ears.measure(found, True, lambda: None)
    assert not found.figures and "no speech model" in found.notes[0]
