"""CROWN: linear bounds by backward propagation, batched over domains and rows, sound in floating point.

Zhang et al., "Efficient Neural Network Robustness Certification with General Activation Functions"
(NeurIPS 2018), on general graphs as in Xu et al. (NeurIPS 2020). Each row of coefficients is a lower
bound of a linear function of some values: row·value ≥ A·x + c for every x of the domain's box.

Rounding: the coefficients as computed are taken as they are, and what their computation lost is
charged to c. Pulling A back through y = W x + b loses at most γ|A||W||x| + γ|A||b|, and |x| is known
from the intervals, so one matrix-vector product beside the matrix-matrix one pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verinn.bounds.gathered import Sums, gathered
from verinn.bounds.interval import Interval, magnitude
from verinn.bounds.patches import Patches, add, bend, by_sign, passes
from verinn.bounds.rounding import centre, gamma, sum_slack, tiny, unit
from verinn.bounds.rows import OneHot as OneHot
from verinn.bounds.rows import Rows, flat, pick
from verinn.bounds.rows import dot as dot
from verinn.bounds.rows import dot_terms as dot_terms
from verinn.ops.activation import Relu
from verinn.ops.base import Affine, Elementwise, Joint, Lines, Planes
from verinn.ops.pool import MaxPool
from verinn.ops.program import Program, Step
from verinn.ops.softmax import Softmax
from verinn.ops.stairs import Stairs


@dataclass(frozen=True, eq=False)
class LinearForm:
    """Rows A·x + c below what was asked, over the flattened inputs: a (D, R, n), c float64 (D, R).

    ``debt``: the relative error (in units of u) that the entries of ``a`` still carry. ``charged``: about
    how much of c is the price of rounding (D|1, R|1); an estimate, nothing is proved by it.
    """

    a: Tensor
    c: Tensor
    debt: float = 0.0
    charged: Tensor | None = None

    def minimum(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Least value over boxes (D, n): float64 (D, R), rounded down."""
        return least(self.a, self.c, self.debt, lower, upper)

    def exact(self, lower: Tensor, upper: Tensor) -> LinearForm:
        """The same rows with the debt paid into c for boxes (D, n): a is then exact."""
        if self.debt == 0:
            return self
        size = torch.maximum(lower.abs(), upper.abs())
        n, dtype = lower.shape[-1], lower.dtype
        loss = dot(self.a.abs(), size) * (self.debt * unit(dtype) * sum_slack(dot_terms(n, dtype), dtype))
        return LinearForm(self.a, self.c - self.c.abs() * 1e-15 - loss - tiny(dtype) * n, 0.0, self.charged)


def least(a: Tensor | Patches, c: Tensor, debt: float, lower: Tensor, upper: Tensor) -> Tensor:
    """Least value of a·x + c over boxes (D, n), or (D, *shape) for windows: float64 (D, R), rounded down."""
    middle, radius = centre(lower, upper)
    size = middle.abs() + radius
    n, dtype = lower[0].numel(), lower.dtype
    terms = dot_terms(n, dtype)
    g = gamma(terms + 8 + debt, dtype)
    loss = dot(a.abs(), radius + g * size) * sum_slack(terms, dtype)
    return dot(a, middle) - loss + (c - c.abs() * 1e-15) - tiny(dtype) * (n + 4)


@dataclass(frozen=True, eq=False)
class Toll:
    """What one unit of |coefficient| at a step's value costs: ``rate`` (D, *shape) and per row ``base`` (D, 1)."""

    rate: Tensor
    base: Tensor


@dataclass(eq=False)
class Relaxation:
    """A batch of domains as far as it is bounded: intervals of values, and what follows from them.

    Lines and tolls are made once, when first needed, from intervals that are final by then.
    ``pulls``: multipliers (D, *shape) by ReLU, added to the coefficients of its input z: a positive one
    where z ≤ 0 in the domain, a negative one where z ≥ 0 (beta-CROWN); of others nothing is used.
    ``parent``: a relaxation of a wider domain, whose tolls hold here too.
    """

    program: Program
    intervals: dict[str, Interval]
    alphas: Mapping[str, Tensor] = field(default_factory=dict)
    pulls: Mapping[str, Tensor] = field(default_factory=dict)
    parent: Relaxation | None = None
    _lines: dict[str, Lines] = field(default_factory=dict)
    _planes: dict[str, Planes] = field(default_factory=dict)
    _tolls: dict[str, Toll] = field(default_factory=dict)
    _sizes: dict[str, tuple[Interval, Tensor]] = field(default_factory=dict)

    def select(self, index: Tensor) -> Relaxation:
        """The relaxation of some of the domains (a mask or index)."""
        chosen = Relaxation(
            self.program,
            {name: (low[index], high[index]) for name, (low, high) in self.intervals.items()},
            {name: alpha[index] for name, alpha in self.alphas.items()},
            {name: pull[index] for name, pull in self.pulls.items()},
            self.parent,
        )
        for name, lines in self._lines.items():
            offset = lines.lower_offset
            chosen._lines[name] = Lines(
                lines.lower_slope[index],
                None if offset is None else offset[index],
                lines.upper_slope[index],
                lines.upper_offset[index],
            )
        chosen._tolls.update({name: Toll(toll.rate[index], toll.base[index]) for name, toll in self._tolls.items()})
        return chosen

    def lines(self, step: Step) -> Lines:
        name = step.node.name
        if name not in self._lines:
            assert isinstance(step.op, Elementwise)
            lines = step.op.lines(step.node, *self.intervals[step.node.inputs[0]], self.alphas.get(name))
            self._lines[name] = _settled(lines, *self.intervals[name]) if isinstance(step.op, Stairs) else lines
        return self._lines[name]

    def planes(self, step: Step) -> Planes:
        name = step.node.name
        if name not in self._planes:
            assert isinstance(step.op, Joint)
            boxes = [self.intervals[source] for source in step.node.inputs]
            self._planes[name] = step.op.planes(step.node, boxes, self.alphas.get(name))
        return self._planes[name]

    def toll(self, step: Step) -> Toll:
        """Rounding charged when coefficients pass back through an affine step."""
        if self.parent is not None:
            return self.parent.toll(step)
        name = step.node.name
        if name not in self._tolls:
            self._tolls[name] = self._affine_toll(step)
        return self._tolls[name]

    def pull(self, step: Step) -> Tensor | None:
        """The step's multipliers as far as the intervals say that they may be used.

        Only for ReLUs: a stable one's slope is exactly 0 or 1, so adding a multiplier is the one rounding.
        """
        pull = self.pulls.get(step.node.name)
        if pull is None or not isinstance(step.op, Relu):
            return None
        lower, upper = self.intervals[step.node.inputs[0]]
        down = torch.where(lower >= 0, pull.clamp(max=0), 0.0)
        return torch.where(upper <= 0, pull.clamp(min=0), down)

    def size(self, name: str) -> Tensor:
        """The greatest |x| of each element of a value; made anew when its interval was replaced."""
        interval, known = self.intervals[name], self._sizes.get(name)
        if known is None or known[0] is not interval:
            known = self._sizes[name] = (interval, magnitude(interval))
        return known[1]

    @property
    def adds(self) -> int:
        """Terms to add to every γ for the float64 additions that gather c (nothing beside float32's u)."""
        return 4 * len(self.program.steps) + 8 if self.program.dtype == torch.float64 else 2

    def _affine_toll(self, step: Step) -> Toll:
        op, node, dtype = step.op, step.node, self.program.dtype
        assert isinstance(op, Affine)
        sizes = [self.size(name) for name in node.inputs]
        count = dot_terms(self.intervals[node.name][0][0].numel(), dtype) + self.adds
        weighed = op.linear(node, sizes, step.magnitudes, absolute=True)
        rate = gamma(step.back_terms + self.adds, dtype) * weighed
        b = op.offset(node, step.magnitudes)
        if b is not None:
            rate = rate + gamma(count, dtype) * b
        if step.errors is not None:
            if op.weights:  # else L has no parameters, and no error
                rate = rate + op.linear(node, sizes, step.errors, absolute=True)
            error = op.offset(node, step.errors)
            rate = rate if error is None else rate + error
        slack = sum_slack(step.forward_terms + 4, dtype) * sum_slack(count, dtype)
        under = sum((flat(size).sum(1) for size in sizes), torch.zeros((), dtype=dtype, device=rate.device))
        base = (under * (step.back_terms + 2) + flat(weighed).sum(1) + count) * (2 * tiny(dtype))
        # what underflows in the rate itself meets coefficients of any size
        rate = rate * slack + (2 * step.forward_terms + 8) * tiny(dtype)
        batch = len(self.intervals[node.name][0])
        return Toll(rate.expand(batch, *rate.shape[1:]), base.double().reshape(-1, 1).expand(batch, 1))


def _settled(lines: Lines, low: Tensor, high: Tensor) -> Lines:
    """Flat lines where a value is known to be one number, as a step function's is on one side of a jump."""
    known = low == high
    offset = torch.zeros_like(low) if lines.lower_offset is None else lines.lower_offset
    return Lines(
        torch.where(known, 0.0, lines.lower_slope),
        torch.where(known, low, offset),
        torch.where(known, 0.0, lines.upper_slope),
        torch.where(known, high, lines.upper_offset),
    )


class Backward:
    """One backward pass: pending coefficients by value, and the constants c gathered so far."""

    def __init__(
        self,
        relaxation: Relaxation,
        record: dict[str, Tensor] | None = None,
        met: dict[str, Tensor] | None = None,
        sums: Mapping[str, Sums] | None = None,
    ):
        """``record`` receives, by nonlinear step, what its relaxation may cost the rows: (D, *shape) each.
        ``met`` receives the coefficients that meet the step's value: (D|1, R, *shape). ``sums``: what is known, by
        product of matrices, of sums of its second matrix, for passes of one row."""
        self.relaxation = relaxation
        self.record = record
        self.met = met
        self.sums = sums or {}
        self.program = relaxation.program
        self.dtype = self.program.dtype
        self.pending: dict[str, tuple[Rows, float]] = {}
        self.c: Tensor = torch.zeros((1, 1), dtype=torch.float64, device=self.program.device)
        self.charged: Tensor = torch.zeros_like(self.c)

    def run(self, start: Mapping[str, Rows], c: Tensor | None = None) -> LinearForm:
        """``start``: coefficients (D|1, R, *shape) by value name; ``c``: float64 (D|1, R)."""
        if c is not None:
            self.c = c - c.abs() * (unit(torch.float64) * (self.relaxation.adds + 4 * len(self.program.steps)))
        for name, coefficient in start.items():
            self.pending[name] = (coefficient, 0.0)
        self._pass()
        return self._gather()

    def minimum(self, start: Mapping[str, Rows], lower: Tensor, upper: Tensor) -> Tensor:
        """The least values of what ``run`` gives, over boxes (D, n): float64 (D, R), rounded down.

        Rows that are windows to the end need not be written out.
        """
        self.pending.update({name: (a, 0.0) for name, a in start.items()})
        self._pass()
        inputs = self.program.graph.inputs
        a, debt = self.pending.get(inputs[0].name, (None, 0.0))
        if len(inputs) > 1 or not isinstance(a, Patches):
            return self._gather().minimum(lower, upper)
        shape = (len(lower), *inputs[0].shape)
        return least(a, self.c, debt, lower.reshape(shape), upper.reshape(shape))

    def _pass(self) -> None:
        for step in reversed(self.program.steps):
            if step.node.name not in self.pending:
                continue
            a, debt = self.pending.pop(step.node.name)
            if self.met is not None and not step.affine:
                a = self.met[step.node.name] = self._dense(a, step.node.name)
            if isinstance(step.op, Affine):
                self._affine(step, a, debt)
            elif isinstance(step.op, MaxPool):
                self._max_pool(step, self._dense(a, step.node.name), debt)
            elif isinstance(step.op, Joint):
                self._joint(step, self._dense(a, step.node.name), debt)
            else:
                self._elementwise(step, self._windowed(step, a), debt)

    def _dense(self, a: Rows, name: str) -> Tensor:
        if isinstance(a, Patches):
            return a.dense()
        return a.dense(self.program.shapes[name], self.dtype) if isinstance(a, OneHot) else a

    def _windowed(self, step: Step, a: Rows) -> Tensor | Patches:
        """Rows as windows where they are that already, or single neurons, and the step passes windows."""
        plain = step.affine or (self.record is None and self.relaxation.pull(step) is None)
        if plain and not isinstance(a, Tensor) and passes(step):
            windows = a if isinstance(a, Patches) else Patches.pick(a.index, a.sign, step.node.shape, self.dtype)
            if windows is not None:
                return windows
        return self._dense(a, step.node.name)

    def _affine(self, step: Step, a: Rows, debt: float) -> None:
        if isinstance(a, OneHot) and self._picked(step, a):
            return
        a = self._windowed(step, a)
        op, node = step.op, step.node
        assert isinstance(op, Affine)
        b = op.offset(node, step.params)
        if b is not None or step.back_terms or step.errors is not None:
            toll = self.relaxation.toll(step)
            rate = (
                toll.rate if debt == 0 else toll.rate + (2 * debt * unit(self.dtype)) * self.relaxation.size(node.name)
            )
            charge = dot(a.abs(), rate) + toll.base
            self.c, self.charged = self.c - charge, self.charged + charge
            debt = 0.0
        if b is not None:
            self.c = self.c + dot(a, b.expand(1, *node.shape))
        for name, back in zip(node.inputs, self._back(step, a), strict=True):
            self._add(name, back, debt)

    def _back(self, step: Step, a: Tensor | Patches) -> Sequence[Tensor | Patches]:
        op = step.op
        assert isinstance(op, Affine)
        if isinstance(a, Patches):
            return a.back(step)
        flat = op.back(step.node, a.flatten(0, 1), step.params, step.shapes)
        return [back.unflatten(0, a.shape[:2]) for back in flat]

    def _picked(self, step: Step, a: OneHot) -> bool:
        """One-hot rows through a linear layer on a vector are rows of its weights; through a reshape, themselves."""
        node = step.node
        if node.op == "reshape":
            self._add(node.inputs[0], a, 0.0)
            return True
        if node.op != "linear" or node.shape[-1] != self.relaxation.intervals[node.name][0][0].numel():
            return False
        toll = self.relaxation.toll(step)
        weight = step.params["weight"].T
        sign = a.sign.to(self.dtype)
        back = weight[a.index] * sign.unsqueeze(-1)
        self.c = self.c - toll.base - pick(toll.rate, a.index).double()
        if "bias" in step.params:
            self.c = self.c + (pick(step.params["bias"].reshape(1, -1), a.index) * sign).double()
        self._add(node.inputs[0], back.reshape(*a.index.shape, *step.shapes[0]), 0.0)
        return True

    def _elementwise(self, step: Step, a: Tensor | Patches, debt: float) -> None:
        lines = self.relaxation.lines(step)
        self._pay(step.node.name, a, debt)
        positive, negative = by_sign(a)
        count = dot_terms(lines.upper_offset[0].numel(), self.dtype)
        g = gamma(count + self.relaxation.adds, self.dtype)
        offset = dot(self._relaxed(step, negative), lines.upper_offset)
        if lines.lower_offset is None:  # the upper offsets are then ≥ 0, so the dot product is its own size
            self.c = self.c + offset * (1 + 2 * g)
        else:
            loss = dot(negative, -lines.upper_offset.abs()) + dot(positive, lines.lower_offset.abs())
            self.c = self.c + offset + dot(positive, lines.lower_offset) - loss * (2 * g)
        name = step.node.inputs[0]
        if self.record is not None and isinstance(positive, Tensor) and isinstance(negative, Tensor):
            self.record[step.node.name] = self._cost(step, positive, negative)
        under = flat(self.relaxation.size(name)).sum(1).double().reshape(-1, 1) + count
        self.c = self.c - under * (4 * tiny(self.dtype))
        back = self._bent(step, lines, positive, negative)
        pull = self.relaxation.pull(step)
        self._add(
            name,
            back if pull is None else self._dense(back, name) + pull.unsqueeze(1),
            2.0 if pull is None else 3.0,
        )

    def _relaxed(self, step: Step, a: Tensor | Patches) -> Tensor | Patches:
        """Coefficients of an elementwise step's value that meet a relaxation, not the function itself."""
        return a

    def _bent(
        self, step: Step, lines: Lines, positive: Tensor | Patches, negative: Tensor | Patches
    ) -> Tensor | Patches:
        """Coefficients of an elementwise step's input."""
        return bend(positive, negative, lines.lower_slope, lines.upper_slope)

    def _cost(self, step: Step, positive: Tensor, negative: Tensor) -> Tensor:
        """The widest gaps between a function and its lines, weighed by the coefficients that meet them
        (the intercept score of BaBSR, Bunel et al., JMLR 2020, with the lower line's gap beside it)."""
        lines = self.relaxation.lines(step)
        lower, upper = self.relaxation.intervals[step.node.inputs[0]]
        below = torch.minimum(-lower, upper).clamp(min=0)
        return positive.sum(1) * below - negative.sum(1) * lines.upper_offset

    def _joint(self, step: Step, a: Tensor, debt: float) -> None:
        """Through planes; what the sums of their products lose is charged for all inputs at once."""
        name, relaxation, dtype = step.node.name, self.relaxation, self.dtype
        self._pay(name, a, debt)
        if name in self.sums and a.shape[1] == 1 and self.record is None:
            self._gathered(step, a)
            return
        planes = relaxation.planes(step)
        a = self._levelled(step, a)
        positive, negative = a.clamp(min=0), a.clamp(max=0)
        count = dot_terms(planes.upper_offset[0].numel(), dtype) + relaxation.adds
        size = torch.maximum(planes.upper_offset.abs(), planes.lower_offset.abs())
        rate = gamma(planes.terms + relaxation.adds, dtype) * planes.weight + 2 * gamma(count, dtype) * size
        self.c = self.c + dot(positive, planes.lower_offset) + dot(negative, planes.upper_offset)
        self.c = self.c - dot(a.abs(), rate * sum_slack(count + 8, dtype) + tiny(dtype))
        sources = step.node.inputs
        under = sum(flat(relaxation.size(source)).sum(1).double().reshape(-1, 1) for source in sources) + count
        self.c = self.c - under * ((planes.terms + 2) * 4 * tiny(dtype))
        if self.record is not None:
            wide = torch.maximum(planes.upper_offset - planes.lower_offset, torch.zeros_like(size))
            self.record[name] = a.abs().sum(1) * wide
        for source, back in zip(sources, planes.back(positive, negative), strict=True):
            self._add(source, back, 0.0)

    def _gathered(self, step: Step, a: Tensor) -> None:
        """Through a product of matrices whose second one is summed first; it charges itself."""
        boxes = [self.relaxation.intervals[name] for name in step.node.inputs]
        alpha = self.relaxation.alphas.get(step.node.name)
        mix = boxes[0][0].new_full((1, *step.shapes[0]), 0.5) if alpha is None else alpha[:, 0].mean(-1)
        if mix.dim() < a.dim() - 1:  # a parameter for each element of the result
            mix = mix.unsqueeze(-1)
        found = gathered(boxes, self.sums[step.node.name], a, mix, self.relaxation.adds)
        self.c = self.c + found.c
        for name, back in zip(step.node.inputs, (found.x, found.y), strict=True):
            self._add(name, back, 0.0)

    def _levelled(self, step: Step, a: Tensor) -> Tensor:
        """The values of a softmax add up to one: what its coefficients have in common is a constant.

        Any number will do; their median by the values' widths leaves the least for the planes to lose."""
        if type(step.op) is not Softmax:
            return a
        axis = step.node.attrs["axis"] + 2
        low, high = self.relaxation.intervals[step.node.name]
        a = a.expand(max(len(a), len(low)), *a.shape[1:])  # each domain has widths of its own
        sorted_, order = a.detach().sort(dim=axis)
        width = (high - low).clamp(min=0)  # below zero where nothing is in a domain
        weight = width.unsqueeze(1).expand(order.shape).gather(axis, order).cumsum(axis)
        middle = sorted_.gather(axis, (weight < weight.amax(axis, keepdim=True) / 2).sum(axis, keepdim=True))
        a = a - middle
        self._pay(step.node.name, a, 1.0)
        common = flat(middle.double(), 2)
        lost = common.abs().sum(2) * gamma(common.shape[2] + self.relaxation.adds + 2, torch.float64)
        self.c = self.c + common.sum(2) - lost
        return a

    def _max_pool(self, step: Step, a: Tensor, debt: float) -> None:
        op, node = step.op, step.node
        assert isinstance(op, MaxPool)
        self._pay(node.name, a, debt)
        name = node.inputs[0]
        lower, upper = self.relaxation.intervals[name]
        best, sole, ceiling = op.choice(node, lower, upper)
        keep = torch.where((a >= 0) | sole.unsqueeze(1), a, torch.zeros_like(a))
        left = a - keep
        count = dot_terms(ceiling[0].numel(), self.dtype)
        g = gamma(max(count, op.terms(node)) + self.relaxation.adds, self.dtype)
        biggest = op.windows(node, magnitude((lower, upper)), 0.0).amax(-1)
        loss = dot(a.abs(), biggest) * (2 * g)
        self.c = (
            self.c
            + dot(left, ceiling)
            - loss
            - count * op.terms(node) * 4 * tiny(self.dtype) * (1 + biggest.amax().double())
        )
        rows, batch = a.shape[:2], max(a.shape[0], best.shape[0])
        keep = keep.expand(batch, *keep.shape[1:])
        pick = best.unsqueeze(1).expand(batch, rows[1], *best.shape[1:])
        placed = op.place(node, pick.flatten(0, 1), keep.flatten(0, 1), step.shapes[0])
        self._add(name, placed.unflatten(0, (batch, rows[1])), 0.0)

    def _pay(self, name: str, a: Tensor | Patches, debt: float) -> None:
        """Charge c for the relative error that the coefficients of a value carry."""
        if debt:
            size = self.relaxation.size(name)
            rate = size * (2 * debt * unit(self.dtype)) + tiny(self.dtype)
            self.c = self.c - dot(a.abs(), rate) - size[0].numel() * 4 * tiny(self.dtype)

    def _add(self, name: str, a: Rows, debt: float) -> None:
        if name not in self.pending:
            whole = isinstance(a, Patches) and not a.window.small(a.shape)
            self.pending[name] = (self._dense(a, name) if whole else a, debt)
            return
        other, owed = self.pending.pop(name)
        pair = a.joined(other) if isinstance(a, Patches) and isinstance(other, Patches) else None
        one, two = pair or (self._dense(a, name), self._dense(other, name))
        self._pay(name, one, debt)
        self._pay(name, two, owed)
        self.pending[name] = (add(one, two), 1.0)

    def _gather(self) -> LinearForm:
        """Coefficients of all inputs side by side; every other value has been passed."""
        parts, worst = [], 0.0
        names = [value.name for value in self.program.graph.inputs if value.name in self.pending]
        reached = {name: (self._dense(a, name), debt) for name in names for a, debt in (self.pending.pop(name),)}
        assert not self.pending, f"values never reached: {sorted(self.pending)}"
        rows = max((a.shape[1] for a, _ in reached.values()), default=self.c.shape[1])
        batch = max([*(len(a) for a, _ in reached.values()), len(self.c)])
        for value in self.program.graph.inputs:
            hit = reached.get(value.name)
            if hit is None:
                size = torch.Size(value.shape).numel()
                parts.append(torch.zeros((batch, rows, size), dtype=self.dtype, device=self.program.device))
                continue
            worst = max(worst, hit[1])
            dense = flat(hit[0], 2)
            parts.append(dense.expand(batch, *dense.shape[1:]))
        return LinearForm(
            torch.cat(parts, 2) if len(parts) > 1 else parts[0], self.c.expand(batch, rows), worst, self.charged
        )
