"""Converted models, executed by the evaluator, compute what PyTorch computes; and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_models import converted, source
from mil_evaluator import Program
from small_models import reference, torch

from helpers.compress import convert_coreml
from helpers.core.errors import UserError
from helpers.core.paths import ROOT


def psnr(exact: Any, mine: Any) -> float:
    exact = np.asarray(exact, np.float64)
    return float(20 * np.log10(np.abs(exact).max() / (np.sqrt(np.mean((exact - mine) ** 2)) + 1e-12)))


def halved(name: str) -> Any:
    """diffusers' pipeline with the weights that a conversion keeps: float16."""
    pipe = reference(source(name))
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.half().float()
    return pipe


@pytest.mark.parametrize("name", ["sd1", "sd2", "small", "builtin"])
def test_the_text_encoder_and_the_decoder_are_those_of_diffusers(name: str) -> None:
    pipe, folder = halved(name), converted(name)
    length = pipe.text_encoder.config.max_position_embeddings
    tokens = pipe.tokenizer("a red heart", padding="max_length", max_length=length, return_tensors="pt").input_ids
    text = Program(folder / "TextEncoder.mlpackage").predict({"input_ids": tokens.numpy().astype(np.float32)})
    with torch.no_grad():
        expected = pipe.text_encoder(tokens).last_hidden_state.numpy()
    assert text["last_hidden_state"].dtype == np.float32
    assert psnr(expected, text["last_hidden_state"]) > 80
    decoder = Program(folder / "VAEDecoder.mlpackage")
    z = np.random.RandomState(0).standard_normal(decoder.inputs["z"][0]).astype(np.float16)
    with torch.no_grad():
        expected = pipe.vae.decode(torch.from_numpy(z).float()).sample.numpy()
    assert psnr(expected, decoder.predict({"z": z})["image"]) > 80


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("sd2", "original"),
        ("sd2", "split_einsum"),
        ("sd2", "split_einsum_v2"),
        ("sd1", "original"),
        ("small", "split_einsum"),
        ("builtin", "original"),
    ],
)
def test_the_unet_is_that_of_diffusers(name: str, attention: str, size: Callable[[int, int], int]) -> None:
    unet, exact = Program(converted(name, attention) / "Unet.mlpackage"), halved(name).unet
    for timestep in (501, 0, 999)[: size(1, 3)]:
        random = np.random.RandomState(timestep)
        given = {key: random.standard_normal(shape).astype(dtype) for key, (shape, dtype) in unet.inputs.items()}
        given["timestep"] = np.full(2, timestep, np.float16)
        text = torch.from_numpy(given["encoder_hidden_states"]).float()[:, :, 0].transpose(1, 2)
        with torch.no_grad():
            expected = exact(torch.from_numpy(given["sample"]).float(), timestep, text).sample.numpy()
        assert psnr(expected, unet.predict(given)["noise_pred"]) > 80


def test_long_sequences_of_queries_are_taken_in_pieces(tmp_path: Path) -> None:
    """More than 512, and no multiple of it: 48 x 40 latents are 1,920 tokens."""
    predictions, softmax = [], []
    for attention in ("split_einsum", "split_einsum_v2"):
        folder = tmp_path / attention
        folder.mkdir()
        convert_coreml.convert(source("sd2"), folder, attention, (320, 384), batch=1)
        unet = Program(folder / "Unet.mlpackage")
        random = np.random.RandomState(0)
        given = {key: random.standard_normal(shape).astype(dtype) for key, (shape, dtype) in unet.inputs.items()}
        predictions.append(unet.predict(given)["noise_pred"])
        softmax.append(unet.operations()["softmax"])
    assert psnr(*predictions) > 80
    assert softmax[1] > softmax[0]


def test_weights_keep_their_names() -> None:
    weights = Program(converted("tiny", "split_einsum") / "Unet.mlpackage").weights()
    assert "mid_block_attentions_0_transformer_blocks_0_attn1_to_q_weight" in weights
    assert "conv_in_weight" in weights


def test_what_the_engine_needs_lies_beside() -> None:
    folder = converted("builtin")
    names = {file.name for file in folder.iterdir()}
    assert names >= {"vocab.json", "merges.txt", "tokenizer_config.json", "words.txt", "audio_to_image.json"}
    note = json.loads((folder / "conversion.json").read_text())
    assert (note["factor"], note["scaling_factor"], note["scheduler"]["prediction_type"]) == (16, 1.0, "v_prediction")


def run(*arguments: str) -> int:
    return convert_coreml.main([str(argument) for argument in arguments])


def test_the_command_makes_a_folder_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, target = str(source("tiny")), tmp_path / "new"
    assert run(model, "-o", str(target), "--size", "64x32", "--batch", "1", "--attention", "split_einsum") == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert Program(target / "Unet.mlpackage").inputs["sample"][0][2:] == (16, 32)
    for arguments, code in (
        ((model, "-o", str(target)), 73),  # is there already
        ((model, "-o", str(tmp_path / "x"), "--size", "65x32"), 64),
        ((str(tmp_path), "-o", str(tmp_path / "x")), 69),
        (("no-such-model", "-o", str(tmp_path / "x")), 64),
        (("stable-diffusion-2-1-base", "-o", str(tmp_path / "x")), 69),  # not fetched: nothing else in its place
        ((str(tmp_path / "nowhere"), "-o", str(tmp_path / "x")), 66),
        ((model, "-o", "/dev/null/x"), 73),
    ):
        with pytest.raises(UserError) as raised:
            run(*arguments)
        assert raised.value.code == code
        assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_a_weight_that_16_bits_cannot_hold_is_refused(tmp_path: Path) -> None:
    from small_models import random_model

    folder = random_model(tmp_path / "model", "tiny")
    from safetensors.numpy import load_file, save_file

    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.weight"][0, 0, 0, 0] = 1e6
    save_file(weights, file)
    with pytest.raises(UserError, match=r"decoder\.conv_in\.weight"):
        run(str(folder), "-o", str(tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


GONE = object()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vae", "block_out_channels", GONE),
        ("vae", "block_out_channels", 8),
        ("vae", "latent_channels", GONE),
        ("vae", "scaling_factor", "large"),
        ("vae", "scaling_factor", float("nan")),
        ("vae", "shift_factor", [1]),
        ("vae", "norm_num_groups", 7),
        ("unet", "sample_size", "large"),
        ("unet", "sample_size", [8, 8, 8]),
        ("unet", "in_channels", GONE),
        ("unet", "cross_attention_dim", [None]),
        ("unet", "layers_per_block", "two"),
        ("unet", "down_block_types", None),
        ("text_encoder", "max_position_embeddings", GONE),
        ("text_encoder", "hidden_size", None),
        ("text_encoder", "num_attention_heads", 0),
        ("text_encoder", "num_hidden_layers", [2]),
    ],
)
def test_a_damaged_configuration_is_the_models_fault(tmp_path: Path, part: str, key: str, value: object) -> None:
    """69 and one line that names the model; never "a bug" (70)."""
    model = shutil.copytree(source("tiny"), tmp_path / "model")
    file = model / part / "config.json"
    config = json.loads(file.read_text()) | {key: value}
    file.write_text(json.dumps({name: one for name, one in config.items() if one is not GONE}))
    with pytest.raises(UserError) as raised:
        run(str(model), "-o", str(tmp_path / "new"))
    assert (raised.value.code == 69 and str(model) in raised.value.message) or part in raised.value.message
    assert raised.value.remedy in ("Fetch the model again.", "Use another model.")
    assert "\n" not in raised.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_it_shows_no_bars_and_sets_nothing_for_the_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before = dict(os.environ)
    assert run(str(source("tiny")), "-o", str(tmp_path / "new"), "--attention", "original") == 0
    assert dict(os.environ) == before
    assert capfd.readouterr().err == "converting TextEncoder\nconverting Unet\nconverting VAEDecoder\n"


def test_it_needs_no_pytorch() -> None:
    """Neither to convert nor to write: torch is not even looked for."""
    import subprocess
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        program = f"""
import sys
from helpers.compress import convert_coreml
convert_coreml.main([{str(source("tiny"))!r}, "-o", {folder + "/new"!r}])
print([name for name in ("torch", "diffusers", "transformers") if sys.modules.get(name)])
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
