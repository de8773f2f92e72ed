"""The SMT engine: a case's exact formula, decided by Z3 domain by domain, with learned clauses.

Z3 is asked about the whole case first. What it does not decide in its slice of time is split: boxes of
few inputs are halved, else the phase of a neuron is chosen; bounds over each part fix more phases. What a
refutation needed is a clause: it closes, or narrows, every later domain that it applies to. A solution is a
candidate only: it is rounded to float32 and replayed, and what no candidate settles is `unknown`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.domain import relax
from verinn.errors import Unsupported
from verinn.exact.domains import Answer, Clause, Clauses, Domain, Status
from verinn.exact.encoding.encode import Draft, TooLarge, encode
from verinn.exact.encoding.formula import Any, Choice, Comparison, Condition, Encoding, Key, variable
from verinn.exact.encoding.goals import goal_of, outside
from verinn.exact.encoding.numbers import above, beneath
from verinn.exact.encoding.polynomial import query_condition
from verinn.exact.smt.refine import Refined
from verinn.exact.smt.solver import Settings, SmtSolver
from verinn.ir.prop import Case
from verinn.ir.query import Kind, Query
from verinn.ops.program import Program
from verinn.passes.property import layout
from verinn.result import Verdict, Witness
from verinn.search.bab import Outcome

Attempt = Callable[[Tensor, Tensor], Witness | None]
Tell = Callable[[int, int, float, float], None]

#: solutions of one domain that are tried before it is given up
MOST_MODELS = 6
#: the room asked of a point well inside, in units of a row, from generous to hardly any
ROOMS = tuple(Fraction(1, 1 << k) for k in (3, 7, 11, 15, 20, 25))
#: a domain with so many more open phases than Z3 was seen to decide is split unasked
SLACK = 2
#: boxes of at most so many inputs are halved, so often at most, while more phases than so many are open; else
#: phases are chosen
FEW_INPUTS, DEEP, FEW_PHASES = 8, 60, 6


@dataclass(frozen=True)
class SmtLimits:
    """``expired``: whether time is up; ``left``: seconds that there still are. ``slice``: seconds that Z3 gets for
    the first domain; ``later``: for its parts, while they can be split. ``memory``: MiB. ``learn``: whether clauses
    are kept."""

    expired: Callable[[], bool]
    left: Callable[[], float]
    slice: float = 10.0  # short slices were measured to lose: a call that is cut off has learned nothing
    later: float = 4.0
    memory: int = 2000
    seed: int = 0
    learn: bool = True


@dataclass
class Counts:
    """What one search did."""

    domains: int = 0
    checks: int = 0
    learned: int = 0
    pruned: int = 0  # domains that a clause closed
    forced: int = 0  # phases that clauses left
    refinements: int = 0


@dataclass(frozen=True, eq=False)
class Exactly:
    """One case to be decided: its network in float64 on the CPU, its number for ``attempt``, and the query, whose
    formula is added where the case leaves some of it out."""

    program: Program
    case: Case
    number: int
    query: Query | None = None


def decide(task: Exactly, limits: SmtLimits, attempt: Attempt, tell: Tell, roots: Sequence[Domain] = ()) -> Outcome:
    """Decide a case, or only some domains of it (``roots``).

    `unsat`: Z3 refuted every part. `sat`: replayed. Whatever goes wrong is `unknown`.
    """
    try:
        return Search(task, limits, attempt, tell).run(roots or [Domain()])
    except (TooLarge, Unsupported) as error:
        verdict = Verdict.TIMEOUT if limits.expired() else Verdict.UNKNOWN
        return Outcome(verdict, reason=f"the SMT engine can't take this network: {error}")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A case's exact formula; ``margin``: see ``Goal``."""

    encoding: Encoding
    margin: int


def encoded_of(task: Exactly, over: Callable[[], bool] = lambda: False) -> Encoded:
    """A case as a formula. Raises TooLarge, also when time is up (``over``); Unsupported."""
    draft = encode(task.program, task.case.lower, task.case.upper, over=over)
    goal = goal_of(draft, task.case)
    draft.builder.conditions.append(goal.condition)
    if not task.case.exact and task.query is not None:
        draft.builder.conditions.append(_whole_query(draft, task.query))
    return Encoded(draft.finished(), goal.margin)


@dataclass(frozen=True, eq=False)
class _Open:
    """A domain to be decided, the box where it is not the whole, and what bounds say of phases there."""

    domain: Domain
    implied: Mapping[Key, int] = field(default_factory=dict)
    depth: int = 0


class Search:
    """One case: its solvers, its clauses, and what it has counted."""

    def __init__(self, task: Exactly, limits: SmtLimits, attempt: Attempt, tell: Tell, encoded: Encoded | None = None):
        self.task, self.limits, self.attempt, self.tell = task, limits, attempt, tell
        self.began = time.monotonic()
        self.counts = Counts()
        self.witness: Witness | None = None
        self.touched = ""  # a point that violates, but does not replay
        self.reach = math.inf  # open phases that Z3 decides in its slice, as far as was seen
        known = encoded or encoded_of(task, limits.expired)
        self.margin, self.encoding = known.margin, known.encoding
        self.choices = {choice.key: choice for choice in self.encoding.formula.choices}
        self.clauses = Clauses({key: choice.phases for key, choice in self.choices.items()})
        formula = self.encoding.formula
        self.linear = not (formula.products or formula.curves)
        self.bounded = bool(self.encoding.ranges)
        self.refined = self._solver()

    def _solver(self) -> Refined:
        settings = Settings(memory=self.limits.memory, seed=self.limits.seed)
        return Refined(SmtSolver(self.encoding, settings, self.limits.expired))

    def run(self, roots: Sequence[Domain]) -> Outcome:
        stack = [_Open(root) for root in reversed(roots)]
        closed, whole = 0, len(stack)
        undecided: list[str] = []
        while stack:
            if self.limits.expired():
                return self._outcome(Verdict.TIMEOUT, reason="time is up")
            node = self._narrowed(stack.pop())
            if node is None:
                closed += 1
                continue
            self.counts.domains += 1
            self.tell(len(stack) + 1, closed, math.inf, (len(stack) + 1) / (closed + len(stack) + whole))
            parts = self._split(node)
            if parts and self._open(node) > self.reach + SLACK:
                stack.extend(parts)
                continue
            answer = self._asked(node, bool(parts))
            if self.witness is not None:
                return self._outcome(Verdict.SAT)
            if answer.status is Status.UNSAT:
                closed += 1
                self.reach = max(self.reach, self._open(node))
                self._learn(node, answer)
            elif self.limits.expired():
                return self._outcome(Verdict.TIMEOUT, reason="time is up")
            elif answer.status is Status.SAT or self.refined.solver.broken:
                undecided.append(answer.reason)
                if self.refined.solver.broken:
                    break
            else:
                self.reach = min(self.reach, self._open(node) - 1)
                if not parts:
                    undecided.append(answer.reason)
                stack.extend(parts)
        if undecided:
            return self._outcome(Verdict.UNKNOWN, reason=undecided[0])
        return self._outcome(Verdict.UNSAT)

    def leaf(self, domain: Domain) -> Answer:
        """Z3's answer about a domain whose phases are chosen: `sat` with a reason where its solutions don't replay."""
        answer = self._asked(_Open(domain, depth=1), True)
        return Answer(Status.SAT) if self.witness is not None else answer

    # -- one domain ---------------------------------------------------------------------------------

    def _open(self, node: _Open) -> int:
        """How many phases a domain leaves open."""
        return len(self.choices) - len(self.choices.keys() & (node.implied.keys() | node.domain.phases.keys()))

    def _asked(self, node: _Open, splits: bool) -> Answer:
        """Z3's answer about a domain. A solution is tried; `sat` comes back where none of its kind replays."""
        domain = replace(node.domain, phases={**node.implied, **node.domain.phases})
        seconds = self.limits.slice if node.depth == 0 else self.limits.later
        until = time.monotonic() + (seconds if splits else math.inf)

        def left() -> float:
            return min(until - time.monotonic(), self.limits.left())

        extra: list[Condition] = []
        for attempts in range(MOST_MODELS):
            answer = self.refined.check(domain, left, extra, self._accepted)
            if answer.status is not Status.SAT or self.witness is not None:
                break
            if self._accepted(answer) or self._well_inside(domain, answer, left):
                break
            self.touched = self.touched or self._told(answer)
            extra.append(self._elsewhere(answer, attempts))
        if extra and self.witness is None:
            # what was left out has no replay, but it is no proof either
            return Answer(Status.SAT, self.touched)
        return answer

    def _accepted(self, answer: Answer) -> bool:
        """Whether a solution's input, rounded to float32, is a counterexample."""
        x = torch.tensor([_nearest(answer.point[v]) for v in self.encoding.inputs], dtype=torch.float64)
        self.witness = self.witness or self.attempt(x, torch.tensor(self.task.number))
        return self.witness is not None

    def _well_inside(self, domain: Domain, answer: Answer, left: Callable[[], float]) -> bool:
        """Solutions with the same phases and some room in every row, which rounding does not spoil."""
        phases = {**domain.phases, **phases_at(self.encoding, answer.point)}
        for fixed in (replace(domain, phases=phases), domain):
            for room in ROOMS:
                if left() <= 0:
                    return False
                asked = Comparison(variable(self.margin).shifted(-room) * Fraction(-1), "<=")
                found = self.refined.check(fixed, left, [asked], self._accepted)
                if found.status is Status.SAT:
                    if self.witness is not None or self._accepted(found):
                        return True
                    break
        return False

    def _elsewhere(self, answer: Answer, attempts: int) -> Condition:
        """x is not within a few units in the last place, in float32, of a solution's x; farther each time."""
        x = [answer.point[v] for v in self.encoding.inputs]
        away = [Fraction(max(1e-7 * abs(float(v)), 1e-9)) * 4**attempts for v in x]
        low, high = ([v + sign * d for v, d in zip(x, away, strict=True)] for sign in (-1, 1))
        return Any(tuple(outside([variable(v) for v in self.encoding.inputs], low, high)))

    def _told(self, answer: Answer) -> str:
        some = ", ".join(f"{float(answer.point[v]):.9g}" for v in self.encoding.inputs[:6])
        more = ", …" if len(self.encoding.inputs) > 6 else ""
        kind = "the exact function" if answer.exact else "as near as its curves are known, the function"
        return (
            f"{kind} violates at x = ({some}{more}), but no float32 input there was found that violates in ONNX Runtime"
        )

    # -- clauses ------------------------------------------------------------------------------------

    def _learn(self, node: _Open, answer: Answer) -> None:
        core = answer.core
        if core is None or not self.limits.learn:
            return
        implied = {(key, phase) for key, phase in core.phases if key not in node.domain.phases}
        if implied:  # they follow from the box, all of it
            core = Clause(core.bounds | frozenset(self._ends(node.domain)), core.phases - implied)
        self.counts.learned += self.clauses.add(core)

    def _ends(self, domain: Domain) -> Iterator[tuple[int, bool, float]]:
        case = self.task.case
        for over, end, whole in ((False, domain.lower, case.lower), (True, domain.upper, case.upper)):
            if end is not None:
                for number in np.flatnonzero(end != whole).tolist():
                    yield number, over, float(end[number])

    def _narrowed(self, node: _Open) -> _Open | None:
        """The domain with the phases that clauses leave; None where one closes it."""
        found = self.clauses.narrowed(node.domain)
        self.counts.forced += len(found.reasons)
        if found.conflict is not None:
            self.counts.pruned += 1
            return None
        return replace(node, domain=found.domain)

    # -- splitting ----------------------------------------------------------------------------------

    def _split(self, node: _Open) -> list[_Open]:
        """Two parts of a domain, each with what bounds say of phases there; none where nothing is left to split."""
        case = self.task.case
        low = case.lower if node.domain.lower is None else node.domain.lower
        high = case.upper if node.domain.upper is None else node.domain.upper
        left = self._open(node)
        if not left and self.linear:
            return []
        halves = left > FEW_PHASES or not self.linear
        if self.bounded and halves and node.depth < DEEP and int((high > low).sum()) <= FEW_INPUTS:
            axis = int(np.argmax((high - low) / np.maximum(case.upper - case.lower, 1e-300)))
            middle = low[axis] / 2 + high[axis] / 2
            if low[axis] < middle < high[axis]:
                return [
                    self._part(node, low, np.where(np.arange(len(low)) == axis, middle, high)),
                    self._part(node, np.where(np.arange(len(low)) == axis, middle, low), high),
                ]
        choice = self._undecided(node)
        if choice is None:
            return []
        return [
            replace(
                node, domain=replace(node.domain, phases={**node.domain.phases, choice.key: k}), depth=node.depth + 1
            )
            for k in reversed(choice.phases)
        ]

    def _part(self, node: _Open, low: np.ndarray, high: np.ndarray) -> _Open:
        domain = replace(node.domain, lower=low, upper=high)
        return _Open(domain, self._implied(low, high), node.depth + 1)

    def _implied(self, low: np.ndarray, high: np.ndarray) -> dict[Key, int]:
        """Phases that bounds over a box leave to elements that have two."""
        with torch.no_grad():
            found = relax(self.task.program, torch.from_numpy(low).unsqueeze(0), torch.from_numpy(high).unsqueeze(0))
        ends = {
            step.node.name: found.intervals[step.node.inputs[0]]
            for step in self.task.program.steps
            if step.node.op in ("relu", "leaky_relu", "prelu", "abs")
        }
        implied: dict[Key, int] = {}
        for key in self.choices:
            if key[0] in ends:
                least, most = (float(end.flatten()[key[1]]) for end in ends[key[0]])
                if most <= 0:
                    implied[key] = 0
                elif least >= 0:
                    implied[key] = 1
        return implied

    def _undecided(self, node: _Open) -> Choice | None:
        """The first element, in the order of the network, whose phase is open: what is behind it hangs on it."""
        taken = {**node.implied, **node.domain.phases}
        return next((choice for choice in self.choices.values() if choice.key not in taken), None)

    def _outcome(self, verdict: Verdict, reason: str = "") -> Outcome:
        self.counts.checks, self.counts.refinements = self.refined.solver.checks, self.refined.refinements
        return Outcome(verdict, self.witness, reason, self.counts.domains, time.monotonic() - self.began)


def phases_at(encoding: Encoding, point: Sequence[Fraction]) -> dict[Key, int]:
    """The phase of every choice at a solution: the first that holds there."""
    found = {}
    for choice in encoding.formula.choices:
        for phase, piece in zip(choice.phases, choice.pieces, strict=True):
            if all(part.holds(point) for part in piece):
                found[choice.key] = phase
                break
    return found


def _whole_query(draft: Draft, query: Query) -> Condition:
    """The query's formula: what a case that is not exact leaves out of it."""
    where = layout(query)
    x, y = draft.x, draft.y
    forms, rounded = [], []
    for v in query.variables:
        forms += x[where.x(v.name)] if v.kind is Kind.INPUT else y[where.y(v.name)]
        rounded += [v.kind is Kind.INPUT] * v.size
    return query_condition(draft.builder, query.formula, forms, rounded)


def _nearest(value: Fraction) -> float:
    low, high = beneath(value), above(value)
    if math.isinf(low) or math.isinf(high):
        return 3e38 if value > 0 else -3e38
    return float(value)
