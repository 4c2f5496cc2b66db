"""Small decoders (AutoencoderTiny): against diffusers with every engine, which one is chosen, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_evaluator import Program
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_models import diffusers, random_model, torch

from helpers.catalog import catalog
from helpers.catalog.catalog import Catalog
from helpers.compress import convert_coreml
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.settings import Settings
from helpers.draw import diffusion, engines, png, safety
from helpers.draw.choose_model import Model
from helpers.draw.decoders import Decoder, choose_decoder
from helpers.draw.job import Job
from helpers.draw.painter import Painter

# As TAESD's, a deeper one, and one for latents of more channels; each is 8 times as large as its latents
SHAPES: dict[str, dict[str, Any]] = {
    "taesd": {"num_decoder_blocks": (3, 3, 3, 1)},
    "deeper": {"num_decoder_blocks": (1, 0, 2, 2), "scaling_factor": 0.7, "shift_factor": 0.1},
    "wide": {"num_decoder_blocks": (1, 1, 1, 1), "latent_channels": 16},
}


def tiny(folder: Path, name: str = "taesd") -> Path:
    """A small decoder of random weights, in a folder as the catalogue has it."""
    torch.manual_seed(5)
    sides = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    vae = diffusers.AutoencoderTiny(**sides, num_encoder_blocks=(1, 1, 1, 1), **SHAPES[name])
    for parameter in vae.parameters():
        parameter.data *= 2  # with torch's first values the latents hardly reach the picture
    vae.save_pretrained(folder)
    return folder


def decoded(folder: Path, latents: NDArray[Any], half: bool = False) -> NDArray[Any]:
    """What diffusers makes of latents; half: with the weights in 16 bits, as a conversion to Core ML keeps them."""
    vae = diffusers.AutoencoderTiny.from_pretrained(folder)
    vae = vae.half().float() if half else vae
    unscaled = torch.from_numpy(latents) / vae.config.scaling_factor + vae.config.shift_factor
    with torch.no_grad():
        return np.asarray(vae.decode(unscaled).sample.numpy())


def psnr(exact: NDArray[Any], mine: NDArray[Any]) -> float:
    """In dB, of the reach of the exact values."""
    assert mine.shape == exact.shape
    error = np.sqrt(np.mean((exact.astype(float) - mine) ** 2))
    return float(20 * np.log10(np.ptp(exact) / (error + 1e-12)))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    patch.setattr(openvino, "CACHE", folder := tmp_path_factory.mktemp("cache"))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own decoder is AutoencoderKL."""
    return random_model(tmp_path_factory.mktemp("model") / "sd1", "sd1")


@pytest.fixture
def models(tmp_path: Path) -> Catalog:
    """The catalogue with one model on this machine: taesd."""
    found = catalog.read(tmp_path / "models")
    files = []
    tiny(found.entries["taesd"].folder)
    for file in found.entries["taesd"].files:
        size = (found.entries["taesd"].folder / file.path).stat().st_size
        files.append(file._replace(bytes=size, exact=True))
    entry = found.entries["taesd"]._replace(files=tuple(files))
    return found._replace(entries={**found.entries, "taesd": entry})


@pytest.mark.parametrize("name", ["taesd", "deeper"])
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_an_engine_decodes_with_it_as_diffusers_does(folder: Path, tmp_path: Path, name: str, engine: str) -> None:
    options = engines.Options(decoder=tiny(tmp_path / name, name))
    loaded = engines.load(engine, folder, options, size=(72, 40), guidance=False)
    latents = np.random.RandomState(1).randn(1, 4, 5, 9).astype(np.float32) * 2
    assert psnr(decoded(tmp_path / name, latents), loaded.decode(latents)) > 60


@pytest.mark.parametrize("name", ["taesd", "deeper"])
def test_a_conversion_to_core_ml_keeps_it(folder: Path, tmp_path: Path, name: str) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("vae")))
    tiny(model / "vae", name)
    (tmp_path / "converted").mkdir()
    convert_coreml.convert(model, tmp_path / "converted", "original", None, 2)
    note = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert choose_decoder("", Model("own", tmp_path / "converted", "coreml"), catalog.read()) == Decoder("small")
    decoder = Program(tmp_path / "converted" / "VAEDecoder.mlpackage")
    latents = np.random.RandomState(1).randn(*decoder.inputs["z"][0]).astype(np.float32)
    z = (latents / note["scaling_factor"] + note["shift_factor"]).astype(np.float16)
    exact = decoded(model / "vae", (z.astype(np.float32) - note["shift_factor"]) * note["scaling_factor"], half=True)
    assert psnr(exact, decoder.predict({"z": z})["image"]) > 60


def test_a_slow_engine_uses_the_small_one_that_fits_and_others_where_asked(folder: Path, models: Catalog) -> None:
    own = Model("own", folder, "openvino")
    small = Decoder("taesd", models.entries["taesd"].folder)
    assert choose_decoder("", own, models) == choose_decoder("small", own, models) == small
    assert choose_decoder("taesd", own, models) == small
    assert choose_decoder("full", own, models) == Decoder("full")
    fast = Model("own", folder, "torch")
    assert choose_decoder("", fast, models) == Decoder("full")
    assert choose_decoder("small", fast, models) == small
    builtin = Model("builtin", models.entries["builtin"].folder, "openvino")
    assert choose_decoder("", builtin, models) == Decoder("full")


def test_what_is_not_there_or_does_not_fit_is_said_with_what_to_do(
    folder: Path, models: Catalog, tmp_path: Path
) -> None:
    nothing = catalog.read(tmp_path / "nothing")
    own = Model("own", folder, "openvino")
    assert choose_decoder("", own, nothing) == Decoder("full")
    with pytest.raises(UserError, match="the model taesd is not on this machine") as raised:
        choose_decoder("small", own, nothing)
    assert (raised.value.code, raised.value.remedy) == (69, "Download it: ./download_model.py taesd")
    builtin = Model("builtin", models.entries["builtin"].folder, "openvino")
    for asked, model in (("small", builtin), ("taesdxl", own)):
        with pytest.raises(UserError, match=r"there is no (small decoder|decoder taesdxl) for") as raised:
            choose_decoder(asked, model, models)
        assert raised.value.code == 69 and "--decoder full" in raised.value.remedy


@pytest.mark.parametrize("key", ["scaling_factor", "block_out_channels", "latent_channels"])
def test_an_odd_setting_of_the_models_own_is_left_to_the_engine(
    folder: Path, models: Catalog, tmp_path: Path, key: str
) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    config = json.loads((own / "vae" / "config.json").read_text())
    (own / "vae" / "config.json").write_text(json.dumps(config | {key: ["x"]}))
    assert choose_decoder("", Model("own", own, "openvino"), models) == Decoder("full")


def test_a_model_that_brings_a_small_one_draws_with_it(folder: Path, models: Catalog, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own", ignore=shutil.ignore_patterns("vae")))
    tiny(own / "vae")
    for asked in ("", "small", "full"):
        assert choose_decoder(asked, Model("own", own, "torch"), models) == Decoder("small")


def test_the_picture_says_which_and_is_drawn_again_with_it(
    folder: Path, models: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("a red heart", seed=3, steps=1, guidance=1.0, size=(64, 64))
    painter = Painter(Model("sd1", folder, "openvino"), usual=job, models=models)
    pictures = {asked: next(painter.draw(Job(**vars(job) | {"decoder": asked}))) for asked in ("", "small", "full")}
    assert [picture.job.decoder for picture in pictures.values()] == ["taesd", "taesd", "full"]
    assert np.array_equal(pictures[""].pixels, pictures["small"].pixels)
    assert not np.array_equal(pictures[""].pixels, pictures["full"].pixels)
    assert "VAE: taesd," in png.parameters(pictures["small"]) and "VAE" not in png.parameters(pictures["full"])
    monkeypatch.setattr(catalog, "read", lambda folder: models)
    for asked in ("small", "full"):  # a picture that names none was drawn with the model's own
        (tmp_path / "one.png").write_bytes(png.encode(pictures[asked]))
        again = Painter.load(Settings(again=str(tmp_path / "one.png"), model=str(folder), engine="openvino"))
        assert np.array_equal(next(again.draw(again.usual)).pixels, pictures[asked].pixels)


def test_whoever_listens_sees_the_picture_come(folder: Path, tmp_path: Path) -> None:
    """The whole stage: a preview per step but the last, ever closer to the picture; nothing where nobody listens."""
    own = Path(shutil.copytree(folder, tmp_path / "own", ignore=shutil.ignore_patterns("vae")))
    tiny(own / "vae")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("A2I_")}
    environment |= {"A2I_OUTPUT": str(tmp_path / "out"), "A2I_ENGINE": "openvino", "A2I_STEPS": "5", "A2I_SEED": "1"}
    environment |= {"A2I_GUIDANCE": "1", "A2I_JSON": "1", "A2I_SAMPLER": "euler"}
    (tmp_path / "seen").mkdir()
    listened = {"A2I_EVENTS": str(tmp_path / "seen" / "events")}
    results = []
    for more in (listened, {}):
        command = [sys.executable, "-m", "helpers.draw.generate", "--model", str(own)]
        done = subprocess.run(
            command, input="a cat\n", env=environment | more, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        results.append(Image.open(json.loads(done.stdout)["paths"][0]))
        for left in (tmp_path / "out").rglob("*"):
            assert "preview" not in left.name
    events = [json.loads(line) for line in (tmp_path / "seen" / "events").read_text().splitlines()]
    shown = [event for event in events if event["event"] == "preview"]
    assert [(event["stage"], event["step"], event["of"]) for event in shown] == [
        ("generate", step, 5) for step in (1, 2, 3, 4)
    ]
    picture, *previews = (
        np.asarray(image).astype(float) for image in (results[0], *(Image.open(e["file"]) for e in shown))
    )
    assert np.array_equal(picture, np.asarray(results[1]))
    distances = [np.abs(picture - preview).mean() for preview in previews]
    assert distances[-1] < distances[0] and distances[-1] < 20
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == [
        "events", *(f"preview-{shown[0]['number'] or 0}-{step}.jpg" for step in (1, 2, 3, 4))
    ]  # fmt: skip


@pytest.mark.parametrize(("steps", "expected"), [(1, 0), (2, 1), (10, 9), (20, 9), (25, 12), (50, 16)])
def test_long_runs_have_fewer_previews(steps: int, expected: int) -> None:
    assert sum(diffusion.has_preview(step, steps) for step in range(1, steps + 1)) == expected


def test_a_full_decoder_or_the_filter_of_safe_shows_no_preview(
    folder: Path, models: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("a red heart", seed=3, steps=3, guidance=1.0, size=(64, 64), sampler="dpm++")
    shown: list[int] = []
    for decoder, flags, expected in (("small", False, [1, 2]), ("full", False, []), ("small", True, [])):
        monkeypatch.setattr(safety, "load", lambda folder: lambda pixels: False)
        painter = Painter(
            Model("sd1", folder, "openvino"), usual=job, models=models, filter_folder=folder if flags else None
        )
        shown.clear()
        list(painter.draw(replace(job, decoder=decoder), on_preview=lambda step, steps, pixels: shown.append(step)))
        assert shown == expected


def spoilt(folder: Path, what: str) -> Path:
    tiny(folder, "wide" if what == "channels" else "taesd")
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    name = "decoder.layers.3.conv.2.weight"
    if what == "nan":
        weights[name][0, 0, 0, 0] = np.nan
    elif what == "missing":
        del weights[name]
    elif what == "shape":
        weights[name] = weights[name][:, :4].copy()
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    if what == "activation":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"act_fn": "mish"}))
    return folder


@pytest.mark.parametrize(
    ("what", "engine"),
    [(what, "openvino") for what in ("channels", "nan", "missing", "shape", "activation")]
    + [(what, "torch") for what in ("channels", "nan", "missing", "shape")],
)
def test_a_decoder_that_lies_is_one_line(folder: Path, tmp_path: Path, what: str, engine: str) -> None:
    options = engines.Options(decoder=spoilt(tmp_path / "decoder", what))
    with pytest.raises(UserError) as raised:
        engines.load(engine, folder, options, guidance=False)
    assert raised.value.code == 69 and raised.value.remedy
    assert "decoder" in raised.value.message and "\n" not in raised.value.message
