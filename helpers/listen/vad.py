"""Voice activity detection: when somebody speaks. Silero VAD 6.2, computed with numpy.

    detector = vad.Detector()
    for chunk in microphone:                      # s16le, 16 kHz, mono, of any length
        for probability in detector.feed(chunk):  # one for each 32 ms
            ...

The network (github.com/snakers4/silero-vad, MIT; weights in models/silero_vad) is small: a short-time Fourier
transform, four convolutions, an LSTM. In numpy it loads in milliseconds and takes 5 MB; a runtime for its ONNX file
takes 0.3 s and 70 MB in each stage. The tests compare it with that file.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.core.pcm import RATE

Array = NDArray[Any]  # of float32

WEIGHTS = ROOT / "models" / "silero_vad" / "silero_vad_16k.safetensors"
FRAME = 512  # samples per probability
FRAME_SECONDS = FRAME / RATE
CONTEXT = 64  # samples before a frame that the network sees again

# Silero's own thresholds: speech begins above the first and goes on above the second.
BEGINS = 0.5
GOES_ON = 0.35


@functools.cache
def _weights() -> dict[str, Array]:
    from safetensors.numpy import load_file

    try:
        weights = load_file(WEIGHTS)
    except (OSError, ValueError) as error:
        raise UserError(
            os.EX_UNAVAILABLE, f"cannot load {WEIGHTS}", "Get it back: git restore models/silero_vad"
        ) from error
    # Convolutions as matrices: (channels in × taps, channels out).
    return {name: w.reshape(len(w), -1).T.copy() if w.ndim == 3 else w for name, w in weights.items()}


def _convolve(x: Array, name: str, stride: int) -> Array:
    """x: (n, time, channels) → (n, time / stride, channels out): a convolution of three taps, then ReLU."""
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    taps = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)[:, ::stride]  # (n, time, channels, 3)
    weights = _weights()
    result = taps.reshape(*taps.shape[:2], -1) @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return np.asarray(np.maximum(result, 0))


def _features(frames: Array) -> Array:
    """frames: (n, CONTEXT + FRAME), -1…1 → (n, 128), the input of the LSTM."""
    padded = np.pad(frames, ((0, 0), (0, CONTEXT)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 256, axis=1)[:, ::128]  # (n, 4, 256)
    spectrum = windows @ _weights()["stft.weight"]
    x = np.hypot(spectrum[..., :129], spectrum[..., 129:])
    for name, stride in (("encoder.0", 1), ("encoder.1", 2), ("encoder.2", 2), ("encoder.3", 1)):
        x = _convolve(x, name, stride)
    return np.asarray(x[:, 0])


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.maximum(x, -80))))


class Detector:
    """The probability of speech in a stream of PCM; it keeps the network's state between calls."""

    def __init__(self) -> None:
        """Raises: UserError 69 if the weights are missing."""
        _weights()
        self._state: Array = np.zeros((2, 128), np.float32)  # of the LSTM: hidden and cell
        self._samples: Array = np.zeros(CONTEXT, np.float32)  # the context, and less than a frame

    def feed(self, pcm: bytes | bytearray) -> Array:
        """pcm: s16le, 16 kHz, mono → the probability of speech, 0…1, of each frame (32 ms) that is now complete."""
        samples = np.concatenate([self._samples, np.frombuffer(pcm, "<i2").astype(np.float32) / 32768])
        count = (len(samples) - CONTEXT) // FRAME
        self._samples = samples[count * FRAME :]
        if not count:
            return np.zeros(0, np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + FRAME)[: count * FRAME : FRAME]
        weights = _weights()
        gates_in = _features(frames) @ weights["lstm.weight_ih"].T + weights["lstm.bias_ih"]
        gates_in += weights["lstm.bias_hh"]
        hidden, cell = self._state
        outputs = np.empty((count, 128), np.float32)
        for i in range(count):
            gates = gates_in[i] + weights["lstm.weight_hh"] @ hidden
            input_gate, forget_gate, candidate, output_gate = gates.reshape(4, 128)
            cell = _sigmoid(forget_gate) * cell + _sigmoid(input_gate) * np.tanh(candidate)
            hidden = _sigmoid(output_gate) * np.tanh(cell)
            outputs[i] = hidden
        self._state = np.stack([hidden, cell])
        return _sigmoid(np.maximum(outputs, 0) @ weights["output.weight"][:, 0] + weights["output.bias"])
