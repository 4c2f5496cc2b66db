"""A reference evaluator for Core ML programs: what `MLModel.predict` computes, by torch, on any system.

program = Program("unet.mlpackage")
outputs = program.predict({"sample": latents, "timestep": timestep, "encoder_hidden_states": text})

The arithmetic is float32 on the weights as they are stored (float16, palettized, quantized), which checks the graph and
the weights. With half=True each result that the program declares as float16 is also rounded to it and overflows to
infinity, which shows what float16 does to a picture; the sums inside one operation stay float32, so that it is not bit
for bit what any Apple processor computes.

What is not known (an operation, a mode, an argument, a flexible shape, an image) is an error, never skipped, and every
result must have the shape and the kind of number that the program declares. The operations are those of coremltools'
MIL reference, https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import coremltools
import numpy as np
from coremltools.converters.mil.frontend.milproto import load as milproto
from coremltools.proto import FeatureTypes_pb2, MIL_pb2
from numpy.typing import NDArray

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ModuleNotFoundError:  # with tests/run.sh --fast
    import pytest

    pytest.skip("needs PyTorch", allow_module_level=True)

Array = NDArray[Any]
Maybe = Tensor | None
Number = Tensor | float

_KINDS = {"f": torch.float32, "i": torch.int32, "u": torch.int32, "b": torch.bool}  # what numpy's kinds are computed as


class _Type(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Step(NamedTuple):
    """One operation of a program: the names of its arguments, its results, and the names that nobody needs after it."""

    operation: str
    arguments: dict[str, list[str]]
    results: dict[str, _Type]
    dead: list[str]


class Program:
    """The ML program (its function `main`) of a .mlpackage.

    inputs: name → shape and dtype, as the model declares them.

    Raises:
        NotImplementedError: the program has something that is not known here.
    """

    def __init__(self, path: Path | str, half: bool = False) -> None:
        spec = coremltools.utils.load_spec(str(path))
        if "main" not in spec.mlProgram.functions:
            raise NotImplementedError(f"{path} is no ML program")
        main = spec.mlProgram.functions["main"]
        self.inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            feature.name: _declared(feature) for feature in spec.description.input
        }
        if self.inputs != {value.name: _type(value) for value in main.inputs}:
            raise ValueError(f"{path}: the model declares other inputs than its program")
        self._outputs = {feature.name: _declared(feature).dtype for feature in spec.description.output}
        self._half = half
        self._files = milproto.TranscriptionContext(str(Path(path) / "Data" / "com.apple.CoreML" / "weights"))
        self._constants: dict[str, Any] = {}  # name → its operation
        self._decoded: dict[str, Tensor | str] = {}
        self._steps: list[_Step] = []
        for operation in main.block_specializations[main.opset].operations:
            if operation.type == "const" or operation.type in _DECODERS:
                self._constants[operation.outputs[0].name] = operation
            else:
                self._steps.append(_step(operation))

        last: dict[str, _Step] = {}
        for step in self._steps:
            last |= dict.fromkeys([*step.results, *(name for names in step.arguments.values() for name in names)], step)
        for name, step in last.items():
            if name not in self._constants and name not in self._outputs:
                step.dead.append(name)

    def predict(self, data: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the model by name, in the dtypes that it declares.

        data: an array for every input, of exactly its shape and dtype.

        Raises:
            KeyError: an input is missing, or there is none of that name.
            TypeError: an array has another dtype.
            ValueError: an array has another shape, or a result is not what the program declares.
        """
        if data.keys() != self.inputs.keys():
            raise KeyError(f"the inputs are {', '.join(self.inputs)}, not {', '.join(data)}")
        for name, (shape, dtype) in self.inputs.items():
            if data[name].dtype != dtype:
                raise TypeError(f"input {name} is {dtype}, not {data[name].dtype}")
            if data[name].shape != shape:
                raise ValueError(f"input {name} is {shape}, not {data[name].shape}")
        values = {name: _tensor(array) for name, array in data.items()}

        def value(name: str) -> Any:
            return values[name] if name in values else self._constant(name)

        for operation, arguments, declared, dead in self._steps:
            given = {
                key: [value(name) for name in names] if key == "values" else value(names[0])
                for key, names in arguments.items()
            }
            results = _OPERATIONS[operation](**given)
            results = [results] if isinstance(results, Tensor) else results
            for (name, (shape, dtype)), result in zip(declared.items(), results, strict=True):
                if result.shape != shape or result.dtype != _KINDS[dtype.kind]:
                    found = f"{tuple(result.shape)} {result.dtype}"
                    raise ValueError(f"{operation} {name} gave {found}, which is declared as {shape} {dtype}")
                values[name] = result.half().float() if self._half and dtype == np.float16 else result
            for name in dead:
                del values[name]

        with np.errstate(over="ignore"):
            return {name: np.asarray(value(name)).astype(dtype) for name, dtype in self._outputs.items()}

    def operations(self) -> Counter[str]:
        """How many operations of each type there are: all but those that only hold a constant."""
        types = [operation.type for operation in self._constants.values() if operation.type != "const"]
        return Counter([*types, *(step.operation for step in self._steps)])

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every constant of more than one element by name, decoded."""
        values = {name: self._constant(name) for name in self._constants}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.numel() > 1}
        return {name: tensor.numpy().astype(np.float32) for name, tensor in tensors.items()}

    def _constant(self, name: str) -> Tensor | str:
        if name not in self._decoded:
            value = self._decode(self._constants[name])
            self._decoded[name] = value if isinstance(value, str) else _tensor(value)
        return self._decoded[name]

    def _decode(self, operation: Any) -> Any:
        """The value of a constant: an array or a number in the dtype that it is stored in, or a string."""
        stored = {key: milproto._load_value(self._files, value) for key, value in operation.attributes.items()}
        if operation.type == "const":
            return stored["val"]
        del stored["name"]
        for key, argument in operation.inputs.items():  # since iOS 18 they are inputs, before they are attributes
            (binding,) = argument.arguments
            if binding.WhichOneof("binding") == "value":
                stored[key] = milproto._load_value(self._files, binding.value)
            else:  # compressed twice: a quantized palette, or a scale for each channel
                stored[key] = self._decode(self._constants[binding.name])
        array = _DECODERS[operation.type](**stored)
        shape, dtype = _type(operation.outputs[0])
        if array.shape != shape or array.dtype != dtype:
            name = f"{operation.type} {operation.outputs[0].name}"
            raise ValueError(f"{name} gave {array.shape} {array.dtype}, which is declared as {shape} {dtype}")
        return array


def _declared(feature: Any) -> _Type:
    """The type of an input or output as the model's description has it."""
    if feature.type.WhichOneof("Type") != "multiArrayType":
        raise NotImplementedError(f"{feature.name} is no array")
    array = feature.type.multiArrayType
    name = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
    return _Type(tuple(array.shape), np.dtype(name.lower()))


def _type(value: Any) -> _Type:
    """The type of a value as the program has it."""
    tensor, sides = value.type.tensorType, value.type.tensorType.dimensions
    if not value.type.HasField("tensorType") or not all(side.HasField("constant") for side in sides):
        raise NotImplementedError(f"{value.name} is no tensor of a fixed shape")
    shape = tuple(side.constant.size for side in sides)
    return _Type(shape, np.dtype(MIL_pb2.DataType.Name(tensor.dataType).lower()))


def _step(operation: Any) -> _Step:
    results = {value.name: _type(value) for value in operation.outputs}
    what = f"{operation.type} {', '.join(results)}"
    if operation.type not in _OPERATIONS:
        raise NotImplementedError(f"{what}: the operation is not known")
    arguments = {key: [binding.name for binding in value.arguments] for key, value in operation.inputs.items()}
    if not all(all(names) for names in arguments.values()):
        raise NotImplementedError(f"{what}: an argument is written in place")
    try:
        inspect.signature(_OPERATIONS[operation.type]).bind(**arguments)
    except TypeError as error:
        raise NotImplementedError(f"{what}: {error}") from error
    return _Step(operation.type, arguments, results, [])


def _tensor(array: Array) -> Tensor:
    """A copy, of the kind of number that it is computed as."""
    return torch.from_numpy(np.array(array)).to(_KINDS[array.dtype.kind])


# The operations by their names in MIL: each has MIL's names and defaults of the arguments.

_OPERATIONS: dict[str, Callable[..., Tensor | Sequence[Tensor]]] = {
    "batch_norm": lambda x, mean, variance, gamma=None, beta=None, epsilon=1e-5: F.batch_norm(
        x, mean, variance, gamma, beta, eps=float(epsilon)
    ),
    "clip": lambda x, alpha, beta: torch.clamp(x, alpha, beta),
    "einsum": lambda values, equation: torch.einsum(equation, *values),
    "fill": lambda shape, value=0.0: torch.as_tensor(value).expand(shape.tolist()),
    "instance_norm": lambda x, gamma=None, beta=None, epsilon=1e-5: F.instance_norm(
        x, None, None, gamma, beta, eps=float(epsilon)
    ),
    "inverse": lambda x, epsilon=1e-4: 1 / (x + epsilon),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "log": lambda x, epsilon=1e-45: torch.log(x + epsilon),
    "matmul": lambda x, y, transpose_x=False, transpose_y=False: torch.matmul(
        x.mT if transpose_x else x, y.mT if transpose_y else y
    ),
    # The first of equal maxima, which is torch's choice: Core ML promises none. Its dtype is the declared one.
    "reduce_argmax": lambda x, axis=-1, keep_dims=False, output_dtype="int32": torch.argmax(
        x, int(axis), bool(keep_dims)
    ).int(),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + epsilon),
    "scaled_dot_product_attention": lambda query, key, value, attn_mask=None: F.scaled_dot_product_attention(
        query, key, value, attn_mask
    ),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
    "slice_by_size": lambda x, begin, size: x[
        tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin.tolist(), size.tolist(), strict=True))
    ],
    "softmax": lambda x, axis=-1: torch.softmax(x, int(axis)),
    "squeeze": lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(axes.tolist()),
    "stack": lambda values, axis: torch.stack(values, int(axis)),
    "tile": lambda x, reps: x.repeat(reps.tolist()),
    "transpose": lambda x, perm: x.permute(perm.tolist()),
}

_UNARY = {name: getattr(torch, name) for name in (
    "abs", "cos", "erf", "exp", "exp2", "logical_not", "relu", "sigmoid", "sin", "sqrt", "square", "tanh")}  # fmt: skip
_UNARY |= {"identity": lambda x: x, "silu": F.silu, "softplus": F.softplus}
_OPERATIONS |= {name: lambda x, f=function: f(x) for name, function in _UNARY.items()}

_BINARY = {name: getattr(torch, name) for name in (
    "add", "greater", "greater_equal", "less", "less_equal", "logical_and", "logical_or", "maximum", "minimum", "mul",
    "not_equal", "pow", "sub")}  # fmt: skip
_BINARY |= {"equal": torch.eq, "floor_div": torch.floor_divide, "mod": torch.remainder, "real_div": torch.div}
_OPERATIONS |= {name: lambda x, y, f=function: f(x, y) for name, function in _BINARY.items()}

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "reduce_max": torch.amax,
    "reduce_mean": torch.mean,
    "reduce_min": torch.amin,
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype),
}
_OPERATIONS |= {
    name: lambda x, axes=None, keep_dims=False, f=function: f(x, _ints(axes, range(x.ndim)), bool(keep_dims))
    for name, function in _REDUCTIONS.items()
}


def _ints(tensor: Maybe, default: Sequence[int]) -> list[int]:
    return list(default) if tensor is None else [int(number) for number in tensor.tolist()]


def cast(x: Tensor, dtype: str) -> Tensor:
    """A float16 is rounded by its declared type, like every result; a number is truncated and must fit."""
    if dtype in ("fp16", "fp32"):
        return x.float()
    if dtype == "bool":
        return x.bool()
    if dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        raise NotImplementedError(f"cast to {dtype}")
    whole, limits = x.double().trunc(), np.iinfo(dtype)
    if not ((whole >= limits.min) & (whole <= limits.max)).all():
        raise OverflowError(f"cast to {dtype} of a number that does not fit")
    return whole.int()


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise NotImplementedError(f"gelu {mode}")
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def conv(
    x: Tensor, weight: Tensor, bias: Maybe = None, strides: Maybe = None, pad_type: str = "valid",
    pad: Maybe = None, dilations: Maybe = None, groups: Number = 1,
) -> Tensor:  # fmt: skip
    sides = x.ndim - 2
    pads = _pads(pad_type, pad, sides)
    even = pads[::2] == pads[1::2]
    function = (F.conv1d, F.conv2d, F.conv3d)[sides - 1]
    steps, dilation = _ints(strides, [1] * sides), _ints(dilations, [1] * sides)
    x = x if even else _padded(x, pads)
    return function(x, weight, bias, steps, pads[::2] if even else 0, dilation, int(groups))


def avg_pool(
    x: Tensor, kernel_sizes: Tensor, pad_type: str, strides: Maybe = None, pad: Maybe = None,
    exclude_padding_from_average: Number = False, ceil_mode: Number = False,
) -> Tensor:  # fmt: skip
    sides = x.ndim - 2
    pads = _pads(pad_type, pad, sides)
    if ceil_mode or (exclude_padding_from_average and any(pads)):
        raise NotImplementedError("avg_pool with ceil_mode or exclude_padding_from_average")
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[sides - 1]
    return function(_padded(x, pads), kernel_sizes.tolist(), _ints(strides, [1] * sides))


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Number = 0.0) -> Tensor:
    if mode not in ("constant", "reflect", "replicate"):
        raise NotImplementedError(f"pad {mode}")
    return _padded(x, pad.tolist(), mode, float(constant_val) if mode == "constant" else None)


def _pads(pad_type: str, pad: Maybe, sides: int) -> list[int]:
    if pad_type not in ("valid", "custom"):
        raise NotImplementedError(f"pad_type {pad_type}")
    return _ints(pad if pad_type == "custom" else None, [0, 0] * sides)


def _padded(x: Tensor, pads: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """pads: before and after each of the last axes, in their order; torch takes the last axis first."""
    backwards = [number for first in range(len(pads) - 2, -1, -2) for number in pads[first : first + 2]]
    return F.pad(x, backwards, mode, value) if any(pads) else x


def layer_norm(x: Tensor, axes: Tensor, gamma: Maybe = None, beta: Maybe = None, epsilon: Number = 1e-5) -> Tensor:
    dims = axes.tolist()
    last = list(range(-len(dims), 0))
    y = x.movedim(dims, last)
    return F.layer_norm(y, y.shape[-len(dims) :], gamma, beta, float(epsilon)).movedim(last, dims)


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """0 is the size of the same axis of x, counted from the last (since iOS 17; before, the ranks are equal)."""
    sizes = shape.tolist()
    known = [1] * len(sizes) + list(x.shape)
    return x.reshape([size or known[index - len(sizes)] for index, size in enumerate(sizes)])


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def concat(values: list[Tensor], axis: Tensor, interleave: Number = False) -> Tensor:
    if interleave:
        raise NotImplementedError("concat with interleave")
    return torch.cat(values, int(axis))


def split(x: Tensor, axis: Tensor, num_splits: Maybe = None, split_sizes: Maybe = None) -> Sequence[Tensor]:
    even = [] if num_splits is None else [x.shape[int(axis)] // int(num_splits)] * int(num_splits)
    return torch.split_with_sizes(x, _ints(split_sizes, even), int(axis))


def gather(
    x: Tensor, indices: Tensor, axis: Number = 0, batch_dims: Number = 0, validate_indices: Number = False
) -> Tensor:
    """An index that is out of range is an error, whether it is to be validated or not."""
    if batch_dims:
        raise NotImplementedError("gather with batch_dims")
    axis = int(axis) % x.ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    rows = torch.index_select(x, axis, indices.flatten())
    return rows.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_nd(x: Tensor, indices: Tensor, batch_dims: Number = 0, validate_indices: Number = False) -> Tensor:
    if batch_dims:
        raise NotImplementedError("gather_nd with batch_dims")
    return x[indices.long().unbind(-1)]


def slice_by_index(
    x: Tensor, begin: Tensor, end: Tensor, stride: Maybe = None, begin_mask: Maybe = None,
    end_mask: Maybe = None, squeeze_mask: Maybe = None,
) -> Tensor:  # fmt: skip
    strides = _ints(stride, [1] * x.ndim)
    masks = [_ints(mask, [0] * x.ndim) for mask in (begin_mask, end_mask, squeeze_mask)]
    rows = zip(begin.tolist(), end.tolist(), strides, *masks, strict=True)
    index = tuple(b if one else slice(b if not bs else None, e if not es else None, s) for b, e, s, bs, es, one in rows)
    return x[index] if min(strides) > 0 else torch.from_numpy(x.numpy()[index].copy())  # torch cannot step back


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Number = 1, scale_factor_width: Number = 1) -> Tensor:
    height, width = float(scale_factor_height), float(scale_factor_width)
    if not (height.is_integer() and width.is_integer()):
        raise NotImplementedError(f"upsample_nearest_neighbor by {height} x {width}")
    return x.repeat_interleave(int(height), -2).repeat_interleave(int(width), -1)


_OPERATIONS |= {function.__name__: function for function in (
    avg_pool, cast, concat, conv, expand_dims, gather, gather_nd, gelu, layer_norm,
    pad, reshape, slice_by_index, split, upsample_nearest_neighbor)}  # fmt: skip


# The compressed constants, from what is stored: coremltools' constexpr operations of iOS 16 and iOS 18.


def _lut_to_dense(indices: Array, lut: Array, shape: Array | None = None, vector_axis: int = 0) -> Array:
    if shape is not None:  # iOS 16: one palette, and the indices are a stream of bits with the lowest first
        bits = lut.size.bit_length() - 1
        stream = np.unpackbits(indices, count=bits * math.prod(shape), bitorder="little")
        return lut[np.packbits(stream.reshape(-1, bits), axis=1, bitorder="little").reshape(shape)]
    *groups, size, length = lut.shape  # iOS 18: a palette for each block of the tensor; its entries may be vectors
    blocks = np.ix_(*(np.arange(side) // (side // count) for side, count in zip(indices.shape, groups, strict=True)))
    dense = lut.reshape(-1, length)[np.ravel_multi_index(blocks, groups) * size + indices]
    axis = int(vector_axis) % indices.ndim
    sides = [side * length if index == axis else side for index, side in enumerate(indices.shape)]
    return np.moveaxis(dense, -1, axis + 1).reshape(sides)


def _affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: int) -> Array:
    along = [-1 if index == axis % quantized_data.ndim else 1 for index in range(quantized_data.ndim)]
    return _blockwise_shift_scale(quantized_data, np.reshape(scale, along), np.reshape(zero_point, along))


def _blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    def spread(values: Array) -> Array:
        for axis, (side, count) in enumerate(zip(data.shape, values.shape, strict=True)):
            values = values.repeat(side // count, axis) if 1 < count < side else values
        return values.astype(np.float32)

    shifted = data.astype(np.float32) - (0 if offset is None else spread(offset))
    return (shifted * spread(scale)).astype(scale.dtype)


_DECODERS: dict[str, Callable[..., Array]] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_lut_to_dense": _lut_to_dense,
}
