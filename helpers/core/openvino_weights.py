"""How the weights of an OpenVINO graph are stored, changed after the graph was built from 16- or 32-bit weights.

OpenVINO's CPU plug-in turns 16-bit floats (f16) into 32-bit ones before it compiles, which takes three times the memory
of the weights. It leaves bf16 as it is, and f16 tables of which it gathers rows.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.core import mapped
from helpers.core.openvino_runtime import runtime

if TYPE_CHECKING:
    from openvino import Model, Node, Type
    from openvino import opset15 as op
else:
    Type, op = runtime().Type, runtime().opset15

_ELEMENTWISE = {"Add", "Subtract", "Multiply", "Divide"}
_ALIGNED = 64  # bytes
_BLOCK = 1 << 20  # weights converted at once


def size(model: Model) -> int:
    """Bytes of all constants of a graph."""
    return sum(int(node.get_byte_size()) for node in _constants(model.get_ops()))


def _constants(nodes: Iterable[Node]) -> list[Any]:
    return [node for node in nodes if node.get_type_name() == "Constant"]


@contextlib.contextmanager
def as_bf16(model: Model, folder: Path) -> Iterator[None]:
    """Change a graph of f32 with weights of f16 or f32 into one that computes in bf16 and has bf16 weights, with the
    same inputs and outputs.

    The weights are in a temporary file in `folder`, or in memory if it cannot be written; they are valid inside the
    `with` block.
    """
    nodes = model.get_ordered_ops()
    wide = _before_weights(nodes)
    floats = [node for node in _constants(nodes) if node.get_element_type().to_string() in ("f16", "f32")]
    floats = [node for node in floats if not _users(node) <= wide]
    with contextlib.ExitStack() as stack:
        narrow = _narrowed([node.data for node in floats], folder, stack)
        for node, array in zip(floats, narrow, strict=True):
            constant = op.constant(runtime().Tensor(array, node.shape, Type.bf16), shared_memory=True)
            constant.set_friendly_name(node.get_friendly_name())
            users = [one.get_node() for one in node.output(0).get_target_inputs()]
            for old in users if node.get_element_type() == Type.f16 else [node]:  # f16 has a Convert to f32
                old.output(0).replace(constant.output(0))
        for node in nodes:
            if node.get_friendly_name() in wide and node.get_output_element_type(0) == Type.f32:
                for one in node.output(0).get_target_inputs():
                    if one.get_node().get_friendly_name() not in wide:
                        one.replace_source_output(op.convert(node, "bf16").output(0))
        for result in model.get_results():
            result.input(0).replace_source_output(op.convert(result.input_value(0), "f32").output(0))
        model.validate_nodes_and_infer_types()
        yield


def _before_weights(nodes: list[Node]) -> set[str]:
    """The names of a graph's inputs, and of what is computed from them with single numbers only: scale factors, which
    bf16 would make imprecise."""
    found: set[str] = set()
    for node in nodes:
        sources = [one.get_node() for one in node.input_values()]
        single = [one.get_type_name() == "Constant" and np.prod(list(one.shape)) == 1 for one in sources]
        inner = [one.get_friendly_name() in found for one in sources]
        elementwise = node.get_type_name() in _ELEMENTWISE and any(inner)
        if node.get_type_name() == "Parameter" or (elementwise and all(map(any, zip(single, inner, strict=True)))):
            found.add(node.get_friendly_name())
    return found


def _users(node: Node) -> set[str]:
    return {one.get_node().get_friendly_name() for one in node.output(0).get_target_inputs()}


def _narrowed(floats: list[NDArray[Any]], folder: Path, stack: contextlib.ExitStack) -> list[NDArray[np.uint16]]:
    """The bits of each array in bf16; mapped from a temporary file if possible, until `stack` is closed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
        begins = []
        for array in floats:
            begins.append(file.seek(-file.tell() % _ALIGNED, 1))
            for block in _blocks(array):
                file.write(block.data)
        file.flush()
        pages = mapped.pages(file)
    except (OSError, ValueError):  # read-only or full; no weights at all
        narrow = [np.concatenate([*_blocks(array), np.empty(0, np.uint16)]).reshape(array.shape) for array in floats]
    else:
        stack.enter_context(mapped.dropping([pages]))
        pieces = zip(floats, begins, strict=True)
        narrow = [pages[begin : begin + 2 * one.size].view(np.uint16).reshape(one.shape) for one, begin in pieces]
    stack.callback(narrow.clear)  # OpenVINO does not hold them
    return narrow


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[np.uint16]]:
    """The upper 16 bits of each number as float32, rounded to nearest, ties to even; NaN stays NaN."""
    flat = array.reshape(-1)
    for begin in range(0, flat.size, _BLOCK):
        block = flat[begin : begin + _BLOCK].astype(np.float32)
        bits = block.view(np.uint32)
        upper = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        upper[np.isnan(block)] = 0x7FC0
        yield upper


def in_place(model: Model) -> None:
    """Let the graph read its f16 matrices from the file at each run, instead of once, as f32, into memory.

    Each matrix becomes a table from which all rows are gathered. The number 0 in their indices depends on the model's
    input (it must not be negative), so that OpenVINO cannot do it in advance. SD 2.1's text encoder takes 0.1 GB
    instead of 1.4 GB, and 0.4 s instead of 0.28 s.
    """
    [tokens] = model.get_parameters()
    axes = op.constant(list(range(len(tokens.shape))))
    lowest = op.convert(op.reduce_min(tokens, axes), "i32")
    zero = op.minimum(lowest, op.constant(np.int32(0)))
    rows: dict[int, Node] = {}
    for node in _constants(model.get_ops()):
        [user, *others] = node.output(0).get_target_inputs()
        convert = user.get_node()
        if others or node.get_element_type() != Type.f16 or convert.get_type_name() != "Convert":
            continue
        inputs = convert.output(0).get_target_inputs()
        if len(node.shape) == 2 and {one.get_node().get_type_name() for one in inputs} == {"MatMul"}:
            count = node.shape[0]
            rows.setdefault(count, op.add(op.constant(np.arange(count, dtype=np.int32)), zero))
            table = op.gather(convert, rows[count], op.constant(0))
            for one in inputs:
                one.replace_source_output(table.output(0))
