"""The filter of --safe: what it sees, what is kept, and what is said without a detector."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from small_models import random_model, torch, transformers
from torch_models import safety_checker

from helpers.catalog import catalog
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import engines, safety
from helpers.draw.choose_model import Model, detector
from helpers.draw.diffusion import BlankPicture, FilteredPicture
from helpers.draw.engines import Defaults
from helpers.draw.job import Job
from helpers.draw.painter import Painter
from helpers.draw.tokenizer import Tokenizer


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The folder of downloaded models; the detector has its place in it."""
    return tmp_path / "models"


def noise(seed: int, shape: tuple[int, ...] = (64, 96, 3)) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 64, 3), (96, 300, 3), (301, 224, 3)])
def test_the_detector_sees_what_clip_was_trained_with(shape: tuple[int, ...]) -> None:
    picture = noise(1, shape)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 224}, crop_size=224, do_convert_rgb=True, resample=3
    )
    theirs = processor(picture, return_tensors="np")["pixel_values"]
    mine = safety._clip_input(picture, 224)
    assert mine.shape == theirs.shape == (1, 3, 224, 224)
    assert np.abs(mine - theirs).max() < 0.02  # a level of 255 is 0.015


@pytest.mark.parametrize("takes", [True, False])
def test_the_model_brings_its_detector_or_the_one_for_all_is_used(tmp_path: Path, models: Path, takes: bool) -> None:
    safety_checker(tmp_path / "model" / "safety_checker", takes)
    picture = noise(1)
    before = picture.copy()

    def taken(name: str) -> bool:
        return safety.load(detector(Model(name, tmp_path / name, "openvino"), catalog.read(models)))(picture)

    assert taken("model") is takes
    assert np.array_equal(picture, before)
    safety_checker(models / "safety-checker" / "safety_checker", not takes)
    assert taken("other") is not takes
    assert taken("model") is takes


def test_without_a_detector_the_command_that_gets_it_is_said(tmp_path: Path, models: Path) -> None:
    with pytest.raises(UserError, match="which is not on this machine") as raised:
        detector(Model("own", tmp_path, "openvino"), catalog.read(models))
    assert raised.value.code == 69 and "./download_model.py safety-checker " in raised.value.remedy
    safety_checker(tmp_path / "safety_checker", True)
    weights = tmp_path / "safety_checker" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged") as raised:
        safety.load(tmp_path / "safety_checker")
    assert raised.value.code == 69


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of random weights whose thresholds lie in the middle of what it finds in noise."""
    folder = safety_checker(tmp_path_factory.mktemp("undecided"), True)
    weights = load_file(folder / "model.safetensors")
    random = np.random.RandomState(2)
    for name in ("concept_embeds", "special_care_embeds"):
        weights[name] = random.randn(*weights[name].shape).astype(np.float32)
    weights |= {name: array + 0.3 * random.randn(*array.shape).astype(np.float32)
                for name, array in weights.items() if array.ndim == 1 and "embeds" not in name}  # fmt: skip
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = np.array([np.concatenate(scores) for scores in map(safety.load_scores(folder), map(noise, range(12)))])
    special, often = len(weights["special_care_embeds"]), np.quantile(found - 2, 0.95, axis=0).astype(np.float32)
    weights["special_care_embeds_weights"], weights["concept_embeds_weights"] = often[:special] - 0.02, often[special:]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_verdicts_and_scores_are_those_of_diffusers(undecided: Path) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance

    theirs, mine = StableDiffusionSafetyChecker.from_pretrained(undecided), safety.load(undecided)
    scores, verdicts = safety.load_scores(undecided), []
    for seed in range(24):
        picture = noise(seed, (64, 64 + seed, 3))
        pixels = torch.from_numpy(safety._clip_input(picture, 224))
        verdicts.append(mine(picture))
        assert verdicts[-1] == theirs(clip_input=pixels, images=[picture.copy()])[1][0]
        with torch.no_grad():
            embedding = theirs.visual_projection(theirs.vision_model(pixels)[1])
        for found, name in zip(scores(picture), ("special_care_embeds", "concept_embeds"), strict=True):
            raw = cosine_distance(embedding, getattr(theirs, name))[0] - getattr(theirs, f"{name}_weights")
            difference = found - raw.detach().numpy()
            if name == "concept_embeds" and (scores(picture)[0] > 0).any():
                difference -= 0.01  # stricter
            assert np.abs(difference).max() < 1e-3
    assert 3 < sum(verdicts) < 21


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("visual_projection.weight", lambda array: array * np.nan),
        ("concept_embeds", lambda array: array * np.nan),
        ("concept_embeds_weights", lambda array: array[:2]),
        ("special_care_embeds", None),
        ("visual_projection.weight", lambda array: array[:, :5]),
        ("another.weight", lambda array: np.ones(3, np.float32)),
    ],
)
def test_a_detector_that_lies_is_one_line(undecided: Path, tmp_path: Path, name: str, spoil: Any) -> None:
    folder = Path(shutil.copytree(undecided, tmp_path / "spoilt"))
    weights = load_file(folder / "model.safetensors")
    weights[name] = np.ascontiguousarray(spoil(weights.get(name))) if spoil else weights[name]
    if not spoil:
        del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError) as raised:
        safety.load(folder)
    assert raised.value.code == 69 and raised.value.remedy and "\n" not in raised.value.message


def test_it_needs_no_pytorch(undecided: Path) -> None:
    program = f"""
import sys
import numpy as np
from pathlib import Path
from helpers.draw import safety
safety.load(Path({str(undecided)!r}))(np.zeros((64, 64, 3), np.uint8))
print([name for name in sys.modules if name in ("torch", "transformers", "diffusers")])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


class Engine:
    """Draws noise, of the seed it is given."""

    name, version = "noise", "noise 1"
    size, pictures, channels, factor, precision, scheduler, defaults = (32, 32), 2, 4, 8, "f32", {}, Defaults()  # type: ignore[var-annotated]
    tokenizer = Tokenizer(ROOT / "models" / "builtin" / "tokenizer")

    def encode_text(self, tokens: Any) -> Any:
        return np.zeros((1, 2, 2), np.float32)

    def predict_noise(self, latents: Any, timestep: float, text: Any) -> Any:
        return latents * np.float32(0.1)

    def decode(self, latents: Any) -> Any:
        return latents[:, :3].repeat(8, 2).repeat(8, 3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], list[int]]:
    """The seeds of the pictures that are left with this filter."""
    monkeypatch.setattr(engines, "load", lambda *_, **more: Engine())
    job = Job("a cat", seed=3, count=3, steps=2, guidance=1.0, sampler="ddim")

    def draw(takes: Any) -> list[int]:
        monkeypatch.setattr(safety, "load", lambda folder: takes)
        painter = Painter(Model("noise", tmp_path, "openvino"), usual=job, filter_folder=tmp_path if takes else None)
        return [picture.seed for picture in painter.draw(job)]

    return draw


def test_pictures_that_the_filter_takes_are_left_out(drawn: Callable[[Any], list[int]], caplog: Any) -> None:
    caplog.set_level("INFO", "helpers")
    verdicts = iter([False, True, False])
    assert drawn(lambda pixels: next(verdicts)) == [3, 5]
    assert caplog.messages == ["the safety filter flagged 1 of 3 pictures"]
    caplog.clear()
    assert drawn(None) == drawn(lambda pixels: False) == [3, 4, 5]
    assert not caplog.messages


def test_a_prompt_without_a_picture_left_is_an_error_and_not_a_black_one(drawn: Callable[[Any], list[int]]) -> None:
    with pytest.raises(FilteredPicture, match="the safety filter flagged the picture") as raised:
        drawn(lambda pixels: True)
    assert raised.value.code == 65 and not isinstance(raised.value, BlankPicture)


def test_nothing_is_kept_of_a_picture_that_the_filter_took(tmp_path: Path) -> None:
    """The whole stage, with the CPU engine."""
    model = random_model(tmp_path / "model", "tiny")
    safety_checker(model / "safety_checker", True)
    outputs = tmp_path / "outputs"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    environment |= {"A2I_OUTPUT": str(outputs), "A2I_SAFE": "1", "A2I_ENGINE": "openvino", "A2I_STEPS": "1"}
    command = [sys.executable, "-m", "helpers.draw.generate", "--model", str(model)]
    how: dict[str, Any] = {"input": "a cat\n", "env": environment, "cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run(command, **how)
    assert done.returncode == 65, done.stderr
    assert "generate: the safety filter flagged the picture\n" in done.stderr and not done.stdout
    assert not outputs.exists() or not list(outputs.iterdir())
    shutil.rmtree(model / "safety_checker")
    done = subprocess.run(command, **how | {"env": environment | {"A2I_MODELS": str(tmp_path / "none")}})
    assert done.returncode == 69 and "--safe needs the model of the safety filter" in done.stderr
