"""Branch and bound over any graph: one step on a batch of domains: bound, climb, choose, split.

Intervals of the values that nonlinear steps read are split (see ``candidates.py``), and the box of inputs
where these are few; the bounds of both halves of a few candidates decide which (filtered branching: De Palma
et al., 2021). The lines of the root's parameters are climbed on in each domain, with a multiplier for each
split. A domain in which nothing can be split is bounded in float64, and counts as undecided if that does
not close it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from verinn.bounds.climb import Goals
from verinn.bounds.crown import Backward, LinearForm, Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.gathered import Sums
from verinn.bounds.interval import Interval
from verinn.bounds.optimise import Ask, Pace, Parameters, climb, evaluate, moved
from verinn.bounds.region import Region, clip
from verinn.bounds.rounding import cast_down, cast_up
from verinn.bounds.rows import flat
from verinn.ops.program import Program, Step
from verinn.search.candidates import Options, jumping, landings, options, splittable
from verinn.search.explore import Explored
from verinn.search.pieces import STORED, Pieces
from verinn.search.spec import Spec

#: the number of a split of the box, where candidates are numbered by value
BOX = -2


@dataclass(frozen=True, eq=False)
class GeneralTask:
    """One case of a problem: what is left open of its conjunctions, numbered 0 … J−1 among the task's goals.

    ``start``: the root's domains. ``allowed`` bool (J, G): which goals each conjunction has; ``strict`` bool
    (J,): whether a violation needs one of them below zero; ``rows``: which rows of the spec the goals are
    (constraints on inputs, which come after them, are none). ``inputs``: how many inputs may be halved.
    ``refine``: whether intervals are bounded again by CROWN in each domain. ``width``: domains that a batch
    should have. ``sums``: of products of matrices, what holds over the whole box, by goal (J, …).
    """

    program: Program
    referee: Program
    goals: Goals
    allowed: Tensor
    strict: Tensor
    rows: Tensor
    start: Pieces
    spec: Spec
    case: int
    width: int = 32
    candidates: int = 4
    halves: int = 0
    refine: bool = False
    budget: int = 64 << 20
    pace: Pace = field(default_factory=lambda: Pace(8, decay=0.9, hope=2.0))
    expired: Callable[[], bool] = lambda: False
    sums: Mapping[str, Sums] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return splittable(self.program)

    @cached_property
    def jumps(self) -> dict[str, Step]:
        return jumping(self.program)

    @property
    def due(self) -> float:
        return math.inf

    @property
    def herd(self) -> int:
        return 0

    def renewed(self, part: Pieces, explored: int, assistant: object) -> tuple[GeneralTask, Pieces] | None:
        """Nothing is learned of several domains at once."""
        return self, part

    def delayed(self, explored: int) -> GeneralTask:
        return self

    def root(self) -> Pieces:
        return self.start

    def explore(self, domains: Pieces) -> Explored:
        """One step of the search on a batch."""
        return explore_general(self, domains)

    def box(self, domains: Pieces, program: Program | None = None) -> tuple[Tensor, Tensor]:
        """The boxes in a program's dtype, rounded outward."""
        dtype = (program or self.program).dtype
        return cast_down(domains.lower, dtype), cast_up(domains.upper, dtype)

    def relaxed(self, domains: Pieces, program: Program | None = None, refine: bool = False) -> Relaxation:
        """Intervals of all values, from what is known of them."""
        program = program or self.program
        known = domains.known
        if program is not self.program:
            known = {name: (low.double(), high.double()) for name, (low, high) in known.items()}
        return relax(program, *self.box(domains, program), known, refine=refine, budget=self.budget)

    def ask(self, domains: Pieces) -> Ask:
        sums = {name: held.select(domains.goal) for name, held in self.sums.items()}
        return Ask(self.goals, self.allowed[domains.goal], cuts=domains.cuts(self.names), sums=sums)


def explore_general(task: GeneralTask, domains: Pieces) -> Explored:
    """Bounds a batch of domains; those that stay open are split."""
    relaxation = task.relaxed(domains, refine=task.refine)
    possible = ~empty(relaxation, domains)
    closed = len(domains) - int(possible.sum())
    if closed:
        domains, relaxation = domains.select(possible), relaxation.select(possible)
    if not len(domains):
        return _told(task, None, closed, domains.lower[:0])
    ask = task.ask(domains)
    first = domains.parameters(task.program.dtype)
    ends = task.box(domains)
    found = climb(relaxation, ask, first, *ends, task.pace, _enough(task, domains), task.expired)
    value, form, met = watched(relaxation, ask, found.parameters, *ends)
    value = torch.fmax(value, found.value)
    left = _kept(task, domains, relaxation, found.parameters, value)
    done = beaten(task, value, domains.goal, left.gamma)
    done |= refereed(task, left, value, form.charged, done)
    live = (~done).nonzero().squeeze(1)
    closed += len(domains) - len(live)
    points = promising(task, form.a[:, 0].double(), domains.lower, domains.upper, domains.goal)
    if not len(live):
        return _told(task, None, closed, points)
    left, relaxation = left.select(live), moved(relaxation, found.parameters.alphas).select(live)
    met = {name: a[live] for name, a in met.items()}
    left = clipped(left, form.exact(*ends), live)
    children, stuck = branch(task, left, relaxation, met, form.a[live, 0].abs())
    return _told(task, children, closed, points, stuck, float(left.worst.min()))


def clipped(domains: Pieces, form: LinearForm, live: Tensor) -> Pieces:
    """Boxes cut to where the bounds' forms (of the ``live`` domains) allow a violation (clip-and-verify)."""
    row, c = form.a.expand(len(form.c), -1, -1)[live].double(), form.c[live]
    box = clip(Region(domains.lower, domains.upper, row, c))
    return replace(domains, lower=box.lower, upper=box.upper)


def _told(
    task: GeneralTask, children: Pieces | None, closed: int, points: Tensor, stuck: int = 0, worst: float = math.inf
) -> Explored:
    case = torch.full((len(points),), task.case, dtype=torch.int64, device=points.device)
    return Explored(children, closed, points, case, stuck, worst)


def empty(relaxation: Relaxation, domains: Pieces) -> Tensor:
    """Domains (D,) in which some value would have to lie above and below something: nothing is in them."""
    none = (domains.lower > domains.upper).any(1)
    for low, high in relaxation.intervals.values():
        none |= flat(low > high).any(1)
    return none


def _enough(task: GeneralTask, domains: Pieces) -> float:
    """A bound is proved when it is above zero."""
    return 0.0


def beaten(task: GeneralTask, value: Tensor, goal: Tensor, gamma: Tensor) -> Tensor:
    """Whether bounds (B,) of goals mixed by ``gamma`` (B, G) exclude a violation of their conjunctions."""
    mixed = (gamma * task.allowed[goal]).amax(1) > 0  # a mix of nothing is never below zero
    return (value > 0) | (task.strict[goal] & (value >= 0) & mixed)


def watched(
    relaxation: Relaxation, ask: Ask, now: Parameters, lower: Tensor, upper: Tensor
) -> tuple[Tensor, LinearForm, dict[str, Tensor]]:
    """Bounds (B,), their forms, and the coefficients (B, *shape) that meet each nonlinear step."""
    moving = moved(relaxation, now.alphas)
    start, c = ask.start(moving, now)
    met: dict[str, Tensor] = {}
    form = Backward(moving, met=met, sums=ask.sums).run(start, c)
    return form.minimum(lower, upper)[:, 0], form, {name: a[:, 0] for name, a in met.items()}


def _kept(task: GeneralTask, domains: Pieces, relaxation: Relaxation, found: Parameters, value: Tensor) -> Pieces:
    """The domains with what was found out about them."""
    return replace(
        domains,
        known={name: relaxation.intervals[name] for name in domains.known},
        alphas={name: alpha.to(STORED) for name, alpha in found.alphas.items()},
        beta=found.beta,
        gamma=found.gamma,
        worst=torch.fmax(domains.worst, value).clamp(max=0),
    )


def refereed(task: GeneralTask, domains: Pieces, value: Tensor, charged: Tensor | None, done: Tensor) -> Tensor:
    """Domains (D,) that float64 closes, of those that rounding alone may keep open."""
    closed = torch.zeros_like(done)
    if task.referee is task.program or charged is None:
        return closed
    near = ((value + 3 * charged.expand(len(value), 1)[:, 0] > 0) & ~done).nonzero().squeeze(1)
    if len(near):
        closed[near] = careful(task, domains.select(near))
    return closed


def careful(task: GeneralTask, domains: Pieces) -> Tensor:
    """Whether domains (D,) are closed by their parameters in float64."""
    relaxation = task.relaxed(domains, task.referee)
    now = domains.parameters(torch.float64)
    value, _ = evaluate(relaxation, task.ask(domains), now, *task.box(domains, task.referee))
    return beaten(task, value, domains.goal, domains.gamma)


def promising(task: GeneralTask, a: Tensor, lower: Tensor, upper: Tensor, goal: Tensor, most: int = 4) -> Tensor:
    """Corners of the boxes that the bounds' forms a (D, n) point to, and middles: those nearest to a violation."""
    corner = torch.where(a > 0, lower, upper)
    points = torch.cat([corner, (lower + upper) / 2]).float().double()
    y = task.program.flat(points.to(task.program.dtype)).double()
    case = torch.full((len(points),), task.case, dtype=torch.int64, device=points.device)
    f = task.spec.values(case, points, y)[:, task.rows]
    allowed = task.allowed[goal][:, : len(task.rows)].repeat(2, 1)
    f = torch.where(allowed, f, -torch.inf).amax(1)
    return points[f.topk(min(most, len(f)), largest=False).indices]


def branch(
    task: GeneralTask, domains: Pieces, relaxation: Relaxation, met: dict[str, Tensor], a: Tensor
) -> tuple[Pieces | None, int]:
    """Children of open domains, several levels at once while there are few; and how many can't be split."""
    some = with_halves(task, domains, options(relaxation, met, task.names, task.candidates + 2), a)
    real = (some.value != -1).any(1)
    stuck = int((~real).sum())
    if stuck:  # nothing can be split: float64 has the last word
        stuck -= int(careful(task, domains.select(~real)).sum())
        domains, some = domains.select(real), _picked(some, real)
    if not len(domains):
        return None, stuck
    levels = 1
    while len(domains) << (levels + 1) <= task.width and levels < 3:
        levels += 1
    order = chosen(task, domains, some, levels)
    value, index, point = (x.gather(1, order) for x in (some.value, some.index, some.point))
    for level in range(value.shape[1]):
        size = len(domains)
        domains = split(task, domains, value[:, level], index[:, level], point[:, level])
        both = torch.arange(size, device=order.device).repeat(2)
        kept = torch.cat([torch.ones(size, dtype=torch.bool, device=order.device), value[:, level] != -1])
        domains = domains.select(kept)
        value, index, point = (x[both][kept] for x in (value, index, point))
    return domains, stuck


def _picked(some: Options, rows: Tensor) -> Options:
    return Options(some.value[rows], some.index[rows], some.point[rows], some.score[rows])


def with_halves(task: GeneralTask, domains: Pieces, some: Options, a: Tensor) -> Options:
    """The candidates with the inputs beside them whose halves move the bound most: a few where inputs are few,
    and elsewhere one for domains in which no value can be split."""
    count = max(1, task.halves)
    width = domains.upper - domains.lower
    middle = domains.lower + width / 2
    fine = (middle > domains.lower) & (middle < domains.upper)
    score = torch.where(fine, (a.double() + 1e-12) * width, -torch.inf)
    best = score.topk(min(count, score.shape[1]), 1)
    wanted = best.values > -torch.inf
    if not task.halves:
        wanted &= (some.value == -1).all(1, keepdim=True)
    return Options(
        torch.cat([torch.where(wanted, BOX, -1), some.value], 1),
        torch.cat([best.indices, some.index], 1),
        torch.cat([middle.gather(1, best.indices), some.point], 1),
        torch.cat([best.values, some.score], 1),
    )


def chosen(task: GeneralTask, domains: Pieces, some: Options, levels: int) -> Tensor:
    """(D, levels): which candidates to split, best first."""
    if some.value.shape[1] <= 1:
        return torch.zeros((len(domains), some.value.shape[1]), dtype=torch.int64, device=domains.goal.device)
    score = torch.where(some.value != -1, tried(task, domains, some), -torch.inf)
    return score.sort(dim=1, descending=True, stable=True).indices[:, :levels]


def tried(task: GeneralTask, domains: Pieces, some: Options) -> Tensor:
    """(D, C): how good a split on each candidate is: the sum of its halves' bounds, none counted above 0."""
    size, count = some.value.shape
    repeated = domains.select(torch.arange(size, device=domains.goal.device).repeat_interleave(count))
    halves = split(task, repeated, some.value.flatten(), some.index.flatten(), some.point.flatten())
    step = max(1, 2 * task.width)
    value = torch.cat([bounded(task, halves.part(i, i + step)) for i in range(0, len(halves), step)])
    value = torch.maximum(value, halves.worst).clamp(max=0)
    return value.reshape(2, size, count).sum(0)


def bounded(task: GeneralTask, domains: Pieces) -> Tensor:
    """Bounds (D,) by the parameters that domains have; infinite where nothing can be in them."""
    relaxation = task.relaxed(domains)
    now = domains.parameters(task.program.dtype)
    value, _ = evaluate(relaxation, task.ask(domains), now, *task.box(domains))
    return torch.where(empty(relaxation, domains), math.inf, value.nan_to_num(-math.inf))


def split(task: GeneralTask, domains: Pieces, value: Tensor, index: Tensor, point: Tensor) -> Pieces:
    """Both halves of each domain, first all that lie below their point. Where ``value`` is −1, twice the same."""
    halves = []
    real = value != -1
    for sign in (1.0, -1.0):
        lower, upper = _halved(domains, value == BOX, index, point, sign)
        known = dict(domains.known)
        for number, name in enumerate(task.names):
            here = value == number
            if bool(here.any()):
                known[name] = narrowed(known[name], here, index, point, sign)
                if name in task.jumps:
                    landed(task.jumps[name], known, here, index, point, sign)
        cut = value >= 0
        column = torch.where(cut, value, -1).unsqueeze(1)
        halves.append(
            replace(
                domains,
                lower=lower,
                upper=upper,
                known=known,
                value=torch.cat([domains.value, column], 1),
                index=torch.cat([domains.index, torch.where(cut, index, 0).unsqueeze(1)], 1),
                point=torch.cat([domains.point, torch.where(cut, point, 0.0).unsqueeze(1)], 1),
                sign=torch.cat([domains.sign, torch.where(cut, sign, 0.0).to(domains.sign.dtype).unsqueeze(1)], 1),
                beta=torch.cat([domains.beta, domains.beta.new_zeros((len(domains), 1))], 1),
                share=torch.where(real, domains.share / 2, domains.share),
            )
        )
    return Pieces.joined(halves)


def _halved(domains: Pieces, here: Tensor, index: Tensor, point: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """The boxes, cut at a point of one input where ``here``."""
    column = torch.where(here, index, 0).unsqueeze(1)
    end = domains.upper if sign > 0 else domains.lower
    best = torch.minimum if sign > 0 else torch.maximum
    there = end.scatter(1, column, point.unsqueeze(1))
    end = torch.where(here.unsqueeze(1), best(end, there), end)
    return (domains.lower, end) if sign > 0 else (end, domains.upper)


def narrowed(interval: Interval, here: Tensor, index: Tensor, point: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """Intervals (D, *shape) of a value, cut at a point of one element where ``here``. The point is in their dtype."""
    low, high = interval
    end = flat(high if sign > 0 else low)
    column = torch.where(here, index, 0).unsqueeze(1)
    best = torch.minimum if sign > 0 else torch.maximum
    there = end.scatter(1, column, point.to(end.dtype).unsqueeze(1))
    end = torch.where(here.unsqueeze(1), best(end, there), end).reshape(low.shape)
    return (low, end) if sign > 0 else (end, high)


def landed(step: Step, known: dict[str, Interval], here: Tensor, index: Tensor, point: Tensor, sign: float) -> None:
    """The range of a step function in the half below (sign 1) or above a jump, where ``here``."""
    low, high = known[step.node.name]
    column = torch.where(here, index, 0).unsqueeze(1)
    least = flat(low).gather(1, column).squeeze(1)
    below, above, real = landings(step, point.to(low.dtype), least)
    interval = narrowed((low, high), here & real, index, (below if sign > 0 else above).double(), sign)
    known[step.node.name] = interval
