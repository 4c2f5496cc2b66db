"""The PyTorch engine on the processor: against diffusers, against the CPU engine, and what it refuses."""

from __future__ import annotations

import json
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
from small_models import BUILTIN, close, diffusers, picture, random_model, reference, torch
from torch_models import lcm_model, taesd_model, xl_model

from helpers.core import nvidia_driver, openvino
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import diffusion, engines
from helpers.draw.choose_model import Model
from helpers.draw.engines import torch_load, torch_memory
from helpers.draw.job import Job
from helpers.draw.painter import Painter


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of the processor, also on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(nvidia_driver, "SIGNS", ())


def psnr(mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Of pictures, uint8, in dB."""
    error = np.mean((mine.astype(float) - theirs) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    special = {"xl": xl_model, "lcm": lcm_model, "taesd": taesd_model}
    made: dict[str, Path] = {"builtin": BUILTIN}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("model") / name
            made[name] = special[name](folder) if name in special else random_model(folder, name)
        return made[name]

    return make


def texts(engine: Any, *prompts: str) -> NDArray[Any]:
    return np.concatenate([engine.encode_text(engine.tokenizer.encode(prompt).ids) for prompt in prompts])


@pytest.mark.parametrize("name", ["builtin", "sd1", "sd2", "small"])
def test_every_network_agrees_with_diffusers(model: Callable[[str], Path], name: str) -> None:
    folder = model(name)
    pipe, engine = reference(folder), engines.load("torch", folder)
    random = np.random.RandomState(3)
    with torch.no_grad():
        tokens = engine.tokenizer.encode("a delicious burger on a blue background").ids
        text = engine.encode_text(tokens)
        close(text, pipe.text_encoder(torch.from_numpy(tokens[None]))[0])
        width, height = engine.size
        shape = (2, engine.channels, height // engine.factor, width // engine.factor)
        latents, both = random.randn(*shape).astype(np.float32), np.concatenate([text[:, ::-1], text])
        for timestep in (999, 0.5):
            theirs = pipe.unet(torch.from_numpy(latents), timestep, torch.from_numpy(both))[0]
            close(engine.predict_noise(latents, timestep, both), theirs)
        close(
            engine.decode(latents[:1]),
            pipe.vae.decode(torch.from_numpy(latents[:1]) / pipe.vae.config.scaling_factor)[0],
        )


def test_the_picture_is_the_one_of_the_cpu_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openvino, "CACHE", tmp_path)
    mine, theirs = (engines.load(name, BUILTIN, size=(256, 256)) for name in ("torch", "openvino"))
    for sampler, seed in (("dpm++", 3), ("euler-ancestral", 4)):
        pictures = []
        for engine in (mine, theirs):
            text, unwanted = texts(engine, "a red heart"), texts(engine, "")
            pictures.append(diffusion.draw(engine, text, unwanted, seed=seed, steps=3, guidance=2.0, sampler=sampler))
        assert psnr(*pictures) > 55


@pytest.mark.parametrize("negative", [None, "blue"])
def test_xl_draws_what_diffusers_draws(model: Callable[[str], Path], negative: str | None) -> None:
    """Both text encoders and their paddings, the pooled vector, the sizes, and zeros for no prompt."""
    engine = engines.load("torch", model("xl"), size=(48, 32))
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(model("xl"), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    text, unwanted = texts(engine, "a red heart on a hill"), texts(engine, negative or "")
    mine = diffusion.sample(engine, text, unwanted, seed=5, steps=4, guidance=3.0, sampler="euler")
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal(mine.shape).astype(np.float32))
    theirs = pipe(
        "a red heart on a hill", negative_prompt=negative, num_inference_steps=4, guidance_scale=3.0, latents=noise,
        output_type="latent", width=48, height=32,
    ).images  # fmt: skip
    close(mine, theirs)
    with torch.no_grad():
        close(engine.decode(mine), pipe.vae.decode(torch.from_numpy(mine) / pipe.vae.config.scaling_factor)[0])


def test_a_latent_consistency_model_is_told_its_guidance(model: Callable[[str], Path]) -> None:
    engine = engines.load("torch", model("lcm"), guidance=False)
    assert engine.defaults == engines.Defaults("lcm", 4, 1.0)
    pipe = diffusers.LatentConsistencyModelPipeline.from_pretrained(
        model("lcm"), safety_checker=None, requires_safety_checker=False
    )
    latents, text = np.random.RandomState(1).randn(1, 4, 16, 16).astype(np.float32), texts(engine, "a red heart")
    told = pipe.get_guidance_scale_embedding(torch.tensor([8.5 - 1]), 32)
    with torch.no_grad():
        theirs = pipe.unet(torch.from_numpy(latents), 499, torch.from_numpy(text), timestep_cond=told)[0]
    close(engine.predict_noise(latents, 499.0, text), theirs)


def test_taesd_decodes(model: Callable[[str], Path]) -> None:
    engine = engines.load("torch", model("taesd"))
    vae = diffusers.AutoencoderTiny.from_pretrained(model("taesd") / "vae")
    latents = np.random.RandomState(1).randn(1, 4, 16, 16).astype(np.float32)
    with torch.no_grad():
        close(engine.decode(latents), vae.decode(torch.from_numpy(latents))[0])


FEW_STEPS = [
    ("sd-turbo", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, ("euler", 4, 1.0)),
    (
        "a-copy",
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
        ("euler-ancestral", 4, 1.0),
    ),
    (
        "sdxl-lightning-8step",
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
        ("euler", 8, 1.0),
    ),
    ("Hyper-SD15-1-step", {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, ("ddim", 1, 1.0)),
    ("dreamshaper", {"_class_name": "LCMScheduler", "original_inference_steps": 50}, ("lcm", 4, 1.0)),
    ("sdxl", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, ("dpm++", 20, 7.5)),
    ("zero-snr", {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, ("dpm++", 20, 7.5)),
    (
        "velocity",
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        ("dpm++", 20, 7.5),
    ),
]


@pytest.mark.parametrize(("name", "config", "expected"), FEW_STEPS)
def test_few_step_models_say_it_by_their_configuration(
    tmp_path: Path, name: str, config: dict[str, Any], expected: tuple[str, int, float]
) -> None:
    folder = tmp_path / name / "scheduler"
    folder.mkdir(parents=True)
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    assert engines.defaults(folder.parent) == engines.Defaults(*expected)


def test_other_models_draw_in_25_steps(model: Callable[[str], Path]) -> None:
    assert engines.load("torch", model("tiny")).defaults == engines.Defaults("dpm++", 25, 7.5)
    assert engines.load("torch", BUILTIN).defaults == engines.defaults(BUILTIN)


def test_pictures_drawn_at_once_are_those_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("a red heart", seed=2**32 - 1, count=3, steps=2, guidance=2.0, sampler="dpm++", size=(128, 192))
    engine = engines.load("torch", BUILTIN, size=(128, 192))
    monkeypatch.setattr(engines, "load", lambda *_, **more: engine)
    painter = Painter(Model("builtin", BUILTIN, "torch"), usual=job)
    rows: list[int] = []
    predict = engine.predict_noise

    def counted(latents: Any, *more: Any) -> Any:
        rows.append(len(latents))
        return predict(latents, *more)

    engine.predict_noise = counted  # type: ignore[assignment, method-assign]
    together = list(painter.draw(job))
    assert [one.seed for one in together] == [2**32 - 1, 2**32, 2**32 + 1]
    assert rows == [6, 6]
    engine.pictures = 1
    for one, other in zip(together, painter.draw(job), strict=True):
        assert psnr(one.pixels, other.pixels) > 50
    engine.pictures = 2
    rows.clear()
    list(painter.draw(job))
    assert rows == [4, 4, 2, 2]


@pytest.mark.parametrize(
    "arguments", [{"precision": "f8"}, {"precision": "f16"}, {"size": (500, 512)}, {"size": (0, 16)}]
)
def test_wrong_arguments_are_a_usage_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        engines.load("torch", BUILTIN, **arguments)
    assert raised.value.code == 64 and raised.value.remedy


def test_bf16_draws_nearly_the_same() -> None:
    a, b = (
        picture(engines.load("torch", BUILTIN, size=(128, 128), precision=precision)) for precision in ("f32", "bf16")
    )
    assert 20 < psnr(a, b) < 60


def test_the_decoder_of_xl_is_exact_where_f16_would_overflow(model: Callable[[str], Path], monkeypatch: Any) -> None:
    monkeypatch.setitem(torch_memory._PRECISIONS, "cpu", ("f16",))
    engine: Any = engines.load("torch", model("xl"))
    assert (engine._unet.dtype, engine._vae.dtype) == (torch.float16, torch.float32)
    other: Any = engines.load("torch", model("tiny"))
    assert other._vae.dtype == torch.float16


def test_the_whole_stage_draws_and_sends_nothing(model: Callable[[str], Path], tmp_path: Path) -> None:
    program = """
import sys
sys.addaudithook(lambda event, _: event in ("socket.connect", "socket.getaddrinfo") and sys.exit(f"used {event}"))
from helpers.core import stage
from helpers.draw import generate
stage.run("generate", generate.main)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    environment |= {"A2I_OUTPUT": str(tmp_path), "A2I_ENGINE": "cuda", "A2I_MODEL": str(model("tiny"))}
    environment |= {"A2I_COUNT": "2", "A2I_STEPS": "2", "A2I_JSON": "1", "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program], input="a cat\n", env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engine"]["name"] == "torch" and result["engine"]["version"].startswith(f"torch {torch.__version__} ")
    assert [Path(path).is_file() for path in result["paths"]] == [True, True]
    assert not (tmp_path / "home").exists()


# Models that are damaged or of another kind


@pytest.fixture
def own(model: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(model("tiny"), tmp_path / "own"))


def refused(folder: Path, allow_pickle: bool = False) -> UserError:
    with pytest.raises(UserError) as raised:
        engines.load("torch", folder, engines.Options(allow_pickle=allow_pickle))
    assert raised.value.code == 69 and "\n" not in raised.value.message and raised.value.remedy
    return raised.value


def test_half_a_download_is_refused(own: Path) -> None:
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "unet" in refused(own).message
    weights.unlink()
    assert "no weights in" in refused(own).message
    (own / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "b-1.safetensors"}}'
    )
    assert "b-1.safetensors" in refused(own).message


def test_a_network_without_one_of_its_weights_is_refused(own: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part, name in (("unet", "conv_in.bias"), ("text_encoder", "final_layer_norm.bias")):
        file = next((own / part).glob("*.safetensors"))
        weights = load_file(file)
        key = next(key for key in weights if key.endswith(name))
        save_file({other: value for other, value in weights.items() if other != key}, file, {"format": "pt"})
        assert name in refused(own).message
        save_file(weights, file, {"format": "pt"})


def test_parts_of_two_models_are_refused(own: Path) -> None:
    config = own / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    assert "in_channels=9" in refused(own).message


def test_other_kinds_of_model_are_refused(own: Path) -> None:
    (own / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "FluxPipeline" in refused(own).message
    (own / "model_index.json").unlink()
    assert "there is no Stable Diffusion model" in refused(own).message


def test_a_pickle_is_opened_only_for_who_allows_it(own: Path) -> None:
    before = picture(engines.load("torch", own))
    unet = diffusers.UNet2DConditionModel.from_pretrained(own / "unet")
    (own / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(own / "unet", safe_serialization=False)
    error = refused(own)
    assert "pickle" in error.message and "A2I_ALLOW_PICKLE=1" in error.remedy
    assert np.array_equal(before, picture(engines.load("torch", own, engines.Options(allow_pickle=True))))


class Ran:
    """Unpickling one says so."""

    happened = False

    def __reduce__(self) -> Any:
        return (setattr, (Ran, "happened", True))


def test_even_an_allowed_pickle_runs_nothing(own: Path) -> None:
    (own / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Ran()}, own / "unet" / "diffusion_pytorch_model.bin")
    refused(own, allow_pickle=True)
    assert not Ran.happened


def test_the_half_precision_variant_is_taken_where_it_serves(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(own / "unet")
    unet.half().save_pretrained(own / "unet", variant="fp16")
    assert torch_load._source(own / "unet", "f16", False)[1] == {"use_safetensors": True, "variant": "fp16"}
    assert torch_load._source(own / "unet", "f32", False)[1] == {"use_safetensors": True, "variant": None}
    (own / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    engine: Any = engines.load("torch", own)
    assert engine._unet.dtype == torch.float32
