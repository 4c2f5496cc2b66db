"""The Core ML engine on the evaluator: pictures against the CPU engine, layouts of folders, and what is refused."""

from __future__ import annotations

import json
import os
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
from small_models import BUILTIN, picture

from helpers.core import system
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw import diffusion, engines
from helpers.draw.engines import compute_units, coreml


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    coreml_standin.install(monkeypatch)
    monkeypatch.setenv("A2I_COMPUTE_UNITS", "CPU_ONLY")  # for programs
    monkeypatch.setattr(compute_units, "choose_unit", lambda folder, asked="": asked or "CPU_ONLY")
    monkeypatch.setenv("COREML_LOG", str(tmp_path / "loaded"))
    monkeypatch.setattr(compute_units, "REMEMBERED", tmp_path / "units.json")


def psnr(a: Any, b: Any) -> float:
    return float(10 * np.log10(1 / max(np.mean((a / 255.0 - b / 255.0) ** 2), 1e-12)))


def drawn(engine: engines.Engine, prompt: str, steps: int) -> Any:
    text, empty = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in (prompt, ""))
    return diffusion.draw(engine, text, empty, seed=3, steps=steps, guidance=2.0)


@pytest.mark.parametrize(("half", "least"), [("0", 60), ("1", 50)])
def test_the_picture_is_that_of_the_cpu_engine(
    monkeypatch: pytest.MonkeyPatch, half: str, least: float, size: Callable[[int, int], int]
) -> None:
    """Weights of 16 bits: computed in 32, and with every result rounded to 16, it is the same picture to the eye."""
    monkeypatch.setenv("COREML_HALF", half)
    mine = engines.load("coreml", converted("builtin"))
    theirs = engines.load("openvino", BUILTIN)
    assert (mine.size, mine.factor, mine.channels) == (theirs.size, theirs.factor, theirs.channels)
    assert (mine.scheduler, mine.defaults) == (theirs.scheduler, theirs.defaults)
    steps = size(3, 8)
    for prompt in ("a burger on a blue background", "an owl at night")[: size(1, 2)]:
        assert psnr(drawn(mine, prompt, steps), drawn(theirs, prompt, steps)) > least


@pytest.mark.parametrize("layout", ["batch of one", "chunked", "compiled", "compiled and chunked"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_every_layout_draws_the_same(tmp_path: Path, layout: str, guidance: float) -> None:
    batch, chunked = 1 if layout == "batch of one" else 2, "chunked" in layout
    folder = converted("tiny", "original", batch, chunked)
    if "compiled" in layout:
        folder = coreml_standin.compiled(folder, tmp_path / "compiled")
    expected = picture(engines.load("openvino", source("tiny"), guidance=guidance > 1), guidance=guidance)
    assert psnr(picture(engines.load("coreml", folder), guidance=guidance), expected) > 45
    kind = "UnetChunk2" if chunked else "Unet"
    assert f" CPU_ONLY {kind}\n" in (tmp_path / "loaded").read_text()


def test_compiled_models_are_preferred(tmp_path: Path) -> None:
    folder = coreml_standin.compiled(converted("tiny"), tmp_path / "both")
    for package in converted("tiny").glob("*.mlpackage"):
        (folder / package.name).mkdir()  # not even opened
    assert engines.load("coreml", folder).size == (32, 32)


def test_a_folder_as_apple_publishes_it(tmp_path: Path) -> None:
    """Nothing but the models, vocab.json and merges.txt: Stable Diffusion's own scheduler, scale and padding."""
    folder = coreml_standin.compiled(converted("tiny"), tmp_path / "apple")
    for name in ("conversion.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    engine = coreml.CoreMl(folder, frugal=False)
    assert (engine.factor, engine.scheduler["prediction_type"], engine.defaults.steps) == (8, "epsilon", 20)
    end = engine.tokenizer.encode("a").ids
    assert end[-1] == end[2]  # padded with the end token, as the text is 32 wide and not 1024


def test_the_text_encoder_of_stable_diffusion_2_is_padded_with_zeros(tmp_path: Path) -> None:
    folder = coreml_standin.compiled(converted("tiny"), tmp_path / "apple")
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    file = folder / "Unet.mlmodelc" / "metadata.json"
    described = json.loads(file.read_text())
    text = next(item for item in described[0]["inputSchema"] if item["name"] == "encoder_hidden_states")
    text["shape"] = "[2, 1024, 1, 77]"
    file.write_text(json.dumps(described))
    ids = coreml.CoreMl(folder, frugal=False).tokenizer.encode("a").ids
    assert ids[-1] != ids[2]
    assert ids[-1] == json.loads((folder / "vocab.json").read_text())["!"]


def test_little_memory_has_one_network_loaded_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = picture(engines.load("coreml", converted("tiny")))
    (tmp_path / "loaded").unlink()
    engine = engines.load("coreml", converted("tiny"), engines.Options(low_memory=True))
    engine.warm()
    assert not (tmp_path / "loaded").exists()
    assert np.array_equal(picture(engine), expected)
    loaded = [line.split()[-1] for line in (tmp_path / "loaded").read_text().splitlines()]
    assert loaded == ["TextEncoder", "Unet", "VAEDecoder"]
    assert isinstance(engine, coreml.CoreMl)
    assert len(engine._networks) == 1


@pytest.mark.parametrize(("memory", "at_once"), [(8 << 30, True), (1 << 20, False), (0, True)])
def test_memory_decides_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: int, at_once: bool) -> None:
    monkeypatch.setattr(system, "machine", lambda: system.Machine("Apple M1", memory, "x"))
    engines.load("coreml", converted("tiny"))
    assert (tmp_path / "loaded").exists() == at_once


def test_warming_uses_every_network_and_changes_nothing() -> None:
    engine = engines.load("coreml", converted("tiny", "original", 2, True))
    before = picture(engine)
    engine.warm()
    assert np.array_equal(picture(engine), before)


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        ("no unet", 69, "no Unet"),
        ("metadata", 69, r"Unet\.mlmodelc is damaged"),
        ("another model", 69, "sample"),
        ("no vocabulary", 69, "tokenizer"),
        ("conversion", 69, "conversion.json"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path: Path, damage: str, code: int, says: str) -> None:
    folder = coreml_standin.compiled(converted("tiny"), tmp_path / "model")
    if damage == "no unet":
        shutil.rmtree(folder / "Unet.mlmodelc")
    elif damage == "metadata":
        (folder / "Unet.mlmodelc" / "metadata.json").write_text("[{")
    elif damage == "another model":
        shutil.rmtree(folder / "Unet.mlmodelc")
        shutil.copytree(folder / "VAEDecoder.mlmodelc", folder / "Unet.mlmodelc", symlinks=True)
    elif damage == "no vocabulary":
        (folder / "vocab.json").unlink()
    else:
        (folder / "conversion.json").write_text("nonsense")
    with pytest.raises(UserError, match=says) as raised:
        engines.load("coreml", folder)
    assert raised.value.code == code
    assert "\n" not in raised.value.message


def test_a_network_that_core_ml_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engines.load("coreml", converted("tiny"))
    monkeypatch.setenv("COREML_FAULTS", json.dumps({"CPU_ONLY": {"Unet": "refuse"}}))
    with pytest.raises(UserError, match="Error computing NN outputs"):
        picture(engine)


def test_sizes_and_precisions_that_a_model_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = converted("tiny")
    assert engines.load("coreml", folder, size=(32, 32), precision="f16").precision == "f16"
    monkeypatch.setattr(compute_units, "choose_unit", lambda _: pytest.fail("minutes before it is refused"))
    for wrong in ({"size": (64, 32)}, {"precision": "bf16"}):
        with pytest.raises(UserError) as raised:
            engines.load("coreml", folder, **wrong)
        assert raised.value.code == 64


def generate(folder: Path, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Draw with the last stage, as on a Mac but for the stand-in."""
    settings = {"A2I_ENGINE": "coreml", "A2I_OUTPUT": str(tmp_path / "out"), "A2I_MODEL": str(folder), "A2I_SEED": "5"}
    command, environment = (
        [sys.executable, "-m", "helpers.draw.generate"],
        coreml_standin.environment(**settings | more),
    )
    return subprocess.run(command, input="a red heart\n", cwd=ROOT, env=environment, text=True, capture_output=True)


def test_the_last_stage_draws_with_it(tmp_path: Path) -> None:
    done = generate(converted("builtin"), tmp_path)
    assert done.returncode == 0, done.stderr
    run = json.loads((Path(done.stdout.strip()).parent / "run.json").read_text())
    assert run["engine"]["name"] == "coreml"
    assert run["engine"]["version"].endswith("CPU_ONLY")
    assert len(run["model"]["sha256"]) == 64
    assert run["model"]["sha256"] != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing


def test_a_core_ml_folder_on_another_machine_is_refused(tmp_path: Path) -> None:
    done = generate(converted("tiny"), tmp_path, A2I_ENGINE="cpu")
    assert done.returncode == 69
    assert "needs the engine coreml or apple, which this machine does not have" in done.stderr


STUB = '''
"""A coremltools that only answers: what the engine's own Python costs."""
import enum, numpy
__version__ = "9.0"
class ComputeUnit(enum.Enum):
    CPU_ONLY = 1
class models:
    class CompiledMLModel:
        def __init__(self, path, compute_units): self.path = path
        def predict(self, data):
            r = numpy.random.RandomState(0)
            if "TextEncoder" in self.path: return {"last_hidden_state": r.rand(1, data["input_ids"].shape[-1], 32)}
            if "Unet" in self.path: return {"noise_pred": r.rand(*data["sample"].shape)}
            return {"image": r.rand(1, 3, 32, 32)}
'''


IMPORTS = '''
"""A coremltools that imports PyTorch where it can, as the real one; another thread of the process does so meanwhile."""
import threading
def found():
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return True
here, beside = found(), []
thread = threading.Thread(target=lambda: beside.append(found()))
thread.start()
thread.join(60)
'''


def test_coremltools_comes_without_pytorch_and_leaves_it_to_others(tmp_path: Path) -> None:
    (tmp_path / "coremltools.py").write_text(IMPORTS)
    (tmp_path / "torch.py").write_text("")
    program = """
import sys
from helpers.draw.engines import coreml
before = list(sys.meta_path)
module = coreml.coremltools()
names = [name for name in ("transformers", "tensorflow", "sklearn", "xgboost") if name in sys.modules]
print(module.here, module.beside, sys.meta_path == before, names)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "False [True] True []\n"), done.stderr


def test_the_engines_own_python_draws_without_pytorch(tmp_path: Path) -> None:
    """Imports, tokenizer, sampler, a picture of 20 steps; networks stubbed."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "coremltools.py").write_text(STUB)
    folder = coreml_standin.compiled(converted("tiny"), tmp_path / "model")
    program = f"""
import sys
from pathlib import Path
from helpers.draw import diffusion, engines, generate
engine = engines.load("coreml", Path({str(folder)!r}))
text, empty = (engine.encode_text(engine.tokenizer.encode(words).ids) for words in ("a cat", ""))
diffusion.draw(engine, text, empty, seed=1, steps=20, guidance=7.5)
loaded = [name for name in ("torch", "diffusers", "transformers", "openvino") if sys.modules.get(name)]
print(loaded)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'stub'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
