"""The samplers, in numpy: DDIM, Euler, Euler ancestral, DPM-Solver++ 2M and LCM.

Each matches the scheduler of the same name in diffusers 0.42.1, including where it rounds to float32, so that a model's
`scheduler_config.json` has the same effect. `test_samplers.py` compares them step by step.

DDIM: Song et al. 2020, https://arxiv.org/abs/2010.02502. Euler, Euler ancestral and Karras' noise levels: Karras et
al. 2022, https://arxiv.org/abs/2206.00364. DPM-Solver++: Lu et al. 2022, https://arxiv.org/abs/2211.01095. Zero
terminal SNR and the spacings of timesteps: Lin et al. 2023, https://arxiv.org/abs/2305.08891. LCM: Luo et al. 2023,
https://arxiv.org/abs/2310.04378.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import damaged
from helpers.core.errors import UserError

Array = NDArray[Any]  # float32 throughout

# Settings that would change the picture and are supported only with diffusers' default value.
_FIXED: dict[str, Any] = {
    "thresholding": False,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "solver_order": 2,
    "variance_type": None,
    "lambda_min_clipped": -math.inf,
    "sigma_min": None,
    "sigma_max": None,
}
# … and values that belong to other schedulers of diffusers, DEIS and UniPC, which our samplers do not read.
_OF_OTHERS = {"algorithm_type": ("deis",), "solver_type": ("logrho", "bh1", "bh2")}


class Sampling:
    """One sampler: start from unit noise times `initial_sigma`, then scale, predict and step for each timestep.

    config: the model's scheduler_config.json; missing keys have diffusers' defaults. steps: 1 … its
    num_train_timesteps. noise: returns fresh unit noise in the shape of the latents (for Euler ancestral and LCM).
    """

    spacing = "linspace"  # diffusers' default
    clean: Array  # the latents without noise, as the last step predicted them

    def __init__(self, config: Mapping[str, Any], steps: int, noise: Callable[[], Array]) -> None:
        for key, value in _FIXED.items():
            if (found := config.get(key, value)) != value and found not in _OF_OTHERS.get(key, ()):
                raise _unknown(key, found)
        self.config, self.noise = config, noise
        self.velocity = _choice(config, "prediction_type", "epsilon", "v_prediction") == "v_prediction"
        self.spacing = _choice(config, "timestep_spacing", self.spacing, "leading", "trailing", "linspace")
        self.alphas = _alphas(config)  # the cumulative product, for each training timestep
        if not 1 <= steps < len(self.alphas):
            message = f"--steps {steps} is not possible: this model has {len(self.alphas)} timesteps"
            raise UserError(os.EX_USAGE, message, "Use --steps 20 or so.")
        self.initial_sigma = np.float32(1)
        self.timesteps: list[float] = self._spaced(steps).tolist()

    def _spaced(self, steps: int) -> NDArray[Any]:
        """Timesteps for the model, descending; whole numbers for all but Euler's linspace."""
        trained = len(self.alphas)
        if self.spacing == "linspace":
            return np.linspace(0, trained - 1, steps)[::-1]
        if self.spacing == "leading":
            offset = self.config.get("steps_offset", 0)
            whole = np.arange(steps, dtype=float)[::-1] * (trained // steps)
            return np.asarray(np.minimum(whole + offset, trained - 1))
        return np.asarray(np.arange(trained, 0, -trained / steps).round()[:steps] - 1)

    def scale(self, latents: Array, step: int) -> Array:
        """The model's input for `latents` at `step` (0 … len(timesteps) - 1)."""
        return latents

    def step(self, latents: Array, step: int, output: Array) -> Array:
        """The latents after `step`; output: the model's noise or velocity prediction for `latents`."""
        raise NotImplementedError


class Ddim(Sampling):
    """Deterministic DDIM (eta 0)."""

    spacing = "leading"
    clips = True  # diffusers' default

    def _spaced(self, steps: int) -> NDArray[Any]:
        self.stride = len(self.alphas) // steps
        return super()._spaced(steps).round()

    def step(self, latents: Array, step: int, output: Array) -> Array:
        now, before = int(self.timesteps[step]), int(self.timesteps[step]) - self.stride
        last = np.float32(1) if self.config.get("set_alpha_to_one", True) else self.alphas[0]
        target = self.alphas[before] if before >= 0 else last
        clean, noise = self._parts(latents, now, output)
        return np.asarray(np.sqrt(target) * clean + np.sqrt(1 - target) * noise)

    def _parts(self, latents: Array, now: int, output: Array) -> tuple[Array, Array]:
        """The clean latents and the noise, as the model predicts them."""
        signal, spread = np.sqrt(self.alphas[now]), np.sqrt(1 - self.alphas[now])
        if self.velocity:
            clean, noise = signal * latents - spread * output, signal * output + spread * latents
        else:
            clean, noise = (latents - spread * output) / signal, output
        if self.config.get("clip_sample", self.clips):
            reach = self.config.get("clip_sample_range", 1.0)
            clean = clean.clip(-reach, reach)
        self.clean = clean
        return clean, noise


class Lcm(Ddim):
    """Latent consistency models: each step predicts the clean latents, then adds fresh noise for the next level."""

    clips = False

    def _spaced(self, steps: int) -> NDArray[Any]:
        most = self.config.get("original_inference_steps", 50)  # of the teacher's sampler in distillation
        if steps > most:
            message = f"{steps} steps are too many for the sampler lcm: this model was distilled from {most}"
            raise UserError(os.EX_USAGE, message, "Use --steps 4 or so.")
        every = np.arange(most, 0, -1) * (len(self.alphas) // most) - 1
        return np.asarray(every[np.linspace(0, most, steps, endpoint=False).astype(int)])

    def step(self, latents: Array, step: int, output: Array) -> Array:
        now = int(self.timesteps[step])
        scaled = now * self.config.get("timestep_scaling", 10.0)  # section 4.1; the data's spread is 0.5
        clean = self._parts(latents, now, output)[0] * np.float32(scaled / math.sqrt(scaled**2 + 0.25))
        clean += latents * np.float32(0.25 / (scaled**2 + 0.25))
        if step == len(self.timesteps) - 1:
            return clean
        target = self.alphas[int(self.timesteps[step + 1])]
        return np.asarray(np.sqrt(target) * clean + np.sqrt(1 - target) * self.noise())


class _Sigmas(Sampling):
    """Common base of the samplers that work on noise levels: sigma = spread / signal for each step, plus the last."""

    karras = False  # whether diffusers' scheduler of this name supports use_karras_sigmas

    def __init__(self, config: Mapping[str, Any], steps: int, noise: Callable[[], Array]) -> None:
        super().__init__(config, steps, noise)
        if config.get("rescale_betas_zero_snr", False):
            self.alphas[-1] = 2**-24  # as in diffusers: not 0, so that the first sigma is 4096 instead of infinite
        every = np.sqrt((1 - self.alphas) / self.alphas)
        sigmas = np.interp(self.timesteps, np.arange(len(every)), every)
        if self.karras and config.get("use_karras_sigmas", False):
            sigmas = self._karras(*self._reach(sigmas, every), steps)
            self.timesteps = self._rounded(np.interp(np.log(sigmas), np.log(every), np.arange(len(every)))).tolist()
        # DEIS has no such setting
        usual = "sigma_min" if config.get("_class_name") == "DEISMultistepScheduler" else "zero"
        last = every[0] if _choice(config, "final_sigmas_type", usual, "zero", "sigma_min") == "sigma_min" else 0.0
        self.sigmas = np.append(sigmas, last).astype(np.float32)

    def _karras(self, most: float, least: float, steps: int) -> NDArray[Any]:
        """Noise levels of equation 5, rho 7."""
        return np.asarray(np.linspace(most ** (1 / 7), least ** (1 / 7), steps) ** 7)

    def _reach(self, sigmas: NDArray[Any], every: Array) -> tuple[float, float]:
        """The highest and the lowest noise level of Karras' schedule."""
        return float(sigmas[0]), float(sigmas[-1])

    def _rounded(self, timesteps: NDArray[Any]) -> NDArray[Any]:
        return timesteps


class Euler(_Sigmas):
    """Euler's method on the probability flow ODE."""

    karras = True

    def __init__(self, config: Mapping[str, Any], steps: int, noise: Callable[[], Array]) -> None:
        super().__init__(config, steps, noise)
        most = self.sigmas.max()
        self.initial_sigma = np.sqrt(most**2 + 1) if self.spacing == "leading" else most

    def scale(self, latents: Array, step: int) -> Array:
        return np.asarray(latents / np.sqrt(self.sigmas[step] ** 2 + 1))

    def _slope(self, latents: Array, step: int, output: Array) -> Array:
        sigma = self.sigmas[step]
        if self.velocity:
            clean = output * (-sigma / np.sqrt(sigma**2 + 1)) + latents / (sigma**2 + 1)
        else:
            clean = latents - sigma * output
        self.clean = clean
        return np.asarray((latents - clean) / sigma)

    def step(self, latents: Array, step: int, output: Array) -> Array:
        width = self.sigmas[step + 1] - self.sigmas[step]
        return np.asarray(latents + self._slope(latents, step, output) * width)


class EulerAncestral(Euler):
    """An Euler step to below the next noise level, then fresh noise up to it."""

    karras = False

    def step(self, latents: Array, step: int, output: Array) -> Array:
        now, target = self.sigmas[step], self.sigmas[step + 1]
        up = np.sqrt(target**2 * (now**2 - target**2) / now**2)
        down = np.sqrt(max(target**2 - up**2, np.float32(0)))  # not below 0 by rounding, where now is far above target
        return np.asarray(latents + self._slope(latents, step, output) * (down - now) + self.noise() * up)


class DpmSolver(_Sigmas):
    """DPM-Solver++ 2M: second order, using the previous step; first order at the first step and near the end."""

    karras = True
    before: Array  # the clean latents that the previous step predicted

    def _spaced(self, steps: int) -> NDArray[Any]:
        points = steps if self.spacing == "trailing" else steps + 1
        return super()._spaced(points)[:steps].round()

    def _reach(self, sigmas: NDArray[Any], every: Array) -> tuple[float, float]:
        return float(every[-1]), float(every[0])

    def _rounded(self, timesteps: NDArray[Any]) -> NDArray[Any]:
        return timesteps.astype(int) if self.config.get("beta_schedule") == "squaredcos_cap_v2" else timesteps.round()

    def step(self, latents: Array, step: int, output: Array) -> Array:
        signal = 1 / np.sqrt(self.sigmas[max(step - 1, 0) : step + 2] ** 2 + 1)
        spread = self.sigmas[max(step - 1, 0) : step + 2] * signal
        with np.errstate(divide="ignore"):  # the last sigma is 0: its logarithm is -inf and exp(-width) is 0
            levels = np.log(signal) - np.log(spread)
        now = (
            signal[-2] * latents - spread[-2] * output
            if self.velocity
            else (latents - spread[-2] * output) / signal[-2]
        )
        width = levels[-1] - levels[-2]
        gain = signal[-1] * (np.exp(-width) - 1)
        moved = spread[-1] / spread[-2] * latents - gain * now
        if step > 0 and not self._first_order(step):
            moved -= 0.5 * gain * (now - self.before) * (width / (levels[-2] - levels[-3]))
        self.before = self.clean = now
        return np.asarray(moved)

    def _first_order(self, step: int) -> bool:
        """Whether diffusers takes the last step with the first order formula."""
        few = len(self.timesteps) < 15 and self.config.get("lower_order_final", True)
        return step == len(self.timesteps) - 1 and bool(
            few or self.config.get("euler_at_final", False) or self.sigmas[-1] == 0
        )


SAMPLERS: dict[str, type[Sampling]] = {
    "ddim": Ddim,
    "euler": Euler,
    "euler-ancestral": EulerAncestral,
    "dpm++": DpmSolver,
    "lcm": Lcm,
}


def start(name: str, config: Mapping[str, Any], steps: int, noise: Callable[[], Array]) -> Sampling:
    """The sampler `name` (a key of SAMPLERS) for the model whose scheduler_config.json is `config`.

    The configuration may be that of another scheduler: the common keys are used, as in diffusers' from_config.

    Raises:
        UserError: 64 for an unknown name or an impossible number of steps, 69 for a damaged or unsupported
            configuration.
    """
    if name not in SAMPLERS:
        raise UserError(os.EX_USAGE, f"there is no sampler {name!r}", f"Samplers: {', '.join(SAMPLERS)}.")
    try:
        return SAMPLERS[name](config, steps, noise)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged configuration leads to
        raise damaged(Path("scheduler/scheduler_config.json"), error) from error


def _alphas(config: Mapping[str, Any]) -> Array:
    """The share of the picture's variance at each training timestep; float32 (num_train_timesteps,)."""
    kind = _choice(config, "beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2")
    count, first, last = (
        config.get(key, value)
        for key, value in (("num_train_timesteps", 1000), ("beta_start", 1e-4), ("beta_end", 0.02))
    )
    if config.get("trained_betas") is not None:
        betas = np.array(config["trained_betas"], dtype=np.float32)
    elif kind == "linear":
        betas = _line(first, last, count)
    elif kind == "scaled_linear":
        betas = _line(first**0.5, last**0.5, count) ** 2
    else:  # Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672
        left = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = np.array([min(1 - left[i + 1] / left[i], 0.999) for i in range(count)], dtype=np.float32)
    if config.get("rescale_betas_zero_snr", False):  # Lin et al., algorithm 1
        signal = np.sqrt(_product(1 - betas))
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        alphas = signal**2
        betas = 1 - np.append(alphas[:1], alphas[1:] / alphas[:-1])
    return _product(1 - betas)


def _line(first: float, last: float, count: int) -> Array:
    """`count` points from first to last, bit for bit what torch.linspace gives in float32."""
    first, last = float(np.float32(first)), float(np.float32(last))
    step = float(np.float32(last - first) / np.float32(count - 1))
    index = np.arange(count)
    return np.where(index < count // 2, first + step * index, last - step * (count - 1 - index)).astype(np.float32)


def _product(alphas: Array) -> Array:
    """The cumulative product, computed in float64 and then rounded, as torch does."""
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _choice(config: Mapping[str, Any], key: str, default: str, *others: str) -> str:
    value = str(config.get(key, default))
    if value not in (default, *others):
        raise _unknown(key, value)
    return value


def _unknown(key: str, value: object) -> UserError:
    return UserError(os.EX_UNAVAILABLE, f"the model's scheduler has {key}={value!r}, which is not supported")
