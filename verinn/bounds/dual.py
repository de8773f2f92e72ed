"""The dual of the ReLU relaxation, climbed: slopes (alpha) and split multipliers (beta) that lift a bound.

alpha-CROWN (Xu et al., ICLR 2021) chooses the slope of the lower line of every unstable ReLU; beta-CROWN
(Wang et al., NeurIPS 2021) adds a multiplier for every ReLU split; a row of the output that a violation
needs to be at most zero gets one too (Kotha et al., NeurIPS 2023). Any slope in [0, 1] and any multiplier
≥ 0 gives a bound, so they are sought in the working precision without counting rounding, and what they
prove is computed again by ``crown.Backward``.

The gradient needs no automatic differentiation: one pass backward gives the coefficients and the box's
corner that minimises, one pass forward of that corner, each neuron on the line that its coefficient chose,
gives every neuron a value z; the derivative by alpha is positive part of its coefficient times z, that by
a multiplier is the value of its constraint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import split_inputs
from verinn.ops.base import Affine, Elementwise, Joint
from verinn.ops.pool import MaxPool
from verinn.ops.program import Program, Step


@dataclass(frozen=True, eq=False)
class Columns:
    """The unstable ReLUs of a relaxation, numbered: column u of (B, U) tensors is one of them.

    ``names``: ReLU steps in order; ``index[i]``: which elements of step i's value; ``start[i]``: its first
    column, ``start[-1]`` = U.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    index: tuple[Tensor, ...]
    start: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.start[-1]

    def part(self, step: int) -> slice:
        return slice(self.start[step], self.start[step + 1])

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B, U) from values of the ReLUs' inputs, (B, *shape) each."""
        parts = [values[name].flatten(1)[:, index] for name, index in zip(self.sources, self.index, strict=True)]
        return torch.cat(parts, 1)


def columns_of(relaxation: Relaxation, relevant: Mapping[str, Tensor] | None = None) -> Columns:
    """Columns for the neurons that are unstable in a relaxation of one domain, of those that are ``relevant``."""
    names, sources, index, start = [], [], [], [0]
    for step in relaxation.program.steps:
        if step.node.op != "relu":
            continue
        assert isinstance(step.op, Elementwise)
        source = step.node.inputs[0]
        loose = step.op.loose(step.node, *relaxation.intervals[source])
        if relevant is not None:
            loose = loose & relevant[source] if source in relevant else torch.zeros_like(loose)
        loose = loose.flatten().nonzero().squeeze(1)
        names.append(step.node.name)
        sources.append(source)
        index.append(loose)
        start.append(start[-1] + len(loose))
    return Columns(tuple(names), tuple(sources), tuple(index), tuple(start))


@dataclass(frozen=True, eq=False)
class Pieces:
    """The lines of unstable ReLUs, by column: z·low ≤ relu(z) ≤ z·up + offset, each (B|1, U).

    ``low`` is alpha where the neuron is unstable in its domain.
    """

    low: Tensor
    up: Tensor
    offset: Tensor
    free: Tensor  # bool: where alpha counts


def pieces(lower: Tensor, upper: Tensor, alpha: Tensor) -> Pieces:
    """Lines for intervals (B|1, U) of the ReLUs' inputs; rounded, not sound for themselves."""
    free = (lower < 0) & (upper > 0)
    active = (lower >= 0).to(lower.dtype)
    up = torch.where(free, upper / (upper - lower), active)
    offset = torch.where(free, -up * lower, 0.0)
    return Pieces(torch.where(free, alpha, active), up, offset, free)


@dataclass(frozen=True, eq=False)
class Primal:
    """One evaluation of the dual for B rows, and the point of the relaxation where it is attained.

    ``value`` (B,); ``corner`` (B, n): the minimising input; ``a`` (B, U): coefficients of the ReLUs'
    outputs; ``z``, ``h`` (B, U): their inputs and outputs at that point; ``goals`` (B, G): the values of
    the rows that must be at most zero.
    """

    value: Tensor
    corner: Tensor
    a: Tensor
    z: Tensor
    h: Tensor
    goals: Tensor

    def select(self, index: Tensor) -> Primal:
        """The evaluation of some of the rows (a mask or index)."""
        return Primal(
            self.value[index], self.corner[index], self.a[index], self.z[index], self.h[index], self.goals[index]
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """What all rows share: program, the box (1|B, n), stable slopes and fixed lines of one relaxation."""

    program: Program
    lower: Tensor
    upper: Tensor
    columns: Columns
    base: dict[str, Tensor]  # by ReLU: 1 where always active, 0 where always inactive or unstable; (1, S)
    fixed: Relaxation  # lines of the other nonlinear steps

    @staticmethod
    def of(relaxation: Relaxation, lower: Tensor, upper: Tensor, columns: Columns) -> Frame:
        base = {}
        for name, source, index in zip(columns.names, columns.sources, columns.index, strict=True):
            active = (relaxation.intervals[source][0] >= 0).to(relaxation.program.dtype).flatten(1).clone()
            active[:, index] = 0.0
            base[name] = active
        return Frame(relaxation.program, lower, upper, columns, base, relaxation)

    def back(self, start: Mapping[str, Tensor], const: Tensor, lines: Pieces, pull: Tensor | None) -> _Trace:
        """Coefficients (B, *shape) by value, pulled back to the inputs. ``pull`` (B, U): added at ReLUs' inputs."""
        trace = _Trace(const)
        pending = dict(start)
        order = {name: i for i, name in enumerate(self.columns.names)}
        for step in reversed(self.program.steps):
            name = step.node.name
            if name not in pending:
                continue
            a = pending.pop(name)
            if name in order:
                back = [self._relu(order[name], step, a, lines, pull, trace)]
            elif isinstance(step.op, Affine):
                b = step.op.offset(step.node, step.params)
                if b is not None:
                    trace.const = trace.const + a.flatten(1) @ b.expand(1, *step.node.shape).flatten()
                back = step.op.back(step.node, a, step.params, step.shapes)
            else:
                back = self._other(step, a, trace)
            for source, part in zip(step.node.inputs, back, strict=True):
                pending[source] = pending[source] + part if source in pending else part
        trace.inputs = pending
        return trace

    def _relu(self, i: int, step: Step, a: Tensor, lines: Pieces, pull: Tensor | None, trace: _Trace) -> Tensor:
        index, part = self.columns.index[i], self.columns.part(i)
        flat = a.flatten(1)
        chosen = flat[:, index]
        positive = chosen.clamp(min=0)
        negative = chosen - positive
        trace.a[i] = chosen
        trace.const = trace.const + (negative * lines.offset[:, part]).sum(1)
        new = positive * lines.low[:, part] + negative * lines.up[:, part]
        if pull is not None:
            new = new + pull[:, part]
        return (flat * self.base[step.node.name]).index_copy_(1, index, new).reshape(a.shape)

    def _other(self, step: Step, a: Tensor, trace: _Trace) -> list[Tensor]:
        """Through a nonlinear step with fixed lines."""
        positive = a.clamp(min=0)
        negative = a - positive
        trace.other[step.node.name] = a
        if isinstance(step.op, MaxPool):
            best, sole, ceiling = step.op.choice(step.node, *self.fixed.intervals[step.node.inputs[0]])
            keep = torch.where((a >= 0) | sole, a, torch.zeros_like(a))
            trace.const = trace.const + ((a - keep) * ceiling).flatten(1).sum(1)
            return [step.op.place(step.node, best.expand(len(a), *best.shape[1:]), keep, step.shapes[0])]
        if isinstance(step.op, Joint):
            planes = self.fixed.planes(step)
            gained = positive * planes.lower_offset + negative * planes.upper_offset
            trace.const = trace.const + gained.flatten(1).sum(1)
            return [back.squeeze(1) for back in planes.back(positive.unsqueeze(1), negative.unsqueeze(1))]
        lines = self.fixed.lines(step)
        trace.const = trace.const + (negative * lines.upper_offset).flatten(1).sum(1)
        if lines.lower_offset is not None:
            trace.const = trace.const + (positive * lines.lower_offset).flatten(1).sum(1)
        return [positive * lines.lower_slope + negative * lines.upper_slope]

    def corner(self, trace: _Trace) -> Tensor:
        """The input (B, n) of the box at which the linear form is least."""
        first = next(iter(trace.inputs.values()))
        flat = [
            trace.inputs[v.name].flatten(1)
            if v.name in trace.inputs
            else first.new_zeros((len(first), torch.Size(v.shape).numel()))
            for v in self.program.graph.inputs
        ]
        a = torch.cat(flat, 1) if len(flat) > 1 else flat[0]
        return torch.where(a > 0, self.lower, self.upper)

    def forward(
        self, trace: _Trace, lines: Pieces, last: int
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor], list[Tensor]]:
        """(corner, values by name, z and h by ReLU step): the point at which the dual value is attained.

        ``last``: the number of the last step that is needed.
        """
        corner = self.corner(trace)
        values = split_inputs(self.program, corner)
        order = {name: i for i, name in enumerate(self.columns.names)}
        zs: list[Tensor] = [corner[:, :0]] * len(order)
        hs = list(zs)
        for step in self.program.steps[: last + 1]:
            name = step.node.name
            xs = [values[source] for source in step.node.inputs]
            if isinstance(step.op, Affine):
                values[name] = step.op.apply(step.node, xs, step.params)
            elif name in order:
                i = order[name]
                index, part = self.columns.index[i], self.columns.part(i)
                z = xs[0].flatten(1)
                zs[i] = z[:, index]
                a_u = trace.a[i] if i in trace.a else zs[i].new_zeros((1, 1))
                hs[i] = torch.where(
                    a_u > 0, lines.low[:, part] * zs[i], lines.up[:, part] * zs[i] + lines.offset[:, part]
                )
                values[name] = (z * self.base[name]).index_copy_(1, index, hs[i]).reshape(xs[0].shape)
            else:
                values[name] = self._chosen(step, xs, trace)
        return corner, values, zs, hs

    def _chosen(self, step: Step, xs: Sequence[Tensor], trace: _Trace) -> Tensor:
        a = trace.other.get(step.node.name)
        if isinstance(step.op, Joint):
            below, above = self.fixed.planes(step).at(xs)
            return below if a is None else torch.where(a > 0, below, above)
        x = xs[0]
        if isinstance(step.op, MaxPool):
            best, sole, ceiling = step.op.choice(step.node, *self.fixed.intervals[step.node.inputs[0]])
            windows = step.op.windows(step.node, x, 0.0)
            picked = windows.gather(-1, best.expand(len(x), *best.shape[1:]).unsqueeze(-1)).squeeze(-1)
            return picked if a is None else torch.where((a >= 0) | sole, picked, ceiling)
        lines = self.fixed.lines(step)
        low = x * lines.lower_slope if lines.lower_offset is None else x * lines.lower_slope + lines.lower_offset
        return low if a is None else torch.where(a > 0, low, x * lines.upper_slope + lines.upper_offset)

    def minimum(self, trace: _Trace, corner: Tensor) -> Tensor:
        total = trace.const
        position = 0
        for value in self.program.graph.inputs:
            size = torch.Size(value.shape).numel()
            if value.name in trace.inputs:
                a = trace.inputs[value.name].flatten(1)
                total = total + (a * corner[:, position : position + size]).sum(1)
            position += size
        return total


class _Trace:
    """What a pass backward leaves: coefficients at the ReLUs and at the inputs, and the constant."""

    def __init__(self, const: Tensor):
        self.const = const
        self.a: dict[int, Tensor] = {}
        self.other: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
