"""LoRA: a small addition to a model, merged into its weights while they are read.

    W + weight * alpha / rank * up @ down          Hu et al. 2021, https://arxiv.org/abs/2106.09685

Files of both families are read: kohya's and AUTOMATIC1111's (lora_unet_… with an alpha for each module), and those of
diffusers and PEFT (unet.…lora_A, alpha in the header or in adapter_config.json). Whatever is not understood is refused,
so that nothing is half applied.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt import safetensors_file
from helpers.adapt.diffusers_folder import plain
from helpers.adapt.original_names import renamed, unet_modules
from helpers.core.errors import UserError, no_memory

Array = NDArray[Any]

_FORMS = (  # of a weight's name: (what it looks like, which half it is, what belongs to the module's name)
    (r"(.+)\.lora_(down|up)\.weight", ""),
    (r"(.+)\.lora_(A|B)(?:\.default)?\.weight", ""),
    (r"(.+)\.lora\.(down|up)\.weight", ""),
    (r"(.+)\.lora_linear_layer\.(down|up)\.weight", ""),
    (r"(.+)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight", "processor"),
)
_ALPHA = re.compile(r"(.+?)(?:\.lora)?\.alpha")
_OTHERS = (  # other kinds of additions: (what a weight's name looks like, their name)
    (r"hada_w", "LoHa"),
    (r"lokr_w|lokr_t", "LoKr"),
    (r"dora_scale|lora_magnitude_vector", "DoRA"),
    (r"lora_mid", "LoCon with a core tensor"),
    (r"\.b?oft_", "OFT"),
    (r"lora_embedding_", "LoRA of embeddings"),
    (r"\.diff(_b)?$", "full difference"),
    (r"\.[wb]_norm$", "LyCORIS of norms"),
    (r"lora_[AB]\.bias|lora_(up|down)\.bias", "LoRA with biases"),
)
_PARTS = (  # the beginning of a name: the part, and whether the rest has underscores for dots
    ("lora_unet_", "unet", True),
    ("lora_te1_", "text_encoder", True),
    ("lora_te2_", "text_encoder_2", True),
    ("lora_te_", "text_encoder", True),
    ("unet.", "unet", False),
    ("text_encoder_2.", "text_encoder_2", False),
    ("text_encoder.", "text_encoder", False),
)
_PEFT = "base_model.model."
_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Lora:
    """A LoRA file, and how strongly it is applied."""

    file: Path
    weight: float = 1.0

    def key(self) -> tuple[str, int, int, float]:
        """What the key of a cache of a changed part holds. Raises: OSError."""
        status = self.file.stat()
        return str(self.file.resolve()), status.st_size, status.st_mtime_ns, self.weight


@dataclass(frozen=True)
class _Module:
    """The names in the file of what is added to one module of the model; alpha: from the header, or None."""

    part: str
    name: str  # as the file has it, without the part
    flat: bool  # whether dots are underscores in it
    down: str
    up: str
    alpha: str  # the name of its tensor, or ""
    told: float | None
    square: bool  # divided by the root of the rank


def modules(file: Path) -> list[_Module]:
    """What a file changes. Raises: UserError 69 for a file that is damaged, or that is not understood whole."""
    try:
        status = file.stat()
        config = _config(file)
        return _modules(file, status.st_size, status.st_mtime_ns, json.dumps(config, sort_keys=True))
    except UserError:
        raise
    except Exception as error:  # safetensors has its own exceptions
        raise _broken(file, error) from error


def parts(file: Path) -> set[str]:
    """The parts of a model that a file changes. Raises as `modules`."""
    return {module.part for module in modules(file)}


def merged(
    weights: Mapping[str, Array],
    part: str,
    loras: Iterable[Lora],
    config: Mapping[str, Any],
    only: Iterable[str] | None = None,
) -> dict[str, Array]:
    """The weights of a part with the LoRAs in them, each in the precision that it had; unchanged ones are shared.

    weights: under diffusers' names. config: of the part. only: the names to return, by default all.

    Raises: UserError 69 for a LoRA that is damaged or made for another model.
    """
    result = dict(weights) if only is None else {name: weights[name] for name in only}
    known = {_short(name): name for name in weights if name.endswith(".weight")}
    totals: dict[str, Array] = {}
    for lora in loras:
        found = [module for module in modules(lora.file) if module.part == part]
        if not found:
            continue
        tensors = _tensors(lora.file, found)
        flat = _flat_names(known, part, config) if any(module.flat for module in found) else {}
        for module in found:
            short = flat.get(module.name, "") if module.flat else _dotted(module.name)
            if short not in known:
                raise _foreign(lora.file, f"the model has no {module.name}")
            name = known[short]
            if name in result:
                totals[name] = _sum(totals.get(name, result[name]), module, tensors, lora)
    return result | {name: total.astype(result[name].dtype) for name, total in totals.items()}


def changed(weights: Mapping[str, Array], part: str, file: Path, config: Mapping[str, Any]) -> set[str]:
    """The names of the weights that a file changes. Raises as `merged`."""
    known = {_short(name): name for name in weights if name.endswith(".weight")}
    found = [module for module in modules(file) if module.part == part]
    flat = _flat_names(known, part, config) if any(module.flat for module in found) else {}
    shorts = (flat.get(module.name, "") if module.flat else _dotted(module.name) for module in found)
    return {known[short] for short in shorts if short in known}


def sha256(file: Path) -> str:
    """The hash that the web UI writes into pictures: of all that follows the header. Raises: OSError."""
    import hashlib

    digest = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _config(file: Path) -> dict[str, Any]:
    """adapter_config.json beside a file of PEFT, or {}."""
    beside = file.with_name(_CONFIG)
    if not beside.is_file():
        return {}
    config = json.loads(plain(beside).read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else {}


@functools.lru_cache(maxsize=16)
def _modules(file: Path, size: int, changed: int, beside: str) -> list[_Module]:
    header = safetensors_file.header(file)
    names: dict[str, dict[str, str]] = {}
    for key in header.shapes:
        if kind := next((kind for form, kind in _OTHERS if re.search(form, key)), ""):
            message = f"{file} is a {kind}, which is not read"
            raise UserError(os.EX_UNAVAILABLE, message, "Use a LoRA.")
        base, half = _split(key)
        if not half:
            raise _foreign(file, f"{key[:200]} is not understood")
        names.setdefault(base, {})[half] = key
    told: dict[str, Any] = {}
    if text := header.about.get("lora_adapter_metadata"):
        told = json.loads(text)
    result = []
    for base, halves in names.items():
        if not {"down", "up"} <= halves.keys():
            raise _broken(file, f"{base[:200]} has only one half")
        part, name, flat, peft = _part(file, base)
        settings = json.loads(beside) if peft else _of_part(told, part)
        if peft and not settings:
            raise UserError(os.EX_UNAVAILABLE, f"{file} has no {_CONFIG} beside it, which says its alpha", "Add it.")
        if settings.get("use_dora"):
            raise UserError(os.EX_UNAVAILABLE, f"{file} is a DoRA, which is not read", "Use a LoRA.")
        alpha, square = _told(settings, name), bool(settings.get("use_rslora"))
        result.append(_Module(part, name, flat, halves["down"], halves["up"], halves.get("alpha", ""), alpha, square))
    if not result:
        raise _foreign(file, "it is empty")
    return result


def _split(key: str) -> tuple[str, str]:
    """The name of the module, and which half of it a weight is: down, up or alpha; "" for something else."""
    for form, inner in _FORMS:
        if found := re.fullmatch(form, key):
            base = found[1]
            if inner:
                base += ".to_out.0" if found[2] == "to_out" else f".{found[2]}"
            return base, {"A": "down", "B": "up"}.get(found[found.lastindex or 2], found[found.lastindex or 2])
    found = _ALPHA.fullmatch(key)
    return (found[1], "alpha") if found else (key, "")


def _part(file: Path, base: str) -> tuple[str, str, bool, bool]:
    """The part that a module belongs to, its name there, whether that has underscores for dots, and whether it is
    PEFT's, which says its alpha elsewhere."""
    for begin, part, flat in _PARTS:
        if base.startswith(begin):
            rest = base[len(begin) :]
            peft = rest.startswith(_PEFT)
            return part, rest.removeprefix(_PEFT), flat, peft
    rest = base.removeprefix(_PEFT)
    if rest.startswith(("text_model.", "encoder.layers.")):
        return "text_encoder", rest, False, base != rest
    if rest.startswith(("down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding.")):
        return "unet", rest, False, base != rest
    raise _foreign(file, f"{base[:200]} is no part of Stable Diffusion")


def _of_part(told: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {key[len(part) + 1 :]: value for key, value in told.items() if key.startswith(f"{part}.")}


def _told(settings: Mapping[str, Any], name: str) -> float | None:
    """The alpha that a header or adapter_config.json gives for a module; its patterns are names, or ends of names."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if not re.fullmatch(r"[\w.]+", pattern):
            raise ValueError(f"its alpha_pattern {pattern[:80]!r} is not a name")
        if name == pattern or name.endswith(f".{pattern}"):
            return float(alpha)
    alpha = settings.get("lora_alpha")
    return None if alpha is None else float(alpha)


def _short(name: str) -> str:
    """A weight's name as the LoRAs of all dialects can be compared with: its module."""
    return name.removesuffix(".weight").removeprefix("text_model.")


def _dotted(name: str) -> str:
    return name.removeprefix("text_model.").removesuffix(".default")


def _flat_names(known: Mapping[str, str], part: str, config: Mapping[str, Any]) -> dict[str, str]:
    """{name with underscores for dots: name}, of diffusers' names and, in a UNet, of the original ones, too."""
    flat = {short.replace(".", "_"): short for short in known}
    if part != "unet":
        return flat | {f"text_model_{name}": short for name, short in flat.items()}
    repeats, count = config.get("layers_per_block", 2), len(config["block_out_channels"])
    full = {**config, "layers_per_block": repeats if isinstance(repeats, list) else [repeats] * count}
    old_of = {new: old for old, new in unet_modules(full).items()}
    original = {renamed(f"{short}.weight", old_of).removesuffix(".weight"): short for short in known}
    return flat | {old.replace(".", "_"): short for old, short in original.items() if old}


def _tensors(file: Path, found: Iterable[_Module]) -> dict[str, Array]:
    """The halves and alphas of some modules. Raises: UserError 69 for a damaged file, or values that are no numbers."""
    wanted = {name for module in found for name in (module.down, module.up, module.alpha)}
    try:
        tensors = safetensors_file.read(file, wanted.__contains__)
    except Exception as error:  # safetensors has its own exceptions
        raise _broken(file, error) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise _broken(file, f"{name[:200]} has values that are no numbers")
    return tensors


def _sum(base: Array, module: _Module, tensors: Mapping[str, Array], lora: Lora) -> Array:
    down, up = tensors[module.down], tensors[module.up]
    rank = down.shape[0] if down.ndim > 1 else 0
    if not rank or up.ndim < 2 or up.shape[1] != rank or any(side != 1 for side in up.shape[2:]):
        raise _broken(lora.file, f"{module.name[:200]} has the shapes {up.shape} and {down.shape}")
    if up.shape[0] != base.shape[0] or math.prod(down.shape[1:]) != math.prod(base.shape[1:]):
        shapes = f"{module.name[:200]} changes {up.shape[0]}x{math.prod(down.shape[1:])} numbers"
        raise _foreign(lora.file, f"{shapes}, the model has {base.shape[0]}x{math.prod(base.shape[1:])}")
    alpha = float(tensors[module.alpha].reshape(-1)[0]) if module.alpha else module.told
    if alpha is None:
        alpha = float(rank)
    if not (alpha and math.isfinite(alpha)):
        raise _broken(lora.file, f"{module.name[:200]} has the alpha {alpha}")
    scale = lora.weight * alpha / (math.sqrt(rank) if module.square else rank)
    flat = (up.reshape(len(up), rank).astype(np.float32), down.reshape(rank, -1).astype(np.float32))
    total: Array = base.astype(np.float32) + np.float32(scale) * (flat[0] @ flat[1]).reshape(base.shape)
    return total


def _broken(file: Path, why: object) -> UserError:
    if short := no_memory(why):
        return short
    return UserError(os.EX_UNAVAILABLE, f"the LoRA {file} is damaged: {str(why)[:300]}", "Fetch it again.")


def _foreign(file: Path, why: str) -> UserError:
    return UserError(os.EX_UNAVAILABLE, f"{file} is no LoRA for this model: {why}", "Use one that is made for it.")
