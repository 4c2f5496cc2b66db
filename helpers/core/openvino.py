"""The one place that compiles for OpenVINO: device, threads, and a cache of compiled models.

    network = openvino.compiled(build, "my-model-unet", identity, precision="f32")
    [noise] = network(latents, time, text)            # from any thread

`build` creates the graph. It is called only if the cache (`.cache/openvino`) has no model with this `identity`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import platform
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from helpers.core import imports, paths
from helpers.core.files import beside

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest, Model

CACHE = paths.CACHE / "openvino"
PRECISIONS = ("f32", "bf16")
_DEVICE = "CPU"
_KEPT = 2  # compiled models that the cache keeps per name: for the two sizes used last


@functools.lru_cache(maxsize=1)
def runtime() -> Any:
    """The openvino module, which takes 0.1 s to import.

    We skip its model converter, which loads openvino_telemetry: that reports each import to Google Analytics. The
    runtime itself sends nothing.
    """
    with imports.without("openvino.tools.ovc"):
        import openvino

    return openvino


def version() -> str:
    """For run.json: `openvino 2026.4.1`."""
    return f"openvino {runtime().__version__.split('-')[0]}"


class Network:
    """A compiled model. Several threads may call it at once: each call uses its own inference request."""

    def __init__(self, model: CompiledModel, pages: NDArray[Any] | None = None) -> None:
        self.precision: str = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.inputs = [port.any_name for port in model.inputs]
        self._model = model
        self._pages = pages  # the memory-mapped cache file: the model reads its weights from it, so it must stay alive
        self._idle: list[InferRequest] = [model.create_infer_request()]  # append and pop are atomic

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs, in the order of the graph."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        try:
            outputs = request.infer(list(inputs), share_inputs=True)
            return [np.asarray(output, dtype=np.float32) for output in outputs.values()]
        finally:
            self._idle.append(request)

    def warm(self) -> None:
        """Run once with zeros: the first run allocates memory and takes twice as long."""
        self(*(np.zeros(port.shape, port.element_type.to_dtype()) for port in self._model.inputs))


def compiled(
    build: Callable[[], Model], name: str, identity: object, *, precision: str = "f32", cache: Path | None = None
) -> Network:
    """Load the network that `build` describes from the cache, or compile it and write it to the cache if possible.

    name: the prefix of its file names in the cache; older files with this name are removed. identity: everything that
    the graph depends on (files and their times, code, shapes), as an object whose repr shows all of it. precision: one
    of PRECISIONS. cache: the folder, by default CACHE.

    Raises: what `build` raises; RuntimeError if OpenVINO cannot compile the graph.
    """
    core = runtime().Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    options["EXECUTION_MODE_HINT"] = "ACCURACY" if precision == "f32" else "PERFORMANCE"
    processor = [platform.machine(), core.get_property(_DEVICE, "FULL_DEVICE_NAME"), _processor_flags()]
    key = short([identity, runtime().__version__, processor, sorted(options.items())])
    file = (cache or CACHE) / f"{name}-{key}.blob"
    if restored := _restore(core, file, options):
        return restored
    model = core.compile_model(build(), _DEVICE, options)
    _keep(model, file, name)
    return Network(model)


def short(value: object) -> str:
    """A short hash of a value's repr: 16 hex digits."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _processor_flags() -> str:
    """The processor's features (Linux only): a model compiled for more features does not run with fewer."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


def _restore(core: Core, file: Path, options: dict[str, Any]) -> Network | None:
    """Load a compiled model. We verify the checksum at its end first: OpenVINO checks nothing and may crash."""
    try:
        pages = np.memmap(file, np.uint8, "c")  # OpenVINO shares writable memory only
        if len(pages) > 4 and zlib.crc32(pages[:-4].data) == int.from_bytes(pages[-4:].tobytes(), "little"):
            model = core.import_model(runtime().Tensor(pages[:-4], shared_memory=True), _DEVICE, options)
            with contextlib.suppress(OSError):
                os.utime(file)
            return Network(model, pages)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError):
        pass
    with contextlib.suppress(OSError):  # damaged, or written by an incompatible runtime
        file.unlink()
    return None


class _Export(io.BytesIO):
    """A file as an export target. OpenVINO accepts only BytesIO, which would keep a large model in memory."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.error: OSError | None = None  # OpenVINO ignores a failed write

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)


def _keep(compiled: CompiledModel, file: Path, name: str) -> None:
    """Write a compiled model to the cache atomically, and remove older ones with the same name."""
    with contextlib.suppress(OSError):  # read-only or full: the next start compiles again
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside(file) as partial, partial.open("w+b") as stream:
            compiled.export_model(export := _Export(stream))
            if export.error:
                raise export.error
            stream.seek(0)
            checksum = 0
            while block := stream.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
            stream.write(checksum.to_bytes(4, "little"))
        others = sorted(file.parent.glob(f"{name}-*"), key=lambda other: other.stat().st_mtime)
        for other in others[:-_KEPT]:
            other.unlink()
