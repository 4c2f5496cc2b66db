"""8-bit arithmetic on the processor: which layers compute in int8, with which ranges, and how their graph says so.

`python -m helpers.compress.quantize` writes the ranges into `int8.json` in the model's folder; A2I_PRECISION=int8 uses
them. OpenVINO computes a layer in int8 if its input is a FakeQuantize and its weights are int8 with a scale; this needs
AVX-512 VNNI, AVX-VNNI or AMX to be fast. All other layers stay at bf16, or f32 where the processor has no bf16.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from helpers.adapt.checkpoint import Checkpoint
from helpers.adapt.diffusers_folder import damaged, plain
from helpers.core.errors import UserError
from helpers.core.openvino import runtime

if TYPE_CHECKING:
    from openvino import Model, Node
    from openvino import opset15 as op
else:
    op = runtime().opset15

PARTS = ("unet", "vae")
Ranges = Mapping[str, float]  # the largest absolute value of a layer's input, by the name of its weight


class Layer(NamedTuple):
    """A convolution or matrix product with constant weights: its node, and the constant, named like the weight."""

    node: Node
    weight: Any

    @property
    def source(self) -> tuple[str, int]:
        """What the layer reads. Layers with the same source have the same range."""
        port = self.node.input_value(0)
        return port.get_node().get_friendly_name(), port.get_index()


def layers(model: Model) -> Iterator[Layer]:
    """The layers of a graph that can compute in int8."""
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "MatMul"):
            weight = node.input_value(1).get_node()
            if weight.get_type_name() == "Convert":
                weight = weight.input_value(0).get_node()
            if weight.get_type_name() == "Constant" and len(weight.shape) > 1:
                yield Layer(node, weight)


def fake_quantized(port: Any, largest: float) -> Node:
    """`port` rounded to 256 steps from -largest * 128 / 127 to largest, as int8 has them."""
    low, high = (op.constant(np.float32(largest * factor)) for factor in (-128 / 127, 1))
    return op.fake_quantize(port, low, high, low, high, 256)


def quantize(model: Model, ranges: Ranges) -> None:
    """Change a graph of f32, so that the layers in `ranges` compute in int8. Weights are symmetric, with a scale for
    each output channel; inputs are symmetric, with one scale.

    Raises: UserError 69 for a range of a layer that the graph has not.
    """
    inputs: dict[tuple[str, int], Node] = {}
    found = {layer.weight.get_friendly_name(): layer for layer in layers(model)}
    if unknown := sorted(ranges.keys() - found.keys()):
        raise _wrong(f"the model has no layer {unknown[0][:200]}")
    for name, largest in ranges.items():
        node, constant = found[name]
        source = found[name].source
        weight = np.asarray(constant.data, np.float32)
        scale = np.abs(weight).max(tuple(range(1, weight.ndim)), keepdims=True) / 127
        scale[scale == 0] = 1
        integers = np.rint(weight / scale).astype(np.int8)
        decoded = op.multiply(op.convert(op.constant(integers), "f32"), op.constant(scale.astype(np.float32)))
        if source not in inputs:
            inputs[source] = fake_quantized(node.input_value(0), largest)
        node.input(1).replace_source_output(decoded.output(0))
        node.input(0).replace_source_output(inputs[source].output(0))
    model.validate_nodes_and_infer_types()


def path(checkpoint: Checkpoint) -> Path:
    """Where the ranges of a model are kept."""
    folder = checkpoint.folder
    return folder.with_suffix(".int8.json") if checkpoint.is_file else folder / "int8.json"


def read(checkpoint: Checkpoint) -> dict[str, dict[str, float]]:
    """The ranges of a model, for each of PARTS.

    Raises: UserError 69 if there are none, or a range is not a positive number.
    """
    file = path(checkpoint)
    try:
        found = json.loads(plain(file).read_text(encoding="utf-8"))
        ranges = {part: found[part] for part in PARTS}
        for part in ranges.values():
            for name, largest in part.items():
                if type(largest) not in (int, float) or not 0 < largest < math.inf:
                    raise ValueError(f"the range of {name[:200]} is {str(largest)[:40]}")
    except FileNotFoundError as error:
        message = f"there are no ranges for int8 of the model in {checkpoint.folder}"
        remedy = f"Measure them: python -m helpers.compress.quantize {checkpoint.folder}"
        raise UserError(os.EX_UNAVAILABLE, message, remedy) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _wrong(damaged(file, error).message) from error
    return ranges


def _wrong(message: str) -> UserError:
    return UserError(os.EX_UNAVAILABLE, message, "Measure its ranges again: python -m helpers.compress.quantize --help")
