"""Latent consistency models, SDXS and Stable Diffusion XL: the pictures are those that diffusers draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_evaluator import Program
from numpy.typing import NDArray
from small_models import diffusers, torch
from torch_models import lcm_model, sdxs_model, xl_model

from helpers.compress import convert_coreml
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.draw import diffusion, engines


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    patch.setattr(openvino, "CACHE", folder := tmp_path_factory.mktemp("cache"))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lcm_model(tmp_path_factory.mktemp("lcm"))


@pytest.fixture(scope="module")
def sdxs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sdxs_model(tmp_path_factory.mktemp("sdxs"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return xl_model(tmp_path_factory.mktemp("xl"))


def psnr(exact: NDArray[Any], mine: NDArray[Any]) -> float:
    """In dB, of the reach of the exact values."""
    assert mine.shape == exact.shape
    error = np.sqrt(np.mean((exact.astype(float) - mine) ** 2))
    return float(20 * np.log10(np.ptp(exact) / (error + 1e-12)))


def pipeline(folder: Path, kind: str = "StableDiffusionPipeline") -> Any:
    pipe = getattr(diffusers, kind).from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def told(pipe: Any, width: int) -> Any:
    """The guidance of LCM's own pipeline as the UNet's input."""
    return pipe.get_guidance_scale_embedding(torch.tensor([8.5 - 1]), width)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_latent_consistency_model_draws_what_its_pipeline_draws(lcm: Path, engine: str) -> None:
    """UNet, sampler and decoder: guidance is an input of the model, so that each step takes one pass."""
    loaded, pipe = engines.load(engine, lcm, guidance=False), pipeline(lcm, "LatentConsistencyModelPipeline")
    assert loaded.defaults == engines.Defaults("lcm", 4, 1.0)
    text = loaded.encode_text(loaded.tokenizer.encode("a red heart").ids)
    latents = np.random.RandomState(1).randn(1, 4, 16, 16).astype(np.float32)
    with torch.no_grad():
        for timestep in (999, 259):
            theirs = pipe.unet(
                torch.from_numpy(latents), timestep, torch.from_numpy(text), timestep_cond=told(pipe, 32)
            )[0].numpy()
            other = pipe.unet(torch.from_numpy(latents), timestep, torch.from_numpy(text))[0].numpy()
            assert psnr(theirs, loaded.predict_noise(latents, timestep, text)) > 80 > psnr(theirs, other)
    mine = diffusion.sample(loaded, text, seed=5, steps=1, guidance=1.0)
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal((1, 4, 16, 16)).astype(np.float32))
    drawn = pipe(
        prompt_embeds=torch.from_numpy(text), num_inference_steps=1, guidance_scale=8.5, latents=noise,
        output_type="latent", width=32, height=32,
    ).images.numpy()  # fmt: skip
    assert psnr(drawn, mine) > 80


def test_a_conversion_to_core_ml_keeps_the_guidance(lcm: Path, tmp_path: Path) -> None:
    convert_coreml.convert(lcm, tmp_path, "split_einsum_v2", None, 1)
    pipe, unet = pipeline(lcm, "LatentConsistencyModelPipeline"), Program(tmp_path / "Unet.mlpackage")
    pipe.unet.half().float()
    random = np.random.RandomState(1)
    latents, text = random.randn(1, 4, 16, 16).astype(np.float16), random.randn(1, 32, 1, 77).astype(np.float16)
    mine = unet.predict({"sample": latents, "timestep": np.full(1, 259, np.float16), "encoder_hidden_states": text})[
        "noise_pred"
    ]
    with torch.no_grad():
        tokens = torch.from_numpy(text[:, :, 0].transpose(0, 2, 1)).float()
        theirs = pipe.unet(torch.from_numpy(latents).float(), 259, tokens, timestep_cond=told(pipe, 32))[0].numpy()
    assert psnr(theirs, mine) > 60


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_sdxs_draws_in_one_step_what_diffusers_draws(sdxs: Path, engine: str) -> None:
    """diffusers uses the scheduler that the model brings, DEIS; with one step it is our dpm++."""
    loaded, pipe = engines.load(engine, sdxs, guidance=False), pipeline(sdxs)
    text = loaded.encode_text(loaded.tokenizer.encode("a red heart").ids)
    mine = diffusion.sample(loaded, text, seed=5, steps=1, guidance=1.0, sampler="dpm++")
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal((1, 4, 16, 16)).astype(np.float32))
    sizes = {"width": 128, "height": 128}
    draw = {"num_inference_steps": 1, "guidance_scale": 1.0, "latents": noise, **sizes}
    theirs = pipe(prompt_embeds=torch.from_numpy(text), output_type="latent", **draw).images.numpy()
    assert psnr(theirs, mine) > 80
    with torch.no_grad():
        assert psnr(pipe.vae.decode(torch.from_numpy(mine)).sample.numpy(), loaded.decode(mine)) > 60


@pytest.mark.parametrize("negative", [None, "blue"])
def test_stable_diffusion_xl_draws_what_diffusers_draws(xl: Path, negative: str | None) -> None:
    """Both text encoders and their paddings, the pooled vector, the sizes, and zeros for no prompt."""
    loaded = engines.load("openvino", xl, size=(48, 32))
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(xl, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    text, unwanted = (
        loaded.encode_text(loaded.tokenizer.encode(words).ids) for words in ("a red heart on a hill", negative or "")
    )
    mine = diffusion.sample(loaded, text, unwanted, seed=5, steps=4, guidance=3.0, sampler="euler")
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal(mine.shape).astype(np.float32))
    theirs = pipe(
        "a red heart on a hill", negative_prompt=negative, num_inference_steps=4, guidance_scale=3.0, latents=noise,
        output_type="latent", width=48, height=32,
    ).images.numpy()  # fmt: skip
    assert psnr(theirs, mine) > 80
    with torch.no_grad():
        decoded = pipe.vae.decode(torch.from_numpy(mine) / pipe.vae.config.scaling_factor)[0].numpy()
    assert psnr(decoded, loaded.decode(mine)) > 60


def test_parts_of_xl_and_of_others_do_not_go_together(xl: Path, lcm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(xl, tmp_path / "mixed"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_2": None}))
    with pytest.raises(UserError) as raised:
        engines.load("openvino", folder)
    assert raised.value.code == 69
    with pytest.raises(UserError) as raised:
        convert_coreml.convert(xl, tmp_path, "original", None, 1)
    assert raised.value.code == 69
