"""Importers of reductions, of the softmax family, and of the places of extremes as exact 0/1 values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.affine import number
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Ref, Value
from verinn.io.onnx_reader.call import Call, axis_of, importer
from verinn.io.onnx_reader.select import one_hot
from verinn.ir.graph import Const

_INT64 = 7
# Up to here each beginning and each end of an axis gets a maximum of its own; beyond, a chain of them.
MAX_SPANS = 32


def axes_of(call: Call, x: Value) -> list[int] | None:
    """The axes of a reduction: all when none are given; None when nothing is to be reduced."""
    rank = len(x.shape)
    axes = call.axes("axes", 1, rank)
    if axes:
        return sorted(axes)
    return None if call.attr("noop_with_empty_axes", 0) else list(range(rank))


def kept(call: Call, reduced: Value, axes: list[int]) -> Value:
    """The result with its reduced axes of length 1, or without them."""
    if call.attr("keepdims", 1):
        return reduced
    shape = [size for axis, size in enumerate(reduced.shape) if axis not in axes]
    return call.builder.reshape(reduced, shape)


Reduction = Callable[[Builder, Value, list[int]], Value]


def mean(builder: Builder, x: Value, axes: list[int]) -> Value:
    """The mean over axes, which stay with length 1."""
    return builder.div(builder.total(x, axes), number(math.prod(x.shape[axis] for axis in axes), x.dtype))


def _least(builder: Builder, x: Value, axes: list[int]) -> Value:
    return builder.neg(builder.greatest(builder.neg(x), axes))


def _norm(builder: Builder, x: Value, axes: list[int]) -> Value:
    return builder.elementwise("sqrt", builder.total(builder.square(x), axes))


def _log_sum_exp(builder: Builder, x: Value, axes: list[int]) -> Value:
    """log Σ exp(x), as x₀ − log_softmax(x)₀ along the reduced axes made one."""
    rest = [axis for axis in range(len(x.shape)) if axis not in axes]
    flat = builder.transpose(x, rest + axes)
    flat = builder.reshape(flat, (*(x.shape[axis] for axis in rest), math.prod(x.shape[axis] for axis in axes)))
    last = len(rest)
    first, logs = (builder.narrow(v, last, 0, 1) for v in (flat, builder.softmax(flat, last, log=True)))
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return builder.reshape(builder.add(first, logs, -1), shape)


def _product(builder: Builder, x: Value, axes: list[int]) -> Value:
    """Pairs are multiplied until one is left."""
    for axis in axes:
        while x.shape[axis] > 1:
            half = x.shape[axis] // 2
            pair = builder.mul(builder.narrow(x, axis, 0, half), builder.narrow(x, axis, half, half))
            rest = x.shape[axis] - 2 * half
            x = builder.concat([pair, builder.narrow(x, axis, 2 * half, 1)], axis) if rest else pair
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": lambda builder, x, axes: builder.total(x, axes),
    "ReduceMean": mean,
    "ReduceMax": lambda builder, x, axes: builder.greatest(x, axes),
    "ReduceMin": _least,
    "ReduceL1": lambda builder, x, axes: builder.total(builder.elementwise("abs", x), axes),
    "ReduceL2": _norm,
    "ReduceSumSquare": lambda builder, x, axes: builder.total(builder.square(x), axes),
    "ReduceProd": _product,
    "ReduceLogSum": lambda builder, x, axes: builder.elementwise("log", builder.total(x, axes)),
    "ReduceLogSumExp": _log_sum_exp,
}


@importer(*_REDUCTIONS)
def _reduce(call: Call) -> Value:
    x = call.value(0)
    axes = axes_of(call, x)
    if axes is None:
        # The standard leaves the elementwise part of a reduction over no axes in place.
        return x if call.op in _PLAIN else _REDUCTIONS[call.op](call.builder, x, [])
    if isinstance(x, Known) and x.dtype not in FLOATS:
        return _whole(call, x, axes)
    if math.prod(x.shape) == 0:
        raise Unsupported("reduces an empty tensor")
    return kept(call, _REDUCTIONS[call.op](call.builder, x, axes), axes)


_PLAIN = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


def _whole(call: Call, x: Known, axes: list[int]) -> Value:
    """Sums, products and extremes of integer constants."""
    functions: dict[str, Callable[..., np.ndarray]] = {
        "ReduceSum": np.sum,
        "ReduceMax": np.max,
        "ReduceMin": np.min,
        "ReduceProd": np.prod,
    }
    if call.op not in functions:
        raise Unsupported(f"computes {call.op} of integers")
    value = np.asarray(functions[call.op](x.const.value, axis=tuple(axes), keepdims=True))
    return kept(call, Known(Const(value), x.dtype), axes)


# -- softmax ---------------------------------------------------------------------------------------


def _flattened(call: Call, x: Value, function: Callable[[Value, int], Value]) -> Value:
    """Apply along an axis; before opset 13 over all axes from there on, taken as one."""
    axis = axis_of(int(call.attr("axis", -1 if call.opset >= 13 else 1)), len(x.shape))
    if call.opset >= 13 or axis == len(x.shape) - 1:
        return function(x, axis)
    flat = call.builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return call.builder.reshape(function(flat, 1), x.shape)


@importer("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Value:
    log = call.op == "LogSoftmax"
    return _flattened(call, call.real(), lambda x, axis: call.builder.softmax(x, axis, log))


@importer("Hardmax")
def _hardmax(call: Call) -> Value:
    """1 at the first of the greatest, else 0."""
    builder = call.builder

    def apply(x: Value, axis: int) -> Value:
        reach = reaches(builder, without_monotone(builder, x, axis), axis, last=False)
        if reach is None:
            return Known(Const(np.ones(x.shape)), x.dtype)
        edge = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        ones, zeros = (Known(Const(np.full(edge, level)), reach.dtype) for level in (1.0, 0.0))
        hot = builder.add(builder.concat([ones, reach], axis), builder.concat([reach, zeros], axis), -1)
        return builder.retype(hot, x.dtype)

    return _flattened(call, call.real(), apply)


# -- places of extremes ----------------------------------------------------------------------------


@importer("ArgMax", "ArgMin")
def _arg_max(call: Call) -> Value:
    """The place is at least k where the maximum from k on exceeds the maximum before k: a sum of steps."""
    builder, x = call.builder, call.value()
    axis = axis_of(int(call.attr("axis", 0)), len(x.shape))
    x = builder.neg(x) if call.op == "ArgMin" else without_monotone(builder, x, axis)
    reach = reaches(builder, x, axis, last=bool(call.attr("select_last_index", 0)))
    shape = tuple(1 if i == axis else size for i, size in enumerate(x.shape))
    if reach is None:
        place: Value = Known(Const(np.zeros(shape, np.int64)), _INT64)
    else:
        place = builder.retype(builder.total(reach, [axis]), _INT64)
    return kept(call, place, [axis])


def reaches(builder: Builder, x: Value, axis: int, last: bool) -> Value | None:
    """For k = 1 … n − 1 along the axis, as 0/1: whether the place of the maximum is at least k; None for n = 1."""
    size = x.shape[axis]
    if size < 2:
        return None
    before, after = _spans(builder, x, axis)
    gaps = [builder.add(b, a, -1) for a, b in zip(before, after, strict=True)]
    return builder.step(builder.concat(gaps, axis), strict=not last)


def _spans(builder: Builder, x: Value, axis: int) -> tuple[list[Value], list[Value]]:
    """The maxima of entries 0 … k − 1, and of k … n − 1, for k = 1 … n − 1."""
    size = x.shape[axis]
    if size <= MAX_SPANS:
        before = [builder.greatest(builder.narrow(x, axis, 0, k), [axis]) for k in range(1, size)]
        return before, [builder.greatest(builder.narrow(x, axis, k, size - k), [axis]) for k in range(1, size)]
    entries = [builder.narrow(x, axis, k, 1) for k in range(size)]
    before, after = entries[:1], entries[-1:]
    for k in range(1, size - 1):
        before.append(builder.larger(before[-1], entries[k]))
        after.append(builder.larger(after[-1], entries[size - 1 - k]))
    return before, after[::-1]


_INCREASING = frozenset({"sigmoid", "tanh", "atan", "erf", "softplus", "exp", "log", "sqrt"})


def without_monotone(builder: Builder, x: Value, axis: int) -> Value:
    """A value whose greatest entry along the axis is at the same place as that of x.

    Softmax along that axis and strictly increasing functions are dropped, followed back along edges
    through moves that keep the axis whole.
    """
    found = _before_monotone(builder, x, axis) if isinstance(x, Ref) else None
    return x if found is None else without_monotone(builder, found, axis)


def _before_monotone(builder: Builder, x: Ref, axis: int) -> Value | None:
    node = builder.makers.get(x.name)
    if node is None or len(node.inputs) != 1:
        return None
    before = Ref(node.inputs[0], builder.shapes[node.inputs[0]], x.dtype)
    if node.op in _INCREASING or (node.op in ("softmax", "log_softmax") and node.attrs["axis"] == axis):
        return before
    if node.op == "transpose":
        found = _before_monotone(builder, before, node.attrs["perm"][axis])
        return None if found is None else builder.transpose(found, node.attrs["perm"])
    if node.op == "reshape":
        lead = math.prod(node.shape[:axis])
        same = [a for a in range(len(before.shape)) if math.prod(before.shape[:a]) == lead]
        same = [a for a in same if before.shape[a] == node.shape[axis]]
        found = _before_monotone(builder, before, same[0]) if same else None
        return None if found is None else builder.reshape(found, node.shape)
    if node.op == "slice" and node.shape[axis] == before.shape[axis] and node.attrs["steps"][axis] == 1:
        found = _before_monotone(builder, before, axis)
        specs = (node.attrs["starts"], node.attrs["steps"], node.attrs["sizes"])
        return None if found is None else builder.slice(found, *specs)
    return None


@importer("OneHot")
def _one_hot(call: Call) -> Value:
    """off + (on − off) · [index = k], negative indices from the end; indices out of range are all off."""
    builder, indices, levels = call.builder, call.value(0), call.value(2)
    depth = int(call.scalar(1, "the depth"))
    rank = len(indices.shape) + 1
    axis = axis_of(int(call.attr("axis", -1)), rank)
    if depth < 1 or levels.shape != (2,):
        raise InputError(f"has the depth {depth} and values of the shape {list(levels.shape)}")
    if isinstance(indices, Known):
        whole = indices.const.value
        hot: Value = Known(Const((np.mod(whole, depth)[..., None] == np.arange(depth)) & _within(whole, depth)), 9)
    else:
        low, _ = builder.whole_range(indices)
        hot = one_hot(builder, indices, 0, depth)
        hot = hot if low >= 0 else builder.add(hot, one_hot(builder, indices, -depth, depth))
    hot = builder.transpose(hot, [*range(axis), rank - 1, *range(axis, rank - 1)])
    off, on = (builder.narrow(levels, 0, k, 1) for k in (0, 1))
    return builder.retype(builder.add(off, builder.mul(hot, builder.add(on, off, -1))), levels.dtype)


def _within(whole: np.ndarray, depth: int) -> np.ndarray:
    return np.asarray((whole >= -depth) & (whole < depth))[..., None]
