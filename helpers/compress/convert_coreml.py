"""Any Stable Diffusion 1 or 2, in diffusers' layout or in one file → a folder of Core ML models in Apple's layout.

    python -m helpers.compress.convert_coreml models/builtin --output ~/builtin-coreml
    ./pipeline.sh --model ~/builtin-coreml

The programs are written straight from configuration and weights (`engines/coreml_graph.py`), without PyTorch or
tracing, on any system. On a Mac they are also compiled, so that Core ML need not compile them at each load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.adapt import other_forms
from helpers.adapt.checkpoint import CLIP, Checkpoint
from helpers.adapt.diffusers_folder import check_parts, damaged, factor, misfit, native_size
from helpers.adapt.lora import Lora
from helpers.adapt.names import find_lora
from helpers.compress.packages import PARTS, compile_packages, new_folder, silent, tools, write
from helpers.core.errors import UserError
from helpers.core.settings import Adapter, Adapters, Settings, Size, argument_type
from helpers.core.stage import Parser, run, say

if TYPE_CHECKING:
    from coremltools.converters.mil.mil import Program

_COPIED = ("words.txt", "world.json", "audio_to_image.json")  # files of our own models that the engine reads
_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from helpers.core import system

    source = source_folder(arguments.model, Settings.from_environment(names=["models"]).models)
    output = Path(arguments.output).expanduser().absolute()
    big_gpu = system.machine().has_big_gpu
    attention = arguments.attention or ("original" if big_gpu else "split_einsum_v2")
    with new_folder(output) as folder:
        convert(source, folder, attention, arguments.size, arguments.batch, arguments.system, arguments.lora)
        if arguments.chunk:
            chunk(folder)
        compile_packages(folder)
    print(output)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:

    parser = Parser(
        prog="python -m helpers.compress.convert_coreml", description="Convert a model for Core ML and print its path."
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder in diffusers' layout, a file, or a name of the catalogue"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument(
        "--attention",
        choices=("original", "split_einsum", "split_einsum_v2"),
        help="original for the GPU, split_einsum_v2 for the Neural Engine (default: what suits this Mac's chip)",
    )
    parser.add_argument(
        "--size",
        type=argument_type(Size()),
        metavar="WxH",
        help="size of the pictures (default: the one the model was trained at)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        choices=(1, 2),
        default=2,
        help="2 computes a step with and without the prompt at once (default), 1 one after the other",
    )
    parser.add_argument(
        "--lora", type=argument_type(Adapters()), default=(), metavar="FILE[:WEIGHT]", help="a LoRA to merge into it"
    )
    parser.add_argument("--chunk", action="store_true", help="cut the UNet in two, for machines with little memory")
    parser.add_argument(
        "--system",
        choices=("macOS14", "macOS15"),
        default="macOS14",
        help="the oldest macOS that can run it; grouped and 3-bit palettes need macOS15 (default: macOS14)",
    )
    return parser.parse_args(argv)


def source_folder(name: str, models: Path) -> Path:
    """The folder or file `name`, or the folder of the catalogue's model of this name; models: where those are.

    Raises: UserError 64 for a name that is not in the catalogue, 66 for a path that does not exist, 69 for a model
    that is not downloaded.
    """
    from helpers.catalog import catalog

    if os.sep not in name:
        return catalog.read(models).require(name).path
    folder = Path(name).expanduser().resolve()
    if not folder.exists():
        raise UserError(os.EX_NOINPUT, f"there is no model folder {name}")
    other_forms.check(folder)
    return folder


def convert(
    source: Path,
    folder: Path,
    attention: str,
    size: tuple[int, int] | None,
    batch: int,
    system: str = "macOS14",
    loras: tuple[Adapter, ...] = (),
) -> None:
    """Write the packages of the model in `source`, and the other files that the engine needs, into `folder`.

    size: width and height in pixels, None for the size it was trained at; attention, system: see
    engines/coreml_graph.py. loras: files that are merged into the weights.
    Raises: UserError 64 for a size it cannot have, 69 for a model that is missing, damaged or not supported.
    """
    tools()
    from helpers.draw.engines import check_size
    from helpers.draw.tokenizer import clip_vocabulary

    checkpoint = Checkpoint(source, loras=tuple(Lora(find_lora(one.name, ()), one.weight) for one in loras))
    configs = {part: checkpoint.config(name) for part, name in PARTS.items()}
    text, unet, vae = configs.values()
    try:
        scale = factor(vae)
        check_parts(unet, vae, text)
        width, height = size or native_size(unet, scale)
    except (KeyError, TypeError, AttributeError) as error:
        raise misfit(source, error) from error
    check_size((width, height), scale)
    note = {
        "source": str(source),
        "attention": attention,
        "factor": scale,
        **_scaling(source, vae),
        "scheduler": checkpoint.config("scheduler"),
        "decoder": "small" if vae.get("_class_name") == "AutoencoderTiny" else "full",
    }
    shape = (batch, height // scale, width // scale)
    for part in PARTS:
        say(f"converting {part}")
        program = _program(checkpoint, part, configs, shape, attention, system)
        write(program, folder / f"{part}.mlpackage", f"{part} of {source.name}, attention: {attention}")
        del program  # before the next one: each holds its weights
    (folder / "conversion.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    tokenizer, padding = checkpoint.tokenizer()
    if tokenizer == CLIP:
        merges = (CLIP / "merges.txt").read_text(encoding="utf-8")
        (folder / "vocab.json").write_text(json.dumps(clip_vocabulary(merges)[0]), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": padding}) + "\n", encoding="utf-8")
    for file in [*(tokenizer / name for name in _TOKENIZER), *(source / name for name in _COPIED)]:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _scaling(source: Path, vae: dict[str, Any]) -> dict[str, float]:
    """What latents are divided by and shifted by before they are decoded. Raises: UserError 69 if not numbers."""
    tiny = vae.get("_class_name") == "AutoencoderTiny"
    scaling, shift = vae.get("scaling_factor", 1.0 if tiny else 0.18215), vae.get("shift_factor") or 0.0
    numbers = isinstance(scaling, (int, float)) and isinstance(shift, (int, float))
    if not (numbers and 0 < scaling < math.inf and abs(shift) < math.inf):
        raise damaged(source / "vae" / "config.json", f"scaling_factor {scaling!r}, shift_factor {shift!r}")
    return {"scaling_factor": scaling, "shift_factor": shift}


def _program(
    source: Checkpoint,
    part: str,
    configs: dict[str, dict[str, Any]],
    shape: tuple[int, int, int],
    attention: str,
    system: str,
) -> Program:
    """One network as a MIL program. shape: batch, rows and columns of the latents.

    Raises: UserError 69 for weights that are missing, damaged, or do not fit the configuration.
    """
    from helpers.draw.engines import coreml_graph

    config, weights = configs[part], source.weights(PARTS[part])
    try:
        if part == "TextEncoder":
            return coreml_graph.text_encoder(config, weights, system)
        if part == "Unet":
            length = configs["TextEncoder"]["max_position_embeddings"]
            return coreml_graph.unet(config, weights, shape, length, attention, system)
        return coreml_graph.decoder(config, weights, *shape[1:], system)
    except (UserError, OSError):
        raise
    except Exception as error:  # coremltools' own, and whatever a strange setting leads to
        raise misfit(source.folder / PARTS[part], error) from error


def chunk(folder: Path) -> None:
    """Cut Unet.mlpackage into UnetChunk1 and UnetChunk2."""
    ct = tools()
    say("cutting the Unet in two")
    whole = folder / "Unet.mlpackage"
    with silent():
        ct.models.utils.bisect_model(str(whole), str(folder), check_output_correctness=False)
    for number in (1, 2):
        next(folder.glob(f"*chunk{number}.mlpackage")).rename(folder / f"UnetChunk{number}.mlpackage")
    shutil.rmtree(whole)


if __name__ == "__main__":
    run("convert_coreml", main)
