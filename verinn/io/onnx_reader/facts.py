"""What is known of values that depend on the inputs: ranges of their elements, and where an element comes from.

Ranges start at inputs whose box is known and at steps; they are carried through moves and through
functions that float64 computes exactly, and given up elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verinn.ir import const as c
from verinn.ir.graph import Const, Node, Shape

Range = tuple[np.ndarray, np.ndarray]

# Ranges of larger values are not followed.
MAX_FOLLOWED = 1 << 20
# Whole numbers up to here, and their sums, are exact in float64.
_EXACT = 2.0**52


def range_after(node: Node, ranges: Mapping[str, Range]) -> Range | None:
    """The range of what a node makes, if it follows exactly from what is known of its inputs."""
    if math.prod(node.shape) > MAX_FOLLOWED:
        return None
    if node.op in ("step", "sign"):
        zero, one = np.zeros(node.shape), np.ones(node.shape)
        return (zero, one) if node.op == "step" else (-one, one)
    if node.op == "constant":
        value = node.params["value"]
        return None if value.error is not None else (value.value, value.value)
    given = [ranges[name] for name in node.inputs if name in ranges]
    if not given or len(given) != len(node.inputs):
        return None
    ends = [_moved(node, [pair[side] for pair in given]) for side in (0, 1)]
    if ends[0] is not None and ends[1] is not None:
        return ends[0], ends[1]
    return _computed(node, given)


def _moved(node: Node, xs: list[np.ndarray]) -> np.ndarray | None:
    x, attrs = xs[0], node.attrs
    match node.op:
        case "reshape":
            return x.reshape(node.shape)
        case "expand":
            return np.broadcast_to(x, node.shape)
        case "transpose":
            return x.transpose(attrs["perm"])
        case "gather":
            return np.asarray(np.take(x, attrs["indices"], axis=attrs["axis"]))
        case "concat":
            return np.concatenate(xs, axis=attrs["axis"])
        case "slice":
            specs = zip(attrs["starts"], attrs["steps"], attrs["sizes"], strict=True)
            return np.asarray(x[np.ix_(*[start + step * np.arange(size) for start, step, size in specs])])
    return None


def _computed(node: Node, given: list[Range]) -> Range | None:
    """Functions that are monotone and exact in float64; sums of whole numbers."""
    low, high = given[0]
    match node.op:
        case "relu":
            return np.maximum(low, 0.0), np.maximum(high, 0.0)
        case "floor":
            return np.floor(low), np.floor(high)
        case "ceil":
            return np.ceil(low), np.ceil(high)
        case "round":
            return np.rint(low), np.rint(high)
        case "clip":
            bounds = node.attrs["lower"], node.attrs["upper"]
            return np.clip(low, *bounds), np.clip(high, *bounds)
        case "abs":
            reach = np.maximum(np.abs(low), np.abs(high))
            return np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high))), reach
        case "shift":
            offset = node.params["offset"]
            if offset.error is None and all(_whole(array) for array in (low, high, offset.value)):
                return low + offset.value, high + offset.value
        case "sum":
            if all(_whole(array) for pair in given for array in pair):
                signed = list(zip(node.attrs["signs"], given, strict=True))
                lows = [pair[0] if sign > 0 else -pair[1] for sign, pair in signed]
                highs = [pair[1] if sign > 0 else -pair[0] for sign, pair in signed]
                return np.sum(lows, axis=0), np.sum(highs, axis=0)
        case "scale":
            factor = node.params["factor"]
            if factor.error is None and all(_whole(array) for array in (low, high, factor.value)):
                ends = low * factor.value, high * factor.value
                return np.minimum(*ends), np.maximum(*ends)
    return None


def _whole(array: np.ndarray) -> bool:
    return bool(np.all(array == np.rint(array)) and np.all(np.abs(array) < _EXACT))


@dataclass(frozen=True)
class Origin:
    """The element ``index`` (row-major) of the value ``name``, plus a whole number."""

    name: str
    index: int
    offset: int


def one_of(const: Const, index: int) -> Const:
    """The element ``index`` (row-major) of a constant, shape (1,)."""
    return c.move(const, lambda array: array.reshape(-1)[index : index + 1])


def trace(makers: Mapping[str, Node], shapes: Mapping[str, Shape], name: str, index: int) -> Const | Origin:
    """Where one element of a value comes from, followed back along edges: through moves and whole constants added."""
    offset = 0
    while (node := makers.get(name)) is not None:
        if node.op == "constant":
            return c.add(one_of(node.params["value"], index), Const(np.array(float(offset))))
        if node.op == "shift":
            const = node.params["offset"]
            added = float(np.broadcast_to(const.value, node.shape).reshape(-1)[index])
            if const.error is not None or added != np.rint(added) or abs(added) > _EXACT:
                break
            offset += int(added)
            name = node.inputs[0]
            continue
        before = _source(node, index, shapes)
        if before is None:
            break
        name, index = before
    return Origin(name, index, offset)


def _source(node: Node, index: int, shapes: Mapping[str, Shape]) -> tuple[str, int] | None:
    """The input of a move, and the index in it, that an element comes from."""
    if node.op == "reshape":
        return node.inputs[0], index
    if node.op not in ("transpose", "slice", "gather", "expand", "concat") or not node.shape:
        return None
    attrs, name = node.attrs, node.inputs[0]
    at = [int(place) for place in np.unravel_index(index, node.shape)]
    match node.op:
        case "transpose":
            at = [at[attrs["perm"].index(axis)] for axis in range(len(at))]
        case "slice":
            at = [s + t * place for s, t, place in zip(attrs["starts"], attrs["steps"], at, strict=True)]
        case "gather":
            at[attrs["axis"]] = attrs["indices"][at[attrs["axis"]]]
        case "expand":
            shape = shapes[name]
            at = [0 if n == 1 else place for n, place in zip(shape, at[len(at) - len(shape) :], strict=True)]
        case "concat":
            axis = attrs["axis"]
            for name in node.inputs:
                size = shapes[name][axis]
                if at[axis] < size:
                    break
                at[axis] -= size
    shape = shapes[name]
    return name, int(np.ravel_multi_index(at, shape)) if shape else 0
