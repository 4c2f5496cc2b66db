"""Stable Diffusion with PyTorch and diffusers: on an NVIDIA GPU, else on a Mac's GPU (MPS), else on the processor.

A model is a folder in diffusers' layout: Stable Diffusion 1, 2 and XL and what was distilled from them. The networks
are diffusers' own; the sampling loop is ours (`diffusion.py`), so that a seed gives the same picture with every engine.
What the memory of the card does not hold is kept outside it while it is not used; where it was reckoned wrongly and
runs out, the call is repeated with less in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from helpers.adapt import diffusers_folder
from helpers.core.errors import UserError
from helpers.draw.engines import Defaults, Options, check_size, defaults, nvidia, xl
from helpers.draw.engines.torch_unet import Unet
from helpers.draw.tokenizer import Tokenizer

if TYPE_CHECKING:
    from helpers.draw.engines import Array, Engine

T = TypeVar("T")
log = logging.getLogger(__name__)

_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")
_PRECISIONS = {"cuda": ("f16", "bf16", "f32"), "mps": ("f16", "f32"), "cpu": ("f32", "bf16")}  # the usual one first
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_MOST = 8  # pictures at once: the GPU is busy with fewer

# Memory that the UNet and the decoder need beside their weights, in layers of the full size and the first width
_STEP, _DECODING = 64, 16

_FULL = "out of memory|can't allocate|ALLOC_FAILED"  # what CUDA and MPS, the processor, and CUDA's libraries say

# What is in the memory of the card: everything; the UNet, and the others while they compute; each layer of the UNet
# while it computes.
RESIDENT, UNET_ONLY, LAYERS = range(3)


class Torch:
    """The engine; helpers.draw.engines.Engine says what its members are."""

    name = "torch"

    def __init__(self, torch: Any, folder: Path, parts: dict[str, Any], device: Any, **known: Any) -> None:
        self._where = torch.cuda.get_device_name() if device.type == "cuda" else device.type
        self.version = f"torch {torch.__version__} {self._where}"
        self.precision: str = known["precision"]
        self.size: tuple[int, int] = known["size"]
        self.factor: int = known["factor"]
        self._vae, self._unet = parts.pop("vae"), parts.pop("unet")
        self._encoders: list[Any] = list(parts.values())
        config = self._vae.config
        self.channels: int = config.latent_channels
        self._scaling, self._shift = config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
        self.scheduler = diffusers_folder.read_config(folder / "scheduler" / "scheduler_config.json")
        self.defaults: Defaults = defaults(folder)
        if self.defaults == Defaults():
            self.defaults = Defaults(steps=25)
        lengths = [encoder.config.max_position_embeddings for encoder in self._encoders]
        tokenizers = [Tokenizer(folder / name, length) for name, length in zip(_TOKENIZERS, lengths, strict=False)]
        self._pooled: int = self._encoders[1].config.projection_dim if len(lengths) > 1 else 0
        self.tokenizer = xl.BothTokenizers(*tokenizers) if self._pooled else tokenizers[0]
        self._zero_empty: bool = known["zero_empty"]
        self._torch, self._device, self._rows = torch, device, 2 if known["guidance"] else 1
        self._warms = device.type != "cpu"
        self._options: Options = known["options"]
        self._call = Unet(torch, self._unet, device, self.size, self._pooled)
        self.level, self.pictures, tiles = self._plan()
        if tiles:
            self._tile()
        self._retried(lambda: None, self.level)

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        if self._pooled and self._zero_empty and np.array_equal(tokens, self.tokenizer.encode("").ids):
            return np.zeros((1, self.tokenizer.length + 1, self._unet.config.cross_attention_dim), np.float32)

        def compute() -> Array:
            known = self._torch.from_numpy(np.atleast_2d(tokens))
            outputs = []
            for encoder, ids in zip(self._encoders, known, strict=True):
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
                known = self._torch.from_numpy(latents / np.float32(self._scaling) + np.float32(self._shift))
                known = known.to(self._device, self._vae.dtype)
                return _array(self._vae.decode(known, return_dict=False)[0])

        return self._retried(compute, decodes=True)

    def warm(self, pictures: int = 1) -> None:
        """Compute each network with the shapes that will come, on a GPU twice, so that the calls are recorded; if
        many pictures will come, also begin to compile the UNet. On a processor the first step would take longer than
        what this saves."""
        text = self.encode_text(self.tokenizer.encode("a").ids)
        if not self._warms:
            return
        self._torch.backends.cudnn.benchmark = True  # trying each convolution's ways costs a second, once for a shape
        rows = min(pictures, self.pictures) * self._rows
        width, height = self.size
        latents = np.zeros((rows, self.channels, height // self.factor, width // self.factor), np.float32)
        text = text.repeat(rows, axis=0)
        for _ in range(2):
            self.predict_noise(latents, 999.0, text)
        self.decode(latents[:1])
        if self._options.goes_on and self._call.records:
            self._call.compile(latents, text)

    def _plan(self) -> tuple[int, int, bool]:
        """What is kept in memory, how many pictures are drawn at once, and whether they are decoded in tiles, by the
        memory that is free now.

        What the networks need beside their weights is an estimate that was not measured on a GPU.
        """
        width, height = self.size
        free = _free(self._torch, self._device)
        unet, others = _bytes(self._unet), sum(map(_bytes, (self._vae, *self._encoders)))
        channels, size = self._unet.config.block_out_channels[0], next(self._unet.parameters()).element_size()
        step = _STEP * channels * size * self._rows * width * height // self.factor**2
        config = self._vae.config
        first = (config.decoder_block_out_channels if _is_tiny(self._vae) else config.block_out_channels)[0]
        decoding = _DECODING * first * next(self._vae.parameters()).element_size() * width * height
        frugal = self._options.low_memory
        if frugal is None:
            frugal = free <= unet + others + max(step, decoding)
        if not frugal:
            return RESIDENT, max(1, min(_MOST, (free - unet - others) // max(step, 1))), False
        level = UNET_ONLY if free > unet + step else LAYERS
        return level, 1, free < (unet if level == UNET_ONLY else 0) + _bytes(self._vae) + decoding

    def _tile(self) -> None:
        """Decode in tiles from now on, of half the size the decoder was trained at: a quarter of the memory, and a
        picture that differs slightly, as each tile is normalised by itself."""
        self._vae.enable_tiling()
        if not _is_tiny(self._vae):
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
            _bring_layers(self._unet, self._device)
        else:
            self._unet.to(self._device, memory_format=torch.channels_last)

    @contextlib.contextmanager
    def _present(self, part: Any) -> Iterator[None]:
        """`part` is on the device, and afterwards where it belongs."""
        if self.level > RESIDENT:
            part.to(self._device)
        try:
            with self._torch.inference_mode():
                yield
        finally:
            if self.level > RESIDENT:
                part.to("cpu")

    def _retried(self, compute: Callable[[], T], level: int | None = None, decodes: bool = False) -> T:
        """What `compute` gives; with less in the memory of the card each time that it is too little. level: to be
        taken first; decodes: whether tiles would help.

        Raises: UserError 69 when nothing is left to be taken out, or for any other fault of the device.
        """
        while True:
            try:
                if level is not None:
                    self._place(level)
                return compute()
            except (RuntimeError, MemoryError) as error:  # what torch raises for everything, MPS also for its memory
                what = str(error).partition("\n")[0]
                if not (isinstance(error, MemoryError) or re.search(_FULL, what)):
                    message = f"{self.version} cannot compute this model: {what}"
                    raise UserError(
                        os.EX_UNAVAILABLE, message, "A2I_ENGINE=openvino draws on the processor."
                    ) from error
            level = self._lower(decodes)  # not in the handler: the error holds on to the memory of the call

    def _lower(self, decodes: bool) -> int:
        tiles = decodes and self.level > RESIDENT and not self._vae.use_tiling
        if self.level == LAYERS and not tiles:
            message = f"the memory of {self._where} is too small for {'x'.join(map(str, self.size))}"
            remedy = "Close what else uses it, or draw a smaller --size. A2I_ENGINE=openvino draws on the processor."
            raise UserError(os.EX_UNAVAILABLE, message, remedy)
        levels = ("only the UNet stays in it, which is slower", "each layer is brought when needed, which is slower")
        what = "pictures are decoded in tiles, which changes them slightly" if tiles else levels[self.level]
        log.warning("the memory of %s is full; from now on %s", self._where, what)
        self._call.forget()
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()
        if tiles:
            self._tile()
        return self.level if tiles else self.level + 1


def load(folder: Path, options: Options, *, size: tuple[int, int] | None, guidance: bool, precision: str) -> Engine:
    """What helpers.draw.engines.load does for the engine "torch"."""
    nvidia.check_packages()
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(os.EX_UNAVAILABLE, f"there is no Stable Diffusion model in {folder}", "Fetch the model again.")
    kind = diffusers_folder.read_config(index)
    if kind.get("_class_name") not in _PIPELINES:
        message = f"{folder} is a {kind.get('_class_name')}; this engine draws with Stable Diffusion 1, 2 and XL"
        raise UserError(os.EX_UNAVAILABLE, message, "Use another model.")
    names = ["text_encoder", *(["text_encoder_2"] if kind.get("text_encoder_2") else []), "unet", "vae"]
    configs = {part: diffusers_folder.read_config(folder / part / "config.json") for part in names}
    try:
        factor = diffusers_folder.factor(configs["vae"])
        encoders = (configs[name] for name in names if name.startswith("text"))
        diffusers_folder.check_parts(configs["unet"], configs["vae"], *encoders)
        size = size or diffusers_folder.native_size(configs["unet"], factor)
    except (KeyError, TypeError, AttributeError) as error:
        raise diffusers_folder.misfit(folder, error) from error
    check_size(size, factor)
    torch = diffusers_folder.library("torch")
    device = _device(torch)
    precision = _precision(torch, device, precision)
    if device.type == "cuda" and precision != "f32":  # 10 bits of mantissa, as many as f16, and the range of f32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    parts = {}
    for part in names:  # XL's decoder overflows; others say force_upcast only because diffusers does by default
        exact = part == "vae" and precision == "f16" and "text_encoder_2" in names and configs[part].get("force_upcast")
        source = _source(folder / part, "f32" if exact else precision, options.allow_pickle)
        parts[part] = _load(torch, folder / part, configs[part], source, "f32" if exact else precision)
    return Torch(
        torch,
        folder,
        parts,
        device,
        options=options,
        precision=precision,
        size=size,
        factor=factor,
        guidance=guidance,
        zero_empty=kind.get("force_zeros_for_empty_prompt", True),
    )


def _source(folder: Path, precision: str, allow_pickle: bool) -> tuple[list[Path], dict[str, Any]]:
    """The weights in `folder`, and what from_pretrained has to be told of them. Raises as weights.weight_files."""
    try:
        variants = ("", ".fp16", ".bf16") if precision == "f32" else (".fp16", "", ".bf16")
        files = diffusers_folder.weight_files(folder, variants)
    except UserError:
        pickles = sorted(folder.glob("*.bin"))
        if not allow_pickle or not pickles:
            raise
        files = pickles[-1:]  # torch opens it with weights_only: even so a pickle is for those who trust its author
    variant = re.search(r"\.(fp16|bf16)[.-]", files[0].name)
    return files, {"use_safetensors": files[0].suffix == ".safetensors", "variant": variant[1] if variant else None}


def _load(
    torch: Any, folder: Path, config: dict[str, Any], found_at: tuple[list[Path], dict[str, Any]], precision: str
) -> Any:
    """One network from what `_source` gave, still in the computer's memory. Raises UserError 69 for one that is damaged
    or not known here."""
    home = "transformers" if folder.name.startswith("text") else "diffusers"
    kinds = {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderTiny" if config.get("_class_name") == "AutoencoderTiny" else "AutoencoderKL",
    }
    files, source = found_at
    library = diffusers_folder.library(home)
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[precision]
    more = {} if home == "transformers" else {"low_cpu_mem_usage": False}  # without it, it wants accelerate
    kind = getattr(library, kinds[folder.name])
    try:
        if source["use_safetensors"]:
            with torch.device("meta"):
                known = kind(kind.config_class(**config)) if home == "transformers" else kind.from_config(config)
                described = sum(one.numel() for one in known.parameters())
            diffusers_folder.check_amount(described, files)
        part, found = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, **source, **more
        )
    except Exception as error:  # torch, safetensors, diffusers and transformers have exceptions of their own
        raise diffusers_folder.misfit(folder, error) from error
    if lost := sorted(found["missing_keys"]):
        raise diffusers_folder.misfit(folder, ValueError(f"{lost[0]} is missing"))
    if folder.name == "unet":
        _fuse(part)
    elif folder.name == "vae":
        del part.encoder
    return part.eval().requires_grad_(False)


def _fuse(unet: Any) -> None:
    """Compute query, key and value of an attention layer in one multiplication, and let the three go."""
    unet.fuse_qkv_projections()
    for module in unet.modules():
        if getattr(module, "fused_projections", False):
            for name in ("to_k", "to_v") if module.is_cross_attention else ("to_q", "to_k", "to_v"):
                delattr(module, name)


def _bring_layers(unet: Any, device: Any) -> None:
    """Have the weights of each layer copied to the device when it computes, and let go of there afterwards."""

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


def _device(torch: Any) -> Any:
    """The best device of this machine. Raises UserError 69 where there is an NVIDIA GPU that cannot be used."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if nvidia.has_driver():
        nvidia.check(torch)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _precision(torch: Any, device: Any, asked: str) -> str:
    """Raises: UserError 64 for one that the device does not compute."""
    possible = [
        name
        for name in _PRECISIONS[device.type]
        if (device.type, name) != ("cuda", "bf16") or torch.cuda.is_bf16_supported(including_emulation=False)
    ]
    if asked and asked not in possible:
        message = f"there is no precision {asked!r} on this device ({device.type})"
        raise UserError(os.EX_USAGE, message, f"Use {' or '.join(possible)}.")
    return asked or possible[0]


def _free(torch: Any, device: Any) -> int:
    """Bytes of memory that the device has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _bytes(module: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _is_tiny(vae: Any) -> bool:
    """Whether it is TAESD, which needs no tiles."""
    return type(vae).__name__ == "AutoencoderTiny"


def _array(tensor: Any) -> Array:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
