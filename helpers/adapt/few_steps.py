"""Models and LoRAs that draw in few steps, recognised by their names: how they want to be sampled.

Their published names: latent-consistency/lcm-lora-sdv1-5, stabilityai/sdxl-turbo, ByteDance/SDXL-Lightning
(sdxl_lightning_4step_lora), ByteDance/Hyper-SD (Hyper-SD15-8steps-CFG-lora).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from helpers.adapt.lora import Lora

_KINDS = (  # (in the name, the class of its scheduler, its timesteps): as they are published in diffusers' layout
    (r"(?:^|[^a-z])lcm|lcm(?:[^a-z]|$)|latent.?consistency", "LCMScheduler", "leading"),
    (r"turbo", "EulerAncestralDiscreteScheduler", "trailing"),
    (r"lightning", "EulerDiscreteScheduler", "trailing"),
    (r"hyper[-_ ]?sd", "DDIMScheduler", "trailing"),
)
_NAMELESS = ("pytorch_lora_weights", "adapter_model", "model")  # the folder's name says more


def scheduler_of(name: str) -> dict[str, Any]:
    """What the scheduler of a few-step model called `name` has in its configuration; {} for any other model."""
    for pattern, kind, spacing in _KINDS:
        if re.search(pattern, name, re.IGNORECASE):
            return {"_class_name": kind, "timestep_spacing": spacing}
    return {}


def named(lora: Lora) -> str:
    """What a LoRA is called: its file's name, or its folder's where the file is called as all are."""
    return lora.file.resolve().parent.name if lora.file.stem in _NAMELESS else lora.file.stem


def naming(loras: Iterable[Lora]) -> str:
    """The name of the first LoRA that is for few steps; "" if none is."""
    return next((named(lora) for lora in loras if lora.weight and scheduler_of(named(lora))), "")


def few_steps(loras: Iterable[Lora]) -> dict[str, Any]:
    """`scheduler_of` that LoRA."""
    return scheduler_of(naming(loras))
