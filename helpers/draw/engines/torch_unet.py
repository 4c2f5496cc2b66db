"""The UNet of the PyTorch engine: numpy in, numpy out, and between two steps nothing but the latents travels.

What does not change from step to step (the text, the picture's size) is uploaded once. On an NVIDIA GPU the launches
of one call, about a thousand, are recorded as a CUDA graph when a shape comes for the second time and sent as one from
then on: a single picture is otherwise bound by Python, not by the GPU.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.draw.engines import xl

if TYPE_CHECKING:
    from helpers.draw.engines import Array

log = logging.getLogger(__name__)

_LCM_GUIDANCE = 8.5  # what diffusers' LatentConsistencyModelPipeline draws with; the model takes it as an input


@dataclass
class _Inputs:
    """Tensors at fixed places for calls of one batch size, and the recorded call if there is one."""

    compute: Callable[..., Any]
    sample: Any
    timestep: Any
    more: dict[str, Any]
    source: Array | None = None  # the text that is uploaded
    uses: int = 0
    graph: Any = None
    output: Any = field(default=None)

    def run(self) -> Any:
        return self.compute(self.sample, self.timestep, return_dict=False, **self.more)[0]


class Unet:
    """A UNet2DConditionModel on `device`.

    pooled: width of the pooled vector that Stable Diffusion XL takes, 0 for others. size: of the picture, in pixels.
    """

    def __init__(self, torch: Any, module: Any, device: Any, size: tuple[int, int], pooled: int) -> None:
        self.module = module
        self.records = device.type == "cuda"  # whether to record calls
        self.compiling: threading.Thread | None = None
        self._torch, self._device, self._size, self._pooled = torch, device, size, pooled
        self._known: dict[int, _Inputs] = {}
        self._lock = threading.Lock()

    def __call__(self, latents: Array, timestep: float, text: Array) -> Array:
        """What helpers.draw.engines.Engine.predict_noise does."""
        torch = self._torch
        with self._lock, torch.inference_mode():
            inputs = self._known.get(len(latents))
            if inputs is None or inputs.sample.shape != latents.shape:
                inputs = self._known[len(latents)] = self._inputs(latents, text)
            inputs.sample.copy_(torch.from_numpy(latents))
            inputs.timestep.fill_(timestep)
            if inputs.source is not text:
                self._upload(inputs, text)
            inputs.uses += 1
            if inputs.graph is None and self.records and inputs.uses > 1:
                self._record(inputs)
            if inputs.graph is None:
                output = inputs.run()
            else:
                inputs.graph.replay()
                output = inputs.output
            return np.ascontiguousarray(output.float().cpu().numpy())

    def forget(self) -> None:
        """Give back the memory that calls left behind; the next ones begin anew."""
        with self._lock:
            self._known = {}

    def compile(self, latents: Array, text: Array) -> None:
        """Compile the UNet for calls like this one, in a thread; until that is done, calls go on as before.

        It takes a minute or two for the first time, seconds from then on, and pays after some dozen pictures only. What
        cannot be compiled stays as it is. `stage.run` says where torch keeps what it compiles.
        """
        self.compiling = threading.Thread(target=self._compile, args=(latents, text), daemon=True)
        self.compiling.start()

    def _compile(self, latents: Array, text: Array) -> None:
        torch, known = self._torch, self._known
        try:
            stream = torch.cuda.stream(torch.cuda.Stream()) if self.records else contextlib.nullcontext()
            with torch.inference_mode(), stream:
                inputs = self._inputs(latents, text)
                self._upload(inputs, text)
                inputs.compute = torch.compile(self.module, dynamic=False)
                for _ in range(2):
                    inputs.run()
            with self._lock, torch.inference_mode():
                if self._known is known:  # and memory was not short meanwhile
                    if self.records:
                        self._record(inputs)
                    known[len(latents)] = inputs
        except Exception as error:  # compilers fail in many ways, and none of them is worth a picture
            log.debug("the UNet is not compiled: %s: %s", type(error).__name__, str(error).partition("\n")[0])

    def _inputs(self, latents: Array, text: Array) -> _Inputs:
        torch = self._torch
        dtype, count = next(self.module.parameters()).dtype, len(latents)
        put = {"device": self._device, "dtype": dtype}
        sample = torch.zeros(latents.shape, **put).contiguous(memory_format=torch.channels_last)
        timestep = torch.zeros(1, device=self._device)  # float32: Euler's are no whole numbers
        hidden = xl.unpacked(text, self._pooled)[0] if self._pooled else text
        more: dict[str, Any] = {"encoder_hidden_states": torch.zeros(hidden.shape, **put)}
        if self._pooled:
            sizes = torch.tensor([xl.time_ids(self._size)] * count, **put)
            more["added_cond_kwargs"] = {"text_embeds": torch.zeros((count, self._pooled), **put), "time_ids": sizes}
        if width := self.module.config.time_cond_proj_dim:
            features = torch.from_numpy(_guidance_features(_LCM_GUIDANCE - 1, width))
            more["timestep_cond"] = features.to(**put).repeat(count, 1)
        return _Inputs(self.module, sample, timestep, more)

    def _upload(self, inputs: _Inputs, text: Array) -> None:
        """text must not be changed afterwards: the same array is taken to be the same text."""
        hidden = text
        if self._pooled:
            hidden, pooled = xl.unpacked(text, self._pooled)
            inputs.more["added_cond_kwargs"]["text_embeds"].copy_(self._torch.from_numpy(pooled))
        inputs.more["encoder_hidden_states"].copy_(self._torch.from_numpy(hidden))
        inputs.source = text

    def _record(self, inputs: _Inputs) -> None:
        graph = self._torch.cuda.CUDAGraph()
        # Only this thread's launches, so that another may compile meanwhile
        with self._torch.cuda.graph(graph, capture_error_mode="thread_local"):
            inputs.output = inputs.run()
        inputs.graph = graph


def _guidance_features(weight: float, width: int) -> Array:
    """Luo et al. 2023, https://arxiv.org/abs/2310.04378, section 4.2, as diffusers computes it: (1, width)."""
    half = width // 2
    angles = 1000 * weight * np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    features = np.concatenate([np.sin(angles), np.cos(angles), np.zeros(width % 2)])
    return np.asarray(features[None], np.float32)
