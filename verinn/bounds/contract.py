"""Backward interval contraction: what rows over outputs, which must hold, say of every value before them.

HC4-revise (Benhamou, Goualard, Granvilliers and Puget, "Revising hull and box consistency", ICLP 1999) over
the whole graph, batched over domains. Forward, each value is met with the image of its inputs; backward,
from rows a·v + c ≤ 0 over some values, each element is left the part of its interval that the other terms
of a sum, at their best, allow: x_i ≤ l_i + (z_u − p_l)/a_i where z = a·x + b ≤ z_u and p_l is the least
that the sum can be. On a network that encodes clauses this is unit propagation.

Everything is rounded outward, so an interval that comes out empty proves that no point of the domain
fulfils the rows, and no point that does is ever lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.bounds.interval import Interval, magnitude, propagate
from verinn.bounds.region import Region, clip
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.activation import Abs, Clip, LeakyRelu, Relu
from verinn.ops.base import Affine, Elementwise, ulps
from verinn.ops.program import Program, Step

Box = dict[str, Interval]

#: numbers in one temporary tensor
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows a (D|1, R, N), c (D, R), float64: a·v + c ≤ 0 must hold, v the values ``names`` flattened side by
    side; ``error`` (D|1, R, N) bounds how far a may be from the exact coefficients, None: not at all."""

    names: tuple[str, ...]
    a: Tensor
    c: Tensor
    error: Tensor | None = None

    def select(self, index: Tensor) -> Rows:
        """The rows of some domains."""

        def pick(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[index]

        return Rows(self.names, pick(self.a), self.c[index], None if self.error is None else pick(self.error))


@dataclass(frozen=True, eq=False)
class Transpose:
    """An affine step z = L x + b seen from the elements x_i of its inputs, flattened side by side.

    ``index`` (I, K): the elements of z in which x_i has a coefficient (anything where ``inverse`` is
    infinite); ``inverse`` (I, K): 1/|coefficient|, rounded up, its error counted; ``rising`` bool (I, K):
    whether the coefficient is positive.
    """

    step: Step
    index: Tensor
    inverse: Tensor
    rising: Tensor

    @property
    def numbers(self) -> int:
        return self.inverse.numel()


@dataclass(frozen=True, eq=False)
class Contractor:
    """A program with the transposes of its affine steps, by name."""

    program: Program
    transposes: Mapping[str, Transpose]

    @staticmethod
    def prepare(program: Program, most: int = 1 << 18) -> Contractor | None:
        """None where the matrices of the affine steps have more than ``most`` numbers."""
        steps = [step for step in program.steps if step.affine and step.node.inputs]
        if sum(_size(step) for step in steps) > most:
            return None
        return Contractor(program, {step.node.name: _transpose(step, program) for step in steps})


def _size(step: Step) -> int:
    """Numbers of L as a dense matrix."""
    return torch.Size(step.node.shape).numel() * sum(torch.Size(shape).numel() for shape in step.shapes)


def _transpose(step: Step, program: Program) -> Transpose:
    """L written out by applying it to unit vectors: no element is a sum of more than one product, but
    where an input enters twice, which ``slack`` covers."""
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    sizes = [torch.Size(shape).numel() for shape in step.shapes]
    eye = torch.eye(sum(sizes), dtype=program.dtype, device=program.device)
    pieces = [p.reshape(len(eye), *shape) for p, shape in zip(eye.split(sizes, 1), step.shapes, strict=True)]
    a = op.linear(node, pieces, step.params).reshape(len(eye), -1)
    slack = op.linear(node, pieces, step.magnitudes, absolute=True).reshape(len(eye), -1)
    slack = torch.where(slack == a.abs(), torch.zeros_like(slack), ulps(slack, step.forward_terms + 2))
    if step.errors is not None and op.weights:
        error = op.linear(node, pieces, step.errors, absolute=True).reshape(len(eye), -1)
        slack = slack + error * (1 + torch.finfo(a.dtype).eps * (step.forward_terms + 4))
    sure = a.abs() - slack  # a coefficient is at least this large
    sure = torch.where(slack > 0, sure - ulps(sure, 4), sure)
    count = max(1, int((sure > 0).sum(1).max()))
    index = (sure > 0).to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :count]
    sure, a = sure.gather(1, index), a.gather(1, index)
    inverse = torch.where(sure > 0, 1 / sure, torch.inf)
    return Transpose(step, index, inverse + ulps(inverse, 2), a > 0)


def contract(contractor: Contractor, box: Mapping[str, Interval], rows: Rows, rounds: int = 8) -> tuple[Box, Tensor]:
    """Smaller intervals of all values, each (D, *shape), and which domains (D,) are empty.

    ``box``: an interval of every value of the program. A point of the domain that fulfils the rows lies
    in what is returned. Rounds end where they gain little.
    """
    whole = dict(box)
    empty = torch.zeros(len(rows.c), dtype=torch.bool, device=rows.c.device)
    here = torch.arange(len(empty), device=empty.device)
    for _ in range(rounds):
        before = {name: (low[here], high[here]) for name, (low, high) in whole.items()}
        after = _round(contractor, before, rows.select(here))
        void = _void(after)
        moved = _gain(contractor.program, before, after) > 0.5
        whole = after if len(here) == len(empty) else _put(whole, here, after)
        empty[here] = void
        here = here[moved & ~void]
        if not len(here):
            break
    return whole, empty


def _put(whole: Box, here: Tensor, part: Box) -> Box:
    return {
        name: (low.index_copy(0, here, part[name][0]), high.index_copy(0, here, part[name][1]))
        for name, (low, high) in whole.items()
    }


def _void(box: Box) -> Tensor:
    return torch.stack([(low > high).flatten(1).any(1) for low, high in box.values()]).any(0)


def _gain(program: Program, before: Box, after: Box) -> Tensor:
    """By how many elements' worth the inputs and the inputs of nonlinear steps have shrunk (D,)."""
    total = None
    names = dict.fromkeys(v.name for v in program.graph.inputs)
    names |= dict.fromkeys(source for s in program.steps if not s.affine for source in s.node.inputs)
    for name in names:
        old, new = (high - low for low, high in (before[name], after[name]))
        part = torch.where(old > 0, 1 - new / old, 0.0).nan_to_num(0.0, 0.0, 0.0).flatten(1).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _round(contractor: Contractor, box: Box, rows: Rows) -> Box:
    """Forward through the graph, then the rows, then backward."""
    box, images = dict(box), {}
    for step in contractor.program.steps:
        image = propagate(step, [box[name] for name in step.node.inputs])
        images[step.node.name] = image
        box[step.node.name] = _meet(box[step.node.name], image)
    _hold(box, rows)
    for step in reversed(contractor.program.steps):
        name = step.node.name
        if name in contractor.transposes:
            _back(contractor.transposes[name], box, images[name])
        elif isinstance(step.op, Elementwise):
            source = step.node.inputs[0]
            box[source] = _meet(box[source], inverse(step, box[source], box[name]))
    return box


def _meet(one: Interval, other: Interval) -> Interval:
    """NaN says nothing."""
    return torch.fmax(one[0], other[0]), torch.fmin(one[1], other[1])


def _hold(box: Box, rows: Rows) -> None:
    """Makes the rows hold, in float64."""
    lows = torch.cat([box[name][0].flatten(1) for name in rows.names], 1)
    highs = torch.cat([box[name][1].flatten(1) for name in rows.names], 1)
    low, high, c = lows.double(), highs.double(), rows.c
    finite = (low.isfinite() & high.isfinite()).all(1, keepdim=True)
    low, high = torch.where(finite, low, 0.0), torch.where(finite, high, 0.0)
    if rows.error is not None:
        size = magnitude((low, high)).unsqueeze(1)
        c = c - (rows.error * size).sum(-1) * (1 + 1e-12) - c.abs() * 1e-15
    c = torch.where(finite, c, -1e300)
    inside = clip(Region(low, high, rows.a.expand(len(low), -1, -1), c))
    low = torch.where(finite, cast_down(inside.lower, lows.dtype), -torch.inf)
    high = torch.where(finite, cast_up(inside.upper, highs.dtype), torch.inf)
    sizes = [box[name][0].flatten(1).shape[1] for name in rows.names]
    for name, new_low, new_high in zip(rows.names, low.split(sizes, 1), high.split(sizes, 1), strict=True):
        shape = box[name][0].shape
        box[name] = _meet(box[name], (new_low.reshape(shape), new_high.reshape(shape)))


def _back(transpose: Transpose, box: Box, image: Interval) -> None:
    """What the interval of z = L x + b says of x, where ``image`` holds all values of L x + b over the box.

    ``box`` may have shrunk since the image was made: it holds all the more.
    """
    step, rising = transpose.step, transpose.rising
    room = rooms(box[step.node.name], image)
    half = room.shape[1] // 2
    sizes = [torch.Size(shape).numel() for shape in step.shapes]
    ups = _least(room, transpose.index + half * (~rising).long(), transpose.inverse).split(sizes, 1)
    downs = _least(room, transpose.index + half * rising.long(), transpose.inverse).split(sizes, 1)
    for name, up, down in zip(step.node.inputs, ups, downs, strict=True):
        low, high = box[name]
        up, down = up.reshape(low.shape), down.reshape(low.shape)
        highest = low + up + ulps(low, 2) + ulps(up, 4)
        lowest = high - down - ulps(high, 2) - ulps(down, 4)
        box[name] = _meet((low, high), (lowest, highest))


def rooms(z: Interval, image: Interval) -> Tensor:
    """How far z may rise from its image's lower end, then how far it may fall from the upper one (D, 2·O)."""
    return torch.cat([_above(z[1], image[0]).flatten(1), _above(image[1], z[0]).flatten(1)], 1)


def _above(high: Tensor, low: Tensor) -> Tensor:
    """high − low rounded up, positive; infinite where it is not a number."""
    eps, tiny = torch.finfo(low.dtype).eps, torch.finfo(low.dtype).tiny
    room = (high - low) + (high.abs() + low.abs()) * (2 * eps)
    return room.nan_to_num(torch.inf, torch.inf, 0.0).clamp(min=0) + tiny


def _least(room: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """min over k of room[d, index[i, k]] · inverse[i, k]: (D, I)."""
    flat = index.reshape(-1)
    block = max(1, _BLOCK // max(1, len(flat)))
    parts = [
        (part.index_select(1, flat).reshape(len(part), *index.shape) * inverse).amin(-1) for part in room.split(block)
    ]
    return torch.cat(parts)


def inverse(step: Step, z: Interval, h: Interval) -> Interval:
    """An interval that contains every z of ``z`` with f(z) in ``h``; z itself where f has no rule here."""
    (low, high), (least, most) = z, h
    op, attrs = step.op, step.node.attrs
    if isinstance(op, Relu):
        return torch.where(least > 0, least, low), most
    if isinstance(op, LeakyRelu) and attrs["alpha"] > 0:
        down, up = least / attrs["alpha"], most / attrs["alpha"]
        return torch.where(least >= 0, least, down - ulps(down, 4)), torch.where(most >= 0, most, up + ulps(up, 4))
    if isinstance(op, Abs):
        right, left = (least > 0) & (low > -least), (least > 0) & (high < least)
        return torch.where(right, least, -most), torch.where(left, -least, most)
    if isinstance(op, Clip):
        down, up = least - ulps(least, 2), most + ulps(most, 2)
        return torch.where(down > attrs["lower"], down, low), torch.where(up < attrs["upper"], up, high)
    return z
