"""Apple's own Python pipeline and ours on the same packages: the same picture, and for XL the same inputs of the Unet.

Apple's package is not on PyPI: clone github.com/apple/ml-stable-diffusion and put it on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coreml_standin
import coremltools as ct
import numpy as np
import pytest
from coreml_models import converted
from numpy.typing import NDArray
from small_models import BUILTIN, picture
from test_coreml_xl import LENGTH, model

from helpers.core.paths import ROOT
from helpers.draw import diffusion, engines
from helpers.draw.engines import coreml

diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
why = "Apple's python_coreml_stable_diffusion is not on PYTHONPATH"
pytest.importorskip("python_coreml_stable_diffusion", reason=why)
assert diffusers.StableDiffusionPipeline  # its import makes transformers anew
transformers = sys.modules["transformers"]
transformers.CLIPFeatureExtractor = transformers.CLIPImageProcessor  # gone since transformers 5; it is only named
apple: Any = importlib.import_module("python_coreml_stable_diffusion.pipeline")

NAMES = {"TextEncoder": "text_encoder", "TextEncoder2": "text_encoder_2", "Unet": "unet", "VAEDecoder": "vae_decoder"}
SCHEDULERS = {"dpm++": "DPMSolverMultistepScheduler", "euler": "EulerDiscreteScheduler", "ddim": "DDIMScheduler"}
PROMPTS = [("a red heart", ""), ("a burger on a blue background, an owl!", "a blue cat"), ("a cat " * 9, "snow")]
Inputs = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def unet_inputs(monkeypatch: pytest.MonkeyPatch) -> list[Inputs]:
    """What every Unet is given from now on; the evaluator computes it."""
    seen: list[Inputs] = []

    class Recorder(coreml_standin.Package):
        def predict(self, data: Inputs) -> Inputs:
            if "sample" in data:
                seen.append(data)
            return super().predict(data)

    converter = ct.models.MLModel

    def load(path: str, **options: Any) -> Any:
        if "skip_model_load" in options:
            return converter(path, **options)
        package: Any = Recorder(path, compute_units=options["compute_units"])
        package._spec = ct.utils.load_spec(path)  # from which Apple's wrapper takes shapes and types
        return package

    monkeypatch.setattr(ct.models, "MLModel", load)
    return seen


def tokenizer(length: int, padding: str = "<|endoftext|>") -> Any:
    folder = BUILTIN / "tokenizer"
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=length, pad_token=padding)


def theirs(folder: Path, links: Path, scheduler: str, config: dict[str, Any], length: int) -> Any:
    """Apple's pipeline on the packages of `folder`, under the names that its loader wants (XL: with xl in them)."""
    version = "xl" if (folder / "TextEncoder2.mlpackage").exists() else "sd"
    links.mkdir()
    for package in folder.glob("*.mlpackage"):
        (links / f"Stable_Diffusion_version_{version}_{NAMES[package.stem]}.mlpackage").symlink_to(package)
    known = SimpleNamespace(
        tokenizer=tokenizer(length),
        tokenizer_2=tokenizer(length, "!"),
        scheduler=getattr(diffusers, SCHEDULERS[scheduler]).from_config(config),
        feature_extractor=None,
    )
    pipe = apple.get_coreml_pipe(known, str(links), version, "CPU_ONLY", force_zeros_for_empty_prompt=version == "xl")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def both(
    folder: Path, links: Path, sampler: str, prompt: str, unwanted: str, steps: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ours and theirs, in this order, 0…255."""
    engine = coreml.CoreMl(folder, frugal=False)
    engine.load("CPU_ONLY")
    engine._scaling = 0.18215  # which Apple's pipeline has for every model
    text, empty = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (prompt, unwanted))
    ours = diffusion.draw(engine, text, empty, seed=5, steps=steps, guidance=4.0, sampler=sampler)
    width, height = engine.size
    latents = np.random.RandomState(5).standard_normal((1, 4, height // 8, width // 8)).astype(np.float32)
    pipe = theirs(folder, links, sampler, engine.scheduler, engine.tokenizer.length)
    how = {"num_inference_steps": steps, "guidance_scale": 4.0, "output_type": "np", "latents": latents}
    images = pipe(prompt, height, width, negative_prompt=unwanted or None, **how).images
    return ours, images[0] * 255


@pytest.mark.parametrize(
    ("name", "attention", "sampler"),
    [("sd1", "split_einsum_v2", "dpm++"), ("sd2", "original", "euler"), ("sd1", "original", "ddim")],
)
def test_apples_pipeline_draws_the_same(tmp_path: Path, name: str, attention: str, sampler: str) -> None:
    for number, (prompt, unwanted) in enumerate(PROMPTS):
        ours, expected = both(converted(name, attention), tmp_path / str(number), sampler, prompt, unwanted, steps=4)
        assert np.ptp(ours) > 20
        error = np.mean(((ours - expected.round()) / 255) ** 2)
        assert 10 * np.log10(1 / max(error, 1e-12)) > 60


SITE = """
import sys, diffusers, coreml_standin
diffusers.StableDiffusionPipeline
sys.modules["transformers"].CLIPFeatureExtractor = sys.modules["transformers"].CLIPImageProcessor
coreml_standin.install()
"""


@pytest.mark.parametrize("name", ["sd1", "sd2", "builtin"])
def test_the_engine_apple_draws_what_our_engine_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = coreml_standin.compiled(converted(name), tmp_path / "model")
    (tmp_path / "sitecustomize.py").write_text(SITE)
    paths = [tmp_path, ROOT / "tests", ROOT, Path(apple.__file__).parent.parent]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    monkeypatch.setattr(ct.models, "CompiledMLModel", coreml_standin.Compiled)
    options = engines.Options(compute_units="CPU_ONLY", apple_python=sys.executable)
    theirs, ours = (picture(engines.load(engine, folder, options)) for engine in ("apple", "coreml"))
    assert np.ptp(ours) > 20
    assert 10 * np.log10(1 / max(float(np.mean((ours / 255 - theirs / 255) ** 2)), 1e-12)) > 60


@pytest.mark.parametrize(("prompt", "unwanted"), [("a red heart", ""), ("an owl!", "a blue cat")])
def test_apples_pipeline_gives_the_same_to_the_unet_of_xl(
    tmp_path: Path, unet_inputs: list[Inputs], prompt: str, unwanted: str
) -> None:
    both(model(), tmp_path / "links", "euler", prompt, unwanted, steps=3)
    assert len(unet_inputs) == 6
    for ours, expected in zip(unet_inputs[:3], unet_inputs[3:], strict=True):
        assert ours.keys() == expected.keys() >= {"time_ids", "text_embeds"}
        for name, array in expected.items():
            np.testing.assert_allclose(ours[name], array, rtol=2e-3, err_msg=name)
    first = unet_inputs[0]
    assert first["encoder_hidden_states"].shape[3] == LENGTH
    assert first["text_embeds"][0].any() == bool(unwanted)
