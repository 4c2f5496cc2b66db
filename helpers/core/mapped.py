"""Files mapped into memory, without their pages counting as this process's memory for longer than they are needed.

The system keeps pages of a file in its cache while memory is free, and reads them again when they are touched.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_LARGE = 64 << 20  # bytes; below that it is not worth a thread
_PAUSE = 0.05  # seconds; at 2 GB/s, 100 MB are read meanwhile


def pages(file: BinaryIO) -> NDArray[np.uint8]:
    """The bytes of a file, mapped. They can be written to, which OpenVINO wants, but this does not change the file.

    Raises: OSError, or ValueError for an empty file.
    """
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


@contextlib.contextmanager
def dropping(arrays: Iterable[NDArray[Any]]) -> Iterator[None]:
    """While the `with` block runs, and at its end, take the pages of the files that `arrays` are views of out of this
    process's memory, again and again. The arrays stay valid. Nothing may have been written to them: that would be lost.
    """
    maps = {id(one): one for array in arrays if (one := _map_of(array)) and len(one) > _LARGE}
    if not maps or not hasattr(mmap, "MADV_DONTNEED"):
        yield
        return
    done = threading.Event()

    def drop() -> None:
        while True:
            last = done.wait(_PAUSE)
            for one in maps.values():
                one.madvise(mmap.MADV_DONTNEED)
            if last:
                break

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _map_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping that an array is a view of, if it is one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None
