"""Files that appear whole or not at all, and the hash of a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A hidden path in the folder of `path`. What the `with` block writes there takes the name `path` at its end.

    After an error nothing is left, and a file that was there before stays as it was. Raises: OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, over one that is there. Raises: OSError."""
    with beside(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A name by which a library opens the file `path`, also one that takes only names in UTF-8.

    On Linux a name is bytes. One that is not UTF-8 becomes /dev/fd/N, which is valid inside the `with` block.
    Raises: OSError.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def sha256(files: Iterable[Path], on_bytes: Callable[[int], object] = lambda count: None, digest: Any = None) -> str:
    """The SHA-256 of the content of files, one after the other, in hex.

    on_bytes: called with the number of bytes that were read, again and again. digest: another hash of hashlib, which
    may have content already. Raises: OSError.
    """
    digest = digest or hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                on_bytes(len(block))
    return str(digest.hexdigest())
