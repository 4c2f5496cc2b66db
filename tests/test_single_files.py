"""A model in one file: its weights are those that diffusers converts it to, and its pictures those of the folder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import single_files
from single_files import FAMILIES, original, save
from small_models import diffusers, picture, torch, transformers

from helpers.adapt.checkpoint import Checkpoint
from helpers.core.errors import UserError
from helpers.draw import engines
from helpers.draw.choose_model import choose_model
from helpers.draw.engines.architecture import diffusers_name
from helpers.draw.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("models")

    @functools.cache
    def make(family: str) -> tuple[Path, Path]:
        folder = single_files.folder(place / family, family)
        return folder, save(place / f"{family}.safetensors", original(folder, family))

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_diffusers_own(made: Any, family: str) -> None:
    folder, file = made(family)
    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    for part, kind in kinds.items():
        theirs = kind.from_single_file(str(file), config=str(folder), subfolder=part).state_dict()
        mine = Checkpoint(file).weights(part)
        assert mine.keys() == theirs.keys()
        for name, weight in theirs.items():
            assert np.array_equal(mine[name], weight.numpy()), name
    texts = {"text_encoder": transformers.CLIPTextModel}
    if family == "xl":
        texts["text_encoder_2"] = transformers.CLIPTextModelWithProjection
    for part, kind in texts.items():
        convert = diffusers.loaders.single_file_utils.create_diffusers_clip_model_from_ldm
        checkpoint = diffusers.loaders.single_file_utils.load_single_file_checkpoint(str(file))
        theirs = convert(kind, checkpoint, subfolder=part, config=str(folder), local_files_only=True).state_dict()
        mine = Checkpoint(file).weights(part)
        assert mine.keys() == {diffusers_name(name) for name in theirs}
        for name, weight in theirs.items():
            assert np.array_equal(mine[diffusers_name(name)], weight.numpy()), name


@pytest.mark.parametrize(("engine", "family"), [("openvino", "sd2"), ("torch", "sd1"), ("torch", "xl")])
def test_pictures_are_those_of_the_folder(made: Any, engine: str, family: str) -> None:
    folder, file = made(family)
    mine, theirs = (engines.load(engine, path, size=(64, 64)) for path in (file, folder))
    assert (mine.defaults, mine.channels, mine.factor) == (theirs.defaults, theirs.channels, theirs.factor)
    for text in ("", "a rød heart, l'été 12!", "<|endoftext|> x"):
        assert np.array_equal(mine.tokenizer.encode(text).ids, theirs.tokenizer.encode(text).ids)
    assert np.array_equal(picture(mine), picture(theirs))


def test_core_ml_has_the_same_networks(made: Any, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    from helpers.compress.convert_coreml import convert

    for path in made("sd1"):
        (tmp_path / path.name).mkdir()
        convert(path, tmp_path / path.name, "original", (64, 64), 2)
    mine, theirs = (tmp_path / path.name for path in made("sd1"))
    for part in ("TextEncoder", "Unet", "VAEDecoder"):
        blob = f"{part}.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
        assert (mine / blob).read_bytes() == (theirs / blob).read_bytes()
    tokens = [Tokenizer(path, 77).encode("two boats").ids for path in (mine, theirs)]
    assert np.array_equal(tokens[0], tokens[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(made: Any, tmp_path: Path, dtype: str) -> None:
    folder, _ = made("sd1")
    weights = original(folder, "sd1")
    mine = Checkpoint(save(tmp_path / "half.safetensors", weights, getattr(torch, dtype))).weights("unet")
    exact = Checkpoint(made("sd1")[1]).weights("unet")
    for name, weight in exact.items():
        rounded = torch.from_numpy(weight).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(mine[name].astype(np.float32), rounded), name


def test_velocity_is_recognised(made: Any, tmp_path: Path) -> None:
    weights = original(made("sd2")[0], "sd2")

    def predicts(name: str, extra: dict[str, Any], yaml: str = "", **metadata: str) -> tuple[str, int]:
        file = save(tmp_path / f"{name}.safetensors", weights | extra, **metadata)
        if yaml:
            file.with_suffix(".yaml").write_text(yaml)
        model = Checkpoint(file)
        return model.config("scheduler")["prediction_type"], model.config("unet")["sample_size"]

    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    narrow, wide = (torch.linspace(-side, side, 64) for side in (0.1, 0.2))
    assert predicts("base", {bias: narrow}) == ("epsilon", 64)
    assert predicts("wide", {bias: wide}) == ("v_prediction", 96)
    assert predicts("key", {bias: narrow, "v_pred": torch.zeros(1)}) == ("v_prediction", 96)
    assert predicts("told", {bias: narrow}, **{"modelspec.prediction_type": "v"}) == ("v_prediction", 96)
    assert predicts("config", {bias: narrow}, 'model:\n  params:\n    parameterization: "v"\n') == ("v_prediction", 96)
    assert predicts("eps", {bias: wide}, "    parameterization: eps\n") == ("epsilon", 64)
    zero = Checkpoint(save(tmp_path / "z.safetensors", weights | {"v_pred": narrow, "ztsnr": narrow}))
    assert zero.config("scheduler")["rescale_betas_zero_snr"] is True


def test_without_an_autoencoder(made: Any, tmp_path: Path) -> None:
    folder, file = made("sd1")
    weights = original(folder, "sd1")
    inner = {name.removeprefix("first_stage_model."): one for name, one in weights.items() if name.startswith("first_")}
    bare = save(tmp_path / "bare.safetensors", {k: v for k, v in weights.items() if not k.startswith("first_")})
    with pytest.raises(UserError, match="no autoencoder") as error:
        engines.load("openvino", bare, size=(64, 64))
    assert error.value.code == 69 and "bare.vae.safetensors" in error.value.remedy
    expected = Checkpoint(file).weights("vae")
    lent = Checkpoint(bare, folder / "vae").weights("vae")
    save(tmp_path / "bare.vae.safetensors", inner)
    beside = Checkpoint(bare)
    assert beside.config("vae") == Checkpoint(file).config("vae")
    assert beside.place("vae") == bare.with_name("bare.vae.safetensors")
    assert beside.key("vae") != Checkpoint(bare, folder / "vae").key("unet")
    for found in (lent, beside.weights("vae")):
        assert all(np.array_equal(found[name], weight) for name, weight in expected.items())


def test_few_steps_by_name(made: Any, tmp_path: Path) -> None:
    weights = original(made("sd1")[0], "sd1")
    for name, expected in {
        "sd_turbo": ("euler-ancestral", 4, 1.0),
        "dreamLCM_8steps": ("lcm", 8, 1.0),
        "sdxl_lightning_2step": ("euler", 2, 1.0),
        "plain": ("dpm++", 20, 7.5),
    }.items():
        assert engines.defaults(save(tmp_path / f"{name}.safetensors", weights)) == engines.Defaults(*expected)


def test_names_of_an_early_text_encoder(made: Any, tmp_path: Path) -> None:
    folder, file = made("sd1")
    old = {
        name.replace("transformer.text_model.", "transformer."): one for name, one in original(folder, "sd1").items()
    }
    mine = Checkpoint(save(tmp_path / "old.safetensors", old)).weights("text_encoder")
    expected = Checkpoint(file).weights("text_encoder")
    assert mine.keys() == expected.keys()
    assert all(np.array_equal(mine[name], expected[name]) for name in mine)


def _without(weights: dict[str, Any], begin: str) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if not name.startswith(begin)}


@pytest.mark.parametrize("kind", ["inpainting", "no text", "refiner", "other blocks", "unknown weight", "lost weight"])
def test_what_is_refused(made: Any, tmp_path: Path, kind: str) -> None:
    weights = original(made("sd1")[0], "sd1")
    unet = "model.diffusion_model."
    if kind == "inpainting":
        weights[f"{unet}input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    elif kind == "no text":
        weights = _without(weights, "cond_stage_model")
    elif kind == "refiner":
        weights = original(made("sd2")[0], "sd2") | {f"{unet}label_emb.0.0.weight": torch.zeros(8, 2560)}
    elif kind == "other blocks":
        weights = _without(weights, f"{unet}output_blocks.3.1.transformer_blocks")
    elif kind == "unknown weight":
        weights[f"{unet}control.0.weight"] = torch.zeros(1)
    else:
        weights = _without(weights, f"{unet}middle_block.0.in_layers.2.weight")
    file = save(tmp_path / "model.safetensors", weights)
    for engine in ("openvino", "torch"):
        with pytest.raises(UserError) as error:
            engines.load(engine, file, size=(64, 64))
        assert error.value.code == 69 and "\n" not in error.value.message


def test_choosing_one(made: Any) -> None:
    file = made("sd1")[1]
    model = choose_model(str(file))
    assert (model.name, model.folder) == ("sd1", file.resolve())
    import hashlib

    assert model.sha256(file.parent / "cache") == hashlib.sha256(file.read_bytes()).hexdigest()
