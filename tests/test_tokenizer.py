"""Token ids against transformers' CLIPTokenizer, and what is said to be cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw.tokenizer import Tokenizer

transformers: Any = pytest.importorskip("transformers")

BUILTIN = ROOT / "models/builtin/tokenizer"


@pytest.fixture(scope="module", params=["end", "exclamation mark"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in vocabulary, padded as Stable Diffusion 1.5 does and as 2.x does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(BUILTIN / name, folder / name)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", **special}
        )
    )
    if request.param == "exclamation mark":
        special["unk_token"] = special["eos_token"]
        (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": "!"}))
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer(folder), transformers.CLIPTokenizer.from_pretrained(folder)


def agree(both: tuple[Tokenizer, Any], text: str) -> None:
    mine, theirs = both
    expected = theirs(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert mine.encode(text).ids.tolist() == expected


@pytest.mark.parametrize("words", [0, 1, 74, 75, 76, 77, 78, 500])
def test_as_many_tokens_as_fit(both: tuple[Tokenizer, Any], words: int) -> None:
    text = " ".join(["a"] * words)
    agree(both, text)
    assert both[0].encode(text).cut.split() == ["a"] * max(0, words - 75)


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])
def test_a_folder_of_apple_has_the_vocabulary_only(tmp_path: Path, padding: str) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(BUILTIN / name, tmp_path / name)
    theirs = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), pad_token=padding)
    for text in ("", "a burger", "a " * 500, "🍔 猫 \x00"):
        agree((Tokenizer(tmp_path, padding=padding), theirs), text)


TEXTS = (
    *(
        "A Delicious BURGER",
        "Élan café naïve",
        "e\u0301 combining",
        "猫がビーチに",
        "🍔🍟 👩\u200d👩\u200d👧",
        "½ Ⅷ ٣",
        "!",
    ),
    *("it's we'll I'd THEY'RE", "3 cats, 42 dogs!", "wow!!! so!good !", "tab\tnew\nline\r\u00a0x\u2003y", "x" * 400),
    *("\x00\x01\x7f\x85", "  lead and trail  ", "a<|endoftext|>b", "<|startoftext|>", "İstanbul ẞ ŒUVRE", "\ufeffbom"),
    *("\u200fעברית\u202e", "\u0000", "a,b;c:d.e/f_g-h"),
)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text(both: tuple[Tokenizer, Any], text: str) -> None:
    agree(both, text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=120))
def test_random_text(both: tuple[Tokenizer, Any], text: str) -> None:
    agree(both, text)


def test_what_was_cut_starts_with_a_whole_word() -> None:
    text = "a burger " * 36 + "a supercalifragilistic picture of  a Cat, with Über-ears"
    cut = Tokenizer(BUILTIN, 77).encode(text).cut
    assert cut == "supercalifragilistic picture of  a Cat, with Über-ears"
    assert Tokenizer(BUILTIN, 500).encode(text).cut == ""


def test_what_was_cut_of_a_text_without_spaces_is_only_its_end() -> None:
    text = "猫" * 100
    cut = Tokenizer(BUILTIN, 77).encode(text).cut
    assert 0 < len(cut) < 100
    assert text.endswith(cut)


def test_a_lone_surrogate_is_no_exception() -> None:
    assert len(Tokenizer(BUILTIN, 32).encode("a \ud800 cat").ids) == 32


@pytest.mark.parametrize("damage", ["missing", "garbage", "no end token"])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, damage: str) -> None:
    if damage != "missing":
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
        (tmp_path / "vocab.json").write_text("{" if damage == "garbage" else '{"a": 0}')
    with pytest.raises(UserError, match="tokenizer") as raised:
        Tokenizer(tmp_path)
    assert raised.value.code == 69
