"""Checks for an NVIDIA driver and PyTorch's packages, without importing PyTorch, in under a millisecond."""

from __future__ import annotations

import os
import re
from typing import Any

from helpers.core import extras, nvidia_driver
from helpers.core.errors import UserError

INSTALL = extras.command("torch")

has_driver = nvidia_driver.is_loaded


def missing() -> str:
    """The first package of the extra torch that is not installed, or ""."""
    return extras.missing("torch")


def advice() -> str:
    """One line for a user whose GPU is not used because a package is missing; "" if none is."""
    if not (has_driver() and (package := missing())):
        return ""
    size = extras.EXTRAS["torch"].size
    return f"the NVIDIA GPU is not used, {package} is missing: {INSTALL} (about {size}); A2I_ENGINE=openvino hides this"


def check_packages() -> None:
    """Raises: UserError 69 with the command that installs what is missing."""
    extras.require("torch")


def check(torch: Any) -> None:
    """Find out why torch.cuda is not available; torch: the module.

    Raises: UserError 69 with the reason: no visible GPU, a driver that is too old, a PyTorch without CUDA.
    """
    remedy = "A2I_ENGINE=openvino draws on the processor."
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition(". ")[0].partition("\n")[0]
        if "too old" in why:
            found = (
                re.search(r"\d+\.\d+(\.\d+)?", nvidia_driver.VERSION.read_text())
                if nvidia_driver.VERSION.exists()
                else None
            )
            why = f"the NVIDIA driver {found[0] if found else ''} is too old for PyTorch {torch.__version__}"
            remedy = f"Update the driver. Until then: {remedy}"
        elif "not compiled with CUDA" in why:
            remedy = f"Install PyTorch with CUDA: {INSTALL} --force-reinstall"
        elif os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
            remedy = f"CUDA_VISIBLE_DEVICES hides it. {remedy}"
        raise UserError(os.EX_UNAVAILABLE, f"PyTorch cannot use the NVIDIA GPU: {why}", remedy) from error
