"""Tiny random speech models of the real classes, made with PyTorch, and the folders that our recognisers load.

They say nothing sensible, but the same as transformers does with them.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers.core.pcm import RATE

WORDS = 50257  # Whisper's ids: then <|endoftext|>, and so on
LANGUAGES = 99


def tone(number: int, seconds: float = 1.5) -> bytes:
    """s16le; each number is another sound."""
    pitch = 2 * math.pi * 150 * (number + 1) / RATE
    return struct.pack(
        f"<{int(seconds * RATE)}h", *(int(9000 * math.sin(pitch * n)) for n in range(int(seconds * RATE)))
    )


class Tiny(NamedTuple):
    """model: of transformers; features: its extractor; decode: token ids to text; folder: what we load."""

    model: Any
    features: Any
    decode: Any
    folder: Path


def whisper(folder: Path, seed: int = 0) -> Tiny:
    """A Whisper of 2+2 layers with a multilingual vocabulary, as transformers has it and as CTranslate2 loads it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    converters = pytest.importorskip("ctranslate2.converters")
    codes = pytest.importorskip("faster_whisper.tokenizer")
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"Ġw{number}" for number in range(len(alphabet), WORDS - 1)), ""]  # as in Whisper
    languages = [f"<|{code}|>" for code in codes._LANGUAGE_CODES[:LANGUAGES]]
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(word, special=True) for word in special])
    ids: dict[str, Any] = {word: tokenizer.token_to_id(word) for word in special}

    torch.manual_seed(seed)
    config = transformers.WhisperConfig(
        vocab_size=ids["<|notimestamps|>"] + 1 + 1501, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3,
        decoder_start_token_id=ids["<|startoftranscript|>"], pad_token_id=WORDS, bos_token_id=WORDS, eos_token_id=WORDS,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        decoder = model.model.decoder
        decoder.layer_norm.weight *= 5  # so that it is sure of what it says, and says it only once
        decoder.layer_norm.bias[0] = 20  # no special tokens: no timestamps where none are asked for
        decoder.embed_tokens.weight[:, 0] = 0
        decoder.embed_tokens.weight[WORDS + 1 :, 0] = -10
    ours = codes.Tokenizer(tokenizer, True, task="transcribe", language="de")
    settings = model.generation_config
    settings.suppress_tokens = list(pytest.importorskip("faster_whisper.transcribe").get_suppressed_tokens(ours, [-1]))
    settings.begin_suppress_tokens = [tokenizer.token_to_id("Ġ"), WORDS]
    settings.no_timestamps_token_id = ids["<|notimestamps|>"]
    settings.is_multilingual, settings._from_model_config = True, False
    settings.lang_to_id = {word: ids[word] for word in languages}
    settings.task_to_id = {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")}
    source = folder / "transformers"
    model.save_pretrained(source)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    ).save_pretrained(source)
    converters.TransformersConverter(str(source)).convert(str(folder / "ct2"))
    tokenizer.save(str(folder / "ct2" / "tokenizer.json"))
    return Tiny(model, transformers.WhisperFeatureExtractor(), tokenizer.decode, folder / "ct2")
