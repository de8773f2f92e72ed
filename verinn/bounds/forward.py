"""Forward linear bounds: every value between two linear functions of the inputs, carried through the graph.

The forward mode of LiRPA (Xu et al., NeurIPS 2020), in the form of a middle and half a difference, so that an
affine step is one application of L and one of |L| to as many columns as there are inputs. With few inputs that
bounds all values of a network for the price of some evaluations, where a backward pass costs one for every
element; it is less tight.

Rounding is charged to the constant of the difference, column by column as in ``crown``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verinn.bounds.crown import Relaxation
from verinn.bounds.interval import Interval
from verinn.bounds.rounding import centre, gamma, sum_slack, tiny
from verinn.bounds.rows import flat
from verinn.ops.base import Affine, Elementwise
from verinn.ops.product import MulPlanes
from verinn.ops.program import Program, Step

#: with more inputs than this, columns are too many
MOST_INPUTS = 32
#: multiplications for the backward passes of one domain that are so few that nothing need come before them
CHEAP = 2e8
#: multiplications for all backward passes to one value, about a minute of a core, that are too many
DEAR = 1e12


@dataclass(frozen=True, eq=False)
class Form:
    """middle·(ξ, 1) ± half·(ξ, 1) around a value, ξ in [−1, 1]ⁿ: each (D, n + 1, *shape), the constant last."""

    middle: Tensor
    half: Tensor

    def size(self) -> Tensor:
        """A bound on |middle·(ξ, 1)| + |half·(ξ, 1)|: (D, *shape), rounded up a little."""
        return (self.middle.abs().sum(1) + self.half.abs().sum(1)) * (1 + 1e-5)

    def interval(self) -> Interval:
        """The least and the greatest value, rounded outward."""
        dtype, columns = self.middle.dtype, self.middle.shape[1]
        low, high = self.middle - self.half, self.middle + self.half
        slack = self.size() * (2 * gamma(columns + 4, dtype)) + 2 * columns * tiny(dtype)
        return (
            low[:, -1] - low[:, :-1].abs().sum(1) - slack,
            high[:, -1] + high[:, :-1].abs().sum(1) + slack,
        )


@dataclass(eq=False)
class Forward:
    """The forms of values that are still to be read."""

    relaxation: Relaxation
    left: dict[str, int]  # how often each value is still read
    forms: dict[str, Form] = field(default_factory=dict)

    @staticmethod
    def start(relaxation: Relaxation, lower: Tensor, upper: Tensor) -> Forward:
        """``lower``, ``upper`` (D, n): boxes, in the program's dtype."""
        program = relaxation.program
        left: dict[str, int] = {}
        for step in program.steps:
            for name in step.node.inputs:
                left[name] = left.get(name, 0) + 1
        forward = Forward(relaxation, left)
        middle, radius = centre(lower, upper)
        batch, n = lower.shape
        columns = torch.zeros((batch, n + 1, n), dtype=lower.dtype, device=lower.device)
        columns[:, :n] = torch.diag_embed(radius)
        columns[:, n] = middle
        position = 0
        for value in program.graph.inputs:
            size = math.prod(value.shape)
            own = columns[:, :, position : position + size].reshape(batch, n + 1, *value.shape)
            forward.forms[value.name] = Form(own, torch.zeros_like(own))
            position += size
        return forward

    def step(self, step: Step) -> Interval:
        """Bounds of the step's value; the intervals of its inputs are final."""
        if isinstance(step.op, Affine) and step.node.inputs:
            form = self._affine(step)
        elif isinstance(step.op, Elementwise):
            lines = self.relaxation.lines(step)
            low_offset = torch.zeros_like(lines.upper_offset) if lines.lower_offset is None else lines.lower_offset
            pairs = [(lines.lower_slope, lines.upper_slope)]
            form = self._between(step, pairs, low_offset, lines.upper_offset)
        elif step.node.op == "mul":
            planes = self.relaxation.planes(step)
            assert isinstance(planes, MulPlanes)
            pairs = list(zip(planes.below, planes.above, strict=True))
            form = self._between(step, pairs, planes.lower_offset, planes.upper_offset)
        else:
            form = self._constant(self.relaxation.intervals[step.node.name])
        form = self._finite(step, form)
        self.forms[step.node.name] = form
        for name in step.node.inputs:
            self.left[name] -= 1
            if not self.left[name]:
                self.forms.pop(name, None)
        return form.interval()

    @property
    def _columns(self) -> int:
        return next(iter(self.forms.values())).middle.shape[1]

    def _constant(self, interval: Interval) -> Form:
        middle, radius = centre(*interval)
        zero = middle.new_zeros((len(middle), self._columns, *middle.shape[1:]))
        level, half = zero.clone(), zero
        level[:, -1], half[:, -1] = middle, radius
        return Form(level, half)

    def _finite(self, step: Step, form: Form) -> Form:
        """Elements that are no numbers start afresh from the interval."""
        bad = ~(form.middle.isfinite() & form.half.isfinite()).all(1, keepdim=True)
        if not bool(bad.any()):
            return form
        fresh = self._constant(self.relaxation.intervals[step.node.name])
        return Form(torch.where(bad, fresh.middle, form.middle), torch.where(bad, fresh.half, form.half))

    def _affine(self, step: Step) -> Form:
        op, node, dtype = step.op, step.node, self.relaxation.program.dtype
        assert isinstance(op, Affine)
        inputs = [self.forms[name] for name in node.inputs]
        batch, columns = max(len(form.middle) for form in inputs), self._columns
        middles, halves = (
            [x.expand(batch, *x.shape[1:]).reshape(-1, *x.shape[2:]) for x in part]
            for part in ([form.middle for form in inputs], [form.half for form in inputs])
        )
        shape = (batch, columns, *node.shape)
        middle = op.linear(node, middles, step.params).reshape(shape)
        half = op.linear(node, halves, step.magnitudes, absolute=True).reshape(shape).clone()
        b = op.offset(node, step.params)
        if b is not None:
            middle = middle.clone()
            middle[:, -1] = middle[:, -1] + b
        if step.forward_terms or step.errors is not None or b is not None:
            half[:, -1] += self._lost(step, [form.size() for form in inputs], dtype)
        return Form(middle, half)

    def _lost(self, step: Step, sizes: list[Tensor], dtype: torch.dtype) -> Tensor:
        """What rounding and inexact weights may change of L x + b, with |x| at most ``sizes``."""
        op, node = step.op, step.node
        assert isinstance(op, Affine)
        weighed = op.linear(node, sizes, step.magnitudes, absolute=True)
        lost = weighed * gamma(step.forward_terms + 4, dtype)
        b = op.offset(node, step.magnitudes)
        if b is not None:
            lost = lost + (weighed + b) * gamma(2, dtype)
        if step.errors is not None:
            if op.weights:
                lost = lost + op.linear(node, sizes, step.errors, absolute=True)
            error = op.offset(node, step.errors)
            lost = lost if error is None else lost + error
        slack = sum_slack(step.forward_terms + 8, dtype)
        return lost * slack + (self._columns + 1) * (step.forward_terms + 4) * tiny(dtype)

    def _between(self, step: Step, pairs: list[tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Form:
        """Between the planes Σ slope·x + offset below and above, slopes (of the lower, of the upper) by input."""
        batch = max(len(low), len(high))
        middle = low.new_zeros((batch, self._columns, *step.node.shape))
        half = torch.zeros_like(middle)
        size = low.abs() + high.abs()
        for name, (s, t) in zip(step.node.inputs, pairs, strict=True):
            x = self.forms[name]
            s, t = s.unsqueeze(1), t.unsqueeze(1)
            middle = middle + ((s + t) * x.middle + (t.abs() - s.abs()) * x.half) / 2
            half = half + ((t - s) * x.middle + (t.abs() + s.abs()) * x.half) / 2
            size = size + x.size() * (s.abs() + t.abs()).squeeze(1)
        middle[:, -1] = middle[:, -1] + (low + high) / 2
        half[:, -1] = half[:, -1] + (high - low) / 2
        dtype = low.dtype
        half[:, -1] = half[:, -1] + size * gamma(16, dtype) + 8 * self._columns * tiny(dtype)
        return Form(middle, half)


def evaluation(program: Program) -> dict[str, int]:
    """Multiplications of an evaluation up to each value."""
    total, found = 0, {}
    for step in program.steps:
        total += step.forward_terms * math.prod(step.node.shape)
        found[step.node.name] = total
    return found


def too_dear(program: Program) -> dict[str, float] | None:
    """How many backward passes to each value are too many; None: forward bounds are of no use, there are many
    inputs, or backward passes are cheap anyway."""
    n = sum(math.prod(value.shape) for value in program.graph.inputs)
    if n > MOST_INPUTS or not program.steps:
        return None
    work = evaluation(program)
    if 2 * max(work[step.node.name] * math.prod(step.node.shape) for step in program.steps) <= CHEAP:
        return None
    return {name: DEAR / max(1, products) for name, products in work.items()}


def passes(mask: Tensor) -> int:
    """Backward passes that a mask (D, *shape) of elements asks for, in a batch of domains."""
    return 2 * len(mask) * int(flat(mask).any(0).sum())
