"""Graphs whose first functions jump: the inputs are cut into cells in which these are constant.

Where few inputs are free and a floor, a comparison or the like reads them, the network is another one on each
side of a jump, and no linear bound over several cells says much. Cells are few, though, and interval arithmetic
over one of them is quick, and exact but for rounding where nothing else reads the inputs. So boxes are split at
first jumps and bounded by intervals until none is left; each open cell's points are tried, and what intervals
leave of a cell is searched like any graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verinn.bounds.certify import mixed
from verinn.bounds.climb import Goals
from verinn.bounds.crown import Backward, OneHot, Relaxation, least
from verinn.bounds.domain import relax
from verinn.bounds.interval import Interval
from verinn.bounds.optimise import first
from verinn.bounds.region import Region, clip
from verinn.bounds.rounding import cast_down, cast_up, unit
from verinn.bounds.rows import flat
from verinn.ir.graph import Graph
from verinn.ops.base import Affine
from verinn.ops.program import Program, Step
from verinn.ops.registry import OPS
from verinn.ops.stairs import Stairs
from verinn.result import Verdict, Witness
from verinn.search.bab import Limits, Outcome, Tell, Try, one_by_one, search
from verinn.search.box import goals_of
from verinn.search.candidates import kept
from verinn.search.general import GeneralTask, landed, narrowed
from verinn.search.nonlinear import Effort
from verinn.search.pieces import STORED, Pieces
from verinn.search.spec import Spec

#: elements that first step functions read, at most, and numbers in the linear forms of all of them
_ELEMENTS, _NUMBERS = 256, 1 << 24
#: binary logarithm of the number of cells that are worth a sweep
_BITS = 14.0


@dataclass(frozen=True, eq=False)
class Cells:
    """D boxes ``lower``/``upper`` float64 (D, n) with ``known`` intervals of values by name, (D, *shape) each, in
    float64: what first step functions read and give. ``open`` bool (D, J): conjunctions left."""

    lower: Tensor
    upper: Tensor
    known: dict[str, Interval]
    open: Tensor

    def __len__(self) -> int:
        return len(self.open)

    def select(self, index: Tensor) -> Cells:
        """The cells of a mask or index, in its order."""
        known = {name: (low[index], high[index]) for name, (low, high) in self.known.items()}
        return Cells(self.lower[index], self.upper[index], known, self.open[index])

    def last(self, count: int) -> tuple[Cells, Cells]:
        """The last ``count`` cells, and those before them."""
        order = torch.arange(len(self), device=self.open.device)
        return self.select(order[-count:]), self.select(order[:-count])

    @staticmethod
    def joined(parts: Sequence[Cells]) -> Cells:
        """Cells one after the other."""

        known = {}
        for name in parts[0].known:
            low, high = (torch.cat([part.known[name][end] for part in parts]) for end in (0, 1))
            known[name] = low, high
        lower, upper = torch.cat([part.lower for part in parts]), torch.cat([part.upper for part in parts])
        return Cells(lower, upper, known, torch.cat([part.open for part in parts]))


def search_cells(
    program: Program, referee: Program, spec: Spec, limits: Limits, attempt: Try, tell: Tell, effort: Effort
) -> Outcome | None:
    """Decide a group of cases cell by cell; None where cells are no way to do it.

    `unsat` when intervals, or a search in what they leave of each cell, exclude a violation in every cell.
    """

    def decided(sweep: Sweep) -> Outcome:
        with torch.no_grad():
            swept = sweep.run(limits, attempt, tell)
        if swept.outcome.verdict is not Verdict.UNKNOWN:
            return swept.outcome
        tasks = sweep.tasks(program, swept.left, effort, limits.expired)
        outcome = one_by_one(search(task, limits, attempt, tell) for task in tasks)
        return replace(outcome, domains=outcome.domains + swept.outcome.domains)

    with torch.no_grad():
        sweeps = [Sweep.start(referee, spec, case) for case in range(len(spec.cases))]
    some = [sweep for sweep in sweeps if sweep is not None]
    return one_by_one(map(decided, some)) if len(some) == len(sweeps) else None


@dataclass(frozen=True, eq=False)
class Forms:
    """Linear forms below the elements of a value, and below their negatives: a float64 (2, E, n), c (2, E)."""

    a: Tensor
    c: Tensor


@dataclass(frozen=True, eq=False)
class Swept:
    """How a sweep ended, and the cells that it leaves: none of their first functions jumps any more."""

    outcome: Outcome
    left: Cells


@dataclass(frozen=True, eq=False)
class Sweep:
    """One case of a problem, to be cut into cells by a program in float64. ``jumps``: the first step functions;
    ``forms`` of what they read; ``allowed`` bool (J, G): which goals each conjunction has; ``strict`` bool (G,):
    goals that need to be below zero."""

    program: Program
    spec: Spec
    case: int
    goals: Goals
    allowed: Tensor
    strict: Tensor
    jumps: tuple[Step, ...]
    forms: dict[str, Forms]
    root: Cells

    @staticmethod
    def start(program: Program, spec: Spec, case: int) -> Sweep | None:
        """The sweep of a case; None where no step function comes first, or there would be too many cells."""
        names = first_jumps(program.graph)
        jumps = tuple(step for step in program.steps if step.node.name in names)
        lower, upper = spec.lower[case : case + 1], spec.upper[case : case + 1]
        elements = sum(math.prod(step.node.shape) for step in jumps)
        if not jumps or elements > _ELEMENTS or 2 * elements * lower.shape[1] > _NUMBERS:
            return None
        relaxation = relax(program, lower, upper, refine=False)
        known = {n: relaxation.intervals[n] for step in jumps for n in (step.node.inputs[0], step.node.name)}
        cells = sum(float((1 + high - low).log2().sum()) for low, high in (known[step.node.name] for step in jumps))
        if not 0 < cells <= _BITS:
            return None
        rows = torch.arange(spec.y.shape[1], device=spec.y.device)
        goals = goals_of(spec, case, rows)
        mine = spec.owner.unsqueeze(0) == torch.arange(spec.conjunctions, device=rows.device).unsqueeze(1)
        cuts = len(goals) - len(rows)
        return Sweep(
            program,
            spec,
            case,
            goals,
            torch.cat([mine, mine.new_ones((len(mine), cuts))], 1),
            torch.cat([spec.strict[case], mine.new_zeros(cuts)]),
            jumps,
            {step.node.inputs[0]: _forms(relaxation, step.node.inputs[0], lower, upper) for step in jumps},
            Cells(lower, upper, known, mine.new_ones((1, len(mine)))),
        )

    def run(self, limits: Limits, attempt: Try, tell: Tell) -> Swept:
        """Splits and bounds cells until none is open that a first function jumps in."""
        waiting, left = self.root, [self.root.select(self.root.open.any(1) & False)]
        explored = closed = 0

        def outcome(verdict: Verdict, witness: Witness | None = None, reason: str = "") -> Swept:
            return Swept(Outcome(verdict, witness, reason, explored), Cells.joined(left))

        while len(waiting):
            if limits.expired():
                return outcome(Verdict.TIMEOUT, reason="time is up")
            part, waiting = waiting.last(limits.batch)
            explored += len(part)
            some = self.bounded(part)
            closed += len(part) - len(some)
            if len(some):
                witness = self.tried(some, attempt)
                if witness is not None:
                    return outcome(Verdict.SAT, witness)
                divided, whole = self.divided(some)
                waiting = Cells.joined([waiting, *divided])
                left.append(whole)
            tell(len(waiting) + sum(map(len, left)), closed, -math.inf, 1.0)
        return outcome(Verdict.UNKNOWN if any(map(len, left)) else Verdict.UNSAT)

    def bounded(self, cells: Cells) -> Cells:
        """The cells that intervals leave open, with what these say."""
        relaxation = relax(self.program, cells.lower, cells.upper, cells.known, refine=False)
        values = torch.stack([self.least(relaxation, g) for g in range(len(self.goals))], 1)
        done = (values > 0) | (self.strict & (values >= 0))
        open_ = cells.open & ~(done.unsqueeze(1) & self.allowed).any(2)
        nothing = (cells.lower > cells.upper).any(1)
        for low, high in relaxation.intervals.values():
            nothing |= flat(low > high).any(1)
        known = {name: relaxation.intervals[name] for name in cells.known}
        return replace(cells, open=open_, known=known).select(open_.any(1) & ~nothing)

    def least(self, relaxation: Relaxation, goal: int) -> Tensor:
        """The least value (D,) that the intervals allow of a goal, rounded down."""
        weights = torch.zeros((1, len(self.goals)), dtype=torch.float64, device=self.spec.y.device)
        weights[0, goal] = 1
        start, c = mixed(relaxation, self.goals, weights)
        total = c[:, 0]
        for name, a in start.items():
            part = least(a, torch.zeros_like(c), 0.0, *relaxation.intervals[name])[:, 0]
            total = total + part
            total = total - (total.abs() + part.abs()) * (2 * unit(torch.float64))
        return total.nan_to_num(-math.inf, math.inf, -math.inf)

    def tried(self, cells: Cells, attempt: Try) -> Witness | None:
        """Replays middles and ends of open cells that violate by our own arithmetic, the clearest few first."""
        x = torch.cat([(cells.lower + cells.upper) / 2, cells.lower, cells.upper]).float().double()
        y = self.program.flat(x)
        case = torch.full((len(x),), self.case, dtype=torch.int64, device=x.device)
        rows = self.spec.values(case, x, y)
        owner = self.spec.owner
        worst = torch.stack([rows[:, owner == j].amax(1) for j in range(self.spec.conjunctions)], 1).amin(1)
        order = worst.argsort()[:3]
        for i in order[worst[order] <= 0].tolist():
            witness = attempt(x[i], case[i])
            if witness is not None:
                return witness
        return None

    def divided(self, cells: Cells) -> tuple[list[Cells], Cells]:
        """Both halves of the cells that jumps divide, and the other cells."""
        ranges = [cells.known[step.node.name] for step in self.jumps]
        widths = [flat(high - low) for low, high in ranges]
        best = torch.cat(widths, 1).max(1)
        halves, passed = [], 0
        for step, width in zip(self.jumps, widths, strict=True):
            mine = (best.values > 0) & (best.indices >= passed) & (best.indices < passed + width.shape[1])
            if bool(mine.any()):
                halves += self.halved(cells.select(mine), step, best.indices[mine] - passed)
            passed += width.shape[1]
        return halves, cells.select(~(best.values > 0))

    def halved(self, cells: Cells, step: Step, index: Tensor) -> list[Cells]:
        """The cells below and above the middle jump of one element (``index`` (D,)) of a step function each."""
        name = step.node.inputs[0]
        least, most = (flat(end).gather(1, index.unsqueeze(1)).squeeze(1) for end in cells.known[step.node.name])
        point = _jump(step, least, most).double()
        all_ = torch.ones_like(index, dtype=torch.bool)
        halves = []
        for sign in (1.0, -1.0):
            known = dict(cells.known)
            known[name] = narrowed(known[name], all_, index, point, sign)
            landed(step, known, all_, index, point, sign)
            halves.append(replace(self._cut(cells, name, index, point, sign), known=known))
        return halves

    def _cut(self, cells: Cells, name: str, index: Tensor, point: Tensor, sign: float) -> Cells:
        """The cells' boxes, shrunk to where an element can lie below (sign 1) or above a point."""
        forms, side = self.forms[name], 0 if sign > 0 else 1
        c = forms.c[side, index] - sign * point
        c = c - (c.abs() + point.abs()) * (2 * unit(torch.float64))
        box = clip(Region(cells.lower, cells.upper, forms.a[side, index].unsqueeze(1), c.unsqueeze(1)))
        return replace(cells, lower=box.lower, upper=box.upper)

    def tasks(
        self, program: Program, left: Cells, effort: Effort, expired: Callable[[], bool]
    ) -> Iterator[GeneralTask]:
        """Searches by a program of any dtype for what the cells leave open, a few cells each."""
        pairs = left.open.nonzero()
        for some in pairs.split(effort.width):
            with torch.no_grad():
                start = self._start(program, left.select(some[:, 0]), some[:, 1], 1.0 / len(pairs))
            yield GeneralTask(
                program,
                self.program,
                self.goals,
                self.allowed,
                (self.strict | ~self.allowed).all(1),
                torch.arange(self.spec.y.shape[1], device=left.open.device),
                start,
                self.spec,
                self.case,
                effort.width,
                halves=effort.halves,
                refine=effort.refine,
                budget=effort.budget,
                expired=expired,
            )

    def _start(self, program: Program, cells: Cells, goal: Tensor, share: float) -> Pieces:
        """Where a search for one conjunction each of some cells starts."""
        size, dtype = len(goal), program.dtype
        known = {name: (cast_down(low, dtype), cast_up(high, dtype)) for name, (low, high) in cells.known.items()}
        ends = cast_down(cells.lower, dtype), cast_up(cells.upper, dtype)
        relaxation = relax(program, *ends, known, refine=False)
        now = first(relaxation, size, 0, self.allowed[goal])
        none = torch.zeros((size, 0), dtype=torch.float64, device=goal.device)
        return Pieces(
            cells.lower,
            cells.upper,
            goal,
            {name: relaxation.intervals[name] for name in kept(program)},
            none.long(),
            none.long(),
            none,
            none,
            {name: alpha.to(STORED) for name, alpha in now.alphas.items()},
            none.to(now.gamma.dtype),
            now.gamma,
            torch.full((size,), share, dtype=torch.float64, device=goal.device),
            torch.full((size,), -math.inf, dtype=torch.float64, device=goal.device),
        )


def first_jumps(graph: Graph) -> frozenset[str]:
    """The step functions that read affine functions of the inputs: their values' names."""
    affine = {value.name for value in graph.inputs}
    found = set()
    for node in graph.nodes:
        if all(name in affine for name in node.inputs):
            if isinstance(OPS[node.op], Affine):
                affine.add(node.name)
            elif isinstance(OPS[node.op], Stairs):
                found.add(node.name)
    return frozenset(found)


def _jump(step: Step, least: Tensor, most: Tensor) -> Tensor:
    """Where a step function gets over the middle of its range [least, most], which has several values."""
    op = step.node.op
    if op in ("sign", "step"):
        return torch.zeros_like(least)
    below = ((least + most) / 2).floor()
    return below + {"floor": 1.0, "ceil": 0.0, "round": 0.5}[op]


def _forms(relaxation: Relaxation, name: str, lower: Tensor, upper: Tensor) -> Forms:
    """Forms over a box (1, n) of all elements of an affine function of the inputs."""
    size = math.prod(relaxation.program.shapes[name])
    index = torch.arange(size, device=lower.device).unsqueeze(0)
    sides = []
    for sign in (1.0, -1.0):
        start = {name: OneHot(index, torch.full_like(index, sign, dtype=relaxation.program.dtype))}
        sides.append(Backward(relaxation).run(start).exact(lower, upper))
    width = lower.shape[1]
    a = torch.stack([side.a.double().expand(1, size, width)[0] for side in sides])
    return Forms(a, torch.stack([side.c.double().expand(1, size)[0] for side in sides]))
