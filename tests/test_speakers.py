"""Who speaks when: the process of pyannote.audio with a stand-in, which checks what it is given and tells two voices
apart by their pitch."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.voices import speak
from helpers.catalog import catalog
from helpers.core import extras, lines, session
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import write_wav
from helpers.listen import audio, speakers

PYANNOTE = '''
import json, os, sys
import numpy as np

class Turn:
    def __init__(self, begin, end):
        self.start, self.end = begin, end

class Annotation(list):
    def itertracks(self, yield_label=False):
        assert yield_label
        return iter(self)

class Output:
    pass

def pitch(sound):
    """In Hz: the strongest period from 60 to 300 Hz."""
    spectrum = np.fft.rfft(sound, 1 << 18)
    echo = np.fft.irfft(np.abs(spectrum) ** 2)
    return 16000 / (53 + int(echo[53:266].argmax()))

class Pipeline:
    @classmethod
    def from_pretrained(cls, checkpoint, **more):
        assert not more and os.path.isdir(checkpoint), (checkpoint, more)
        assert os.environ["PYANNOTE_METRICS_ENABLED"] == "false" and os.environ["HF_HUB_OFFLINE"] == "1"
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
        import torch
        safe = sorted(item.__name__ for item in torch.serialization.safe)
        assert safe == ["Problem", "Resolution", "Specifications", "TorchVersion"]
        return cls()

    def __call__(self, file, **more):
        assert set(file) == {"waveform", "sample_rate"} and file["sample_rate"] == 16000 and not more
        wave = file["waveform"]
        assert wave.shape[0] == 1 and wave.dtype == np.float32 and 0.02 < np.abs(wave).max() <= 1
        print("pyannote says something on stdout")
        window = 1600
        levels = np.abs(wave[0][: wave.shape[1] // window * window].reshape(-1, window)).max(axis=1)
        loud, turns, begin = levels > 0.02, [], None
        for index, one in enumerate([*loud, False, False, False]):
            if one:
                begin, last = index if begin is None else begin, index
            elif begin is not None and index - last > 2:
                sound = wave[0][begin * window : (last + 1) * window]
                turns.append((Turn(begin / 10, (last + 1) / 10), None, "LOW" if pitch(sound) < 140 else "HIGH"))
                begin = None
        output = Output()
        output.exclusive_speaker_diarization = Annotation(turns)
        return output
'''
TASK = "class Problem: pass\nclass Resolution: pass\nclass Specifications: pass\n"
TORCH = """
class torch_version:
    class TorchVersion: pass
class serialization:
    safe = []
    @classmethod
    def add_safe_globals(cls, items): cls.safe += items
class cuda:
    @staticmethod
    def is_available(): return False
def from_numpy(array): return array
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of downloaded models with the model, and a stand-in for pyannote.audio and PyTorch."""
    package = tmp_path / "packages" / "pyannote" / "audio"
    (package / "core").mkdir(parents=True)
    (package / "__init__.py").write_text(PYANNOTE)
    (package / "core" / "__init__.py").write_text("")
    (package / "core" / "task.py").write_text(TASK)
    (tmp_path / "packages" / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setattr(extras, "require", lambda name: None)
    entry = catalog.read(tmp_path / "models").default("speakers")
    for file in entry.files:
        (entry.folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (entry.folder / file.path).write_bytes(b"x")
    return tmp_path / "models"


def conversation(folder: Path) -> bytes:
    """PCM: a man, a woman twice, the man again."""
    pcm = bytes(16000)
    for number, (voice, text) in enumerate(
        (
            ("rms", "a happy penguin at night"),
            ("slt", "a red car"),
            ("slt", "in the snow"),
            ("rms", "a castle at sunset"),
        )
    ):
        speak(voice, text, folder / f"{number}.wav")
        pcm += audio.decode(str(folder / f"{number}.wav"), 30) + bytes(12800)
    return pcm


def test_two_voices_are_told_apart(models: Path, tmp_path: Path) -> None:
    found = speakers.turns(conversation(tmp_path), models, pause=2.0)
    assert [turn.speaker for turn in found] == ["speaker 1", "speaker 2", "speaker 1"]
    assert all(before.end <= after.begin for before, after in itertools.pairwise(found))


def test_a_pause_separates_what_one_person_says(models: Path, tmp_path: Path) -> None:
    found = speakers.turns(conversation(tmp_path), models, pause=0.1)
    assert [turn.speaker for turn in found] == ["speaker 1", "speaker 2", "speaker 2", "speaker 1"]


def test_a_file_becomes_a_labelled_line_of_each_turn(models: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "talk.wav", conversation(tmp_path))
    (tmp_path / "session").mkdir()
    environment = {**os.environ, "A2I_SESSION": str(tmp_path / "session"), "A2I_MODELS": str(models)}
    record = [sys.executable, "-m", "helpers.listen.record", "--input", str(tmp_path / "talk.wav"), "--speakers"]
    transcribe = [sys.executable, "-m", "helpers.listen.transcribe", "-w", "builtin", "--speakers"]
    with subprocess.Popen(record, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as recording:
        done = subprocess.run(transcribe, cwd=ROOT, env=environment, stdin=recording.stdout, capture_output=True)
    assert done.returncode == 0, done.stderr
    kept = [session.transcript(tmp_path / "session", number).read_text() for number in (1, 2, 3)]
    assert [line.partition(":")[0] for line in kept] == ["speaker 1", "speaker 2", "speaker 1"]
    assert kept[0] == "speaker 1: a happy penguin at night\n"
    prompts = [lines.decode(line).text for line in done.stdout.decode().split("\n")[:-1]]
    assert prompts == [line.strip().partition(": ")[2] for line in kept]
    one = subprocess.run([*transcribe, str(tmp_path / "talk.wav")], cwd=ROOT, env=environment, capture_output=True)
    assert [lines.decode(line).text for line in one.stdout.decode().split("\n")[:-1]] == prompts


def test_pyannote_that_fails_says_why(models: Path) -> None:
    with pytest.raises(UserError, match=r"pyannote\.audio failed: .*AssertionError") as error:
        speakers.turns(bytes(32000), models, pause=2.0)  # silence: the stand-in wants a voice
    assert error.value.code == os.EX_UNAVAILABLE and "--extra speakers" in error.value.remedy


def test_without_the_model_the_command_is_named(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not on this machine") as error:
        speakers.turns(bytes(32000), tmp_path / "empty", pause=2.0)
    assert error.value.remedy == "Download it: ./download_model.py speaker-diarization-community-1"


def test_without_the_extra_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--speakers needs more Python packages") as error:
        speakers.turns(bytes(32000), tmp_path, pause=2.0)
    assert error.value.remedy == "Install them: ./shortcut_install.sh --extra speakers"
