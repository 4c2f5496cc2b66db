"""whisper.cpp in its own process: it says what the fixture model says, and its death is a message."""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import whisper_fixture

from helpers.catalog import ggml
from helpers.catalog.ggml import Model
from helpers.core.errors import UserError
from helpers.listen import belief, recogniser_process, whisper, whisper_worker
from helpers.listen.whisper import Whisper

SENTENCE = "a red apple on a wooden table"
# Noise at -40 dBFS; what it hears does not matter to the fixture.
SOUND = struct.pack("<16000h", *((i * 7919) % 655 - 327 for i in range(16000)))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_fixture.write(tmp_path_factory.mktemp("model") / "english.bin", SENTENCE)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_fixture.write(tmp_path_factory.mktemp("model") / "any.bin", SENTENCE, multilingual=True)


@pytest.fixture(autouse=True)
def no_child_stays() -> Iterator[None]:
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def said(model: Path, *recordings: bytes, language: str = "en", translate: bool = False) -> list[str]:
    with Whisper(model, language, translate, threads=1) as recogniser:  # the cores may be busy
        recogniser.wait_until_loaded()
        return [recogniser.transcribe(pcm).text for pcm in recordings]


def test_it_says_what_the_model_says(english: Path) -> None:
    assert said(english, SOUND, SOUND[:2], b"") == [SENTENCE] * 3


@pytest.mark.parametrize("language, translate", [("de", False), ("auto", False), ("de", True), ("en", True)])
def test_languages(multilingual: Path, language: str, translate: bool) -> None:
    assert said(multilingual, SOUND, language=language, translate=translate) == [SENTENCE]


def test_a_long_recording_is_heard_to_its_end(english: Path) -> None:
    both = said(english, SOUND * 31, SOUND)
    assert both == [f"{SENTENCE} {SENTENCE}", SENTENCE]  # two windows; and the next one is short again


@pytest.mark.parametrize("language, primed", [("en", True), ("de", False), ("auto", False)])
def test_the_initial_prompt_is_for_english(
    monkeypatch: pytest.MonkeyPatch, english: Path, language: str, primed: bool
) -> None:
    commands: list[list[str]] = []
    start = subprocess.Popen

    def note(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        commands.append(command)
        return start(command, **more)

    monkeypatch.setattr(subprocess, "Popen", note)
    with Whisper(english, language):
        assert (whisper.PROMPT in json.loads(commands[0][-1]).values()) == primed


def test_a_language_that_does_not_exist(multilingual: Path) -> None:
    with pytest.raises(UserError, match="does not know the language 'xx'") as caught:
        said(multilingual, language="xx")
    assert caught.value.code == os.EX_USAGE


# ---- what whisper.cpp doubts


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the worker asks of the real whisper.cpp; for `answer`."""
    from pywhispercpp.model import Model

    def note(*arguments: Any, **settings: Any) -> Any:
        calls.append(settings)
        return transcribe(*arguments, **settings)

    calls: list[dict[str, Any]] = []
    transcribe = Model.transcribe
    monkeypatch.setattr(Model, "transcribe", note)
    return calls


def answer(path: Path, pcm: bytes, language: str = "en", names: Sequence[str] = ()) -> dict[str, Any]:
    """What the worker, run in this process, answers to `pcm`."""
    ours, theirs = Pipe()
    settings = {
        "path": str(path),
        "language": language,
        "translate": False,
        "threads": 1,
        "prompt": "a cat" if language == "en" else "",
        "names": names,
    }

    def load() -> whisper_worker.Worker:
        return whisper_worker.Worker(settings)

    worker = threading.Thread(target=pytest.raises, args=(EOFError, recogniser_process.serve, theirs, load))
    worker.start()
    with ours:
        ours.recv_bytes()
        ours.send_bytes(pcm)
        answer: dict[str, Any] = json.loads(ours.recv_bytes())
    worker.join()
    return answer


WHOLE, FULL, CUT = 0, 1280, 512  # steps of the encoder's window


@pytest.mark.parametrize("language", ["de", "auto"])
@pytest.mark.parametrize(
    "certainty, speech, text, temperatures",
    [
        (4, True, SENTENCE, [0]),
        (4, False, SENTENCE, [0]),  # words that it is sure of are words
        (1.2, True, SENTENCE, [0, 0, belief.RETRY_TEMPERATURE]),
        (1.2, False, "", [0, 0, belief.RETRY_TEMPERATURE]),
    ],
)
def test_what_whisper_takes_for_no_speech_is_no_text(
    asked: list[dict[str, Any]],
    tmp_path: Path,
    language: str,
    certainty: float,
    speech: bool,
    text: str,
    temperatures: list[float],
) -> None:
    model = whisper_fixture.write(
        tmp_path / "doubts.bin", SENTENCE, multilingual=True, certainty=certainty, speech=speech
    )
    assert answer(model, SOUND, language)["text"] == text
    if language == "auto":
        assert {settings["audio_ctx"] for settings in asked} == {WHOLE}
    else:
        assert [settings["temperature_inc"] for settings in asked] == temperatures


@pytest.mark.parametrize("multilingual", [True, False])
@pytest.mark.parametrize("certainty, text, windows", [(4, SENTENCE, [CUT]), (1.2, "", [CUT, CUT])])
def test_unlikely_english_is_no_text(
    asked: list[dict[str, Any]], tmp_path: Path, multilingual: bool, certainty: float, text: str, windows: list[int]
) -> None:
    model = whisper_fixture.write(tmp_path / "doubts.bin", SENTENCE, multilingual=multilingual, certainty=certainty)
    assert answer(model, SOUND)["text"] == text
    assert [settings["audio_ctx"] for settings in asked] == windows
    assert {settings["initial_prompt"] for settings in asked} == {"a cat"}


def test_words_that_are_the_same_in_a_second_look_are_believed(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """In a quiet room; the second look begins just before the first word."""
    unsure = whisper_fixture.write(tmp_path / "unsure.bin", SENTENCE, certainty=1.3)  # -0.89 for a token
    assert answer(unsure, bytes(32000) + SOUND + bytes(32000))["text"] == SENTENCE
    assert [settings["audio_ctx"] for settings in asked] == [CUT, CUT]


def test_the_initial_prompt_alone_is_heard_without_it(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """Whoever says the words of the initial prompt gets them, because they are also heard without it."""
    assert answer(whisper_fixture.write(tmp_path / "echo.bin", "A cat."), SOUND)["text"] == "A cat."
    assert [settings["initial_prompt"] for settings in asked] == ["a cat", ""]
    unsure = whisper_fixture.write(tmp_path / "unsure.bin", "A cat.", certainty=1.2)
    assert answer(unsure, SOUND)["text"] == ""


def test_names_get_a_look_of_their_own(asked: list[dict[str, Any]], english: Path) -> None:
    assert answer(english, SOUND, names=["Apple", "Zorblax"])["text"] == SENTENCE
    assert [settings["initial_prompt"] for settings in asked] == ["a cat", "a cat Apple, Zorblax."]


@pytest.mark.parametrize("seconds, window", [(1, 512), (7.6, 512), (8, 768), (20, 1280), (23, 1280)])
def test_the_window_is_cut_to_whole_blocks(
    asked: list[dict[str, Any]], english: Path, seconds: float, window: int
) -> None:
    answer(english, (SOUND * 28)[: int(seconds * 32000)])
    assert asked[0]["audio_ctx"] == window


def test_in_a_long_recording_each_piece_is_judged(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    sure = whisper_fixture.write(tmp_path / "sure.bin", SENTENCE, speech=False)
    assert answer(sure, SOUND * 31)["text"] == f"{SENTENCE} {SENTENCE}" and len(asked) == 2
    unsure = whisper_fixture.write(tmp_path / "unsure.bin", SENTENCE, certainty=1.2, speech=False)
    assert answer(unsure, SOUND * 31)["text"] == ""


@pytest.mark.parametrize("language, most", [("en", 25), ("de", 220)])
def test_a_loop_is_short_and_said_once(asked: list[dict[str, Any]], tmp_path: Path, language: str, most: int) -> None:
    model = whisper_fixture.write(tmp_path / "loop.bin", "a burger and", multilingual=True, ends=False)
    assert most - 2 <= len(answer(model, SOUND, language)["text"].split()) <= most + 1
    assert [settings["audio_ctx"] for settings in asked] == [CUT, FULL]  # a loop gets a second look
    assert said(model, SOUND, language=language) == ["a burger and"]


@pytest.mark.parametrize("text", ["?", "La la la la la", "A-E-E-O"])
def test_what_has_no_words_is_no_text(tmp_path: Path, text: str) -> None:
    assert said(whisper_fixture.write(tmp_path / "sung.bin", text), SOUND) == [""]


def test_threads_that_wait_sleep(english: Path) -> None:
    """A thread that waits in a busy loop keeps the processor from the one that it waits for."""
    with Whisper(english) as recogniser:
        recogniser.wait_until_loaded()
        if not Path("/proc").exists():
            pytest.skip("no /proc on this system")
        environment = Path(f"/proc/{recogniser._process.pid}/environ").read_bytes()
    assert b"OMP_WAIT_POLICY=passive" in environment


@pytest.mark.parametrize("language, spoken", [("auto", "nl"), ("de", "de"), ("en", "en")])
def test_a_transcript_names_the_spoken_language(multilingual: Path, language: str, spoken: str) -> None:
    with Whisper(multilingual, language, threads=1) as recogniser:
        recogniser.wait_until_loaded()
        assert recogniser.transcribe(SOUND).language == spoken


def test_the_confidence_is_that_of_the_tokens(tmp_path: Path) -> None:
    """At certainty 1.2 the mean log probability of the fixture's tokens is -1.44."""
    heard = []
    for certainty in (4, 1.2):
        model = whisper_fixture.write(tmp_path / f"{certainty}.bin", SENTENCE, multilingual=True, certainty=certainty)
        with Whisper(model, "de", threads=1) as recogniser:
            recogniser.wait_until_loaded()
            heard.append(recogniser.transcribe(SOUND))
    sure, unsure = (transcript.confidence for transcript in heard)
    assert sure == pytest.approx(1, abs=0.05) and unsure == pytest.approx(math.exp(-1.44), abs=0.02)
    with Whisper(model, "de", threads=1) as recogniser:
        recogniser.wait_until_loaded()
        assert recogniser.transcribe(SOUND * 31).confidence == pytest.approx(unsure, abs=0.02)  # of all pieces


# ---- the file


def test_what_a_header_says(english: Path, multilingual: Path, tmp_path: Path) -> None:
    assert ggml.inspect(english) == Model(english, multilingual=False, translates=False)
    assert ggml.inspect(multilingual) == Model(multilingual, multilingual=True, translates=True)
    header = bytearray(multilingual.read_bytes()[:48])
    struct.pack_into("<i", header, 20, 32)  # 32 layers hear and 1 writes: a distilled model
    distilled = tmp_path / "distilled.bin"
    distilled.write_bytes(header)
    os.truncate(distilled, 20_000_000)
    assert ggml.inspect(distilled) == Model(distilled, multilingual=True, translates=False)


@pytest.mark.parametrize(
    "damage, what, code",
    [
        (lambda data: b"", "is not a Whisper model", os.EX_DATAERR),
        (lambda data: data[:47], "is not a Whisper model", os.EX_DATAERR),
        (lambda data: b"GGUF" + data[4:], "is not a Whisper model", os.EX_DATAERR),
        (lambda data: data[:4] + os.urandom(44) + data[48:], "is not a Whisper model", os.EX_DATAERR),
        (lambda data: data[: len(data) // 2], "is cut short", os.EX_DATAERR),
        (None, "No such file", os.EX_NOINPUT),
    ],
)
def test_a_file_that_whisper_never_sees(english: Path, tmp_path: Path, damage: object, what: str, code: int) -> None:
    path = tmp_path / "model.bin"
    if callable(damage):
        path.write_bytes(damage(english.read_bytes()))
    with pytest.raises(UserError, match=what) as caught:
        ggml.inspect(path)
    assert caught.value.code == code and str(path) in caught.value.message and caught.value.remedy


def test_a_folder_and_a_forbidden_file(tmp_path: Path, english: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        ggml.inspect(tmp_path)
    if os.geteuid():
        (tmp_path / "locked").touch(0)
        with pytest.raises(UserError) as caught:
            ggml.inspect(tmp_path / "locked")
        assert caught.value.code == os.EX_NOPERM


# ---- damage that only whisper.cpp finds


@pytest.mark.parametrize("damage", ["cut", "wrong shape", "wrong name"])
def test_a_damaged_model_is_one_message(english: Path, tmp_path: Path, damage: str) -> None:
    data = bytearray(english.read_bytes())
    if damage == "cut":
        del data[-100_000:]
    else:
        name = data.index(b"decoder.token_embedding.weight")
        struct.pack_into("<i", data, name - (8 if damage == "wrong shape" else 0), 0x00112233)
    path = tmp_path / "damaged.bin"
    path.write_bytes(data)
    with Whisper(path) as recogniser, pytest.raises(UserError) as caught:
        recogniser.wait_until_loaded()  # and not only when the words have been spoken
    assert caught.value.code == os.EX_DATAERR
    assert "whisper.cpp crashed (SIG" in caught.value.message and str(path) in caught.value.message
    assert "; it said: whisper_" in caught.value.message


def test_a_flipped_bit_in_a_weight_harms_nobody(english: Path, tmp_path: Path) -> None:
    data = bytearray(english.read_bytes())
    data[-3] ^= 1
    (tmp_path / "flipped.bin").write_bytes(data)
    assert len(said(tmp_path / "flipped.bin", SOUND)) == 1


def test_the_remedy_names_the_model_of_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "base.en-q5_1" / "ggml-base.en-q5_1.bin"
    path.parent.mkdir()
    path.write_bytes(bytes(1000))
    with pytest.raises(UserError) as caught:
        ggml.inspect(path)
    assert "./download_model.py --remove base.en-q5_1; ./download_model.py base.en-q5_1" in caught.value.remedy


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_in_the_middle(english: Path, sent: signal.Signals) -> None:
    with Whisper(english, threads=1) as recogniser:
        recogniser.wait_until_loaded()
        timer = threading.Timer(0.5, os.kill, (recogniser._process.pid, sent))
        timer.start()
        with pytest.raises(UserError, match=sent.name):
            recogniser.transcribe(SOUND * 600)  # twenty windows
        timer.join()
        with pytest.raises(UserError, match=sent.name):  # and so is every later one
            recogniser.transcribe(SOUND)
