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

from helpers.core import mapped, paths
from helpers.core.files import beside
from helpers.core.openvino_runtime import runtime as runtime

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest, Model

CACHE = paths.CACHE / "openvino"
PRECISIONS = ("f32", "bf16", "int8")  # int8: where the graph says so, the rest at the best of the others
_DEVICE = "CPU"
LARGE = 256 << 20  # bytes of weights; for a larger network, memory counts more than a second at its first start
_BLOCK = 1 << 24  # bytes
_KEPT = 2  # compiled models that the cache keeps per name: for the two sizes used last


def version() -> str:
    """For run.json: `openvino 2026.4.1`."""
    return f"openvino {runtime().__version__.split('-')[0]}"


class Network:
    """A compiled model. Several threads may call it at once: each call uses its own inference request."""

    def __init__(self, model: CompiledModel, holds: object = None, in_place: NDArray[Any] | None = None) -> None:
        """holds: the memory that the model reads its weights from. in_place: a mapped file that each call reads."""
        self.precision: str = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.inputs = [port.any_name for port in model.inputs]
        self._model, self._holds = model, holds
        self._in_place = [] if in_place is None else [in_place]
        self._idle: list[InferRequest] = [model.create_infer_request()]  # append and pop are atomic

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs, in the order of the graph."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        try:
            with mapped.dropping(self._in_place):
                outputs = request.infer(list(inputs), share_inputs=True)
            return [np.asarray(output, dtype=np.float32) for output in outputs.values()]
        finally:
            self._idle.append(request)

    def warm(self) -> None:
        """Run once with zeros: the first run allocates memory and takes twice as long."""
        self(*(np.zeros(port.shape, port.element_type.to_dtype()) for port in self._model.inputs))

    def rest(self) -> None:
        """Free the memory of the results between its layers; the next call allocates it again. No call may run."""
        self._model.release_memory()


def compiled(
    build: Callable[[], Model],
    name: str,
    identity: object,
    *,
    precision: str = "f32",
    cache: Path | None = None,
    in_place: bool = False,
    device: str = _DEVICE,
) -> Network:
    """Load the network that `build` describes from the cache, or compile it and write it to the cache if possible.

    build: returns a graph of f32; its weights may be f16. name: the prefix of its file names in the cache; older files
    with this name are removed. identity: everything that the graph depends on (files and their times, code, shapes), as
    an object whose repr shows all of it. precision: one of PRECISIONS. cache: the folder, by default CACHE.
    in_place: read f16 weights from the cache at each call, which is slower, and not into memory. device: another one
    than the processor has its own precisions, and OpenVINO's own cache.

    Raises: what `build` raises; RuntimeError if OpenVINO cannot compile the graph, or compiles it for another device.
    """
    core = runtime().Core()
    if device != _DEVICE:
        theirs = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        model = core.compile_model(build(), device, theirs | {"CACHE_DIR": str((cache or CACHE) / device)})
        computing = model.get_property("EXECUTION_DEVICES")  # a device may pass its work on without a word
        if not all(str(one).startswith(device) for one in computing):
            raise RuntimeError(f"{', '.join(map(str, computing))} computes instead")
        return Network(model)
    if in_int8 := precision == "int8":
        precision = "bf16" if has_bf16() else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    options["EXECUTION_MODE_HINT"] = "ACCURACY" if precision == "f32" else "PERFORMANCE"
    processor = [platform.machine(), core.get_property(_DEVICE, "FULL_DEVICE_NAME"), _processor_flags()]
    key = short([identity, _code(), runtime().__version__, processor, sorted(options.items()), in_place])
    folder = cache or CACHE
    file = folder / f"{name}-{key}.blob"
    if restored := _restore(core, file, options, in_place):
        return restored
    from helpers.core import openvino_weights

    with contextlib.ExitStack() as stack:
        graph = build()
        large = openvino_weights.size(graph) > LARGE
        if large and precision == "bf16" and not in_int8:  # quantization needs f32 between the layers
            stack.enter_context(openvino_weights.as_bf16(graph, folder))
        if in_place:
            openvino_weights.in_place(graph)
        model = core.compile_model(graph, _DEVICE, options)
        del graph
        kept = _keep(model, file, name)
        if not (large and kept):
            return Network(model, holds=stack.pop_all())
        del model  # it holds the weights twice; one that is loaded from the cache does not
    if restored := _restore(core, file, options, in_place):
        return restored
    raise RuntimeError("the compiled model cannot be loaded")


def describe(device: str) -> str:
    """The full name of a device, or "" if OpenVINO finds none of this kind."""
    core = runtime().Core()
    found = [one for one in core.available_devices if one.split(".")[0] == device]
    return str(core.get_property(found[0], "FULL_DEVICE_NAME")) if found else ""


@functools.lru_cache(maxsize=1)
def has_bf16() -> bool:
    """Whether the processor computes with bf16."""
    return "BF16" in runtime().Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


@functools.lru_cache(maxsize=1)
def _code() -> bytes:
    """The code that changes graphs before they are compiled."""
    return Path(__file__).with_name("openvino_weights.py").read_bytes()


def short(value: object) -> str:
    """A short hash of a value's repr: 16 hex digits."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _processor_flags() -> str:
    """The processor's features (Linux only): a model compiled for more features does not run with fewer."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


def _restore(core: Core, file: Path, options: dict[str, Any], in_place: bool) -> Network | None:
    """Load a compiled model. We verify the checksum at its end first: OpenVINO checks nothing and may crash."""
    try:
        with file.open("rb") as stream:
            length = file.stat().st_size - 4
            if length > 0 and _checksum(stream, length) == int.from_bytes(stream.read(), "little"):
                pages = mapped.pages(stream)[:length]
                with mapped.dropping([pages]):  # compiling copies nearly all weights
                    model = core.import_model(runtime().Tensor(pages, shared_memory=True), _DEVICE, options)
                with contextlib.suppress(OSError):
                    os.utime(file)
                return Network(model, pages, pages if in_place else None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError):
        pass
    with contextlib.suppress(OSError):  # damaged, or written by an incompatible runtime
        file.unlink()
    return None


def _checksum(stream: BinaryIO, length: int) -> int:
    """CRC-32 of the next bytes; all of them if length is below 0."""
    checksum = 0
    while block := stream.read(min(length, _BLOCK) if length >= 0 else _BLOCK):
        checksum, length = zlib.crc32(block, checksum), length - len(block)
    return checksum


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


def _keep(compiled: CompiledModel, file: Path, name: str) -> bool:
    """Write a compiled model to the cache atomically, and remove older ones with the same name; whether it worked."""
    with contextlib.suppress(OSError):  # read-only or full: the next start compiles again
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside(file) as partial, partial.open("w+b") as stream:
            compiled.export_model(export := _Export(stream))
            if export.error:
                raise export.error
            stream.seek(0)
            stream.write(_checksum(stream, -1).to_bytes(4, "little"))
        others = sorted(file.parent.glob(f"{name}-*"), key=lambda other: other.stat().st_mtime)
        for other in others[:-_KEPT]:
            other.unlink()
        return True
    return False
