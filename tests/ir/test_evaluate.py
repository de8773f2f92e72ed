"""Exact evaluation of queries on given values."""

from __future__ import annotations

import numpy as np
import pytest

from verinn.io.vnnlib import parse_query
from verinn.ir.evaluate import holds
from verinn.ir.query import Query


def one(assertion: str, fast: bool = True) -> Query:
    text = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)\n(assert " + assertion + ")"
    return parse_query(text.encode(), "made", fast)


def two(assertion: str, dtype: str = "float32") -> Query:
    head = f"(vnnlib-version <2.0>)(declare-network f (declare-input X {dtype} [2])(declare-output Y {dtype} []))"
    return parse_query((head + f"(assert {assertion})").encode(), "made")


def at(x: float, y: float = 0.0, dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {"X": np.array([x, 0], dtype), "Y": np.array(y, np.float64)}


TENTH = float(np.float32(0.1))  # above 0.1
SEVEN_TENTHS = float(np.float32(0.7))  # below 0.7


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "assertion, x, expected",
    [
        ("(<= X_0 0.1)", TENTH, True),  # the scorer compares in float32
        ("(<= X_0 0.1)", float(np.nextafter(np.float32(0.1), np.float32(1))), False),
        ("(>= X_0 0.1)", TENTH, True),
        ("(>= X_0 0.1)", float(np.nextafter(np.float32(0.1), np.float32(0))), False),
        ("(>= X_0 0.7)", SEVEN_TENTHS, True),
        ("(<= X_0 0.7)", SEVEN_TENTHS, True),
        ("(< X_0 0.1)", TENTH, False),
        ("(> X_0 0.1)", TENTH, False),  # exactly true, false in float32: both are asked
        ("(= X_0 0.1)", TENTH, True),
        ("(<= X_0 0.5)", 0.5, True),
        ("(< X_0 0.5)", 0.5, False),
        ("(<= (* 1.0 X_0) 0.1)", TENTH, True),
        ("(<= (* 2.0 X_0) 0.2)", TENTH, False),  # not a plain bound: exact
        ("(<= (+ X_0 X_1) 0.1)", TENTH, False),
        ("(>= (- X_0) -0.1)", TENTH, True),
        ("(and (<= X_0 1.0) (>= X_0 0.1))", TENTH, True),
        ("(or (<= X_0 0.0) (>= X_0 0.2))", TENTH, False),
        ("(<= X_0 1e300)", 1e30, True),
    ],
)
def test_input_bounds(assertion: str, x: float, expected: bool, fast: bool) -> None:
    assert holds(one(assertion, fast), at(x)) is expected


@pytest.mark.parametrize("fast", [True, False])
def test_output_bounds_are_exact(fast: bool) -> None:
    query = one("(and (<= Y_0 0.1) (<= X_0 1.0))", fast)
    assert not holds(query, at(0, TENTH))
    # 0.1 as float64 is a little more than the decimal.
    assert not holds(query, at(0, 0.1))
    assert holds(query, at(0, np.nextafter(0.1, 0)))
    long = one("(and (<= Y_0 0.1000000000000000055511151231257827021181583404541015625) (<= X_0 1.0))", fast)
    assert holds(long, at(0, 0.1))


@pytest.mark.parametrize("dtype, expected", [("float32", True), ("real", True), ("float64", False)])
def test_only_single_precision_inputs_are_compared_in_float32(dtype: str, expected: bool) -> None:
    assert holds(two("(<= X[0] 0.1)", dtype), at(TENTH)) is expected


def test_polynomials_and_disequality() -> None:
    assert holds(two("(== (* X[0] Y) 6.0)"), at(2, 3))
    assert not holds(two("(!= (* X[0] Y) 6.0)"), at(2, 3))
    assert holds(two("(<= (* (- X[0] Y) (- X[0] Y)) 1.0)"), at(2, 3))
    assert not holds(two("(< (* (- X[0] Y) (- X[0] Y)) 1.0)"), at(2, 3))
    assert holds(two("(!= Y 0.0)"), at(0, 5e-324))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    assert not holds(two("(or (<= Y 0.0) (>= Y 0.0))"), at(0, value))
    assert not holds(two("(<= Y 0.0)"), at(value, -1))


def test_large_integers_are_exact() -> None:
    query = two("(<= X[0] 9007199254740992)", "int64")
    assert holds(query, {"X": np.array([2**53, 0]), "Y": np.array(0)})
    assert not holds(query, {"X": np.array([2**53 + 1, 0]), "Y": np.array(0)})


def test_wrong_values() -> None:
    with pytest.raises(KeyError):
        holds(two("(<= Y 0.0)"), {"X": np.zeros(2)})
    with pytest.raises(ValueError, match="X has 2 elements, not 3"):
        holds(two("(<= Y 0.0)"), {"X": np.zeros(3), "Y": np.zeros(())})


def test_rational_numbers_are_taken_exactly() -> None:
    from fractions import Fraction

    near = np.array([Fraction(7, 10) - Fraction(1, 10**30)], dtype=object)  # float64 holds neither
    point = {"X": np.zeros(2, np.float32), "Y": near}
    assert holds(one("(< Y_0 0.7)"), point)
    assert not holds(one("(>= Y_0 0.7)"), point)
    assert not holds(one("(>= (* 10.0 Y_0) 7.0)"), point)
    assert holds(one("(<= Y_0 0.7)", fast=False), point)
