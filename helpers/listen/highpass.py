"""A high-pass filter in front of everything that judges or recognises sound: a constant offset and rumble are no voice.

One per cent of offset, or the rumble of a fan, under a quiet voice hides it from the voice detector and the recogniser.
A Butterworth filter of second order; the coefficients are those of the Audio EQ Cookbook
(https://www.w3.org/TR/audio-eq-cookbook/), as in FFmpeg's `highpass`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.pcm import RATE

CUTOFF = 60.0  # Hz; the lowest voices begin at 80
_BLOCK = 256  # samples that are filtered as one product of matrices


@functools.cache
def _section() -> tuple[NDArray[Any], NDArray[Any]]:
    """The numerator and the denominator, each of order 2, of the filter."""
    angle = 2 * math.pi * CUTOFF / RATE
    cosine, alpha = math.cos(angle), math.sin(angle) / math.sqrt(2)
    numerator = np.array([(1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2])
    denominator = np.array([1 + alpha, -2 * cosine, 1 - alpha])
    return numerator / denominator[0], denominator / denominator[0]


@functools.cache
def _matrices() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The filter over one block. With x of the block and s, the state before it: y = from_x @ x + from_s @ s, and the
    next state is to_s @ x + decay @ s. The state is that of the transposed direct form II."""
    b, a = _section()
    step = np.array([[-a[1], 1.0], [-a[2], 0.0]])
    gain = np.array([b[1] - a[1] * b[0], b[2] - a[2] * b[0]])
    powers = [np.eye(2)]
    for _ in range(_BLOCK):
        powers.append(step @ powers[-1])
    response = np.array([b[0], *((powers[n] @ gain)[0] for n in range(_BLOCK - 1))])
    index = np.arange(_BLOCK)
    from_x = np.where(index[:, None] >= index, response[index[:, None] - index], 0.0)
    from_s = np.array([power[0] for power in powers[:_BLOCK]])
    to_s = np.array([powers[_BLOCK - 1 - n] @ gain for n in range(_BLOCK)]).T
    return from_x, from_s, to_s, powers[_BLOCK]


class HighPass:
    """The filter for a stream of PCM; it keeps its state between calls. The first sample is taken as the offset, so
    that an offset makes no click at the beginning."""

    def __init__(self) -> None:
        self._state: NDArray[Any] | None = None

    def feed(self, pcm: bytes | bytearray) -> bytes:
        """pcm: s16le, of whole samples → the same length, filtered."""
        x = np.frombuffer(pcm, "<i2").astype(np.float64)
        if not len(x):
            return b""
        b, a = _section()
        if self._state is None:  # that of a constant input x[0], for which the output is 0
            self._state = x[0] * np.array([-b[0], b[2]])
        whole = len(x) // _BLOCK * _BLOCK
        from_x, from_s, to_s, decay = _matrices()
        blocks = x[:whole].reshape(-1, _BLOCK)
        states = np.empty((len(blocks), 2))
        for number, inputs in enumerate(blocks @ to_s.T):
            states[number] = self._state
            self._state = inputs + decay @ self._state
        y = np.empty_like(x)
        y[:whole] = (blocks @ from_x.T + states @ from_s.T).reshape(-1)
        first, second = self._state
        for number in range(whole, len(x)):
            y[number] = out = b[0] * x[number] + first
            first, second = b[1] * x[number] - a[1] * out + second, b[2] * x[number] - a[2] * out
        self._state = np.array([first, second])
        return np.asarray(y.round().clip(-32768, 32767).astype("<i2")).tobytes()


def highpass(pcm: bytes | bytearray) -> bytes:
    """A whole recording (s16le, 16 kHz, mono), filtered."""
    return HighPass().feed(pcm)
