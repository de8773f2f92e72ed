"""What a certified bound must satisfy, in exact arithmetic: returns the violations found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from bounds_check import Exact, truth
from dual_nets import Bounded
from exact_graph import exact
from torch import Tensor

from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Rows

Values = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Known:
    """A net with exact values at points of its box; inexact weights are somewhere within their errors."""

    net: Bounded
    points: list[Values]

    @staticmethod
    def of(net: Bounded, rng: np.random.Generator, count: int = 10) -> Known:
        found: Exact = truth(net.graph, net.lower[None], net.upper[None], rng, count)
        return Known(net, found[0])

    def z(self, values: Values) -> list[Fraction]:
        """Exact inputs of the unstable ReLUs, by column."""
        return [values[name].reshape(-1)[i] for name, i in map(self.net.column, range(self.net.columns.count))]

    def y(self, values: Values) -> np.ndarray:
        return np.concatenate([values[out.value].reshape(-1) for out in self.net.graph.outputs])


def rational(x: Tensor) -> np.ndarray:
    return exact(x.double().numpy())


def goal_values(known: Known, goals: Goals, values: Values, theta: random.Random) -> list[Fraction]:
    """Exact values of the goals; inexact coefficients are somewhere within their errors."""

    def off(matrix: Tensor, error: Tensor | None) -> np.ndarray:
        made = rational(matrix)
        if error is not None:
            signs = [Fraction(theta.choice([-1, 1])) for _ in range(made.size)]
            made = made + rational(error) * np.array(signs, dtype=object).reshape(made.shape)
        return made

    f = off(goals.y, goals.y_error) @ known.y(values) - rational(goals.rhs)
    return list(f if goals.x is None else f + off(goals.x, goals.x_error) @ values["x"])


def asked(known: Known, goals: Goals | None, rows: Rows, weights: np.ndarray, values: Values, b: int) -> Fraction:
    """The exact value at a point of what row b asks for: its element, and the goals by ``weights`` (B, G)."""
    total = Fraction(0)
    if goals is not None:
        for number, f in enumerate(goal_values(known, goals, values, random.Random(b))):
            total += weights[b, number] * f
    if rows.source is not None:
        assert rows.index is not None and rows.sign is not None
        total += Fraction(float(rows.sign[b])) * values[rows.source].reshape(-1)[int(rows.index[b])]
    return total


def violations(known: Known, goals: Goals | None, rows: Rows, multipliers: Multipliers) -> tuple[list[str], int]:
    """Certified bounds, and the linear forms behind them, that lie above the exact value at some point of the
    row's domain; and how many finite bounds met a point."""
    net = known.net
    low, high = net.box
    with torch.no_grad():
        form = certified(net.root, net.columns, goals, rows, multipliers)
        least = form.minimum(low, high)[:, 0].tolist()
        form = form.exact(low, high)
    count = len(multipliers.alpha)
    assert len(least) == count
    # what is not allowed counts for nothing: neither a negative weight nor a goal of another conjunction
    weights = rational(multipliers.gamma.clamp(min=0) * rows.allowed)
    bad, met = [], 0
    for b, values in _inside(known, rows, count):
        true = asked(known, goals, rows, weights, values, b)
        met += bool(np.isfinite(least[b]))
        assert least[b] != np.inf
        if least[b] > true:
            bad.append(f"row {b}: {least[b]!r} > {float(true)!r}")
        a, c = form.a[b % len(form.a), 0], float(form.c[b, 0])
        if bool(a.isfinite().all()) and np.isfinite(c) and np.dot(rational(a), values["x"]) + Fraction(c) > true:
            bad.append(f"row {b}: its form lies above {float(true)!r}")
    return bad, met


def _inside(known: Known, rows: Rows, count: int) -> Iterator[tuple[int, Values]]:
    """Rows with the points at which their intervals hold, all in rationals."""
    lower, upper = rational(rows.lower), rational(rows.upper)
    for values in known.points:
        z = np.array(known.z(values), dtype=object)
        for b in range(count):
            if np.all(z >= lower[b % len(lower)]) and np.all(z <= upper[b % len(upper)]):
                yield b, values
