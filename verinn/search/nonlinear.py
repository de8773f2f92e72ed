"""From a group of cases to searches over general graphs: what the root proves, and what is left to split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verinn.bounds.climb import Goals
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax, targets
from verinn.bounds.interval import Interval, propagate
from verinn.bounds.optimise import Ask, Pace, Parameters, climb, evaluate, first, summed, tightened, weight
from verinn.bounds.parted import Parting, narrowed, parted_by, uncertain
from verinn.bounds.rounding import cast_down, cast_up
from verinn.bounds.windows import climbs, wider
from verinn.ops.program import Program
from verinn.result import Verdict
from verinn.search.bab import Limits, Outcome, Tell, Try, one_by_one, search
from verinn.search.box import goals_of, read_by
from verinn.search.candidates import kept
from verinn.search.general import GeneralTask, careful
from verinn.search.pieces import STORED, Pieces
from verinn.search.spec import Spec

#: the part of the worst bound that a round of windows must have gained for another one
GAIN = 0.1


@dataclass(frozen=True)
class Effort:
    """How a general graph is searched: domains in a batch, bytes for a block of coefficients, inputs that may be
    halved (how many are tried), whether intervals are refined in each domain, seconds until the deadline, and
    threads for blocks of the root's neurons."""

    width: int
    budget: int
    halves: int
    refine: bool
    left: Callable[[], float]
    workers: int = 1


def search_general(
    program: Program, referee: Program, spec: Spec, limits: Limits, attempt: Try, tell: Tell, effort: Effort
) -> Outcome:
    """Decide a group of cases by splitting intervals of values, and boxes where inputs are few."""

    def decided(case: int) -> Outcome:
        with torch.no_grad():
            task = rooted(program, referee, spec, case, limits.expired, effort)
        if limits.expired():
            return Outcome(Verdict.TIMEOUT, reason="time is up")
        outcome = Outcome(Verdict.UNSAT) if task is None else search(task, limits, attempt, tell)
        return replace(outcome, domains=outcome.domains + spec.conjunctions)

    return one_by_one(decided(case) for case in range(len(spec.cases)))


def rooted(
    program: Program, referee: Program, spec: Spec, case: int, expired: Callable[[], bool], effort: Effort
) -> GeneralTask | None:
    """The search for what the root leaves open of a case, or None where it leaves nothing."""
    root = Root(program, referee, spec, case, expired, effort)
    open_ = torch.arange(spec.conjunctions, device=spec.lower.device)
    open_ = root.plain(open_)
    began = time.monotonic()
    if len(open_) and not expired():
        open_ = root.climbed(open_, Pace(20, hope=3.0))
    spent = time.monotonic() - began
    seconds, part = (root.spent, 0.5) if root.windows else (max(10.0, 60 * spent), 0.35)
    while len(open_) and not expired():
        before, began = root.worst(open_), time.monotonic()
        root.tighten(min(part * effort.left(), seconds))
        open_ = root.climbed(open_, Pace(60, hope=3.0))
        if len(open_):  # rows that are parted get as long as those that were climbed
            open_ = root.parted(open_, min(part * effort.left(), time.monotonic() - began))
        seconds *= 2
        if not root.windows or root.worst(open_) < (1 - GAIN) * before:
            break
    return root.task(open_) if len(open_) else None


class Root:
    """A case's box: its relaxation, which is made tighter, and the parameters found for each conjunction."""

    def __init__(
        self,
        program: Program,
        referee: Program,
        spec: Spec,
        case: int,
        expired: Callable[[], bool],
        effort: Effort,
    ):
        self.program, self.referee, self.spec, self.case = program, referee, spec, case
        self.expired, self.effort = expired, effort
        self.lower, self.upper = spec.lower[case : case + 1], spec.upper[case : case + 1]
        self.ends = cast_down(self.lower, program.dtype), cast_up(self.upper, program.dtype)
        #: whether rows of some values that are refined see windows of images, which makes them cheap to climb
        self.windows = any(climbs(program, name) for name in targets(program))
        began = time.monotonic()
        self.relaxation = relax(program, *self.ends, refine=False)
        self.relaxation = self._relaxed()
        self.spent = max(10.0, time.monotonic() - began)  # seconds, about what a first round of climbing may take
        rows = torch.arange(spec.y.shape[1], device=spec.y.device)
        self.rows = rows
        self.goals: Goals = goals_of(spec, case, rows)
        mine = spec.owner.unsqueeze(0) == torch.arange(spec.conjunctions, device=rows.device).unsqueeze(1)
        cuts = len(self.goals) - len(rows)
        self.allowed = torch.cat([mine, mine.new_ones((len(mine), cuts))], 1)
        strict = spec.strict[case].unsqueeze(0) | ~mine
        self.strict = strict.all(1) if not cuts else torch.zeros_like(strict[:, 0])
        self.found: dict[int, tuple[float, Parameters]] = {}

    def _relevant(self) -> dict[str, Tensor]:
        """The elements of values that anything open depends on, by what is known so far."""
        return read_by(self.program, self.spec, self.case, self.relaxation.intervals)

    def _relaxed(self) -> Relaxation:
        """Intervals refined by CROWN; in float64 where rows see windows, and rounding is most of what they lose."""
        wide = self.referee if self.windows else self.program
        lower, upper = (end.to(wide.dtype) for end in self.ends)
        budget, workers = self.effort.budget, self.effort.workers
        relevant, expired = self._relevant(), self.expired
        found = relax(wide, lower, upper, budget=budget, workers=workers, relevant=relevant, expired=expired)
        if wide.dtype == self.program.dtype:
            return found
        return Relaxation(
            self.program, {name: _outward(end, self.program.dtype) for name, end in found.intervals.items()}
        )

    def plain(self, open_: Tensor) -> Tensor:
        """Conjunctions that the relaxation leaves open with the parameters that it starts from."""
        left = []
        for block in open_.split(max(1, self.effort.budget // (4 * self._widest()))):
            allowed = self.allowed[block]
            now = replace(first(self.relaxation, len(block), 0, allowed), alphas={})
            value, _ = evaluate(self.relaxation, Ask(self.goals, allowed), now, *self.ends)
            left.append(block[~self._beaten(value, block, now.gamma)])
        return torch.cat(left)

    def _widest(self) -> int:
        return max(torch.Size(shape).numel() for shape in self.program.shapes.values())

    def _beaten(self, value: Tensor, block: Tensor, gamma: Tensor) -> Tensor:
        mixed = (gamma * self.allowed[block]).amax(1) > 0
        return (value > 0) | (self.strict[block] & (value >= 0) & mixed)

    def climbed(self, open_: Tensor, pace: Pace) -> Tensor:
        """Conjunctions that climbing leaves open, the nearest to a proof first."""
        size = max(1, self.effort.budget * 4 // (weight(self.program) * 4))
        left: list[tuple[float, int]] = []
        for block in open_.split(size):
            if self.expired():
                return open_
            now = self._first(block)
            ask = self._ask(block, now)
            found = climb(self.relaxation, ask, now, *self.ends, pace, 0.0, self.expired)
            done = self._beaten(found.value, block, found.parameters.gamma)
            for i in (~done).nonzero().squeeze(1).tolist():
                j = int(block[i])
                self.found[j] = float(found.value[i]), found.parameters.select(torch.tensor([i], device=block.device))
                left.append((-float(found.value[i]), j))
        return torch.tensor([j for _, j in sorted(left)], dtype=torch.int64, device=open_.device)

    def _ask(self, block: Tensor, now: Parameters) -> Ask:
        """Some conjunctions' goals, with what their rows say of products of matrices."""
        room = self.effort.budget // 4
        return summed(self.relaxation, Ask(self.goals, self.allowed[block]), now, *self.ends, room)

    def _first(self, block: Tensor) -> Parameters:
        if not all(int(j) in self.found for j in block):
            return first(self.relaxation, len(block), 0, self.allowed[block])
        return joined([self.found[int(j)][1] for j in block])

    def worst(self, open_: Tensor) -> float:
        """The least bound found of open conjunctions."""
        return min((self.found[int(j)][0] for j in open_), default=0.0)

    def tighten(self, seconds: float) -> None:
        """Intervals of what nonlinear steps read are climbed, for so many seconds at most."""
        self.relaxation = tightened(
            self.relaxation,
            *self.ends,
            Pace(5, alpha=0.3),  # twice as many steps lift the root by less than a split does
            4 * self.effort.budget,
            self.expired,
            self._relevant(),
            seconds,
            self.effort.workers,
            self.referee,
        )

    def parted(self, open_: Tensor, seconds: float) -> Tensor:
        """Conjunctions that stay open when rows that are asked for signs alone are parted, so many seconds at most."""
        names, until = parted_by(self.program), time.monotonic() + seconds
        for number, name in enumerate(names):
            known = self.relaxation.intervals[name]
            index, sign, value = uncertain(known)
            if not len(index):
                continue
            wide = wider(self.relaxation, self.referee)
            workers = self.effort.workers
            parting = Parting(self.relaxation, wide, name, index, sign, value, self.ends, workers)
            share = time.monotonic() + (until - time.monotonic()) / (len(names) - number)
            certain, more = 0, True
            while more and len(open_) and not self.expired() and time.monotonic() < share:
                more = parting.advance()
                bounds = parting.bounds()
                if int((bounds > 0).sum()) > certain:
                    certain = int((bounds > 0).sum())
                    self.relaxation = _narrower(self.relaxation, name, narrowed(known, index, sign, bounds))
                    open_ = self.climbed(open_, Pace(2))  # from the parameters found: about as dear as a look
        return self.climbed(open_, Pace(60, hope=3.0)) if names and len(open_) else open_

    def task(self, open_: Tensor) -> GeneralTask | None:
        """The search for what is open, unless float64 closes it."""
        task = self.started(open_)
        if self.referee is self.program:
            return task
        start = task.start.select(~careful(task, task.start))
        return replace(task, start=start) if len(start) else None

    def started(self, open_: Tensor) -> GeneralTask:
        """The search for what is open, from the parameters found."""
        size = len(open_)
        known = {
            name: tuple(end.expand(size, *end.shape[1:]) for end in self.relaxation.intervals[name])
            for name in kept(self.program)
        }
        now = self._first(open_)
        values = [self.found[int(j)][0] if int(j) in self.found else -torch.inf for j in open_]
        none = torch.zeros((size, 0), dtype=torch.float64, device=open_.device)
        start = Pieces(
            self.lower.expand(size, -1),
            self.upper.expand(size, -1),
            open_,
            known,  # type: ignore[arg-type]
            none.long(),
            none.long(),
            none,
            none,
            {name: alpha.to(STORED) for name, alpha in now.alphas.items()},
            none.to(now.gamma.dtype),
            now.gamma,
            torch.full((size,), 1.0 / self.spec.conjunctions, dtype=torch.float64, device=open_.device),
            torch.tensor(values, dtype=torch.float64, device=open_.device),
        )
        return GeneralTask(
            self.program,
            self.referee,
            self.goals,
            self.allowed,
            self.strict,
            self.rows,
            start,
            self.spec,
            self.case,
            self.effort.width,
            halves=self.effort.halves,
            refine=self.effort.refine,
            budget=self.effort.budget,
            expired=self.expired,
            sums={name: held.spread(open_, len(self.allowed)) for name, held in self._ask(open_, now).sums.items()},
        )


def _outward(interval: Interval, dtype: torch.dtype) -> Interval:
    return cast_down(interval[0], dtype), cast_up(interval[1], dtype)


def _narrower(relaxation: Relaxation, name: str, interval: Interval) -> Relaxation:
    """One value's interval narrowed, and all that follows from it by intervals."""
    program, intervals = relaxation.program, {**relaxation.intervals, name: interval}
    changed = {name}
    for step in program.steps:
        if changed.intersection(step.node.inputs):
            made, known = propagate(step, [intervals[value] for value in step.node.inputs]), intervals[step.node.name]
            intervals[step.node.name] = torch.fmax(made[0], known[0]), torch.fmin(made[1], known[1])
            changed.add(step.node.name)
    return Relaxation(program, intervals)


def joined(parts: list[Parameters]) -> Parameters:
    """Parameters of some rows one after the other."""
    tensors = [torch.cat(held) for held in zip(*(part.tensors() for part in parts), strict=True)]
    return parts[0].like(tensors)
