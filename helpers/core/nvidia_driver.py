"""Whether this machine has an NVIDIA driver, in under a millisecond."""

from __future__ import annotations

from pathlib import Path

VERSION = Path("/proc/driver/nvidia/version")
SIGNS = (VERSION, Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/libcuda.so.1"))  # Linux, containers, WSL


def is_loaded() -> bool:
    """Whether an NVIDIA driver is loaded."""
    return any(sign.exists() for sign in SIGNS)
