"""Makes Core ML models small: quantized linearly, with one palette for all, or with bits where they matter.

    python -m helpers.compress.palettize compress ~/builtin-coreml palette-6 --output ~/builtin-6-bit
    python -m helpers.compress.palettize compare ~/builtin-coreml
    python -m helpers.compress.palettize decode ~/builtin-6-bit --output ~/decoded     # as an ordinary diffusers folder

A folder is one that `convert_coreml.py` made. Recipes: linear-8 (whole numbers of 8 bits, a scale for each channel),
palette-8 … palette-1 (see palettes.py), palette-4-grouped (a palette for each 16 channels), mixed-4 (at most 4 bits a
weight on the average; each layer's own effect on the output decides how many it gets).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.core.errors import UserError
from helpers.core.stage import Parser, run, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECIPES = ("linear-8", "palette-8", "palette-6", "mixed-6", "palette-4", "mixed-4", "palette-2", "mixed-2", "palette-1")
_SMALLEST = 2048  # weights of a layer; what has fewer is left as it is
_GROUP = 16  # channels that share a palette in a grouped recipe
_LAYERS = {"conv", "linear", "gather"}


class Recipe(NamedTuple):
    """What is done to the weights: kind is linear, palette, grouped or mixed; bits for each, of mixed the average."""

    kind: str
    bits: float


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    folder = Path(arguments.folder).expanduser().absolute()
    if not any(folder.glob("*.mlpackage")):
        remedy = "Convert a model first: python -m helpers.compress.convert_coreml --help."
        raise UserError(os.EX_NOINPUT, f"there are no Core ML packages in {folder}", remedy)
    if arguments.what == "compare":
        from helpers.compress.report import compare

        compare(folder, arguments.recipes or RECIPES, arguments.prompts)
        return 0
    from helpers.compress.convert_coreml import compile_packages, new_folder

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
    parser = Parser(
        prog="python -m helpers.compress.palettize", description="Make Core ML models small, and see what it costs."
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND", parser_class=Parser)
    for name, about in (
        ("compress", "write the model with the recipe applied"),
        ("decode", "write the model as a diffusers folder, its weights as Core ML would decode them"),
        ("compare", "size and signal of recipes, as a table"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("folder", metavar="FOLDER", help="packages that convert_coreml made")
        if name == "compress":
            command.add_argument("recipe", metavar="RECIPE", help=", ".join(RECIPES) + " …")
        if name == "compare":
            command.add_argument("recipes", metavar="RECIPE", nargs="*", help="all of the above by default")
            command.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt on each line")
        else:
            command.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder that is not there yet")
    return parser.parse_args(argv)


def recipe(name: str) -> Recipe:
    """`palette-6` → Recipe. Raises UserError 64 for a name that is none."""
    if name == "linear-8":
        return Recipe("linear", 8)
    if match := re.fullmatch(r"palette-([123468])(-grouped)?", name):
        return Recipe("grouped" if match[2] else "palette", int(match[1]))
    if match := re.fullmatch(r"mixed-(\d(?:\.\d+)?)", name):
        return Recipe("mixed", float(match[1]))
    raise UserError(os.EX_USAGE, f"there is no recipe {name!r}", f"For example: {', '.join(RECIPES)}.")


def source_of(folder: Path) -> Path:
    """The diffusers folder that a folder was converted from. Raises UserError 66 if it is not there any more."""
    from helpers.adapt.diffusers_folder import read_config

    source = Path(read_config(folder / "conversion.json").get("source", ""))
    if not (source / "model_index.json").is_file():
        remedy = "What mixed-bit recipes, decode and compare measure against is the model it was converted from."
        raise UserError(os.EX_NOINPUT, f"{folder} was converted from {source}, which is not there", remedy)
    return source


def compress(folder: Path, recipe: Recipe, target: Path) -> None:
    """Write the packages of `folder` with a recipe applied, and what lies beside them, into the folder `target`.

    Raises: UserError 64 for a recipe that the packages' system does not know, that cannot be met, or for packages that
    are compressed already; 66 (mixed) if the model they were made from is gone.
    """
    from helpers.compress import palettes
    from helpers.compress.convert_coreml import tools

    for file in folder.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    ct = tools()
    for package in sorted(folder.glob("*.mlpackage")):
        program, about = _read(package)
        main = program.functions["main"]
        if any(operation.op_type.startswith("constexpr_") for operation in main.operations):
            raise UserError(os.EX_USAGE, f"{package} is compressed already", "Start from what convert_coreml made.")
        newer = main.opset_version >= ct.target.macOS15
        if not newer and (recipe.kind == "grouped" or recipe == Recipe("palette", 3)):
            message = "3-bit and grouped palettes need macOS 15, and these packages run on 14"
            raise UserError(os.EX_USAGE, message, "Convert the model with --system macOS15.")
        say(f"compressing {package.stem}")
        weights = _weights_of(program)
        if recipe.kind == "mixed":
            widths = [width for width in palettes.WIDTHS if width != 3 or newer]
            bits = mixed_bits(source_of(folder), package.stem, weights, recipe.bits, widths)
        else:
            bits = dict.fromkeys(weights, int(recipe.bits))
        compressed = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=main.opset_version,
            compute_precision=ct.precision.FLOAT32,  # leave every type as it is
            pass_pipeline=_passes(recipe, bits),
            skip_model_load=True,
        )
        compressed.short_description = about
        compressed.save(str(target / package.name))


def _read(package: Path) -> tuple[Any, str]:
    """The program of a package and its description."""
    from coremltools.converters.mil.frontend.milproto.load import load

    from helpers.compress.convert_coreml import tools

    model = tools().models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    return program, model.short_description


def _weights_of(program: Any) -> dict[str, NDArray[np.float16]]:
    """The weights that are worth compressing, by their name in the program."""
    constants = [
        operation.outputs[0] for operation in program.functions["main"].operations if operation.op_type == "const"
    ]
    return {
        weight.name: weight.val
        for weight in constants
        if getattr(weight.val, "dtype", None) == "float16"
        and weight.val.ndim > 1
        and weight.val.size > _SMALLEST
        and {operation.op_type for operation in weight.child_ops} <= _LAYERS
    }


def _passes(recipe: Recipe, bits: Mapping[str, int]) -> Any:
    """What coremltools does to a program whose weights are to have these bits; not its usual passes, which would
    take five times as long and leave the same program."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    from helpers.compress import palettes

    def config(width: int) -> Any:
        if recipe.kind == "linear":
            return cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        shared = {"granularity": "per_grouped_channel", "group_size": _GROUP} if recipe.kind == "grouped" else {}

        def lookup(weights: NDArray[np.float16]) -> tuple[Any, ...]:  # coremltools wants no subclass of a tuple
            return tuple(palettes.kmeans(weights, width))

        return cto.OpPalettizerConfig(mode="custom", lut_function=lookup, weight_threshold=0, **shared)

    each = {name: config(width) for name, width in bits.items() if width < 16}
    name = f"compression::{'linear_quantize' if recipe.kind == 'linear' else 'palettize'}_weights"
    passes = ct.PassPipeline([name] if each else [], "compression")
    if each:
        passes.set_options(name, {"config": cto.OptimizationConfig(op_name_configs=each)})
    return passes


def mixed_bits(
    source: Path, part: str, weights: Mapping[str, NDArray[np.float16]], average: float, widths: Sequence[int]
) -> dict[str, int]:
    """Bits for each layer of a part, of `widths` or 16, such that the output suffers least and all together take no
    more room than with palettes of `average` bits.

    source: the diffusers folder; part: TextEncoder, Unet or a piece of it, VAEDecoder; weights: by their name in the
    program. Raises UserError 64 for an average that is too small, or weights that were changed when
    the Unet was cut in two.
    """
    from helpers.adapt.diffusers_folder import read_weights
    from helpers.compress import palettes, sensitivity
    from helpers.compress.convert_coreml import PARTS
    from helpers.draw.engines.architecture import todays_name
    from helpers.draw.engines.coreml_graph import identifier

    name = PARTS[re.sub(r"Chunk\d", "", part)]
    todays = {identifier(todays_name(key)): todays_name(key) for key in read_weights(source / name)}
    for key in weights.keys() - todays.keys():
        raise _molten(key, part)
    say(f"measuring the effect of each of {len(weights)} layers of {part}")
    gains = sensitivity.gains(source, name)
    errors = {
        key: {bits: gains[todays[key]] * palettes.squared_error(weight, bits) for bits in widths} | {16: 0.0}
        for key, weight in weights.items()
    }
    costs = {key: {bits: palettes.stored(weights[key].size, bits) for bits in each} for key, each in errors.items()}
    budget = sum(palettes.stored(weight.size, average) for weight in weights.values())
    try:
        return palettes.allocate(costs, errors, budget)
    except ValueError as error:
        raise UserError(os.EX_USAGE, f"{average:g} bits cannot be had: {error}", "The least is 1.") from error


def _molten(key: str, part: str) -> UserError:
    remedy = "Convert it without --chunk, which melts some weights with what they are multiplied by."
    return UserError(os.EX_USAGE, f"{key} is not one weight in both {part} and the model it was made from", remedy)


def decoded_weights(package: Path) -> dict[str, NDArray[np.float16]]:
    """Every weight of a package by its name in the program, compressed ones as Core ML decodes them."""
    program, _ = _read(package)
    found = {}
    for operation in program.functions["main"].operations:
        name = operation.outputs[0].name
        if operation.op_type == "const":
            found[name] = operation.outputs[0].val
        elif operation.op_type.startswith("constexpr_"):
            found[re.sub("_(palettized|quantized)$", "", name)] = operation.materialized_val_inference()
    return found


def decode(folder: Path, source: Path, target: Path) -> None:
    """Write the diffusers folder `source` into `target` with the weights that the packages of `folder` decode to.

    What no package holds (the encoder of the VAE) stays as it is. Raises UserError 64 for weights that were changed
    when the Unet was cut in two.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from helpers.adapt.diffusers_folder import read_weights, weight_files
    from helpers.compress.convert_coreml import PARTS
    from helpers.draw.engines.architecture import todays_name
    from helpers.draw.engines.coreml_graph import identifier

    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.index.*"))
    for part, name in PARTS.items():
        decoded: dict[str, NDArray[np.float16]] = {}
        for package in sorted(folder.glob(f"{part}*.mlpackage")):
            decoded |= decoded_weights(package)
        weights = read_weights(source / name)
        for key, weight in weights.items():
            array = decoded.get(identifier(todays_name(key)), weight)
            if part == "Unet" and array is weight:
                raise _molten(key, part)
            weights[key] = np.ascontiguousarray(array, dtype=np.float16).reshape(weight.shape)
        stem = re.sub(r"-\d+-of-\d+|\.(fp16|bf16)", "", weight_files(source / name)[0].stem)
        save_file(weights, target / name / f"{stem}.safetensors")


if __name__ == "__main__":
    run("palettize", main)
