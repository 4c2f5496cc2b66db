"""SeamlessM4T v2 through its class: a tiny random model says what transformers says with it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_speech

from helpers.core.errors import UserError
from helpers.core.pcm import RATE
from helpers.listen import recognisers
from helpers.listen.recognisers import Request

SENTENCES = ["a red apple on a wooden table", "ein roter Apfel auf einem Tisch", "une pomme rouge sur une table"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("seamless")
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5), model_writer=pieces, vocab_size=40, model_type="bpe", minloglevel=2
    )
    (folder / "sentencepiece.bpe.model").write_bytes(pieces.getvalue())
    torch.manual_seed(33)
    small = dict.fromkeys(("encoder_layers", "decoder_layers", "speech_encoder_layers", "t2u_encoder_layers"), 1)
    small |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "speech_encoder_attention_heads"), 2)
    small |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "speech_encoder_intermediate_size"), 32)
    # With tied embeddings a random decoder says one token again and again
    small |= {"vocab_size": 44, "hidden_size": 32, "max_position_embeddings": 128, "max_new_tokens": 12}
    config = transformers.SeamlessM4Tv2Config(initializer_range=1.0, tie_word_embeddings=False, **small)
    model = transformers.SeamlessM4Tv2ForSpeechToText(config).eval()
    model.generation_config._from_model_config = False
    model.generation_config.max_new_tokens = 12
    model.generation_config.text_decoder_lang_to_code_id = {"eng": 41, "deu": 42}
    model.save_pretrained(folder)
    transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder


def by_transformers(folder: Path, pcm: bytes, language: str) -> list[int]:
    import transformers

    model: Any = transformers.SeamlessM4Tv2ForSpeechToText.from_pretrained(folder).eval()
    samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32768
    inputs = transformers.SeamlessM4TFeatureExtractor.from_pretrained(folder)(
        samples, sampling_rate=RATE, return_tensors="pt"
    )
    tokens: list[int] = model.generate(**inputs, tgt_lang=language)[0].tolist()
    return tokens


@pytest.mark.parametrize(
    ("language", "translate", "target"),
    [("de", False, "deu"), ("en", False, "eng"), ("de", True, "eng"), ("auto", True, "eng")],
)
def test_it_says_what_transformers_says(folder: Path, language: str, translate: bool, target: str) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    pcm = tiny_speech.tone(2)
    tokens = by_transformers(folder, pcm, target)
    expected = pieces.decode([token - 1 for token in tokens if 3 < token <= 40]).strip()
    with recognisers.load(Request(f"{folder}/", language, translate)) as recogniser:
        transcript = recogniser.transcribe(pcm)
    assert transcript.text == expected and len(set(expected)) > 5
    assert transcript.language == ("" if language == "auto" else language)
    assert transcript.confidence and 0 < transcript.confidence <= 1


def test_it_does_not_detect_the_language(folder: Path) -> None:
    with pytest.raises(UserError, match="cannot detect the language"):
        recognisers.choose(Request(f"{folder}/", "auto"))


def test_a_language_that_it_does_not_know(folder: Path) -> None:
    with pytest.raises(UserError, match="does not know the language 'ja'") as raised:
        recognisers.load(Request(f"{folder}/", "ja")).__enter__()
    assert raised.value.code == os.EX_USAGE


def test_a_damaged_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="cannot load the SeamlessM4T model") as raised:
        recognisers.load(Request(f"{tmp_path}/", "de")).__enter__()
    assert raised.value.code == os.EX_DATAERR and "\n" not in raised.value.message
