"""Recipes that make the weights of Core ML packages smaller: apply one, and decode what it made.

linear-8: whole numbers of 8 bits and a scale for each channel. palette-8 … palette-1: one palette for each layer, see
palettes.py. palette-4-grouped: a palette for each 16 channels. mixed-4: palettes of different widths, on average 4 bits
a weight; layers whose errors change the output most get more bits.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.compress.packages import PARTS, part_of, read, source_of, tools, write
from helpers.core.errors import UserError
from helpers.core.stage import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECIPES = ("linear-8", "palette-8", "palette-6", "mixed-6", "palette-4", "mixed-4", "palette-2", "mixed-2", "palette-1")
_SMALLEST = 2048  # weights of a layer; smaller layers are left as they are
_GROUP = 16  # channels that share a palette in a grouped recipe
_LAYERS = {"conv", "linear", "gather"}


class Recipe(NamedTuple):
    """kind: linear, palette, grouped or mixed; bits: of each weight, for mixed on average."""

    kind: str
    bits: float


def recipe(name: str) -> Recipe:
    """`palette-6` → Recipe. Raises UserError 64 for an unknown name."""
    if name == "linear-8":
        return Recipe("linear", 8)
    if match := re.fullmatch(r"palette-([123468])(-grouped)?", name):
        return Recipe("grouped" if match[2] else "palette", int(match[1]))
    if match := re.fullmatch(r"mixed-(\d(?:\.\d+)?)", name):
        return Recipe("mixed", float(match[1]))
    raise UserError(os.EX_USAGE, f"there is no recipe {name!r}", f"For example: {', '.join(RECIPES)}.")


def compress(folder: Path, recipe: Recipe, target: Path) -> None:
    """Write the packages of `folder` with a recipe applied, and its other files, into the folder `target`.

    Raises: UserError 64 for packages that are compressed already, or for a recipe that their macOS does not support or
    that cannot be met; 66 (mixed) if the model they were made from is gone; 69 for a damaged package.
    """
    from helpers.compress import palettes

    for file in folder.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    ct = tools()
    for package in sorted(folder.glob("*.mlpackage")):
        program, about = read(package)
        main = program.functions["main"]
        if any(operation.op_type.startswith("constexpr_") for operation in main.operations):
            raise UserError(os.EX_USAGE, f"{package} is compressed already", "Start from what convert_coreml made.")
        newer = main.opset_version >= ct.target.macOS15
        if not newer and (recipe.kind == "grouped" or recipe == Recipe("palette", 3)):
            message = "3-bit and grouped palettes need macOS 15, but these packages are made for macOS 14"
            raise UserError(os.EX_USAGE, message, "Convert the model with --system macOS15.")
        say(f"compressing {package.stem}")
        weights = _weights_of(program)
        if recipe.kind == "mixed":
            widths = [width for width in palettes.WIDTHS if width != 3 or newer]
            bits = mixed_bits(source_of(folder), package, weights, recipe.bits, widths)
        else:
            bits = dict.fromkeys(weights, int(recipe.bits))
        write(program, target / package.name, about, _passes(recipe, bits))


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
    """The one pass of coremltools that gives the weights these bits. Its usual passes take five times as long and
    leave the same program."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    from helpers.compress import palettes

    def config(width: int) -> Any:
        if recipe.kind == "linear":
            return cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        shared = {"granularity": "per_grouped_channel", "group_size": _GROUP} if recipe.kind == "grouped" else {}

        def lookup(weights: NDArray[np.float16]) -> tuple[Any, ...]:  # coremltools refuses a NamedTuple
            return tuple(palettes.kmeans(weights, width))

        return cto.OpPalettizerConfig(mode="custom", lut_function=lookup, weight_threshold=0, **shared)

    each = {name: config(width) for name, width in bits.items() if width < 16}
    name = f"compression::{'linear_quantize' if recipe.kind == 'linear' else 'palettize'}_weights"
    passes = ct.PassPipeline([name] if each else [], "compression")
    if each:
        passes.set_options(name, {"config": cto.OptimizationConfig(op_name_configs=each)})
    return passes


def mixed_bits(
    source: Path, package: Path, weights: Mapping[str, NDArray[np.float16]], average: float, widths: Sequence[int]
) -> dict[str, int]:
    """Bits for each layer of a package: the choice that changes the output least among those that take no more room
    than palettes of `average` bits.

    source: the diffusers folder; weights: by their name in the program; widths: the bits to choose from, besides 16.
    Raises UserError 64 for an average that is too small, or for weights that changed when the Unet was cut in two; 69
    for a source that is damaged.
    """
    from helpers.adapt.diffusers_folder import misfit, read_weights
    from helpers.compress import palettes, sensitivity
    from helpers.draw.engines.architecture import diffusers_name
    from helpers.draw.engines.coreml_graph import identifier

    part = part_of(package)
    original_names = {identifier(diffusers_name(name)): diffusers_name(name) for name in read_weights(source / part)}
    for name in weights.keys() - original_names.keys():
        raise _changed(name, package.stem)
    say(f"measuring the effect of each of {len(weights)} layers of {package.stem}")
    try:
        gains = sensitivity.gains(source, part)
        errors = {
            name: {bits: gains[original_names[name]] * palettes.squared_error(weight, bits) for bits in widths}
            | {16: 0.0}
            for name, weight in weights.items()
        }
    except (UserError, OSError):
        raise
    except Exception as error:  # the runtime's own, and whatever a strange setting leads to
        raise misfit(source / part, error) from error
    costs = {name: {bits: palettes.stored(weights[name].size, bits) for bits in each} for name, each in errors.items()}
    budget = sum(palettes.stored(weight.size, average) for weight in weights.values())
    try:
        return palettes.allocate(costs, errors, budget)
    except ValueError as error:
        message = f"an average of {average:g} bits is not possible: {error}"
        raise UserError(os.EX_USAGE, message, "The least is 1.") from error


def _changed(name: str, network: str) -> UserError:
    message = f"the weight {name} of {network} is not a weight of the original model"
    remedy = "Convert it without --chunk, which folds some weights into their scale factors."
    return UserError(os.EX_USAGE, message, remedy)


def decoded_weights(package: Path) -> dict[str, NDArray[np.float16]]:
    """Every weight of a package by its name in the program, compressed ones as Core ML decodes them.

    Raises: UserError 69 for a damaged package.
    """
    program, _ = read(package)
    weights = {}
    for operation in program.functions["main"].operations:
        name = operation.outputs[0].name
        if operation.op_type == "const":
            weights[name] = operation.outputs[0].val
        elif operation.op_type.startswith("constexpr_"):
            weights[re.sub("_(palettized|quantized)$", "", name)] = operation.materialized_val_inference()
    return weights


def decode(folder: Path, source: Path, target: Path) -> None:
    """Write the diffusers folder `source` into `target` with the weights that the packages of `folder` decode to.

    Weights that no package holds (the encoder of the VAE) stay as they are. Raises UserError 64 for weights that
    changed when the Unet was cut in two, 69 for a package that is damaged or of another model.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from helpers.adapt.diffusers_folder import misfit, read_weights, weight_files
    from helpers.draw.engines.architecture import diffusers_name
    from helpers.draw.engines.coreml_graph import identifier

    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.index.*"))
    decoded: dict[str, dict[str, NDArray[np.float16]]] = {part: {} for part in PARTS.values()}
    for package in sorted(folder.glob("*.mlpackage")):
        decoded[part_of(package)] |= decoded_weights(package)
    for part, by_name in decoded.items():
        weights = read_weights(source / part)
        for name, weight in weights.items():
            array = by_name.get(identifier(diffusers_name(name)), weight)
            if part == "unet" and array is weight:
                raise _changed(name, "the Unet")
            try:
                weights[name] = np.ascontiguousarray(array, dtype=np.float16).reshape(weight.shape)
            except ValueError as error:
                raise misfit(source / part, error) from error
        stem = re.sub(r"-\d+-of-\d+|\.(fp16|bf16)", "", weight_files(source / part)[0].stem)
        save_file(weights, target / part / f"{stem}.safetensors")
