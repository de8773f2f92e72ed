"""From a group of cases to searches over ReLU phases: each box relaxed once, then conjunction by conjunction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verinn.bounds.climb import Goals, Multipliers, Pace, Rows, climb
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.dual import Columns, columns_of
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.program import Program
from verinn.result import Verdict
from verinn.search.bab import Limits, Outcome, Tell, Try, search
from verinn.search.neurons import PhaseTask
from verinn.search.spec import Spec

#: conjunctions that are bounded together
BLOCK = 512


@dataclass(frozen=True, eq=False)
class _Box:
    """One case: its box, relaxed."""

    relaxation: Relaxation
    columns: Columns
    spec: Spec
    case: int
    referee: Program
    width: int
    expired: Callable[[], bool]

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
            self.referee,
            self.width,
            expired=self.expired,
        )

    def goals(self, mine: Tensor) -> Goals:
        """Rows (an index) of the spec for this case, with the constraints on its inputs."""
        spec, s = self.spec, self.case

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
) -> Outcome:
    """Decide a group of cases by splitting ReLUs. The outcome is `unknown` where other nonlinearities stay loose."""
    domains, reasons = 0, []
    for case in range(len(spec.cases)):
        lower, upper = cast_down(spec.lower[case], program.dtype), cast_up(spec.upper[case], program.dtype)
        with torch.no_grad():
            relaxation = relax(program, lower.unsqueeze(0), upper.unsqueeze(0), budget=budget)
            if limits.expired():
                return Outcome(Verdict.TIMEOUT, reason="time is up", domains=domains)
            box = _Box(relaxation, columns_of(relaxation), spec, case, referee, width, limits.expired)
            tasks = _open(box)
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


def _open(box: _Box) -> list[PhaseTask]:
    """Searches for the conjunctions that one climb doesn't refute, the nearest to a proof first."""
    left: list[tuple[float, PhaseTask]] = []
    for block in torch.arange(box.spec.conjunctions).split(BLOCK):
        left.extend(_climbed(box, block.to(box.spec.owner.device)))
    left.sort(key=lambda pair: -pair[0])
    return [task for _, task in left]


def _climbed(box: _Box, conjunctions: Tensor) -> list[tuple[float, PhaseTask]]:
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
        left.append(
            (float(best[i]), replace(fresh, alpha=found.alpha[i : i + 1], gamma=found.gamma[i : i + 1][:, allowed[i]]))
        )
    return left
