"""Make Core ML models smaller, and measure what that costs.

    python -m helpers.compress.palettize compress ~/builtin-coreml palette-6 --output ~/builtin-6-bit
    python -m helpers.compress.palettize compare ~/builtin-coreml
    python -m helpers.compress.palettize decode ~/builtin-6-bit --output ~/decoded     # as an ordinary diffusers folder

The folder is one that `convert_coreml.py` made; recipes.py says what each recipe does.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from helpers.compress.packages import compile_packages, new_folder, source_of
from helpers.compress.recipes import RECIPES, compress, decode, recipe
from helpers.core.errors import UserError
from helpers.core.stage import Parser, run


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
        prog="python -m helpers.compress.palettize", description="Make Core ML models smaller, and measure the cost."
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND", parser_class=Parser)
    for name, about in (
        ("compress", "write the model with the recipe applied"),
        ("decode", "write the model as a diffusers folder, its weights as Core ML decodes them"),
        ("compare", "print size and signal-to-noise ratio of recipes as a table"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("folder", metavar="FOLDER", help="packages that convert_coreml made")
        if name == "compress":
            command.add_argument("recipe", metavar="RECIPE", help=", ".join(RECIPES) + " …")
        if name == "compare":
            command.add_argument(
                "recipes", metavar="RECIPE", nargs="*", help=f"{', '.join(RECIPES)} … (default: all of these)"
            )
            command.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt on each line")
        else:
            command.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run("palettize", main)
