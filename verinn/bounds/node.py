"""Bounds of any value of a graph over perturbed inputs, differentiable: what ``verinn.bounds`` computes.

IBP and CROWN on general graphs and their optimised form, with the concretisation of each input's own set
(Xu et al., NeurIPS 2020; alpha-CROWN: Xu et al., "Fast and Complete", ICLR 2021). Rounding is charged as
everywhere: a bound holds in exact arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.crown import Backward, LinearForm, OneHot, Relaxation
from verinn.bounds.domain import loose, targets
from verinn.bounds.interval import Interval, propagate
from verinn.bounds.optimise import guessed, slotted
from verinn.bounds.perturbation import DOUBLE, Perturbation, settled
from verinn.bounds.rounding import cast_down, cast_up, exact_kernels, gamma
from verinn.bounds.rows import flat
from verinn.errors import InputError
from verinn.ir.graph import Const, Graph, Node, Output
from verinn.ops.program import Program

METHODS = ("ibp", "crown", "alpha-crown")
#: numbers in one block of coefficients
BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Plane:
    """A linear form Σ a·x + c of the inputs: by input ``a`` (D, M, *shape), ``c`` (D, M) for M elements."""

    a: Mapping[str, Tensor]
    c: Tensor


@dataclass(frozen=True, eq=False)
class Bounds:
    """lower ≤ value ≤ upper over the whole set, in exact arithmetic: float64 (*shape), with a batch axis in front
    where a set has one. ``below``, ``above``: linear forms under and over each element, flattened; on request."""

    lower: Tensor
    upper: Tensor
    below: Plane | None = None
    above: Plane | None = None


@dataclass(frozen=True)
class Climb:
    """Steps and rate of the gradient ascent (Adam) of alpha-CROWN."""

    steps: int = 20
    rate: float = 0.1


def bound_value(
    graph: Graph,
    sets: Mapping[str, Perturbation],
    name: str,
    method: str = "crown",
    dtype: torch.dtype = DOUBLE,
    forms: bool = False,
    climb: Climb = Climb(),
    rows: np.ndarray | None = None,
    inner: Climb | None = None,
) -> Bounds:
    """Bounds of the value ``name`` (an output's name, or a value's) for inputs that lie anywhere in ``sets``.

    ``sets``: one for each input of the graph. ``rows`` (M, elements): bound these combinations of the value's
    elements instead. ``inner``: the bounds of values that nonlinear steps read are climbed, too, each element's
    with parameters of its own (None: CROWN's as they are); not with IBP. Raises InputError for names
    that are not there and sets that don't fit.
    """
    if method not in METHODS:
        raise InputError(f"unknown method '{method}'", hint=f"one of {', '.join(METHODS)}")
    graph = _part(graph, name)
    graph = graph if rows is None else _combined(graph, np.asarray(rows, np.float64))
    region = Region.of(graph, sets)
    with exact_kernels():
        program = Program.prepare(graph, dtype)
        relaxation = _relaxed(program, region, method != "ibp", inner)
        value = graph.outputs[0].value
        low, high = relaxation.intervals[value]
        below = above = None
        if method != "ibp":
            steps = climb if method == "alpha-crown" else None
            found = _both(relaxation, region, value, torch.arange(low[0].numel()), steps, forms)
            low, high = _tightened(low, high, torch.arange(low[0].numel()), found)
            below, above = found.below, found.above
    low, high = low.double(), high.double()
    if not region.batched:
        low, high = low[0], high[0]
    return Bounds(low, high, below, above)


def _part(graph: Graph, name: str) -> Graph:
    """The part of a graph that one value needs; all inputs stay."""
    value = next((out.value for out in graph.outputs if out.name == name), name)
    shapes = graph.shapes()
    if value not in shapes:
        known = ", ".join(out.name for out in graph.outputs)
        raise InputError(f"the graph has no value '{name}'", hint=f"outputs: {known}")
    needed = {value}
    nodes = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
            nodes.append(node)
    return replace(graph, nodes=tuple(reversed(nodes)), outputs=(Output(name, value),))


def _combined(graph: Graph, rows: np.ndarray) -> Graph:
    """The graph with combinations of its output's elements as its output (M,)."""
    value = graph.outputs[0].value
    size = math.prod(graph.shapes()[value])
    if rows.ndim != 2 or rows.shape[1] != size:
        raise InputError(
            f"rows of shape {list(rows.shape)} for {size} elements", hint="give one row each: (M, elements)"
        )
    flat = Node("*flat", "reshape", (value,), (size,))
    mixed = Node("*rows", "linear", (flat.name,), (len(rows),), params={"weight": Const(rows.T.copy())})
    return replace(graph, nodes=(*graph.nodes, flat, mixed), outputs=(Output("*rows", "*rows"),))


@dataclass(frozen=True, eq=False)
class Region:
    """The sets of all inputs side by side: D of them, each input's free of the others'."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sets: tuple[Perturbation, ...]
    size: int
    batched: bool

    @staticmethod
    def of(graph: Graph, sets: Mapping[str, Perturbation]) -> Region:
        names = [value.name for value in graph.inputs]
        for name in sets:
            if name not in names:
                raise InputError(f"there is no input '{name}' to perturb", hint=f"inputs: {', '.join(names)}")
        for name in names:
            if name not in sets:
                raise InputError(f"nothing is said of the input '{name}'", hint="give a set, or a Box that is a point")
        shapes = tuple(value.shape or (1,) for value in graph.inputs)
        found = [sets[name].batch(shape) for name, shape in zip(names, shapes, strict=True)]
        sizes = {size for size in found if size is not None and size != 1}
        if len(sizes) > 1:
            raise InputError(f"batches of {', '.join(map(str, sorted(sizes)))} sets together", hint="give one size")
        some = any(size is not None for size in found)
        return Region(tuple(names), shapes, tuple(sets[name] for name in names), max(sizes, default=1), some)

    def boxes(self, dtype: torch.dtype) -> dict[str, Interval]:
        """A box around each input's set (D, *shape)."""
        boxes = {}
        for name, shape, one in zip(self.names, self.shapes, self.sets, strict=True):
            low, high = one.enclosing(shape)
            low, high = cast_down(low, dtype), cast_up(high, dtype)
            boxes[name] = low.expand(self.size, *shape), high.expand(self.size, *shape)
        return boxes

    def least(self, form: LinearForm, boxes: Mapping[str, Interval]) -> Tensor:
        """Least values (D, R) of linear forms over the sets, rounded down."""
        ends = [torch.cat([flat(boxes[name][side]) for name in self.names], 1) for side in (0, 1)]
        form = form.exact(ends[0], ends[1])
        total, size = form.c, form.c.abs()
        for shape, one, a in zip(self.shapes, self.sets, self.parts(form.a), strict=True):
            if bool((a != 0).any()):
                value = one.least(shape, a.double())
                total, size = total + value, size + value.abs()
        return settled(total - size * gamma(len(self.sets) + 4, DOUBLE))

    def parts(self, a: Tensor) -> tuple[Tensor, ...]:
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        return tuple(a.split(sizes, -1))


def _relaxed(program: Program, region: Region, refine: bool, inner: Climb | None) -> Relaxation:
    """Intervals of all values, those that nonlinear steps read by CROWN where they are loose, climbed by ``inner``."""
    boxes = region.boxes(program.dtype)
    relaxation = Relaxation(program, dict(boxes))
    wanted = targets(program) if refine else {}
    for step in program.steps:
        name = step.node.name
        low, high = propagate(step, [relaxation.intervals[source] for source in step.node.inputs])
        low, high = low.expand(region.size, *low.shape[1:]), high.expand(region.size, *high.shape[1:])
        relaxation.intervals[name] = low, high
        if name in wanted:
            index = flat(loose(relaxation, name, wanted[name])).any(0).nonzero().squeeze(1)
            if len(index):
                found = _both(relaxation, region, name, index, inner, False)
                relaxation.intervals[name] = _tightened(low, high, index, found)
    return relaxation


@dataclass(frozen=True, eq=False)
class _Found:
    """Lower and upper bounds (D, R) of some elements, float64."""

    low: Tensor
    high: Tensor
    below: Plane | None
    above: Plane | None


def _tightened(low: Tensor, high: Tensor, index: Tensor, found: _Found) -> Interval:
    """An interval met with bounds of the elements ``index`` (R,)."""
    where = index.expand(len(low), -1)
    flat_low, flat_high = flat(low), flat(high)
    down, up = cast_down(found.low, low.dtype), cast_up(found.high, low.dtype)
    new_low = flat_low.scatter(1, where, torch.fmax(flat_low.gather(1, where), down))
    new_high = flat_high.scatter(1, where, torch.fmin(flat_high.gather(1, where), up))
    return new_low.reshape(low.shape), new_high.reshape(high.shape)


def _both(relaxation: Relaxation, region: Region, name: str, index: Tensor, climb: Climb | None, forms: bool) -> _Found:
    """Bounds of elements (R,) of a value by backward passes, in blocks."""
    lows, highs, below, above = [], [], [], []
    for part in _blocks(relaxation, region, index, climb):
        found = []
        for sign in (1.0, -1.0):
            ask = OneHot(part.unsqueeze(0), torch.full((len(part),), sign, dtype=relaxation.program.dtype))
            found.append(_least(relaxation, region, name, ask, climb))
        lows.append(found[0][0])
        highs.append(-found[1][0])
        below.append(found[0][1])
        above.append(found[1][1])
    planes = (_plane(region, below, 1), _plane(region, above, -1)) if forms else (None, None)
    return _Found(torch.cat(lows, 1), torch.cat(highs, 1), *planes)


def _blocks(relaxation: Relaxation, region: Region, index: Tensor, climb: Climb | None) -> Iterator[Tensor]:
    widest = max(torch.Size(shape).numel() for shape in relaxation.program.shapes.values())
    if climb is not None:  # each row has parameters, and what follows from them, of its own
        widest = 12 * sum(torch.Size(shape).numel() for shape in relaxation.program.shapes.values())
    yield from index.split(max(1, BLOCK // max(1, widest * region.size)))


def _least(
    relaxation: Relaxation, region: Region, name: str, ask: OneHot, climb: Climb | None
) -> tuple[Tensor, LinearForm]:
    """Lower bounds (D, R) of signed elements, and the form that they are the least values of."""
    boxes = {value: relaxation.intervals[value] for value in region.names}
    form = Backward(relaxation).run({name: ask})
    value = region.least(form, boxes)
    if climb is None or not slotted(relaxation.program):
        return value, form
    best = _climbed(relaxation, region, name, ask, climb)
    other = _with(relaxation, region, name, ask, best)
    lifted = region.least(other, boxes)
    better = lifted > value
    a = torch.where(better.unsqueeze(-1), other.a, form.exact(*_flat(region, boxes)).a)
    c = torch.where(better, other.c, form.exact(*_flat(region, boxes)).c)
    return torch.where(better, lifted, value), LinearForm(a, c)


def _flat(region: Region, boxes: Mapping[str, Interval]) -> tuple[Tensor, Tensor]:
    low, high = (torch.cat([flat(boxes[name][side]) for name in region.names], 1) for side in (0, 1))
    return low, high


def _with(relaxation: Relaxation, region: Region, name: str, ask: OneHot, alphas: Mapping[str, Tensor]) -> LinearForm:
    """The forms (D, R) with parameters (D·R, *slots, *shape) for each row of each domain, debts paid."""
    rows = ask.index.shape[1]
    each = torch.arange(region.size).repeat_interleave(rows)
    apart = Relaxation(
        relaxation.program,
        {value: (low[each], high[each]) for value, (low, high) in relaxation.intervals.items()},
        alphas,
    )
    one = OneHot(ask.index[0].repeat(region.size).unsqueeze(1), ask.sign.repeat(region.size).unsqueeze(1))
    form = Backward(apart).run({name: one})
    form = form.exact(*_flat(region, {value: apart.intervals[value] for value in region.names}))
    shape = region.size, rows
    return LinearForm(form.a.expand(len(each), 1, -1).reshape(*shape, -1), form.c.expand(len(each), 1).reshape(shape))


def _climbed(relaxation: Relaxation, region: Region, name: str, ask: OneHot, climb: Climb) -> dict[str, Tensor]:
    """The best parameters seen for each row of each domain, in gradient ascent from the relaxations' own guesses."""
    fixed = Relaxation(
        relaxation.program,
        {value: (low.detach(), high.detach()) for value, (low, high) in relaxation.intervals.items()},
    )
    boxes = {value: fixed.intervals[value] for value in region.names}
    count = region.size * ask.index.shape[1]
    each = torch.arange(region.size).repeat_interleave(ask.index.shape[1])
    known = [(step, slots) for step, slots in slotted(fixed.program) if step.node.name in fixed.intervals]
    now = {step.node.name: guessed(fixed, step, slots)[each] for step, slots in known}
    best = {step: alpha.clone() for step, alpha in now.items()}
    moments = {step: (torch.zeros_like(alpha), torch.zeros_like(alpha)) for step, alpha in now.items()}
    top = torch.full((count,), -torch.inf, dtype=DOUBLE)
    for step in range(climb.steps + 1):
        with torch.enable_grad():
            for alpha in now.values():
                alpha.requires_grad_(True)
            value = region.least(_with(fixed, region, name, ask, now), boxes).flatten()
            hopeful = value[value.isfinite()].sum()
            slopes = None
            if step < climb.steps and hopeful.requires_grad:
                slopes = torch.autograd.grad(hopeful, list(now.values()), allow_unused=True)
        better = value.detach() > top
        top = torch.where(better, value.detach(), top)
        for key, alpha in now.items():
            best[key][better] = alpha.detach()[better]
        if slopes is None:
            break
        for (key, alpha), slope in zip(now.items(), slopes, strict=True):
            if slope is not None:
                now[key], moments[key] = _stepped(alpha.detach(), slope, moments[key], step, climb.rate)
            else:
                now[key] = alpha.detach()
    return best


def _stepped(
    alpha: Tensor, slope: Tensor, moments: tuple[Tensor, Tensor], step: int, rate: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step of Adam uphill (Kingma and Ba, ICLR 2015), kept in [0, 1]. torch's own takes seconds to import."""
    slope = slope.nan_to_num(0.0, 0.0, 0.0)
    one, two = 0.9 * moments[0] + 0.1 * slope, 0.99 * moments[1] + 0.01 * slope.square()
    ratio = one / (1 - 0.9 ** (step + 1)) / ((two / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12)
    return (alpha + rate * 0.97**step * ratio).clamp(0, 1), (one, two)


def _plane(region: Region, parts: list[LinearForm], sign: int) -> Plane:
    a = sign * torch.cat([form.a.expand(region.size, *form.a.shape[1:]) for form in parts], 1)
    c = sign * torch.cat([form.c.expand(region.size, -1) for form in parts], 1)
    split = zip(region.names, region.shapes, region.parts(a), strict=True)
    return Plane({name: part.unflatten(-1, shape) for name, shape, part in split}, c)
