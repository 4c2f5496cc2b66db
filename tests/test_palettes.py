"""Palettes against exact k-means, and the choice of widths against every other choice."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from small_models import BUILTIN

from helpers.adapt.diffusers_folder import read_weights
from helpers.compress import palettes

Weights = NDArray[np.float16]


def any_weights(most: int = 200) -> Any:
    """Of any finite values, often the same ones, often with an outlier."""
    kinds = some.sampled_from([
        some.floats(-65504, 65504, width=16),
        some.floats(-1, 1, width=16),
        some.integers(-20, 20),
        some.sampled_from([0.0, -0.0, 1.0, 6e-8, 1000.0]),
    ])  # fmt: skip
    return kinds.flatmap(lambda elements: arrays(np.float16, some.integers(1, most), elements=elements))


def error(weights: Weights, decoded: NDArray[np.floating[Any]]) -> float:
    return float(np.sum((weights.reshape(-1).astype(np.float64) - decoded) ** 2))


def exact(weights: Weights, bits: int) -> float:
    """The smallest error that a palette can have, by dynamic programming."""
    kmeans1d: Any = pytest.importorskip("coremltools._deps")._kmeans1d
    numbers, counts = np.unique(weights.astype(np.float64), return_counts=True)
    if len(numbers) <= 1 << bits:
        return 0.0
    found = kmeans1d.cluster(numbers, 1 << bits, weights=counts)
    return float(counts @ (numbers - np.array(found.centroids)[found.clusters]) ** 2)


def above(weights: Weights, bits: int) -> float:
    """How far the error is above the smallest one, in dB."""
    return float(10 * np.log10(palettes.squared_error(weights, bits) / exact(weights, bits)))


@pytest.mark.parametrize("bits", palettes.WIDTHS)
def test_real_layers_lose_next_to_nothing_against_exact_k_means(bits: int) -> None:
    layers = [
        weight.astype(np.float16)
        for name, weight in read_weights(BUILTIN / "vae").items()
        if name in ("decoder.conv_in.weight", "decoder.mid_block.resnets.0.conv1.weight")
    ]
    assert len(layers) == 2
    mine, best = (sum(function(layer, bits) for layer in layers) for function in (palettes.squared_error, exact))
    assert 10 * np.log10(mine / best) < (0.1 if bits < 8 else 0.2)
    assert max(above(layer, bits) for layer in layers) < 0.4


@pytest.mark.parametrize("bits", palettes.WIDTHS)
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "two heaps", "one outlier"])
def test_no_distribution_traps_it(kind: str, bits: int) -> None:
    """Lloyd's iterations alone end up to 60 dB above the best on these."""
    random = np.random.RandomState(bits)
    values = random.standard_cauchy(3000) if kind == "heavy tails" else random.standard_normal(3000)
    values += 10 * np.sign(random.standard_normal(3000)) if kind == "two heaps" else 0
    values[7] = 200 if kind == "one outlier" else values[7]
    assert above(values.astype(np.float16), bits) < 1.5


@given(any_weights(), some.sampled_from(palettes.WIDTHS))
def test_a_palette_is_ascending_and_every_index_is_the_nearest_value(weights: Weights, bits: int) -> None:
    palette = palettes.kmeans(weights, bits)
    assert palette.values.dtype == np.float16
    assert palette.indices.dtype == np.uint8
    assert (len(palette.values), len(palette.indices)) == (1 << bits, weights.size)
    assert palette.indices.max() < 1 << bits
    values = palette.values.astype(np.float64)
    assert (np.diff(values) >= 0).all()
    nearest = np.abs(weights[:, None] - values[None]).min(axis=1)
    chosen = np.abs(weights - palette.decoded().astype(np.float64))
    assert (chosen <= nearest + np.abs(values).max() * 2**-10).all()  # values are rounded to 16 bits


@given(any_weights(), some.sampled_from(palettes.WIDTHS))
def test_few_different_weights_stay_as_they_are(weights: Weights, bits: int) -> None:
    few = np.unique(weights)[: 1 << bits][np.arange(weights.size) % min(len(np.unique(weights)), 1 << bits)]
    assert np.array_equal(palettes.kmeans(few, bits).decoded(), few)


@given(any_weights(), some.randoms())
def test_where_a_weight_stands_does_not_matter(weights: Weights, random: Any) -> None:
    order = list(range(weights.size))
    random.shuffle(order)
    mine, theirs = palettes.kmeans(weights, 3), palettes.kmeans(weights[order], 3)
    assert np.array_equal(mine.values, theirs.values)
    assert np.array_equal(mine.indices[order], theirs.indices)


@given(some.integers(0, 2**32 - 1), some.integers(1, 3000), some.sampled_from([1e-3, 1.0, 50.0]))
def test_more_bits_are_never_worse(seed: int, size: int, scale: float) -> None:
    weights = (scale * np.random.RandomState(seed).standard_normal(size)).astype(np.float16)
    errors = [palettes.squared_error(weights, bits) for bits in palettes.WIDTHS]
    assert errors == sorted(errors, reverse=True)


def test_weights_of_any_shape_and_both_zeros() -> None:
    kernel = np.random.RandomState(0).standard_normal((4, 3, 2, 2)).astype(np.float16)
    assert np.array_equal(palettes.kmeans(kernel, 8).decoded(), kernel.reshape(-1))
    zeros = np.array([0.0, -0.0, 1.0, -0.0], np.float16)
    assert palettes.kmeans(zeros, 1).decoded().tolist() == [0, 0, 1, 0]
    assert palettes.kmeans(np.full(9, 2.5, np.float16), 1).decoded().tolist() == [2.5] * 9


Tables = dict[str, dict[int, float]]


def total(of: Tables, chosen: dict[str, int]) -> float:
    return sum(of[name][bits] for name, bits in chosen.items())


@some.composite
def layers(draw: Any) -> tuple[Tables, Tables, float]:
    """Costs and errors of a few layers, and a budget that is enough."""
    costs: Tables = {}
    errors: Tables = {}
    for name in "abcd"[: draw(some.integers(1, 4))]:
        size, gain = draw(some.integers(1, 5000)), 10 ** draw(some.floats(-6, 6))
        costs[name] = {bits: palettes.stored(size, bits) for bits in (1, 2, 4, 8, 16)}
        errors[name] = {bits: gain * draw(some.floats(0.5, 2)) * 4.0**-bits for bits in (1, 2, 4, 8)} | {16: 0.0}
    least, most = (sum(costs[name][bits] for name in costs) for bits in (1, 16))
    return costs, errors, least + draw(some.floats(0, 1.1)) * max(most - least, 0)


# 16-bit weights that take what a palette of 4 bits does
@example(
    (
        {"a": {b: palettes.stored(128, b) for b in (1, 2, 4, 8, 16)}},
        {"a": {1: 1.0, 2: 0.5, 4: 0.1, 8: 0.01, 16: 0.0}},
        4e3,
    )
)
@settings(max_examples=200)
@given(layers())
def test_no_choice_of_widths_is_much_better(case: tuple[Tables, Tables, float]) -> None:
    costs, errors, budget = case
    chosen = palettes.allocate(costs, errors, budget)
    assert chosen.keys() == costs.keys()
    assert total(costs, chosen) <= budget
    mine = total(errors, chosen)
    fitting = [
        one
        for widths in itertools.product((1, 2, 4, 8, 16), repeat=len(costs))
        if total(costs, one := dict(zip(costs, widths, strict=True))) <= budget
    ]
    assert mine <= min(total(errors, one) for one in fitting if len(set(one.values())) == 1)
    # What a layer more or less costs is a large part of four layers; see the next test for many.
    left = budget - total(costs, chosen)
    for name, bits in chosen.items():
        for wider in (8, 16):
            better = wider > bits and errors[name][wider] < errors[name][bits]
            assert not (better and costs[name][wider] - costs[name][bits] <= left)


def test_of_many_layers_it_is_the_best_choice_but_for_a_hundredth() -> None:
    """Against the bound that no choice can be under (Lagrange), at 4 bits on the average."""
    random = np.random.RandomState(1)
    sizes = {str(index): int(size) for index, size in enumerate(10 ** random.uniform(3, 6, 200))}
    costs = {name: {bits: palettes.stored(size, bits) for bits in (1, 2, 4, 6, 8, 16)} for name, size in sizes.items()}
    errors = {
        name: {bits: gain * 4.0**-bits for bits in (1, 2, 4, 6, 8)} | {16: 0.0}
        for name, gain in zip(sizes, 10 ** random.uniform(-4, 4, 200), strict=True)
    }
    budget = sum(palettes.stored(size, 4) for size in sizes.values())
    mine = total(errors, palettes.allocate(costs, errors, budget))
    bound = max(
        sum(min(errors[name][bits] + price * costs[name][bits] for bits in costs[name]) for name in costs)
        - price * budget
        for price in 10 ** np.linspace(-12, 2, 500)
    )
    assert bound * 0.99 <= mine <= bound * 1.01
    assert mine < sum(errors[name][4] for name in errors) / 10


def test_a_budget_that_cannot_be_met() -> None:
    costs: Tables = {"a": {1: 100, 16: 1600}, "b": {1: 50, 16: 800}}
    errors: Tables = {"a": {1: 1, 16: 0}, "b": {1: 1, 16: 0}}
    assert palettes.allocate(costs, errors, 150) == {"a": 1, "b": 1}
    assert palettes.allocate(costs, errors, 900) == {"a": 1, "b": 16}
    assert palettes.allocate({}, {}, 0) == {}
    with pytest.raises(ValueError, match="below the smallest"):
        palettes.allocate(costs, errors, 149)
