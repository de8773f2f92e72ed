"""An exact formula as rows of floats, and what multipliers of its rows prove.

Every row is Σ a·x + c ≤ 0 (or = 0). Whatever the multipliers are, the rows they weigh add up to one that every
solution keeps; where its least value over the variables' ranges is above zero there is none. That value is computed
with all rounding counted (Neumaier and Shcherbina, *Safe bounds in linear and mixed-integer linear programming*,
Mathematical Programming 2004), so nothing has to be believed of where the multipliers came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from verinn.exact.domains import Clause, Domain
from verinn.exact.encoding.formula import All, Any, Comparison, Condition, Encoding, Key
from verinn.exact.encoding.numbers import above, beneath

#: half a unit in the last place of float64
_U = 2.0**-53
#: the key of the k-th disjunction among a formula's conditions
WAYS = "ways"
#: multipliers below this part of the greatest one are rounding's
_NOTHING = 1e-9


@dataclass(frozen=True, eq=False)
class Fork:
    """A choice: its rows by phase. ``goal``: whether it is one of the property's disjunctions."""

    key: Key
    rows: Mapping[int, np.ndarray]  # row numbers by phase
    goal: bool

    @property
    def phases(self) -> tuple[int, ...]:
        return tuple(self.rows)


@dataclass(frozen=True, eq=False)
class System:
    """``matrix`` (R, V), ``const`` (R,): rows a·x + c, at most zero, or zero where ``equal``; every number is the
    nearest float64 to the exact one. ``always`` bool (R,): rows that need no phase; ``weak``, ``goal`` bool (R,):
    rows that follow from others, rows of the property. ``lower``, ``upper`` (V,): ranges, outward. ``whole`` bool (V,).
    ``complete``: whether a point that keeps all rows, one phase of each choice and all whole numbers is a solution.
    """

    matrix: csr_matrix
    const: np.ndarray
    equal: np.ndarray
    always: np.ndarray
    weak: np.ndarray
    goal: np.ndarray
    choices: tuple[Fork, ...]
    lower: np.ndarray
    upper: np.ndarray
    whole: np.ndarray
    inputs: np.ndarray
    complete: bool

    @property
    def rows(self) -> int:
        return len(self.const)

    @cached_property
    def by_key(self) -> dict[Key, Fork]:
        return {choice.key: choice for choice in self.choices}

    @cached_property
    def owner(self) -> list[tuple[Key, int] | None]:
        """Whose phase each row belongs to."""
        found: list[tuple[Key, int] | None] = [None] * self.rows
        for choice in self.choices:
            for phase, rows in choice.rows.items():
                for row in rows.tolist():
                    found[row] = choice.key, phase
        return found

    @cached_property
    def size(self) -> np.ndarray:
        """(R,): the greatest coefficient of each row."""
        most = np.asarray(abs(self.matrix).max(1).todense()).ravel()
        return np.where(most > 0, most, 1.0)

    @cached_property
    def _magnitude(self) -> csr_matrix:
        return abs(self.matrix)

    @property
    def _terms(self) -> int:
        """No sum that adding up rows takes is longer."""
        return int(sum(self.matrix.shape)) + 8

    def box(self, domain: Domain) -> tuple[np.ndarray, np.ndarray]:
        """Ranges (V,) of all variables in a domain."""
        lower, upper = self.lower.copy(), self.upper.copy()
        if domain.lower is not None:
            lower[self.inputs] = np.maximum(lower[self.inputs], domain.lower)
        if domain.upper is not None:
            upper[self.inputs] = np.minimum(upper[self.inputs], domain.upper)
        return lower, upper

    def active(self, phases: Mapping[Key, int]) -> np.ndarray:
        """bool (R,): the rows that hold where phases are chosen."""
        found = self.always.copy()
        for key, phase in phases.items():
            choice = self.by_key.get(key)
            if choice is not None and phase in choice.rows:
                found[choice.rows[phase]] = True
        return found

    def least(self, weights: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Weighed:
        """A lower bound of Σ weight·row over ranges (V,).

        ``weights`` (R,) may be anything: those of the wrong sign count as zero, and so do the tiniest.
        """
        weights = np.where(self.equal, weights, np.maximum(weights, 0.0))
        most = np.abs(weights).max(initial=0.0)
        if not (most > 0 and math.isfinite(most)):
            return Weighed(-math.inf, weights, weights[:0], weights[:0])
        weights = np.where(np.abs(weights) > _NOTHING * most, weights / most, 0.0)
        a = self.matrix.T @ weights
        size = self._magnitude.T @ np.abs(weights)
        gamma = (self._terms + 4) * _U * 1.01  # sums in any order, and every number rounded once
        error = np.where(size > 0, size * gamma + 1e-300, 0.0)
        sides = a - error, a + error
        with np.errstate(invalid="ignore", over="ignore"):
            ends = [np.where(side != 0, side * end, 0.0) for side in sides for end in (lower, upper)]
            least = np.minimum.reduce([np.where(np.isnan(end), -np.inf, end) for end in ends])
            total = float(least.sum() + weights @ self.const)
            mass = float(np.abs(least).sum() + np.abs(weights) @ np.abs(self.const))
            total -= mass * gamma * 4 + 1e-290
        return Weighed(total if math.isfinite(total) else -math.inf, weights, *sides)

    def clause(self, found: Weighed, domain: Domain) -> Clause:
        """What a refutation of a domain needed: phases whose rows it weighs, and ends of inputs where it is least."""
        used = np.flatnonzero(found.weights).tolist()
        phases = frozenset(own for own in (self.owner[row] for row in used) if own is not None)
        sides = found.above[self.inputs] > 0, found.below[self.inputs] < 0
        whole = self.lower[self.inputs], self.upper[self.inputs]
        bounds = set()
        for over, end in ((False, domain.lower), (True, domain.upper)):
            if end is not None:
                inside = end < whole[1] if over else end > whole[0]
                bounds |= {(i, over, float(end[i])) for i in np.flatnonzero(inside & sides[over]).tolist()}
        return Clause(frozenset(bounds), phases)


@dataclass(frozen=True, eq=False)
class Weighed:
    """``value``: what the weighed rows are at least; ``weights`` (R,): as they were counted. The sum's coefficients
    are between ``below`` and ``above`` (V,)."""

    value: float
    weights: np.ndarray
    below: np.ndarray
    above: np.ndarray


def system_of(encoding: Encoding) -> System:
    """The rows of a formula. What no row can say (products, curves, nested disjunctions) is left out: then the
    system admits more than the formula, and is not ``complete``."""
    formula = encoding.formula
    made = _Rows()
    complete = not (formula.products or formula.curves)
    for fact in (*formula.facts, *formula.weak):
        made.add(fact)
    always = len(made.const)
    choices = [
        Fork(choice.key, {k: made.all(piece) for k, piece in zip(choice.phases, choice.pieces, strict=True)}, False)
        for choice in formula.choices
    ]
    plain: list[int] = []
    for condition in formula.conditions:
        for part in _conjuncts(condition):
            if isinstance(part, Comparison):
                plain.extend(made.all([part]).tolist())
                continue
            assert isinstance(part, Any)
            pieces = [list(_conjuncts(way)) for way in part.parts]
            complete &= all(isinstance(one, Comparison) for piece in pieces for one in piece)
            rows = {k: made.all([c for c in piece if isinstance(c, Comparison)]) for k, piece in enumerate(pieces)}
            if len(rows) == 1:
                plain.extend(rows[0].tolist())
                continue
            choices.append(Fork((WAYS, len(choices)), rows, True))
    count = len(made.const)
    matrix = csr_matrix((made.data, made.index, made.start), shape=(count, len(formula.variables)))
    every, weak = np.arange(count) < always, np.zeros(count, dtype=bool)
    weak[len(formula.facts) : always] = True
    goal = np.zeros(count, dtype=bool)
    goal[plain] = True
    for choice in choices:
        if choice.goal:
            for some in choice.rows.values():
                goal[some] = True
    every[plain] = True
    lower = np.array([-math.inf if v.lower is None else beneath(v.lower) for v in formula.variables])
    upper = np.array([math.inf if v.upper is None else above(v.upper) for v in formula.variables])
    return System(
        matrix,
        np.array(made.const),
        np.array(made.equal, dtype=bool),
        every,
        weak,
        goal,
        tuple(choices),
        lower,
        upper,
        np.array([v.integer for v in formula.variables], dtype=bool),
        np.array(encoding.inputs, dtype=np.int64),
        complete and made.exact,
    )


def _conjuncts(condition: Condition) -> Iterator[Condition]:
    """The parts that must all hold; none of them is a conjunction."""
    if isinstance(condition, All):
        for part in condition.parts:
            yield from _conjuncts(part)
    else:
        yield condition


class _Rows:
    """Rows in the making. A number that float64 can't hold to within half a unit makes its row vacuous."""

    def __init__(self) -> None:
        self.data: list[float] = []
        self.index: list[int] = []
        self.start: list[int] = [0]
        self.const: list[float] = []
        self.equal: list[bool] = []
        self.exact = True  # whether no row had to be left out

    def add(self, comparison: Comparison) -> int:
        form = comparison.form
        numbers = [_held(c) for c in (*form.terms.values(), form.const)]
        if None in numbers:
            numbers, self.exact = [0.0] * len(numbers), False
        *data, const = numbers
        self.data.extend(float(v) for v in data if v is not None)
        self.index.extend(form.terms)
        self.start.append(len(self.data))
        self.const.append(float(const or 0.0))
        self.equal.append(comparison.relation == "==")
        return len(self.const) - 1

    def all(self, parts: Sequence[Comparison]) -> np.ndarray:
        return np.array([self.add(part) for part in parts], dtype=np.int64)


def _held(value: object) -> float | None:
    """The nearest float64, where that is within half a unit in the last place."""
    try:
        near = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return near if near == 0 == value or 1e-290 < abs(near) < 1e290 else None


__all__ = ["WAYS", "Fork", "System", "system_of"]
