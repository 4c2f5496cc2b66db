"""The seam for hosts: jobs in, pictures out, from any thread."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import random_model

from helpers.catalog import catalog
from helpers.core import openvino
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.settings import RANDOM_SEED, Settings
from helpers.draw import diffusion, engines, png
from helpers.draw.choose_model import Model, choose_model, model_of
from helpers.draw.diffusion import NoPicture
from helpers.draw.job import Job
from helpers.draw.painter import Painter
from helpers.draw.samplers import SAMPLERS

USUAL = Job("", steps=2, guidance=1.0, size=(32, 32))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("model")
    patch.setattr(openvino, "CACHE", folder / "openvino")
    yield Model("tiny", random_model(folder / "tiny", "tiny"), "openvino")
    patch.undo()


@pytest.fixture(scope="module")
def painter(tiny: Model) -> Painter:
    return Painter(tiny, usual=USUAL)


def jobs(count: int) -> list[Job]:
    return [replace(USUAL, prompt=f"a cat and {number} dogs", seed=number) for number in range(count)]


def test_eight_threads_draw_forty_jobs(painter: Painter) -> None:
    alone = [next(painter.draw(job)) for job in jobs(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: list(painter.draw(job)), jobs(40)))
    for one, [other], job in zip(alone, together, jobs(40), strict=True):
        assert np.array_equal(one.pixels, other.pixels) and one.job == other.job and other.job.prompt == job.prompt
    assert len({one.pixels.tobytes() for one in alone}) == 40


def test_threads_may_draw_different_sizes(painter: Painter) -> None:
    some = [replace(job, size=(64 if (job.seed or 0) % 2 else 32, 32)) for job in jobs(6)]
    alone = [next(painter.draw(job)) for job in some]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: next(painter.draw(job)), some))
    for one, other, job in zip(alone, together, some, strict=True):
        assert np.array_equal(one.pixels, other.pixels) and other.pixels.shape[1::-1] == job.size


def test_an_engine_may_be_called_by_several_threads(tiny: Model) -> None:
    engine = engines.load("openvino", tiny.folder, size=(32, 32))
    latents = [np.full((2, 4, 16, 16), number, np.float32) for number in range(24)]
    text = engine.encode_text(engine.tokenizer.encode("a").ids).repeat(2, axis=0)
    alone = [engine.predict_noise(one, 5.0, text) for one in latents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: engine.predict_noise(one, 5.0, text), latents))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_two_painters_in_one_process(painter: Painter, tiny: Model) -> None:
    other = Painter(tiny, usual=replace(USUAL, size=(64, 32)))
    first, second = next(painter.draw(jobs(1)[0])), next(other.draw(replace(jobs(1)[0], size=None)))
    assert first.pixels.shape == (32, 32, 3) and second.pixels.shape == (32, 64, 3)


def test_sizes_and_guidance_may_change_from_job_to_job(painter: Painter, tiny: Model) -> None:
    small = jobs(1)[0]
    for job in (replace(small, size=(64, 32)), replace(small, guidance=3.0, negative="a dog")):
        fresh = next(Painter(tiny, usual=job).draw(job))
        assert np.array_equal(next(painter.draw(job)).pixels, fresh.pixels)
        assert fresh.job.size == job.size and fresh.job.guidance == job.guidance
    with pytest.raises(UserError, match="33x32") as raised:
        next(painter.draw(replace(small, size=(33, 32))))
    assert raised.value.code == 64
    assert np.array_equal(next(painter.draw(small)).pixels, next(Painter(tiny, usual=USUAL).draw(small)).pixels)


def test_what_a_job_leaves_open_is_filled_in(painter: Painter) -> None:
    drawn = list(painter.draw(Job("a cat", count=2)))
    job = drawn[0].job
    assert (job.size, job.model, job.sampler, job.steps, job.guidance) == ((32, 32), "tiny", "dpm++", 20, 7.5)
    assert [one.seed for one in drawn] == [job.seed, (job.seed or 0) + 1]
    assert len(job.sha256) == 64 and drawn[0].engine == "openvino" and drawn[0].precision == "f32"


def test_steps_are_counted_and_drawing_can_be_cancelled(painter: Painter) -> None:
    seen: list[tuple[int, int]] = []
    job = replace(jobs(1)[0], count=3, steps=2)
    assert len(list(painter.draw(job, lambda *step: seen.append(step)))) == 3
    assert seen == [(number, 6) for number in range(1, 7)]
    seen.clear()
    left = list(painter.draw(job, lambda *step: seen.append(step), lambda: len(seen) == 3))
    assert len(left) == 1 and len(seen) == 3
    assert not list(painter.draw(job, cancelled=lambda: True))


def test_a_job_that_waits_for_its_turn_can_be_cancelled(painter: Painter) -> None:
    began, go_on = threading.Event(), threading.Event()

    def hold(*_: int) -> None:
        began.set()
        go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: list(painter.draw(jobs(1)[0], hold)))
        assert began.wait(60)
        assert not list(painter.draw(jobs(2)[1], cancelled=lambda: True))
        go_on.set()
        assert len(first.result()) == 1


def test_wrong_settings_are_refused_when_the_model_is_loaded(tiny: Model) -> None:
    for wrong in ({"sampler": "best"}, {"steps": 5000}, {"size": (33, 32)}, {"precision": "f8"}):
        with pytest.raises(UserError) as raised:
            Painter(tiny, usual=replace(USUAL, **wrong))
        assert raised.value.code == 64


# ---- the model and its hash


def test_the_hash_is_the_catalogues_or_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unet := tmp_path / "own" / "unet").mkdir(parents=True)
    (file := unet / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    model = Model("own", tmp_path / "own", "openvino")
    first = model.sha256(tmp_path / "cache")
    assert first == hashlib.sha256(b"weights").hexdigest()
    read: list[Path] = []
    opened = Path.open

    def counting(self: Path, *how: Any, **more: Any) -> Any:
        if self.suffix == ".safetensors":
            read.append(self)
        return opened(self, *how, **more)

    monkeypatch.setattr(Path, "open", counting)
    assert model.sha256(tmp_path / "cache") == first and not read
    file.write_bytes(b"other weights")
    assert model.sha256(tmp_path / "cache") != first and read
    (tmp_path / "cache" / "model-hashes.json").write_text("[]")
    assert model.sha256(tmp_path / "cache") != first
    # as one file after the other, in the order of their names
    (unet / "a.safetensors").write_bytes(b"more ")
    assert model.sha256(tmp_path / "none") == hashlib.sha256(b"more other weights").hexdigest()


def test_a_file_that_the_catalogue_pins_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.read(tmp_path).find("stable-diffusion-2-1-base")
    pinned = next(file for file in entry.files if file.path.startswith("unet/") and file.path.endswith("safetensors"))
    place = entry.folder / pinned.path
    place.parent.mkdir(parents=True)
    with place.open("wb") as file:
        file.truncate(pinned.bytes)
    monkeypatch.setattr("hashlib.sha256", lambda *_: pytest.fail("it was read"))
    assert Model(entry.name, entry.folder, "openvino", entry).sha256() == pinned.sha256


def test_drawing_again_wants_the_same_model(tmp_path: Path) -> None:
    known = choose_model("builtin", "openvino").sha256()
    assert model_of(Job("a", model="builtin", sha256=known[:10]), "openvino").name == "builtin"
    for name, digits, says in (
        ("builtin", "0123456789", f"the model builtin has the hash {known[:10]}, not 0123456789"),
        ("nonsense", "0123456789", "the model nonsense (hash 0123456789) is not on this machine"),
        ("stable-diffusion-2-1-base", "", "the model stable-diffusion-2-1-base is not on this machine"),
    ):
        with pytest.raises(UserError) as raised:
            model_of(Job("a", model=name, sha256=digits), "openvino", catalog.read(tmp_path))
        assert (raised.value.code, raised.value.message) == (66, says) and raised.value.remedy


def generate(*options: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "helpers.draw.generate", *map(str, options)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONUTF8": "1", **settings}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, input=settings.get("in"))


def test_again_draws_the_same_pixels(tmp_path: Path) -> None:
    how = {"A2I_OUTPUT": str(tmp_path / "first"), "in": "a red heart\n"}
    options = ("--count", 2, "--steps", 3, "--guidance", 2, "--negative", "a dog", "--size", "256x256")
    done = generate(*options, "--sampler", "euler", "--precision", "bf16", **how)
    assert done.returncode == 0, done.stderr
    second = Path(done.stdout.splitlines()[1])
    again = generate("--again", second, A2I_OUTPUT=str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert Path(again.stdout.strip()).read_bytes() == second.read_bytes()
    other = generate("--again", second, "--seed", 3, "--steps", 1, A2I_OUTPUT=str(tmp_path / "other"), A2I_JSON="1")
    run = json.loads(other.stdout)
    assert (run["seed"], run["steps"], run["guidance"], run["prompt"]) == (3, 1, 2.0, "a red heart")
    assert run["size"] == "256x256" and run["negative_prompt"] == "a dog" and run["sampler"] == "euler"


def test_again_with_another_model_only_if_it_is_named(tmp_path: Path) -> None:
    [picture] = Painter(choose_model("builtin", "openvino"), usual=Job("", size=(64, 64))).draw(Job("a cat", steps=1))
    foreign = replace(picture, job=replace(picture.job, sha256="f" * 64))
    (file := tmp_path / "x.png").write_bytes(png.encode(foreign))
    done = generate("--again", file, A2I_OUTPUT=str(tmp_path / "out"))
    assert done.returncode == 66 and "not ffffffffff" in done.stderr and not done.stdout
    done = generate("--again", file, "--model", "builtin", A2I_OUTPUT=str(tmp_path / "out"))
    assert done.returncode == 0 and Path(done.stdout.strip()).is_file()


# ---- the registry of engines

NEW = """
from helpers.draw.engines import load as load_engine

def load(folder, options, *, size, guidance, precision):
    engine = load_engine("openvino", folder, options, size=size, guidance=guidance, precision=precision)
    engine.name, engine.version = "crayon", "crayon 1"
    return engine
"""


def test_a_new_engine_is_one_module_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    (tmp_path / "crayon_engine.py").write_text(NEW)
    monkeypatch.syspath_prepend(tmp_path)
    kind = engines.Kind("crayon_engine", lambda: "crayons", lambda folder: True, lambda: True, models="openvino")
    monkeypatch.setattr(engines, "ENGINES", {"crayon": kind, **engines.ENGINES})
    assert engines.available()[0] == "crayon" and engines.available("crayon") == ("crayon",)
    assert engines.role("crayon") == "openvino" and "crayon" in engines.engines_of(tiny.folder)
    painter = Painter.load(Settings(model=str(tiny.folder), engine="crayon", steps=1, size=(32, 32)))
    assert next(painter.draw(Job("a cat", steps=1))).engine == "crayon"
    assert choose_model("builtin", "crayon").engine == "crayon"


def test_every_engine_has_a_module_and_a_model_in_the_catalogue() -> None:
    models = catalog.read()
    for name, kind in engines.ENGINES.items():
        assert (ROOT / f"{kind.module.replace('.', '/')}.py").is_file()
        assert models.default(engines.role(name)).kind == "image"
        assert engines.SPELLINGS.get(name, name) == name
    for entry in models.entries.values():
        assert set(entry.engines) <= set(engines.ENGINES)
    assert engines.available("cpu") == ("openvino",) and engines.available("cuda") == ("torch",)
    with pytest.raises(UserError, match="no engine 'steam'"):
        engines.available("steam")


def test_imports_change_nothing_in_the_process() -> None:
    program = """
import importlib, os, pkgutil, sys
before = dict(os.environ)
import helpers.draw, helpers.adapt
for package in (helpers.draw, helpers.adapt):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("coreml_graph"):  # coremltools itself changes the environment
            importlib.import_module(found.name)
assert dict(os.environ) == before
assert not [name for name, module in sys.modules.items() if module is None and name.startswith("openvino")]
assert not any(type(finder).__name__ == "_Refusal" for finder in sys.meta_path)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_has_no_effect_is_said_and_not_recorded(painter: Painter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    job = jobs(1)[0]
    drawn = next(painter.draw(replace(job, negative="blue")))
    assert np.array_equal(drawn.pixels, next(painter.draw(job)).pixels)
    assert (drawn.job.negative, "Negative prompt" in png.parameters(drawn)) == ("", False)
    assert "the negative prompt has no effect: tiny draws at guidance 1" in caplog.text
    for guidance in (0.0, 0.5):
        caplog.clear()
        assert np.array_equal(drawn.pixels, next(painter.draw(replace(job, guidance=guidance))).pixels)
        assert f"a guidance of {guidance:g} draws as 1 does" in caplog.text
    guided = next(painter.draw(replace(job, negative="blue", guidance=3.0)))
    assert guided.job.negative == "blue"
    assert not np.array_equal(guided.pixels, next(painter.draw(replace(job, guidance=3.0))).pixels)


def test_the_built_in_model_says_what_one_step_cannot(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    builtin = Painter.load(Settings(sampler="euler", count=2, size=(128, 128)))
    usual = next(builtin.draw(replace(builtin.usual, prompt="a red heart", seed=1, count=1, sampler=None))).pixels
    assert "will be much alike" in caplog.text and "--sampler has no effect here" in caplog.text
    for sampler in SAMPLERS:
        drawn = next(
            builtin.draw(replace(builtin.usual, prompt="a red heart", seed=1, count=1, sampler=sampler))
        ).pixels
        assert np.abs(drawn.astype(int) - usual).max() <= 2


def test_prompt_syntax_of_other_programs_is_not_drawn(painter: Painter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    plain, weighted = (replace(USUAL, prompt=text, seed=1) for text in ("a red cat", "a (red:1.3) cat <lora:x:1>"))
    drawn = next(painter.draw(weighted))
    assert np.array_equal(drawn.pixels, next(painter.draw(plain)).pixels) and drawn.job.prompt == "a red cat"
    assert "left out: <lora:x:1>, (red:1.3)" in caplog.text
    with pytest.raises(NoPicture, match="no words") as raised:
        next(painter.draw(replace(weighted, prompt="<lora:x:1>")))
    assert raised.value.code == 65


def test_seeds_of_other_programs(painter: Painter) -> None:
    """64 bits, and -1 for any; those below 2**32 keep the stream that they had."""
    large = 2**64 - 1
    drawn = [next(painter.draw(replace(USUAL, prompt="a cat", seed=seed))) for seed in (large, large, 2**32 - 1, 2**32)]
    assert [one.seed for one in drawn] == [large, large, 2**32 - 1, 2**32]
    assert np.array_equal(drawn[0].pixels, drawn[1].pixels)
    assert len({one.pixels.tobytes() for one in drawn}) == 3
    assert png.parse(png.parameters(drawn[0])).seed == large
    chance = [next(painter.draw(replace(USUAL, prompt="a cat", seed=RANDOM_SEED))).seed for _ in range(3)]
    assert len(set(chance)) == 3 and all(0 <= seed < 2**32 for seed in chance)
    streams = [diffusion.noise_stream(seed).randint(2**31) for seed in (7, 2**32 + 7, 7 << 32, 2**64 - 1)]
    assert len(set(streams)) == 4 and streams[0] == np.random.RandomState(7).randint(2**31)
