"""Curves refined where a solution needs them: counterexample-guided, cell by cell.

A solver knows of y = f(x) only lines over cells of x. Where its solution is off the curve, the cell is split
at the solution's x, and the lines of both halves are added (as for transcendental functions in Cimatti et al.,
*Incremental linearization*, TOCL 2018). The lines are the operator's own, so every step keeps all that is true.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch

from verinn.exact.domains import Answer, Domain, Status
from verinn.exact.encoding.formula import All, Any, Comparison, Condition, Curve, Key, variable
from verinn.exact.encoding.lines import curve_cell, range_over
from verinn.exact.encoding.numbers import above, beneath
from verinn.exact.smt.solver import SmtSolver

#: a solution this near to a curve, in units of max(1, |y|), is on it
NEAR = 1e-9
#: curves refined after one solution
MOST = 24

Seconds = Callable[[], float]


class Refined:
    """A solver whose curves are refined until a domain has no solution, or one that is near all of them."""

    def __init__(self, solver: SmtSolver, near: float = NEAR):
        self.solver = solver
        self.near = near
        self.refinements = 0
        self._breaks: dict[Key, list[float]] = {c.key: [c.lower, c.upper] for c in solver.encoding.formula.curves}

    def check(
        self, domain: Domain | None, left: Seconds, extra: Sequence[Condition] = (), accept: Accept | None = None
    ) -> Answer:
        """As ``SmtSolver.check``; ``left()``: seconds that there still are. ``accept``: is shown every solution
        as it comes, near its curves or not; the first one it accepts is the answer.

        `sat` is near all curves, or accepted. Not exact where there are curves.
        """
        while True:
            answer = self.solver.check(domain, left(), extra)
            if answer.status is not Status.SAT or not self._breaks:
                return answer
            if accept is not None and accept(answer):
                return answer
            off = self._off(answer.point)
            if not off:
                return Answer(Status.SAT, point=answer.point, exact=False)
            cells = [cell for curve in off for cell in self._split(curve, answer.point[curve.x])]
            if not cells:
                return Answer(Status.UNKNOWN, "a curve's lines can't be made tighter in floating point")
            self.refinements += 1
            self.solver.add(cells)
            if left() <= 0:
                return Answer(Status.UNKNOWN, "time is up")

    def _off(self, point: Sequence[Fraction]) -> list[Curve]:
        """The curves that a solution is farthest from, as far as it is not near."""
        far = []
        for curve in self.solver.encoding.formula.curves:
            low, high = value_at(curve, point[curve.x])
            y = point[curve.y]
            off = max(_less(low, y), _less(-high, -y))
            if off > self.near * max(1.0, abs(float(y))):
                far.append((off, curve))
        return [curve for _, curve in sorted(far, key=lambda one: -one[0])[:MOST]]

    def _split(self, curve: Curve, x: Fraction) -> list[Condition]:
        """Both halves of the cell that x is in; none where it has no inside left."""
        breaks = self._breaks[curve.key]
        # compared exactly: x may be a hair beside a break, in the wider of its cells
        place = min(max(bisect.bisect_left(breaks, x), 1), len(breaks) - 1)
        low, high = breaks[place - 1], breaks[place]
        middle = _between(low, high, float(x))
        if middle is None:
            return []
        breaks.insert(place, middle)
        return [cell(curve, low, middle), cell(curve, middle, high)]


Accept = Callable[[Answer], bool]


def cell(curve: Curve, low: float, high: float) -> Condition:
    """x outside of [low, high], or y within the lines over it."""
    x = variable(curve.x)
    ways: list[Condition] = []
    if math.isfinite(low):
        ways.append(Comparison(x.shifted(-Fraction(low)), "<"))
    if math.isfinite(high):
        ways.append(Comparison((x * Fraction(-1)).shifted(Fraction(high)), "<"))
    # short lines lose about 2^-16 of the values; a cell narrower than that needs them as they are
    narrow = high - low < 1e-2
    return Any((*ways, All(tuple(curve_cell(curve, low, high, exactly=narrow)))))


def value_at(curve: Curve, x: Fraction) -> tuple[float, float]:
    """An interval that contains f(x)."""
    ends = [torch.tensor([[end]], dtype=torch.float64) for end in (beneath(x), above(x))]
    low, high = range_over(curve.node, ends[0], ends[1])
    return float(low[0, 0]), float(high[0, 0])


def _less(low: float, y: Fraction) -> float:
    """By how much y is below ``low``."""
    if not math.isfinite(low):
        return 0.0
    return max(0.0, float(Fraction(low) - y))


def _between(low: float, high: float, at: float) -> float | None:
    """A float strictly inside, at ``at`` unless that leaves a sliver; None where there is none."""
    if math.isfinite(low) and math.isfinite(high):
        width = high - low
        if not low + width / 16 <= at <= high - width / 16:
            at = low + width * (1 / 8 if at < low + width / 2 else 7 / 8)
    elif math.isfinite(low):
        at = max(at, low + max(1.0, abs(low)))
    elif math.isfinite(high):
        at = min(at, high - max(1.0, abs(high)))
    return at if low < at < high else None
