"""The sampling loop by itself, with an engine that writes down how it was called."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.draw.diffusion import BlankPicture, draw, sample
from helpers.draw.engines import Defaults, check_size

TEXT, UNWANTED = (np.full((1, 5, 3), value, np.float32) for value in (1, -1))


class Engine:
    """Predicts 0.1 of what it sees for the text and 0.2 for the unwanted one; a picture is the latents, enlarged."""

    name, version, precision = "notebook", "1", "f32"
    size, pictures, channels, factor = (48, 32), 1, 4, 8
    defaults = Defaults(sampler="ddim")
    tokenizer: Any = None

    def __init__(self) -> None:
        self.calls: list[tuple[NDArray[Any], float, NDArray[Any]]] = []
        self.picture: NDArray[Any] | None = None
        self.scheduler: dict[str, Any] = {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": False,
        }

    def encode_text(self, tokens: NDArray[Any]) -> NDArray[Any]:
        raise AssertionError("the loop gets encoded text")

    def predict_noise(self, latents: NDArray[Any], timestep: float, text: NDArray[Any]) -> NDArray[Any]:
        self.calls.append((latents, timestep, text))
        rate = np.where(text.mean((1, 2)) > 0, np.float32(0.1), np.float32(0.2))
        return np.asarray(latents * rate[:, None, None, None])

    def decode(self, latents: NDArray[Any]) -> NDArray[Any]:
        return latents[:, :3].repeat(8, 2).repeat(8, 3) if self.picture is None else self.picture

    def warm(self, pictures: int = 1) -> None: ...


def test_a_picture_has_the_size_of_the_engine() -> None:
    pixels = draw(Engine(), TEXT, UNWANTED, seed=1, steps=3, guidance=2.0)
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8


def test_guidance_asks_for_both_at_once_and_the_unwanted_one_first() -> None:
    engine = Engine()
    draw(engine, TEXT, UNWANTED, seed=1, steps=3, guidance=2.0)
    assert len(engine.calls) == 3
    for latents, _, text in engine.calls:
        assert latents.shape == (2, 4, 4, 6)
        assert latents.dtype == np.float32
        assert np.array_equal(latents[0], latents[1])
        assert np.array_equal(text, np.concatenate([UNWANTED, TEXT]))


@pytest.mark.parametrize(("unwanted", "guidance"), [(UNWANTED, 1.0), (UNWANTED, 0.0), (None, 7.5)])
def test_without_guidance_there_is_no_second_half(unwanted: NDArray[Any] | None, guidance: float) -> None:
    engine = Engine()
    draw(engine, TEXT, unwanted, seed=1, steps=2, guidance=guidance)
    assert all(latents.shape[0] == text.shape[0] == 1 for latents, _, text in engine.calls)


def test_guidance_leads_from_the_unwanted_prediction_beyond_the_wanted_one() -> None:
    """0.2 + 3 * (0.1 - 0.2) = -0.1 of what the model sees: the same as an unguided model that predicts that."""

    class Plain(Engine):
        def predict_noise(self, latents: NDArray[Any], timestep: float, text: NDArray[Any]) -> NDArray[Any]:
            return latents * np.float32(-0.1)

    guided = draw(Engine(), TEXT, UNWANTED, seed=1, steps=5, guidance=3.0)
    assert np.abs(guided.astype(int) - draw(Plain(), TEXT, seed=1, steps=5)).max() <= 1
    assert np.abs(guided.astype(int) - draw(Engine(), TEXT, seed=1, steps=5)).max() > 1


def test_a_seed_starts_from_the_same_noise_on_every_machine() -> None:
    engine = Engine()
    draw(engine, TEXT, seed=42, steps=1)
    expected = [0.49671414, -0.1382643, 0.64768857, 1.5230298, -0.23415338, -0.23413695]  # RandomState(42), for ever
    assert np.allclose(engine.calls[0][0].ravel()[:6], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler-ancestral", "dpm++"])
def test_the_model_first_sees_noise_of_the_strength_it_was_trained_on(sampler: str) -> None:
    engine = Engine()
    draw(engine, TEXT, seed=42, steps=4, sampler=sampler)
    seen = engine.calls[0][0]
    assert np.allclose(seen, np.random.RandomState(42).standard_normal(seen.shape), rtol=0.01)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler-ancestral", "dpm++"])
def test_the_same_seed_gives_the_same_bytes_and_another_another_picture(sampler: str) -> None:
    one, again, other = (draw(Engine(), TEXT, seed=seed, steps=4, sampler=sampler) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_every_step_is_told() -> None:
    told: list[tuple[int, int]] = []
    draw(Engine(), TEXT, seed=1, steps=4, on_step=lambda step, steps: told.append((step, steps)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_engine_says_the_sampler_if_nobody_else_does() -> None:
    engine = Engine()
    engine.defaults = Defaults(sampler="euler")
    assert np.array_equal(draw(engine, TEXT, seed=1, steps=4), draw(Engine(), TEXT, seed=1, steps=4, sampler="euler"))


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler-ancestral", "dpm++"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_seed_gives_the_same_latents_alone_and_among_others(sampler: str, guidance: float) -> None:
    how: dict[str, Any] = {"steps": 4, "guidance": guidance, "sampler": sampler}
    together = sample(Engine(), TEXT, UNWANTED, seed=[3, 4, 5], **how)
    alone = [sample(Engine(), TEXT, UNWANTED, seed=seed, **how) for seed in (3, 4, 5)]
    assert np.array_equal(together, np.concatenate(alone))


def test_pictures_that_are_drawn_at_once_have_their_unwanted_halves_first() -> None:
    engine = Engine()
    sample(engine, TEXT, UNWANTED, seed=[3, 4, 5], steps=2, guidance=2.0)
    for latents, _, text in engine.calls:
        assert np.array_equal(latents[:3], latents[3:])
        assert text.mean((1, 2)).tolist() == [-1, -1, -1, 1, 1, 1]


NOISE = np.random.RandomState(0).rand(1, 3, 32, 48).astype(np.float32)


@pytest.mark.parametrize(
    ("picture", "what"),
    [
        (np.where(NOISE < 0.001, np.nan, NOISE), "NaN"),
        (np.where(NOISE < 0.001, np.inf, NOISE), "NaN"),
        (np.full_like(NOISE, -1), "a black image"),
        (np.full_like(NOISE, -7), "a black image"),
        (NOISE * 0.01 - 1, "a black image"),
        (np.full_like(NOISE, 0.3), "a single colour"),
        (np.broadcast_to(np.array([[[[1.0]], [[0.0]], [[-1.0]]]], np.float32), NOISE.shape), "a single colour"),
    ],
)
def test_what_is_no_picture_is_an_error(picture: NDArray[Any], what: str) -> None:
    engine = Engine()
    engine.picture = picture.astype(np.float32)
    with pytest.raises(BlankPicture, match=what) as raised:
        draw(engine, TEXT, seed=1, steps=1)
    assert raised.value.code == 70
    assert raised.value.remedy


def test_a_dark_picture_is_a_picture() -> None:
    engine = Engine()
    engine.picture = NOISE * 0.1 - 1
    assert draw(engine, TEXT, seed=1, steps=1).max() < 16


def test_pixels_are_rounded_and_clipped() -> None:
    engine = Engine()
    engine.picture = NOISE.copy()
    engine.picture[0, :, 0, :5] = [-1.5, -1, 0, 1, 1.5]
    assert draw(engine, TEXT, seed=1, steps=1)[0, :5, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("size", "factor", "nearest"),
    [((501, 512), 8, "504x512"), ((512, 1), 16, "512x16"), ((0, 512), 8, "8x512"), ((519, 508), 16, "512x512")],
)
def test_a_size_that_cannot_be_drawn_says_the_nearest(size: tuple[int, int], factor: int, nearest: str) -> None:
    with pytest.raises(UserError) as raised:
        check_size(size, factor)
    assert raised.value.code == 64
    assert nearest in raised.value.remedy


def test_sizes_that_can_be_drawn() -> None:
    check_size((512, 768), 8)
    check_size((16, 16), 16)


def test_the_loop_knows_no_framework() -> None:
    """Neither the loop nor what it imports may bring torch or OpenVINO along."""
    program = (
        "import sys, helpers.draw.diffusion; print([n for n in ('torch', 'openvino', 'diffusers') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
