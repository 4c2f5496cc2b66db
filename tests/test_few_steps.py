"""Models of few steps, with every engine: LCM's guidance, SDXS's UNet, and the pictures that diffusers draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_evaluator import Program
from numpy.typing import NDArray
from small_models import diffusers, torch
from torch_models import lcm_model, sdxs_model

from helpers.compress import convert_coreml
from helpers.core import openvino
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
