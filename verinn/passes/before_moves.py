"""Constants per channel move up through moves (reshape, transpose, slice), to the convolution that they merge with."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verinn.ir import const as c
from verinn.ir.graph import Const, Node, Shape, frozen
from verinn.passes.fuse import vector_along
from verinn.passes.rewrite import Change, Sweep

_PARAM = {"scale": "factor", "divide": "divisor", "shift": "offset"}
_MOVES = ("reshape", "transpose", "slice")


def earlier_constant(node: Node, state: Sweep) -> Change:
    """scale, divide or shift by a constant per channel, after moves that keep channels apart, after a conv."""
    if node.op not in _PARAM:
        return None
    axis, vector = _channel(node)
    if vector is None:
        return None
    chain: list[Node] = []
    maker = state.sole(node.inputs[0], *_MOVES, "conv")
    while maker is not None and maker.op != "conv":
        step = _before(maker, state.shapes[maker.inputs[0]], axis, vector)
        if step is None:
            return None
        axis, vector = step
        chain.append(maker)
        maker = state.sole(maker.inputs[0], *_MOVES, "conv")
    if maker is None or not chain or axis != 1 or vector.shape != (maker.shape[1],):
        return None
    column = c.reshape(vector, (-1, *[1] * (len(maker.shape) - 2)))
    params = frozen({_PARAM[node.op]: column})
    early = Node(state.fresh(node.name), node.op, (maker.name,), maker.shape, params=params, source=node.source)
    nodes, name = [early], early.name
    for part in reversed(chain[1:]):
        nodes.append(replace(part, name=state.fresh(node.name), inputs=(name,)))
        name = nodes[-1].name
    return [*nodes, replace(chain[0], name=node.name, inputs=(name,))]


def _channel(node: Node) -> tuple[int, Const | None]:
    """The one axis along which the constant varies (axis 1 where it varies along none)."""
    const = node.params[_PARAM[node.op]]
    full = (1,) * (len(node.shape) - len(const.shape)) + const.shape
    wide = [axis for axis, size in enumerate(full) if size != 1]
    axis = wide[0] if wide else 1
    if len(wide) > 1 or len(node.shape) < 2:
        return 0, None
    return axis, vector_along(const, node.shape, axis)


def _before(node: Node, before: Shape, axis: int, vector: Const) -> tuple[int, Const] | None:
    """The axis of a move's input, and the vector along it, that give this vector after the move."""
    if node.op == "transpose":
        return node.attrs["perm"][axis], vector
    if node.op == "slice":
        whole = node.attrs["sizes"][axis] == before[axis] and node.attrs["steps"][axis] == 1
        return (axis, vector) if whole else None
    lead = math.prod(node.shape[:axis])
    for place in range(len(before)):
        if math.prod(before[:place]) == lead and before[place] % node.shape[axis] == 0 and before[place] > 1:
            repeats = before[place] // node.shape[axis]
            # What follows the axis after the move must fill the rest of the axis before it.
            if math.prod(node.shape[axis + 1 :]) % repeats == 0:
                return place, _repeated(vector, repeats)
    return None


def _repeated(vector: Const, count: int) -> Const:
    return c.move(vector, lambda array: np.repeat(array, count))


RULES = (earlier_constant,)
