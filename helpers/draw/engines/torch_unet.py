"""The UNet of the PyTorch engine: numpy in, numpy out; only the latents are copied in each step.

Constant inputs (the text embedding, the picture's size) are uploaded once. On an NVIDIA GPU the second call of a shape,
about a thousand kernel launches, is recorded as a CUDA graph and replayed from then on: otherwise a single picture is
limited by Python, not by the GPU.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.draw.engines import lcm, xl

if TYPE_CHECKING:
    from helpers.draw.engines import Array

log = logging.getLogger(__name__)


@dataclass
class _Inputs:
    """Input tensors at fixed addresses for one batch size, and the recorded CUDA graph, if any."""

    compute: Callable[..., Any]
    sample: Any
    timestep: Any
    kwargs: dict[str, Any]
    source: Array | None = None  # the text embedding that was uploaded
    length: int = 0  # of the text
    uses: int = 0
    graph: Any = None
    output: Any = field(default=None)

    def run(self) -> Any:
        return self.compute(self.sample, self.timestep, return_dict=False, **self.kwargs)[0]


class Unet:
    """A UNet2DConditionModel on `device`.

    pooled: width of Stable Diffusion XL's pooled embedding, 0 for other models. size: of the picture, in pixels.
    """

    def __init__(self, torch: Any, module: Any, device: Any, size: tuple[int, int], pooled: int) -> None:
        self.module = module
        self.records = device.type == "cuda"  # whether to record CUDA graphs
        self.compiling: threading.Thread | None = None
        self._torch, self._device, self._size, self._pooled = torch, device, size, pooled
        self._inputs_of: dict[int, _Inputs] = {}
        self._lock = threading.Lock()

    def __call__(self, latents: Array, timestep: float, text: Array) -> Array:
        """helpers.draw.engines.Engine.predict_noise."""
        torch = self._torch
        with self._lock, torch.inference_mode():
            inputs = self._inputs_of.get(len(latents))
            if inputs is None or inputs.sample.shape != latents.shape or inputs.length != text.shape[1]:
                inputs = self._inputs_of[len(latents)] = self._inputs(latents, text)
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
        """Free the input tensors and CUDA graphs; the next calls create them again."""
        with self._lock:
            self._inputs_of = {}

    def compile(self, latents: Array, text: Array) -> None:
        """Compile the UNet for calls like this one, in a thread; until it is done, calls use the uncompiled UNet.

        The first time takes a minute or two, later times seconds; it pays off after some dozen pictures. If compiling
        fails, the uncompiled UNet stays in use. `stage.run` sets torch's cache folder.
        """
        self.compiling = threading.Thread(target=self._compile, args=(latents, text), daemon=True)
        self.compiling.start()

    def _compile(self, latents: Array, text: Array) -> None:
        torch, cache = self._torch, self._inputs_of
        try:
            stream = torch.cuda.stream(torch.cuda.Stream()) if self.records else contextlib.nullcontext()
            with torch.inference_mode(), stream:
                inputs = self._inputs(latents, text)
                self._upload(inputs, text)
                inputs.compute = torch.compile(self.module, dynamic=False)
                for _ in range(2):
                    inputs.run()
            with self._lock, torch.inference_mode():
                if self._inputs_of is cache:  # not if `forget` was called meanwhile
                    if self.records:
                        self._record(inputs)
                    cache[len(latents)] = inputs
        except Exception as error:  # compilers fail in many ways; the picture matters more
            log.debug("the UNet is not compiled: %s: %s", type(error).__name__, str(error).partition("\n")[0])

    def _inputs(self, latents: Array, text: Array) -> _Inputs:
        torch = self._torch
        dtype, count = next(self.module.parameters()).dtype, len(latents)
        put = {"device": self._device, "dtype": dtype}
        sample = torch.zeros(latents.shape, **put).contiguous(memory_format=torch.channels_last)
        timestep = torch.zeros(1, device=self._device)  # float32: Euler's timesteps may be fractional
        hidden = xl.unpacked(text, self._pooled)[0] if self._pooled else text
        kwargs: dict[str, Any] = {"encoder_hidden_states": torch.zeros(hidden.shape, **put)}
        if self._pooled:
            sizes = torch.tensor([xl.time_ids(self._size)] * count, **put)
            kwargs["added_cond_kwargs"] = {"text_embeds": torch.zeros((count, self._pooled), **put), "time_ids": sizes}
        if width := self.module.config.time_cond_proj_dim:
            features = torch.from_numpy(lcm.guidance_features(width)[None])
            kwargs["timestep_cond"] = features.to(**put).repeat(count, 1)
        return _Inputs(self.module, sample, timestep, kwargs, length=text.shape[1])

    def _upload(self, inputs: _Inputs, text: Array) -> None:
        """Do not modify `text` afterwards: arrays are compared by identity."""
        hidden = text
        if self._pooled:
            hidden, pooled = xl.unpacked(text, self._pooled)
            inputs.kwargs["added_cond_kwargs"]["text_embeds"].copy_(self._torch.from_numpy(pooled))
        inputs.kwargs["encoder_hidden_states"].copy_(self._torch.from_numpy(hidden))
        inputs.source = text

    def _record(self, inputs: _Inputs) -> None:
        graph = self._torch.cuda.CUDAGraph()
        # Only this thread's launches: another thread may be compiling
        with self._torch.cuda.graph(graph, capture_error_mode="thread_local"):
            inputs.output = inputs.run()
        inputs.graph = graph
