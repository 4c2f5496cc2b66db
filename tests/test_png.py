"""A picture's settings in its PNG, and back; also from PNGs of other programs."""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers.core.errors import UserError
from helpers.core.settings import LARGEST_SEED
from helpers.core.text import printable
from helpers.draw import png
from helpers.draw.job import Job, Picture

PIXELS = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)


def picture(job: Job, seed: int = 5) -> Picture:
    return Picture(PIXELS, seed, job, "openvino", "openvino 1", "f32", "1.0")


texts = st.text(max_size=80).map(printable)
tricky = st.sampled_from(
    ["Negative prompt: a dog", "Steps: 20, Sampler: x, CFG scale: 7, Seed: 1", "a, b: c", '"quoted"', '"', "\\", ", "]
)
words = st.one_of(texts, tricky, st.builds("{} {}".format, tricky, texts)).map(printable)


@given(
    prompt=words.filter(bool), negative=words, seed=st.integers(0, LARGEST_SEED), steps=st.integers(1, 1000),
    guidance=st.floats(0, 100).map(lambda number: round(number, 6)), width=st.integers(16, 9999),
    precision=st.sampled_from(["", "bf16"]), model=words.filter(bool), digits=st.text("0123456789abcdef", max_size=64),
)  # fmt: skip
def test_a_job_comes_back(
    prompt: str, negative: str, seed: int, steps: int, guidance: float, width: int, precision: str, model: str,
    digits: str,
) -> None:  # fmt: skip
    job = Job(prompt, negative, seed, 1, steps, guidance, "dpm++", (width, 512), precision, model, digits)
    back = png.parse(png.parameters(picture(job, seed)))
    assert back == Job(prompt, negative, seed, 1, steps, guidance, "dpm++", (width, 512), precision, model, digits[:10])


def test_the_job_of_a_file(tmp_path: Path) -> None:
    job = Job("a red – heart", "", 3, 4, 8, 2.5, "euler", (32, 16), "", "builtin", "0" * 64)
    (file := tmp_path / "x.png").write_bytes(png.encode(picture(job, seed=6)))
    back = png.read_job(file)
    assert back == Job("a red – heart", "", 6, 1, 8, 2.5, "euler", (32, 16), "", "builtin", "0" * 10)
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(image), PIXELS)


def test_jobs_and_pictures_can_be_sent_to_another_process() -> None:
    job = Job("a cat", seed=1)
    there: Any = pickle.loads(pickle.dumps(picture(job)))
    assert there.job == job and np.array_equal(there.pixels, PIXELS)
    with pytest.raises(AttributeError):
        job.seed = 2  # type: ignore[misc]


WEB_UI = """masterpiece, (a castle:1.2)
on a hill: Steps: 3
Negative prompt: blurry,
ugly
Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 123456, Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Lora hashes: "a: b, c: d", Version: v1.10.1"""  # noqa: E501


def test_a_picture_of_the_web_ui() -> None:
    assert png.parse(WEB_UI) == Job(
        "masterpiece, (a castle:1.2) on a hill: Steps: 3", "blurry, ugly", 123456, 1, 20, 7.0, "euler-ancestral",
        (512, 768), "", "v1-5-pruned-emaonly", "6ce0161689", typed=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("only a prompt", Job("only a prompt")),
        ("a prompt\nand, more: of it", Job("a prompt and, more: of it")),
        ("Negative prompt: a dog\nSteps: 1, Seed: 2, CFG scale: 3", Job("", "a dog", 2, 1, 1, 3.0)),
        ("a\nSteps: 1, Sampler: DPM++ 2M, Seed: ", Job("a", steps=1, sampler="dpm++")),
        ("\x1b[31ma\u202e\x07\nSteps: 1, Seed: 2, Model: \x9bm", Job("[31ma", seed=2, steps=1, model="m", typed=True)),
    ],
)
def test_what_is_missing_is_left_open(text: str, job: Job) -> None:
    assert png.parse(text) == job


@given(st.text())
def test_no_text_is_a_bug(text: str) -> None:
    try:
        job = png.parse(text)
    except ValueError:
        return
    assert job.prompt == printable(job.prompt) and job.model == printable(job.model)


def saved(file: Path, text: str, key: str = "parameters") -> Path:
    chunks = PngInfo()
    chunks.add_text(key, text)
    Image.fromarray(PIXELS).save(file, pnginfo=chunks)
    return file


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("Steps", 65, "Steps: not a whole number from 1 to 1000: '1e9'"),
        ("none", 65, "x.png does not say how it was drawn"),
        ("cut", 65, "x.png is not a PNG picture, or is damaged"),
        ("jpeg", 65, "x.png is not a PNG picture, or is damaged"),
        ("missing", 66, "cannot read x.png"),
        ("folder", 66, "cannot read x.png"),
    ],
)
def test_a_file_that_cannot_be_drawn_again(tmp_path: Path, what: str, code: int, says: str) -> None:
    file = tmp_path / "x.png"
    if what == "Steps":
        saved(file, "a\nSteps: 1e9, Seed: 1, CFG scale: 1")
    elif what == "none":
        saved(file, "a cat", "Comment")
    elif what == "cut":
        file.write_bytes(saved(file, "a cat").read_bytes()[:20])
    elif what == "jpeg":
        Image.fromarray(PIXELS).save(image := io.BytesIO(), "JPEG")
        file.write_bytes(image.getvalue())
    elif what == "folder":
        file.mkdir()
    with pytest.raises(UserError) as raised:
        png.read_job(file)
    assert raised.value.code == code and says in raised.value.message and "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("program", "texts"),
    [
        ("ComfyUI", {"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": "{}"}),
        ("InvokeAI", {"invokeai_metadata": "{}"}),
        ("NovelAI", {"Software": "NovelAI", "Description": "a cat"}),
        ("Fooocus", {"parameters": '{"prompt": "a cat", "seed": "1"}'}),
    ],
)
def test_settings_in_another_programs_form(tmp_path: Path, program: str, texts: dict[str, str]) -> None:
    """Fooocus' were drawn as if they were the prompt."""
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=chunks)
    with pytest.raises(UserError, match=f"in {program}'s form") as raised:
        png.read_job(tmp_path / "x.png")
    assert raised.value.code == 65


# AUTOMATIC1111's own reader: modules/infotext_utils.py, re_param, quote and parse_generation_parameters
_WEB_UI = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@pytest.mark.parametrize("model", ["My model, v2: best", 'a "b", c: d', "Modell Größe: 貓, 🐈", "x" * 300 + ", y: z"])
@pytest.mark.parametrize("prompt", ["a cat", "a cat, Steps: 20, Seed: 3", "cat: Negative prompt: x", "貓 " * 2000])
def test_the_web_ui_reads_no_field_that_is_not_there(model: str, prompt: str) -> None:
    job = Job(prompt.strip(), "blue, Steps: 9", 5, 1, 20, 7.5, "dpm++", (512, 512), "", model, "12" * 32)
    drawn = picture(job)
    *lines, last = png.parameters(drawn).strip().split("\n")
    fields = {key: json.loads(value) if value[0] == '"' else value for key, value in _WEB_UI.findall(last)}
    assert list(fields) == ["Steps", "Sampler", "CFG scale", "Seed", "Size", "Model hash", "Model", "Version"]
    assert fields["Model"] == model and fields["Seed"] == "5"
    assert lines == [job.prompt, "Negative prompt: blue, Steps: 9"]
    assert png.parse(png.parameters(drawn)).model == printable(model)
