"""Rules that drop nodes which do nothing and merge moves of the same kind."""

from __future__ import annotations

import math

import numpy as np

from verinn.ir.graph import Const, Node, frozen
from verinn.passes.rewrite import Change, Sweep


def identity(node: Node, state: Sweep) -> Change:
    """A node that returns its only input: reshape to the same shape, scale by one, shift by zero, …"""
    if len(node.inputs) != 1 or state.shapes[node.inputs[0]] != node.shape:
        return None
    return node.inputs[0] if _does_nothing(node) else None


def _does_nothing(node: Node) -> bool:
    attrs = node.attrs
    match node.op:
        case "reshape" | "expand" | "reduce_sum" | "concat":  # the shape is the input's already
            return True
        case "transpose":
            return _keeps_order(node.shape, attrs["perm"])
        case "scale":
            return _everywhere(node.params["factor"], 1.0)
        case "divide":
            return _everywhere(node.params["divisor"], 1.0)
        case "shift":
            return _everywhere(node.params["offset"], 0.0)
        case "sum":
            return bool(attrs["signs"] == (1,))
        case "slice":
            return all(step == 1 for step in attrs["steps"])
        case "gather":
            return list(attrs["indices"]) == list(range(node.shape[attrs["axis"]]))
        case "pad":
            return not any(attrs["pads"])
        case "clip":
            return bool(attrs["lower"] == -math.inf and attrs["upper"] == math.inf)
        case "leaky_relu":
            return bool(attrs["alpha"] == 1.0)
    return False


def _everywhere(const: Const, number: float) -> bool:
    return const.error is None and bool(np.all(const.value == number))


def _keeps_order(shape: tuple[int, ...], perm: tuple[int, ...]) -> bool:
    """Whether a transpose to ``shape`` moves only axes of length one, that is: reorders nothing."""
    moved = [axis for axis, size in zip(perm, shape, strict=True) if size != 1]
    return moved == sorted(moved)


def as_reshape(node: Node, state: Sweep) -> Change:
    """A transpose that moves axes of length one only is a reshape."""
    if node.op != "transpose" or not _keeps_order(node.shape, node.attrs["perm"]):
        return None
    return [Node(node.name, "reshape", node.inputs, node.shape, source=node.source)]


def merge_moves(node: Node, state: Sweep) -> Change:
    """reshape∘reshape, expand-free; transpose∘transpose."""
    if node.op == "reshape":
        # The inner one may have other readers: skipping it costs nothing.
        inner = state.maker(node.inputs[0])
        if inner is not None and inner.op == "reshape":
            return [Node(node.name, "reshape", inner.inputs, node.shape, source=node.source)]
    if node.op == "transpose":
        inner = state.maker(node.inputs[0])
        if inner is not None and inner.op == "transpose":
            perm = tuple(inner.attrs["perm"][axis] for axis in node.attrs["perm"])
            state.uses[inner.name] -= 1
            state.uses[inner.inputs[0]] += 1
            return [Node(node.name, "transpose", inner.inputs, node.shape, frozen({"perm": perm}), source=node.source)]
    return None


RULES = (identity, as_reshape, merge_moves)
