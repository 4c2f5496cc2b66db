"""Choose the layers of a model that compute in 8 bits (int8) on the processor, and say what that costs.

    python -m helpers.compress.quantize ~/my-model
    A2I_PRECISION=int8 ./pipeline.sh --model ~/my-model --prompt "a cat in the snow"

It draws a few pictures and notes the range of each layer's input; then it rounds one input after the other to 8 bits
and notes how much the network's output changes. All layers compute in 8 bits but those with the largest effect: as many
of them as it takes until the pictures are close enough to the exact ones. The result is `int8.json` in the model's
folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.core.errors import UserError
from helpers.core.settings import Number, Settings, argument_type
from helpers.core.stage import Parser, run, say

if TYPE_CHECKING:
    from openvino import Model

    from helpers.adapt.checkpoint import Checkpoint
    from helpers.draw.engines.openvino_engine import OpenVino

PROMPTS = ("a red heart on a green background", "a cat in the snow", "a rocket in space", "two apples on a table")
_MOST = 4  # inputs of a network per prompt that are kept, evenly spaced over the steps


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m helpers.compress.quantize",
        description="Choose the layers that compute in 8 bits on the processor, and say what that costs.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder in diffusers' layout, a file, or a catalogue name")
    parser.add_argument(
        "--least", type=argument_type(Number(1, 100)), default=30, metavar="DB",
        help="least signal-to-noise ratio of the pictures (default 30)",
    )  # fmt: skip
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt on each line")
    arguments = parser.parse_args(argv)
    from helpers.adapt.checkpoint import Checkpoint
    from helpers.compress.convert_coreml import source_folder

    checkpoint = Checkpoint(source_folder(arguments.model, Settings.from_environment(names=["models"]).models))
    print(quantize(checkpoint, read_prompts(arguments), arguments.least))
    return 0


def read_prompts(arguments: argparse.Namespace) -> list[str]:
    if not arguments.prompts:
        return list(PROMPTS)
    try:
        lines = arguments.prompts.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(os.EX_NOINPUT, f"cannot read {arguments.prompts}: {error}") from error
    if not (prompts := [line for line in lines if line.strip()]):
        raise UserError(os.EX_DATAERR, f"there are no prompts in {arguments.prompts}")
    return prompts


def quantize(checkpoint: Checkpoint, prompts: list[str], least: float) -> Path:
    """Measure the ranges and effects of a model's layers, choose, and write the file of openvino_int8.path.

    least: dB, of the pictures against those at bf16, or f32 where the processor has no bf16; the median over prompts.

    Raises: UserError 69 for a damaged model, or if no choice of layers is good enough; 73 if the file cannot be
    written.
    """
    import numpy as np

    from helpers.core import openvino
    from helpers.draw.engines import openvino_int8

    exact = "bf16" if openvino.has_bf16() else "f32"
    with tempfile.TemporaryDirectory(prefix="audio-to-image.") as temporary:
        cache = Path(temporary)
        say(f"drawing {len(prompts)} pictures at {exact}")
        wanted, calls, engine = _drawn(checkpoint, prompts, exact, cache)
        if not all(np.isfinite(picture).all() for picture in wanted):
            raise UserError(os.EX_UNAVAILABLE, "the model computes NaN or infinity", "Fetch the model again.")
        ranges: dict[str, dict[str, float]] = {}
        effects: dict[tuple[str, str], float] = {}
        for part in openvino_int8.PARTS:
            ranges[part], found = _measure(engine, part, calls[part], cache)
            effects |= {(part, name): effect for name, effect in found.items()}
        del engine, calls
        order = sorted(effects, key=lambda layer: effects[layer], reverse=True)
        file = openvino_int8.path(checkpoint)
        before = file.read_bytes() if file.is_file() else None
        try:
            return _choose(checkpoint, prompts, least, wanted, ranges, order, cache)
        except BaseException:
            with contextlib.suppress(OSError):
                file.unlink() if before is None else file.write_bytes(before)
            raise


def _choose(
    checkpoint: Checkpoint,
    prompts: list[str],
    least: float,
    wanted: list[Any],
    ranges: dict[str, dict[str, float]],
    order: list[tuple[str, str]],
    cache: Path,
) -> Path:
    """Leave out 0, 1, 2, 4, … of the layers with the largest effect, until the pictures are good enough."""
    import numpy as np

    from helpers.compress.report import psnr
    from helpers.core.files import write_whole
    from helpers.draw.engines import openvino_int8

    file, left_out = openvino_int8.path(checkpoint), 0
    while left_out < len(order):
        out = set(order[:left_out])
        kept: dict[str, Any] = {
            part: {name: largest for name, largest in each.items() if (part, name) not in out}
            for part, each in ranges.items()
        }
        try:
            write_whole(file, (json.dumps(kept, indent=1) + "\n").encode())
        except OSError as error:
            raise UserError(os.EX_CANTCREAT, f"cannot write {file}: {error.strerror}") from error
        rough, _, _ = _drawn(checkpoint, prompts, "int8", cache)
        found = [psnr(a, b, 255) for a, b in zip(wanted, rough, strict=True)]
        signal, lowest = float(np.median(found)), min(found)
        say(f"{len(order) - left_out} of {len(order)} layers in int8: {signal:.1f} dB, at least {lowest:.1f} dB")
        if signal >= least:
            kept["measured"] = {"dB": round(signal, 1), "layers": len(order) - left_out, "of": len(order)}
            write_whole(file, (json.dumps(kept, indent=1) + "\n").encode())
            return file
        left_out = max(1, 2 * left_out)
    message = f"in 8 bits, this model does not draw pictures within {least:g} dB of the exact ones"
    raise UserError(os.EX_UNAVAILABLE, message, "Draw at bf16 or f32.")


def _drawn(
    checkpoint: Checkpoint, prompts: list[str], precision: str, cache: Path
) -> tuple[list[Any], dict[str, list[Any]], OpenVino]:
    """The pictures (0…255) of each prompt with the model's own settings, seeds 0, 1, …; some of each network's inputs;
    and the engine that drew them."""
    from helpers.draw import diffusion, engines

    usual = engines.defaults(checkpoint)
    options = engines.Options(low_memory=False, cache=cache)
    how: dict[str, Any] = {"guidance": usual.guidance > 1, "precision": precision}
    engine: Any = engines.load("openvino", checkpoint, options, **how)
    calls: dict[str, list[Any]] = {part: [] for part in engine.networks}
    for part, network in engine.networks.items():
        engine.networks[part] = _Recording(network, calls[part])
    empty = engine.encode_text(engine.tokenizer.encode("").ids)
    pictures = []
    for seed, prompt in enumerate(prompts):
        text = engine.encode_text(engine.tokenizer.encode(prompt).ids)
        latents = diffusion.sample(engine, text, empty, seed=seed, steps=usual.steps, guidance=usual.guidance)
        pictures.append(((engine.decode(latents) / 2 + 0.5).clip(0, 1) * 255).round())
    most = _MOST * len(prompts)
    return pictures, {part: each[:: -(-len(each) // most)] for part, each in calls.items()}, engine


class _Recording:
    """A network that also appends its inputs to a list."""

    def __init__(self, network: Any, calls: list[Any]) -> None:
        self.network, self.calls = network, calls
        self.rest, self.precision = network.rest, network.precision

    def __call__(self, *inputs: Any) -> Any:
        self.calls.append([array.copy() for array in inputs])
        return self.network(*inputs)


def _measure(engine: OpenVino, part: str, inputs: list[Any], cache: Path) -> tuple[dict[str, float], dict[str, float]]:
    """For each layer of a network (name of its weight): the largest absolute value of what it reads, and the mean
    squared error of the network's output if that is rounded to 8 bits. Layers that read the same are rounded
    together."""
    import numpy as np

    from helpers.core import openvino
    from helpers.draw.engines import openvino_int8

    op = openvino.runtime().opset15

    def compiled(change: Callable[[Model], None]) -> openvino.Network:
        with contextlib.ExitStack() as stack:

            def build() -> Model:
                model = engine.graph(part, stack)
                change(model)
                return model

            return openvino.compiled(build, f"{part}-measured", change.__name__, precision="f32", cache=cache)

    sources: dict[tuple[str, int], list[str]] = {}

    def with_ranges(model: Model) -> None:
        for layer in openvino_int8.layers(model):
            if layer.source not in sources:
                port = layer.node.input_value(0)
                axes = op.constant(list(range(len(port.get_partial_shape()))))
                model.add_results([op.result(op.reduce_max(op.abs(port), axes))])
            sources.setdefault(layer.source, []).append(layer.weight.get_friendly_name())

    say(f"measuring the ranges of {part}")
    network = compiled(with_ranges)
    largest = np.max([np.stack([np.ravel(one)[0] for one in network(*call)[1:]]) for call in inputs], axis=0)
    limits = [float(one) or 1.0 for one in largest]

    def switched(model: Model) -> None:
        """With one more input: for each source 1 if it is rounded, or 0."""
        switches = op.parameter([len(sources)], np.float32, "switches")
        ports = {layer.source: layer.node.input_value(0) for layer in openvino_int8.layers(model)}
        users = {source: [one.node for one in openvino_int8.layers(model) if one.source == source] for source in ports}
        for index, (source, port) in enumerate(ports.items()):
            switch = op.gather(switches, op.constant(index), op.constant(0))
            error = op.subtract(openvino_int8.fake_quantized(port, limits[index]), port)
            rounded = op.add(port, op.multiply(error, switch))
            for node in users[source]:
                node.input(0).replace_source_output(rounded.output(0))
        switches.output(0).get_tensor().set_names({"switches"})
        model.add_parameters([switches])
        model.validate_nodes_and_infer_types()

    say(f"measuring the effect of each of {len(sources)} inputs of {part}")
    network = compiled(switched)
    few, none = inputs[:: -(-len(inputs) // 2)], np.zeros(len(sources), np.float32)
    exact = [network(*call, none)[0].copy() for call in few]
    effects = []
    for index in range(len(sources)):
        one = none.copy()
        one[index] = 1
        rough = [network(*call, one)[0] for call in few]
        effects.append(float(np.mean([np.mean((a - b) ** 2) / a.var() for a, b in zip(exact, rough, strict=True)])))
    ranges: dict[str, float] = {}
    found: dict[str, float] = {}
    for names, limit, effect in zip(sources.values(), limits, effects, strict=True):
        ranges |= dict.fromkeys(names, limit)
        found |= dict.fromkeys(names, effect)
    return ranges, found


if __name__ == "__main__":
    run("quantize", main)
