"""The command that makes Core ML models small: what it writes, against the evaluator, what it refuses and costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coreml_standin
import numpy as np
import pytest
from coreml_models import converted, source
from mil_evaluator import Program
from numpy.typing import NDArray
from safetensors.numpy import save_file
from small_models import picture

from helpers.adapt.diffusers_folder import read_config, read_weights, weight_files
from helpers.compress import palettes, palettize, recipes, report, sensitivity
from helpers.compress.packages import PARTS
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import engines
from helpers.draw.engines import openvino_graph
from helpers.draw.engines.architecture import diffusers_name
from helpers.draw.engines.coreml_graph import identifier

KINDS = {"linear-8": "macOS14", "palette-6": "macOS14", "mixed-4": "macOS14", "palette-4-grouped": "macOS15",
         "mixed-3": "macOS15"}  # fmt: skip


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(openvino, "CACHE", tmp_path_factory.getbasetemp() / "openvino")


def run(*arguments: object) -> int:
    return palettize.main([str(argument) for argument in arguments])


def code(*arguments: object) -> int:
    with pytest.raises(UserError) as raised:
        run(*arguments)
    assert "\n" not in raised.value.message
    return raised.value.code


@pytest.fixture(scope="module", params=KINDS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A recipe, the folder of packages that it makes of a tiny model, and that one decoded."""
    folder = tmp_path_factory.mktemp(request.param)
    assert run("compress", converted("tiny", system=KINDS[request.param]), request.param, "-o", folder / "small") == 0
    assert run("decode", folder / "small", "-o", folder / "decoded") == 0
    return request.param, folder / "small", folder / "decoded"


def stored(package: Path) -> dict[str, NDArray[np.float32]]:
    """The weights of a package as the evaluator decodes them, by their name before they were compressed."""
    weights = Program(package).weights()
    return {name.removesuffix("_palettized").removesuffix("_quantized"): array for name, array in weights.items()}


def test_decode_writes_what_the_packages_decode_to(small: tuple[str, Path, Path]) -> None:
    name, folder, decoded = small
    changed = []
    for part, inside in PARTS.items():
        expected, original, mine = stored(folder / f"{part}.mlpackage"), *(
            read_weights(model / inside) for model in (source("tiny"), decoded)
        )  # fmt: skip
        assert mine.keys() == original.keys()
        for key, weight in mine.items():
            assert weight.dtype == np.float16
            assert weight.shape == original[key].shape
            inner = identifier(diffusers_name(key))
            if part != "VAEDecoder" or key.startswith(("decoder.", "post_quant_conv.")):
                assert np.array_equal(weight.reshape(-1), expected[inner].reshape(-1)), key
            else:  # of the encoder, which is in no package
                assert np.array_equal(weight, original[key].astype(np.float16))
            if not np.array_equal(weight, original[key].astype(np.float16)):
                changed.append(key)
                if "palette" in name and "grouped" not in name:
                    assert len({*weight.reshape(-1).tolist()}) <= 2 ** int(name[8:])
    assert any("conv" in key for key in changed)
    assert any("token_embedding" in key for key in changed) == ("grouped" not in name)  # 1,604 words: no groups of 16


def test_the_picture_is_that_of_the_decoded_folder(
    small: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    coreml_standin.install(monkeypatch)
    options = engines.Options(compute_units="CPU_ONLY")
    _, folder, decoded = small
    theirs, mine = picture(engines.load("openvino", decoded)), picture(engines.load("coreml", folder, options))
    assert report.psnr(theirs, mine, 255) > 60
    assert not np.array_equal(theirs, picture(engines.load("openvino", source("tiny"))))


def test_the_packages_are_as_small_as_their_bits(small: tuple[str, Path, Path]) -> None:
    """Of the Unet's weights; small layers stay as they are."""
    name, folder, _ = small
    before, after = (
        (model / "Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        for model in (converted("tiny", system=KINDS[name]), folder)
    )
    most = 26496 * 2 * (1 - recipes.recipe(name).bits / 16)
    assert 0.75 * most < before - after < most


def test_what_lies_beside_comes_along(small: tuple[str, Path, Path]) -> None:
    _, folder, decoded = small
    assert {file.name for file in folder.iterdir()} == {file.name for file in converted("tiny").iterdir()}
    assert {file.relative_to(decoded) for file in decoded.rglob("*")} == {
        file.relative_to(source("tiny")) for file in source("tiny").rglob("*")
    }


def test_chunked_folders(tmp_path: Path) -> None:
    """Each piece by itself; what cutting has changed (queries and their scale) is not decoded in silence."""
    folder = converted("tiny", chunked=True)
    assert run("compress", folder, "palette-4", "-o", tmp_path / "small") == 0
    for piece in ("UnetChunk1", "UnetChunk2"):
        before, after = (Program(model / f"{piece}.mlpackage") for model in (folder, tmp_path / "small"))
        assert after.inputs == before.inputs
        assert after.operations()["constexpr_lut_to_dense"] > 3
    assert code("decode", tmp_path / "small", "-o", tmp_path / "decoded") == 64
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_names_of_recipes() -> None:
    assert [recipes.recipe(name) for name in ("linear-8", "palette-6", "palette-3-grouped", "mixed-4.5")] == [
        ("linear", 8), ("palette", 6), ("grouped", 3), ("mixed", 4.5)
    ]  # fmt: skip
    for name in recipes.RECIPES:
        recipes.recipe(name)
    for name in ("", "palette", "palette-5", "palette-16", "linear-4", "mixed", "mixed-x", "mixed-4-grouped", "6"):
        with pytest.raises(UserError, match="there is no recipe") as raised:
            recipes.recipe(name)
        assert raised.value.code == 64


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    new, packages = tmp_path / "new", converted("tiny")
    for arguments, expected in (
        ((packages, "palette-5"), 64),
        ((packages, "palette-3"), 64),  # runs on macOS 14
        ((packages, "palette-4-grouped"), 64),
        ((packages, "mixed-0.5"), 64),
        ((source("tiny"), "palette-4"), 66),
        ((tmp_path / "nowhere", "palette-4"), 66),
    ):
        assert code("compress", *arguments, "-o", new) == expected
    assert code("compress", packages, "palette-4", "-o", tmp_path) == 73
    assert code("compress", packages, "palette-4", "-o", "/dev/null/new") == 73
    assert code("decode", source("tiny"), "-o", new) == 66
    assert code("compress", packages, "palette-4") == 64
    assert code() == 64
    assert list(tmp_path.iterdir()) == []


def test_what_is_compressed_is_not_compressed_again(small: tuple[str, Path, Path], tmp_path: Path) -> None:
    assert code("compress", small[1], "palette-1", "-o", tmp_path / "new") == 64


def test_without_the_model_that_it_was_made_from(tmp_path: Path) -> None:
    """Only what measures needs it."""
    folder = shutil.copytree(converted("tiny"), tmp_path / "moved")
    note = folder / "conversion.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"source": str(tmp_path / "gone")}))
    assert code("compress", folder, "mixed-4", "-o", tmp_path / "new") == 66
    assert code("decode", folder, "-o", tmp_path / "new") == 66
    assert code("compare", folder, "palette-4") == 66
    assert [file.name for file in tmp_path.iterdir()] == ["moved"]
    assert run("compress", folder, "palette-4", "-o", tmp_path / "new") == 0


@pytest.mark.parametrize("file", ["Manifest.json", "model.mlmodel", "weight.bin"])
@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 3], lambda _: b"nonsense"])
def test_a_damaged_package_is_named(tmp_path: Path, file: str, damage: Callable[[bytes], bytes]) -> None:
    folder = shutil.copytree(converted("tiny"), tmp_path / "model")
    path = next((folder / "TextEncoder.mlpackage").rglob(file))
    path.write_bytes(damage(path.read_bytes()))
    for arguments in (("compress", folder, "palette-4"), ("decode", folder)):
        with pytest.raises(UserError, match=r"TextEncoder\.mlpackage is damaged") as raised:
            run(*arguments, "-o", tmp_path / "new")
        assert raised.value.code == 69
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"source": 7}', '{"source": null}'])
def test_a_damaged_note_of_the_conversion_is_named(tmp_path: Path, note: str) -> None:
    folder = shutil.copytree(converted("tiny"), tmp_path / "model")
    (folder / "conversion.json").write_text(note)
    for arguments in (("decode", folder, "-o", tmp_path / "new"), ("compare", folder, "palette-4")):
        with pytest.raises(UserError, match=r"conversion\.json is damaged") as raised:
            run(*arguments)
        assert raised.value.code == 69


def test_a_network_of_another_model_is_named(tmp_path: Path) -> None:
    """As the second text encoder of XL, which has no part in the folder that it is compared with."""
    folder = shutil.copytree(converted("tiny"), tmp_path / "model")
    (folder / "TextEncoder.mlpackage").rename(folder / "TextEncoder2.mlpackage")
    for arguments in (("compress", folder, "mixed-4"), ("decode", folder)):
        assert code(*arguments, "-o", tmp_path / "new") == 69


@pytest.mark.parametrize(
    ("part", "chosen"), [("text_encoder", ("token", "k_proj", "fc2")), ("unet", ("conv_in", "to_v"))]
)
def test_gains_are_what_a_changed_weight_does_to_the_engine(part: str, chosen: tuple[str, ...], tmp_path: Path) -> None:
    gains = sensitivity.gains(source("tiny"), part)
    assert sensitivity.gains(source("tiny"), part) is gains
    assert min(gains.values()) > 0
    weights = read_weights(source("tiny") / part)
    assert gains.keys() == {diffusers_name(key) for key, weight in weights.items() if weight.ndim > 1}
    inputs = sensitivity.samples(source("tiny"))[part]

    def outputs(folder: Path) -> list[Any]:
        engine = engines.load("openvino", folder)
        if part == "text_encoder":
            return [engine.encode_text(tokens[0]) for (tokens,) in inputs]
        config = read_config(folder / "unet/config.json")
        waves = {openvino_graph.time_features(config, at).tobytes(): at for at in range(1000)}
        return [engine.predict_noise(latents, waves[time.tobytes()], text) for latents, time, text in inputs]

    exact = outputs(source("tiny"))
    for word in chosen:
        key = next(key for key in weights if word in key and weights[key].ndim > 1)
        changed = palettes.kmeans(weights[key].astype(np.float16), 4).decoded().reshape(weights[key].shape)
        folder = shutil.copytree(source("tiny"), tmp_path / word)
        save_file({**weights, key: changed.astype(np.float32)}, weight_files(folder / part)[0])
        effect = np.mean([np.mean((a - b) ** 2) for a, b in zip(exact, outputs(folder), strict=True)])
        error = np.sum((changed.astype(np.float64) - weights[key]) ** 2)
        assert gains[diffusers_name(key)] == pytest.approx(effect / error, rel=0.01), key


@pytest.mark.full
def test_mixed_bits_draw_better_than_the_same_bits_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the built-in model at 4 bits, effects measured at one moment of one picture, which is less than it can do."""
    monkeypatch.setattr(sensitivity, "_PROMPTS", ("a cat in the snow",))
    monkeypatch.setattr(sensitivity, "_MOMENTS", (0.2,))
    sensitivity.samples.cache_clear()
    sensitivity.gains.cache_clear()
    folder, prompts = converted("builtin"), ["a red heart on a green background"]
    exact = report.drawn(source("builtin"), prompts)
    found = {}
    for name in ("palette-4", "mixed-4"):
        run("compress", folder, name, "-o", tmp_path / name)
        run("decode", tmp_path / name, "-o", tmp_path / f"{name}-decoded")
        drawn = report.drawn(tmp_path / f"{name}-decoded", prompts)
        found[name] = report.signal(name, 0, (source("builtin"), exact), (tmp_path / f"{name}-decoded", drawn))
    assert found["mixed-4"].latents > found["palette-4"].latents + 3
    assert found["mixed-4"].pictures > found["palette-4"].pictures + 1
    for part in PARTS:
        uniform, mixed = (
            sum(file.stat().st_size for file in (tmp_path / name / f"{part}.mlpackage").rglob("*") if file.is_file())
            for name in ("palette-4", "mixed-4")
        )
        assert mixed <= uniform
        assert mixed > 0.97 * uniform
    sensitivity.samples.cache_clear()
    sensitivity.gains.cache_clear()


def test_compare_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red heart\n\n an owl \n")
    assert run("compare", converted("tiny"), "palette-2", "palette-8", "--prompts", prompts) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in lines] == [7] * 5
    assert [line.split("|")[1].strip() for line in lines] == ["recipe", "---", "16 bit", "palette-2", "palette-8"]
    rough, fine = ([cell.strip() for cell in line.split("|")[2:-1]] for line in lines[3:])
    assert all(float(a.removesuffix("%")) < float(b.removesuffix("%")) for a, b in [(rough[1], fine[1])])
    for a, b in zip(rough[2:], fine[2:], strict=True):
        assert 0 < float(a.removesuffix(" dB")) + 6 < float(b.removesuffix(" dB"))
    assert [file.name for file in tmp_path.iterdir()] == ["prompts.txt"]


def test_what_compare_refuses_before_it_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = converted("tiny"), tmp_path / "prompts"
    assert code("compare", folder, "--prompts", file) == 66
    assert code("compare", folder, "--prompts", tmp_path) == 66
    for content in (b"\n \n", b"\xff\xfe"):
        file.write_bytes(content)
        assert code("compare", folder, "--prompts", file) == 65
    assert code("compare", folder, "palette-4", "palette-5") == 64
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", [(), ("compress",), ("decode",), ("compare",)])
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    arguments = [sys.executable, "-X", "importtime", "-m", "helpers.compress.palettize", *command, "--help"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {' '.join(['python -m helpers.compress.palettize', *command])} [-h]")
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"numpy", "safetensors", "coremltools", "openvino"}
