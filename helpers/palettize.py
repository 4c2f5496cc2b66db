"""Makes Core ML models small: quantized linearly, with one palette for all, or with bits where they matter.

    python -m helpers.palettize compress ~/builtin-coreml palette-6 --output ~/builtin-6-bit
    python -m helpers.palettize compare ~/builtin-coreml --plot sizes.png
    python -m helpers.palettize decode ~/builtin-6-bit --output ~/decoded     # as an ordinary diffusers folder

A folder is one that `convert_coreml.py` made. Recipes: linear-8 (whole numbers of 8 bits, a scale for each channel),
palette-8 … palette-1 (see palettes.py), palette-4-grouped (a palette for each 16 channels), mixed-4 (at most 4 bits a
weight on the average; each layer's own effect on the output decides how many it gets).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers import palettes
from helpers.convert_coreml import PARTS, compile_packages, new_folder, tools
from helpers.engines.architecture import todays_name
from helpers.engines.weights import read_config, read_weights, weight_files
from helpers.stage import Parser, StageError, run, say

RECIPES = ("linear-8", "palette-8", "palette-6", "mixed-6", "palette-4", "mixed-4", "palette-2", "mixed-2", "palette-1")
_SMALLEST = 2048  # weights of a layer; what has fewer is left as it is
_GROUP = 16  # channels that share a palette in a grouped recipe
_LAYERS = ("conv", "linear", "gather")


class Recipe(NamedTuple):
    """What is done to the weights: kind is linear, palette, grouped or mixed; bits for each, of mixed the average."""

    kind: str
    bits: float


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    folder = Path(arguments.folder).expanduser().absolute()
    if not any(folder.glob("*.mlpackage")):
        remedy = "Convert a model first: python -m helpers.convert_coreml --help."
        raise StageError(os.EX_NOINPUT, f"there are no Core ML packages in {folder}", remedy)
    if arguments.what == "compare":
        from helpers.palette_signal import compare

        compare(folder, arguments.recipes or RECIPES, arguments.prompts, arguments.plot)
        return 0
    output = Path(arguments.output).expanduser().absolute()
    with new_folder(output) as new:
        if arguments.what == "decode":
            decode(folder, source_of(folder), new)
        else:
            compress(folder, recipe(arguments.recipe), new)
            compile_packages(new)
    print(output)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m helpers.palettize", description="Make Core ML models small, and see what it costs.")
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND", parser_class=Parser)
    for name, about in (
        ("compress", "write the model with the recipe applied"),
        ("decode", "write the model as a diffusers folder, its weights as Core ML would decode them"),
        ("compare", "size and signal of recipes, as a table and a plot"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("folder", metavar="FOLDER", help="packages that convert_coreml made")
        if name == "compress":
            command.add_argument("recipe", metavar="RECIPE", help=", ".join(RECIPES) + " …")
        if name == "compare":
            command.add_argument("recipes", metavar="RECIPE", nargs="*", help="all of the above by default")
            command.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt on each line")
            command.add_argument("--plot", type=Path, metavar="PNG", help="draw the table as a picture")
        else:
            command.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder that is not there yet")
    return parser.parse_args(argv)


def recipe(name: str) -> Recipe:
    """`palette-6` → Recipe. Raises StageError 64 for a name that is none."""
    if name == "linear-8":
        return Recipe("linear", 8)
    if match := re.fullmatch(r"palette-([123468])(-grouped)?", name):
        return Recipe("grouped" if match[2] else "palette", int(match[1]))
    if match := re.fullmatch(r"mixed-(\d(?:\.\d+)?)", name):
        return Recipe("mixed", float(match[1]))
    raise StageError(os.EX_USAGE, f"there is no recipe {name!r}", f"For example: {', '.join(RECIPES)}.")


def source_of(folder: Path) -> Path:
    """The diffusers folder that a folder was converted from. Raises StageError 66 if it is not there any more."""
    source = Path(read_config(folder / "conversion.json").get("source", ""))
    if not (source / "model_index.json").is_file():
        remedy = "What mixed-bit recipes, decode and compare measure against is the model it was converted from."
        raise StageError(os.EX_NOINPUT, f"{folder} was converted from {source}, which is not there", remedy)
    return source


def compress(folder: Path, recipe: Recipe, target: Path) -> None:
    """Write the packages of `folder` with a recipe applied, and what lies beside them, into the folder `target`.

    Raises: StageError 64 for a recipe that the packages' system does not know or that cannot be met, 66 (mixed) if the
    model they were made from is gone.
    """
    for file in folder.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    ct = tools()
    for package in sorted(folder.glob("*.mlpackage")):
        say(f"compressing {package.stem}")
        model = ct.models.MLModel(str(package), skip_model_load=True)
        if recipe.bits == 3 or recipe.kind in ("grouped", "mixed"):
            _check_system(model, recipe)
        found = weights_of(model)
        bits = mixed_bits(source_of(folder), package.stem, found, recipe.bits) if recipe.kind == "mixed" else {}
        compressed = _compressed(model, recipe, {name: bits.get(name, int(recipe.bits)) for name in found})
        compressed.save(str(target / package.name))


def _check_system(model: Any, recipe: Recipe) -> None:
    newer = model.get_spec().specificationVersion >= 9  # macOS 15
    if not newer and recipe.kind != "mixed":
        remedy = "Convert the model with --system macOS15."
        raise StageError(os.EX_USAGE, "3-bit and grouped palettes need macOS 15, and these packages run on 14", remedy)


def weights_of(model: Any) -> dict[str, NDArray[np.float16]]:
    """The weights that are worth compressing, by their name in the program."""
    import coremltools.optimize.coreml as cto

    return {
        name: weight.val
        for name, weight in cto.get_weights_metadata(model, weight_threshold=_SMALLEST).items()
        if weight.val.dtype == np.float16
        and weight.val.ndim > 1
        and {op.op_type for op in weight.child_ops} <= set(_LAYERS)
    }


def _compressed(model: Any, recipe: Recipe, bits: Mapping[str, int]) -> Any:
    """The model with these weights compressed to their bits."""
    import coremltools.optimize.coreml as cto

    if recipe.kind == "linear":
        linear = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(op_name_configs=dict.fromkeys(bits, linear)))
    shared = {"granularity": "per_grouped_channel", "group_size": _GROUP} if recipe.kind == "grouped" else {}

    def by_kmeans(width: int) -> Any:
        return lambda weights: tuple(palettes.kmeans(weights, width))

    each = {
        name: cto.OpPalettizerConfig(mode="custom", lut_function=by_kmeans(width), weight_threshold=0, **shared)
        for name, width in bits.items()
        if width < 16
    }
    return cto.palettize_weights(model, cto.OptimizationConfig(op_name_configs=each)) if each else model


def mixed_bits(source: Path, part: str, weights: Mapping[str, NDArray[np.float16]], average: float) -> dict[str, int]:
    """Bits for each layer of a part such that a weight takes at most `average` bits and the output suffers least.

    part: TextEncoder, Unet or a piece of it, VAEDecoder; source: the diffusers folder. Raises StageError 64 for an
    average that is too small.
    """
    from helpers import layer_effects
    from helpers.engines.coreml_graph import identifier

    name = PARTS[re.sub(r"Chunk\d", "", part)]
    todays = {identifier(todays_name(key)): todays_name(key) for key in read_weights(source / name)}
    say(f"measuring the effect of each of {len(weights)} layers of {part}")
    gains = layer_effects.gains(source, name)
    widths = [bits for bits in palettes.WIDTHS if bits != 3]  # 3 needs macOS 15
    errors = {
        key: {bits: gains[todays[key]] * palettes.squared_error(weight, bits) for bits in widths} | {16: 0.0}
        for key, weight in weights.items()
    }
    sizes = {key: weight.size for key, weight in weights.items()}
    try:
        return palettes.allocate(sizes, errors, average * sum(sizes.values()))
    except ValueError as error:
        raise StageError(os.EX_USAGE, f"{average:g} bits cannot be had: {error}", "The least is 1.") from error


def decoded_weights(package: Path) -> dict[str, NDArray[np.float16]]:
    """Every weight of a package by its name in the program, compressed ones as Core ML decodes them."""
    from coremltools.converters.mil.frontend.milproto.load import load

    model = tools().models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    found = {}
    for operation in program.functions["main"].operations:
        name = operation.outputs[0].name
        if operation.op_type == "const":
            found[name] = np.asarray(operation.outputs[0].val)
        elif operation.op_type.startswith("constexpr_"):
            found[re.sub("_(palettized|quantized)$", "", name)] = operation.materialized_val_inference()
    return found


def decode(folder: Path, source: Path, target: Path) -> None:
    """Write the diffusers folder `source` into `target` with the weights that the packages of `folder` decode to."""
    from safetensors.numpy import save_file

    from helpers.engines.coreml_graph import identifier

    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.index.*"))
    for part, name in PARTS.items():
        decoded: dict[str, NDArray[np.float16]] = {}
        for package in sorted(folder.glob(f"{part}*.mlpackage")):
            decoded |= decoded_weights(package)
        weights = read_weights(source / name)
        for key, weight in weights.items():
            array = decoded.get(identifier(todays_name(key)), weight)
            weights[key] = np.ascontiguousarray(array, dtype=np.float16).reshape(weight.shape)
        stem = re.sub(r"-\d+-of-\d+|\.(fp16|bf16)", "", weight_files(source / name)[0].stem)
        save_file(weights, target / name / f"{stem}.safetensors")


if __name__ == "__main__":
    run("palettize", main)
