"""The built-in recogniser on synthetic voices: few errors, nothing out of noise, and no salad of words."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import own_names, spoken_prompts
from benchmark.denoise import listen
from benchmark.speech import word_error_rate
from benchmark.spoken_prompts import Recording
from benchmark.voices import speak
from helpers.core.errors import UserError
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.listen import audio, builtin_recogniser, pronunciation
from helpers.listen.builtin_recogniser import BuiltinRecogniser

OTHER = (  # speech that has nothing to do with the little world
    "the stock market fell sharply on tuesday afternoon",
    "my grandmother used to live near the border",
    "we should have listened to what he was telling us",
    "quantum mechanics describes particles very precisely",
    "she sells insurance policies to small companies",
    "an accordion player under the eiffel tower",
)
Samples = npt.NDArray[np.float64]
SECONDS = np.arange(3 * RATE) / RATE


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Five of the thirty prompts, in every voice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_prompts, "PROMPTS", spoken_prompts.PROMPTS[2::6])
        return spoken_prompts.make(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def recogniser() -> BuiltinRecogniser:
    return BuiltinRecogniser()


def pcm(samples: Samples) -> bytes:
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


@pytest.mark.slow
def test_word_error_rate(recordings: list[Recording]) -> None:
    """A sixth of what `python -m benchmark speech` measures."""
    heard = listen(recordings)
    assert len({item.sample.voice for item in heard}) == 5 and len(heard) == 25
    assert word_error_rate(heard) <= 0.10
    for voice in {item.sample.voice for item in heard}:
        assert word_error_rate(item for item in heard if item.sample.voice == voice) <= 0.20, voice


@pytest.mark.parametrize("voice", ["slt", "espeak-us"])
def test_level_and_silence_do_not_matter(
    recordings: list[Recording], recogniser: BuiltinRecogniser, voice: str
) -> None:
    path, _, prompt = next(r for r in recordings if r.voice == voice and r.prompt.text.startswith("draw me a castle"))
    samples = np.frombuffer(audio.decode(path), np.int16).astype(float)
    samples *= 20000 / np.abs(samples).max()
    silence = np.zeros(4 * RATE)
    room = np.random.default_rng(1).normal(0, 40, len(samples) + 2 * len(silence))
    click = np.concatenate([np.full(3, 10_000), np.zeros(len(samples) - 3)])
    for heard in (samples / 100, samples, np.concatenate([silence, samples, silence]) + room, samples / 50 + click):
        assert recogniser.transcribe(pcm(heard)).text == prompt.text
        kept = len(builtin_recogniser.trimmed(pcm(heard))) / BYTES_PER_SECOND
        assert len(samples) / RATE - 0.7 < kept < len(samples) / RATE + 0.3


@pytest.mark.parametrize(
    "noise",
    {
        "nothing": SECONDS[:0],
        "one sample": SECONDS[:1],
        "digital silence": 0 * SECONDS,
        "white": np.random.default_rng(0).normal(0, 3000, len(SECONDS)),
        "brown": np.cumsum(np.random.default_rng(0).normal(0, 300, len(SECONDS))),
        "hum": 2000 * np.sign(np.sin(2 * np.pi * 50 * SECONDS)),
        "tone": 8000 * np.sin(2 * np.pi * 440 * SECONDS),
        "chord": sum(2500 * np.sin(2 * np.pi * f * SECONDS) for f in (261, 329, 392)),
        "beep": 8000 * np.sin(2 * np.pi * 800 * SECONDS) * (SECONDS > 1) * (SECONDS < 1.4),
    }.items(),
    ids=lambda item: item[0],
)
def test_noise_is_no_speech(recogniser: BuiltinRecogniser, noise: tuple[str, Samples]) -> None:
    assert recogniser.transcribe(pcm(noise[1])).text == ""


def test_other_speech_is_refused_more_often_than_not(recogniser: BuiltinRecogniser, tmp_path: Path) -> None:
    refused = []
    for number, text in enumerate(OTHER):
        speak("rms", text, tmp_path / f"{number}.wav")
        try:
            recogniser.transcribe(audio.decode(tmp_path / f"{number}.wav"))
        except UserError as error:
            assert error.code == 65 and "not understood" in error.message
            assert "./download_model.py base.en-q5_1" in error.remedy
            refused.append(text)
    assert len(refused) > len(OTHER) / 2


def test_recordings_do_not_colour_each_other(recordings: list[Recording], recogniser: BuiltinRecogniser) -> None:
    first, loud = (audio.decode(recording.path) for recording in (recordings[0], recordings[-1]))
    alone = BuiltinRecogniser().transcribe(first).text
    recogniser.transcribe(loud)
    recogniser.transcribe(pcm(np.random.default_rng(0).normal(0, 9000, len(SECONDS))))
    assert recogniser.transcribe(first).text == alone == recordings[0].prompt.text


def test_a_text_does_not_depend_on_what_was_heard_before(recordings: list[Recording]) -> None:
    """Each of some noisy recordings: alone, and in another order, with the first seconds of another one between."""

    def text(recogniser: BuiltinRecogniser, sound: bytes) -> str:
        try:
            return recogniser.transcribe(sound).text
        except UserError as error:
            return error.message  # with the nearest words

    random = np.random.default_rng(0)
    sounds = []
    for recording in recordings[::5]:
        samples = np.frombuffer(audio.decode(recording.path), "<i2").astype(np.float64)
        sounds.append(pcm(samples + random.normal(0, 0.4 * samples.std(), len(samples))))
    alone = [text(BuiltinRecogniser(vocabulary=["Kylo"]), sound) for sound in sounds]
    recogniser = BuiltinRecogniser(vocabulary=["Kylo"])
    for number in random.permutation(len(sounds)):
        text(recogniser, sounds[number - 1][: 2 * BYTES_PER_SECOND])
        assert text(recogniser, sounds[number]) == alone[number]
    assert len(set(alone)) == len(sounds)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, str]]:
    """Six of the forty sentences with names that it does not know, in two voices."""
    folder, said = tmp_path_factory.mktemp("names"), own_names.SENTENCES[8:14]
    for number, text in enumerate(said):
        speak(("rms", "awb")[number % 2], text, folder / f"{number}.wav")
    return [(audio.decode(folder / f"{number}.wav"), text) for number, text in enumerate(said)]


def wrong(recogniser: BuiltinRecogniser, names: list[tuple[bytes, str]]) -> int:
    """How many names are not in what was recognised."""
    missing = 0
    for sound, text in names:
        heard = ""
        with contextlib.suppress(UserError):
            heard = recogniser.transcribe(sound).text
        missing += not any(name in text.split() and name in heard.split() for name in own_names.NAMES)
    return missing


def test_it_learns_names(
    names: list[tuple[bytes, str]], recordings: list[Recording], recogniser: BuiltinRecogniser
) -> None:
    """All forty sentences in five voices: docs/recording.md."""
    learned = BuiltinRecogniser(vocabulary=(*own_names.NAMES, "cat", "東京", "R2D2"))
    assert wrong(recogniser, names) == len(names)
    assert wrong(learned, names) <= 1
    for recording in recordings[::6]:  # nothing else changes
        sound = audio.decode(recording.path)
        assert learned.transcribe(sound).text == recogniser.transcribe(sound).text


@pytest.mark.parametrize(
    ("name", "phones"),
    {
        "Berlin": "B ER L IH N",  # of the dictionary
        "Zorblax": "Z AO R B L AE K S",
        "Vexley": "V EH K S L IY",
        "Thrindle": "TH R IH N D AH L",
        "Fjørd-Ågnès": "F JH AO R D AE G N EH S",
        "BKW": "B IY K EY D AH B AH L Y UW",
    }.items(),
)
def test_how_a_name_is_said(name: str, phones: str) -> None:
    assert phones in pronunciation.pronunciations([name])[name]


@pytest.mark.parametrize("name", ["東京", "R2D2", "…"])
def test_a_name_that_english_letters_do_not_spell(name: str) -> None:
    assert pronunciation.pronunciations([name]) == {}


@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=30))
def test_every_name_has_pronunciations_in_the_phones_of_the_recogniser(word: str) -> None:
    variants = pronunciation.by_rule(word)
    assert len(variants) <= pronunciation.MOST and {p for v in variants for p in v.split()} <= set(PHONES.split())


# Of the CMU dictionary
PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"


def test_it_prints_nothing(recordings: list[Recording], capfd: pytest.CaptureFixture[str]) -> None:
    BuiltinRecogniser().transcribe(audio.decode(recordings[0].path))
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin_recogniser, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="recogniser") as caught:
        BuiltinRecogniser()
    assert caught.value.code == 69 and "git restore" in caught.value.remedy


def test_it_loads_fast() -> None:
    """Imports, acoustic model, dictionary and language model: 0.2 s of processor time on a quiet machine."""
    program = (
        "import resource; from helpers.listen.builtin_recogniser import BuiltinRecogniser; BuiltinRecogniser();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert float(output) < 1
