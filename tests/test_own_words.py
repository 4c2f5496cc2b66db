"""The user's own words: replacements, fillers and names, and what is said about a bad line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.voices import speak
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.listen import whisper
from helpers.words import own_words
from helpers.words.own_words import Corrections


def corrections(folder: Path, text: str | bytes = "") -> Corrections:
    file = folder / "replacements.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Corrections(file)


@pytest.mark.parametrize(
    ("heard", "meant"),
    {
        "Um, a cat.": "A cat.",
        "a cat, um, on the beach": "a cat, on the beach",
        "a cat um on the beach": "a cat on the beach",
        "a cat um, a dog": "a cat, a dog",
        "A cat. Um. A dog.": "A cat. A dog.",
        "a cat, uh.": "a cat.",
        "a cat, uh": "a cat",
        "Um... uh, a cat": "A cat",
        "um": "",
        "a doctor in the ER": "a doctor in the ER",
        "Uh-oh, an umbrella": "Uh-oh, an umbrella",
        "the UM campus, er, at night": "the UM campus, at night",
    }.items(),
)
def test_fillers_are_removed(tmp_path: Path, heard: str, meant: str) -> None:
    assert corrections(tmp_path).applied(heard, "en") == meant


@pytest.mark.parametrize(
    ("language", "heard", "meant"),
    [
        ("de", "Äh, ein Hund um das Haus", "Ein Hund um das Haus"),
        ("fr", "un chat, euh, sur la plage", "un chat, sur la plage"),
        ("ja", "えーと、猫", "猫"),
        ("xx", "um a cat", "um a cat"),
    ],
)
def test_fillers_are_those_of_the_language(tmp_path: Path, language: str, heard: str, meant: str) -> None:
    assert corrections(tmp_path).applied(heard, language) == meant


ROWS = (
    "heard,meant\nsorblacks,Zorblax\nnew zorb land,New Zorbland\nplease,\num bongo,Um Bongo\ncat,dog\ndog,cat\n猫,cat\n"
)


@pytest.mark.parametrize(
    ("heard", "meant"),
    {
        "please draw Sorblacks": "draw Zorblax",
        "a house in new  zorb land": "a house in New Zorbland",
        "sorblacksy pleased": "sorblacksy pleased",
        "Sorblacks's house": "Zorblax's house",
        "um, um bongo": "Um Bongo",
        "a cat and a dog": "a dog and a cat",
        "a bobcat": "a bobcat",
        "黒猫": "黒cat",
    }.items(),
)
def test_whole_words_are_replaced_once(tmp_path: Path, heard: str, meant: str) -> None:
    assert corrections(tmp_path, ROWS).applied(heard, "en") == meant


@pytest.mark.parametrize(
    "rows",
    [
        "sorblacks,Zorblax\n",
        "\ufeffheard,meant\r\nsorblacks,Zorblax\r\n",
        "Replacement,Original\nZorblax,sorblacks\n",  # Talon
        '# mine\n\n"sorblacks", "Zorblax"\n',
        "from\tto\nsorblacks\tZorblax\n",
        "sorblacks,first\nSorblacks,Zorblax\n",
    ],
)
def test_lists_of_other_programs(tmp_path: Path, rows: str) -> None:
    assert corrections(tmp_path, rows).applied("a sorblacks", "en") == "a Zorblax"


@pytest.mark.parametrize(
    ("rows", "line", "problem"),
    [
        ("a,b\nc\n", 2, "1 columns"),
        ("a,b\n\nc,d,e\n", 3, "3 columns"),
        ('a,b\n"c,d\n', 2, "unexpected end of data"),
        ("a,b\n,d\n", 2, "empty"),
        (b"a,b\n\xff,d\n", 2, "not UTF-8"),
        (f"{'a' * 101},b\n", 1, "longer than 100"),
        ("".join(f"a{i},b\n" for i in range(5001)), 5001, "more than 5000"),
    ],
)
def test_a_bad_row_is_said_with_its_number(tmp_path: Path, rows: str | bytes, line: int, problem: str) -> None:
    with pytest.raises(UserError, match=rf"replacements.csv, line {line}: .*{problem}") as caught:
        corrections(tmp_path, rows)
    assert caught.value.code == 65 and "\n" not in caught.value.message


def test_a_file_that_is_too_large_or_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="larger than") as caught:
        corrections(tmp_path, b"# " + bytes(1 << 20))
    assert caught.value.code == 65
    with pytest.raises(UserError, match="no file") as caught:
        Corrections(tmp_path / "other.csv")
    assert caught.value.code == 66


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["um", "Er", "ER", "a", "Cat", "umbrella"]), st.sampled_from([" ", ", ", ". "])))
)
def test_only_fillers_are_lost(parts: list[tuple[str, str]]) -> None:
    said = Corrections().applied("".join(word + between for word, between in parts), "en")
    kept = [word.casefold() for word, _ in parts if word not in ("um", "Er")]
    assert [word.casefold() for word in re.findall(r"\w+", said)] == kept
    assert ", ," not in said and not said.startswith((",", "."))


def test_names_are_lines(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffZorblax\r\n\n# mine\nNew Zorbland\n Zorblax \nMüller\n")
    assert own_words.vocabulary(tmp_path / "names.txt") == ("Zorblax", "New Zorbland", "Müller")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (b"Zorblax\n12\n", 2, "letter"),
        (b"a" * 101, 1, "longer"),
        (b"\n\xff", 2, "UTF-8"),
        (b"\n".join(b"a%d" % i for i in range(501)), 501, "more than 500"),
    ],
)
def test_a_bad_name_is_said_with_its_number(tmp_path: Path, text: bytes, line: int, problem: str) -> None:
    (tmp_path / "names.txt").write_bytes(text)
    with pytest.raises(UserError, match=rf"names.txt, line {line}: .*{problem}") as caught:
        own_words.vocabulary(tmp_path / "names.txt")
    assert caught.value.code == 65


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "castle.wav"
    speak("rms", "draw me a castle at sunset", path)
    return path


def transcribed(voice: Path, tmp_path: Path, **variables: str) -> tuple[int, str, str]:
    environment = {"PATH": "/usr/bin:/bin", "A2I_MODELS": str(tmp_path), "A2I_SESSION": str(tmp_path), **variables}
    command = [sys.executable, "-m", "helpers.listen.transcribe", str(voice)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_is_said_is_corrected_and_the_transcript_is_not(voice: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("castle,ice palace\ndraw me,\n")
    code, written, said = transcribed(voice, tmp_path, A2I_REPLACEMENTS=str(tmp_path / "mine.csv"))
    assert (code, written) == (0, "\x1e1 spoken\x1fa ice palace at sunset\n")
    assert "heard: a ice palace at sunset\n" in said
    assert (tmp_path / "transcript-1.txt").read_text() == "draw me a castle at sunset\n"


def test_a_bad_row_ends_the_stage(voice: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("castle\n")
    code, written, _ = transcribed(voice, tmp_path, A2I_REPLACEMENTS=str(tmp_path / "mine.csv"))
    assert (code, written) == (65, "")
    assert (
        (tmp_path / "transcribe.error")
        .read_text()
        .splitlines()[0]
        .endswith("line 1: 1 columns instead of 2 (heard,meant)")
    )


def test_a_name_is_recognised_and_spelt_as_listed(tmp_path: Path) -> None:
    speak("rms", "draw me a zorblax in the snow", tmp_path / "said.wav")
    (tmp_path / "names.txt").write_text("Zorblax\n")
    written = transcribed(tmp_path / "said.wav", tmp_path, A2I_VOCABULARY=str(tmp_path / "names.txt"))[1]
    assert written == "\x1e1 spoken\x1fdraw me a Zorblax in the snow\n"


def test_whisper_reads_the_names_that_fit() -> None:
    assert whisper.names_that_fit("en") == whisper.names_that_fit("de", ("Zorblax",)) == []
    assert whisper.names_that_fit("en", ("Zorblax", "Kwimby")) == ["Zorblax", "Kwimby"]
    many = whisper.names_that_fit("en", [f"Zorblax{number}" for number in range(500)])
    assert many[:2] == ["Zorblax0", "Zorblax1"] and 350 < len("".join(many)) <= 400


def test_a_typed_prompt_is_not_corrected() -> None:
    """Nothing on the way of a typed prompt knows the corrections."""
    using = {
        path.name
        for path in (ROOT / "helpers").rglob("*.py")
        if "own_words import Corrections" in path.read_text(encoding="utf-8")
    }
    assert using - {"own_words.py"} == {"transcribe.py"}
