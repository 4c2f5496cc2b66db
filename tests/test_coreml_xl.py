"""Stable Diffusion XL on the evaluator: small programs in Apple's layout, of which the Unet tells what it was given."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import coreml_standin
import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from numpy.typing import NDArray
from small_models import BUILTIN

from helpers.compress import convert_coreml
from helpers.core.errors import UserError
from helpers.draw import diffusion, engines
from helpers.draw.engines import compute_units, coreml

transformers: Any = pytest.importorskip("transformers")

LENGTH, HEIGHT, WIDTH, POOLED = 12, 8, 16, 6  # tokens; latents; numbers of the pooled vector
WIDTHS = {"TextEncoder": 5, "TextEncoder2": 7}
PROMPT = "a red burger!"  # the second tokenizer pads with "!", and its "!" is not the word "!"
_FOLDER = tempfile.TemporaryDirectory(prefix="audio-to-image.")  # deleted when the tests end


def save(path: Path, program: Any) -> None:
    options: dict[str, Any] = {"convert_to": "mlprogram", "compute_precision": ct.precision.FLOAT32}
    target = ct.target.macOS14
    ct.convert(program, minimum_deployment_target=target, skip_model_load=True, **options).save(str(path))


def text_encoder(part: str) -> Any:
    """hidden: the number of each token, by the number of the column; pooled: the sum of all tokens, likewise."""

    @mb.program(  # type: ignore[untyped-decorator]
        input_specs=[mb.TensorSpec((1, LENGTH), types.fp32)], opset_version=ct.target.macOS14
    )
    def program(input_ids: Any) -> Any:
        columns = np.arange(1, WIDTHS[part] + 1, dtype=np.float32) / 1000
        hidden = mb.mul(x=mb.expand_dims(x=input_ids, axes=[2]), y=columns, name="hidden_embeds")
        total = mb.reduce_sum(x=input_ids, axes=[1], keep_dims=True)
        sign = np.float32(1 if part == "TextEncoder2" else -1)
        return hidden, mb.mul(x=total, y=sign * np.arange(1, POOLED + 1, dtype=np.float32) / 1e4, name="pooled_outputs")

    return program


def unet(batch: int, flat: bool) -> Any:
    """noise_pred: for each row the sample plus timestep, time_ids, text_embeds and encoder_hidden_states in a row.

    As in Apple's, the inputs have 16 bits and the output has 32.
    """
    shapes = {
        "sample": (batch, 4, HEIGHT, WIDTH),
        "timestep": (batch,),
        "encoder_hidden_states": (batch, sum(WIDTHS.values()), 1, LENGTH),
        "time_ids": (6 * batch,) if flat else (batch, 6),
        "text_embeds": (batch, POOLED),
    }

    @mb.program(  # type: ignore[untyped-decorator]
        input_specs=[mb.TensorSpec(shape, types.fp16) for shape in shapes.values()], opset_version=ct.target.macOS14
    )
    def program(sample: Any, timestep: Any, encoder_hidden_states: Any, time_ids: Any, text_embeds: Any) -> Any:
        given = [mb.cast(x=x, dtype="fp32") for x in (timestep, time_ids, text_embeds, encoder_hidden_states)]
        sample = mb.cast(x=sample, dtype="fp32")
        told = mb.concat(values=[mb.reshape(x=value, shape=[batch, -1]) for value in given], axis=1)
        room = 4 * HEIGHT * WIDTH - 1 - 6 - POOLED - sum(WIDTHS.values()) * LENGTH
        told = mb.pad(x=told, pad=[0, 0, 0, room], mode="constant", constant_val=0.0)
        return mb.add(x=sample, y=mb.reshape(x=told, shape=shapes["sample"]), name="noise_pred")

    return program


def decoder() -> Any:
    @mb.program(  # type: ignore[untyped-decorator]
        input_specs=[mb.TensorSpec((1, 4, HEIGHT, WIDTH), types.fp32)], opset_version=ct.target.macOS14
    )
    def program(z: Any) -> Any:
        colours = mb.slice_by_index(x=z, begin=[0, 0, 0, 0], end=[1, 3, HEIGHT, WIDTH])
        return mb.upsample_nearest_neighbor(x=colours, scale_factor_height=8, scale_factor_width=8, name="image")

    return program


def model(batch: int = 2, chunked: bool = False, flat: bool = False) -> Path:
    """A folder of packages as Apple's converter makes it of XL, with the built-in vocabulary."""
    folder = Path(_FOLDER.name) / f"xl-{batch}-{chunked}-{flat}"
    if folder.exists():
        return folder
    folder.mkdir()
    for part in WIDTHS:
        save(folder / f"{part}.mlpackage", text_encoder(part))
    save(folder / "Unet.mlpackage", unet(batch, flat))
    save(folder / "VAEDecoder.mlpackage", decoder())
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(BUILTIN / "tokenizer" / name, folder / name)
    if chunked:
        convert_coreml.chunk(folder)
    return folder


CPU_ONLY = engines.Options(compute_units="CPU_ONLY")


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    coreml_standin.install(monkeypatch)
    monkeypatch.setenv("COREML_LOG", str(tmp_path / "loaded"))


def ids(prompt: str, padding: str) -> NDArray[Any]:
    """By transformers."""
    tokenizer = transformers.CLIPTokenizer(
        str(BUILTIN / "tokenizer" / "vocab.json"), str(BUILTIN / "tokenizer" / "merges.txt"), pad_token=padding
    )
    return np.array(tokenizer(prompt, padding="max_length", max_length=LENGTH, truncation=True)["input_ids"])


def told(timestep: float, prompt: str) -> NDArray[Any]:
    """What the Unet is to be given: the numbers after the sample's own."""
    first, second = ids(prompt, "<|endoftext|>"), ids(prompt, "!")
    hidden = [
        tokens * (column + 1) / 1000
        for tokens, part in ((first, "TextEncoder"), (second, "TextEncoder2"))
        for column in range(WIDTHS[part])
    ]
    pooled = second.sum() * np.arange(1, POOLED + 1) / 1e4
    if not prompt:
        hidden, pooled = np.zeros_like(hidden).tolist(), pooled * 0
    return np.concatenate([[timestep], [64, 128, 0, 0, 64, 128], pooled, np.ravel(hidden)])


def given(engine: engines.Engine, sample: Any, timestep: float, prompts: list[str]) -> NDArray[Any]:
    """What the Unet says that it was given beside `sample`."""
    text = np.concatenate([engine.encode_text(engine.tokenizer.encode(prompt).ids) for prompt in prompts])
    rows: NDArray[Any] = engine.predict_noise(sample, timestep, text) - sample
    return rows.reshape(len(prompts), -1)


@pytest.mark.parametrize(
    ("batch", "chunked", "flat"), [(1, False, False), (2, False, False), (2, True, False), (2, False, True)]
)
@pytest.mark.parametrize("prompts", [["", PROMPT], ["a cat", PROMPT], [PROMPT]])
def test_the_unet_is_given_what_it_was_trained_with(
    tmp_path: Path, batch: int, chunked: bool, flat: bool, prompts: list[str]
) -> None:
    engine = engines.load("coreml", model(batch, chunked, flat), CPU_ONLY)
    assert (engine.size, engine.channels) == ((128, 64), 4)
    sample = np.random.RandomState(1).randint(-3, 4, (len(prompts), 4, HEIGHT, WIDTH)).astype(np.float32)
    expected = np.stack([told(321, prompt) for prompt in prompts])
    found = given(engine, sample, 321, prompts)
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, rtol=1e-3)
    assert np.abs(found[:, expected.shape[1] :]).max() == 0  # nothing but the sample
    assert (" UnetChunk2\n" in (tmp_path / "loaded").read_text()) == chunked


def test_the_two_tokenizers_differ_as_transformers_has_it() -> None:
    engine = engines.load("coreml", model(), CPU_ONLY)
    for prompt in ("", PROMPT, "a red burger and " * 9, "wow!!! a cat <|endoftext|>"):
        tokens = engine.tokenizer.encode(prompt)
        assert tokens.ids.tolist() == [ids(prompt, "<|endoftext|>").tolist(), ids(prompt, "!").tolist()]
    assert engine.tokenizer.encode("a red burger and " * 9).cut.endswith("burger and")


def test_the_scale_and_the_scheduler_are_those_of_xl() -> None:
    engine = engines.load("coreml", model(), CPU_ONLY)
    latents = np.random.RandomState(2).standard_normal((1, 4, HEIGHT, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(engine.decode(latents)[:, :, ::8, ::8], latents[:, :3] / 0.13025, rtol=1e-5)
    # scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0
    theirs = {"prediction_type": "epsilon", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
              "timestep_spacing": "leading", "steps_offset": 1, "num_train_timesteps": 1000}  # fmt: skip
    assert engine.scheduler.items() >= theirs.items()


@pytest.mark.parametrize("chunked", [False, True])
def test_little_memory_has_one_network_loaded_at_a_time(tmp_path: Path, chunked: bool) -> None:
    def drawn() -> NDArray[np.uint8]:
        engine = engines.load("coreml", model(chunked=chunked), replace(CPU_ONLY, low_memory=frugal))
        text, empty = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (PROMPT, ""))
        assert isinstance(engine, coreml.CoreMl)
        picture = diffusion.draw(engine, text, empty, seed=1, steps=3, guidance=2.0)
        assert set(engine._networks) == ({"VAEDecoder"} if frugal else {*WIDTHS, "Unet", "VAEDecoder"})
        return picture

    frugal = False
    expected = drawn()
    assert expected.shape == (64, 128, 3)
    frugal = True
    (tmp_path / "loaded").unlink()
    assert np.array_equal(drawn(), expected)
    loaded = [line.split()[-1] for line in (tmp_path / "loaded").read_text().splitlines()]
    assert loaded == [*WIDTHS, *(["UnetChunk1", "UnetChunk2"] if chunked else ["Unet"]), "VAEDecoder"]


@pytest.mark.parametrize("layout", ["packages", "compiled"])
def test_the_trial_passes_and_sees_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str) -> None:
    folder = coreml_standin.compiled(model(), tmp_path / "compiled") if layout == "compiled" else model(chunked=True)
    monkeypatch.setenv("PYTHONPATH", coreml_standin.environment()["PYTHONPATH"])
    assert compute_units.try_unit(folder, "CPU_AND_NE") > 0
    monkeypatch.setenv("COREML_FAULTS", '{"CPU_AND_NE": {"TextEncoder2": "nan"}}')
    with pytest.raises(UserError, match="TextEncoder computes NaN"):
        compute_units.try_unit(folder, "CPU_AND_NE")


def test_without_its_second_text_encoder_it_is_refused(tmp_path: Path) -> None:
    shutil.copytree(model(), tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "TextEncoder2.mlpackage")
    with pytest.raises(UserError, match="has no TextEncoder2") as raised:
        engines.load("coreml", tmp_path / "model", CPU_ONLY)
    assert raised.value.code == 69
