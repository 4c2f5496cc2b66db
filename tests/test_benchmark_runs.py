"""The benchmark's measures themselves, in small: worker processes, both ways of the pipe, engines, recordings."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from small_models import random_model
from whole_pipe import Pipe

from benchmark import clips, gpu, image, microphone, models, pipe, results, shapes, speech, spoken
from benchmark.results import Results
from benchmark.speech import Heard, Sample
from benchmark.spoken_prompts import PROMPTS
from benchmark.worker import Worker
from helpers.catalog import catalog
from helpers.core import extras, stage, system
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import BYTES_PER_SECOND, RATE
from helpers.draw import engines
from helpers.speak import player


@pytest.fixture
def made() -> Results:
    return results.new(quick=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("tiny") / "tiny", "tiny")


# ---- workers


def test_a_worker_that_dies_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the measured engine ended with 69: .*") as raised:
        Worker("engine", engine="openvino", folder=str(tmp_path))
    assert raised.value.code == os.EX_SOFTWARE and "\n" not in raised.value.message


def test_an_engine_is_measured_from_outside(tiny: Path, tmp_path: Path) -> None:
    with Worker("engine", engine="openvino", folder=str(tiny), cache=str(tmp_path / "cache")) as worker:
        assert worker.loaded > 0 and list((tmp_path / "cache").iterdir())
        assert 0 < worker.ask("step")[0] < worker.loaded and worker.seconds("decode")() > 0
        few, many = (min(worker.ask("picture", steps=steps)[0] for _ in range(5)) for steps in (1, 20))
        assert many > 3 * few
        assert 20 < worker.ask("memory")[1] < 2000
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(UserError, match="the measured engine ended with -9: it printed nothing"):
            worker.ask("step")


# ---- the pipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Pipe:
    return Pipe(tmp_path_factory.mktemp("whole"))


def test_both_ways_draw_the_same_and_are_timed(
    whole: Pipe, made: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "ROOT", whole.root)
    scene, runs, drawn = pipe.SCENES[0], {}, []
    for way, run in ((pipe.THEIRS, pipe.one_after_another), (pipe.OURS, pipe.this_pipe)):
        (folder := tmp_path / way).mkdir()
        runs[way] = [run(scene, folder)]
        (picture,) = folder.glob("outputs/*/image.png")
        drawn.append(picture.read_bytes())
    assert drawn[0] == drawn[1]
    pipe.add(made, scene, "warm", runs)
    assert made.ratios[f"pipe: {pipe.THEIRS} / {pipe.OURS}, file, warm"].value > 0
    theirs, ours = (line.bars for line in made.timelines)
    loading = [bar for bar in ours if bar.what == "starting and loading"]
    assert len(loading) == 3 and {bar.start for bar in loading} == {0.0}  # all at once
    launched = [bar.start for bar in theirs if bar.what == "starting and loading"]
    assert 0 <= launched[0] < launched[1] < launched[2]
    order = [next(bar for bar in theirs if bar.what == what) for what in ("recognising", "filtering", "sampling")]
    assert all(a.end <= b.start + 1e-3 for a, b in itertools.pairwise(order))
    assert made.timelines[1].marks["picture"] == pytest.approx(pipe.waited(runs[pipe.OURS][0]), abs=1e-3)
    heard = next(bar for bar in ours if bar.what == "recognising")
    assert heard.end == round(runs[pipe.OURS][0]["transcribe"]["line"], 3) > heard.start


def test_the_last_word_is_where_waiting_begins(
    whole: Pipe, made: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "ROOT", whole.root)
    scene = pipe.Scene("microphone", 2.5)
    ours = pipe.this_pipe(scene, tmp_path)
    assert ours["record"]["said"] - ours["record"]["ready"] == pytest.approx(2.5, abs=0.4)
    assert 0.5 < ours["record"]["heard"] - ours["record"]["said"] < 1.5  # the silence that ends it
    assert pipe.waited(ours) == ours["generate"]["drawn"] - ours["record"]["said"]
    assert pipe.timeline("x", ours).marks.keys() == {"picture", "last word"}


@pytest.mark.parametrize(("can_be_cold", "caches"), [(True, {"warm", "cold"}), (False, {"warm"})])
def test_every_scene_is_measured_warm_and_cold(
    made: Results, monkeypatch: pytest.MonkeyPatch, can_be_cold: bool, caches: set[str]
) -> None:
    order: list[tuple[str, str]] = []

    def way(name: str, seconds: float) -> Callable[[pipe.Scene, Path], pipe.Events]:
        def run(scene: pipe.Scene, folder: Path) -> pipe.Events:
            order.append((scene.name, name))
            stages = ("record", "transcribe", "remove_parentheses", "generate")
            noted = dict.fromkeys(("ready", "heard", "line", "prompt", "drawn", "done"), seconds)
            return {stage: dict(noted) for stage in stages}

        return run

    def drop(files: Iterable[Path]) -> bool:
        order.append(("", "drop"))
        return can_be_cold

    monkeypatch.setattr(pipe, "drop_cache", drop)
    monkeypatch.setattr(pipe, "cached_files", list)
    monkeypatch.setattr(pipe, "one_after_another", way("theirs", 3.0))
    monkeypatch.setattr(pipe, "this_pipe", way("ours", 1.0))
    pipe.measure(made, False, lambda: None)
    scenes = {scene.name for scene in pipe.SCENES}
    found = {tuple(name.split(" / ")[1].rsplit(", ", 1)) for name in made.figures}
    assert found == {(scene, cache) for scene in scenes for cache in caches}
    assert len(made.notes) == (0 if can_be_cold else 1) and {ratio.value for ratio in made.ratios.values()} == {3.0}
    names = [name for _, name in order if name != "drop"]
    assert len(order) - len(names) == 1 + can_be_cold * (len(names) - 2) // 2  # before each cold run
    assert names[2:] == ["theirs", "ours"] * (len(names[2:]) // 2)  # in turn


def test_a_run_that_fails_once_is_repeated_and_told(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = dict.fromkeys(("ready", "heard", "line", "prompt", "drawn", "done"), 1.0)
    stages = ("record", "transcribe", "remove_parentheses", "generate")
    left = 1

    def run(scene: pipe.Scene, folder: Path) -> pipe.Events:
        nonlocal left
        if scene.end and left:
            left -= 1
            raise UserError(70, "ended with 65", "nobody spoke")
        return {stage: dict(noted) for stage in stages}

    monkeypatch.setattr(pipe, "drop_cache", lambda files: False)
    monkeypatch.setattr(pipe, "one_after_another", run)
    monkeypatch.setattr(pipe, "this_pipe", run)
    pipe.measure(made, True, lambda: None)
    assert made.notes[1:] == ["pipe: a run of one after another failed and was repeated: nobody spoke"]
    assert {ratio.n for ratio in made.ratios.values()} == {2}
    left = 2
    with pytest.raises(UserError, match="ended with 65"):
        pipe.measure(made, True, lambda: None)


def test_a_run_that_fails_is_no_figure(whole: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "ROOT", whole.root)
    monkeypatch.setenv("A2I_MODEL", str(tmp_path / "nowhere"))
    for run in (pipe.this_pipe, pipe.one_after_another):
        with pytest.raises(UserError, match="ended with 66"):
            run(pipe.SCENES[0], tmp_path)


def test_only_the_models_of_the_user_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_STEPS", "50")
    monkeypatch.setenv("A2I_MODEL", "/my/model")
    settings, _ = pipe.environment(pipe.SCENES[0], tmp_path)
    assert "A2I_STEPS" not in settings and settings["A2I_MODEL"] == "/my/model"
    assert settings["A2I_WHISPER"] == "builtin" and settings["A2I_OUTPUT"] == str(tmp_path / "outputs")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system forgets no file at a program's request")
def test_a_cold_start_is_one_without_files_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(bytes(1 << 22))
    os.sync()
    assert file.read_bytes() and cached(file) > 0.9
    assert pipe.drop_cache([file, tmp_path / "gone"])
    assert cached(file) < 0.1


def cached(file: Path) -> float:
    """The share of a file that is in memory, as util-linux' fincore says."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", file], capture_output=True, text=True, check=True).stdout
    if not shutil.which("fincore") or kind.strip() in ("tmpfs", "ramfs"):
        pytest.skip("needs fincore, and a file system that is not memory")
    said = subprocess.run(["fincore", "-b", "-n", "-o", "RES", file], capture_output=True, text=True, check=True).stdout
    return int(said) / file.stat().st_size


def test_the_microphone_hears_a_recording_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_WAV", str(pipe.SAID))
    monkeypatch.setenv("BENCHMARK_END", "3")
    waited: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: sum(waited))
    monkeypatch.setattr(time, "sleep", waited.append)
    events: list[str] = []
    monkeypatch.setattr(stage, "event", events.append)
    chunks = []
    for chunk in microphone.listen():
        chunks.append(np.frombuffer(chunk, "<i2").astype(int))
        if len(chunks) == 100:
            break
        assert events == ["said"] * (len(chunks) >= 60)
    sound = np.concatenate(chunks)
    assert sum(waited) == pytest.approx(5, abs=0.01)
    loud = np.flatnonzero(np.abs(sound) > 300)
    assert loud[-1] / RATE == pytest.approx(3, abs=0.01) and sound[: loud[0]].any()
    speech_only = np.frombuffer(microphone.speech(str(pipe.SAID)), "<i2")
    assert np.corrcoef(sound[3 * RATE - len(speech_only) : 3 * RATE], speech_only)[0, 1] > 0.99


# ---- speech


def test_recordings_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("a.wav", "b.wav"):
        shutil.copy(pipe.SAID, tmp_path / "mine" / name)
    (tmp_path / "mine" / "a.txt").write_text("A delicious\nburger.\n")
    chapter = tmp_path / "1089" / "134686"
    chapter.mkdir(parents=True)
    (chapter / "1089-134686.trans.txt").write_text("1089-134686-0000 HE HOPED\n1089-134686-0001 GONE\n")
    shutil.copy(ROOT / "examples" / "unicorn.flac", chapter / "1089-134686-0000.flac")
    found = speech.of_folder(tmp_path)
    assert [(sample.path.name, sample.voice, sample.said) for sample in found] == [
        ("1089-134686-0000.flac", "1089", "HE HOPED"),
        ("a.wav", "mine", "A delicious burger."),
    ]


def test_word_errors_are_counted_without_case_and_punctuation() -> None:
    def heard(said: str, written: str) -> Heard:
        return Heard(Sample(Path(), "x", said), written, 0, 1)

    assert speech.word_error_rate([heard("A grey cat.", "a gray cat")]) == 0
    assert speech.word_error_rate([heard("a b c d", "a b x d"), heard("e f g h", "")]) == 5 / 8


def test_the_recogniser_is_measured(made: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_MODELS", str(tmp_path))
    shutil.copy(pipe.SAID, tmp_path / "burger.wav")
    (tmp_path / "burger.txt").write_text(clips.EXAMPLES["burger.wav"][1])
    speech.measure(made, False, lambda: None, tmp_path)
    figures = {name.removeprefix("speech / builtin / "): figure for name, figure in made.figures.items()}
    assert figures["word error rate"].median == 0 and figures["words right"].median == 7
    assert 0 < figures["real-time factor"].median < 1 and figures["memory"].median > 20
    assert made.ratios["speech: words right / words said, builtin"].value == 1


def test_every_recogniser_with_a_model_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_MODELS", str(tmp_path))
    there = ["base.en-q5_1", "faster-whisper-base", "seamless-m4t-v2-large"]
    for name in there:
        for file in catalog.read(tmp_path).find(name).files:
            path = tmp_path / name / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.truncate(path, file.bytes)  # a file of zeros takes no room
    missing: set[str] = set()
    monkeypatch.setattr(extras, "missing", lambda extra: ["a package"] if extra in missing else [])
    assert speech.names() == ["builtin", *there]
    missing.add("faster-whisper")
    assert speech.names() == ["builtin", "base.en-q5_1", "seamless-m4t-v2-large"]


def test_a_folder_without_recordings_is_noted(made: Results, tmp_path: Path) -> None:
    speech.measure(made, True, lambda: None, tmp_path)
    assert made.figures == {} and "no recording" in made.notes[0]


# ---- pictures


def test_engines_beside_diffusers(made: Results, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "precisions", lambda: ("f32",))
    image.beside_diffusers(made, tiny, tmp_path, 2, 2, lambda: None)
    for what in ("step", "decoding", "picture, 2 steps"):
        ratio = made.ratios[f"image: {image.THEIRS} (f32) / {image.OURS} (f32), the built-in model, {what}"]
        theirs, ours = made.figures[ratio.a], made.figures[ratio.b]
        assert image.THEIRS in ratio.a and image.OURS in ratio.b and ratio.n == theirs.n == ours.n == 2
    assert len([name for name in made.figures if name.endswith("/ memory")]) == 2


def test_samplers_are_judged_by_their_pictures(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "SAMPLERS", ("dpm++",))
    monkeypatch.setattr(image, "STEPS", (1, 8))
    image.every_sampler(made, 2, lambda: None)
    assert made.figures["image / dpm++, 8 steps / right"].median == 2
    assert made.ratios["image: right / asked, the built-in model"].value == 1
    one, eight = (made.figures[f"image / dpm++, {steps} steps / drawing"].median for steps in (1, 8))
    assert one < eight


def test_the_arithmetic_of_stable_diffusion_2_1_base() -> None:
    """Counted layer by layer, by hand and by others: 1608.5 and 2515 GFLOP."""
    step, decoding = shapes.arithmetic(shapes.SD21)
    assert sum(step.values()) == pytest.approx(1608.5, abs=0.1) and decoding == pytest.approx(2515, abs=1)
    assert all(amount > 50 for amount in step.values())


def test_without_room_for_it_nothing_is_made(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available", lambda: ("openvino",))
    monkeypatch.setattr(system, "memory", lambda: (16 * 10**9, 3 * 10**9))
    image.full_size(made, True, lambda: None)
    assert made.figures == {} and "need 13.0 GB of free memory; 3.0 GB are free" in made.notes[0]


@pytest.mark.full
def test_a_gpu_is_measured_in_small(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2I_LOOP", "0")
    gpu.measure(made, shapes.SMALL, "a miniature", lambda: None)
    assert gpu.torch.cuda.is_available() or any("on the processor" in name for name in made.figures)
    ways = [re.search(r"(\d) steps, (\d) at once / (.*)", name) for name in made.figures]
    found = {match.groups() for match in ways if match}
    expected = ("quick start", "one run", "in a loop", "floor")
    assert found == {(steps, batch, way) for steps in "23" for batch in "12" for way in expected}
    assert sum("quick start / in a loop" in name for name in made.ratios) == 4
    parts = [name.rpartition(" / ")[2] for name in made.figures if "from the line to the PNG" in name]
    assert parts == ["text", "first step", "other steps", "decoding", "PNG"]


def test_smaller_weights_are_measured(made: Results) -> None:
    models.palettes(made, ("linear-8", "palette-1"), 1, lambda: None)
    sizes = [made.figures[f"models / {name} / size"].median for name in ("16 bits", "linear-8", "palette-1")]
    assert sizes == sorted(sizes, reverse=True)
    assert made.ratios["models: 16 bits / linear-8, size"].value == pytest.approx(sizes[0] / sizes[1], rel=1e-3)
    names = [f"models / {name}" for name in ("linear-8", "palette-1")]
    good, bad = (made.figures[f"{name} / picture, signal to noise"].median for name in names)
    assert good > 30 > bad
    assert [made.figures[f"{name} / right"].median for name in names] == [1, 0]


def test_the_program_answers_at_once_and_needs_no_model() -> None:
    program = "import sys, benchmark.__main__; print({'numpy', 'torch'} & {*sys.modules})"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_recording_is_long_enough() -> None:
    with wave.open(str(pipe.SAID)) as sound:
        assert sound.getframerate() == RATE and sound.getnchannels() == 1
    assert len(microphone.speech(str(pipe.SAID))) / BYTES_PER_SECOND < 3


# ---- voices


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not here")
def test_voices_are_measured(made: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good voice and one that says nothing but noise, both in processes of their own."""
    noise = tmp_path / "noise.wav"
    noise.write_bytes(player.wav(np.random.default_rng(1).integers(-9000, 9000, 32000, "<i2").tobytes(), RATE))
    own = tmp_path / "noise"
    own.write_text(f"#!/bin/sh\nexec cat {noise}\n")
    own.chmod(0o755)
    monkeypatch.setattr(spoken, "PROMPTS", PROMPTS[:2])
    monkeypatch.setattr(spoken, "names", lambda settings: ["espeak-ng", str(own)])
    spoken.measure(made, False, lambda: None)
    good, bad = (f"voices / {name} /" for name in ("espeak-ng", "noise"))
    value = {name: figure.median for name, figure in made.figures.items()}
    assert value[f"{good} word error rate"] < 30 < value[f"{bad} word error rate"]
    assert value[f"{good} first sound"] > 0 and 0 < value[f"{good} real-time factor"] < 5
    assert 20 < value[f"{good} memory"] < 300
    if spoken.dnsmos():
        assert value[f"{good} estimated MOS"] > 2 > value[f"{bad} estimated MOS"]


def test_a_short_recording_is_repeated() -> None:
    assert spoken.window(b"\0\1\2\3")[0, :4].tolist() == spoken.window(b"\0\1\2\3" * 2)[0, :4].tolist()
    assert spoken.window(b"\0\1").shape == (1, 144160)
