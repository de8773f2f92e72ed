"""Sums of channels of one convolution are channels of another: margins between the classes of a segmentation.

As rows of a convolution they keep to small windows of its input. What only drops or adds a leading axis, turns
axes round or takes some of the channels may lie between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from verinn.ir import const as c
from verinn.ir.graph import Const, Node, frozen
from verinn.passes.rewrite import Change, Sweep

_STEPS = ("step", "sign", "floor", "ceil", "round")


@dataclass(frozen=True, eq=False)
class _Channels:
    """Channels (by number) of a conv's value, behind ``moves`` that keep them together along ``axis``."""

    conv: Node
    numbers: np.ndarray
    moves: tuple[Node, ...]
    axis: int

    def after(self, node: Node) -> _Channels | None:
        """The same after one more move."""
        shape, before = node.shape, self.moves[-1].shape if self.moves else self.conv.shape
        if node.op == "transpose":
            return replace(self, moves=(*self.moves, node), axis=node.attrs["perm"].index(self.axis))
        if node.op == "reshape":
            if before[0] == 1 and shape == before[1:] and self.axis > 0:
                return replace(self, moves=(*self.moves, node), axis=self.axis - 1)
            return replace(self, moves=(*self.moves, node), axis=self.axis + 1) if shape == (1, *before) else None
        attrs = node.attrs
        if any(shape[i] != before[i] or attrs["steps"][i] != 1 for i in range(len(shape)) if i != self.axis):
            return None
        start, step, size = (attrs[key][self.axis] for key in ("starts", "steps", "sizes"))
        return replace(self, moves=(*self.moves, node), numbers=self.numbers[start + step * np.arange(size)])

    @property
    def turns(self) -> list[tuple[str, object]]:
        """The moves but for slices."""
        return [(move.op, move.attrs.get("perm")) for move in self.moves if move.op != "slice"]


def _channels(name: str, state: Sweep) -> _Channels | None:
    chain: list[Node] = []
    maker = state.maker(name)
    while maker is not None and maker.op in ("reshape", "transpose", "slice"):
        chain.append(maker)
        maker = state.maker(maker.inputs[0])
    if maker is None or maker.op != "conv" or maker.attrs["groups"] != 1:
        return None
    found: _Channels | None = _Channels(maker, np.arange(maker.shape[1]), (), 1)
    for move in reversed(chain):
        found = None if found is None else found.after(move)
    return found


def sum_of_channels(node: Node, state: Sweep) -> Change:
    """A sum of channels of one convolution as a convolution with as many fewer channels."""
    if node.op != "sum":
        return None
    parts = [_channels(name, state) for name in node.inputs]
    first = parts[0]
    if first is None or len(first.numbers) >= first.conv.shape[1]:
        return None
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or any(part.conv is not first.conv or part.turns != first.turns for part in known):
        return None

    def mixed(const: Const) -> Const:
        total: Const | None = None
        for part, sign in zip(known, node.attrs["signs"], strict=True):
            term = c.move(const, _picked(part.numbers))
            term = term if sign > 0 else c.neg(term)
            total = term if total is None else c.add(total, term)
        assert total is not None
        return total

    size, conv = len(first.numbers), first.conv
    params = frozen({key: mixed(value) for key, value in conv.params.items()})
    shape = (conv.shape[0], size, *conv.shape[2:])
    nodes = [replace(conv, name=state.fresh(node.name), shape=shape, params=params)]
    for move in first.moves:
        if move.op != "slice":
            shape = _moved(move, nodes[-1].shape)
            nodes.append(replace(move, name=state.fresh(node.name), inputs=(nodes[-1].name,), shape=shape))
    return [*nodes[:-1], replace(nodes[-1], name=node.name)]


def _picked(numbers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array[numbers]


def _moved(move: Node, before: tuple[int, ...]) -> tuple[int, ...]:
    if move.op == "transpose":
        return tuple(before[axis] for axis in move.attrs["perm"])
    return (1, *before) if len(move.shape) > len(before) else before[1:]


def step_before_reshape(node: Node, state: Sweep) -> Change:
    """A function with jumps reads a convolution itself, not what a reshape makes of it: an image has windows."""
    if node.op not in _STEPS:
        return None
    between = state.sole(node.inputs[0], "reshape")
    inner = None if between is None else state.maker(between.inputs[0])
    if between is None or inner is None or inner.op != "conv":
        return None
    early = replace(node, name=state.fresh(node.name), inputs=between.inputs, shape=inner.shape)
    return [early, replace(between, name=node.name, inputs=(early.name,))]


RULES = (sum_of_channels, step_before_reshape)
