"""Random models of one operator, for comparison with ONNX Runtime. Each maker draws attributes and an opset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
Maker = Callable[[Rng], onnx.ModelProto]
MAKERS: dict[str, Maker] = {}


def model(
    op: str,
    inputs: Sequence[tuple[int, ...] | np.ndarray | None],
    attrs: Mapping[str, Any] | None = None,
    opset: int = 13,
    outputs: int = 1,
) -> onnx.ModelProto:
    """One node; tuples are variable inputs of that shape, arrays constants, None inputs left out."""
    names, variables, weights = [], [], []
    for index, item in enumerate(inputs):
        if item is None:
            names.append("")
        elif isinstance(item, np.ndarray):
            names.append(f"w{index}")
            weights.append(numpy_helper.from_array(item, f"w{index}"))
        else:
            names.append(f"x{index}")
            variables.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, item))
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, **{k: v for k, v in (attrs or {}).items() if v is not None})
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph([node], "one", variables, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def maker(op: str) -> Callable[[Maker], Maker]:
    def register(function: Maker) -> Maker:
        MAKERS[op] = function
        return function

    return register


def pick(rng: Rng, *items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def floats(rng: Rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def shape_of_rank(rng: Rng, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(size) for size in rng.integers(1, 5, rng.integers(low, high + 1)))


def opset(rng: Rng, *choices: int) -> int:
    return int(pick(rng, *choices))


def partner(rng: Rng, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts with ``shape``, either way."""
    other = [size if rng.random() < 0.6 else 1 for size in shape]
    other = other[int(rng.integers(0, len(other) + 1)) :]
    if rng.random() < 0.2:
        other = [int(rng.integers(1, 3)), *([1] * (len(shape) - len(other))), *other]
    return tuple(other)


def _binary(op: str, both: bool) -> None:
    @maker(op)
    def make(rng: Rng) -> onnx.ModelProto:
        x = shape_of_rank(rng, 1, 4)
        y = partner(rng, x)
        version = opset(rng, 7, 8, 13, 14, 21)
        if both and rng.random() < 0.4:
            return model(op, [x, y] if rng.random() < 0.5 else [y, x], opset=version)
        const = np.asarray(floats(rng, *y) + (3 if op == "Div" else 0), np.float32)
        if op == "Div" or rng.random() < 0.5:
            return model(op, [x, const], opset=version)
        return model(op, [const, x], opset=version)


for _op, _both in (("Add", True), ("Sub", True), ("Mul", False), ("Div", False)):
    _binary(_op, _both)


def _unary(op: str, *versions: int) -> None:
    @maker(op)
    def make(rng: Rng) -> onnx.ModelProto:
        return model(op, [shape_of_rank(rng, 0, 4)], opset=opset(rng, *versions))


for _op in ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity"):
    _unary(_op, 7, 12, 13, 14, 22)


@maker("LeakyRelu")
def _leaky(rng: Rng) -> onnx.ModelProto:
    return model("LeakyRelu", [(2, 3)], {"alpha": pick(rng, None, 0.3, 0.0, 1.5)}, opset(rng, 7, 16))


@maker("PRelu")
def _prelu(rng: Rng) -> onnx.ModelProto:
    slope = pick(rng, floats(rng, 1), floats(rng, 3, 1), floats(rng, 2, 3, 4))
    return model("PRelu", [(2, 3, 4), slope], opset=opset(rng, 9, 16))


@maker("HardSigmoid")
def _hard(rng: Rng) -> onnx.ModelProto:
    return model("HardSigmoid", [(2, 3)], {"alpha": pick(rng, None, 0.7), "beta": pick(rng, None, 0.1)}, 13)


@maker("Clip")
def _clip(rng: Rng) -> onnx.ModelProto:
    low, high = pick(rng, (-0.5, 0.7), (None, 0.3), (0.0, None), (0.1, 0.1), (0.5, -0.5))
    if rng.random() < 0.4:
        return model("Clip", [(2, 3)], {"min": low, "max": high}, opset(rng, 7, 10))
    bounds = [None if bound is None else np.array(bound, np.float32) for bound in (low, high)]
    return model("Clip", [(2, 3), *bounds], opset=opset(rng, 11, 12, 13))


@maker("Max")
def _max(rng: Rng) -> onnx.ModelProto:
    third = pick(rng, np.array(0.2, np.float32), floats(rng, 3), (2, 1))
    return model(pick(rng, "Max", "Min"), [(2, 3), third, (1, 3)], opset=opset(rng, 8, 13))


@maker("Sum")
def _sum(rng: Rng) -> onnx.ModelProto:
    return model(pick(rng, "Sum", "Mean"), [(2, 3), floats(rng, 3), (2, 1), (1, 3)], opset=opset(rng, 8, 13))


@maker("MatMul")
def _matmul(rng: Rng) -> onnx.ModelProto:
    k, n, m, b = (int(size) for size in rng.integers(1, 5, 4))
    x = pick(rng, (k,), (n, k), (b, n, k), (2, b, n, k), (1, n, k))
    y = pick(rng, (k,), (k, m), (b, k, m), (2, 1, k, m), (1, k, m), (2, b, k, m))
    if rng.random() < 0.5:
        return model("MatMul", [x, floats(rng, *y)], opset=opset(rng, 7, 9, 13))
    return model("MatMul", [floats(rng, *x), y], opset=opset(rng, 7, 9, 13))


@maker("Gemm")
def _gemm(rng: Rng) -> onnx.ModelProto:
    n, k, m = (int(size) for size in rng.integers(1, 5, 3))
    trans_a, trans_b = bool(rng.integers(2)), bool(rng.integers(2))
    x = (k, n) if trans_a else (n, k)
    y = (m, k) if trans_b else (k, m)
    c = pick(rng, (m,), (1, m), (n, 1), (n, m), (), (1,), None)
    attrs = {
        "transA": int(trans_a),
        "transB": int(trans_b),
        "alpha": pick(rng, None, 0.3, -2.0),
        "beta": pick(rng, None, 0.7, 0.0),
    }
    addend = None if c is None else c if rng.random() < 0.2 else floats(rng, *c)
    sides = [x, floats(rng, *y)] if rng.random() < 0.6 else [floats(rng, *x), y]
    version = opset(rng, 11, 13) if addend is None else opset(rng, 7, 9, 11, 13)
    return model("Gemm", [*sides, addend] if addend is not None else sides, attrs, version)


def windows(rng: Rng, half: int, dilated: bool = True) -> dict[str, Any]:
    """Random attributes of sliding windows over ``half`` axes."""
    kernel = rng.integers(1, 4, half).tolist()
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if rng.random() < 0.6:
        attrs["strides"] = rng.integers(1, 4, half).tolist()
    if dilated and rng.random() < 0.3:
        attrs["dilations"] = rng.integers(1, 3, half).tolist()
    auto = pick(rng, None, None, "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto:
        attrs["auto_pad"] = auto
    if auto in (None, "NOTSET") and rng.random() < 0.7:
        attrs["pads"] = [int(rng.integers(0, size)) for size in [*kernel, *kernel]]
    return attrs


def pool_windows(rng: Rng, half: int, dilated: bool) -> dict[str, Any]:
    """Windows of pooling: automatic padding and dilation together are refused, so they aren't drawn."""
    attrs = windows(rng, half, dilated)
    if str(attrs.get("auto_pad")).startswith("SAME"):
        attrs.pop("dilations", None)
    return attrs


@maker("Conv")
def _conv(rng: Rng) -> onnx.ModelProto:
    half, group = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    attrs = windows(rng, half)
    inner, out = int(rng.integers(1, 3)), group * int(rng.integers(1, 3))
    x = (int(rng.integers(1, 3)), group * inner, *(int(size) for size in rng.integers(4, 8, half)))
    weights = [floats(rng, out, inner, *attrs["kernel_shape"])]
    if rng.random() < 0.5:
        weights.append(floats(rng, out))
    if rng.random() < 0.3:
        del attrs["kernel_shape"]
    return model("Conv", [x, *weights], {**attrs, "group": group}, opset(rng, 7, 11, 22))


@maker("AveragePool")
def _average(rng: Rng) -> onnx.ModelProto:
    half, version = int(rng.integers(1, 4)), opset(rng, 7, 10, 11, 19, 22)
    attrs = pool_windows(rng, half, version >= 19)
    attrs["count_include_pad"] = int(rng.integers(2))
    if version >= 10:
        attrs["ceil_mode"] = int(rng.integers(2))
    x = (1, int(rng.integers(1, 3)), *(int(size) for size in rng.integers(4, 8, half)))
    return model("AveragePool", [x], attrs, version)


@maker("MaxPool")
def _max_pool(rng: Rng) -> onnx.ModelProto:
    half, version = int(rng.integers(1, 4)), opset(rng, 7, 8, 10, 11, 12, 22)
    attrs = pool_windows(rng, half, version >= 10)
    if version >= 10:
        attrs["ceil_mode"] = int(rng.integers(2))
    x = (1, int(rng.integers(1, 3)), *(int(size) for size in rng.integers(4, 8, half)))
    return model("MaxPool", [x], attrs, version)


@maker("GlobalPool")
def _global(rng: Rng) -> onnx.ModelProto:
    return model(pick(rng, "GlobalAveragePool", "GlobalMaxPool"), [pick(rng, (1, 2, 5), (2, 3, 4, 5))], opset=13)


@maker("BatchNormalization")
def _batch(rng: Rng) -> onnx.ModelProto:
    weights = [floats(rng, 3), floats(rng, 3), floats(rng, 3), np.abs(floats(rng, 3))]
    x = pick(rng, (2, 3), (2, 3, 4), (1, 3, 4, 5), (1, 3, 2, 2, 2))
    return model("BatchNormalization", [x, *weights], {"epsilon": pick(rng, None, 1e-3)}, opset(rng, 7, 9, 14, 15))


@maker("Flatten")
def _flatten(rng: Rng) -> onnx.ModelProto:
    return model("Flatten", [(2, 3, 4)], {"axis": pick(rng, None, -3, -1, 0, 1, 2, 3)}, opset(rng, 11, 13))


@maker("Reshape")
def _reshape(rng: Rng) -> onnx.ModelProto:
    target = pick(rng, (0, -1), (-1,), (4, 6), (0, 0, 0), (2, 0, 2, -1), (1, 24))
    return model("Reshape", [(2, 3, 4), ints(*target)], opset=opset(rng, 7, 13, 14, 21))


@maker("Transpose")
def _transpose(rng: Rng) -> onnx.ModelProto:
    perm = None if rng.random() < 0.3 else rng.permutation(4).tolist()
    return model("Transpose", [(2, 1, 3, 4)], {"perm": perm}, opset(rng, 7, 13, 21))


@maker("Squeeze")
def _squeeze(rng: Rng) -> onnx.ModelProto:
    axes = pick(rng, None, [0], [0, 2], [-2])
    if rng.random() < 0.5:
        return model("Squeeze", [(1, 3, 1, 2)], {"axes": axes}, opset(rng, 11, 12))
    return model("Squeeze", [(1, 3, 1, 2), *([] if axes is None else [ints(*axes)])], opset=opset(rng, 13, 21))


@maker("Unsqueeze")
def _unsqueeze(rng: Rng) -> onnx.ModelProto:
    axes = pick(rng, [0], [1, 3], [-1], [3, 0], [-1, 0])
    if rng.random() < 0.5:
        return model("Unsqueeze", [(2, 3)], {"axes": axes}, 11)
    return model("Unsqueeze", [(2, 3), ints(*axes)], opset=opset(rng, 13, 21))


@maker("Concat")
def _concat(rng: Rng) -> onnx.ModelProto:
    parts: list[Any] = [(2, 1, 3), floats(rng, 2, 4, 3), (2, 2, 3)]
    rng.shuffle(parts)
    return model(
        "Concat", [*parts[: int(rng.integers(1, 4))], (2, 3, 3)], {"axis": pick(rng, 1, -2)}, opset(rng, 11, 13)
    )


@maker("Slice")
def _slice(rng: Rng) -> onnx.ModelProto:
    x, count = (4, 5, 6), int(rng.integers(1, 4))
    old = rng.random() < 0.3
    axes = rng.permutation(3)[:count]
    steps = np.ones(count, np.int64) if old else rng.choice([-2, -1, 1, 1, 2, 3], count)
    ends = np.array([int(rng.integers(0, x[axis])) for axis in axes])  # two places along the axis, in order
    starts = np.array([int(rng.integers(0, end + 1)) for end in ends])
    ends = ends + 1
    starts, ends = np.where(steps < 0, ends - 1, starts), np.where(steps < 0, starts - 1, ends)
    sizes = np.array(x)[axes]
    starts = np.where(rng.random(count) < 0.3, starts - sizes, starts)  # the same places counted from the end
    ends = np.where((rng.random(count) < 0.5) | (ends < 0), ends - sizes, ends)
    ends = np.where(rng.random(count) < 0.2, np.where(steps < 0, -99, np.iinfo(np.int64).max), ends)
    ends = np.where((rng.random(count) < 0.1) & (steps < 0), np.iinfo(np.int64).max, ends)
    if old:
        attrs = {"starts": starts.tolist(), "ends": ends.tolist(), "axes": axes.tolist()}
        return model("Slice", [x], attrs, 7)
    axes = np.where(rng.random(count) < 0.3, axes - 3, axes)
    return model("Slice", [x, starts, ends, axes.astype(np.int64), steps], opset=opset(rng, 10, 11, 13))


@maker("Split")
def _split(rng: Rng) -> onnx.ModelProto:
    x, axis, sizes = (2, 6), pick(rng, 1, -1), pick(rng, [1, 2, 3], [2, 2, 2])
    kind = int(rng.integers(4))
    if kind == 0:
        return model("Split", [x], {"axis": axis, "split": sizes}, opset(rng, 7, 11), 3)
    if kind == 1:
        return model("Split", [x], {"axis": axis}, opset(rng, 7, 11, 13), pick(rng, 2, 3))
    if kind == 2:
        return model("Split", [x, ints(*sizes)], {"axis": axis}, opset(rng, 13, 18), 3)
    return model("Split", [x], {"axis": axis, "num_outputs": 4}, 18, 4)  # 2, 2, 2 and an empty one is illegal


@maker("Gather")
def _gather(rng: Rng) -> onnx.ModelProto:
    axis = pick(rng, None, 0, 1, -1)
    size = (4, 5, 6)[axis or 0]
    shape = pick(rng, (), (3,), (2, 2), (1,))
    indices = rng.integers(-size, size, shape).astype(pick(rng, np.int64, np.int32))
    return model("Gather", [(4, 5, 6), np.asarray(indices)], {"axis": axis}, opset(rng, 11, 13))


@maker("Pad")
def _pad(rng: Rng) -> onnx.ModelProto:
    mode = pick(rng, None, "constant", "reflect", "edge")
    low = -1 if mode in (None, "constant") else 0
    pads = rng.integers(low, 3, 4)
    value = pick(rng, None, 1.5)
    kind = int(rng.integers(3))
    if kind == 0:
        return model(
            "Pad",
            [
                (3, 4),
            ],
            {"pads": pads.tolist(), "mode": mode, "value": value},
            opset(rng, 7, 10),
        )
    fill = None if value is None else np.array(value, np.float32)
    if kind == 1:
        return model("Pad", [(3, 4), pads, *([] if fill is None else [fill])], {"mode": mode}, opset(rng, 11, 13))
    axis = pick(rng, 0, 1, -1)
    return model("Pad", [(3, 4), pads[:2], fill, ints(axis)], {"mode": mode}, opset(rng, 18, 21))


@maker("Reduce")
def _reduce(rng: Rng) -> onnx.ModelProto:
    op, axes, keep = pick(rng, "ReduceSum", "ReduceMean"), pick(rng, None, [0], [1, -1], [2]), pick(rng, None, 0, 1)
    if rng.random() < 0.5:
        return model(op, [(2, 3, 4)], {"axes": axes, "keepdims": keep}, 11)
    noop = pick(rng, None, 1)
    given = [] if axes is None else [ints(*axes)]
    return model(op, [(2, 3, 4), *given], {"keepdims": keep, "noop_with_empty_axes": noop}, 18)


@maker("Cast")
def _cast(rng: Rng) -> onnx.ModelProto:
    return model("Cast", [(2, 3)], {"to": TensorProto.FLOAT}, opset(rng, 9, 13, 21))


@maker("Dropout")
def _dropout(rng: Rng) -> onnx.ModelProto:
    if rng.random() < 0.5:
        return model("Dropout", [(2, 3)], {"ratio": 0.5}, opset(rng, 7, 10))
    return model("Dropout", [(2, 3), np.array(0.5, np.float32)], opset=opset(rng, 12, 13))


@maker("Expand")
def _expand(rng: Rng) -> onnx.ModelProto:
    return model("Expand", [(3, 1), ints(*pick(rng, (2, 1, 6), (3, 4), (1,), (3, 1)))], opset=opset(rng, 8, 13))


@maker("Tile")
def _tile(rng: Rng) -> onnx.ModelProto:
    return model("Tile", [(2, 3), ints(*rng.integers(1, 4, 2).tolist())], opset=opset(rng, 7, 13))


@maker("Where")
def _where(rng: Rng) -> onnx.ModelProto:
    mask = rng.random((3, 4)) < 0.5
    sides: list[Any] = [(2, 3, 4), pick(rng, (4,), floats(rng, 1), floats(rng, 3, 4))]
    rng.shuffle(sides)
    return model("Where", [mask, *sides], opset=opset(rng, 9, 16))


@maker("Depth")
def _depth(rng: Rng) -> onnx.ModelProto:
    if rng.random() < 0.5:
        return model("SpaceToDepth", [(1, 2, 4, 6)], {"blocksize": 2}, 13)
    return model("DepthToSpace", [(1, 8, 2, 3)], {"blocksize": 2, "mode": pick(rng, None, "DCR", "CRD")}, 13)


@maker("Pow")
def _pow(rng: Rng) -> onnx.ModelProto:
    return model("Pow", [(2, 3), np.array(1.0, np.float32)], opset=opset(rng, 7, 13))
