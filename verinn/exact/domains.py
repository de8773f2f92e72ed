"""Domains that exact solvers are asked about, their answers, and the clauses that refutations leave.

A refutation seldom needs all of a domain. What it needed is a clause (conflict-driven clause learning, as in Katz et
al., *Marabou*, CAV 2019, and Duong et al., *NeuralSAT*, 2023): no later domain inside all of it holds a solution,
and one that has all but one of its phases must have another one there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction

import numpy as np

from verinn.exact.encoding.formula import Key


class Status(Enum):
    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Domain:
    """A part of what is to be decided: a box of inputs (n,) float64, None for the whole, and the phases chosen."""

    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    phases: Mapping[Key, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Clause:
    """Bounds of inputs ((number, whether upper, value)) and phases that no solution has all together."""

    bounds: frozenset[tuple[int, bool, float]]
    phases: frozenset[tuple[Key, int]]

    def missing(self, domain: Domain) -> list[tuple[Key, int]] | None:
        """The phases of the clause that a domain has not chosen; None where the clause doesn't apply to it:
        it is not inside the bounds, or has another phase."""
        for number, over, value in self.bounds:
            end = domain.upper if over else domain.lower
            if end is None or (end[number] > value if over else end[number] < value):
                return None
        open_ = []
        for key, phase in self.phases:
            chosen = domain.phases.get(key)
            if chosen is None:
                open_.append((key, phase))
            elif chosen != phase:
                return None
        return open_


@dataclass(frozen=True, eq=False)
class Answer:
    """``point``: for `sat` the values of all variables, as far as Z3 gives them as numbers; ``exact``: whether
    none was approximated. ``core``: for `unsat` what of the domain was needed."""

    status: Status
    reason: str = ""
    point: tuple[Fraction, ...] = ()
    exact: bool = True
    core: Clause | None = None


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A domain after unit propagation. ``conflict``: the clause that closes it, if one does. ``reasons``: the phases
    that clauses left, in the order in which they did, each with its clause."""

    domain: Domain
    conflict: Clause | None = None
    reasons: tuple[tuple[Key, int, Clause], ...] = ()

    def resolved(self, clause: Clause) -> Clause:
        """A clause of the narrowed domain as one of the domain before: forced phases replaced by what forced them."""
        bounds, phases = set(clause.bounds), set(clause.phases)
        for key, phase, reason in reversed(self.reasons):
            if (key, phase) in phases:
                phases.discard((key, phase))
                phases |= {own for own in reason.phases if own[0] != key}
                bounds |= reason.bounds
        return Clause(frozenset(bounds), frozenset(phases))


class Clauses:
    """What refutations of one formula left, the newest ``most`` of it. ``phases``: those that each choice may have."""

    def __init__(self, phases: Mapping[Key, Sequence[int]], most: int = 2000):
        self._phases = phases
        self._most = most
        self.learned: list[Clause] = []

    def add(self, clause: Clause) -> bool:
        """Whether it was new. An empty clause closes everything."""
        if clause in self.learned:
            return False
        self.learned.append(clause)
        del self.learned[: max(0, len(self.learned) - self._most)]
        return True

    def narrowed(self, domain: Domain) -> Narrowed:
        """A domain with the phases that clauses leave (unit propagation)."""
        phases = dict(domain.phases)
        reasons: list[tuple[Key, int, Clause]] = []
        again = bool(self.learned)
        while again:
            again = False
            for clause in self.learned:
                missing = clause.missing(Domain(domain.lower, domain.upper, phases))
                if missing is None:
                    continue
                if not missing:
                    return Narrowed(replace(domain, phases=phases), clause, tuple(reasons))
                if len(missing) == 1:
                    key, phase = missing[0]
                    others = [k for k in self._phases.get(key, ()) if k != phase]
                    if len(others) == 1:
                        phases[key] = others[0]
                        reasons.append((key, others[0], clause))
                        again = True
        return Narrowed(replace(domain, phases=phases), None, tuple(reasons))
