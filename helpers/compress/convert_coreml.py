"""Any Stable Diffusion 1 or 2 in diffusers' layout → a folder of Core ML models in Apple's layout.

    python -m helpers.compress.convert_coreml models/builtin --output ~/builtin-coreml
    ./pipeline.sh --model ~/builtin-coreml

The programs are written straight from configuration and weights (`engines/coreml_graph.py`): no PyTorch, no tracing,
on any system. On a Mac they are compiled too, which saves Core ML from compiling them at each load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.adapt.diffusers_folder import read_config, read_weights
from helpers.core import extras
from helpers.core.errors import UserError
from helpers.core.settings import Size, argument_type
from helpers.core.stage import Parser, run, say

if TYPE_CHECKING:
    from coremltools.converters.mil.mil import Program

PARTS = {"TextEncoder": "text_encoder", "Unet": "unet", "VAEDecoder": "vae"}  # Apple's name: diffusers' folder
_BESIDE = ("words.txt", "audio_to_image.json")  # of our own models


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from helpers.draw.engines import compute_units

    source = source_folder(arguments.model)
    output = Path(arguments.output).expanduser().absolute()
    big_gpu = compute_units.machine().has_big_gpu
    attention = arguments.attention or ("original" if big_gpu else "split_einsum_v2")
    with new_folder(output) as folder:
        convert(source, folder, attention, arguments.size, arguments.batch, arguments.system)
        if arguments.chunk:
            chunk(folder)
        compile_packages(folder)
    print(output)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:

    parser = Parser(
        prog="python -m helpers.compress.convert_coreml", description="Convert a model for Core ML; print where it is."
    )
    parser.add_argument("model", metavar="MODEL", help="a folder in diffusers' layout, or a name of the catalogue")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument(
        "--attention",
        choices=("original", "split_einsum", "split_einsum_v2"),
        help="original for the GPU, split_einsum_v2 for the Neural Engine (default: what suits this Mac's chip)",
    )
    parser.add_argument(
        "--size", type=argument_type(Size()), metavar="WxH", help="of the pictures (default: what it was trained at)"
    )
    parser.add_argument(
        "--batch", type=int, choices=(1, 2), default=2, help="2 computes both halves of guidance at once (default)"
    )
    parser.add_argument("--chunk", action="store_true", help="the UNet in two pieces, for machines with little memory")
    parser.add_argument(
        "--system",
        choices=("macOS14", "macOS15"),
        default="macOS14",
        help="the oldest that is to run it; grouped and 3-bit palettes need macOS15",
    )
    return parser.parse_args(argv)


def source_folder(name: str) -> Path:
    """A folder, or that of a model of the catalogue.

    Raises: UserError 64 for a name that nobody knows, 66 for a folder that is not there, 69 for a model that is not.
    """
    from helpers.catalog import catalog

    if os.sep not in name:
        return catalog.require(name).path
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(os.EX_NOINPUT, f"there is no model folder {name}")
    return folder


def convert(
    source: Path, folder: Path, attention: str, size: tuple[int, int] | None, batch: int, system: str = "macOS14"
) -> None:
    """Write the packages of the model in `source`, and what the engine needs beside them, into `folder`.

    size: width and height in pixels, None for what it was trained at; attention, system: see engines/coreml_graph.py.
    Raises: UserError 64 for a size it cannot have, 69 for a model that is missing, damaged or not computed here.
    """
    ct = tools()
    from helpers.draw.diffusion import check_size
    from helpers.draw.engines import coreml_graph

    configs = {part: read_config(source / name / "config.json") for part, name in PARTS.items()}
    factor = 2 ** (len(configs["VAEDecoder"]["block_out_channels"]) - 1)
    native = configs["Unet"].get("sample_size") or 64
    rows, columns = native if isinstance(native, list) else (native, native)
    width, height = size or (columns * factor, rows * factor)
    check_size((width, height), factor)
    rows, columns = height // factor, width // factor
    length = configs["TextEncoder"]["max_position_embeddings"]
    for part, name in PARTS.items():
        say(f"converting {part}")
        config, weights = configs[part], read_weights(source / name)
        program: Program
        if part == "TextEncoder":
            program = coreml_graph.text_encoder(config, weights, system)
        elif part == "Unet":
            program = coreml_graph.unet(config, weights, (batch, rows, columns), length, attention, system)
        else:
            program = coreml_graph.decoder(config, weights, rows, columns, system)
        del weights
        package = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=coreml_graph.SYSTEMS[system],
            compute_precision=ct.precision.FLOAT32,  # leave every type as it is
            pass_pipeline=ct.PassPipeline.EMPTY,  # nothing to clean up; some would change weights and their names
            skip_model_load=True,
        )
        package.short_description = f"{part} of {source.name}, attention: {attention}"
        package.save(str(folder / f"{part}.mlpackage"))
    vae = configs["VAEDecoder"]
    note = {
        "source": str(source),
        "attention": attention,
        "factor": factor,
        "scaling_factor": vae.get("scaling_factor", 0.18215),
        "shift_factor": vae.get("shift_factor") or 0.0,
        "scheduler": read_config(source / "scheduler" / "scheduler_config.json"),
    }
    (folder / "conversion.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    names = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
    for file in [*(source / "tokenizer" / name for name in names), *(source / name for name in _BESIDE)]:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def chunk(folder: Path) -> None:
    """Cut Unet.mlpackage into UnetChunk1 and UnetChunk2."""
    ct = tools()
    say("cutting the Unet in two")
    whole = folder / "Unet.mlpackage"
    ct.models.utils.bisect_model(str(whole), str(folder), check_output_correctness=False)
    for number in (1, 2):
        next(folder.glob(f"*chunk{number}.mlpackage")).rename(folder / f"UnetChunk{number}.mlpackage")
    shutil.rmtree(whole)


def compile_packages(folder: Path) -> None:
    """Compile every package of a folder; nothing but a Mac can, and elsewhere it stays as it is."""
    if sys.platform != "darwin":
        return
    for package in sorted(folder.glob("*.mlpackage")):
        say(f"compiling {package.stem}")
        tools().models.utils.compile_model(str(package), str(package.with_suffix(".mlmodelc")))


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes `target` if all goes well, and is deleted if not.

    Raises: UserError 73 if `target` is there already, or cannot be made.
    """
    if target.exists():
        raise UserError(os.EX_CANTCREAT, f"{target} is there already", "Name another --output, or delete it.")
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


def tools() -> Any:
    """The coremltools module. Raises UserError 69 with the command that installs it, where it is missing."""
    extras.require("convert")
    from helpers.draw.engines.coreml import coremltools

    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for each of a hundred passes
    return coremltools()


if __name__ == "__main__":
    run("convert_coreml", main)
