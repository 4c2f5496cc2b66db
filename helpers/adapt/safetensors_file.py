"""Read a safetensors file: its header alone, or its tensors as numpy arrays that are mapped from the file."""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "I64": np.int64,
    "I32": np.int32,
}


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors."""

    shapes: Mapping[str, tuple[int, ...]]  # by name
    types: Mapping[str, str]  # as safetensors names them: F32, BF16 …
    about: Mapping[str, str]  # its metadata


def header(file: Path) -> Header:
    """The header, checked as a whole: sizes, offsets, gaps, overlaps. It is read once as long as the file is the same.

    Raises: OSError, ValueError, and safetensors' own exception for a damaged file.
    """
    status = file.stat()
    return _header(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _header(file: Path, size: int, changed: int) -> Header:
    from safetensors import safe_open

    with safe_open(file, "numpy") as tensors:
        about = dict(tensors.metadata() or {})
    with file.open("rb") as stream:
        described = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    described.pop("__metadata__", None)
    shapes = {name: tuple(tensor["shape"]) for name, tensor in described.items()}
    return Header(shapes, {name: tensor["dtype"] for name, tensor in described.items()}, about)


def read(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, NDArray[Any]]:
    """The wanted tensors by name: float32, float16 or integers, memory-mapped; bfloat16 and 8-bit floats are converted.

    Raises: OSError, ValueError, and safetensors' own exception for a damaged file.
    """
    from safetensors import safe_open

    with safe_open(file, "numpy"):  # checks the whole header
        pass
    with file.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)  # OpenVINO shares writable memory only
    length = int.from_bytes(pages[:8], "little")
    described: Mapping[str, Any] = json.loads(pages[8 : 8 + length])
    weights = {}
    for name, tensor in described.items():
        if name == "__metadata__" or not wanted(name):
            continue
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(f"{name[:80]} is {tensor['dtype']}, which is not supported")
        begin, end = tensor["data_offsets"]
        dtype = np.dtype(_DTYPES[tensor["dtype"]])
        array = np.frombuffer(pages, dtype, (end - begin) // dtype.itemsize, 8 + length + begin)
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] == "F8_E4M3":
            array = _float8_values()[array]
        weights[name] = array.reshape(tensor["shape"])
    return weights


def _float8_values() -> NDArray[np.float16]:
    """The value of each byte as an 8-bit float with 4 exponent and 3 mantissa bits, without infinities (E4M3).

    Micikevicius et al., FP8 Formats for Deep Learning, 2022 (arXiv:2209.05433), table 1.
    """
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(exponent, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    value[byte & 127 == 127] = np.nan
    return np.where(byte < 128, value, -value).astype(np.float16)
