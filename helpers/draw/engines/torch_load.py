"""Reads the networks of a model into diffusers' and transformers' classes, for the PyTorch engine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.adapt import diffusers_folder, lora
from helpers.adapt.checkpoint import Checkpoint
from helpers.core.errors import UserError
from helpers.draw.engines import architecture, torch_memory


def load(
    torch: Any, checkpoint: Checkpoint, name: str, config: dict[str, Any], precision: str, allow_pickle: bool
) -> Any:
    """The network called `name`, in RAM; config: its configuration. Raises UserError 69 if it is damaged or not
    supported."""
    home, folder = "transformers" if name.startswith("text") else "diffusers", checkpoint.place(name)
    kinds = {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderTiny" if config.get("_class_name") == "AutoencoderTiny" else "AutoencoderKL",
    }
    library = diffusers_folder.library(home)
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[precision]
    kind = getattr(library, kinds[name])
    try:
        if folder.is_file():
            return _finished(torch, _from_file(torch, kind, config, checkpoint.weights(name), dtype), name, folder)
        files, kwargs = _source(folder, precision, allow_pickle)
        if home == "diffusers":
            kwargs = {**kwargs, "low_cpu_mem_usage": False}  # True needs accelerate
        if kwargs["use_safetensors"]:
            with torch.device("meta"):
                empty = kind(kind.config_class(**config)) if home == "transformers" else kind.from_config(config)
                described = sum(one.numel() for one in empty.parameters())
            diffusers_folder.check_amount(described, files)
        part, info = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, **kwargs
        )
    except UserError:
        raise
    except Exception as error:  # torch, safetensors, diffusers and transformers have exceptions of their own
        raise diffusers_folder.misfit(folder, error) from error
    if lost := sorted(info["missing_keys"]):
        raise diffusers_folder.misfit(folder, ValueError(f"{lost[0]} is missing"))
    return _finished(torch, part, name, folder)


def _source(folder: Path, precision: str, allow_pickle: bool) -> tuple[list[Path], dict[str, Any]]:
    """The weight files in `folder`, and the kwargs of from_pretrained for them. Raises as weight_files does."""
    try:
        variants = ("", ".fp16", ".bf16") if precision == "f32" else (".fp16", "", ".bf16")
        files = diffusers_folder.weight_files(folder, variants)
    except UserError:
        pickles = sorted(folder.glob("*.bin"))
        if not allow_pickle or not pickles:
            raise
        files = pickles[-1:]  # torch opens it with weights_only; even so, only for a trusted author
    variant = re.search(r"\.(fp16|bf16)[.-]", files[0].name)
    return files, {"use_safetensors": files[0].suffix == ".safetensors", "variant": variant[1] if variant else None}


def _from_file(torch: Any, kind: Any, config: dict[str, Any], weights: dict[str, Any], dtype: Any) -> Any:
    """One network with the given weights, under diffusers' names. Raises: RuntimeError if they do not fit."""
    with torch.device("meta"):
        part = kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class(**config))
    begin = "text_model." if any(name.startswith("text_model.") for name in part.state_dict()) else ""
    tensors = {
        (name if name.startswith("text_projection") else begin + name): torch.from_numpy(array).to(dtype)
        for name, array in architecture.diffusers_names(weights).items()
    }
    part.load_state_dict(tensors, assign=True)
    for module in part.modules():
        if getattr(module, "position_ids", None) is not None:  # no weight, so not in the file
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    return part


def _finished(torch: Any, part: Any, name: str, folder: Path) -> Any:
    if name == "unet":
        _fuse(part)
    elif name == "vae":
        del part.encoder
        if torch_memory.is_tiny(part) and not all(bool(torch.isfinite(one).all()) for one in part.parameters()):
            raise diffusers_folder.damaged(folder, "its weights have values that are no numbers")
    return part.eval().requires_grad_(False)


def _fuse(unet: Any) -> None:
    """Compute query, key and value of an attention layer in one multiplication, and delete the separate layers."""
    unet.fuse_qkv_projections()
    for module in unet.modules():
        if getattr(module, "fused_projections", False):
            for name in ("to_k", "to_v") if module.is_cross_attention else ("to_q", "to_k", "to_v"):
                delattr(module, name)


def adapt(torch: Any, network: Any, part: str, before: Checkpoint, after: Checkpoint) -> None:
    """Write into a network the weights that the LoRAs of `before` or `after` change, as those of `after` make them.

    Raises: UserError 69 for a LoRA that is damaged or made for another model.
    """
    files = {one.file for one in (*before.loras, *after.loras) if one.weight}
    if not any(part in lora.parts(file) for file in files):
        return
    base, config = replace(after, loras=()).weights(part), after.config(part)
    names = {name for file in files for name in lora.changed(base, part, file, config)}
    wanted = lora.merged(base, part, [one for one in after.loras if one.weight], config, names)
    with torch.no_grad():
        for name, array in wanted.items():
            weight = _weight(network, name.removesuffix(".weight"))
            weight.copy_(torch.from_numpy(array).reshape(weight.shape))


def _weight(network: Any, name: str) -> Any:
    """The weight of a layer, also where it was fused with others."""
    begin = "text_model." if hasattr(network, "text_model") and not name.startswith("text_") else ""
    place, _, leaf = f"{begin}{name}".rpartition(".")
    parent = network.get_submodule(place)
    if not getattr(parent, "fused_projections", False) or hasattr(parent, leaf):
        return getattr(parent, leaf).weight
    names = ("to_k", "to_v") if parent.is_cross_attention else ("to_q", "to_k", "to_v")
    fused = (parent.to_kv if parent.is_cross_attention else parent.to_qkv).weight
    return fused.chunk(len(names))[names.index(leaf)]
