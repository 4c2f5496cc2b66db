"""Stable Diffusion on the processor, computed by the OpenVINO runtime; no torch.

The graphs are built from an ordinary diffusers folder (`openvino_graph.py`), compiled for one picture size, and what
was compiled is kept in `.cache/openvino`, so that every later start only reads it back.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.adapt.diffusers_folder import (
    check_parts,
    factor,
    misfit,
    native_size,
    read_config,
    read_weights,
    weight_files,
)
from helpers.core.errors import UserError
from helpers.core.paths import ROOT
from helpers.draw.diffusion import check_size
from helpers.draw.engines import Defaults, defaults
from helpers.draw.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, Model

    from helpers.draw.engines import Array, Engine

CACHE = ROOT / ".cache" / "openvino"
_KEPT = 2  # compiled copies of one part of one model: the last two sizes that were asked for
_PARTS = ("unet", "vae", "text_encoder")  # the one that takes longest first


class Compiled(NamedTuple):
    """A compiled model, and the file's pages that it reads its weights from (None if it was compiled just now)."""

    model: CompiledModel
    pages: NDArray[Any] | None


class Cpu:
    """The engine; helpers.draw.engines.Engine says what its members are."""

    name = "openvino"
    pictures = 1

    def __init__(
        self, folder: Path, configs: dict[str, dict[str, Any]], compiled: dict[str, Compiled], **known: Any
    ) -> None:
        self.version: str = known["version"]
        self.precision: str = known["precision"]
        self.size: tuple[int, int] = known["size"]
        self.channels: int = configs["vae"]["latent_channels"]
        self.factor: int = factor(configs["vae"])
        self.scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
        self.tokenizer = Tokenizer(folder / "tokenizer", configs["text_encoder"]["max_position_embeddings"])
        self.defaults: Defaults = defaults(folder)
        self._unet = configs["unet"]
        self._small = known["bytes"] < 256 << 20
        self._compiled = compiled  # holds the pages for as long as they are read
        self._requests = {part: one.model.create_infer_request() for part, one in compiled.items()}

    def encode_text(self, tokens: NDArray[np.int64]) -> Array:
        return self._infer("text_encoder", tokens[None])

    def predict_noise(self, latents: Array, timestep: float, text: Array) -> Array:
        from helpers.draw.engines.openvino_graph import time_features

        return self._infer("unet", latents, time_features(self._unet, timestep), text)

    def decode(self, latents: Array) -> Array:
        return self._infer("vae", latents)

    def warm(self, pictures: int = 1) -> None:
        """The first run of each network allocates its memory, which doubles its time. Not for big models, whose
        first step takes longer than what it would save."""
        for part in _PARTS if self._small else ("text_encoder",):
            request = self._requests[part]
            self._infer(part, *(np.zeros(port.shape, port.element_type.to_dtype()) for port in request.model_inputs))

    def _infer(self, part: str, *inputs: NDArray[Any]) -> Array:
        outputs = self._requests[part].infer(list(inputs), share_inputs=True)
        return np.asarray(outputs[0], dtype=np.float32)


def load(folder: Path, size: tuple[int, int] | None, guidance: bool, precision: str) -> Engine:
    """What helpers.draw.engines.load does for the engine "openvino"."""
    precision = precision or "f32"
    if precision not in ("f32", "bf16"):
        raise UserError(os.EX_USAGE, f"there is no precision {precision!r} in OpenVINO", "Use f32 or bf16.")
    if not (folder / "model_index.json").is_file():
        raise UserError(os.EX_UNAVAILABLE, f"there is no Stable Diffusion model in {folder}", "Fetch the model again.")
    configs = {part: read_config(folder / part / "config.json") for part in _PARTS}
    try:
        scale = factor(configs["vae"])
        check_parts(configs["unet"], configs["vae"], configs["text_encoder"])
        width, height = size or native_size(configs["unet"], scale)
        length = configs["text_encoder"]["max_position_embeddings"]
    except (KeyError, TypeError, AttributeError) as error:
        raise misfit(folder, error) from error
    check_size((width, height), scale)
    ov = _openvino()
    core = ov.Core()
    latents = (height // scale, width // scale)
    shapes = {"unet": (2 if guidance else 1, *latents, length), "vae": latents, "text_encoder": ()}

    def prepare(part: str) -> Compiled:
        # The text decides what is drawn and costs next to nothing: it is always computed exactly.
        hint = "f32" if part == "text_encoder" else precision
        options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        options["EXECUTION_MODE_HINT"] = "ACCURACY" if hint == "f32" else "PERFORMANCE"
        files = [folder / part / "config.json", *weight_files(folder / part)]
        key = _key(core, ov.__version__, files, options, shapes[part])
        name = _name(folder, part)
        try:
            return _cached(core, name, key, options, lambda: _graph(folder, part, shapes[part]))
        except (UserError, OSError):
            raise
        except Exception as error:  # the runtime's own, and whatever a strange setting leads to
            raise misfit(folder / part, error) from error

    with ThreadPoolExecutor(len(_PARTS)) as pool:
        compiled = dict(zip(_PARTS, pool.map(prepare, _PARTS), strict=True))
    return Cpu(
        folder,
        configs,
        compiled,
        version=f"openvino {ov.__version__.split('-')[0]}",
        precision=compiled["unet"].model.get_property("INFERENCE_PRECISION_HINT").to_string(),
        size=(width, height),
        bytes=sum(file.stat().st_size for file in weight_files(folder / "unet")),
    )


def compiled_copies(folder: Path) -> list[Path]:
    """The files of the cache that were compiled from the model in `folder`, whether it is still there or not."""
    return list(CACHE.glob(_name(folder, "*")))


def _name(folder: Path, part: str) -> str:
    """How the names of a part's compiled copies begin."""
    return f"{_short(folder.resolve())}-{part}"


def _openvino() -> Any:
    """The openvino module, which takes 0.1 s to import."""
    import openvino

    return openvino


def _graph(folder: Path, part: str, shape: tuple[int, ...]) -> Model:
    """One part of the model; shape: what its function in openvino_graph.py takes."""
    from helpers.draw.engines import openvino_graph

    builders: dict[str, Any] = {
        "unet": openvino_graph.unet,
        "vae": openvino_graph.decoder,
        "text_encoder": openvino_graph.text_encoder,
    }
    config, weights = read_config(folder / part / "config.json"), read_weights(folder / part)
    model: Model = builders[part](config, weights, *shape)
    return model


def _key(core: Core, version: str, files: list[Path], options: dict[str, Any], shape: tuple[int, ...]) -> str:
    """What a compiled model depends on: files and code it was built from, runtime, processor, options, shape."""
    identity = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    code = [Path(__file__).with_name(name).read_bytes() for name in ("architecture.py", "openvino_graph.py")]
    processor = [platform.machine(), core.get_property("CPU", "FULL_DEVICE_NAME"), _processor_flags()]
    return _short([identity, code, version, processor, sorted(options.items()), shape])


def _processor_flags() -> str:
    """What the processor can do, where Linux says it: a model compiled for more does not run on less."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


def _short(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _cached(core: Core, name: str, key: str, options: dict[str, Any], graph: Callable[[], Model]) -> Compiled:
    """The compiled model from the cache, or compiled now and kept; without a writable cache it is only compiled."""
    file = CACHE / f"{name}-{key}.blob"
    restored = _restore(core, file, options)
    if restored:
        return restored
    compiled = core.compile_model(graph(), "CPU", options)
    _keep(compiled, file, name)
    return Compiled(compiled, None)


def _restore(core: Core, file: Path, options: dict[str, Any]) -> Compiled | None:
    """Read a compiled model back. The checksum at its end comes first: the runtime checks none and may crash."""
    try:
        pages = np.memmap(file, np.uint8, "c")  # OpenVINO shares writable memory only
        if len(pages) > 4 and zlib.crc32(pages[:-4].data) == int.from_bytes(pages[-4:].tobytes(), "little"):
            model = core.import_model(_openvino().Tensor(pages[:-4], shared_memory=True), "CPU", options)
            with contextlib.suppress(OSError):
                os.utime(file)
            return Compiled(model, pages)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError):
        pass
    with contextlib.suppress(OSError):  # damaged, or of a runtime that does not take it
        file.unlink()
    return None


class _Export(io.BytesIO):
    """Hands what the runtime writes on to a file. It takes a BytesIO only, which would hold a big model in memory."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.error: OSError | None = None  # the runtime would go on as if nothing had happened

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)


def _keep(compiled: CompiledModel, file: Path, name: str) -> None:
    """Write a compiled model to the cache, whole or not at all, and remove older ones of the same part."""
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with beside.open("w+b") as stream:
            compiled.export_model(export := _Export(stream))
            if export.error:
                raise export.error
            stream.seek(0)
            checksum = 0
            while block := stream.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
            stream.write(checksum.to_bytes(4, "little"))
        beside.replace(file)
        others = sorted(CACHE.glob(f"{name}-*"), key=lambda other: other.stat().st_mtime)
        for other in others[:-_KEPT]:
            other.unlink()
    except OSError:  # read-only or full: the next start compiles again
        with contextlib.suppress(OSError):
            beside.unlink()
