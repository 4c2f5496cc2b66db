"""Stable Diffusion with PyTorch and diffusers: on an NVIDIA GPU, a Mac's GPU (MPS) or the processor.

A model is a folder in diffusers' layout: Stable Diffusion 1, 2 and XL and models distilled from them. The networks are
diffusers' own; the sampling loop is ours (`diffusion.py`), so that a seed gives the same picture with every engine.
Parts that do not fit in VRAM are kept in RAM while they are not used (`torch_memory.py`). If the estimate was too low
and memory runs out, more is moved to RAM and the call is repeated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from helpers.adapt import diffusers_folder
from helpers.adapt.checkpoint import Checkpoint
from helpers.core.errors import UserError
from helpers.draw.engines import (
    Defaults,
    Options,
    check_decoder,
    check_size,
    defaults,
    nvidia,
    torch_load,
    torch_memory,
    xl,
)
from helpers.draw.engines.torch_memory import LAYERS, RESIDENT
from helpers.draw.engines.torch_unet import Unet
from helpers.draw.tokenizer import Tokenizer

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine

T = TypeVar("T")
log = logging.getLogger(__name__)

_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_FULL = "out of memory|can't allocate|ALLOC_FAILED"  # in errors of CUDA and MPS, of the processor, of CUDA's libraries


class Torch:
    """The engine; its members are described in helpers.draw.engines.Engine."""

    name = "torch"

    def __init__(
        self,
        torch: Any,
        checkpoint: Checkpoint,
        parts: dict[str, Any],
        device: Any,
        *,
        options: Options,
        precision: str,
        size: tuple[int, int],
        factor: int,
        guidance: bool,
        zero_empty: bool,
    ) -> None:
        self._device_name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
        self.version = f"torch {torch.__version__} {self._device_name}"
        self.precision = precision
        self.size = size
        self.factor = factor
        self._vae, self._unet = parts.pop("vae"), parts.pop("unet")
        self._encoders: list[Any] = list(parts.values())
        config = self._vae.config
        self.channels: int = config.latent_channels
        self._scaling, self._shift = config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
        self.scheduler = checkpoint.config("scheduler")
        self.defaults: Defaults = _defaults(checkpoint)
        lengths = [encoder.config.max_position_embeddings for encoder in self._encoders]
        names = zip(_TOKENIZERS, lengths, strict=False)
        tokenizers = [Tokenizer.of(checkpoint, length, name) for name, length in names]
        self._pooled: int = self._encoders[1].config.projection_dim if len(lengths) > 1 else 0
        self.tokenizer = tokenizers[0]
        if self._pooled:
            self.tokenizer = xl.BothTokenizers(tokenizers[0], tokenizers[1], self._encoders[0].config.hidden_size)
        self._zero_empty = zero_empty
        self._torch, self._device, self._rows = torch, device, 2 if guidance else 1
        self._warms = device.type != "cpu"
        self._options = options
        self._call = Unet(torch, self._unet, device, self.size, self._pooled)
        self.level, self.pictures, tiles = torch_memory.plan(
            self._unet,
            self._vae,
            self._encoders,
            free=torch_memory.free(torch, device),
            size=self.size,
            factor=self.factor,
            rows=self._rows,
            low_memory=self._options.low_memory,
        )
        if tiles:
            self._tile()
        self._checkpoint = replace(checkpoint, loras=())
        if checkpoint.loras:
            self.adapt(checkpoint)
        self._retried(lambda: None, self.level)

    def adapt(self, checkpoint: Checkpoint) -> None:
        """Draw from now on with the LoRAs of `checkpoint`, instead of those before. Only the weights that they change
        are read and written again, in place, which takes a fraction of the time of loading."""
        names = ("text_encoder", "text_encoder_2")
        for part, module in [("unet", self._unet), *zip(names, self._encoders, strict=False)]:
            torch_load.adapt(self._torch, module, part, self._checkpoint, checkpoint)
        self._checkpoint = checkpoint
        self.scheduler, self.defaults = checkpoint.config("scheduler"), _defaults(checkpoint)

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        if self._pooled and self._zero_empty and np.array_equal(tokens, self.tokenizer.encode("").ids):
            return np.zeros((1, self.tokenizer.length + 1, self._unet.config.cross_attention_dim), np.float32)

        def compute() -> Array:
            batch = self._torch.from_numpy(np.atleast_2d(tokens))
            outputs = []
            for encoder, ids in zip(self._encoders, batch, strict=True):
                with self._present(encoder):
                    outputs.append(encoder(ids[None].to(self._device), output_hidden_states=bool(self._pooled)))
            if not self._pooled:
                return _array(outputs[0].last_hidden_state)
            first, second = (_array(output.hidden_states[-2]) for output in outputs)
            return xl.packed(first, second, _array(outputs[1].text_embeds))

        return self._retried(compute)

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        def compute() -> Array:
            most = self.pictures * self._rows
            if len(latents) <= most:
                return self._call(latents, timestep, text)
            parts = [slice(start, start + most) for start in range(0, len(latents), most)]
            return np.concatenate([self._call(latents[part], timestep, text[part]) for part in parts])

        return self._retried(compute)

    def decode(self, latents: Array) -> Array:
        def compute() -> Array:
            with self._present(self._vae):
                unscaled = self._torch.from_numpy(latents / np.float32(self._scaling) + np.float32(self._shift))
                unscaled = unscaled.to(self._device, self._vae.dtype)
                return _array(self._vae.decode(unscaled, return_dict=False)[0])

        return self._retried(compute, decodes=True)

    def warm(self, pictures: int = 1) -> None:
        """On a GPU, run each network with the expected shapes, the UNet twice so that its calls are recorded. If many
        pictures are expected, also start to compile the UNet. On a processor a step takes longer than this saves."""
        text = self.encode_text(self.tokenizer.encode("a").ids)
        if not self._warms:
            return
        self._torch.backends.cudnn.benchmark = True  # trying the convolution algorithms costs a second, once per shape
        rows = min(pictures, self.pictures) * self._rows
        width, height = self.size
        latents = np.zeros((rows, self.channels, height // self.factor, width // self.factor), np.float32)
        text = text.repeat(rows, axis=0)
        for _ in range(2):
            self.predict_noise(latents, 999.0, text)
        self.decode(latents[:1])
        if self._options.goes_on and self._call.records:
            self._call.compile(latents, text)

    def _tile(self) -> None:
        """Decode in tiles of half the native size from now on: a quarter of the memory. The picture differs slightly,
        because each tile is normalised separately."""
        self._vae.enable_tiling()
        if not torch_memory.is_tiny(self._vae):
            self._vae.tile_latent_min_size //= 2
            self._vae.tile_sample_min_size //= 2

    def _place(self, level: int) -> None:
        torch, home = self._torch, self._device if level == RESIDENT else "cpu"
        self._call.forget()
        self.level = level
        for encoder in self._encoders:
            encoder.to(home)
        self._vae.to(home, memory_format=torch.channels_last)
        if level > RESIDENT:
            self.pictures = 1
        if level == LAYERS:
            self._call.records = False
            self._unet.to("cpu")
            torch_memory.bring_layers(self._unet, self._device)
        else:
            self._unet.to(self._device, memory_format=torch.channels_last)

    @contextlib.contextmanager
    def _present(self, part: Any) -> Iterator[None]:
        """Move `part` to the device for the `with` block, and back to RAM afterwards unless it stays resident."""
        if self.level > RESIDENT:
            part.to(self._device)
        try:
            with self._torch.inference_mode():
                yield
        finally:
            if self.level > RESIDENT:
                part.to("cpu")

    def _retried(self, compute: Callable[[], T], level: int | None = None, decodes: bool = False) -> T:
        """The result of `compute`. When memory runs out, move more to RAM and try again. level: the memory level to set
        first; decodes: whether decoding in tiles would help.

        Raises: UserError 69 if nothing more can be moved, or for any other error of the device.
        """
        while True:
            try:
                if level is not None:
                    self._place(level)
                return compute()
            except (
                RuntimeError,
                MemoryError,
            ) as error:  # torch raises it for every error; MPS also when memory is full
                reason = str(error).partition("\n")[0]
                if not (isinstance(error, MemoryError) or re.search(_FULL, reason)):
                    message = f"{self.version} cannot run this model: {reason}"
                    raise UserError(
                        os.EX_UNAVAILABLE, message, "A2I_ENGINE=openvino draws on the processor."
                    ) from error
            level = self._lower(decodes)  # outside the handler: the exception keeps the call's tensors alive

    def _lower(self, decodes: bool) -> int:
        tiles = decodes and self.level > RESIDENT and not self._vae.use_tiling
        if self.level == LAYERS and not tiles:
            message = f"the memory of {self._device_name} is too small for {'x'.join(map(str, self.size))}"
            remedy = "Close other programs or draw a smaller --size. A2I_ENGINE=openvino draws on the processor."
            raise UserError(os.EX_UNAVAILABLE, message, remedy)
        levels = ("only the UNet stays in it, which is slower", "each layer is loaded when needed, which is slower")
        change = "pictures are decoded in tiles, which changes them slightly" if tiles else levels[self.level]
        log.warning("the memory of %s is full; from now on %s", self._device_name, change)
        self._call.forget()
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()
        if tiles:
            self._tile()
        return self.level if tiles else self.level + 1


def load(
    checkpoint: Checkpoint, options: Options, *, size: tuple[int, int] | None, guidance: bool, precision: str
) -> Engine:
    """helpers.draw.engines.load for the engine "torch"."""
    nvidia.check_packages()
    folder = checkpoint.folder
    if not (checkpoint.is_file or (folder / "model_index.json").is_file()):
        raise UserError(os.EX_UNAVAILABLE, f"there is no Stable Diffusion model in {folder}", "Fetch the model again.")
    kind = checkpoint.index()
    if kind.get("_class_name") not in _PIPELINES:
        message = f"{folder} is a {kind.get('_class_name')}; this engine runs only Stable Diffusion 1, 2 and XL"
        raise UserError(os.EX_UNAVAILABLE, message, "Use another model.")
    names = ["text_encoder", *(["text_encoder_2"] if kind.get("text_encoder_2") else []), "unet", "vae"]
    checkpoint = replace(checkpoint, decoder=options.decoder)
    configs = {part: checkpoint.config(part) for part in names}
    try:
        factor = diffusers_folder.factor(configs["vae"])
        check_decoder(options.decoder, configs["vae"], configs["unet"])
        encoders = (configs[name] for name in names if name.startswith("text"))
        diffusers_folder.check_parts(configs["unet"], configs["vae"], *encoders)
        size = size or diffusers_folder.native_size(configs["unet"], factor)
    except (KeyError, TypeError, AttributeError) as error:
        raise diffusers_folder.misfit(folder, error) from error
    check_size(size, factor)
    torch = diffusers_folder.library("torch")
    device = torch_memory.device(torch)
    precision = torch_memory.precision(torch, device, precision)
    if device.type == "cuda" and precision != "f32":  # TF32 has f16's 10 bits of mantissa and f32's range
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    parts = {}
    for part in names:  # XL's decoder overflows; others have force_upcast only as diffusers' default
        exact = part == "vae" and precision == "f16" and "text_encoder_2" in names and configs[part].get("force_upcast")
        kept = "f32" if exact else precision
        parts[part] = torch_load.load(torch, checkpoint, part, configs[part], kept, options.allow_pickle)
    return Torch(
        torch,
        checkpoint,
        parts,
        device,
        options=options,
        precision=precision,
        size=size,
        factor=factor,
        guidance=guidance,
        zero_empty=kind.get("force_zeros_for_empty_prompt", True),
    )


def _defaults(checkpoint: Checkpoint) -> Defaults:
    found = defaults(checkpoint)
    return Defaults(steps=25) if found == Defaults() else found


def _array(tensor: Any) -> Array:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
