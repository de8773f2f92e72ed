"""From a group of cases to searches over ReLU phases: each box relaxed once, then conjunction by conjunction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from verinn.bounds.climb import Goals, Multipliers, Pace, Rows, climb
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.dual import Columns, columns_of
from verinn.bounds.relevance import relevance
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.program import Program
from verinn.result import Verdict
from verinn.search.bab import Limits, Outcome, Tell, Try, search
from verinn.search.neurons import PhaseTask
from verinn.search.spec import Spec
from verinn.search.touch import PlainRows

Expired = Callable[[], bool]

#: conjunctions that are bounded together
BLOCK = 512


@dataclass(frozen=True, eq=False)
class _Box:
    """One case: its box, relaxed."""

    relaxation: Relaxation  # in the search's dtype
    careful: Relaxation  # in float64
    spec: Spec
    case: int
    width: int
    expired: Callable[[], bool]
    relevant: dict[str, Tensor]

    @staticmethod
    def of(
        careful: Relaxation,
        program: Program,
        spec: Spec,
        case: int,
        width: int,
        expired: Expired,
        relevant: dict[str, Tensor],
    ) -> _Box:
        """The box as the search sees it, from what is known of it in float64."""
        known = {
            name: (cast_down(low, program.dtype), cast_up(high, program.dtype))
            for name, (low, high) in careful.intervals.items()
        }
        return _Box(Relaxation(program, known), careful, spec, case, width, expired, relevant)

    @cached_property
    def columns(self) -> Columns:
        return columns_of(self.relaxation, self.relevant)

    def task(self, goals: Goals, rows: Tensor) -> PhaseTask:
        """The search for a violation of all of some goals, of which ``rows`` (R,) are rows of the spec."""
        known = self.relaxation.intervals
        low = self.columns.gather({name: ends[0] for name, ends in known.items()})
        high = self.columns.gather({name: ends[1] for name, ends in known.items()})
        case = slice(self.case, self.case + 1)
        return PhaseTask(
            self.relaxation,
            self.columns,
            goals,
            rows,
            self.spec.lower[case],
            self.spec.upper[case],
            low,
            high,
            (high > -low).to(low.dtype),
            torch.full((1, len(goals)), 1.0 / max(1, len(goals)), dtype=low.dtype, device=low.device),
            self.spec,
            self.case,
            self.careful,
            self.width,
            expired=self.expired,
        )

    def goals(self, mine: Tensor) -> Goals:
        return goals_of(self.spec, self.case, mine)


def goals_of(spec: Spec, s: int, mine: Tensor) -> Goals:
    """Rows (an index) of the spec for case s, with the constraints on its inputs."""

    def errors(e: Tensor | None, like: Tensor) -> Tensor | None:
        if e is None:
            return None
        return torch.cat([e[s][mine], torch.zeros_like(like)])

    cut, cut_c = spec.cut[s], spec.cut_c[s]
    none = spec.y.new_zeros((len(cut), spec.y.shape[2]))
    x = None
    if spec.x is not None or len(cut):
        own = spec.x[s][mine] if spec.x is not None else cut.new_zeros((len(mine), cut.shape[1]))
        x = torch.cat([own, cut])
    return Goals(
        torch.cat([spec.y[s][mine], none]),
        x,
        torch.cat([spec.rhs[s][mine], -cut_c]),
        errors(spec.y_error, none),
        errors(spec.x_error, cut),
    )


def search_phases(
    program: Program,
    referee: Program,
    spec: Spec,
    limits: Limits,
    attempt: Try,
    tell: Tell,
    width: int,
    budget: int,
    workers: int = 1,
) -> Outcome:
    """Decide a group of cases by splitting ReLUs. The outcome is `unknown` where other nonlinearities stay loose."""
    domains, reasons = 0, []
    for case in range(len(spec.cases)):
        with torch.no_grad():
            tasks = _tasks(program, referee, spec, case, width, budget, limits.expired, workers)
        if limits.expired():
            return Outcome(Verdict.TIMEOUT, reason="time is up", domains=domains)
        domains += spec.conjunctions
        for task in tasks:
            outcome = search(task, limits, attempt, tell)
            domains += outcome.domains
            if outcome.verdict in (Verdict.SAT, Verdict.TIMEOUT):
                return replace(outcome, domains=domains)
            if outcome.verdict is Verdict.UNKNOWN:
                reasons.append(outcome.reason)
    if reasons:
        return Outcome(Verdict.UNKNOWN, reason=reasons[0], domains=domains)
    return Outcome(Verdict.UNSAT, domains=domains)


def _tasks(
    program: Program,
    referee: Program,
    spec: Spec,
    case: int,
    width: int,
    budget: int,
    expired: Expired,
    workers: int,
) -> list[PhaseTask]:
    """Searches for what one climb doesn't refute in a box, the nearest to a proof first.

    The box is relaxed in the search's dtype first; in float32 the price of rounding makes many intervals
    wider than they need be, so what is open after that is relaxed again in float64.
    """
    lower, upper = spec.lower[case : case + 1], spec.upper[case : case + 1]
    ends = cast_down(lower, program.dtype), cast_up(upper, program.dtype)
    relevant = read_by(program, spec, case)
    rough = relax(program, *ends, budget=budget, workers=workers, relevant=relevant)
    known = {name: (low.double(), high.double()) for name, (low, high) in rough.intervals.items()}
    every = torch.arange(spec.conjunctions, device=spec.owner.device)
    if expired():
        return []
    left = _open(_Box.of(Relaxation(referee, known), program, spec, case, width, expired, relevant), every)
    if not left or expired() or program.dtype == torch.float64:
        return [task for _, _, task in left]
    fine = relax(referee, lower, upper, known, budget=budget, workers=workers, relevant=relevant)
    again = torch.tensor([j for _, j, _ in left], device=every.device)
    left = _open(_Box.of(fine, program, spec, case, width, expired, relevant), again)
    return [task for _, _, task in left]


def read_by(program: Program, spec: Spec, case: int) -> dict[str, Tensor]:
    """The elements of values that the rows of a case can depend on (see ``relevance``)."""
    outputs = program.graph.outputs
    sizes = [torch.Size(program.shapes[out.value]).numel() for out in outputs]
    read = spec.y[case] != 0
    if spec.y_error is not None:
        read = read | (spec.y_error[case] != 0)
    start: dict[str, Tensor] = {}
    for out, part in zip(outputs, read.any(0).split(sizes), strict=True):
        mask = part.reshape(1, *program.shapes[out.value])
        start[out.value] = start[out.value] | mask if out.value in start else mask
    return relevance(program, start)


def _open(box: _Box, conjunctions: Tensor) -> list[tuple[float, int, PhaseTask]]:
    """Conjunctions that one climb doesn't refute, the nearest to a proof first: bound, number and search."""
    left: list[tuple[float, int, PhaseTask]] = []
    beaten = PlainRows.of(box.spec, box.careful.program).beaten(
        box.careful, torch.tensor([box.case], device=box.spec.owner.device)
    )[0]
    conjunctions = conjunctions[~(beaten & (box.spec.owner == conjunctions.unsqueeze(1))).any(1)]
    for block in conjunctions.split(BLOCK) if len(conjunctions) else ():
        left.extend(_climbed(box, block))
    return sorted(left, key=lambda one: -one[0])


def _climbed(box: _Box, conjunctions: Tensor) -> list[tuple[float, int, PhaseTask]]:
    """Conjunctions bounded in one pass: those that stay open, each with its bound and its multipliers."""
    owner = box.spec.owner
    every = (owner.unsqueeze(0) == conjunctions.unsqueeze(1)).any(0).nonzero().squeeze(1)
    task = box.task(box.goals(every), every)
    cuts = len(task.goals) - len(every)
    mine = owner[every].unsqueeze(0) == conjunctions.unsqueeze(1)
    allowed = torch.cat([mine, mine.new_ones((len(mine), cuts))], 1)
    size = len(conjunctions)
    none = task.low.new_zeros((size, 0))
    rows = Rows(task.low, task.high, none.long(), none, allowed)
    gamma = allowed.to(none.dtype) / allowed.sum(1, keepdim=True)
    first = Multipliers(task.alpha.expand(size, -1), none, gamma)
    best, found, _ = climb(task.frame, task.goals, rows, first, Pace(20), 0.0, box.expired)
    proof = task.certified(rows, found)
    left = []
    for i, j in enumerate(conjunctions.tolist()):
        own = (owner == j).nonzero().squeeze(1)
        strict = bool(box.spec.strict[box.case][own].all()) and not cuts
        if proof[i] > 0 or (strict and proof[i] >= 0 and float(found.gamma[i].sum()) > 0):
            continue
        fresh = box.task(box.goals(own), own)
        gamma = found.gamma[i : i + 1][:, allowed[i]]
        left.append((float(best[i]), j, replace(fresh, alpha=found.alpha[i : i + 1], gamma=gamma)))
    return left
