"""Small Stable Diffusion models of random weights, made by diffusers, and what diffusers computes with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.paths import ROOT
from helpers.draw import diffusion

diffusers: Any = pytest.importorskip("diffusers")
torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

BUILTIN = ROOT / "models" / "builtin"
TEXT = {"vocab_size": 1604, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "bos_token_id": 1602,
        "eos_token_id": 1603, "pad_token_id": 1603}  # fmt: skip
UNET = {"sample_size": 8, "cross_attention_dim": 32, "norm_num_groups": 4, "block_out_channels": (8, 16, 24, 24)}
VAE = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 64,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}  # fmt: skip
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
             "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip

# The architectures of Stable Diffusion 1.5, 2.1 and small-stable-diffusion-v0, and what else is computed, in small.
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "text_encoder": {"hidden_act": "quick_gelu", "num_hidden_layers": 3},
        "unet": {"attention_head_dim": 2},
        "vae": {"layers_per_block": 2},
        "scheduler": {"prediction_type": "epsilon"},
    },
    "sd2": {
        "text_encoder": {"hidden_act": "gelu", "num_hidden_layers": 2},
        "unet": {"attention_head_dim": (1, 2, 3, 4), "use_linear_projection": True, "upcast_attention": True},
        "vae": {"scaling_factor": 0.3},
        "scheduler": {"prediction_type": "v_prediction"},
    },
    "small": {
        "text_encoder": {"hidden_act": "quick_gelu", "num_hidden_layers": 1, "layer_norm_eps": 1e-3},
        "unet": {
            "layers_per_block": (1, 2, 1, 1), "transformer_layers_per_block": (2, 1, 1, 1), "mid_block_type": None,
            "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3,
        },
        "vae": {"use_post_quant_conv": False, "mid_block_add_attention": False},
        "scheduler": {"prediction_type": "epsilon"},
    },
    # No architecture of anyone's, and the quickest to compile: for tests of files.
    "tiny": {
        "text_encoder": {"num_hidden_layers": 1},
        "unet": {
            "sample_size": 16, "layers_per_block": 1, "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        "vae": {
            "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        "scheduler": {"prediction_type": "epsilon"},
    },
}  # fmt: skip


def random_model(folder: Path, name: str, **save: Any) -> Path:
    """A small Stable Diffusion of random weights, saved by diffusers, with the built-in vocabulary."""
    torch.manual_seed(7)
    parts = MODELS[name]
    text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT | parts["text_encoder"]))
    vae = diffusers.AutoencoderKL(**VAE | parts["vae"])
    unet = diffusers.UNet2DConditionModel(**UNET | parts["unet"])
    for module in (text_encoder, vae, unet):  # biases and norms are 0 and 1 at first: wrong ones would go unseen
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(BUILTIN / "tokenizer")
    scheduler = diffusers.DDIMScheduler(**SCHEDULER | parts["scheduler"])
    pipe = diffusers.StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, None, None, None, False)
    pipe.save_pretrained(folder, **save)
    shutil.copytree(BUILTIN / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    return folder


def reference(folder: Path, scheduler: str = "DDIMScheduler") -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def close(mine: NDArray[Any], theirs: Any) -> None:
    expected = theirs.detach().numpy()
    assert mine.shape == expected.shape
    assert mine.dtype == np.float32
    assert np.abs(mine - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


def picture(engine: Any, seed: int = 1, steps: int = 2, guidance: float = 2.0) -> NDArray[Any]:
    text, unwanted = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in ("a red heart", ""))
    return diffusion.draw(engine, text, unwanted, seed=seed, steps=steps, guidance=guidance, sampler="ddim")
