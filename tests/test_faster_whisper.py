"""faster-whisper in a process of its own: the words of transformers, and of the real Whisper base."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import real_weights
import tiny_speech
from downloads import FIRST, Tree, model
from hub import Hub
from tiny_speech import Tiny

from helpers.catalog import ct2
from helpers.core.errors import UserError
from helpers.core.pcm import RATE
from helpers.listen import audio, recognisers
from helpers.listen.recognisers import Request

JFK = Path(__file__).with_name("jfk.flac")
SAID = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_speech.whisper(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_whisper")
    monkeypatch.setattr(ct2, "uses_nvidia", lambda: False)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_it_says_what_transformers_says(tiny: Tiny) -> None:
    from helpers.listen.faster_whisper import FasterWhisper

    sounds = [tiny_speech.tone(number, 30) for number in (1, 2, 4)]  # as long as the window: it pads otherwise
    expected = []
    for pcm in sounds:
        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
        features = tiny.features(samples, sampling_rate=RATE, return_tensors="pt").input_features
        tokens = tiny.model.generate(features, language="de", task="translate", max_new_tokens=224)
        expected.append(tiny.decode(tokens[0].tolist(), skip_special_tokens=True).strip())
    with FasterWhisper(tiny.folder, "de", translate=True, threads=1, precision="float32") as recogniser:
        recogniser.wait_until_loaded()
        heard = [recogniser.ask(pcm) for pcm in sounds]
    for answer, text in zip(heard, expected, strict=True):
        assert answer["language"] == "de" and len(text.split()) > 200
        assert answer["text"].split()[:200] == text.split()[:200]
    assert len(set(expected)) > 1


def test_it_loads_what_comes_from_a_hub(tiny: Tiny, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny.folder.iterdir()}
    with Hub() as hub:
        tree = Tree(tmp_path, hub)
        for path, body in files.items():
            hub.add(FIRST, path, body, small=path.endswith(".json"))
        entry = model("ears", "single", files).replace('kind = "image"', 'kind = "faster-whisper"')
        catalogue = tree.root / "models" / "catalog.toml"
        catalogue.write_text(
            catalogue.read_text() + entry.replace('engines = ["openvino"]\nlanguages = "en"\n', 'languages = "any"\n')
        )
        folder = Path(tree.run("ears").strip())
    assert {path.name for path in folder.iterdir()} == set(files)
    with recognisers.load(Request(str(folder), "de", threads=1)) as recogniser:
        transcript = recogniser.transcribe(tiny_speech.tone(0))
    assert transcript.language == "de" and recogniser.name == "faster-whisper ears"


def test_a_damaged_model_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    for path in tiny.folder.iterdir():
        body = path.read_bytes()
        (tmp_path / path.name).write_bytes(body[: len(body) // 2] if path.name == "model.bin" else body)
    with (
        pytest.raises(UserError, match="faster-whisper cannot load") as raised,
        recognisers.load(Request(f"{tmp_path}/")),
    ):
        pass
    assert raised.value.code == os.EX_DATAERR and "\n" not in raised.value.message
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not a Whisper model") as raised:
        recognisers.choose(Request(f"{tmp_path}/"))
    assert raised.value.code == os.EX_DATAERR


def test_a_language_that_does_not_exist(tiny: Tiny) -> None:
    with (
        pytest.raises(UserError, match="does not know the language 'xx'") as raised,
        recognisers.load(Request(f"{tiny.folder}/", "xx")),
    ):
        pass
    assert raised.value.code == os.EX_USAGE


def test_a_gpu_that_cannot_be_used_is_said_and_the_processor_computes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(ct2, "uses_nvidia", lambda: True)
    with recognisers.load(Request(f"{tiny.folder}/", "de", threads=1)) as recogniser:
        assert recogniser.transcribe(tiny_speech.tone(0)).language == "de"
    assert "the NVIDIA GPU cannot be used" in caplog.text and "the processor is used" in caplog.text


def test_real_whisper_is_word_for_word() -> None:
    pcm = audio.decode(str(JFK), 30)
    with recognisers.load(Request(f"{real_weights.ct2()}/")) as recogniser:
        transcript = recogniser.transcribe(pcm)
        silence = recogniser.transcribe(bytes(RATE * 4))
    assert words(transcript.text) == words(SAID) and transcript.language == "en"
    assert transcript.confidence and transcript.confidence > 0.7
    assert [word for said in transcript.words for word in words(said.text)] == words(SAID)
    times = [time for word in transcript.words for time in (word.begin, word.end)]
    assert times == sorted(times) and 8 < times[-1] <= len(pcm) / RATE / 2
    assert silence.text == "" and silence.confidence is None


def test_the_language_is_detected() -> None:
    with recognisers.load(Request(f"{real_weights.ct2()}/", "auto")) as recogniser:
        assert recogniser.transcribe(audio.decode(str(JFK), 30)).language == "en"
