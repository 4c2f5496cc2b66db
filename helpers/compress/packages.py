"""Core ML packages: write one from a program, read one, compile them; and the new folder that they go into."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.core import extras
from helpers.core.errors import UserError
from helpers.core.stage import say

PARTS = {"TextEncoder": "text_encoder", "Unet": "unet", "VAEDecoder": "vae"}  # Apple's name: diffusers' folder


def tools() -> Any:
    """The coremltools module. Raises UserError 69, with the command that installs it, where it is missing."""
    extras.require("convert")
    from helpers.draw.engines.coreml import coremltools

    return coremltools()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hide coremltools' progress bars, one for each group of passes; it has no option for that. Errors still raise."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def write(program: Any, target: Path, about: str, passes: Any = None) -> None:
    """Save a MIL program as the package `target`, its types unchanged.

    about: its description; passes: what coremltools does to the program first, by default nothing. Its usual passes
    would find nothing to improve, and some change weights and their names.
    """
    ct = tools()
    with silent():
        package = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=program.functions["main"].opset_version,
            compute_precision=ct.precision.FLOAT32,  # change no type
            pass_pipeline=passes or ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        package.short_description = about
        package.save(str(target))


def read(package: Path) -> tuple[Any, str]:
    """The MIL program of a package and its description. Raises: UserError 69 for a damaged package."""
    from helpers.adapt.diffusers_folder import damaged

    ct = tools()
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        model = ct.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
        program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
        return program, model.short_description
    except Exception as error:  # of protobuf, of coremltools, and whatever a damaged program leads to
        raise damaged(package, f"{type(error).__name__}: {error}") from error


def part_of(package: Path) -> str:
    """The folder of diffusers' layout that a package was made from: Unet, UnetChunk1 → unet.

    Raises: UserError 69 for a network that `convert_coreml` does not make, such as the second encoder of XL.
    """
    name = re.sub(r"Chunk[12]$", "", package.stem)
    if name not in PARTS:
        remedy = "Use a model that convert_coreml made."
        raise UserError(os.EX_UNAVAILABLE, f"{package} is none of {', '.join(PARTS)}", remedy)
    return PARTS[name]


def source_of(folder: Path) -> Path:
    """The diffusers folder that the packages of `folder` were converted from.

    Raises: UserError 66 if it is gone, 69 if conversion.json does not name it.
    """
    from helpers.adapt.diffusers_folder import damaged, read_config

    note = folder / "conversion.json"
    source = read_config(note).get("source")
    if not isinstance(source, str):
        raise damaged(note, "it names no source")
    if not (Path(source) / "model_index.json").is_file():
        remedy = "Mixed-bit recipes, decode and compare need the original model: put it back, or convert it again."
        raise UserError(os.EX_NOINPUT, f"{folder} was converted from {source}, which does not exist", remedy)
    return Path(source)


def size(folder: Path) -> int:
    """Bytes of all packages of a folder."""
    return sum(
        file.stat().st_size for package in folder.glob("*.mlpackage") for file in package.rglob("*") if file.is_file()
    )


def compile_packages(folder: Path) -> None:
    """Compile every package of a folder on a Mac; do nothing elsewhere, where no compiler exists."""
    if sys.platform != "darwin":
        return
    for package in sorted(folder.glob("*.mlpackage")):
        say(f"compiling {package.stem}")
        tools().models.utils.compile_model(str(package), str(package.with_suffix(".mlmodelc")))


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes `target` if all goes well, and is deleted if not.

    Raises: UserError 73 if `target` exists or cannot be made.
    """
    if target.exists():
        raise UserError(os.EX_CANTCREAT, f"{target} exists already", "Name another --output, or delete it.")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(os.EX_CANTCREAT, f"cannot write to {target.parent}: {error.strerror}") from error
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
