"""Choose the PyTorch engine's device, precision and memory level: which networks stay in VRAM, which wait in RAM."""

from __future__ import annotations

import os
from typing import Any

from helpers.core.errors import UserError
from helpers.draw.engines import nvidia

# Memory levels: all networks stay on the device; only the UNet does, the others are there while they run; each layer of
# the UNet is there only while it runs.
RESIDENT, UNET_ONLY, LAYERS = range(3)

_PRECISIONS = {"cuda": ("f16", "bf16", "f32"), "mps": ("f16", "f32"), "cpu": ("f32", "bf16")}  # the default first
_MOST = 8  # pictures in one batch: a GPU is busy with fewer

# Working memory of the UNet and the decoder, as a number of feature maps of full size and the first block's width.
# Estimated, not measured on a GPU.
_STEP, _DECODING = 64, 16


def plan(
    unet: Any,
    vae: Any,
    encoders: list[Any],
    *,
    free: int,
    size: tuple[int, int],
    factor: int,
    rows: int,
    low_memory: bool | None,
) -> tuple[int, int, bool]:
    """The memory level, the pictures in one batch, and whether to decode in tiles.

    free: bytes; size: of the picture in pixels; factor: the VAE scale factor; rows: of the UNet's batch per picture, 2
    with guidance; low_memory: None to decide by `free`.
    """
    width, height = size
    weights, others = size_in_bytes(unet), sum(map(size_in_bytes, (vae, *encoders)))
    channels, number = unet.config.block_out_channels[0], next(unet.parameters()).element_size()
    step = _STEP * channels * number * rows * width * height // factor**2
    first = (vae.config.decoder_block_out_channels if is_tiny(vae) else vae.config.block_out_channels)[0]
    decoding = _DECODING * first * next(vae.parameters()).element_size() * width * height
    if low_memory is None:
        low_memory = free <= weights + others + max(step, decoding)
    if not low_memory:
        return RESIDENT, max(1, min(_MOST, (free - weights - others) // max(step, 1))), False
    level = UNET_ONLY if free > weights + step else LAYERS
    return level, 1, free < (weights if level == UNET_ONLY else 0) + size_in_bytes(vae) + decoding


def bring_layers(unet: Any, device: Any) -> None:
    """Copy the weights of each layer to the device before it runs, and free them there afterwards."""

    def bring(layer: Any, kept: dict[str, Any]) -> None:
        for name, weight in kept.items():
            getattr(layer, name).data = weight.to(device, copy=True, non_blocking=True)

    def drop(layer: Any, kept: dict[str, Any]) -> None:
        for name, weight in kept.items():
            getattr(layer, name).data = weight

    for layer in unet.modules():
        if kept := {name: parameter.data for name, parameter in layer.named_parameters(recurse=False)}:
            layer.register_forward_pre_hook(lambda layer, *_, kept=kept: bring(layer, kept))
            layer.register_forward_hook(lambda layer, *_, kept=kept: drop(layer, kept))


def device(torch: Any) -> Any:
    """The best device of this machine. Raises UserError 69 for an NVIDIA GPU that PyTorch cannot use."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if nvidia.has_driver():
        nvidia.check(torch)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision(torch: Any, device: Any, asked: str) -> str:
    """The precision to use: `asked`, or the device's default for "". Raises: UserError 64 if the device lacks it."""
    possible = [
        name
        for name in _PRECISIONS[device.type]
        if (device.type, name) != ("cuda", "bf16") or torch.cuda.is_bf16_supported(including_emulation=False)
    ]
    if asked and asked not in possible:
        message = f"there is no precision {asked!r} on this device ({device.type})"
        raise UserError(os.EX_USAGE, message, f"Use {' or '.join(possible)}.")
    return asked or possible[0]


def free(torch: Any, device: Any) -> int:
    """Bytes of free memory on the device; for the processor, half of the RAM."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def size_in_bytes(module: Any) -> int:
    """The size of a module's weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def is_tiny(vae: Any) -> bool:
    """Whether `vae` is TAESD, which needs no tiles."""
    return type(vae).__name__ == "AutoencoderTiny"
