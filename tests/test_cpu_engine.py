"""The CPU engine against diffusers and torch: every network by itself, whole pictures, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import diffusion, engines
from helpers.engines import cpu
from helpers.stage import ROOT

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

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


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of compiled models for these tests alone."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache") / "openvino"
    patch.setattr(cpu, "CACHE", folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {"builtin": BUILTIN}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = random_model(tmp_path_factory.mktemp("model") / name, name)
        return made[name]

    return make


def reference(folder: Path, scheduler: str = "DDIMScheduler") -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def close(mine: np.ndarray, theirs: Any) -> None:
    expected = theirs.detach().numpy()
    assert mine.shape == expected.shape
    assert mine.dtype == np.float32
    assert np.abs(mine - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ["builtin", *MODELS])
def test_every_network_agrees_with_torch(model: Callable[[str], Path], name: str) -> None:
    folder = model(name)
    pipe, engine = reference(folder), engines.load("cpu", folder)
    random = np.random.RandomState(3)
    with torch.no_grad():
        tokens = engine.tokenizer.encode("a delicious burger on a blue background").ids
        text = engine.encode_text(tokens)
        close(text, pipe.text_encoder(torch.from_numpy(tokens[None]))[0])
        width, height = engine.size
        shape = (2, engine.channels, height // engine.factor, width // engine.factor)
        latents, both = random.randn(*shape).astype(np.float32), np.concatenate([text[:, ::-1], text])
        for timestep in (999, 500, 1, 0):
            theirs = pipe.unet(torch.from_numpy(latents), timestep, torch.from_numpy(both))[0]
            close(engine.predict_noise(latents, timestep, both), theirs)
        scaled = torch.from_numpy(latents[:1]) / pipe.vae.config.scaling_factor
        close(engine.decode(latents[:1]), pipe.vae.decode(scaled)[0])


@pytest.mark.parametrize("size", [(72, 40), (64, 128)])
def test_other_sizes_than_the_trained_one(model: Callable[[str], Path], size: tuple[int, int]) -> None:
    """Also where halving a side leaves a remainder, and the way up has to meet the way down."""
    folder = model("sd1")
    engine, pipe = engines.load("cpu", folder, size=size, guidance=False), reference(folder)
    random = np.random.RandomState(1)
    latents = random.randn(1, 4, size[1] // 8, size[0] // 8).astype(np.float32)
    text = random.randn(1, 77, 32).astype(np.float32)
    with torch.no_grad():
        close(
            engine.predict_noise(latents, 321, text),
            pipe.unet(*map(torch.from_numpy, (latents,)), 321, torch.from_numpy(text))[0],
        )
        close(engine.decode(latents), pipe.vae.decode(torch.from_numpy(latents) / 0.18215)[0])


PICTURES = [
    ("builtin", "ddim", "DDIMScheduler", 12, 3.0, ""),
    ("builtin", "dpm++", "DPMSolverMultistepScheduler", 8, 3.0, "a blue background"),
    ("sd1", "euler", "EulerDiscreteScheduler", 6, 2.0, "a cat"),
    ("sd2", "dpm++", "DPMSolverMultistepScheduler", 6, 1.0, ""),
]


@pytest.mark.parametrize(("name", "sampler", "scheduler", "steps", "guidance", "negative"), PICTURES)
def test_a_whole_picture_is_the_one_of_diffusers(
    model: Callable[[str], Path], name: str, sampler: str, scheduler: str, steps: int, guidance: float, negative: str
) -> None:
    folder, prompt = model(name), "a rocket in space"
    engine, pipe = engines.load("cpu", folder, guidance=guidance > 1), reference(folder, scheduler)
    text, unwanted = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (prompt, negative))
    mine = diffusion.draw(engine, text, unwanted, seed=5, steps=steps, guidance=guidance, sampler=sampler)
    width, height = engine.size
    shape = (1, engine.channels, height // engine.factor, width // engine.factor)
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal(shape).astype(np.float32))
    theirs = pipe(
        prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance, latents=noise,
        output_type="np", width=width, height=height,
    ).images[0]  # fmt: skip
    error = np.mean((mine / 255 - np.round(theirs * 255) / 255) ** 2)
    assert 10 * np.log10(1 / max(error, 1e-12)) > 45
