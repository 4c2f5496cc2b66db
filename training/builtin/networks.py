"""The parts of the model: Stable Diffusion's own classes, made small."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.builtin.latents import CHANNELS
from training.builtin.scenes import GRID, SIZE

diffusers.utils.logging.set_verbosity_error()  # both warn about packages that we do not need
transformers.logging.set_verbosity_error()

WIDTH = 256  # of the text embedding
TOKENS = 32  # the longest caption of three adjectives and a setting has about 25


def device() -> torch.device:
    """A CUDA GPU if available, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half(where: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Multiply in bfloat16 (weights and sums stay float32): twice as fast on a CPU with bfloat16, faster on a GPU."""
    return torch.autocast(where.type, torch.bfloat16)


def tokenizer(folder: Path) -> Any:
    """The CLIP byte-pair tokenizer of a model folder: `vocab.json` and `merges.txt` under `tokenizer/`."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def tokens(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """(n, 32) token numbers, padded with the end token."""
    settings: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
    ids: torch.Tensor = tokenizer(list(texts), return_tensors="pt", **settings).input_ids
    return ids


def make_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    """Learn 1400 byte pairs from `texts`; every single byte is also a token, so there are no unknown words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    like = CLIPTokenizer()._tokenizer  # for CLIP's normalisation and splitting of text
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    learner.normalizer, learner.pre_tokenizer = like.normalizer, like.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1400, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    words += [byte + "</w>" for byte in alphabet if byte + "</w>" not in model["vocab"]]
    words += ["<|startoftext|>", "<|endoftext|>"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {**special, "model_max_length": TOKENS, "tokenizer_class": "CLIPTokenizer"}
    out = folder / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def text_encoder(tokenizer: Any) -> Any:
    """An untrained text encoder, 2.0 million weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def unet() -> Any:
    """An untrained UNet, 15.1 million weights.

    The picture is made on the way up, from the caption at 4×4, 8×8 and 16×16; with 8×8 and 4×4 alone a caption's
    subject was heeded far later. A middle block and attention on the way down came to nothing in the first weights
    (without them the loss moved by less than 0.001), so there are none: they took a seventh of the arithmetic.
    """
    return UNet2DConditionModel(
        sample_size=SIZE // GRID,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(48, 96, 192, 256),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=["DownBlock2D"] * 4,
        mid_block_type=None,
        up_block_types=[*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 3, 6, 8),
    )


def vae() -> Any:
    """An untrained autoencoder. Its decoder is used; its encoder only fills the place that the format has for it."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 5,
        up_block_types=["UpDecoderBlock2D"] * 5,
        block_out_channels=(16, 32, 64, 96, 128),
        layers_per_block=1,
        act_fn="silu",
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def scheduler() -> Any:
    """v-prediction with zero terminal SNR (Lin et al. 2023, arXiv:2305.08891): the last step is text to picture."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # what diffusers wants; with trailing spacing it changes nothing
    )
