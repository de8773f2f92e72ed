"""What a violation of one case of a property is, over a network's formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinn.exact.encoding.builder import Builder
from verinn.exact.encoding.encode import Draft
from verinn.exact.encoding.formula import All, Any, Comparison, Condition, Form, constant, mixed
from verinn.ir.prop import Case, Rows, SparseMatrix


@dataclass(frozen=True)
class Goal:
    """``condition``: a violation of the case (its box is in the formula already). ``margin``: a variable ≥ 0 that
    every output row leaves at least as room, times the row's size: to ask for a point well inside."""

    condition: Condition
    margin: int


def goal_of(draft: Draft, case: Case) -> Goal:
    """A violation: all input rows, and all rows of one conjunction.

    Coefficients that are known to an interval only weaken their row by what they can make of it; where a
    value has no end the row is left out.
    """
    builder = draft.builder
    margin = builder.fresh("margin", (Fraction(0), None))
    x, y = draft.x, draft.y
    inputs = _rows(builder, case.input_rows, x, y, None)
    ways = [All(tuple(_rows(builder, rows, x, y, margin))) for rows in case.conjunctions]
    (number,) = margin.terms
    return Goal(All((*inputs, Any(tuple(ways)))), number)


def _rows(builder: Builder, rows: Rows, x: Sequence[Form], y: Sequence[Form], margin: Form | None) -> list[Comparison]:
    found = []
    for k in range(len(rows)):
        parts = [*_entries(rows.x, k, x), *_entries(rows.y, k, y)]
        loss = Fraction(0)
        known = True
        for errors, forms in ((rows.x_error, x), (rows.y_error, y)):
            for error, form in _entries(errors, k, forms) if errors is not None else []:
                low, high = builder.range_of(form)
                if low is None or high is None:
                    known = False
                    break
                loss += abs(error) * max(abs(low), abs(high))
        if not known or not np.isfinite(rows.rhs[k]):
            if rows.rhs[k] == -np.inf:
                found.append(Comparison(constant(1), "<="))
            continue
        form = mixed(parts, -Fraction(float(rows.rhs[k])) - loss)
        if margin is not None:
            size = max((abs(c) for c, _ in parts), default=Fraction(1))
            form = form + margin * size
        found.append(Comparison(form, "<" if rows.strict[k] else "<="))
    return found


def _entries(matrix: SparseMatrix, row: int, forms: Sequence[Form]) -> list[tuple[Fraction, Form]]:
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    pairs = zip(matrix.index[part].tolist(), matrix.value[part].tolist(), strict=True)
    return [(Fraction(value), forms[i]) for i, value in pairs]


def within(forms: Sequence[Form], lower: Sequence[Fraction | float], upper: Sequence[Fraction | float]) -> Condition:
    """Every form between its ends; an infinite end is none."""
    found = []
    for form, low, high in zip(forms, lower, upper, strict=True):
        if not (isinstance(low, float) and np.isinf(low)):
            found.append(Comparison((form * Fraction(-1)).shifted(Fraction(low)), "<="))
        if not (isinstance(high, float) and np.isinf(high)):
            found.append(Comparison(form.shifted(-Fraction(high)), "<="))
    return All(tuple(found))


def outside(
    forms: Sequence[Form], lower: Sequence[Fraction | float], upper: Sequence[Fraction | float]
) -> list[Comparison]:
    """Ways to be outside of a box: some form strictly beyond one of its ends."""
    found = []
    for form, low, high in zip(forms, lower, upper, strict=True):
        if not (isinstance(low, float) and np.isinf(low)):
            found.append(Comparison(form.shifted(-Fraction(low)), "<"))
        if not (isinstance(high, float) and np.isinf(high)):
            found.append(Comparison((form * Fraction(-1)).shifted(Fraction(high)), "<"))
    return found


def on_grid(
    builder: Builder, forms: Sequence[Form], steps: Sequence[Fraction], offsets: Sequence[Fraction]
) -> Condition:
    """Every form is offset + k·step for an integer k."""
    found = []
    for i, (form, step, offset) in enumerate(zip(forms, steps, offsets, strict=True)):
        k = builder.fresh(f"grid[{i}]", integer=True)
        found.append(Comparison(mixed([(Fraction(1), form), (-Fraction(step), k)], -Fraction(offset)), "=="))
    return All(tuple(found))


__all__ = ["Goal", "goal_of", "on_grid", "outside", "within"]
