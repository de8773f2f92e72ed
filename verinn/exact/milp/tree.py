"""A search over the phases of an exact formula whose leaves are linear programmes of HiGHS, each weighed again.

It is branch and bound as a MILP solver does it, with big M replaced by the formula's own pieces, and with conflicts:
what a refutation weighed is a clause. A clause without the phase that was just split on refutes the parent too, so
the other side needs no look; else both sides' clauses make the parent's (resolution). Points are tried, and nothing
is concluded from one that fails. Where multipliers leave a leaf open by a hair, somebody exact is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from verinn.exact.domains import Answer, Clause, Clauses, Domain, Status
from verinn.exact.encoding.formula import Encoding, Key
from verinn.exact.milp.programme import Programme
from verinn.exact.milp.system import Fork, System, Weighed, system_of

#: t below which a programme leaves no hope of a proof, in units of rows
_HOPELESS = -1e-7
#: levels of the search, each some calls deep: a formula that needs more is given up
DEEP = 200
#: seconds for one programme
PATIENCE = 20.0

#: shown the inputs (n,) of a point; whether it is a counterexample, replayed
Tried = Callable[[np.ndarray], bool]
#: asked about a domain whose phases are all chosen
Settled = Callable[[Domain], Answer]


@dataclass(frozen=True)
class Pace:
    """``left``: seconds that there still are; ``nodes``: programmes to be solved at most."""

    left: Callable[[], float]
    nodes: float = math.inf


@dataclass
class Counts:
    """What trees did: programmes, refutations, domains that clauses closed, phases that they left, sides that a
    clause of the other one made superfluous."""

    nodes: int = 0
    refuted: int = 0
    pruned: int = 0
    forced: int = 0
    skipped: int = 0
    settled: int = 0


@dataclass(frozen=True, eq=False)
class _Node:
    """A domain, with ends (V,) of whole numbers where some were split, and its depth."""

    domain: Domain
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    depth: int = 0


class Stopped(Exception):
    """The search ends: a counterexample, time, or too many programmes."""


class Tree:
    """One formula, asked about domain after domain: the programme and the clauses are kept."""

    def __init__(self, encoding: Encoding, tried: Tried, settled: Settled | None = None, learn: bool = False):
        self.system = system_of(encoding)
        self.programme = Programme(self.system)
        self.clauses = Clauses({fork.key: fork.phases for fork in self.system.choices})
        self.counts = Counts()
        self._tried, self._settled, self._learn = tried, settled, learn
        self._places = Places.of(self.system)
        self._pace = Pace(lambda: math.inf)
        self._spent = 0

    def check(self, domain: Domain, pace: Pace) -> Answer:
        """`unsat` with its clause; `sat` where a counterexample was replayed; else `unknown` with the reason."""
        self._pace, self._spent = pace, 0
        self._why = ""
        try:
            clause = self._refuted(_Node(domain))
        except Stopped as stopped:
            found = str(stopped)
            return Answer(Status.UNKNOWN, found) if found else Answer(Status.SAT)
        if clause is None:
            return Answer(Status.UNKNOWN, self._why or "a programme was not decided")
        return Answer(Status.UNSAT, core=clause)

    # -- one node -----------------------------------------------------------------------------------

    def _refuted(self, node: _Node) -> Clause | None:
        """The clause of a refuted domain; None: it stays open, which doesn't end the search for witnesses."""
        narrowed = self.clauses.narrowed(node.domain)
        self.counts.forced += len(narrowed.reasons)
        if narrowed.conflict is not None:
            self.counts.pruned += 1
            return narrowed.resolved(narrowed.conflict)
        clause = self._explored(replace(node, domain=narrowed.domain))
        if clause is None:
            return None
        clause = narrowed.resolved(clause)
        if self._learn and node.lower is None:  # else it may hang on a whole number's range
            self.clauses.add(clause)
        return clause

    def _explored(self, node: _Node) -> Clause | None:
        domain, system = node.domain, self.system
        lower, upper = self._box(node)
        if (lower > upper).any():
            return None
        self._check_pace()
        guess = self.programme.solved(system.active(domain.phases), lower, upper, min(PATIENCE, self._pace.left()))
        self.counts.nodes += 1
        self._spent += 1
        weights = np.zeros(system.rows)
        if guess is not None:
            weights = guess.weights
            if guess.excess > _HOPELESS:
                found = self._weighed(weights, domain, lower, upper, guess.point is None)
                if found.value > 0:
                    self.counts.refuted += 1
                    return system.clause(found, domain)
            if guess.point is not None and self._tried(guess.point[system.inputs]):
                raise Stopped("")
        point = None if guess is None else guess.point
        fork = self._places.worst(domain, point, weights)
        if fork is not None:
            return self._split(node, fork, point)
        part = self._whole(lower, upper, point)
        if part is not None:
            return self._halved(node, lower, upper, *part)
        return self._last(node)

    def _box(self, node: _Node) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = self.system.box(node.domain)
        if node.lower is not None and node.upper is not None:
            lower, upper = np.maximum(lower, node.lower), np.minimum(upper, node.upper)
        return lower, upper

    def _check_pace(self) -> None:
        if self._pace.left() <= 0:
            raise Stopped("time is up")
        if self._spent >= self._pace.nodes:
            raise Stopped(f"{self._spent} linear programmes were solved and no more were allowed")

    def _weighed(self, weights: np.ndarray, domain: Domain, lower: np.ndarray, upper: np.ndarray, ray: bool) -> Weighed:
        """What multipliers prove, those of rows that don't hold in the domain left out."""
        weights = np.where(self.system.active(domain.phases), weights, 0.0)
        found = self.system.least(weights, lower, upper)
        if ray and found.value <= 0:  # a ray may point either way
            other = self.system.least(-weights, lower, upper)
            return other if other.value > found.value else found
        return found

    # -- splits -------------------------------------------------------------------------------------

    def _split(self, node: _Node, fork: Fork, point: np.ndarray | None) -> Clause | None:
        """All phases of a choice, the nearest to the programme's point first."""
        if node.depth >= DEEP:
            raise Stopped(f"{DEEP} choices were made and more are open")
        bounds: set[tuple[int, bool, float]] = set()
        phases: set[tuple[Key, int]] = set()
        open_ = False
        for phase in self._places.order(fork, point):
            domain = replace(node.domain, phases={**node.domain.phases, fork.key: phase})
            clause = self._refuted(replace(node, domain=domain, depth=node.depth + 1))
            if clause is None:
                open_ = True
                continue
            if (fork.key, phase) not in clause.phases:
                self.counts.skipped += 1
                return clause
            bounds |= clause.bounds
            phases |= clause.phases - {(fork.key, phase)}
        return None if open_ else Clause(frozenset(bounds), frozenset(phases))

    def _whole(self, lower: np.ndarray, upper: np.ndarray, point: np.ndarray | None) -> tuple[int, float] | None:
        """A whole number that is not fixed, and where to cut its range."""
        free = np.flatnonzero(self.system.whole & (np.ceil(lower) < np.floor(upper)))
        if not len(free) or not np.isfinite([lower[free], upper[free]]).all():
            return None
        if point is None:
            at = int(free[(upper - lower)[free].argmax()])
            return at, math.floor((lower[at] + upper[at]) / 2)
        away = np.abs(point[free] - np.round(point[free]))
        at = int(free[away.argmax()])
        return at, min(max(math.floor(point[at]), math.ceil(lower[at])), math.floor(upper[at]) - 1)

    def _halved(self, node: _Node, lower: np.ndarray, upper: np.ndarray, at: int, cut: float) -> Clause | None:
        """Both sides of a whole number's range."""
        if node.depth >= DEEP:
            raise Stopped(f"{DEEP} choices were made and more are open")
        clauses: list[Clause] = []
        for side in (0, 1):
            low, high = lower.copy(), upper.copy()
            if side:
                low[at] = cut + 1
            else:
                high[at] = cut
            clause = self._refuted(_Node(node.domain, low, high, node.depth + 1))
            if clause is not None:
                clauses.append(clause)
        if len(clauses) < 2:
            return None
        one, two = clauses
        return Clause(one.bounds | two.bounds, one.phases | two.phases)

    def _last(self, node: _Node) -> Clause | None:
        """Nothing is left to choose. Somebody exact is asked about all whole numbers of the phases at once."""
        if self._settled is None:
            self._why = self._why or "multipliers in floating point leave a leaf open"
            return None
        self.counts.settled += 1
        answer = self._settled(node.domain)
        if answer.status is Status.SAT and not answer.reason:
            raise Stopped("")
        if answer.status is Status.UNSAT:
            return answer.core
        self._why = self._why or answer.reason
        return None


@dataclass(frozen=True, eq=False)
class Places:
    """The pieces of all choices side by side. ``rows``, ``start``: rows of every piece, where each begins; ``own``:
    the choice of each piece; ``reads`` (C, V): the variables of each choice."""

    system: System
    rows: np.ndarray
    start: np.ndarray
    own: np.ndarray
    reads: csr_matrix
    facts: csr_matrix

    @staticmethod
    def of(system: System) -> Places:
        pieces = [(n, rows) for n, fork in enumerate(system.choices) for rows in fork.rows.values()]
        sizes = [len(rows) for _, rows in pieces]
        rows = np.concatenate([rows for _, rows in pieces]) if pieces else np.zeros(0, np.int64)
        at = np.repeat([n for n, _ in pieces], sizes) if pieces else np.zeros(0, np.int64)
        take = csr_matrix((np.ones(len(rows)), (at, rows)), shape=(len(system.choices), system.rows))
        reads = ((take @ abs(system.matrix)) > 0).astype(float)
        plain = system.always & ~system.weak
        return Places(
            system, rows, np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, np.int64),
            np.array([n for n, _ in pieces], dtype=np.int64), csr_matrix(reads),
            csr_matrix(system.matrix.multiply(plain[:, None])),
        )  # fmt: skip

    def worst(self, domain: Domain, point: np.ndarray | None, weights: np.ndarray) -> Fork | None:
        """The open choice that the programme's point breaks most, weighed by what the multipliers hang on it."""
        system = self.system
        open_ = [n for n, fork in enumerate(system.choices) if fork.key not in domain.phases]
        if not open_:
            return None
        ways = [n for n in open_ if system.choices[n].goal]
        if ways or point is None:
            return system.choices[(ways or open_)[0]]
        score = self.broken(point) * (self.reads @ np.abs(self.facts.T @ weights) + 1e-9)
        return system.choices[max(open_, key=lambda n: float(score[n]))]

    def broken(self, point: np.ndarray) -> np.ndarray:
        """(C,): by how much a point breaks the piece of each choice that it is nearest to."""
        least = np.full(len(self.system.choices), np.inf)
        np.minimum.at(least, self.own, self._away(point))
        return least

    def _away(self, point: np.ndarray) -> np.ndarray:
        """By how much a point breaks each piece: its worst row."""
        value = (self.system.matrix[self.rows] @ point + self.system.const[self.rows]) / self.system.size[self.rows]
        value = np.where(self.system.equal[self.rows], np.abs(value), value.clip(min=0))
        return np.asarray(np.maximum.reduceat(value, self.start)) if len(value) else value

    def order(self, fork: Fork, point: np.ndarray | None) -> list[int]:
        """A choice's phases, the nearest to a point first."""
        phases = list(fork.phases)
        if point is None:
            return phases
        system = self.system

        def away(phase: int) -> float:
            rows = fork.rows[phase]
            value = (system.matrix[rows] @ point + system.const[rows]) / system.size[rows]
            return float(np.where(system.equal[rows], np.abs(value), value.clip(min=0)).max(initial=0.0))

        return sorted(phases, key=away)


__all__ = ["Counts", "Pace", "Places", "Settled", "Tree", "Tried"]
