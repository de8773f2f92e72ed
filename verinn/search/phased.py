"""From a group of cases to searches over ReLU phases: what is done to a box, and when, by measured progress.

A box is relaxed once, and its conjunctions are searched one after the other. What a first look at a search
expects to take longer than bounding every unstable neuron by slopes of its own waits until that is done,
once for all conjunctions that are left; where inputs are few, the box is halved as long as that halves what
is missing. Where searching phases at bounds that stay is hopeless, boxes are cut at the phase of one neuron, and
both sides are bounded anew.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verinn.bounds.climb import Pace
from verinn.bounds.domain import relax
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.program import Program
from verinn.result import Verdict
from verinn.search.bab import Limits, Outcome, Tell, Try, one_by_one, search
from verinn.search.box import Box, Open, Refinement, Setting, numbers, relaxed
from verinn.search.descent import descend
from verinn.search.leverage import leverage
from verinn.search.outlook import outlook
from verinn.search.refine import refined
from verinn.search.spec import Spec

#: up to so many free inputs a box may be halved
FEW_INPUTS = 32
#: with so few unstable neurons nothing is waited for
FEW_NEURONS = 24
#: halving pays where it leaves no more than this part of what a proof is short of
PAYS = 0.5
#: domains that may be explored before a box is tightened, or halved, for each of its unstable neurons: about as
#: many take as long as tightening
SPENDS = 1.5
#: the same for a search in a box that isn't tightened yet, though it may be over soon
PATIENCE = 0.5
#: a search expected to take so many domains won't end: the phases of early layers are chosen first
HOPELESS = 2.0**24
#: early layers have at most this part of the unstable neurons of the layer that has most
EARLY = 0.5
#: boxes halved more often are searched whatever the outlook: where bounds only touch, no halving makes it better
TRUSTED = 4
#: steps that each neuron's bound is climbed when a box is tightened
PACE = Pace(5, beta=0.4)
#: the same where a box is cut, from multipliers that are remembered
CUT = Pace(1, beta=0.4)


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
    refinement: Refinement | None = None,
) -> Outcome:
    """Decide a group of cases by splitting ReLUs. The outcome is `unknown` where other nonlinearities stay loose."""

    def decided(case: int) -> Outcome:
        setting = Setting(program, referee, spec, case, width, budget, workers, limits.expired, refinement)
        return _Case(setting, limits, attempt, tell).decide()

    return one_by_one(decided(case) for case in range(len(spec.cases)))


def expected(
    program: Program, referee: Program, spec: Spec, limits: Limits, width: int, budget: int, most: float
) -> float:
    """How many domains a search over phases of a group of cases may take (see ``outlook``), or some number above
    ``most``."""
    every = torch.arange(spec.conjunctions, device=spec.owner.device)
    total = 0.0
    for case in range(len(spec.cases)):
        setting = Setting(program, referee, spec, case, width, budget, 1, limits.expired)
        with torch.no_grad():
            part = relaxed(setting, spec.lower[case : case + 1], spec.upper[case : case + 1], every)
        if part is None:  # time ran out
            return math.inf
        for one in part[1]:
            total += outlook(one.task)
            if total > most or limits.expired():
                return math.inf
    return total


Part = tuple[Box, list[Open]]


@dataclass(eq=False)
class _Case:
    """One case: its boxes that wait, and what has been counted."""

    setting: Setting
    limits: Limits
    attempt: Try
    tell: Tell
    domains: int = 0
    reasons: list[str] = field(default_factory=list)  # of conjunctions that stay unknown

    def decide(self) -> Outcome:
        spec, case = self.setting.spec, self.setting.case
        every = torch.arange(spec.conjunctions, device=spec.owner.device)
        self.domains += spec.conjunctions
        first = self._relaxed(spec.lower[case : case + 1], spec.upper[case : case + 1], every)
        late = Outcome(Verdict.TIMEOUT, reason="time is up")
        if first is None:
            return replace(late, domains=self.domains)
        waiting = [self._refined(*first)]
        while waiting:
            box, left = waiting.pop()
            left, end = self._searched(box, left)
            parts = self._advanced(box, left) if left and end is None else []
            if end is None and (parts is None or self.limits.expired()):
                end = late
            if end is not None:
                return replace(end, domains=self.domains)
            waiting.extend(parts or [])
        if self.reasons:
            return Outcome(Verdict.UNKNOWN, reason=self.reasons[0], domains=self.domains)
        return Outcome(Verdict.UNSAT, domains=self.domains)

    def _relaxed(self, lower: Tensor, upper: Tensor, conjunctions: Tensor, within: Box | None = None) -> Part | None:
        """None: time ran out, which ``decide`` sees as well."""
        with torch.no_grad():
            if within is None:
                return relaxed(self.setting, lower, upper, conjunctions)
            return relaxed(self.setting, lower, upper, conjunctions, within.careful.intervals, within.depth + 1)

    def _refined(self, box: Box, left: list[Open]) -> Part:
        """The box with single neurons refined, where that is asked for, and what is open then."""
        if self.setting.refinement is None or not left:
            return box, left
        owner = self.setting.spec.owner
        with torch.no_grad():
            box = box.tightened(PACE)
            left = box.left(numbers(left, owner))
            if not left or self.limits.expired():
                return box, left
            box = refined(box, left)
            return box, box.left(numbers(left, owner))

    def _searched(self, box: Box, left: list[Open]) -> tuple[list[Open], Outcome | None]:
        """What stays open when each conjunction was searched as far as it seems worth it; and a verdict, if any."""
        undecided: list[Open] = []
        purse = math.inf
        if _may_wait(box, left):  # the smaller a box, the more may be spent on it: at last a search is finished
            purse = max(4 * self.setting.width, SPENDS * box.columns.count) * 2.0**box.depth
        wide = box.free_inputs > FEW_INPUTS and box.tight and bool(early(box).any())
        if wide and box.held is not None:  # cutting goes on as long as that is cheaper
            purse = SPENDS * int(box.open.sum())
            if not left or outlook(left[-1].task) * len(left) > purse:  # the farthest from a proof speaks for all
                return left, None
        for number, one in enumerate(left):
            if self.limits.expired():
                return [], Outcome(Verdict.TIMEOUT, reason="time is up")
            most = purse / (len(left) - number)
            if math.isfinite(most) and (wide or box.depth < TRUSTED) and outlook(one.task) > most:
                undecided.append(one)
                continue
            expected = outlook(one.task) if box.free_inputs > FEW_INPUTS and box.held is None else 0.0
            hopeless = wide and expected > HOPELESS
            if hopeless:  # a search is a search for violations, too: it has its turn once
                most = SPENDS * box.columns.count / len(left)
            outcome = self._alone(box, one, most, expected, not hopeless)
            self.domains += outcome.domains
            purse -= outcome.domains
            if outcome.verdict in (Verdict.SAT, Verdict.TIMEOUT):
                return [], outcome
            if outcome.unfinished:
                undecided.append(one)
            elif outcome.verdict is Verdict.UNKNOWN:
                self.reasons.append(outcome.reason)
        return undecided, None

    def _alone(self, box: Box, one: Open, most: float, expected: float, able: bool) -> Outcome:
        """One conjunction's search. Where inputs are many it is given up for bounding more of each domain, ``able``
        to, that splits alone take too long for, ``expected`` to or found to."""
        if expected == 0.0 or not able:
            return search(one.task, replace(self.limits, domains=most), self.attempt, self.tell)
        patience = (SPENDS if box.tight else PATIENCE) * box.columns.count
        spent = 0
        if expected <= patience or not box.tight:
            first = min(most, patience)
            outcome = search(one.task, replace(self.limits, domains=first), self.attempt, self.tell)
            if not (outcome.unfinished and box.tight):
                return outcome
            spent = outcome.domains
        outcome = descend(one.task, self.limits, self.attempt, self.tell, self.setting.workers)
        return replace(outcome, domains=outcome.domains + spent)

    def _advanced(self, box: Box, left: list[Open]) -> list[Part] | None:
        """The box once more, better known: halved where that pays, else tightened, else halved all the same.

        None: time ran out.
        """
        halves = None
        if 0 < box.free_inputs <= FEW_INPUTS:
            halves = self._halved(box, left)
            if halves is None or box.tight or _missing(halves) <= 2 * PAYS * _missing([(box, left)]):
                return halves
        with torch.no_grad():
            if box.tight:
                return self._cut(box, left)
            better = box.tightened(PACE)
            if self.limits.expired():
                return None
            return [(better, better.left(numbers(left, self.setting.spec.owner)))]

    def _cut(self, box: Box, left: list[Open]) -> list[Part]:
        """The box where a neuron is off, and where it is on, with what they leave open; by a thread each."""
        known = box if box.held is not None else box.remembering(PACE)
        if known is None:  # no input is in it
            return []
        free = known.free()
        worst = min(left, key=lambda one: one.bound).task
        column = int(leverage(free, replace(worst, low=free.low, high=free.high)).argmax())
        workers = self.setting.workers

        def made(on: bool) -> Part | None:
            with torch.no_grad():  # which is a matter of each thread
                part = known.side(column, on, CUT)
                return None if part is None else (part, part.left(numbers(left, self.setting.spec.owner)))

        if workers > 1:
            with ThreadPoolExecutor(2) as pool:
                parts = list(pool.map(made, (False, True)))
        else:
            parts = [made(on) for on in (False, True)]
        self.domains += 2
        return sorted([part for part in parts if part is not None and part[1]], key=lambda part: -_missing([part]))

    def _halved(self, box: Box, left: list[Open]) -> list[Part] | None:
        """Both halves with what they leave open, the one that is nearer to a proof last."""
        owner = self.setting.spec.owner
        made: list[Part] = []
        for lower, upper in box.halves(axis(box)):
            part = self._relaxed(lower, upper, numbers(left, owner), box)
            if part is None:
                return None
            made.append(part)
        return sorted([part for part in made if part[1]], key=lambda part: -_missing([part]))


def _may_wait(box: Box, left: list[Open]) -> bool:
    """Whether something else can be done to the box than searching each conjunction to the end."""
    if box.columns.count <= FEW_NEURONS:  # the whole tree is soon searched
        return False
    if 0 < box.free_inputs <= FEW_INPUTS:
        return True
    return len(left) > 1 and not box.tight


def _missing(parts: list[Part]) -> float:
    """How far the bounds are from proofs, all together."""
    return sum(max(0.0, -one.bound) for _, left in parts for one in left)


def axis(box: Box) -> int:
    """The input to halve: the one that alone, by intervals, moves the unstable neurons most, layer by layer.

    Not the one that moves the rows most: what is missing is lost in the neurons' relaxations.
    """
    setting = box.setting
    free = (box.upper > box.lower)[0].nonzero().squeeze(1)
    middle = (box.lower + box.upper) / 2
    lower, upper = middle.repeat(len(free), 1), middle.repeat(len(free), 1)
    each = torch.arange(len(free), device=free.device)
    lower[each, free], upper[each, free] = box.lower[0, free], box.upper[0, free]
    dtype, columns = setting.program.dtype, box.columns
    with torch.no_grad():
        alone = relax(setting.program, cast_down(lower, dtype), cast_up(upper, dtype), refine=False).intervals
        ends = [columns.gather({name: pair[side] for name, pair in alone.items()}) for side in (0, 1)]
        width = (ends[1] - ends[0]).clamp(min=0).nan_to_num(0.0, 0.0, 0.0)
    score = width.new_zeros(len(width))
    for layer in range(len(columns.names)):
        part = width[:, columns.part(layer)].sum(1)
        score = score + part / part.sum().clamp(min=torch.finfo(dtype).tiny)
    return int(free[score.argmax()])


def early(box: Box) -> Tensor:
    """bool (U,): columns of neurons in early layers whose phase is open."""
    columns = box.columns
    counts = [len(index) for index in columns.index]
    open_ = box.open.clone()
    last = next((i for i, count in enumerate(counts) if count > EARLY * max(counts)), 0)
    open_[columns.start[last] :] = False
    return open_
