"""The truth of tiny networks by enumeration: every activation pattern is a polytope, decided in fractions.

Nothing of verinn is used here, nor Z3: networks are layers of small fractions, activations are lists of pieces,
and whether rows (some strict) have a common point is asked of a simplex method of a page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

F = Fraction
Form = list[Fraction]  # n coefficients and a constant
Row = tuple[Form, bool]  # form ≤ 0, or < 0 where strict
Box = list[tuple[Fraction, Fraction]]


@dataclass(frozen=True)
class Layer:
    """z = x·weight + bias, then an activation: "none", "max" (pairs), or one of ``_pieces``."""

    weight: list[list[Fraction]]
    bias: list[Fraction]
    kind: str


def violated(layers: Sequence[Layer], box: Box, ways: Sequence[Sequence[Row]]) -> bool:
    """Whether some x of the box has outputs that keep all rows (over the outputs) of one of the ways."""
    n = len(box)
    start = [[F(int(i == j)) for i in range(n)] + [F(0)] for j in range(n)]
    for rows, outputs in _patterns(layers, start, [], box):
        for way in ways:
            if feasible([*rows, *[(_mix(form, outputs), strict) for form, strict in way]], box):
                return True
    return False


def _patterns(
    layers: Sequence[Layer], values: list[Form], rows: list[Row], box: Box
) -> Iterator[tuple[list[Row], list[Form]]]:
    """All patterns that some point has: their rows and the outputs."""
    if not layers:
        yield rows, values
        return
    layer = layers[0]
    z = [_mix([*column, b], values) for column, b in zip(zip(*layer.weight, strict=True), layer.bias, strict=True)]
    yield from _neurons(layers, z, [], rows, box)


def _neurons(
    layers: Sequence[Layer], left: list[Form], done: list[Form], rows: list[Row], box: Box
) -> Iterator[tuple[list[Row], list[Form]]]:
    if not left:
        yield from _patterns(layers[1:], done, rows, box)
        return
    taken = 2 if layers[0].kind == "max" else 1
    for more, value in _pieces(layers[0].kind, left[:taken], box):
        both = [*rows, *more]
        if feasible(both, box):
            yield from _neurons(layers, left[taken:], [*done, value], both, box)


def _pieces(kind: str, z: Sequence[Form], box: Box) -> Iterator[tuple[list[Row], Form]]:
    """Pieces of an activation: where they hold, and the value there."""
    x, zero = z[0], [F(0)] * len(z[0])
    if kind == "none":
        yield [], x
    elif kind == "max":
        yield [(_add(z[1], _times(z[0], -1)), False)], z[0]
        yield [(_add(z[0], _times(z[1], -1)), False)], z[1]
    elif kind in ("relu", "leaky", "abs"):
        yield [(x, False)], _times(x, {"relu": F(0), "leaky": F(1, 4), "abs": F(-1)}[kind])
        yield [(_times(x, -1), False)], x
    elif kind == "clip":  # to [-1, 2]
        yield [(_shift(x, 1), False)], _shift(zero, -1)
        yield [(_times(_shift(x, 1), -1), False), (_shift(x, -2), False)], x
        yield [(_times(_shift(x, -2), -1), False)], _shift(zero, 2)
    elif kind == "sign":
        yield [(x, True)], _shift(zero, -1)
        yield [(x, False), (_times(x, -1), False)], zero
        yield [(_times(x, -1), True)], _shift(zero, 1)
    else:
        assert kind == "floor"
        ends = [sorted((c * low, c * high)) for c, (low, high) in zip(x, box, strict=False)]
        low, high = (x[-1] + sum(end[side] for end in ends) for side in (0, 1))
        for k in range(math.floor(low), math.floor(high) + 1):
            yield [(_times(_shift(x, -k), -1), False), (_shift(x, -k - 1), True)], _shift(zero, k)


def _mix(form: Form, values: Sequence[Form]) -> Form:
    *coefficients, constant = form
    total = [F(0)] * len(values[0])
    for c, value in zip(coefficients, values, strict=True):
        if c:
            total = [t + c * v for t, v in zip(total, value, strict=True)]
    total[-1] += constant
    return total


def _add(a: Form, b: Form) -> Form:
    return [x + y for x, y in zip(a, b, strict=True)]


def _times(a: Form, factor: int | Fraction) -> Form:
    return [x * factor for x in a]


def _shift(a: Form, by: int) -> Form:
    return [*a[:-1], a[-1] + by]


def feasible(rows: Sequence[Row], box: Box) -> bool:
    """Whether a point of the box keeps all rows; strict rows by the most room they can all have."""
    n = len(box)
    lows = [low for low, _ in box]
    table: list[list[Fraction]] = []
    for form, strict in rows:  # in x − low ≥ 0 and the room
        base = form[-1] + sum(c * low for c, low in zip(form, lows, strict=False))
        table.append([*form[:-1], F(int(strict)), -base])
    for i, (low, high) in enumerate(box):
        table.append([*(F(int(i == j)) for j in range(n)), F(0), high - low])
    table.append([*([F(0)] * n), F(1), F(1)])
    best = _maximum(table, [F(0)] * n + [F(1)])
    return best is not None and (best > 0 or not any(strict for _, strict in rows))


def _maximum(table: list[list[Fraction]], goal: list[Fraction]) -> Fraction | None:
    """max goal·x over x ≥ 0, a·x ≤ b for every row (a…, b) of the table; None where there is no such x.

    The simplex method on a dictionary, by Bland's rule; an auxiliary variable finds the first vertex. The
    maximum is finite.
    """
    rows = [[*row[:-1], F(-1), row[-1]] for row in table]
    width = len(goal) + 1
    basis = list(range(width, width + len(rows)))
    free = list(range(width))
    first = [F(0)] * (width - 1) + [F(-1), F(0)]
    last = [*goal, F(0), F(0)]
    worst = min(range(len(rows)), key=lambda r: rows[r][-1])
    if rows[worst][-1] < 0:
        _pivot(rows, [first, last], basis, free, worst, width - 1)
        _climb(rows, first, last, basis, free)
        if first[-1] < 0:
            return None
    if width - 1 in basis:  # at zero: out with it
        at = basis.index(width - 1)
        column = next((c for c in range(width) if rows[at][c]), None)
        if column is not None:
            _pivot(rows, [first, last], basis, free, at, column)
    if width - 1 in free:
        gone = free.index(width - 1)
        for row in (*rows, last):
            row[gone] = F(0)
    _climb(rows, last, first, basis, free)
    return last[-1]


def _climb(
    rows: list[list[Fraction]], goal: list[Fraction], other: list[Fraction], basis: list[int], free: list[int]
) -> None:
    while True:
        columns = [c for c in range(len(free)) if goal[c] > 0]
        if not columns:
            return
        column = min(columns, key=lambda c: free[c])
        ratios = [(rows[r][-1] / rows[r][column], basis[r], r) for r in range(len(rows)) if rows[r][column] > 0]
        _pivot(rows, [goal, other], basis, free, min(ratios)[2], column)


def _pivot(
    rows: list[list[Fraction]], goals: list[list[Fraction]], basis: list[int], free: list[int], at: int, column: int
) -> None:
    """Row ``at``: basic + Σ a·free = b; solved for the free variable of ``column``."""
    pivot = rows[at][column]
    rows[at] = [v / pivot for v in rows[at]]
    rows[at][column] = 1 / pivot
    for r, row in enumerate(rows):
        if r != at and row[column]:
            factor = row[column]
            row[:] = [v - factor * p for v, p in zip(row, rows[at], strict=True)]
            row[column] = -factor * rows[at][column]
    for goal in goals:
        factor = goal[column]
        if factor:  # the goal's last entry is its value so far
            value = goal[-1] + factor * rows[at][-1]
            goal[:] = [v - factor * p for v, p in zip(goal, rows[at], strict=True)]
            goal[column] = -factor * rows[at][column]
            goal[-1] = value
    basis[at], free[column] = free[column], basis[at]


def evaluate(layers: Sequence[Layer], x: Sequence[Fraction]) -> list[Fraction]:
    """The outputs at a point."""
    values = list(x)
    for layer in layers:
        z = [
            sum((w * v for w, v in zip(column, values, strict=True)), b)
            for column, b in zip(zip(*layer.weight, strict=True), layer.bias, strict=True)
        ]
        values = _activated(layer.kind, z)
    return values


def _activated(kind: str, z: list[Fraction]) -> list[Fraction]:
    if kind == "max":
        return [max(z[i], z[i + 1]) for i in range(0, len(z), 2)]
    one = {
        "none": lambda v: v,
        "relu": lambda v: max(v, F(0)),
        "leaky": lambda v: v if v >= 0 else v / 4,
        "abs": abs,
        "clip": lambda v: min(max(v, F(-1)), F(2)),
        "sign": lambda v: F((v > 0) - (v < 0)),
        "floor": lambda v: F(math.floor(v)),
    }[kind]
    return [one(v) for v in z]


def corners(box: Box) -> Iterator[tuple[Fraction, ...]]:
    return itertools.product(*box)
