"""The built-in model: its words, its scenes, its judge, its folder, its training."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.builtin import card, vocabulary
from training.builtin.vocabulary import (
    BACKGROUNDS,
    FEATURES,
    FOLDER,
    PLAIN,
    SETTINGS,
    SPELLINGS,
    SUBJECTS,
    SYNONYMS,
    UNSAID,
    Scene,
    Subject,
    caption,
    caption_words,
    held_out,
    plural,
    sample_scene,
    split_words,
    unknown_words,
)

MEGABYTE = 1_000_000
font = pytest.mark.skipif(
    not Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf").exists() and "A2I_EMOJI_FONT" not in os.environ,
    reason="needs the font of the Debian package fonts-noto-color-emoji",
)


# ------------------------------------------------------------------------------------------------- vocabulary


def test_caption_words_are_exactly_the_words_of_captions() -> None:
    random = Random(1)
    said = {word for _ in range(60_000) for word in split_words(caption(sample_scene(random), random))}
    assert said <= caption_words()
    rare = caption_words() - said  # a plural of a synonym may not come in so few captions
    assert len(rare) <= 10, rare


def _read_caption(text: str) -> tuple[set[str], str]:
    """The subjects and the background of a caption, by the longest names in it."""
    text = f" {' '.join(split_words(text))} "
    grounds = {way: name for name, ways in SETTINGS.items() for way in ways}
    for name in PLAIN:
        for word in SPELLINGS.get(name, (name,)):
            ways = (way.format(word).replace(" a orange", " an orange") for way in vocabulary.ON_PLAIN)
            grounds |= dict.fromkeys(ways, name)
    ground = UNSAID
    for way in sorted(grounds, key=len, reverse=True):
        if f" {way} " in text:
            ground, text = grounds[way], text.replace(f" {way} ", " | ")
            break
    names = {word: name for name in SUBJECTS for one in (name, *SYNONYMS.get(name, ())) for word in (one, plural(one))}
    found = set()
    for word in sorted(names, key=len, reverse=True):
        if f" {word} " in text:
            found.add(names[word])
            text = text.replace(f" {word} ", " | ")
    return found, ground


def test_a_caption_says_what_is_in_the_scene_and_nothing_else() -> None:
    random = Random(2)
    for _ in range(3000):
        scene = sample_scene(random, SUBJECTS, {"single": 1, "size": 1, "count": 1, "pair": 1})
        text = caption(scene, random)
        names, ground = _read_caption(text)
        assert names == {subject.name for subject in scene.subjects}, text
        assert ground in {scene.background, UNSAID if scene.background == "white" else scene.background}, text


def test_a_caption_says_size_and_colour() -> None:
    random = Random(3)
    for _ in range(300):
        scene = sample_scene(random, SUBJECTS, {"colour": 1, "size": 1})
        words = split_words(caption(scene, random))
        colour = scene.subjects[0].colour
        assert colour in words if colour else set(words) & set(vocabulary.SIZES[scene.size])


def test_unknown_words_are_named_once_in_order_and_known_ones_never() -> None:
    assert unknown_words("Draw me a WOBBLY burger, a wobbly one on a blue gizmo!") == ["wobbly", "gizmo"]
    assert unknown_words("I'd like to see a cat on the beach, please") == []
    assert unknown_words("let’s see a cat") == []
    assert unknown_words("") == []
    random = Random(4)
    assert not any(unknown_words(caption(sample_scene(random), random)) for _ in range(2000))


def test_training_never_sees_what_is_held_out() -> None:
    random = Random(5)
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(20_000):
        scene = sample_scene(random, SUBJECTS, {"single": 1.0})
        assert not held_out(scene)
        seen[scene.subjects[0].name, scene.background] += 1
    assert {name for name, _ in seen} == set(SUBJECTS)
    assert {ground for _, ground in seen} == set(BACKGROUNDS)
    pairs = [Scene((Subject(name),), ground) for name in SUBJECTS for ground in BACKGROUNDS]
    share = sum(held_out(scene) for scene in pairs) / len(pairs)
    assert 1 / 13 < share < 1 / 10
    assert held_out(Scene((Subject("burger"),), "blue"))
    assert all(held_out(sample_scene(random, SUBJECTS, {"single": 1.0}, test=True)) for _ in range(200))


def test_the_same_seed_gives_the_same_scenes_and_captions() -> None:
    def some(seed: int) -> list[tuple[Scene, str]]:
        random = Random(seed)
        return [(scene, caption(scene, random)) for scene in (sample_scene(random) for _ in range(50))]

    assert some(6) == some(6) != some(7)


# ----------------------------------------------------------------------------------------------------- folder


def test_words_and_card_are_current() -> None:
    remedy = "run: python -m training.builtin.card"
    assert card.WORDS.read_text(encoding="utf-8") == vocabulary.words_file(), remedy
    assert card.CARD.read_text(encoding="utf-8") == card.card(), remedy
    assert all(subject in card.generated() for subject in SUBJECTS)


def test_the_folder_is_small_and_what_diffusers_loads() -> None:
    diffusers = pytest.importorskip("diffusers")
    from training.builtin import networks

    files = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 40 * MEGABYTE
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    made = {"unet": networks.unet(), "vae": networks.vae(), "text_encoder": networks.text_encoder(pipeline.tokenizer)}
    for name, network in made.items():  # what training would make is what is shipped
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        assert shapes == {key: value.shape for key, value in getattr(pipeline, name).state_dict().items()}
    ours = networks.scheduler().config
    assert {key: value for key, value in pipeline.scheduler.config.items() if key[0] != "_"} == {
        key: value for key, value in ours.items() if key[0] != "_"
    }


# ------------------------------------------------------------------------------------------- scenes and judge


@font
def test_scenes_are_drawn_the_same_every_time() -> None:
    from training.builtin import scenes

    random = Random(8)
    some = [sample_scene(random) for _ in range(12)]
    first = [scenes.render(scene) for scene in some]
    scenes.background.cache_clear()
    scenes.sprite.cache_clear()
    again = [scenes.render(scene) for scene in reversed(some)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert {picture.shape for picture in first} == {(512, 512, 3)}
    for scene in some:  # every subject stands in the picture, on the grid
        for side, left, top in scenes.placement(scene):
            assert left % 16 == top % 16 == 0 <= min(left, top)
            assert max(left, top) + side <= 512


@font
def test_the_judge_reads_true_scenes() -> None:
    from training.builtin.judge import judge
    from training.builtin.scenes import render

    random = Random("judge")
    scenes = [sample_scene(random, features={kind: 1.0}, test=True) for kind in FEATURES for _ in range(20)]
    wrong = [(scene, judgement) for scene in scenes if not (judgement := judge(render(scene), scene)).all]
    assert len(wrong) <= 2, wrong


@font
def test_the_judge_reads_soft_pictures_too() -> None:
    """Not only the pixels that it was trained on: what is drawn is softer, and its colours are off."""
    from training.builtin.judge import judge
    from training.builtin.scenes import render

    random = Random("soft")
    right = 0
    for _ in range(20):
        scene = sample_scene(random, features={"single": 1.0}, test=True)
        small = Image.fromarray(render(scene)).resize((64, 64), Image.Resampling.BOX)
        soft = np.asarray(small.resize((512, 512), Image.Resampling.BICUBIC)).astype(float) * 0.95 + 6
        right += judge(soft.astype(np.uint8), scene).all
    assert right >= 18


@font
def test_the_judge_tells_what_is_wrong() -> None:
    from training.builtin.judge import judge
    from training.builtin.scenes import render

    cat = Scene((Subject("cat"),), "beach")
    picture = render(cat)
    assert not judge(picture, replace(cat, subjects=(Subject("dog"),))).subjects
    assert not judge(picture, replace(cat, subjects=(Subject("cat", "blue"),))).colour
    assert not judge(picture, replace(cat, subjects=(Subject("cat"),) * 2)).number
    assert not judge(picture, replace(cat, size="big")).size
    assert not judge(picture, replace(cat, background="city")).background
    assert not judge(np.random.RandomState(0).randint(0, 256, (512, 512, 3)).astype(np.uint8), cat).all
    assert not judge(np.full((512, 512, 3), 128, np.uint8), cat).all


@font
def test_the_model_draws_combinations_it_never_saw() -> None:
    pytest.importorskip("torch")
    from training.builtin import evaluate
    from training.builtin.judge import judge

    asked = evaluate.prompts(6, seed=11)
    assert all(held_out(scene) for scene, _ in asked if scene.feature == "single")
    pictures, _ = evaluate.draw(FOLDER, [text for _, text in asked])
    judgements = [judge(picture, scene) for picture, (scene, _) in zip(pictures, asked, strict=True)]
    assert sum(judgement.subjects and judgement.background for judgement in judgements) >= 4, judgements


@font
def test_an_evaluation_has_every_kind_of_scene_and_its_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    from training.builtin import evaluate

    for name, value in {"SHOWN": 3, "FRESH": 5, "UNTRAINED": 1, "STEPS": (2,)}.items():
        monkeypatch.setattr(evaluate, name, value)
    evaluate.evaluate(FOLDER, tmp_path, count=8)
    result = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    kinds = result["right"]
    assert sum(row["pictures"] for kind, row in kinds.items() if kind != "everything") == 8
    assert set(kinds) == {"everything", *FEATURES} and result["steps"].keys() == {"1", "2"}
    assert result["controls"]["true scenes"]["all"] == 1 and result["controls"]["untrained"]["all"] == 0
    assert result["controls"]["another prompt's picture"]["all"] < 0.5 and 25 < result["decoder PSNR"] < 60
    width, height = Image.open(tmp_path / "sheet.jpg").size
    assert (width, height % (192 + 28)) == (8 * 192, 0)


def test_the_two_hundred_captions_ask_for_every_subject_once_alone() -> None:
    pytest.importorskip("diffusers")
    from training.builtin import evaluate

    asked = evaluate.prompts(200)
    single = [scene.subjects[0].name for scene, _ in asked if scene.feature == "single"]
    assert sorted(single) == sorted(SUBJECTS) and all(held_out(scene) for scene, _ in asked if len(scene.subjects) == 1)
    assert set(Counter(scene.feature for scene, _ in asked).values()) == {130, 16, 18}


# --------------------------------------------------------------------------------------------------- training


def test_one_command_makes_a_model_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.builtin import __main__ as train

    done: list[tuple[str, bool]] = []
    monkeypatch.setattr(train, "_carry_out", lambda o: done.append((o.step, getattr(o, "from_nothing", True))))
    assert train.main(["all", "--run", "RUN", "--from-nothing", "--threads", "1"]) == 0
    steps = ["basis", "text", "decoder", "judge", "unet", "save", "evaluate", "curves"]
    assert done == [(step, True) for step in steps]


def test_the_curves_of_a_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from training.builtin.curves import HISTORY, curves

    lines = [{"step": "unet", "samples": n, "gate": {"single": [0.3 - n / 9, 0.4]}} for n in range(2)]
    lines += [{"step": "decoder", "samples": n, "psnr": 28.0 + n} for n in range(2)]
    (tmp_path / HISTORY).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    curves(tmp_path)
    assert np.asarray(Image.open(tmp_path / "curves.png")).shape[:2] == (360, 1000)
    assert (FOLDER / "curves.png").exists() and (FOLDER / HISTORY).exists()


@font
def test_training_carries_on_where_it_was_stopped(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from training.builtin.__main__ import main

    handler = signal.getsignal(signal.SIGTERM)
    run = tmp_path / "run"
    unet = ["unet", "--run", str(run), "--features", "single", "--batch", "2", "--threads", "1", "--samples"]

    def stop() -> None:
        while not (run / "log.jsonl").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        threading.Thread(target=stop).start()
        with pytest.raises(SystemExit, match="carries on"):
            main([*unet, "1000000"])
        before = torch.load(run / "unet.pt", weights_only=True)
        assert main([*unet, str(before["samples"] + 4)]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    after = torch.load(run / "unet.pt", weights_only=True)
    assert after["samples"] == before["samples"] + 4 and after["steps"] == before["steps"] + 2
    assert any(not torch.equal(after["averaged"][key], before["averaged"][key]) for key in after["averaged"])
    assert not list(run.glob("*.part"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in log] == [0, before["samples"], after["samples"]]
    right, wrong = log[-1]["gate"]["single"]
    assert right < wrong  # the shipped weights heed the caption


@font
def test_errors_count_more_where_a_subject_is() -> None:
    pytest.importorskip("torch")
    from training.builtin import scenes, unet

    scene = Scene((Subject("cat"), Subject("dog")), "beach")
    weights = unet.weights(scene)
    assert weights.shape == (1, 32, 32) and float(weights.mean()) == pytest.approx(1)
    for side, left, top in scenes.placement(scene):
        place = weights[0, top // 16 : (top + side) // 16, left // 16 : (left + side) // 16]
        assert place.min() == place.max() == weights.max() == pytest.approx(3 * float(weights.min()))


@font
def test_the_reader_learns_and_is_written_as_the_judge_reads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import openvino

    from training.builtin import judge, reader
    from training.builtin.run import Run

    handler = signal.getsignal(signal.SIGTERM)
    written = tmp_path / "judge.xml"
    try:
        reader.train(Run(tmp_path), total=8, batch=4, path=written)
    finally:
        signal.signal(signal.SIGTERM, handler)
    trained = reader.Reader().eval()
    trained.load_state_dict(torch.load(tmp_path / "judge.pt", weights_only=True)["network"])
    shipped, made = (openvino.Core().read_model(path) for path in (judge.READER, written))
    assert [port.partial_shape for port in (*made.inputs, *made.outputs)] == [
        port.partial_shape for port in (*shipped.inputs, *shipped.outputs)
    ]
    before = reader.Reader().state_dict()
    assert not torch.equal(trained.state_dict()["scene.0.weight"], before["scene.0.weight"])


@font
def test_larger_networks_start_from_smaller_ones(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from training.builtin.run import Run

    def decoder(channels: int) -> tuple[Any, Any]:
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8,), latent_channels=channels, norm_num_groups=2, mid_block_add_attention=False
        )
        return vae, torch.nn.Sequential(vae.post_quant_conv, vae.decoder)

    small, decode = decoder(3)
    small.save_pretrained(tmp_path / "vae")
    large, decode_more = decoder(5)
    assert Run(tmp_path / "run", tmp_path).weights("vae", large)
    latents = torch.randn(1, 5, 6, 6)
    torch.testing.assert_close(decode_more(latents), decode(latents[:, :3]))
    decode_more(latents).square().sum().backward()
    assert large.decoder.conv_in.weight.grad[:, 3:].abs().min() > 0  # what is new can be learnt


@font
def test_every_batch_has_timesteps_of_all_kinds() -> None:
    torch = pytest.importorskip("torch")
    from training.builtin import unet

    torch.manual_seed(0)
    batches = [unet.timesteps(16) for _ in range(200)]
    assert all(0 <= batch.min() < 600 and 990 < batch.max() <= 999 for batch in batches)
    noisy = (torch.cat(batches) >= 950).float().mean()
    assert unet.NOISY < noisy < unet.NOISY + 0.05


@font
def test_a_model_can_be_made_from_nothing(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from training.builtin import networks, text
    from training.builtin.run import Run
    from training.builtin.save import save

    handler = signal.getsignal(signal.SIGTERM)
    networks.make_tokenizer(tmp_path, ["a delicious burger on a blue background"] * 3)
    run = Run(tmp_path, start=None)
    try:
        text.train(run, total=4, batch=2)
    finally:
        signal.signal(signal.SIGTERM, handler)
    save(run, tmp_path / "model")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    save(Run(tmp_path / "better", start=tmp_path / "model"), tmp_path / "model")  # over itself
    assert (tmp_path / "model" / "tokenizer" / "vocab.json").read_bytes() == (
        tmp_path / "tokenizer" / "vocab.json"
    ).read_bytes()
    saved = pipeline.text_encoder.state_dict()
    trained = text.load(run).half().state_dict()
    assert all(saved[key].half().equal(trained[key]) for key in trained)
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size < 16 * MEGABYTE
    assert "shipped" not in str(pipeline.config) and len(pipeline.tokenizer) < 1600
