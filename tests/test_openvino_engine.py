"""The CPU engine against diffusers and torch: every network by itself, and whole pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import BUILTIN, MODELS, close, picture, random_model, reference, torch

from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import diffusion, engines


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of compiled models for these tests alone."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache") / "openvino"
    patch.setattr(openvino, "CACHE", folder)
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


@pytest.mark.parametrize("name", ["builtin", *MODELS])
def test_every_network_agrees_with_torch(model: Callable[[str], Path], name: str) -> None:
    folder = model(name)
    pipe, engine = reference(folder), engines.load("openvino", folder)
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
    engine, pipe = engines.load("openvino", folder, size=size, guidance=False), reference(folder)
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
    ("builtin", "ddim", "DDIMScheduler", 4, 3.0, ""),
    ("builtin", "dpm++", "DPMSolverMultistepScheduler", 4, 3.0, "a blue background"),
    ("sd1", "euler", "EulerDiscreteScheduler", 6, 2.0, "a cat"),
    ("sd2", "dpm++", "DPMSolverMultistepScheduler", 6, 1.0, ""),
]


@pytest.mark.parametrize(("name", "sampler", "scheduler", "steps", "guidance", "negative"), PICTURES)
def test_a_whole_picture_is_the_one_of_diffusers(
    model: Callable[[str], Path], name: str, sampler: str, scheduler: str, steps: int, guidance: float, negative: str
) -> None:
    folder, prompt = model(name), "a rocket in space"
    engine, pipe = engines.load("openvino", folder, guidance=guidance > 1), reference(folder, scheduler)
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


def test_the_same_seed_gives_the_same_bytes_and_another_another_picture() -> None:
    engine = engines.load("openvino", BUILTIN)
    first = picture(engine)
    assert np.array_equal(first, picture(engine))
    assert np.array_equal(first, picture(engines.load("openvino", BUILTIN)))
    assert not np.array_equal(first, picture(engine, seed=2))
    assert engine.size == (512, 512)
    assert first.shape == (512, 512, 3)
    assert engine.version == f"openvino {engine.version.split()[1]}"


def test_warming_changes_nothing() -> None:
    engine = engines.load("openvino", BUILTIN)
    engine.warm()
    assert np.array_equal(picture(engine), picture(engines.load("openvino", BUILTIN)))


def test_bf16_draws_nearly_the_same() -> None:
    exact, quick = (engines.load("openvino", BUILTIN, precision=precision) for precision in ("f32", "bf16"))
    if quick.precision == "f32":
        pytest.skip("this processor has no bf16")
    a, b = (picture(engine, steps=4).astype(float) for engine in (exact, quick))
    assert 0.1 < np.abs(a - b).mean() < 6  # of 255


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("abacus", {}), ("cpu", {"precision": "f8"}), ("cpu", {"size": (500, 512)}), ("cpu", {"size": (0, 16)})],
)
def test_wrong_arguments_are_a_usage_error(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        engines.load(name, BUILTIN, **arguments)
    assert raised.value.code == 64


def test_nothing_is_sent_and_nothing_written_to_the_home(tmp_path: Path) -> None:
    """No socket by Python, no telemetry package, no consent file."""
    program = f"""
import sys
sys.addaudithook(lambda event, _: event.startswith("socket.") and sys.exit(f"used {{event}}"))
from pathlib import Path
from helpers.draw import engines
from helpers.core import openvino
openvino.CACHE = Path({str(tmp_path / "cache")!r})
engines.load("openvino", Path({str(BUILTIN)!r})).warm()
loaded = [name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools.", "torch", "socket"))]
print([name for name in loaded if sys.modules[name]])
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"HOME": str(home)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert list(home.iterdir()) == []
