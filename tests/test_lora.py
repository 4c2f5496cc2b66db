"""LoRA files of every dialect: the merged weights are those of diffusers with PEFT, and nothing is half applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import single_files
from small_models import random_model, torch

from helpers.adapt.checkpoint import Checkpoint
from helpers.adapt.lora import Lora
from helpers.core.errors import UserError
from helpers.core.settings import Adapter, Adapters
from helpers.draw import engines, png
from helpers.draw.choose_model import Model
from helpers.draw.job import Job
from helpers.draw.painter import Painter
from helpers.words import prompt_syntax

RANK, ALPHA = 3, 1.5
UNET = ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v", "down_blocks.0.resnets.0.conv1",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0")  # fmt: skip
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")


def halves(model: Path, seed: int = 1) -> dict[tuple[str, str], tuple[Any, Any]]:
    """{part and module: down, up} with random values that change a picture."""
    torch.manual_seed(seed)
    made = {}
    for part, names in (("unet", UNET), ("text_encoder", TEXT)):
        weights = {k.removeprefix("text_model."): v for k, v in Checkpoint(model).weights(part).items()}
        for name in names:
            shape = weights[f"{name}.weight"].shape
            rest = shape[2:]
            down = torch.randn(RANK, shape[1], *rest) * 0.3
            made[part, name] = down, torch.randn(shape[0], RANK, *[1] * len(rest)) * 0.3
    return made


def expected(model: Path, *added: tuple[dict[Any, Any], float]) -> dict[tuple[str, str], Any]:
    result: dict[tuple[str, str], Any] = {}
    for made, weight in added:
        for (part, name), (down, up) in made.items():
            key = f"{name}.weight"
            base = {k.removeprefix("text_model."): v for k, v in Checkpoint(model).weights(part).items()}[key]
            delta = (up.flatten(1) @ down.flatten(1)).reshape(base.shape) * (ALPHA / RANK) * weight
            result[part, key] = result.get((part, key), torch.from_numpy(base)) + delta
    return result


def kohya(path: Path, made: dict[Any, Any], original: Callable[[str], str] = lambda name: name) -> Path:
    tensors: dict[str, Any] = {}
    for (part, name), (down, up) in made.items():
        name = original(name) if part == "unet" else f"text_model.{name}"
        begin = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + name.replace(".", "_")
        tensors |= {f"{begin}.lora_down.weight": down, f"{begin}.lora_up.weight": up}
        tensors[f"{begin}.alpha"] = torch.tensor(ALPHA)
    safetensors.torch.save_file(tensors, path)
    return path


def diffusers_file(path: Path, made: dict[Any, Any]) -> Path:
    tensors: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for (part, name), (down, up) in made.items():
        begin = f"{part}.{name}"
        tensors |= {f"{begin}.lora_A.weight": down, f"{begin}.lora_B.weight": up}
        about |= {f"{part}.lora_alpha": ALPHA, f"{part}.r": RANK}
        about[f"{part}.target_modules"] = [name for of, name in made if of == part]
    safetensors.torch.save_file(tensors, path, {"lora_adapter_metadata": json.dumps(about)})
    return path


def old_diffusers(path: Path, made: dict[Any, Any]) -> Path:
    """As diffusers wrote them before PEFT; alpha is not kept, so it is in the weights."""
    tensors: dict[str, Any] = {}
    for (part, name), (down, up) in made.items():
        up = up * (ALPHA / RANK)
        place, _, leaf = name.removesuffix(".0").rpartition(".") if ".to_out." in name else name.rpartition(".")
        if part == "unet" and leaf.startswith("to_"):
            begin = f"unet.{place}.processor.{leaf}_lora"
        else:
            begin = f"{part}.{name}.lora{'_linear_layer' if part == 'text_encoder' else ''}"
        tensors |= {f"{begin}.down.weight": down, f"{begin}.up.weight": up}
    safetensors.torch.save_file(tensors, path)
    return path


def peft(path: Path, made: dict[Any, Any]) -> Path:
    only = {key: value for key, value in made.items() if key[0] == "unet"}
    path.mkdir()
    tensors: dict[str, Any] = {}
    for (_, name), (down, up) in only.items():
        tensors |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    safetensors.torch.save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return path / "adapter_model.safetensors"


DIALECTS = {"kohya": kohya, "diffusers": diffusers_file, "old": old_diffusers, "peft": peft}


def same(model: Path, loras: list[Lora], wanted: dict[tuple[str, str], Any]) -> None:
    for part in ("unet", "text_encoder"):
        plain, merged = Checkpoint(model).weights(part), Checkpoint(model, loras=tuple(loras)).weights(part)
        for name, weight in plain.items():
            should = wanted.get((part, name.removeprefix("text_model.")))
            if should is None:
                assert np.array_equal(merged[name], weight), name
            else:
                assert np.abs(merged[name] - should.numpy()).max() < 1e-6 and not np.array_equal(merged[name], weight)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect(tiny: Path, tmp_path: Path, dialect: str) -> None:
    made, more = halves(tiny), halves(tiny, seed=2)
    one = DIALECTS[dialect](tmp_path / "one.safetensors", made)
    two = kohya(tmp_path / "two.safetensors", more)
    if dialect == "peft":
        made = {key: value for key, value in made.items() if key[0] == "unet"}
    same(tiny, [Lora(one, 0.7)], expected(tiny, (made, 0.7)))
    same(tiny, [Lora(one, 0.7), Lora(two, -0.4)], expected(tiny, (made, 0.7), (more, -0.4)))


def test_against_diffusers_with_peft(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    import diffusers

    made = halves(tiny)
    # Of the UNet only: diffusers 0.42.1 does not find the text encoder's layers in transformers 5
    made = {key: value for key, value in made.items() if key[0] == "unet"}
    for file in (kohya(tmp_path / "k.safetensors", made), diffusers_file(tmp_path / "d.safetensors", made)):
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None)
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        pipe.fuse_lora(lora_scale=0.7)
        pipe.unload_lora_weights()
        theirs = pipe.unet.state_dict()
        mine = Checkpoint(tiny, loras=(Lora(file, 0.7),)).weights("unet")
        far = {name: np.abs(weight - theirs[name].numpy()).max() for name, weight in mine.items()}
        assert max(far.values()) < 2e-6, {name: one for name, one in far.items() if one > 1e-6}


def test_original_names(tmp_path: Path) -> None:
    """kohya names the modules of XL as its authors' code does."""
    folder = single_files.folder(tmp_path / "xl", "xl")
    weights = Checkpoint(folder).weights("unet")
    tensors: dict[str, Any] = {}
    block = "transformer_blocks_0_attn1_to_q"
    for old, new in {
        f"input_blocks_4_1_{block}": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "output_blocks_2_1_proj_in": "up_blocks.0.attentions.2.proj_in",
        "middle_block_2_in_layers_2": "mid_block.resnets.1.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    }.items():
        shape = weights[f"{new}.weight"].shape
        tensors[f"lora_unet_{old}.lora_down.weight"] = torch.randn(RANK, *shape[1:])
        tensors[f"lora_unet_{old}.lora_up.weight"] = torch.randn(shape[0], RANK, *[1] * len(shape[2:]))
    safetensors.torch.save_file(tensors, tmp_path / "l.safetensors")
    merged = Checkpoint(folder, loras=(Lora(tmp_path / "l.safetensors"),)).weights("unet")
    changed = {name for name in weights if not np.array_equal(weights[name], merged[name])}
    assert changed == {f"{new}.weight" for new in (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "up_blocks.0.attentions.2.proj_in",
        "mid_block.resnets.1.conv1", "down_blocks.0.downsamplers.0.conv",
    )}  # fmt: skip
    key = "output_blocks_2_1_proj_in"
    up, down = tensors[f"lora_unet_{key}.lora_up.weight"], tensors[f"lora_unet_{key}.lora_down.weight"]
    should = weights["up_blocks.0.attentions.2.proj_in.weight"] + (up.flatten(1) @ down.flatten(1)).numpy()
    assert np.abs(merged["up_blocks.0.attentions.2.proj_in.weight"] - should).max() < 1e-5


def small_picture(engine: Any) -> Any:
    from small_models import picture

    return picture(engine)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_pictures(tiny: Path, tmp_path: Path, engine: str) -> None:
    """The picture with a LoRA is that of a model whose weights were changed on disk; weight 0 is none."""
    file = kohya(tmp_path / "l.safetensors", halves(tiny))
    plain, changed = Checkpoint(tiny), Checkpoint(tiny, loras=(Lora(file, 0.7),))
    import shutil

    whole = Path(shutil.copytree(tiny, tmp_path / "whole"))
    for part in ("unet", "text_encoder"):
        name = next((whole / part).glob("*.safetensors"))
        safetensors.torch.save_file({k: torch.from_numpy(v.copy()) for k, v in changed.weights(part).items()}, name)
    mine, theirs, base = (small_picture(engines.load(engine, one)) for one in (changed, whole, plain))
    assert np.array_equal(mine, theirs) and not np.array_equal(mine, base)
    assert np.array_equal(small_picture(engines.load(engine, Checkpoint(tiny, loras=(Lora(file, 0.0),)))), base)
    if engine == "torch":
        loaded: Any = engines.load(engine, plain)
        for wanted, checkpoint in ((mine, changed), (base, plain), (mine, changed)):
            loaded.adapt(checkpoint)
            assert np.array_equal(small_picture(loaded), wanted)


def test_another_file_of_the_same_name_is_not_drawn_from_the_cache(tiny: Path, tmp_path: Path) -> None:
    file = kohya(tmp_path / "l.safetensors", halves(tiny))
    model = Checkpoint(tiny, loras=(Lora(file, 0.7),))
    first, keys = small_picture(engines.load("openvino", model)), [model.key("unet"), model.key("vae")]
    kohya(file, halves(tiny, seed=3))
    assert model.key("unet") != keys[0] and model.key("vae") == keys[1] == Checkpoint(tiny).key("vae")
    assert replace(model, loras=(Lora(file, 0.8),)).key("unet") != model.key("unet")
    assert not np.array_equal(first, small_picture(engines.load("openvino", model)))


def spoil(tensors: dict[str, Any], kind: str) -> dict[str, Any]:
    name = next(name for name in tensors if name.endswith("attn1_to_q.lora_up.weight"))
    base, up = name.removesuffix(".lora_up.weight"), tensors[name]
    if kind == "rank":
        tensors[name] = torch.zeros(up.shape[0], RANK + 1)
    elif kind == "NaN":
        up[0, 0] = float("nan")
    elif kind == "alpha":
        tensors[f"{base}.alpha"] = torch.tensor(0.0)
    elif kind == "half":
        del tensors[name]
    elif kind == "other shape":
        tensors[name] = torch.zeros(up.shape[0] * 2, RANK)
    elif kind == "other model":
        tensors = {key.replace("down_blocks_1_", "down_blocks_7_"): value for key, value in tensors.items()}
    elif kind == "Flux":
        tensors = {f"transformer.single_{key}": value for key, value in tensors.items()}
    else:
        suffix = {"LoHa": "hada_w1_a", "LoKr": "lokr_w1", "DoRA": "dora_scale"}[kind]
        tensors[f"{base}.{suffix}"] = torch.zeros(2)
    return tensors


@pytest.mark.parametrize(
    "kind", ["rank", "NaN", "alpha", "half", "other shape", "other model", "Flux", "LoHa", "LoKr", "DoRA"]
)
def test_what_is_refused(tiny: Path, tmp_path: Path, kind: str) -> None:
    file = kohya(tmp_path / "l.safetensors", halves(tiny))
    safetensors.torch.save_file(spoil(safetensors.torch.load_file(file), kind), file)
    with pytest.raises(UserError) as error:
        engines.load("openvino", Checkpoint(tiny, loras=(Lora(file),)))
    assert error.value.code == 69 and "\n" not in error.value.message and str(file) in error.value.message
    if kind in ("LoHa", "LoKr", "DoRA"):
        assert kind in error.value.message


def test_files_that_lie(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "l.safetensors"
    header = {"lora_unet_x.lora_up.weight": {"dtype": "F32", "shape": [50000, 50000], "data_offsets": [0, 10**10]}}
    text = json.dumps(header).encode()
    for content in (len(text).to_bytes(8, "little") + text + b"\0" * 64, b"", b"{}", b"\xff" * 99):
        file.write_bytes(content)
        with pytest.raises(UserError) as error:
            Checkpoint(tiny, loras=(Lora(file),)).weights("unet")
        assert error.value.code == 69 and "\n" not in error.value.message


def test_few_step_loras(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "lcm-lora-sdv1-5").mkdir()
    for name, wanted in {
        "lcm-lora-sdv1-5/pytorch_lora_weights": ("lcm", 4, 1.0),
        "Hyper-SD15-8steps-lora": ("ddim", 8, 1.0),
        "Hyper-SD15-8steps-CFG-lora": ("ddim", 8, 5.0),
        "sd_turbo_lora": ("euler-ancestral", 4, 1.0),
        "watercolour": ("dpm++", 20, 7.5),
    }.items():
        file = kohya(tmp_path / f"{name}.safetensors", halves(tiny))
        model = Checkpoint(tiny, loras=(Lora(file),))
        assert engines.defaults(model) == engines.Defaults(*wanted)
        trailing = model.config("scheduler").get("timestep_spacing") == "trailing"
        assert trailing == (wanted[0] in ("ddim", "euler-ancestral"))


def test_the_option() -> None:
    assert Adapters()("a, b:0.5,/c/d.safetensors:-1") == (
        ("a", 1.0, ""),
        ("b", 0.5, ""),
        ("/c/d.safetensors", -1.0, ""),
    )
    for wrong in ("a:b", "a:11", ":1", "a:1e3", "a:nan"):
        with pytest.raises(ValueError, match="NAME:WEIGHT"):
            Adapters()(wrong)


def test_in_a_prompt() -> None:
    assert prompt_syntax.loras("a cat <lora:ink:0.8>, <LORA:b>") == ("a cat", [("ink", 0.8), ("b", 1.0)])
    assert prompt_syntax.loras("a <b> cat") == ("a <b> cat", [])


@pytest.fixture
def painter(tiny: Path, tmp_path: Path) -> Painter:
    from helpers.catalog import catalog

    models = catalog.read()._replace(folder=tmp_path)
    (tmp_path / "loras").mkdir()
    kohya(tmp_path / "loras" / "Ink.safetensors", halves(tiny))
    return Painter(Model("tiny", tiny, "openvino"), usual=Job("", seed=1, steps=1, guidance=1.0), models=models)


def test_typed_and_spoken(painter: Painter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    usual = painter.usual
    [plain] = painter.draw(replace(usual, prompt="a cat"))
    [typed] = painter.draw(replace(usual, prompt="a cat <lora:ink:0.7> <lora:nobody:1>", typed=True))
    [spoken] = painter.draw(replace(usual, prompt="a cat <lora:ink:0.7>"))
    [option] = painter.draw(replace(usual, prompt="a cat", loras=(Adapter("Ink", 0.7),)))
    assert np.array_equal(spoken.pixels, plain.pixels) and not spoken.job.loras
    assert np.array_equal(typed.pixels, option.pixels) and not np.array_equal(typed.pixels, plain.pixels)
    assert "no LoRA called nobody: left out" in caplog.text
    text = png.parameters(typed)
    assert text.startswith("a cat <lora:ink:0.7>\n") and "Lora hashes:" in text
    again = png.parse(text)
    assert again.prompt == "a cat" and again.loras == typed.job.loras and len(again.loras[0].sha256) == 12
    [drawn] = painter.draw(replace(again, model="", sha256="", typed=True))
    assert np.array_equal(drawn.pixels, typed.pixels)
    other = replace(again, loras=(again.loras[0]._replace(sha256="0" * 12),))
    with pytest.raises(UserError, match="not 000000000000") as error:
        list(painter.draw(other))
    assert error.value.code == 66
    with pytest.raises(UserError, match="no LoRA called in") as missing:
        list(painter.draw(replace(usual, prompt="a", loras=(Adapter("in"),))))
    assert missing.value.code == 66 and "Ink" in missing.value.remedy
