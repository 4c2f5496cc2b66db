"""Emphasis means what it means in AUTOMATIC1111's web UI; long prompts are read in chunks of 75 tokens."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import random_model, reference, torch

from helpers.adapt.checkpoint import CLIP
from helpers.draw import diffusion, engines, png, wording
from helpers.draw.choose_model import Model
from helpers.draw.job import Job
from helpers.draw.painter import Painter
from helpers.draw.tokenizer import Tokenizer
from helpers.words import emphasis, prompt_syntax
from helpers.words.emphasis import BREAK, parse


# The first six and their results are published: modules/prompt_parser.py of the web UI, its doctests
@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
         [("a ", 1.0), ("house", 1.5730000000000004), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55),
          (", sun, ", 1.1), ("sky", 1.4641000000000006), (".", 1.1)]),
        ("[less] of [[it]]", [("less", 1 / 1.1), (" of ", 1.0), ("it", 1 / 1.1 / 1.1)]),
        ("(a:-1)(b: .5 )", [("a", -1.0), ("b", 0.5)]),
        ("one BREAK two", [("one", 1.0), BREAK, ("two", 1.0)]),
        ("(one BREAK two:2)", [("one", 2.0), BREAK, ("two", 2.0)]),
        ("at (10:30) o'clock", [("at ", 1.0), ("10:30", 1.1), (" o'clock", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a: b) c] \\ d", [("a: b) c] \\ d", 1.0)]),
        ("", [("", 1.0)]),
    ],
)  # fmt: skip
def test_parsed(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = parse(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert np.allclose([weight for _, weight in found], [weight for _, weight in pieces])


def test_escaped_text_is_read_as_it_is() -> None:
    for text in (r"a (b:1.2) [c] \d", "((", r"\(", "x:1)"):
        assert parse(emphasis.escaped(text)) == [(text, 1.0)]


def test_other_syntax_goes_and_emphasis_stays() -> None:
    kept, dropped = prompt_syntax.plain(r"a (red:1.3) [cat] \(x\) <lora:y:1:2> --ar 16:9 [a|b] {c|d}", emphasis=True)
    assert kept == r"a (red:1.3) [cat] \(x\) a c"
    assert dropped == ["<lora:y:1:2>", "--ar 16:9", "[a|b]", "{c|d}"]


@functools.cache
def clip() -> Tokenizer:
    return Tokenizer(CLIP)


def words(chunk: wording.Chunk) -> int:
    return int((chunk.ids != clip().encode("").ids[-1]).sum()) - 1  # without the start


def test_chunks() -> None:
    [one], cut = wording.chunks(clip(), [("a red heart", 1.0)], 8)
    assert np.array_equal(one.ids, clip().encode("a red heart").ids) and (one.weights == 1).all() and not cut
    for text in ("cat " * 200, "cat, " * 100):
        [one], cut = wording.chunks(clip(), [(text, 1.0)])
        assert (one.ids.tolist(), cut) == (clip().encode(text).ids.tolist(), clip().encode(text).cut)
    parts, cut = wording.chunks(clip(), [("cat " * 200, 1.0)], 8)
    assert [words(part) for part in parts] == [75, 75, 50] and not cut
    parts, cut = wording.chunks(clip(), [("cat " * 200, 1.0), ("dog " * 5, 2.0)], 2)
    assert [words(part) for part in parts] == [75, 75] and cut == ("cat " * 50 + "dog " * 5).strip()
    # The comma is the 61st token: what follows it goes on in the next chunk
    parts, _ = wording.chunks(clip(), [("cat " * 60 + ", " + "dog " * 30, 1.0)], 8)
    assert [words(part) for part in parts] == [61, 30]
    parts, _ = wording.chunks(clip(), [("cat " * 40 + ", " + "dog " * 40, 1.0)], 8)
    assert [words(part) for part in parts] == [75, 6]
    parts, _ = wording.chunks(clip(), parse("a cat BREAK (a dog:1.5)"), 8)
    assert [words(part) for part in parts] == [2, 2] and parts[1].weights[:4].tolist() == [1, 1.5, 1.5, 1]
    [part], cut = wording.chunks(clip(), parse("a cat BREAK a dog"))
    assert words(part) == 4 and not cut


LONG = "a red heart, (a blue boat:1.4), " * 20 + "[snow] under a yellow moon"


def as_the_web_ui(pipe: Any, tokenizer: Tokenizer, prompt: str, count: int) -> Any:
    """The reference: each chunk through transformers' encoder, weighted and scaled to its mean, one after the other."""
    made = wording.chunks(tokenizer, parse(prompt), 8)[0]
    made += [wording.Chunk(tokenizer.encode("").ids, np.ones(77, np.float32))] * (count - len(made))
    parts = []
    for ids, weights in made:
        z = pipe.text_encoder(torch.from_numpy(ids)[None]).last_hidden_state
        before = z.mean()
        z = z * torch.from_numpy(weights)[None, :, None]
        parts.append(z * (before / z.mean()))
    return torch.cat(parts, dim=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", "tiny")


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_long_prompts_are_drawn_as_by_a_reference(tiny: Path, engine: str) -> None:
    painter = Painter(Model("tiny", tiny, engine), usual=Job("", seed=3, steps=2, guidance=3.0, sampler="ddim"))
    [picture] = painter.draw(replace(painter.usual, prompt=LONG, negative="(fog)", typed=True))
    pipe, tokenizer = reference(tiny), engines.load("openvino", tiny).tokenizer
    count = len(wording.chunks(tokenizer, parse(LONG), 8)[0])
    assert count == 3
    with torch.no_grad():
        text, unwanted = (as_the_web_ui(pipe, tokenizer, one, count) for one in (LONG, "(fog)"))
    noise = diffusion.noise_stream(3).standard_normal((1, 4, 16, 16)).astype(np.float32)
    drawn = pipe(
        prompt_embeds=text, negative_prompt_embeds=unwanted, latents=torch.from_numpy(noise), guidance_scale=3.0,
        num_inference_steps=2, output_type="np", width=32, height=32,
    ).images[0]  # fmt: skip
    error = np.mean((picture.pixels / 255 - drawn) ** 2)
    decibels = 10 * np.log10(1 / error)
    assert decibels > 50, decibels
    assert not painter.lost(LONG).cut
    [short] = painter.draw(replace(painter.usual, prompt="a red heart"))  # the engine goes back to one chunk
    [again] = painter.draw(replace(painter.usual, prompt="a red heart"))
    assert np.array_equal(short.pixels, again.pixels) and not np.array_equal(short.pixels, picture.pixels)


def test_only_what_was_typed_is_read(tiny: Path) -> None:
    painter = Painter(Model("tiny", tiny, "openvino"), usual=Job("", seed=3, steps=1, guidance=1.0))

    def draw(prompt: str, **changes: Any) -> Any:
        [picture] = painter.draw(replace(painter.usual, prompt=prompt, **changes))
        return picture

    typed, spoken, ordinary = (draw("a (red:1.6) heart", **one) for one in ({"typed": True}, {}, {"plain": True}))
    assert spoken.job.prompt == "a red heart" and typed.job.prompt == ordinary.job.prompt == "a (red:1.6) heart"
    assert np.array_equal(spoken.pixels, draw("a red heart").pixels)
    assert not np.array_equal(typed.pixels, spoken.pixels) and not np.array_equal(typed.pixels, ordinary.pixels)
    for picture in (typed, spoken, ordinary, draw("a (red) heart")):
        again = png.parse(png.parameters(picture))
        [same] = painter.draw(replace(again, model="", sha256=""))
        assert np.array_equal(same.pixels, picture.pixels)
