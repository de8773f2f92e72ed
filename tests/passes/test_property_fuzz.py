"""Random formulas: text → query → values, and query → property, against direct evaluation."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from verinn.io.vnnlib import parse_query
from verinn.ir.evaluate import holds
from verinn.ir.prop import Case, Rows
from verinn.passes.property import to_property

N, M = 3, 2
NAMES = [f"X_{i}" for i in range(N)] + [f"Y_{j}" for j in range(M)]
HEAD = "".join(f"(declare-const {name} Real)\n" for name in NAMES)

# Constants are multiples of 1/4 and points of 1/8: no rounding, hence equality on the nose.
number = st.integers(-8, 8).map(lambda k: k / 4)
leaf = st.one_of(st.sampled_from(NAMES), number)


def compound(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.sampled_from("+-*"), st.lists(children, min_size=1, max_size=3)).map(lambda t: (t[0], *t[1]))


term = st.recursive(leaf, compound, max_leaves=5)
linear = st.one_of(
    leaf,
    st.lists(st.tuples(st.just("*"), number, st.sampled_from(NAMES)), min_size=1, max_size=3).map(lambda t: ("+", *t)),
)
RELATIONS = ["<=", "<", ">=", ">", "="]


def formulas(terms: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    atom = st.tuples(st.sampled_from(RELATIONS), terms, terms)
    bound = st.tuples(st.sampled_from(["<=", ">="]), st.sampled_from(NAMES), number)

    def connect(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        parts = st.lists(children, min_size=1, max_size=4)
        return st.tuples(st.sampled_from(["and", "or"]), parts).map(lambda t: (t[0], *t[1]))

    return st.recursive(st.one_of(bound, bound, atom), connect, max_leaves=12)


def write(node: Any) -> str:
    return f"({node[0]} {' '.join(map(write, node[1:]))})" if isinstance(node, tuple) else str(node)


def value(node: Any, point: dict[str, Fraction]) -> Any:
    """The number or the truth of a formula in nested tuples."""
    if isinstance(node, str):
        return point[node]
    if not isinstance(node, tuple):
        return Fraction(node)
    operator, *parts = node
    found = [value(part, point) for part in parts]
    match operator:
        case "and":
            return all(found)
        case "or":
            return any(found)
        case "+":
            return sum(found)
        case "-":
            return found[0] - sum(found[1:]) if len(found) > 1 else -found[0]
        case "*":
            return np.prod(np.array(found, dtype=object))
        case "<=":
            return found[0] <= found[1]
        case "<":
            return found[0] < found[1]
        case ">=":
            return found[0] >= found[1]
        case ">":
            return found[0] > found[1]
    return found[0] == found[1]


def points(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20, 21, (count, N + M)) / 8.0


@settings(max_examples=250, deadline=None)
@given(st.lists(formulas(term), min_size=1, max_size=3), st.integers(0, 2**32))
def test_reading_and_evaluating(assertions: list[Any], seed: int) -> None:
    text = HEAD + "\n".join(f"(assert {write(assertion)})" for assertion in assertions)
    fast, slow = (parse_query(text.encode(), "made", kind) for kind in (True, False))
    for point in points(seed, 12):
        exact = dict(zip(NAMES, map(Fraction, point.tolist()), strict=True))
        expected = all(value(assertion, exact) for assertion in assertions)
        values = {"X": point[:N], "Y": point[N:]}
        assert holds(fast, values) == expected
        assert holds(slow, values) == expected


def rows_hold(rows: Rows, x: np.ndarray, y: np.ndarray) -> bool:
    left = rows.x.dense() @ x + rows.y.dense() @ y
    return bool(np.where(rows.strict, left < rows.rhs, left <= rows.rhs).all())


def admits(case: Case, x: np.ndarray, y: np.ndarray) -> bool:
    inside = bool((case.lower <= x).all() and (x <= case.upper).all())
    return inside and rows_hold(case.input_rows, x, y) and any(rows_hold(r, x, y) for r in case.conjunctions)


def strict_edges(case: Case, x: np.ndarray) -> bool:
    """Boxes are closed: on the edge of a strict bound they admit more than the query."""
    return bool(((case.lower == x) | (x == case.upper)).any())


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.one_of(formulas(linear), formulas(term)), min_size=1, max_size=3),
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 1000]),
)
def test_the_property_is_the_query(assertions: list[Any], seed: int, cap: int) -> None:
    text = HEAD + "\n".join(f"(assert {write(assertion)})" for assertion in assertions)
    query = parse_query(text.encode(), "made")
    property = to_property(query, cap=cap)
    cases = list(property.cases)
    assert bool(property.limits) or all(case.exact for case in cases)
    for point in points(seed, 12):
        x, y = point[:N], point[N:]
        expected = holds(query, {"X": x, "Y": y})
        y = np.array([*y, *[np.prod(point[list(factors)]) for factors in property.products]])  # exact: few bits
        admitted = [case for case in cases if admits(case, x, y)]
        if expected:
            assert admitted
        elif admitted:
            assert not all(case.exact and not strict_edges(case, x) for case in admitted)
