"""The evaluator of Core ML programs: every operation against numpy, compressed weights against coremltools itself."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import coremltools as ct
import coremltools.optimize.coreml as cto
import mil_evaluator
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.proto import MIL_pb2
from mil_evaluator import Program
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]
Build = Callable[[Any], Any]


def normal(seed: int, *shape: int) -> Any:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


X, Y, W, MATRIX = normal(0, 2, 3, 4, 5), normal(1, 3, 1, 5), normal(2, 6, 3, 3, 2), normal(3, 6, 5)
MASK, VECTOR, GAMMA, BETA, MEAN = normal(4, 4, 4), normal(5, 6), normal(6, 3), normal(7, 3), normal(8, 3)
VARIANCE = MEAN**2
P = np.abs(X) + np.float32(0.1)
N = np.arange(24, dtype=np.int32).reshape(2, 3, 4) - 12
INPUTS = {"x": X, "y": Y, "p": P, "i": N}


def save(folder: Path, build: Build, real: Any = types.fp32) -> Path:
    """A package of the program that `build` makes of the variables of INPUTS, with its operations just as they are."""
    specs = [mb.TensorSpec(array.shape, types.int32 if array is N else real) for array in INPUTS.values()]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
    def program(x: Any, y: Any, p: Any, i: Any) -> Any:
        return build(SimpleNamespace(x=x, y=y, p=p, i=i))

    passes = ct.PassPipeline.EMPTY
    model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, pass_pipeline=passes, skip_model_load=True)
    model.save(str(folder / "program.mlpackage"))
    return folder / "program.mlpackage"


def run(program: Program) -> dict[str, Array]:
    return program.predict({name: array.astype(program.inputs[name][1]) for name, array in INPUTS.items()})


def distribution(x: Array) -> Any:
    """Of the normal distribution, up to x."""
    return np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def normalised(x: Array, *axes: int) -> Any:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.01)


def across(channels: Array) -> Any:
    return channels[:, None, None]


def softmax(x: Array, axis: int = -1) -> Any:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def attended(mask: Array | float) -> Any:
    return softmax(X @ P.swapaxes(2, 3) / math.sqrt(5) + mask) @ X


def padded(x: Array, *pads: tuple[int, int]) -> Any:
    return np.pad(x, [(0, 0), (0, 0), *pads])


def windows(x: Array, *size: int) -> Any:
    return sliding_window_view(x, size, (2, 3))  # type: ignore[call-overload]


def convolved(x: Array, weight: Array) -> Any:
    return np.einsum("nchwij,ocij->nohw", windows(x, *weight.shape[2:]), weight)


def dilated(weight: Array, high: int, wide: int) -> Any:
    result = np.zeros((*weight.shape[:2], (weight.shape[2] - 1) * high + 1, (weight.shape[3] - 1) * wide + 1))
    result[:, :, ::high, ::wide] = weight
    return result


def unary(name: str) -> Build:
    return lambda v: getattr(mb, name)(x=v.x)


def binary(name: str) -> Build:
    return lambda v: getattr(mb, name)(x=v.i, y=-5)


UNARY: dict[str, Callable[[Array], Any]] = {
    "abs": np.abs, "cos": np.cos, "erf": lambda x: 2 * distribution(x * math.sqrt(2)) - 1, "exp": np.exp,
    "exp2": np.exp2, "gelu": lambda x: x * distribution(x), "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)), "sin": np.sin, "softmax": softmax,
    "softplus": lambda x: np.log1p(np.exp(x)), "square": np.square, "tanh": np.tanh,
}  # fmt: skip
BINARY: dict[str, Callable[[Array, int], Any]] = {
    "equal": np.equal, "floor_div": np.floor_divide, "greater": np.greater, "greater_equal": np.greater_equal,
    "less": np.less, "less_equal": np.less_equal, "maximum": np.maximum, "minimum": np.minimum, "mod": np.mod,
    "mul": np.multiply, "not_equal": np.not_equal,
}  # fmt: skip

# name → what is built of the variables of INPUTS, and what numpy makes of their values
CASES: dict[str, tuple[Build, Any]] = {
    **{name: (unary(name), function(X)) for name, function in UNARY.items()},
    **{name: (binary(name), function(N, -5)) for name, function in BINARY.items()},
    "add": (lambda v: mb.add(x=v.x, y=v.y), X + Y),
    "pow": (lambda v: mb.pow(x=v.p, y=1.5), P**1.5),
    "real_div": (lambda v: mb.real_div(x=v.y, y=v.p), Y / P),
    "sub": (lambda v: mb.sub(x=v.y, y=v.x), Y - X),
    "logical_and": (lambda v: mb.logical_and(x=mb.less(x=v.i, y=3), y=mb.less(x=-3, y=v.i)), (N < 3) & (N > -3)),
    "logical_or": (lambda v: mb.logical_or(x=mb.less(x=v.i, y=-3), y=mb.less(x=3, y=v.i)), (N < -3) | (N > 3)),
    "logical_not": (lambda v: mb.logical_not(x=mb.less(x=v.i, y=3)), N >= 3),
    "select": (lambda v: mb.select(cond=mb.less(x=v.x, y=v.y), a=v.x, b=v.p), np.where(X < Y, X, P)),
    "clip": (lambda v: mb.clip(x=v.x, alpha=-0.5, beta=0.25), np.clip(X, -0.5, 0.25)),
    "gelu by tanh": (lambda v: mb.gelu(x=v.x, mode="TANH_APPROXIMATION"),
        0.5 * X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))),
    "gelu by sigmoid": (lambda v: mb.gelu(x=v.x, mode="SIGMOID_APPROXIMATION"), X / (1 + np.exp(-1.702 * X))),
    "inverse": (lambda v: mb.inverse(x=v.p, epsilon=0.5), 1 / (P + 0.5)),
    "log": (lambda v: mb.log(x=v.p, epsilon=0.5), np.log(P + 0.5)),
    "rsqrt": (lambda v: mb.rsqrt(x=v.p, epsilon=0.5), 1 / np.sqrt(P + 0.5)),
    "sqrt": (lambda v: mb.sqrt(x=v.p), np.sqrt(P)),
    "cast": (lambda v: mb.cast(x=v.i, dtype="fp32"), N.astype(np.float32)),
    "cast truncates": (lambda v: mb.cast(x=mb.mul(x=v.x, y=3.0), dtype="int32"), np.trunc(X * 3).astype(np.int32)),
    "cast to int16": (lambda v: mb.cast(x=v.i, dtype="int16"), N),
    "cast to bool": (lambda v: mb.cast(x=v.i, dtype="bool"), N != 0),
    "reduce_l2_norm": (lambda v: mb.reduce_l2_norm(x=v.x, axes=[1, -1]), np.sqrt((X**2).sum((1, 3)))),
    "reduce_max": (lambda v: mb.reduce_max(x=v.x, axes=[2], keep_dims=True), X.max(2, keepdims=True)),
    "reduce_mean": (lambda v: mb.reduce_mean(x=v.x, axes=[0, 2]), X.mean((0, 2))),
    "reduce_mean of all": (lambda v: mb.reduce_mean(x=v.x, keep_dims=True), X.mean(keepdims=True)),
    "reduce_min": (lambda v: mb.reduce_min(x=v.x, axes=[2]), X.min(2)),
    "reduce_sum": (lambda v: mb.reduce_sum(x=v.i, axes=[1], keep_dims=True), N.sum(1, keepdims=True, dtype=np.int32)),
    "reduce_sum_square": (lambda v: mb.reduce_sum_square(x=v.x, axes=[3]), (X**2).sum(3)),
    "reduce_argmax": (lambda v: mb.reduce_argmax(x=v.x, axis=1), X.argmax(1)),
    "reduce_argmax of equals": (
        lambda v: mb.reduce_argmax(x=mb.minimum(x=v.i, y=-1), axis=2, keep_dims=True, output_dtype="uint16"),
        np.minimum(N, -1).argmax(2)[..., None]),
    "softmax over channels": (lambda v: mb.softmax(x=v.x, axis=1), softmax(X, 1)),
    "linear": (lambda v: mb.linear(x=v.x, weight=MATRIX, bias=VECTOR), X @ MATRIX.T + VECTOR),
    "matmul": (lambda v: mb.matmul(x=v.x, y=v.p, transpose_y=True), X @ P.swapaxes(2, 3)),
    "matmul transposed": (lambda v: mb.matmul(x=v.x, y=v.p, transpose_x=True), X.swapaxes(2, 3) @ P),
    "einsum": (lambda v: mb.einsum(values=(v.x, mb.transpose(x=v.p, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu"),
        np.einsum("nchw,nwhu->nchu", X, P.transpose(0, 3, 2, 1))),
    "scaled_dot_product_attention": (lambda v: mb.scaled_dot_product_attention(query=v.x, key=v.p, value=v.x),
        attended(0.0)),
    "attention with a mask": (lambda v: mb.scaled_dot_product_attention(query=v.x, key=v.p, value=v.x, attn_mask=MASK),
        attended(MASK)),
    "attention to some": (
        lambda v: mb.scaled_dot_product_attention(query=v.x, key=v.p, value=v.x, attn_mask=np.tri(4) > 0),
        attended(np.where(np.tri(4) > 0, 0, -np.inf))),
    "conv": (lambda v: mb.conv(x=v.x, weight=W, bias=VECTOR), convolved(X, W) + across(VECTOR)),
    "conv with even padding": (lambda v: mb.conv(x=v.x, weight=W, pad_type="custom", pad=[1, 1, 2, 2], strides=[2, 1]),
        convolved(padded(X, (1, 1), (2, 2)), W)[:, :, ::2]),
    "conv with uneven padding": (
        lambda v: mb.conv(x=v.x, weight=W, pad_type="custom", pad=[0, 1, 2, 1], dilations=[2, 3]),
        convolved(padded(X, (0, 1), (2, 1)), dilated(W, 2, 3))),
    "conv in groups": (lambda v: mb.conv(x=v.x, weight=W[:, :1], groups=3),
        convolved(X, W[:, :1] * np.eye(3).repeat(2, 0)[:, :, None, None])),
    "conv along one axis": (lambda v: mb.conv(x=mb.reshape(x=v.x, shape=[2, 3, 20]), weight=W[:, :, 0]),
        convolved(X.reshape(2, 3, 1, 20), W[:, :, :1])[:, :, 0]),
    "avg_pool": (lambda v: mb.avg_pool(x=v.x, kernel_sizes=[2, 3], pad_type="valid"), windows(X, 2, 3).mean((4, 5))),
    "avg_pool with padding": (
        lambda v: mb.avg_pool(x=v.x, kernel_sizes=[2, 3], pad_type="custom", pad=[1, 0, 0, 2], strides=[1, 2]),
        windows(padded(X, (1, 0), (0, 2)), 2, 3)[:, :, :, ::2].mean((4, 5))),
    "pad": (lambda v: mb.pad(x=v.x, pad=[1, 0, 0, 2], constant_val=0.5),
        np.pad(X, [(0, 0), (0, 0), (1, 0), (0, 2)], constant_values=0.5)),
    "pad by reflection": (lambda v: mb.pad(x=v.x, pad=[1, 0, 0, 2], mode="reflect"),
        np.pad(X, [(0, 0), (0, 0), (1, 0), (0, 2)], "reflect")),
    "pad by replication": (lambda v: mb.pad(x=v.x, pad=[1, 0, 0, 2], mode="replicate"),
        np.pad(X, [(0, 0), (0, 0), (1, 0), (0, 2)], "edge")),
    "layer_norm": (lambda v: mb.layer_norm(x=v.x, axes=[2, -1], gamma=Y[0] * MASK[:, :1], beta=X[0, 0], epsilon=0.01),
        normalised(X, 2, 3) * (Y[0] * MASK[:, :1]) + X[0, 0]),
    "layer_norm of channels": (lambda v: mb.layer_norm(x=v.x, axes=[1], gamma=GAMMA, beta=BETA, epsilon=0.01),
        normalised(X, 1) * across(GAMMA) + across(BETA)),
    "batch_norm": (lambda v: mb.batch_norm(x=v.x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=0.01),
        (X - across(MEAN)) / np.sqrt(across(VARIANCE) + 0.01) * across(GAMMA) + across(BETA)),
    "instance_norm": (lambda v: mb.instance_norm(x=v.x, gamma=GAMMA, beta=BETA, epsilon=0.01),
        normalised(X, 2, 3) * across(GAMMA) + across(BETA)),
    "reshape": (lambda v: mb.reshape(x=v.x, shape=[-1, 0, 5]), X.reshape(6, 4, 5)),
    "transpose": (lambda v: mb.transpose(x=v.x, perm=[0, 3, 1, 2]), X.transpose(0, 3, 1, 2)),
    "expand_dims": (lambda v: mb.expand_dims(x=v.i, axes=[-1, 1]), N[:, None, :, :, None]),
    "squeeze": (lambda v: mb.squeeze(x=v.y, axes=[-2]), Y[:, 0]),
    "squeeze of all": (lambda v: mb.squeeze(x=v.y), Y[:, 0]),
    "concat": (lambda v: mb.concat(values=(v.x, v.p), axis=-2), np.concatenate([X, P], 2)),
    "stack": (lambda v: mb.stack(values=(v.x, v.p), axis=1), np.stack([X, P], 1)),
    "split": (lambda v: mb.split(x=v.x, num_splits=2, axis=2)[1], X[:, :, 2:]),
    "split by sizes": (lambda v: mb.split(x=v.x, split_sizes=[1, 3, 1], axis=-1)[1], X[..., 1:4]),
    "tile": (lambda v: mb.tile(x=v.y, reps=[1, 2, 3]), np.tile(Y, (1, 2, 3))),
    "fill": (lambda v: mb.fill(shape=[2, 3], value=7), np.full((2, 3), 7)),
    "shape": (lambda v: mb.shape(x=v.x), np.array(X.shape)),
    "gather": (lambda v: mb.gather(x=v.x, indices=np.array([[2], [-3]], np.int32), axis=-3), X[:, [[2], [-3]]]),
    "gather of one": (lambda v: mb.gather(x=v.x, indices=np.int32(-2), axis=2), X[:, :, -2]),
    "gather_nd": (lambda v: mb.gather_nd(x=v.x, indices=np.array([[1, 2], [0, -1]], np.int32)), X[[1, 0], [2, -1]]),
    "slice_by_index": (
        lambda v: mb.slice_by_index(
            x=v.x, begin=[0, 1, 3, -4], end=[9, 2, 1, -1], stride=[1, 1, 1, 2], begin_mask=[False, False, True, False],
            end_mask=[True, False, False, False], squeeze_mask=[False, True, False, False],
        ),
        X[0:, 1, :1, -4:-1:2],
    ),
    "slice_by_index backwards": (
        lambda v: mb.slice_by_index(
            x=v.y, begin=[0, 0, 3], end=[3, 1, 0], stride=[1, 1, -2], end_mask=[False, False, True]
        ),
        Y[:, :, 3::-2],
    ),
    "slice_by_size": (lambda v: mb.slice_by_size(x=v.x, begin=[0, 1, 1, 2], size=[2, 1, -1, 2]), X[:, 1:2, 1:, 2:4]),
    "upsample_nearest_neighbor": (
        lambda v: mb.upsample_nearest_neighbor(x=v.x, scale_factor_height=2, scale_factor_width=3),
        X.repeat(2, 2).repeat(3, 3)),
}  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """All cases as one program, in which each is an output of its number."""

    def build(variables: Any) -> Any:
        results = [case(variables) for case, _ in CASES.values()]
        whole = [x if x.dtype in (types.fp32, types.int32) else mb.cast(x=x, dtype="int32") for x in results]
        return tuple(mb.identity(x=x, name=f"case_{number}") for number, x in enumerate(whole))

    return Program(save(tmp_path_factory.mktemp("cases"), build))


@pytest.fixture(scope="module")
def computed(program: Program) -> dict[str, Array]:
    results = run(program)
    return {name: results[f"case_{number}"] for number, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_numpy_gives(computed: dict[str, Array], name: str) -> None:
    expected = np.asarray(CASES[name][1])
    assert computed[name].dtype == (np.float32 if expected.dtype.kind == "f" else np.int32)
    assert computed[name].shape == expected.shape
    np.testing.assert_allclose(computed[name], expected, 2e-5, 2e-6)


def test_every_operation_is_tested(program: Program) -> None:
    assert set(program.operations()) == set(mil_evaluator._OPERATIONS)
    assert program.operations()["gelu"] == 3


UNKNOWN, SOME = NotImplementedError, np.zeros((2, 1), np.int32)
REFUSED: dict[str, tuple[Build, type[Exception]]] = {
    "cumsum": (lambda v: mb.cumsum(x=v.x), UNKNOWN),
    "pad_type same": (lambda v: mb.conv(x=v.x, weight=W, pad_type="same"), UNKNOWN),
    "with ceil_mode": (lambda v: mb.avg_pool(x=v.x, kernel_sizes=[2, 2], pad_type="valid", ceil_mode=True), UNKNOWN),
    "or exclude_padding": (
        lambda v: mb.avg_pool(
            x=v.x, kernel_sizes=[2, 2], pad_type="custom", pad=[1, 0, 0, 0], exclude_padding_from_average=True
        ),
        UNKNOWN,
    ),
    "interleave": (lambda v: mb.concat(values=(v.x, v.p), axis=1, interleave=True), UNKNOWN),
    "gather with": (lambda v: mb.gather(x=v.x, indices=SOME, axis=1, batch_dims=1), UNKNOWN),
    "gather_nd with": (lambda v: mb.gather_nd(x=v.x, indices=SOME, batch_dims=1), UNKNOWN),
    "by 1.5": (lambda v: mb.upsample_nearest_neighbor(x=v.x, scale_factor_height=1.5, scale_factor_width=1.0), UNKNOWN),
    "index": (lambda v: mb.gather(x=mb.squeeze(x=v.y), indices=v.i), IndexError),
    "cast to uint16": (lambda v: mb.cast(x=mb.cast(x=v.i, dtype="uint16"), dtype="int32"), OverflowError),
    "cast to int32": (lambda v: mb.cast(x=mb.mul(x=v.x, y=3e9), dtype="int32"), OverflowError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_or_undefined_is_an_error(tmp_path: Path, name: str) -> None:
    build, error = REFUSED[name]
    with pytest.raises(error, match=name):
        run(Program(save(tmp_path, build)))


def tensor(value: Any) -> Any:
    return value.type.tensorType


# what is not as it should be → how it is made so in `m`: a model, its program, its relu and its compressed weight
EDITS: dict[str, tuple[Build, type[Exception], str]] = {
    "operation": (lambda m: setattr(m.relu, "type", "conjure"), UNKNOWN, "conjure case"),
    "argument": (lambda m: m.relu.inputs["z"].arguments.add(name="y"), UNKNOWN, "relu case.*'z'"),
    "value": (lambda m: m.relu.inputs["x"].arguments[0].value.SetInParent(), UNKNOWN, "relu case.*place"),
    "size": (lambda m: setattr(tensor(m.relu.outputs[0]).dimensions[1].constant, "size", 4), ValueError, "relu case"),
    "kind": (lambda m: setattr(tensor(m.relu.outputs[0]), "dataType", MIL_pb2.INT32), ValueError, "relu case"),
    "weight": (lambda m: setattr(tensor(m.weight.outputs[0]), "dataType", MIL_pb2.FLOAT16), ValueError, "constexpr"),
    "shape": (lambda m: tensor(m.program.inputs[0]).dimensions[0].unknown.SetInParent(), UNKNOWN, "x is no tensor"),
    "image": (lambda m: m.model.description.input[0].type.imageType.SetInParent(), UNKNOWN, "x is no array"),
    "inputs": (lambda m: setattr(m.model.description.input[0], "name", "z"), ValueError, "other inputs"),
    "model": (lambda m: m.model.pipeline.SetInParent(), UNKNOWN, "no ML program"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_program_that_is_not_what_it_declares_is_refused(tmp_path: Path, name: str) -> None:
    def build(v: Any) -> Any:
        weight = mb.constexpr_blockwise_shift_scale(data=MATRIX.astype(np.int8), scale=VECTOR[:, None])
        return mb.linear(x=mb.relu(x=v.x, name="case"), weight=weight)

    package = save(tmp_path, build)
    model = ct.utils.load_spec(str(package))
    program = model.mlProgram.functions["main"]
    operations = {operation.type: operation for operation in program.block_specializations[program.opset].operations}
    weight = operations["constexpr_blockwise_shift_scale"]
    change, error, message = EDITS[name]
    change(SimpleNamespace(model=model, program=program, relu=operations["relu"], weight=weight))
    run(Program(package))
    (package / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(model.SerializeToString())
    with pytest.raises(error, match=message):
        run(Program(package))


def test_inputs_must_be_what_is_declared(program: Program) -> None:
    assert program.inputs == {name: (array.shape, array.dtype) for name, array in INPUTS.items()}
    with pytest.raises(KeyError, match="x, y, p, i, not x, y, p"):
        program.predict({"x": X, "y": Y, "p": P})
    with pytest.raises(KeyError, match="z"):
        program.predict(INPUTS | {"z": X})
    with pytest.raises(ValueError, match=r"input y is \(3, 1, 5\), not \(3, 5\)"):
        program.predict(INPUTS | {"y": Y[:, 0]})
    with pytest.raises(TypeError, match="input y is float32, not float64"):
        program.predict(INPUTS | {"y": Y.astype(np.float64)})


def test_inputs_are_left_alone_and_outputs_are_new(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    program = Program(save(tmp_path, lambda v: (mb.identity(x=v.x), mb.const(val=MATRIX))))
    recwarn.clear()
    given = X.copy()
    given.setflags(write=False)
    for _ in range(2):
        same, constant = program.predict(INPUTS | {"x": given}).values()
        assert np.array_equal(same, X)
        assert np.array_equal(constant, MATRIX)
        same += 1
        constant += 1
    assert not recwarn.list


def test_half_rounds_and_overflows(tmp_path: Path) -> None:
    def build(v: Any) -> Any:
        third = mb.mul(x=mb.real_div(x=v.x, y=np.float16(3)), y=np.float16(3), name="third")
        return third, mb.mul(x=mb.mul(x=v.p, y=np.float16(60000)), y=np.float16(0.001), name="large")

    package = save(tmp_path, build, types.fp16)
    x, p = X.astype(np.float16), P.astype(np.float16)
    full, half = run(Program(package)), run(Program(package, half=True))
    assert {array.dtype for array in (*full.values(), *half.values())} == {np.dtype(np.float16)}
    assert np.array_equal(full["third"], x)
    assert np.array_equal(half["third"], rounded := x / np.float16(3) * np.float16(3))
    assert not np.array_equal(rounded, x)
    np.testing.assert_allclose(full["large"], 60 * P, 2e-3)
    with np.errstate(over="ignore"):
        assert np.array_equal(half["large"], overflown := p * np.float16(60000) * np.float16(0.001))
    assert np.isinf(overflown).any()
    assert np.isfinite(overflown).any()


def test_half_rounds_only_what_is_float16(tmp_path: Path) -> None:
    def build(v: Any) -> Any:
        return mb.cast(x=mb.cast(x=v.x, dtype="fp16"), dtype="fp32", name="cast"), mb.mul(x=v.x, y=v.p, name="product")

    package = save(tmp_path, build)
    half = run(Program(package, half=True))
    assert np.array_equal(half["cast"], X.astype(np.float16).astype(np.float32))
    assert np.array_equal(half["product"], X * P)
    assert np.array_equal(run(Program(package))["cast"], X)


def test_a_result_is_freed_after_its_last_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Any] = []
    alive = []

    def square(x: Any) -> Any:
        alive.append(sum(result() is not None for result in results))
        results.append(weakref.ref(y := torch.square(x)))
        return y

    monkeypatch.setitem(mil_evaluator._OPERATIONS, "square", square)
    package = save(tmp_path, lambda v: mb.square(x=mb.square(x=mb.square(x=mb.square(x=v.x)))))
    run(Program(package))
    assert alive == [0, 1, 1, 1]


PALETTE, LINEAR = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig
GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}
BLOCKS = {"granularity": "per_block", "block_size": 4}
COMPRESSIONS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    **{f"17, {bits} bits": (ct.target.iOS17, PALETTE, {"nbits": bits}) for bits in (1, 2, 4, 6, 8)},
    **{f"18, {bits} bits": (ct.target.iOS18, PALETTE, {"nbits": bits}) for bits in (1, 2, 3, 4, 6, 8)},
    "18, uniform palette": (ct.target.iOS18, PALETTE, {"nbits": 4, "mode": "uniform"}),
    "18, grouped outputs": (ct.target.iOS18, PALETTE, {"nbits": 4, **GROUPS}),
    "18, grouped inputs": (ct.target.iOS18, PALETTE, {"nbits": 3, "channel_axis": 1, **GROUPS}),
    "18, scale for each channel": (ct.target.iOS18, PALETTE, {"nbits": 2, "enable_per_channel_scale": True}),
    "18, vectors": (ct.target.iOS18, PALETTE, {"nbits": 2, "cluster_dim": 2}),
    "17, linear": (ct.target.iOS17, LINEAR, {}),
    "17, linear with offset": (ct.target.iOS17, LINEAR, {"mode": "linear", "dtype": "uint8"}),
    "17, linear of the tensor": (ct.target.iOS17, LINEAR, {"mode": "linear", "granularity": "per_tensor"}),
    "18, linear": (ct.target.iOS18, LINEAR, {}),
    "18, linear with offset": (ct.target.iOS18, LINEAR, {"mode": "linear", "dtype": "uint8"}),
    "18, linear of the tensor": (ct.target.iOS18, LINEAR, {"granularity": "per_tensor"}),
    "18, linear of 4 bits": (ct.target.iOS18, LINEAR, {"dtype": "int4", **BLOCKS}),
    "18, linear of 4 bits with offset": (ct.target.iOS18, LINEAR, {"mode": "linear", "dtype": "uint4", **BLOCKS}),
}


@pytest.fixture(scope="module")
def dense() -> dict[Any, Any]:
    """One convolution for each target, with its weights in float16."""

    def make(target: Any) -> Any:
        @mb.program(input_specs=[mb.TensorSpec((1, 8, 5, 5))], opset_version=target)  # type: ignore[untyped-decorator]
        def program(x: Any) -> Any:
            return mb.conv(x=x, weight=normal(8, 12, 8, 3, 3), name="y")

        return ct.convert(
            program, "milinternal", convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True
        )

    return {target: make(target) for target in (ct.target.iOS17, ct.target.iOS18)}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_are_what_coremltools_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: dict[Any, Any], name: str
) -> None:
    target, kind, settings = COMPRESSIONS[name]
    config = cto.OptimizationConfig(global_config=kind(weight_threshold=0, **settings))
    compress = cto.palettize_weights if kind is PALETTE else cto.linear_quantize_weights
    compressed = compress(dense[target], config)
    compressed.save(str(tmp_path / "program.mlpackage"))
    (expected,) = [
        operation.outputs[0].val
        for operation in cto.decompress_weights(compressed)._mil_program.functions["main"].operations
        if operation.op_type == "const" and np.ndim(operation.outputs[0].val) == 4
    ]
    decoders = {name: Mock(side_effect=decode) for name, decode in mil_evaluator._DECODERS.items()}
    monkeypatch.setattr(mil_evaluator, "_DECODERS", decoders)
    program = Program(tmp_path / "program.mlpackage")
    assert sum(decoder.call_count for decoder in decoders.values()) == 0
    x = normal(9, 1, 8, 5, 5)
    for _ in range(2):
        np.testing.assert_allclose(
            program.predict({"x": x})["y"], convolved(x, expected.astype(np.float32)), 1e-3, 1e-3
        )
    assert all(decoder.call_count == program.operations()[name] for name, decoder in decoders.items())
    weights = [array for array in program.weights().values() if array.shape == expected.shape]
    assert any(np.array_equal(array, expected.astype(np.float32)) for array in weights)


def test_weights_are_the_constants_of_many_elements(tmp_path: Path) -> None:
    kernel = MATRIX.astype(np.float16)
    package = save(
        tmp_path,
        lambda v: mb.linear(
            x=mb.transpose(x=mb.mul(x=v.x, y=np.float16(2)), perm=mb.const(val=[1, 0, 2, 3], name="order")),
            weight=mb.const(val=kernel, name="kernel"),
            bias=mb.const(val=VECTOR.astype(np.float16), name="bias"),
        ),
        types.fp16,
    )
    weights = Program(package).weights()
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    assert {name: array.tolist() for name, array in weights.items()} == {
        "order": [1, 0, 2, 3],
        "kernel": kernel.tolist(),
        "bias": VECTOR.astype(np.float16).tolist(),
    }
