"""One step of branch and bound on a batch: bound, refute, clip, branch.

Two kinds of split. An input split halves the box in the dimension that moves the open rows most. A ReLU
split fixes the phase of one unstable neuron; what the phases chosen so far say about the inputs (linear
bounds that must be at most zero, made afresh in each domain, since they tighten with it) are rows of a
region. A domain is refuted when rows of splits, cuts and a conjunction exclude each other. Once no neuron
is unstable all rows are exact, and so is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from verinn.bounds.crown import Backward, LinearForm, OneHot, Relaxation, dot
from verinn.bounds.domain import bound_rows, relax, split_inputs
from verinn.bounds.region import Region, clip, least, separate
from verinn.bounds.rounding import cast_down, cast_up, sum_slack
from verinn.ops.base import Elementwise
from verinn.ops.program import Program, Step
from verinn.search.cuts import SplitRows
from verinn.search.spec import Spec
from verinn.search.store import Domains, join


@dataclass(frozen=True, eq=False)
class Task:
    """What a search works on. A domain is split on a ReLU where at most ``neurons`` of them are unstable,
    and anyhow after ``depth`` splits: halving boxes gets trapped in thin ones along a neuron's boundary.

    ``referee`` is the same network in float64: where only the price of rounding keeps a domain open, and
    the search runs in float32, it is bounded again by it. ``polytope_inputs``: up to so many inputs are
    rows weighed against each other. ``budget``: bytes for one block of coefficients.
    """

    program: Program
    spec: Spec
    referee: Program
    neurons: int = 60
    depth: int = 12
    polytope_inputs: int = 32
    budget: int = 256 << 20

    @cached_property
    def relus(self) -> tuple[Step, ...]:
        return tuple(step for step in self.program.steps if step.node.op == "relu")

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of the first neuron of each ReLU step, and at the end the count of all."""
        sizes = [torch.Size(step.node.shape).numel() for step in self.relus]
        return tuple(accumulate(sizes, initial=0))

    @cached_property
    def careful(self) -> Task | None:
        """The same task in float64, where the search itself is not."""
        return None if self.program is self.referee else replace(self, program=self.referee)

    @property
    def kept(self) -> tuple[str, ...]:
        """Values whose intervals are handed down: inputs of nonlinear steps."""
        return tuple(dict.fromkeys(s.node.inputs[0] for s in self.program.steps if not s.affine))

    def root(self) -> Domains:
        """One domain for each case."""
        spec, dtype = self.spec, self.program.dtype
        count = len(spec.cases)
        device = spec.lower.device
        known = {}
        for name in self.kept:
            shape = (count, *self.program.shapes[name])
            low = torch.full(shape, -torch.inf, dtype=dtype, device=device)
            known[name] = low, -low
        return Domains(
            spec.lower,
            spec.upper,
            torch.zeros((count, 0), dtype=torch.int64, device=device),
            spec.lower.new_zeros((count, 0, spec.lower.shape[1])),
            spec.lower.new_zeros((count, 0)),
            torch.arange(count, device=device),
            torch.ones((count, spec.conjunctions), dtype=torch.bool, device=device),
            known,
            torch.full((count,), 1.0 / max(1, count), dtype=torch.float64, device=device),
            torch.full((count,), -torch.inf, dtype=torch.float64, device=device),
        )


@dataclass(frozen=True, eq=False)
class Explored:
    """``children``: what is left to do. ``points`` (P, n) with ``cases`` (P,): worth trying as a witness.

    ``stuck``: domains that are open and can't be split any more (they make `unsat` impossible).
    """

    children: Domains | None
    closed: int
    points: Tensor
    cases: Tensor
    stuck: int = 0
    worst: float = float("inf")


@dataclass(frozen=True, eq=False)
class _Bounded:
    """Rows a (D, R, n), c (D, R) over each box, what each ReLU costs them, and what cuts and splits leave."""

    relaxation: Relaxation
    a: Tensor
    c: Tensor
    charged: Tensor
    costs: dict[str, Tensor]
    cutter: SplitRows


def bound(task: Task, domains: Domains) -> _Bounded:
    """CROWN bounds of all rows of the spec, and of the splits made, over each domain."""
    dtype = task.program.dtype
    lower, upper = cast_down(domains.lower, dtype), cast_up(domains.upper, dtype)
    cut, cut_c = task.spec.cut[domains.case], task.spec.cut_c[domains.case]
    region = Region(domains.lower, domains.upper, cut, cut_c)
    rows = domains.rows, domains.rows_c
    cutter = SplitRows(region, domains.splits, rows, task.relus, task.starts, (lower, upper))
    few = lower.shape[1] <= task.polytope_inputs
    relaxation = relax(task.program, lower, upper, domains.known, budget=task.budget, cutter=cutter if few else None)
    costs: dict[str, Tensor] = {}
    form = bound_spec(task, relaxation, domains.case, costs).exact(lower, upper)
    size = len(domains)
    a = form.a.double().expand(size, *form.a.shape[1:])
    c = form.c.expand(size, -1)
    charged = torch.zeros_like(c) if form.charged is None else form.charged.expand_as(c)
    return _Bounded(relaxation, a, c, charged, costs, cutter)


def bound_spec(task: Task, relaxation: Relaxation, case: Tensor, record: dict[str, Tensor] | None = None) -> LinearForm:
    """Linear lower bounds of the spec's rows; inexact coefficients are charged to the constant."""
    spec, program = task.spec, task.program
    alone = len(spec.cases) == 1
    pick = slice(0, 1) if alone else case
    start: dict[str, Tensor] = {}
    c = -spec.rhs[pick]
    sizes = [torch.Size(program.shapes[out.value]).numel() for out in program.graph.outputs]
    errors = None if spec.y_error is None else spec.y_error[pick].split(sizes, -1)
    for i, (out, y) in enumerate(zip(program.graph.outputs, spec.y[pick].split(sizes, -1), strict=True)):
        if bool((y != 0).any()):
            c = c - _put(start, relaxation, out.value, y, None if errors is None else errors[i])
    if spec.x is not None:
        x = split_inputs(program, spec.x[pick].flatten(0, 1))
        e = None if spec.x_error is None else split_inputs(program, spec.x_error[pick].flatten(0, 1))
        for name in x:
            rows = c.shape[:2]
            c = c - _put(
                start, relaxation, name, x[name].unflatten(0, rows), None if e is None else e[name].unflatten(0, rows)
            )
    if not start:  # rows of constants only
        first = program.graph.inputs[0]
        start[first.name] = torch.zeros((*c.shape, *first.shape), dtype=program.dtype, device=c.device)
    return bound_rows(relaxation, start, c, record)


def _put(
    start: dict[str, Tensor], relaxation: Relaxation, name: str, rows: Tensor, error: Tensor | None
) -> Tensor | float:
    """Adds float64 coefficients of a value to the start; returns what their inexactness costs (D, R)."""
    dtype = relaxation.program.dtype
    rows = rows.reshape(*rows.shape[:2], *relaxation.program.shapes[name])
    held = rows.to(dtype)
    loss = (rows - held.double()).abs()
    if error is not None:
        loss = loss + error.reshape(rows.shape)
    if name in start:  # two outputs of one value: their sum, rounded once
        total = start[name].double() + held.double()
        start[name] = total.to(dtype)
        loss = loss + (total - start[name].double()).abs() + total.abs() * 2.0**-52
    else:
        start[name] = held
    if not bool((loss > 0).any()):
        return 0.0
    size = relaxation.size(name).double()
    return dot(loss * (1 + 1e-12), size) * sum_slack(size[0].numel(), torch.float64)


def explore(task: Task, domains: Domains) -> Explored:
    """Bounds a batch of domains and splits those that stay open."""
    bounded = bound(task, domains)
    still, lower, upper, worst = refute(task, domains, bounded)
    if task.careful is not None:
        still = still & _refereed(task.careful, domains, bounded, still)
    live = still.any(1)
    count = int(live.sum())
    closed = len(domains) - count
    if count == 0:
        none = domains.lower.new_zeros((0, domains.lower.shape[1]))
        return Explored(None, closed, none, domains.case[:0])
    relaxation = bounded.relaxation.select(live)
    costs = {name: cost[live] for name, cost in bounded.costs.items()}
    left = Domains(
        lower[live],
        upper[live],
        domains.splits[live],
        bounded.cutter.a[live],
        bounded.cutter.c[live],
        domains.case[live],
        still[live],
        {name: relaxation.intervals[name] for name in task.kept},
        domains.share[live],
        worst[live],
    )
    weights = _open_rows(task.spec, left.open)
    points = _points(left, bounded.a[live], weights)
    children, stuck = _branch(task, left, relaxation, bounded.a[live], weights, costs)
    return Explored(children, closed, points, left.case.repeat(2), stuck, float(left.worst.min()))


def _refereed(careful: Task, domains: Domains, bounded: _Bounded, still: Tensor) -> Tensor:
    """What stays open (D, J) when domains are bounded in float64 that rounding alone may keep open."""
    rows = least(bounded.a, bounded.c, domains.lower, domains.upper) + 3 * bounded.charged
    near = ((_best_by_owner(rows, careful.spec) > 0) | ~still).all(1) | _settled(careful, bounded.relaxation)
    near = (near & still.any(1)).nonzero().squeeze(1)
    result = torch.ones_like(still)
    if len(near):
        known = {name: (low.double(), high.double()) for name, (low, high) in domains.known.items()}
        some = replace(domains, known=known).select(near)
        result[near] = refute(careful, some, bound(careful, some))[0]
    return result


def _settled(task: Task, relaxation: Relaxation) -> Tensor:
    """Domains (D,) in which no ReLU is unstable: nothing but rounding, or a true violation, keeps them open."""
    settled = torch.ones(len(relaxation.intervals[task.program.graph.inputs[0].name][0]), dtype=torch.bool)
    settled = settled.to(task.program.device)
    for step in task.relus:
        assert isinstance(step.op, Elementwise)
        settled &= ~step.op.loose(step.node, *relaxation.intervals[step.node.inputs[0]]).flatten(1).any(1)
    return settled


def refute(task: Task, domains: Domains, bounded: _Bounded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(open (D, J), lower, upper, worst): what stays open, the part of each box where it may lie."""
    spec, region = task.spec, bounded.cutter.region
    rows = least(bounded.a, bounded.c, region.lower, region.upper)
    beaten = (rows > 0) | (spec.strict[domains.case] & (rows >= 0))
    still = domains.open & ~_any_by_owner(beaten, spec)
    worst = _best_by_owner(rows, spec).masked_fill(~still, torch.inf).amin(1)
    if spec.conjunctions > 8 or region.lower.shape[1] > task.polytope_inputs:
        return still, region.lower, region.upper, worst
    empty = torch.full_like(region.lower, torch.inf)
    low, high = empty, -empty
    for j in range(spec.conjunctions):
        here = still[:, j].nonzero().squeeze(1)
        if not len(here):
            continue
        mine = spec.owner == j
        inside, possible = _within(region.select(here), bounded.a[here][:, mine], bounded.c[here][:, mine])
        still[here, j] = possible
        here, inside = here[possible], inside.select(possible)
        low[here] = torch.minimum(low[here], inside.lower)
        high[here] = torch.maximum(high[here], inside.upper)
    return still, low, high, worst


def _within(region: Region, a: Tensor, c: Tensor) -> tuple[Region, Tensor]:
    """The region cut by the rows of one conjunction, clipped, and whether it may hold a point."""
    inside = clip(region.with_rows(a, c))
    possible = ~(inside.lower > inside.upper).any(1)
    unsure = possible.nonzero().squeeze(1)
    if inside.a.shape[1] > 1 and len(unsure):
        margin, _ = separate(inside.select(unsure))
        possible[unsure] = ~(margin > 0)
    return inside, possible


def _any_by_owner(rows: Tensor, spec: Spec) -> Tensor:
    """bool (D, R) → (D, J): whether any row of the conjunction is set."""
    return _best_by_owner(rows.double(), spec) > 0


def _best_by_owner(rows: Tensor, spec: Spec) -> Tensor:
    """(D, R) → (D, J): the greatest value over each conjunction's rows."""
    if spec.conjunctions == rows.shape[1]:
        return rows
    start = rows.new_full((len(rows), spec.conjunctions), -torch.inf)
    return start.scatter_reduce(1, spec.owner.expand(len(rows), -1), rows, "amax")


def _open_rows(spec: Spec, open_: Tensor) -> Tensor:
    """(D, R) float64: 1 for rows of conjunctions that are open."""
    return open_[:, spec.owner].double()


def _points(domains: Domains, a: Tensor, weights: Tensor) -> Tensor:
    """Two points of each domain that may violate: the middle, and the corner that lowers the open rows."""
    lower, upper = domains.lower, domains.upper
    mix = (a * weights.unsqueeze(-1)).sum(1)
    return torch.cat([(lower + upper) / 2, torch.where(mix > 0, lower, upper)])


def _branch(
    task: Task, domains: Domains, relaxation: Relaxation, a: Tensor, weights: Tensor, costs: Mapping[str, Tensor]
) -> tuple[Domains | None, int]:
    """Children of open domains, and how many could not be split."""
    chosen = _choose_neurons(task, domains, relaxation, costs)
    made: list[Domains] = []
    for number in range(len(task.relus)):
        mine = (chosen[:, 0] == number).nonzero().squeeze(1)
        if len(mine):
            made.extend(_split_neuron(task, number, domains.select(mine), relaxation.select(mine), chosen[mine, 1]))
    rest = (chosen[:, 0] < 0).nonzero().squeeze(1)
    stuck = 0
    if len(rest):
        halves, stuck = _split_input(domains.select(rest), a[rest], weights[rest])
        made.extend(halves)
    return (join(made) if made else None), stuck


def _choose_neurons(task: Task, domains: Domains, relaxation: Relaxation, costs: Mapping[str, Tensor]) -> Tensor:
    """(D, 2): number of the ReLU step and the neuron to split, or −1 where an input split is better."""
    size = len(domains)
    best = torch.full((size,), -torch.inf, dtype=torch.float64, device=domains.case.device)
    chosen = torch.full((size, 2), -1, dtype=torch.int64, device=domains.case.device)
    unstable = torch.zeros(size, dtype=torch.int64, device=domains.case.device)
    for number, step in enumerate(task.relus):
        assert isinstance(step.op, Elementwise)
        loose = step.op.loose(step.node, *relaxation.intervals[step.node.inputs[0]]).flatten(1)
        unstable += loose.sum(1)
        if step.node.name not in costs:
            continue
        cost = torch.where(loose, costs[step.node.name].expand(size, *step.node.shape).flatten(1).double(), -torch.inf)
        value, where = cost.max(1)
        better = (value > best) & (chosen[:, 0] < 0)
        best = torch.where(better, value, best)
        chosen[better, 0] = number
        chosen[better, 1] = where[better]
    deep = domains.share * len(task.spec.cases) <= 0.5**task.depth
    few = (unstable > 0) & ((unstable <= task.neurons) | deep) & best.isfinite()
    return torch.where(few.unsqueeze(1), chosen, -1)


def _split_neuron(task: Task, number: int, domains: Domains, relaxation: Relaxation, neuron: Tensor) -> list[Domains]:
    """Both phases of one neuron (index within ReLU step ``number``) of each domain."""
    name = task.relus[number].node.inputs[0]
    index = neuron.unsqueeze(1)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64, device=index.device)
    form = Backward(relaxation).run({name: OneHot(index.expand(-1, 2), sign)})
    dtype = task.program.dtype
    form = form.exact(cast_down(domains.lower, dtype), cast_up(domains.upper, dtype))
    low, high = relaxation.intervals[name]
    zero = torch.zeros_like(index, dtype=dtype)
    phases = []
    for phase in (0, 1):
        flat_low, flat_high = low.flatten(1), high.flatten(1)
        if phase == 0:
            flat_high = flat_high.scatter(1, index, zero)
        else:
            flat_low = flat_low.scatter(1, index, zero)
        known = {**domains.known, name: (flat_low.reshape(low.shape), flat_high.reshape(high.shape))}
        splits = torch.cat([2 * (index + task.starts[number]) + phase, domains.splits], 1)
        rows = torch.cat([form.a[:, phase : phase + 1].double(), domains.rows], 1)
        rows_c = torch.cat([form.c[:, phase : phase + 1], domains.rows_c], 1)
        box = clip(Region(domains.lower, domains.upper, rows[:, :1], rows_c[:, :1]), 1)
        child = replace(
            domains,
            lower=box.lower,
            upper=box.upper,
            splits=splits,
            rows=rows,
            rows_c=rows_c,
            known=known,
            share=domains.share / 2,
        )
        phases.append(_tidied(child.select(~(box.lower > box.upper).any(1))))
    return phases


def _tidied(domains: Domains) -> Domains:
    """Without the splits that the box implies (their phases stay known), the others moved to the front."""
    a, c = domains.rows, domains.rows_c
    kept = (domains.splits >= 0) & ~(least(-a, -c, domains.lower, domains.upper) >= 0)
    count = int(kept.sum(1).max()) if len(domains) else 0
    order = kept.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :count]
    valid = kept.gather(1, order)
    wide = order.unsqueeze(-1).expand(-1, -1, a.shape[-1])
    return replace(
        domains,
        splits=torch.where(valid, domains.splits.gather(1, order), -1),
        rows=torch.where(valid.unsqueeze(-1), a.gather(1, wide), 0.0),
        rows_c=torch.where(valid, c.gather(1, order), -1.0),
    )


def _split_input(domains: Domains, a: Tensor, weights: Tensor) -> tuple[list[Domains], int]:
    """Halves each box in the dimension where width times coefficients is greatest."""
    lower, upper = domains.lower, domains.upper
    width = upper - lower
    score = (a.abs() * weights.unsqueeze(-1)).sum(1) * width
    score = torch.where(score.sum(1, keepdim=True) > 0, score, width)
    middle = lower + width / 2
    score = torch.where((middle > lower) & (middle < upper), score, -1.0)
    value, axis = score.max(1, keepdim=True)
    fine = (value >= 0).squeeze(1)
    cut = middle.gather(1, axis)
    half = replace(domains, share=domains.share / 2)
    halves = [replace(half, upper=upper.scatter(1, axis, cut)), replace(half, lower=lower.scatter(1, axis, cut))]
    return [part.select(fine) for part in halves], int((~fine).sum())
