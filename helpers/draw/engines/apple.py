"""Stable Diffusion through Apple's own Python package, python_coreml_stable_diffusion, on a Mac.

The package pins old versions and is not on PyPI, so it runs in a Python of its own (A2I_APPLE_PYTHON), where
`apple_worker.py` builds Apple's CoreMLStableDiffusionPipeline from a folder in Apple's layout. Its networks are called
from here one by one, rather than its whole loop: this is what an engine is, and so our tokenizer, the model's scheduler
configuration, seeds, samplers, cancelling and metadata are the same as with every other engine. All else that is known
of such a folder is in `coreml.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.checkpoint import Checkpoint
from helpers.core.errors import UserError
from helpers.core.text import printable
from helpers.draw.engines import Options, compute_units
from helpers.draw.engines.coreml import CoreMl, check

if TYPE_CHECKING:
    from helpers.draw.engines import Engine

    Arrays = Mapping[str, NDArray[Any]]

PROGRAM = Path(__file__).with_name("apple_worker.py")
_SETUP = "docs/coreml.md says how to make the environment that A2I_APPLE_PYTHON names."
_OTHER = "Try another unit, such as A2I_COMPUTE_UNITS=CPU_ONLY, or draw with A2I_ENGINE=coreml."
_LAST_WORDS = 5  # seconds in which a program that stopped answering has to end


class Worker:
    """`apple_worker.py`, running. It ends with this object, and with this process.

    python: a path, or a name on PATH. version: of Apple's package and of coremltools there.

    Raises: UserError 69 for a Python that does not run or does not have the package, and for what ends later.
    """

    def __init__(self, python: str) -> None:
        if not python:
            raise UserError(
                os.EX_UNAVAILABLE, "the engine apple needs a Python of its own: set A2I_APPLE_PYTHON", _SETUP
            )
        self._python, self._log = python, tempfile.TemporaryFile()  # noqa: SIM115  # _stop closes it
        program = str(Path(python).expanduser().absolute()) if os.sep in python else python
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen([program, str(PROGRAM)], stdin=pipe, stdout=pipe, stderr=self._log)
        except OSError as error:
            self._log.close()
            message = f"A2I_APPLE_PYTHON={printable(python)} cannot be run: {error.strerror}"
            raise UserError(os.EX_UNAVAILABLE, message, _SETUP) from error
        self._stop = weakref.finalize(self, _stop, self._process, self._log)
        try:
            self.version = str(self._receive()[0]["version"])
        except (RuntimeError, KeyError) as error:
            message = f"A2I_APPLE_PYTHON={printable(python)} does not have Apple's package: {error}"
            raise UserError(os.EX_UNAVAILABLE, message, _SETUP) from error

    def load(self, folder: Path, unit: str) -> None:
        """Load the networks of a folder. Raises: RuntimeError with what Apple's package says against it."""
        self._ask({"folder": str(folder.absolute()), "unit": unit})

    def compute(self, network: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of a network. Raises: RuntimeError with what Core ML or Apple's package says against it."""
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own arguments
        with np.load(io.BytesIO(self._ask({"network": network}, packed.getvalue())), allow_pickle=False) as outputs:
            return dict(outputs)

    def _ask(self, what: dict[str, str], data: bytes = b"") -> bytes:
        assert self._process.stdin
        try:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it is gone, or was stopped; _receive says why
                self._process.stdin.write(json.dumps({**what, "bytes": len(data)}).encode() + b"\n" + data)
                self._process.stdin.flush()
            return self._receive()[1]
        except (RuntimeError, UserError):
            raise
        except BaseException:  # interrupted in the middle of a message: the next answer would be misread
            self._stop()
            raise

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout
        try:
            header = json.loads(self._process.stdout.readline())
            data = self._process.stdout.read(header["bytes"])
            if len(data) < header["bytes"]:
                raise ValueError("cut off")
        except (ValueError, KeyError, TypeError) as error:
            raise self._ended() from error
        if "error" in header:
            raise RuntimeError(printable(header["error"])[:300])
        return header, data

    def _ended(self) -> UserError:
        """Why it gave no answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        code = self._process.poll()
        if code is not None and code < 0:
            return UserError(os.EX_UNAVAILABLE, f"Apple's Core ML pipeline crashed (signal {-code})", _OTHER)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").split("\n")
        why = next((printable(line)[:300] for line in reversed(said) if line.strip()), f"exit code {code}")
        self._stop()
        return UserError(
            os.EX_UNAVAILABLE, f"A2I_APPLE_PYTHON={printable(self._python)} gives no answer: {why}", _SETUP
        )


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, log):
        with contextlib.suppress(OSError):  # what was not yet sent
            if file:
                file.close()


class Apple(CoreMl):
    """The engine; helpers.draw.engines.Engine says what its members are."""

    name = "apple"
    worker: Worker  # given before load

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, frugal=False)
        self._folder = folder
        for part, paths in self._paths.items():
            if [path.name for path in paths] != [f"{part}.mlmodelc"]:
                message = f"Apple's Python package cannot use {folder}: it has no {part}.mlmodelc"
                raise UserError(os.EX_UNAVAILABLE, message, "A2I_ENGINE=coreml draws also with packages and chunks.")

    def load(self, unit: str) -> None:
        self.version = f"{self.worker.version} {unit}"
        try:
            self.worker.load(self._folder, unit)
        except RuntimeError as error:
            message = f"Apple's Python package cannot use {self._folder}: {error}"
            raise UserError(
                os.EX_UNAVAILABLE, message, "Fetch the model again, or draw with A2I_ENGINE=coreml."
            ) from error
        for part in self._paths:
            self._load(part)

    def _model(self, path: Path) -> Any:
        return _Remote(self.worker, path.stem)


class _Remote:
    """A network that the worker computes, with the method of coremltools."""

    def __init__(self, worker: Worker, network: str) -> None:
        self._worker, self._network = worker, network

    def predict(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        return self._worker.compute(self._network, arrays)


def version(python: str) -> str:
    """The versions of Apple's package and of coremltools in A2I_APPLE_PYTHON. Raises: UserError 69 as Worker."""
    return Worker(python).version


def load(
    checkpoint: Checkpoint, options: Options, *, size: tuple[int, int] | None, guidance: bool, precision: str
) -> Engine:
    """What helpers.draw.engines.load does for the engine "apple"."""
    engine = Apple(folder := checkpoint.folder)
    check(engine, size, precision)
    engine.worker = Worker(options.apple_python)
    engine.load(compute_units.choose_unit(folder, options.compute_units))  # last: it may take minutes
    return engine
