"""Branch and bound over ReLU phases: one step on a batch of domains: climb, certify, choose, split.

The choice of the neuron is filtered strong branching (kFSB; De Palma et al., 2021): a few candidates by
estimates from the relaxation's own point, each tried by one real bound of both its children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Pace, Rows, climb, evaluate
from verinn.bounds.crown import LinearForm, Relaxation
from verinn.bounds.dual import Columns, Frame, Primal
from verinn.exact.leaves import Refiner
from verinn.ops.program import Program
from verinn.search.explore import Explored
from verinn.search.phases import Phases
from verinn.search.spec import Spec
from verinn.search.work import Assistant

if TYPE_CHECKING:
    from verinn.search.lift import Memory


#: domains whose hull is tightened at once
HERD = 8
#: a renewal that narrows intervals by less than this part of their widths was hardly worth it
LITTLE = 0.01
#: neurons whose multipliers are remembered: four numbers for each pair of them
MOST_REMEMBERED = 4000
#: the same where every box that waits has multipliers of its own
MOST_CARRIED = 1500


@dataclass(frozen=True, eq=False)
class PhaseTask:
    """One case and one conjunction of a problem, seen from the relaxation of its box.

    ``relaxation``: that of the box in the search's dtype (one domain); ``lower``, ``upper`` (1, n): the
    box, float64. ``low``, ``high`` (1, U): what is known of the unstable neurons where the goals hold.
    ``alpha`` (1, U), ``gamma`` (1, G): multipliers to start from. ``width``: domains that a batch should have.
    """

    relaxation: Relaxation
    columns: Columns
    goals: Goals
    rows: Tensor  # which rows of the spec the goals are
    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    alpha: Tensor
    gamma: Tensor
    spec: Spec
    case: int
    careful: Relaxation  # the box in float64: what proves
    width: int = 64
    pace: Pace = field(default_factory=lambda: Pace(8, beta=0.4, decay=0.93, hope=1.5))
    candidates: int = 5
    cut: bool = False  # whether low and high hold only where some phases were chosen
    renewals: int = 0
    renewed_at: int = 0
    dull: int = 0  # renewals in a row that narrowed little
    expired: Callable[[], bool] = lambda: False
    made: list[Refiner] = field(default_factory=list)  # see ``refiner``: renewals share it
    memories: dict[int, Memory] = field(default_factory=dict)  # see ``memory``
    start: Phases | None = None  # the one domain to search; None: all that ``low`` and ``high`` hold

    @cached_property
    def frame(self) -> Frame:
        dtype = self.relaxation.program.dtype
        return Frame.of(self.relaxation, self.lower.to(dtype), self.upper.to(dtype), self.columns)

    @property
    def referee(self) -> Program:
        """The network in float64."""
        return self.careful.program

    @property
    def refiner(self) -> Refiner:
        """The linear programmes of this search."""
        if not self.made:
            self.made.append(Refiner(self.careful, self.columns, self.goals, self.lower, self.upper, self.expired))
        return self.made[0]

    def memory(self, layer: int) -> Memory | None:
        """What climbing found for the neurons of a layer; None where that would take too much room."""
        from verinn.search.lift import Memory

        count = self.columns.count
        if not (len(self.goals) or self.cut) or count > (MOST_REMEMBERED if len(self.goals) else MOST_CARRIED):
            return None
        if layer not in self.memories:
            neurons = len(self.columns.index[layer])
            self.memories[layer] = Memory(neurons, count, len(self.goals), self.low)
        return self.memories[layer]

    @cached_property
    def strict(self) -> bool:
        """Whether every goal must be below zero for a violation."""
        return len(self.rows) == len(self.goals) and bool(self.spec.strict[self.case][self.rows].all())

    @property
    def asked(self) -> Goals | None:
        """The goals, where there are any."""
        return self.goals if len(self.goals) else None

    @property
    def allowed(self) -> Tensor:
        return torch.ones_like(self.gamma, dtype=torch.bool)

    def root(self) -> Phases:
        """What is searched, as one domain."""
        if self.start is not None:
            return self.start
        none = self.low.new_zeros((1, 0))
        one = torch.ones(1, dtype=torch.float64, device=self.low.device)
        return Phases(
            self.low, self.high, none.long(), none, self.alpha, none, self.gamma, one, torch.full_like(one, -torch.inf)
        )

    @property
    def due(self) -> float:
        """A round over all unstable neurons costs about as much as bounding so many domains."""
        share = 1.0 if self.renewals == 0 else 0.25  # afterwards climbs start from what is remembered
        return float(self.renewed_at + share * 2**self.dull * self.columns.count)

    @property
    def herd(self) -> int:
        """At first all that is open; then those farthest from a proof, of which most is still to come."""
        return HERD if self.renewals else 1 << 30

    def delayed(self, explored: int) -> PhaseTask:
        return replace(self, renewals=self.renewals + 1, renewed_at=explored)

    def renewed(self, part: Phases, explored: int, assistant: Assistant | None) -> tuple[PhaseTask, Phases] | None:
        """The intervals of all neurons tightened over the hull of some domains."""
        from verinn.search.lift import tightened  # which works on tasks

        with torch.no_grad():
            hull = replace(self, low=part.lower.amin(0, keepdim=True), high=part.upper.amax(0, keepdim=True))
            lifted = tightened(hull, Pace(5 if self.renewals == 0 else 2, beta=0.4), assistant)
            if lifted is None:
                return None
            before, after = (float((task.high - task.low).clamp(min=0).sum()) for task in (hull, lifted))
            dull = self.dull + 1 if after > (1 - LITTLE) * before else 0
            lower, upper = torch.maximum(part.lower, lifted.low), torch.minimum(part.upper, lifted.high)
            return replace(self.delayed(explored), dull=dull), replace(part, lower=lower, upper=upper)

    def explore(self, domains: Phases) -> Explored:
        """One step of the search on a batch."""
        return explore_phases(self, domains)

    def value(self, domains: Phases) -> Tensor:
        """The dual (D,) at the multipliers that the domains have."""
        return evaluate(self.frame, self.goals, domains.rows(self.allowed), domains.multipliers, primal=False).value

    def certified(self, rows: Rows, multipliers: Multipliers) -> Tensor:
        """What multipliers prove (B,), float64, rounded down."""
        return self.form(rows, multipliers).minimum(self.lower, self.upper)[:, 0]

    def form(self, rows: Rows, multipliers: Multipliers) -> LinearForm:
        """The linear lower bounds (B, 1) that multipliers give, in float64."""
        double = Multipliers(multipliers.alpha.double(), multipliers.beta.double(), multipliers.gamma.double())
        sign = None if rows.sign is None else rows.sign.double()
        rows = replace(rows, lower=rows.lower.double(), upper=rows.upper.double(), phase=rows.phase.double(), sign=sign)
        return certified(self.careful, self.columns, self.asked, rows, double)


def explore_phases(task: PhaseTask, domains: Phases) -> Explored:
    """Bounds a batch of domains; those that stay open are split."""
    possible = ~(domains.lower > domains.upper).any(1)
    empty = len(domains) - int(possible.sum())
    domains = domains.select(possible)
    if not len(domains):
        return Explored(None, empty, task.lower[:0], torch.zeros(0, dtype=torch.int64, device=task.lower.device))
    rows = domains.rows(task.allowed)
    best, found, primal = climb(task.frame, task.goals, rows, domains.multipliers, task.pace, 0.0, task.expired)
    closed = proved(task, rows, best, found)
    live = ~closed
    left = replace(
        domains, alpha=found.alpha, beta=found.beta, gamma=found.gamma, worst=best.double().clamp(max=0)
    ).select(live)
    count = empty + int(closed.sum())
    points = promising(task, primal.corner)
    primal = primal.select(live)
    ends = (~left.free.any(1)).nonzero().squeeze(1)
    if len(ends):  # nothing to split: a linear programme decides
        refuted, some = task.refiner.settled(
            left.lower[ends], left.upper[ends], task.allowed, task.certified, task.strict
        )
        points = torch.cat([some, points.double()])
        open_ = torch.ones(len(left), dtype=torch.bool, device=best.device)
        open_[ends[refuted]] = False
        left, primal, count = left.select(open_), primal.select(open_), count + int(refuted.sum())
    case = torch.full((len(points),), task.case, dtype=torch.int64, device=best.device)
    if not len(left):
        return Explored(None, count, points, case)
    children, stuck = branch(task, left, primal)
    ended = left.select(~left.free.any(1)) if stuck else None
    return Explored(children, count, points, case, stuck, float(left.worst.min()), ended)


def proved(task: PhaseTask, rows: Rows, best: Tensor, found: Multipliers) -> Tensor:
    """bool (B,): where the multipliers prove that there is no violation; asked where ``best`` (B,) promises it."""
    closed = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    likely = (best > 0).nonzero().squeeze(1)
    if len(likely):
        proof = task.certified(rows.select(likely), found.select(likely))
        closed[likely] = proof > 0
        if task.strict:  # no violation at zero
            closed[likely] |= (proof >= 0) & (found.gamma[likely].sum(1) > 0)
    return closed


def promising(task: PhaseTask, corners: Tensor, most: int = 2) -> Tensor:
    """The corners at which the network comes closest to a violation."""
    y = task.relaxation.program.flat(corners)
    case = torch.full((len(corners),), task.case, dtype=torch.int64, device=corners.device)
    f = task.spec.values(case, corners.double(), y.double())[:, task.rows].amax(1)
    return corners[f.topk(min(most, len(f)), largest=False).indices]


def branch(task: PhaseTask, domains: Phases, primal: Primal) -> tuple[Phases | None, int]:
    """Children of open domains, several levels at once while there are few; and how many can't be split."""
    splittable = domains.free.any(1)
    stuck = int((~splittable).sum())
    if stuck:
        domains, primal = domains.select(splittable), primal.select(splittable)
    if not len(domains):
        return None, stuck
    levels = 1
    while len(domains) << (levels + 1) <= task.width and levels < 4:
        levels += 1
    chosen = choose(task, domains, primal, levels)
    found = chosen[:, 0] >= 0
    stuck += int((~found).sum())
    domains, chosen = domains.select(found), chosen[found]
    for level in range(chosen.shape[1]):
        # where no neuron is left for this level, the domain is kept once
        kept = torch.cat([torch.ones_like(chosen[:, level], dtype=torch.bool), chosen[:, level] >= 0])
        domains = split(domains, chosen[:, level]).select(kept)
        chosen = torch.cat([chosen, chosen])[kept]
    return (domains if len(domains) else None), stuck


def estimates(domains: Phases, primal: Primal) -> tuple[Tensor, Tensor]:
    """Two scores (D, U) of what fixing a neuron's phase may lift: the intercept of its upper line, weighed by
    its coefficient, and the lesser of both phases' gains at the relaxation's point."""
    free = domains.free
    lower, upper = domains.lower, domains.upper
    negative = (-primal.a).clamp(min=0)
    offset = torch.where(free, -lower * upper / (upper - lower), 0.0)
    z = torch.minimum(torch.maximum(primal.z, lower), upper)
    h = torch.where(primal.a > 0, domains.alpha * z, upper * (z - lower) / (upper - lower))
    on, off = primal.a * (z - h), -primal.a * h
    gain = torch.minimum(on, off)
    none = torch.full_like(offset, -torch.inf)
    return torch.where(free, negative * offset, none), torch.where(free, gain, none)


def choose(task: PhaseTask, domains: Phases, primal: Primal, levels: int) -> Tensor:
    """(D, levels): the columns to split, best first; −1 where fewer are free."""
    intercept, gain = estimates(domains, primal)
    count = min(max(task.candidates, levels), intercept.shape[1])
    first = intercept.topk(count, 1)
    second = gain.topk(count, 1)
    column = torch.cat([first.indices, second.indices], 1)
    valid = torch.cat([first.values, second.values], 1).isfinite()
    # a column in both lists is tried once
    again = (second.indices.unsqueeze(2) == first.indices.unsqueeze(1)).any(2)
    valid[:, count:] &= ~again
    if column.shape[1] == 1:
        return torch.where(valid, column, -1)
    score = torch.where(valid, tried(task, domains, column), -torch.inf)
    order = score.sort(dim=1, descending=True, stable=True).indices[:, :levels]
    return torch.where(valid.gather(1, order), column.gather(1, order), -1)


def tried(task: PhaseTask, domains: Phases, column: Tensor) -> Tensor:
    """(D, C): how good a split on each candidate is: the sum of its children's bounds, none counted above 0."""
    size, count = column.shape
    repeated = domains.select(torch.arange(size, device=column.device).repeat_interleave(count))
    children = split(repeated, column.flatten())
    # in pieces that the caches hold
    pieces = [children.part(i, i + task.width) for i in range(0, len(children), task.width)]
    value = torch.cat([task.value(piece) for piece in pieces])
    value = torch.maximum(value, repeated.worst.to(value.dtype).repeat(2)).clamp(max=0)
    return value.reshape(2, size, count).sum(0)


def split(domains: Phases, column: Tensor) -> Phases:
    """Both phases of one neuron of each domain: first all with z ≤ 0, then all with z ≥ 0.

    Where ``column`` is −1, twice the same.
    """
    where = column.clamp(min=0).unsqueeze(1)
    real = (column >= 0).unsqueeze(1)
    zero = torch.zeros_like(where, dtype=domains.lower.dtype)
    halves = []
    for phase in (1.0, -1.0):
        end = domains.upper if phase > 0 else domains.lower
        moved = torch.where(real, end.scatter(1, where, zero), end)
        halves.append(
            replace(
                domains,
                upper=moved if phase > 0 else domains.upper,
                lower=domains.lower if phase > 0 else moved,
                splits=torch.cat([domains.splits, column.unsqueeze(1)], 1),
                phase=torch.cat([domains.phase, torch.where(real, phase, zero)], 1),
                beta=torch.cat([domains.beta, zero], 1),
                share=torch.where(real[:, 0], domains.share / 2, domains.share),
            )
        )
    return Phases.joined(halves)
