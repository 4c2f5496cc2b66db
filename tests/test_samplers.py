"""Every sampler against diffusers' scheduler of the same name."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.draw import samplers

diffusers: Any = pytest.importorskip("diffusers")
torch: Any = pytest.importorskip("torch")

THEIRS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def model(latents: NDArray[Any], timestep: float) -> NDArray[Any]:
    """Stands for a UNet: smooth, different at every timestep, float32."""
    return np.float32(0.6 + timestep / 5000) * latents + np.float32(0.2) * np.sin(
        latents * 2 + np.float32(timestep / 100)
    )


def ours(
    name: str, config: dict[str, Any], steps: int, start: NDArray[Any], fresh: list[NDArray[Any]]
) -> list[NDArray[Any]]:
    source = iter(fresh)
    sampling = samplers.start(name, config, steps, lambda: next(source))
    latents, way = start * sampling.initial_sigma, []
    for step, timestep in enumerate(sampling.timesteps):
        latents = sampling.step(latents, step, model(sampling.scale(latents, step), timestep))
        assert latents.dtype == np.float32
        way.append(latents)
    return way


def theirs(
    name: str,
    config: dict[str, Any],
    steps: int,
    start: NDArray[Any],
    fresh: list[NDArray[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> list[NDArray[Any]]:
    source = iter(fresh)
    for module in ("euler_ancestral_discrete", "lcm"):
        fresh_noise = f"diffusers.schedulers.scheduling_{module}.randn_tensor"
        monkeypatch.setattr(fresh_noise, lambda *_, **__: torch.from_numpy(next(source)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = (THEIRS | {"lcm": diffusers.LCMScheduler})[name].from_config(config)
        scheduler.set_timesteps(steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        latents, way = torch.from_numpy(start) * scheduler.init_noise_sigma, []
        for timestep in scheduler.timesteps:
            seen = scheduler.scale_model_input(latents, timestep).numpy()
            latents = scheduler.step(torch.from_numpy(model(seen, float(timestep))), timestep, latents).prev_sample
            way.append(latents.numpy())
    return way


def _unit_noise(count: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    start, *fresh = np.random.RandomState(count).standard_normal((count + 1, 1, 4, 8, 8)).astype(np.float32)
    return start, fresh


def agree(name: str, config: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, fresh = _unit_noise(steps + 1)
    mine, yours = ours(name, config, steps, start, fresh), theirs(name, config, steps, start, fresh, monkeypatch)
    assert len(mine) == len(yours) == steps
    # Near pure noise (zero terminal SNR, a cosine schedule) latents reach 10,000 and more, where float32 has no digits
    # below 1e-4: four units in its last place are allowed. For an ordinary schedule that adds 2e-5.
    initial = np.abs(start).max() * samplers.start(name, config, steps, lambda: start).initial_sigma
    tolerance = 1e-4 + 2**-21 * max(initial, *(np.abs(b).max() for b in yours))
    for step, (a, b) in enumerate(zip(mine, yours, strict=True)):
        assert np.abs(a - b).max() <= tolerance, f"{config} step {step}: {np.abs(a - b).max()}"


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_agrees_with_diffusers(name: str, prediction: str, spacing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, offset in itertools.product((1, 2, 4, 12, 20, 50, 333), (0, 1)):
        config = SD | {"prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": offset}
        agree(name, config, steps, monkeypatch)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in THEIRS),  # diffusers' own defaults
    *((name, {"beta_schedule": "linear", "beta_end": 0.01}) for name in THEIRS),
    *(
        (name, {"beta_schedule": "squaredcos_cap_v2"}) for name in ("ddim", "euler", "dpm++")
    ),  # theirs is NaN, ancestral
    *((name, {"num_train_timesteps": 60, "trained_betas": [0.001 * i for i in range(1, 61)]}) for name in THEIRS),
    # the built-in model, and Lin et al.'s fix in general: pure noise at the first timestep
    *(
        (name, SD | {"prediction_type": "v_prediction", "timestep_spacing": spacing, "rescale_betas_zero_snr": True})
        for name in THEIRS
        for spacing in ("trailing", "linspace", "leading")
    ),
    *((name, SD | {"rescale_betas_zero_snr": True}) for name in THEIRS if name != "ddim"),
    # Stable Diffusion 1.5 and 2.1-base come with PNDM's configuration
    *((name, SD | {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}) for name in THEIRS),
    ("ddim", SD | {"set_alpha_to_one": False, "clip_sample": True, "clip_sample_range": 0.5}),
    *(
        (name, SD | {"use_karras_sigmas": True, "timestep_spacing": spacing, "prediction_type": prediction})
        for name in ("euler", "dpm++")
        for spacing in ("leading", "trailing", "linspace")
        for prediction in ("epsilon", "v_prediction")
    ),
    ("dpm++", {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}),
    ("euler", SD | {"use_karras_sigmas": True, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("dpm++", SD | {"use_karras_sigmas": True, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    *((name, SD | {"final_sigmas_type": "sigma_min"}) for name in ("euler", "dpm++")),
    ("dpm++", SD | {"euler_at_final": True, "final_sigmas_type": "sigma_min"}),
    ("dpm++", SD | {"lower_order_final": False, "final_sigmas_type": "sigma_min"}),
]


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_agrees_with_diffusers_on_every_setting(
    name: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (4, 12, 20, 50):
        agree(name, config, steps, monkeypatch)


# SDXL-Turbo, LCM Dreamshaper and LCM-SDXL as they come, and what else LCM's scheduler knows
FEW_STEPS: list[tuple[str, dict[str, Any]]] = [
    *((name, SD | {"timestep_spacing": "trailing"}) for name in ("euler", "euler-ancestral")),
    ("lcm", SD | {"set_alpha_to_one": True, "original_inference_steps": 50, "timestep_scaling": 10.0}),
    ("lcm", SD | {"prediction_type": "v_prediction", "original_inference_steps": 100}),
    ("lcm", SD | {"clip_sample": True, "clip_sample_range": 0.5, "timestep_scaling": 0.01}),
    ("lcm", SD | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
]


@pytest.mark.parametrize(("name", "config"), FEW_STEPS)
def test_agrees_with_diffusers_in_few_steps(name: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (1, 2, 3, 4, 6, 8, 50):
        agree(name, config, steps, monkeypatch)


def test_lcm_has_no_more_steps_than_it_was_distilled_from() -> None:
    with pytest.raises(UserError, match="distilled from 50") as raised:
        samplers.start("lcm", SD, 51, lambda: np.zeros(1, np.float32))
    assert raised.value.code == 64


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize(
    ("key", "value"),
    [("prediction_type", "sample"), ("thresholding", True), ("beta_schedule", "laplace"), ("timestep_spacing", "odd"),
     ("algorithm_type", "sde-dpmsolver++"), ("use_beta_sigmas", True), ("solver_order", 3)],
)  # fmt: skip
def test_a_setting_that_is_not_computed_is_named(name: str, key: str, value: object) -> None:
    with pytest.raises(UserError, match=key) as raised:
        samplers.start(name, {key: value}, 20, lambda: np.zeros(1, np.float32))
    assert raised.value.code == 69


@pytest.mark.parametrize(("name", "steps"), [("plms", 20), ("ddim", 0), ("ddim", 1000), ("euler", -1)])
def test_a_sampler_or_number_of_steps_that_does_not_exist_is_a_usage_error(name: str, steps: int) -> None:
    with pytest.raises(UserError) as raised:
        samplers.start(name, {}, steps, lambda: np.zeros(1, np.float32))
    assert raised.value.code == 64


def test_ancestral_steps_stay_numbers_where_the_first_noise_is_far_above_the_second() -> None:
    way = ours("euler-ancestral", {"beta_schedule": "squaredcos_cap_v2"}, 4, *_unit_noise(5))
    assert all(np.isfinite(latents).all() for latents in way)
