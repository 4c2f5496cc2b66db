"""Voices: the machine's programs, Piper and Kokoro, and the program that speaks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import hostile_text
import numpy as np
import pytest
import real_voices
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import level_dbfs
from helpers.speak import kokoro, phonemes, piper, player, programs, voices
from helpers.speak.voice import LONGEST, speakable
from helpers.speak.voices import Request

PROGRAMS = [name for name in programs.PROGRAMS if programs.is_here(name)]
needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not here")


def speak(*arguments: object, given: str = "", **more: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "helpers.speak", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, input=given.encode(), capture_output=True, check=False, timeout=120)


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def seconds(path: Path) -> float:
    with wave.open(str(path)) as sound:
        return float(sound.getnframes() / sound.getframerate())


# ---- the text


def test_commands_of_voices_are_text() -> None:
    assert speakable("[[volm 1]] a\x1b[31m [[[cat]]]\n b") == "[ [volm 1] ] a [31m [ [ [cat] ] ] b"


@pytest.mark.parametrize("text", ["", "  ", "...", "\x00", "a" * (LONGEST + 1)])
def test_what_cannot_be_said(text: str) -> None:
    with pytest.raises(UserError) as error:
        speakable(text)
    assert error.value.code == 65


# ---- programs of the machine


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_speaks(name: str) -> None:
    voice = voices.load(Request(name))
    usual, slow = (b"".join(voice.say("a red car", speed)) for speed in (1.0, 0.5))
    assert 0.3 < len(usual) / 2 / voice.rate < 3 and level_dbfs(usual) > -40
    assert 1.3 < len(slow) / len(usual) < 2.6


@needs_espeak
def test_phoneme_commands_are_not_obeyed() -> None:
    """`[[h@l'oU]]` says hello to espeak-ng; as text it is spelled, which takes longer."""
    voice = voices.load(Request("espeak-ng"))
    said = b"".join(voice.say(speakable("[[h@l'oU]]")))
    assert len(said) > 1.5 * len(b"".join(voice.say("hello")))


@needs_espeak
def test_the_first_sound_comes_before_the_last() -> None:
    """A long text: the first piece is there in a small part of the time that all of it takes."""
    voice = voices.load(Request("espeak-ng"))
    began = time.monotonic()
    pieces = voice.say("A red car on the beach. " * 400)
    next(pieces)
    first = time.monotonic() - began
    for _ in pieces:
        pass
    assert first < (time.monotonic() - began) / 4


@needs_espeak
def test_hostile_text_ends() -> None:
    voice, spoken = voices.load(Request("espeak-ng")), 0
    for number in range(60):
        try:
            said = speakable(hostile_text.line(number).decode(errors="replace"))
        except UserError:
            continue
        spoken += any(map(any, voice.say(said)))  # a sample that is not zero
    assert spoken > 40


def test_a_program_of_the_users_own(tmp_path: Path) -> None:
    sound = player.wav(b"\1\2" * 8000, 8000)
    (tmp_path / "sound.wav").write_bytes(sound)
    own = executable(tmp_path / "melo", f"cat >'{tmp_path}/given'; cat '{tmp_path}/sound.wav'")
    voice = voices.load(Request(str(own)))
    assert b"".join(voice.say("-v a $(cat) 'car'")) == b"\1\2" * 8000 and voice.rate == 8000
    assert (tmp_path / "given").read_text() == "-v a $(cat) 'car'\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no licence' >&2; exit 3", "made no sound .no licence."),
        ("cat >/dev/null", "made no sound"),
        ("echo RIFF, or not", "made no sound"),
        ("sleep 60", "makes no sound"),
    ],
)
def test_a_program_that_fails(tmp_path: Path, script: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PATIENCE", 1.0)
    with pytest.raises(UserError, match=message) as error:
        voices.load(Request(str(executable(tmp_path / "voice", script))))
    assert error.value.code == 69


# ---- the choice


@pytest.mark.parametrize(
    ("name", "language", "code", "message"),
    [
        ("nobody", "en", 64, "no model is called 'nobody'"),
        ("base.en-q5_1", "en", 64, "is not a voice"),
        ("piper-joe", "en", 69, "not on this machine"),
        ("./nothing.onnx", "en", 66, "there is no"),
        ("/etc/passwd", "en", 65, "is not a voice"),
        ("flite", "de", 69, "flite does not speak de"),
        ("espeak-ng:en;reboot", "en", 64, "not the name of a speaker"),
        ("", "xx", 69, "no voice on this machine speaks xx"),
    ],
)
def test_a_voice_that_is_not_there(tmp_path: Path, name: str, language: str, code: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        voices.choose(Request(name, language, tmp_path))
    assert error.value.code == code


@needs_espeak
def test_the_best_voice_for_a_language() -> None:
    assert voices.choose(Request(language="de", models=Path("/nowhere"))).kind == "espeak-ng"


# ---- phonemes


@needs_espeak
def test_phonemes_keep_the_punctuation() -> None:
    assert phonemes.phonemes("Really? Yes, a cat.", "en-us") == "ɹˈiəli? jˈɛs, ɐ kˈæt."
    assert phonemes.phonemes("Dr. Smith has 3.5 boats!", "en-us").count(".") == 0
    assert "(" not in phonemes.phonemes("Ich mag Computer und Sandwiches", "de")


def test_sentences() -> None:
    pytest.importorskip("sentencex")
    text = "Dr. Smith paid 3.5 million, e.g. for a boat. It is red! See fig. 2."
    assert phonemes.sentences(text, "en") == [
        "Dr. Smith paid 3.5 million, e.g. for a boat.",
        "It is red!",
        "See fig. 2.",
    ]


# ---- Piper and Kokoro


@needs_espeak
def test_piper_is_what_onnxruntime_computes() -> None:
    """The real voice joe, against ONNX Runtime with the same symbols: 60 dB."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = real_voices.joe()
    voice = voices.load(Request(str(path)))
    assert isinstance(voice, piper.Piper) and (voice.language, voice.rate) == ("en", 22050)
    ids = voice._ids(phonemes.phonemes("A delicious burger on a blue background.", "en-us"))
    reference = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"input": np.array([ids]), "input_lengths": np.array([len(ids)]), "scales": np.array([0, 1, 0], np.float32)}
    [expected] = reference.run(None, given)
    said = b"".join(voice.say("A delicious burger on a blue background."))
    assert snr(np.frombuffer(said, "<i2")[: expected.size], expected.ravel() * 32767) > 60
    assert said == b"".join(voice.say("A delicious burger on a blue background."))
    assert len(said) < len(b"".join(voice.say("A delicious burger on a blue background.", 0.6)))


@needs_espeak
def test_kokoro_is_what_onnxruntime_computes() -> None:
    """The real Kokoro, 8 bit, against ONNX Runtime: the same length, and nearly the same sound (its 8-bit arithmetic
    rounds in another order)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = real_voices.kokoro()
    voice = voices.load(Request(str(folder)))
    assert isinstance(voice, kokoro.Kokoro)
    spoken = kokoro.as_trained(phonemes.phonemes("A red car.", "en-us"), "a")
    ids = [voice._symbols[sign] for sign in spoken]
    reference = onnxruntime.InferenceSession(str(folder / "onnx" / "model_quantized.onnx"))
    given = {"tokens": [[0, *ids, 0]], "style": voice._styles[len(ids) - 1][None], "speed": np.ones(1, np.float32)}
    expected = reference.run(None, given)[0].ravel()
    said = np.frombuffer(b"".join(voice.say("A red car.")), "<i2")
    assert abs(said.size - expected.size) <= 0.05 * expected.size
    assert 10 ** (abs(level_dbfs(said.tobytes()) - level_dbfs((expected * 32767).astype("<i2").tobytes())) / 20) < 1.2


def snr(said: NDArray[Any], expected: NDArray[Any]) -> float:
    error = ((said - expected) ** 2).sum()
    return float(10 * np.log10((expected**2).sum() / max(error, 1e-9)))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"phoneme_id_map": {"_": [0]}, "audio": {}}', '{"phoneme_id_map": []}']
)
def test_a_voice_that_lies(tmp_path: Path, content: str) -> None:
    (tmp_path / "joe.onnx").write_bytes(b"not ONNX")
    (tmp_path / "joe.onnx.json").write_text(content)
    with pytest.raises(UserError) as error:
        voices.load(Request(f"{tmp_path}/joe.onnx"))
    assert error.value.code == 65


def test_a_network_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "joe.onnx").write_bytes(b"not ONNX")
    ids = {symbol: [number] for number, symbol in enumerate("^$_ab")}
    about = {"phoneme_id_map": ids, "audio": {"sample_rate": 8000}, "espeak": {"voice": "en"}}
    (tmp_path / "joe.onnx.json").write_text(json.dumps({**about, "inference": {"length_scale": 1}}))
    with pytest.raises(UserError, match="not a network that can speak") as error:
        voices.load(Request(f"{tmp_path}/joe.onnx"))
    assert error.value.code == 65


# ---- the program


@needs_espeak
def test_a_file_and_pcm(tmp_path: Path) -> None:
    run = speak("a red car", "--voice", "espeak-ng", "--to", tmp_path / "car.wav")
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert (
        speak("a red car", "--voice", "espeak-ng", "--to", "/dev/stdout").stdout == (tmp_path / "car.wav").read_bytes()
    )
    run = speak("--voice", "espeak-ng", "--to", "-", given="a red car\n\na blue house\n")
    assert run.returncode == 0 and len(run.stdout) / 32000 > 1.5 * seconds(tmp_path / "car.wav")


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    for arguments, code in (((), 65), (("...",), 65), (("x", "--speed", "9"), 64), (("x", "--voice", "nobody"), 64)):
        run = speak(*arguments)
        assert run.returncode == code and len(run.stderr.splitlines()) <= 2, (arguments, run.stderr)
    run = speak("a car", "--voice", PROGRAMS[0], "--to", tmp_path / "nowhere" / "car.wav")
    assert run.returncode == 73 and b"cannot write" in run.stderr


def test_the_list_of_voices() -> None:
    said = speak("--list").stdout.decode()
    assert "piper-joe" in said and "CC0" in said and all(name in said for name in PROGRAMS)
