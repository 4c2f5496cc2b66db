"""Palettes: weights as indices into a small table of values, and how many bits each layer should get.

A palette of n bits keeps 2**n values that stand for all weights of a layer; each weight is then an index of n bits. The
values are those of one-dimensional k-means, which make the squared error smallest (Han et al. 2015,
https://arxiv.org/abs/1510.00149).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float16]
Numbers = NDArray[np.float64]
WIDTHS = (1, 2, 3, 4, 6, 8)  # bits of an index that Core ML supports; 3 only from macOS 15


class Palette(NamedTuple):
    """2**bits values, ascending, and for each weight, flattened, the index of its value."""

    values: Weights
    indices: NDArray[np.uint8]

    def decoded(self) -> Weights:
        """The weights that replace the original ones, shape (n,)."""
        decoded: Weights = self.values[self.indices]
        return decoded


def kmeans(weights: Weights, bits: int) -> Palette:
    """The palette of `bits` for float16 weights of any shape. At most 2**bits different weights stay as they are (-0
    becomes 0).

    There are only 65,536 different 16-bit numbers, so this works on a histogram: a layer of a million weights takes as
    long as one of a thousand.
    """
    codes = (weights.reshape(-1) + np.float16(0)).view(np.uint16)
    counts = np.bincount(codes, minlength=1 << 16)
    used = np.flatnonzero(counts)
    numbers = used.astype(np.uint16).view(np.float16).astype(np.float64)
    order = np.argsort(numbers)
    used, numbers = used[order], numbers[order]
    ends = _cells(numbers, counts[used].astype(np.float64), 1 << bits)
    table = np.zeros(1 << 16, np.uint8)
    table[used] = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    sums = np.add.reduceat(numbers * counts[used], ends[:-1]) / np.add.reduceat(counts[used], ends[:-1])
    values = np.concatenate([sums, np.full((1 << bits) - len(sums), sums[-1])])
    return Palette(values.astype(np.float16), table[codes])


def _cells(numbers: Numbers, count: Numbers, size: int) -> NDArray[np.intp]:
    """Split ascending numbers, each occurring `count` times, into at most `size` cells: the start of each cell, then
    the end of the last.

    Lloyd's iterations, started from the quantizer that is best for many values (density to the power 1/3: Panter and
    Dite 1951). To escape local minima, move the least useful centroid to the cell where it reduces the error most, for
    as long as the error falls (Patane and Russo 2001, The enhanced LBG algorithm).
    """
    if len(numbers) <= size:
        return np.arange(len(numbers) + 1)
    many, total, squares = (np.concatenate([[0], np.cumsum(count * numbers**power)]) for power in range(3))

    def error(begin: NDArray[np.intp], end: NDArray[np.intp]) -> Numbers:
        """Squared error of the cells from begin to end, each replaced by its mean; 0 for an empty cell."""
        errors: Numbers = (
            squares[end] - squares[begin] - (total[end] - total[begin]) ** 2 / np.maximum(many[end] - many[begin], 1)
        )
        return errors

    def lloyd(ends: NDArray[np.intp]) -> NDArray[np.intp]:
        for _ in range(300):
            ends = np.unique(ends)  # without empty cells
            values = np.diff(total[ends]) / np.diff(many[ends])
            moved = np.concatenate([[0], np.searchsorted(numbers, (values[1:] + values[:-1]) / 2), [len(numbers)]])
            if np.array_equal(moved, ends):
                break
            ends = moved
        return np.unique(ends)

    level = np.cumsum(count ** (1 / 3) * np.gradient(numbers) ** (2 / 3))
    inner = np.searchsorted(level, np.arange(1, size) / size * level[-1])
    ends = lloyd(np.concatenate([[0], inner, [len(numbers)]]))
    for _ in range(8 * size):
        begin, end = ends[:-1], ends[1:]
        errors = error(begin, end)
        middle = np.searchsorted(numbers, np.diff(total[ends]) / np.diff(many[ends]), side="right")
        gains = errors - error(begin, middle) - error(middle, end)
        best = int(np.argmax(gains))
        remaining = ends
        if len(ends) > size:  # another centroid makes room, but not a neighbour of the split cell
            losses = error(ends[:-2], ends[2:]) - errors[:-1] - errors[1:]
            losses[max(best - 1, 0) : best + 1] = np.inf
            least = int(np.argmin(losses))
            if gains[best] <= losses[least] + 1e-12 * squares[-1]:  # a smaller difference is rounding
                break
            remaining = np.delete(ends, least + 1)
        ends = lloyd(np.append(remaining, middle[best]))
    return ends


def squared_error(weights: Weights, bits: int) -> float:
    """Sum of the squared differences between the weights and their palette of `bits`."""
    difference = weights.reshape(-1).astype(np.float64) - kmeans(weights, bits).decoded()
    return float(difference @ difference)


def stored(weights: int, bits: float) -> float:
    """Bits that a layer takes in a Core ML package: its indices and its palette, or 16-bit weights unchanged.

    A palette of more than 3 bits is stored in the weights file: it has a header, is aligned to 64 bytes, and the
    program refers to it.
    """
    return weights * bits + (16 * 2**bits + (1280 if bits > 3 else 0) if bits < 16 else 0)


def allocate(
    costs: Mapping[str, Mapping[int, float]], errors: Mapping[str, Mapping[int, float]], budget: float
) -> dict[str, int]:
    """A width for each layer such that the sum of errors is small and the sum of costs at most `budget`.

    costs and errors: by layer and width, with the same widths in every layer; a greater width costs more, except in
    layers that are smaller than a palette.
    Every layer gets the width that is best at one price of cost (Shoham and Gersho 1988), the lowest price that the
    budget allows; the rest of the budget is spent where it helps most. Never worse than the greatest width that all
    layers can have. Raises ValueError if the budget is too small.
    """
    if not costs:
        return {}

    def at(price: float) -> dict[str, int]:
        return {
            name: min(widths, key=lambda bits: (errors[name][bits] + price * widths[bits], bits))
            for name, widths in costs.items()
        }

    def total(of: Mapping[str, Mapping[int, float]], chosen: Mapping[str, int]) -> float:
        return sum(of[name][bits] for name, bits in chosen.items())

    def filled(chosen: dict[str, int]) -> dict[str, int]:
        """The widths after steps up, each the one that saves most error for its cost, while the budget allows one."""
        left = budget - total(costs, chosen)
        while steps := [
            ((errors[name][bits] - errors[name][wider]) / cost if cost > 0 else math.inf, cost, name, wider)
            for name, bits in chosen.items()
            for wider in costs[name]
            if wider > bits
            and (cost := costs[name][wider] - costs[name][bits]) <= left
            and errors[name][wider] < errors[name][bits]
        ]:
            _, cost, name, wider = max(steps)
            chosen[name], left = wider, left - cost
        return chosen

    uniform = [dict.fromkeys(costs, bits) for bits in sorted(next(iter(costs.values())))]
    affordable = [widths for widths in uniform if total(costs, widths) <= budget]
    if not affordable:
        raise ValueError("the budget is below the smallest width")
    low, high = 0.0, 1.0
    while total(costs, at(high)) > budget:
        high *= 8
    for _ in range(100):
        price = (low + high) / 2
        low, high = (price, high) if total(costs, at(price)) > budget else (low, price)
    return min((filled(start) for start in (at(high), affordable[-1])), key=lambda widths: total(errors, widths))
