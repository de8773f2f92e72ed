"""Rules that merge affine neighbours into one linear or conv node, with the rounding of that in its errors.

A value is merged away only when nothing else reads it and it is no output.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verinn.ir import const as c
from verinn.ir.graph import Const, Node, Shape, frozen
from verinn.passes.rewrite import Change, Sweep

_OFFSETS = ("scale", "divide", "shift")
_PARAM = {"scale": "factor", "divide": "divisor", "shift": "offset"}


def vector_along(const: Const, shape: Shape, axis: int) -> Const | None:
    """A constant broadcast to ``shape`` as a vector along ``axis``; None if it varies along another axis."""
    lead = (1,) * (len(shape) - len(const.shape))
    full = (*lead, *const.shape)
    if any(size != 1 for index, size in enumerate(full) if index != axis):
        return None
    return c.move(const, lambda array: np.broadcast_to(array.reshape(-1), (shape[axis],)).copy())


def _column(vector: Const, rank: int, axis: int = 0) -> Const:
    """A vector as an array of ``rank`` that varies along ``axis``."""
    return c.reshape(vector, tuple(-1 if index == axis else 1 for index in range(rank)))


def _with_params(node: Node, name: str, inputs: tuple[str, ...], weight: Const, bias: Const | None) -> Node:
    params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return replace(node, name=name, inputs=inputs, params=frozen(params))


def after_affine(node: Node, state: Sweep) -> Change:
    """linear or conv, then scale, divide or shift by a constant per output feature (batch normalisation)."""
    if node.op not in _OFFSETS:
        return None
    inner = state.sole(node.inputs[0], "linear", "conv")
    if inner is None:
        return None
    axis = len(node.shape) - 1 if inner.op == "linear" else 1
    vector = vector_along(node.params[_PARAM[node.op]], node.shape, axis)
    if vector is None:
        return None
    weight, bias = inner.params["weight"], inner.params.get("bias")
    if node.op == "shift":
        return [_with_params(inner, node.name, inner.inputs, weight, vector if bias is None else c.add(bias, vector))]
    combine = c.mul if node.op == "scale" else c.div
    features = _column(vector, len(weight.shape), 1 if inner.op == "linear" else 0)
    scaled = None if bias is None else combine(bias, vector)
    return [_with_params(inner, node.name, inner.inputs, combine(weight, features), scaled)]


def after_reshaped_affine(node: Node, state: Sweep) -> Change:
    """linear or conv, then a reshape, then a constant that, seen before the reshape, is per output feature."""
    if node.op not in _OFFSETS:
        return None
    between = state.sole(node.inputs[0], "reshape")
    inner = None if between is None else state.sole(between.inputs[0], "linear", "conv")
    if between is None or inner is None:
        return None
    key = _PARAM[node.op]
    const = _reshaped(node.params[key], node.shape, inner.shape)
    axis = len(inner.shape) - 1 if inner.op == "linear" else 1
    if vector_along(const, inner.shape, axis) is None:
        return None
    params = frozen({key: const})
    early = replace(node, name=state.fresh(node.name), inputs=between.inputs, shape=inner.shape, params=params)
    return [early, replace(between, name=node.name, inputs=(early.name,))]


def before_linear(node: Node, state: Sweep) -> Change:
    """scale, divide or shift by a constant per feature, then linear."""
    inner = state.sole(node.inputs[0], *_OFFSETS) if node.op == "linear" else None
    if inner is None:
        return None
    vector = vector_along(inner.params[_PARAM[inner.op]], inner.shape, len(inner.shape) - 1)
    if vector is None:
        return None
    weight, bias = node.params["weight"], node.params.get("bias")
    if inner.op == "shift":
        moved = c.matmul(vector, weight)
        return [_with_params(node, node.name, inner.inputs, weight, moved if bias is None else c.add(bias, moved))]
    combine = c.mul if inner.op == "scale" else c.div
    return [_with_params(node, node.name, inner.inputs, combine(weight, _column(vector, 2)), bias)]


def before_conv(node: Node, state: Sweep) -> Change:
    """scale or divide per channel, or shift per channel where nothing is padded, then conv."""
    inner = state.sole(node.inputs[0], *_OFFSETS) if node.op == "conv" else None
    if inner is None or (inner.op == "shift" and any(node.attrs["pads"])):
        return None
    vector = vector_along(inner.params[_PARAM[inner.op]], inner.shape, 1)
    if vector is None:
        return None
    weight, bias, groups = node.params["weight"], node.params.get("bias"), node.attrs["groups"]
    out, channels, *kernel = weight.shape
    per_group = c.reshape(vector, (groups, 1, channels))
    spread = c.move(per_group, lambda array: np.broadcast_to(array, (groups, out // groups, channels)))
    spread = c.reshape(spread, (out, channels, *[1] * len(kernel)))
    if inner.op == "shift":
        moved = c.reshape(c.total(c.mul(weight, spread), range(1, len(weight.shape))), (out,))
        return [_with_params(node, node.name, inner.inputs, weight, moved if bias is None else c.add(bias, moved))]
    combine = c.mul if inner.op == "scale" else c.div
    return [_with_params(node, node.name, inner.inputs, combine(weight, spread), bias)]


def linear_linear(node: Node, state: Sweep) -> Change:
    """Two linear maps in a row, where their product has no more entries than both together."""
    inner = state.sole(node.inputs[0], "linear") if node.op == "linear" else None
    if inner is None:
        return None
    first, second = inner.params["weight"], node.params["weight"]
    (k, h), o = first.shape, second.shape[1]
    if k * o > k * h + h * o:
        return None
    bias = node.params.get("bias")
    if "bias" in inner.params:
        moved = c.matmul(inner.params["bias"], second)
        bias = moved if bias is None else c.add(bias, moved)
    return [_with_params(node, node.name, inner.inputs, c.matmul(first, second), bias)]


def pad_conv(node: Node, state: Sweep) -> Change:
    """Padding by zeros along spatial axes, then conv, which pads itself."""
    inner = state.sole(node.inputs[0], "pad") if node.op == "conv" else None
    if inner is None or inner.attrs["value"] != 0.0:
        return None
    pads, rank = inner.attrs["pads"], len(inner.shape)
    if any(pads[axis] or pads[rank + axis] for axis in (0, 1)):
        return None
    extra = (*pads[2:rank], *pads[rank + 2 :])
    merged = tuple(int(a + b) for a, b in zip(node.attrs["pads"], extra, strict=True))
    return [replace(node, inputs=inner.inputs, attrs=frozen({**node.attrs, "pads": merged}))]


def same_kind(node: Node, state: Sweep) -> Change:
    """shift∘shift and scale∘scale; and shift before scale is turned round where the scale can then merge."""
    if node.op not in ("shift", "scale"):
        return None
    key = _PARAM[node.op]
    inner = state.sole(node.inputs[0], node.op)
    if inner is not None:
        combine = c.add if node.op == "shift" else c.mul
        return [replace(node, inputs=inner.inputs, params=frozen({key: combine(inner.params[key], node.params[key])}))]
    shift = state.sole(node.inputs[0], "shift") if node.op == "scale" else None
    if shift is None or state.sole(shift.inputs[0], "linear", "conv", "scale") is None:
        return None
    scaled = replace(node, name=state.fresh(node.name), inputs=shift.inputs)
    offset = c.mul(shift.params["offset"], node.params["factor"])
    return [scaled, Node(node.name, "shift", (scaled.name,), node.shape, params=frozen({"offset": offset}))]


RULES = (after_affine, after_reshaped_affine, before_linear, before_conv, linear_linear, pad_conv, same_kind)


# -- reshapes --------------------------------------------------------------------------------------

_POINTWISE = (*_OFFSETS, "relu", "leaky_relu", "clip", "abs", "sigmoid", "tanh")


def hoist_reshape(node: Node, state: Sweep) -> Change:
    """Move a reshape up through elementwise nodes (and linear ones that keep their last axis).

    Done where it meets another reshape or the input, or brings a constant offset beside a linear node.
    """
    if node.op != "reshape":
        return None
    inner = _passable(node.inputs[0], node.shape, state)
    if inner is None or not (_meets_end(node, state) or _frees_linear(node, inner, state)):
        return None
    shape = node.shape if inner.op != "linear" else (*node.shape[:-1], inner.params["weight"].shape[0])
    moved = Node(state.fresh(node.name), "reshape", inner.inputs, shape, source=node.source)
    params = dict(inner.params)
    if inner.op in _OFFSETS:
        key = _PARAM[inner.op]
        params[key] = _reshaped(params[key], inner.shape, node.shape)
    return [moved, replace(inner, name=node.name, inputs=(moved.name,), shape=node.shape, params=frozen(params))]


def _passable(name: str, shape: Shape, state: Sweep) -> Node | None:
    """The maker of a value if a reshape to ``shape`` may move before it."""
    inner = state.sole(name, *_POINTWISE, "linear")
    if inner is None or (inner.op == "linear" and (not shape or inner.shape[-1] != shape[-1])):
        return None
    return inner


def _meets_end(node: Node, state: Sweep) -> bool:
    """Whether everything above a reshape lets it pass, up to another reshape or to an input."""
    if state.only_reader(node.name) is None:
        return False
    name, shape = node.inputs[0], node.shape
    while (inner := _passable(name, shape, state)) is not None:
        name = inner.inputs[0]
        if inner.op == "linear":
            shape = (*shape[:-1], inner.params["weight"].shape[0])
    top = state.maker(name)
    return top is None or top.op == "reshape"


def _frees_linear(node: Node, inner: Node, state: Sweep) -> bool:
    reader = state.only_reader(node.name)
    return inner.op in _OFFSETS and reader is not None and reader.op == "linear"


def _reshaped(const: Const, before: Shape, after: Shape) -> Const:
    """A constant that broadcasts to ``before``, for values reshaped to ``after``."""
    if const.value.size == 1:
        return c.reshape(const, (1,) if after else ())
    if math.prod(const.shape) != math.prod(before):
        const = c.expand(const, before)
    return c.reshape(const, after)


RESHAPES = (hoist_reshape,)
