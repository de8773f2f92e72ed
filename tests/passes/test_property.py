"""From queries to properties: rounding, empty boxes, rows, layout."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verinn.errors import Unsupported
from verinn.io.vnnlib import parse_query
from verinn.ir.prop import Case, Property
from verinn.passes.property import element_name, layout, to_property

HEAD = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)\n"


def prop(body: str, fast: bool = True) -> Property:
    return to_property(parse_query((HEAD + body).encode(), "made", fast))


def only(body: str, fast: bool = True) -> Case:
    (case,) = prop(body, fast).cases
    return case


DECIMALS = [
    "0.1", "0.7", "-0.1", "1e-06", "0.10000000149011612", "16777217", "0.5", "123456.789",
    "0.1000000014901161193847656250000001", "3.5e38", "-1e-50", "1.00000005960464477539",
]  # fmt: skip


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("text", DECIMALS)
def test_bounds_are_rounded_outward_and_witnesses_inward(text: str, fast: bool) -> None:
    exact = Fraction(text)
    with np.errstate(over="ignore"):
        single = float(np.float32(float(text)))
    upper = only(f"(assert (<= X_0 {text}))(assert (<= Y_0 0.0))", fast)
    assert Fraction(float(upper.upper[0])) >= exact
    assert upper.upper[0] >= single or np.isinf(single)
    assert upper.upper[0] <= max(np.nextafter(float(text), np.inf), single)
    witness = upper.witness_upper[0]
    assert Fraction(float(witness)) <= exact
    assert Fraction(float(np.nextafter(witness, np.float32(np.inf)))) > exact if np.isfinite(single) else True
    lower = only(f"(assert (>= X_0 {text}))(assert (<= Y_0 0.0))", fast)
    assert Fraction(float(lower.lower[0])) <= exact and lower.lower[0] <= single
    if np.isfinite(single):
        witness = lower.witness_lower[0]
        assert Fraction(float(witness)) >= exact
        assert Fraction(float(np.nextafter(witness, np.float32(-np.inf)))) < exact


@pytest.mark.parametrize("fast", [True, False])
def test_exact_bounds_are_not_widened(fast: bool) -> None:
    case = only("(assert (<= X_0 0.5))(assert (>= X_0 -3))(assert (<= X_1 0.0))(assert (>= X_1 -0.0009765625))", fast)
    assert case.lower.tolist() == [-3.0, -0.0009765625] and case.upper.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("fast", [True, False])
def test_a_point_that_is_no_float32(fast: bool) -> None:
    case = only("(assert (<= X_0 0.1))(assert (>= X_0 0.1))", fast)
    assert case.witness_lower[0] == case.witness_upper[0] == np.float32(0.1)
    assert case.lower[0] < 0.1 and case.upper[0] == np.float32(0.1)


def test_a_double_precision_input_has_no_float32_rounding() -> None:
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X float64 [1])(declare-output Y float64 [1]))"
    (case,) = to_property(parse_query((head + "(assert (<= X[0] 0.1))").encode(), "made")).cases
    assert case.upper[0] <= np.nextafter(0.1, 1)


@pytest.mark.parametrize(
    "body, empty",
    [
        ("(assert (<= X_0 0.0))(assert (>= X_0 1.0))", True),
        ("(assert (< X_0 0.5))(assert (>= X_0 0.5))", True),
        ("(assert (< X_0 0.1))(assert (> X_0 0.1))", True),
        ("(assert (< X_0 0.1))(assert (= X_0 0.1))", True),
        ("(assert (<= X_0 0.5))(assert (>= X_0 0.5))", False),
        ("(assert (< X_0 0.10000000000000000002))(assert (> X_0 0.10000000000000000001))", False),
        ("(assert (< X_0 0.10000000000000000001))(assert (> X_0 0.10000000000000000002))", True),
        ("(assert (<= (* 3.0 X_0) 1.0))(assert (> (* 3.0 X_0) 1.0))", True),
        ("(assert (or (and (<= X_0 0.0) (>= X_0 1.0)) (and (< X_1 0.5) (> X_1 0.5))))", True),
        ("(assert (<= X_0 0.0))(assert (or (and (>= X_0 1.0) (<= Y_0 0.0)) (>= X_0 2.0)))", True),
        ("(assert (or (<= 1.0 0.0) (< 2.0 2.0)))", True),
    ],
)
def test_empty_boxes(body: str, empty: bool) -> None:
    property = prop(body)
    assert (len(property.cases) == 0) is empty
    assert bool(property.warnings) is empty


def test_rows_of_outputs() -> None:
    case = only("(assert (and (<= Y_0 0.1) (>= Y_1 0.1) (<= X_0 1.0)))(assert (< (+ Y_0 (* 0.1 X_1)) (- Y_1 0.5)))")
    (rows,) = case.conjunctions
    assert rows.y.dense().tolist() == [[1, 0], [0, -1], [1, -1]]
    assert rows.x.dense().tolist() == [[0, 0], [0, 0], [0, 0.1]]
    assert rows.strict.tolist() == [False, False, True]
    assert rows.x_error is not None and rows.y_error is None
    error = rows.x_error.dense()[2, 1]
    assert Fraction(float(error)) >= abs(Fraction(0.1) - Fraction(1, 10)) > 0
    assert Fraction(float(rows.rhs[0])) >= Fraction(1, 10) and Fraction(float(rows.rhs[1])) >= Fraction(-1, 10)
    assert rows.rhs[2] == -0.5


def test_huge_coefficients_are_scaled() -> None:
    big = "1" + "0" * 300
    case = only(f"(assert (<= (+ (* {big} {big} Y_0) Y_1) {big}))")
    (rows,) = case.conjunctions
    assert np.isfinite(rows.y.value).all() and rows.y.value[0] > 0 and np.isfinite(rows.rhs).all()


def test_disjuncts_over_one_box_share_a_case() -> None:
    body = "(assert (<= X_0 1.0))(assert (or (<= Y_0 0.0) (<= Y_1 0.0) (and (<= X_0 1.0) (<= Y_0 Y_1))))"
    property = prop(body)
    assert [len(case.conjunctions) for case in property.cases] == [2, 1] or len(property.cases) == 1


def test_an_input_tied_to_another_gets_its_box() -> None:
    case = only("(assert (<= X_0 1.0))(assert (>= X_0 0.1))(assert (= X_0 X_1))(assert (<= Y_0 Y_1))")
    assert case.lower[1] <= 0.1 and case.upper[1] == 1.0
    assert np.isfinite(case.witness_lower).all() and np.isfinite(case.witness_upper).all()
    assert len(case.input_rows) == 2


def test_open_sides_stay_infinite() -> None:
    case = only("(assert (<= X_0 1.0))(assert (<= (+ X_0 X_1) 1.0))")
    assert np.isneginf(case.lower).all() and np.isinf(case.upper[1])
    assert case.upper[0] == 1.0


def test_layout() -> None:
    text = """(vnnlib-version <2.0>)
    (declare-network f (declare-input A float32 [2]) (declare-hidden Z float32 [3] "z") (declare-output B float32 []))
    (declare-network g (equal-to f) (declare-input C float32 [2]) (declare-output D float32 []))
    (assert (<= (+ A[1] C[0]) (+ B D Z[2])))"""
    query = parse_query(text.encode(), "made")
    where = layout(query)
    assert (where.n, where.m) == (4, 5)
    assert where.x("C") == slice(2, 4) and where.y("Z") == slice(0, 3) and where.y("D") == slice(4, 5)
    with pytest.raises(KeyError):
        where.x("D")
    (case,) = to_property(query).cases
    (rows,) = case.conjunctions
    assert rows.x.dense().tolist() == [[0, 1, 1, 0]] and rows.y.dense().tolist() == [[0, 0, -1, -1, -1]]
    assert element_name(query, 3) == "C[1]"


def test_text_is_not_a_number() -> None:
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X string [1])(declare-output Y real [1]))"
    with pytest.raises(Unsupported, match="of type string"):
        to_property(parse_query((head + "(assert (<= Y[0] 0.1))").encode(), "made"))
