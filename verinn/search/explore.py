"""One step of branch and bound on a batch: bound, refute, clip, branch.

Two kinds of split. An input split halves the box in the dimension that moves the open rows most. A ReLU
split fixes the phase of one unstable neuron; what the phases chosen so far say about the inputs (linear
bounds that must be at most zero, made afresh in each domain, since they tighten with it) are rows of a
region. A domain is refuted when rows of splits, cuts and a conjunction exclude each other. Once no neuron
is unstable all rows are exact, and so is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verinn.bounds.crown import LinearForm, Relaxation, dot
from verinn.bounds.domain import bound_rows, relax, split_inputs
from verinn.bounds.region import Region, clip, least, separate
from verinn.bounds.rounding import cast_down, cast_up, sum_slack
from verinn.bounds.rows import flat
from verinn.search.branch import branch
from verinn.search.cuts import SplitRows
from verinn.search.spec import Spec
from verinn.search.store import Batch, Domains
from verinn.search.task import Task as Task
from verinn.search.tighten import tighten
from verinn.search.touch import refuted_leaves


@dataclass(frozen=True, eq=False)
class Explored:
    """``children``: what is left to do. ``points`` (P, n) with ``cases`` (P,): worth trying as a witness.

    ``stuck``: domains that are open and can't be split any more: they make `unsat` impossible, unless
    somebody exact refutes all of them. ``left``: those of them that can be handed over.
    """

    children: Batch | None
    closed: int
    points: Tensor
    cases: Tensor
    stuck: int = 0
    worst: float = float("inf")
    left: Batch | None = None


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
        return _nothing_left(domains, closed)
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
    a, stakes = bounded.a[live], None
    if task.contractor is not None:
        left, relaxation, kept, stakes = tighten(task.contractor, task.spec, left, relaxation, a, bounded.c[live])
        closed += count - len(left)
        if not len(left):
            return _nothing_left(domains, closed)
        a, costs = a[kept], {name: cost[kept] for name, cost in costs.items()}
    weights = _open_rows(task.spec, left.open)
    points = _points(left, a, weights)
    children, stuck = branch(task, left, relaxation, a, weights, costs, stakes)
    count, case = 0 if stuck is None else len(stuck), left.case.repeat(2)
    return Explored(children, closed, points, case, count, float(left.worst.min()), stuck)


def _nothing_left(domains: Domains, closed: int) -> Explored:
    return Explored(None, closed, domains.lower[:0], domains.case[:0])


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
    """Domains (D,) in which no step loses anything: nothing but rounding, or a true violation, keeps them open."""
    size = len(relaxation.intervals[task.program.graph.inputs[0].name][0])
    settled = torch.ones(size, dtype=torch.bool, device=task.program.device)
    for step in task.program.steps:
        if not step.affine and bool(settled.any()):
            for loose in step.loose([relaxation.intervals[name] for name in step.node.inputs]):
                settled &= ~flat(loose).any(1)
    return settled


def refute(task: Task, domains: Domains, bounded: _Bounded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(open (D, J), lower, upper, worst): what stays open, the part of each box where it may lie."""
    spec, region = task.spec, bounded.cutter.region
    rows = least(bounded.a, bounded.c, region.lower, region.upper)
    beaten = (
        (rows > 0) | (spec.strict[domains.case] & (rows >= 0)) | task.plain.beaten(bounded.relaxation, domains.case)
    )
    still = domains.open & ~_any_by_owner(beaten, spec)
    if bool(spec.strict.any()):
        box = region.lower, region.upper
        still = refuted_leaves(task.referee, spec, bounded.relaxation, domains.case, still, box)
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
    """Two points of each domain that may violate: the middle, and the corner that lowers the open rows.

    In float32, as witnesses are: the middle of a small box around the only one is rounded to it.
    """
    lower, upper = domains.lower, domains.upper
    mix = (a * weights.unsqueeze(-1)).sum(1)
    return torch.cat([(lower + upper) / 2, torch.where(mix > 0, lower, upper)]).float().double()
