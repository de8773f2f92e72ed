"""Deep, long and exploding files, made here: none may overflow, hang or be cut short."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from verinn.errors import InputError, Unsupported
from verinn.io.vnnlib import parse_query
from verinn.io.vnnlib.formula import MAX_DEPTH
from verinn.ir.evaluate import holds
from verinn.ir.query import And, Atom, Bounds, Formula, Or, Query, Relation
from verinn.passes.property import to_property

HEADER = "(vnnlib-version <2.0>)\n(declare-network f (declare-input X real [2,3]) (declare-output Y real [4]))\n"
DEEP = 100_000


def query_of(formula: str) -> Query:
    return parse_query((HEADER + f"(assert {formula})\n").encode(), "made")


def values(y: float) -> dict[str, np.ndarray]:
    return {"X": np.zeros((2, 3), np.float32), "Y": np.full(4, y, np.float32)}


def test_deep_single_connectives() -> None:
    query = query_of("(and " * DEEP + "(<= Y[0] 1.0)" + ")" * DEEP)
    assert holds(query, values(1)) and not holds(query, values(2))


def test_deep_alternation() -> None:
    half, tenth = DEEP // 2, DEEP // 10
    query = query_of("(or (<= Y[0] 0.0) (and (<= Y[1] 1.0) " * half + "(<= Y[2] -5.0)" + "))" * half)
    assert holds(query, values(-1)) and not holds(query, values(0.5))
    query = query_of("(or (<= Y[0] 0.0) (and (<= Y[1] 1.0) " * tenth + "(<= Y[2] -5.0)" + "))" * tenth)
    property = to_property(query, cap=1000)
    assert property.limits and not all(case.exact for case in property.cases)


@pytest.mark.parametrize("nest", ["(and (<= Y[0] 1.0) ", "(or (>= Y[0] 3.0) "])
def test_deep_lists(nest: str) -> None:
    query = query_of(nest * DEEP + "(<= Y[0] 1.0)" + ")" * DEEP)
    assert holds(query, values(1)) and not holds(query, values(2))
    tenth = DEEP // 10
    property = to_property(query_of(nest * tenth + "(<= Y[0] 1.0)" + ")" * tenth))
    assert not property.limits and len(property.cases) == 1


@pytest.mark.parametrize("nest", ["(- ", "(+ 1.0 ", "(* 1.0 ", "(- 1.0 "])
def test_deep_terms(nest: str) -> None:
    query = query_of("(<= " + nest * DEEP + "Y[0]" + ")" * DEEP + " 0.0)")
    assert isinstance(query.formula, Atom)
    assert len(query.formula.terms) <= 2


def test_too_deep() -> None:
    with pytest.raises(InputError, match="nested deeper than"):
        query_of("(and " * (MAX_DEPTH + 1) + "(<= Y[0] 1.0)" + ")" * (MAX_DEPTH + 1))


def test_unclosed_deep() -> None:
    with pytest.raises(InputError, match="ends inside the assertion"):
        parse_query((HEADER + "(assert " + "(and " * DEEP).encode(), "made")


def test_exploding_normal_form_keeps_every_disjunct() -> None:
    query = query_of("(and " + " ".join("(or (<= Y[0] 0.0) (>= Y[1] 1.0))" for _ in range(60)) + ")")
    property = to_property(query, cap=1000)
    assert property.limits
    (case,) = property.cases
    assert not case.exact and 2 <= len(case.conjunctions) <= 1000


def test_exploding_disequalities() -> None:
    query = query_of("(and " + " ".join(f"(!= Y[0] {i}.0)" for i in range(200)) + ")")
    property = to_property(query, cap=1000)
    assert property.limits and not any(case.exact for case in property.cases)


def test_exploding_product_of_sums() -> None:
    with pytest.raises(Unsupported, match="too many different products"):
        query_of("(<= (* " + " ".join("(+ Y[0] Y[1] Y[2] Y[3] X[0,0] X[1,2] 1.0)" for _ in range(40)) + ") 0.0)")


def test_exploding_constant() -> None:
    with pytest.raises(Unsupported, match="grows beyond any use"):
        query_of("(<= " + "(* 1.7 " * DEEP + "Y[0]" + ")" * DEEP + " 0.0)")


def flatten(formula: Formula) -> Formula:
    """Bounds as single atoms, connectives of one kind merged: what fast and slow reading share."""
    if isinstance(formula, Atom):
        return formula
    if isinstance(formula, Bounds):
        atoms = []
        for k, (index, upper) in enumerate(zip(formula.index.tolist(), formula.upper.tolist(), strict=True)):
            word = formula.text[k].decode() if formula.text is not None else repr(float(formula.value[k]))
            assert float(word) == formula.value[k]
            sign = 1 if upper else -1
            terms = {(index,): Fraction(sign), (): -sign * Fraction(word)}
            atoms.append(Atom(tuple(sorted((m, v) for m, v in terms.items() if v)), Relation.LE))
        return atoms[0] if len(atoms) == 1 else And(tuple(atoms))
    parts: list[Formula] = []
    for part in map(flatten, formula.parts):
        parts.extend(part.parts if type(part) is type(formula) else [part])
    return parts[0] if len(parts) == 1 else type(formula)(tuple(parts))


NUMBERS = [
    "0.5", "1", "-3", "0.1", "-0.10000000149011612", "1e-06", "-2.5E+3", "123456789.25", "0.0",
    "3.14159265358979323846264338327950288", "0.00001525878906250",
]  # fmt: skip


def _bound(rng: random.Random, name: str) -> str:
    number = rng.choice([*NUMBERS, repr(rng.gauss(0, 1))])
    return rng.choice(["({} {} {})", "( {}\t{}\n{} )"]).format(rng.choice(["<=", ">="]), name, number)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_fast_and_slow_reading_agree(version: str, seed: int) -> None:
    rng = random.Random(seed)
    if version == "1.0":
        names = [f"X_{i}" for i in range(12)] + ["Y_0", "Y_1"]
        text = "".join(f"(declare-const {name} Real)\n" for name in names)
    else:
        names = [f"X[{i},{j}]" for i in range(2) for j in range(3)] + [f"Y[{i}]" for i in range(4)]
        text = HEADER
    for _ in range(60):
        match rng.randrange(5):
            case 0:
                text += "".join(f"(assert {_bound(rng, rng.choice(names))}) ; (assert\n" for _ in range(20))
            case 1:
                disjuncts = (" ".join(_bound(rng, rng.choice(names)) for _ in range(8)) for _ in range(5))
                text += "(assert (or " + "\n".join(f"(and {disjunct})" for disjunct in disjuncts) + "))\n"
            case 2:
                text += f"(assert (<= (+ {rng.choice(names)} (* 2.0 {rng.choice(names)})) {rng.choice(names)}))\n"
            case 3:
                text += f"(assert(< {rng.choice(names)} 0.25))(assert (>= 1.5 {rng.choice(names)}))"
            case _:
                text += (
                    f"(assert (and {_bound(rng, names[0])} (or {_bound(rng, names[1])} (<= {names[2]} {names[3]}))))"
                )
    fast, slow = parse_query(text.encode(), "made"), parse_query(text.encode(), "made", fast=False)
    assert fast.networks == slow.networks
    assert flatten(fast.formula) == flatten(slow.formula)
    assert sorted(w.split(": ")[1] for w in fast.warnings) == sorted(w.split(": ")[1] for w in slow.warnings)


@pytest.mark.parametrize(
    "bad",
    ["(assert (<= X_1 0.5 0.6))", "(assert (<= X_99 0.5))", "(assert (<= X_1 1e999))", "(assert (<= X_1))", "assert"],
)
@pytest.mark.parametrize("line", [0, 7, 5000])
def test_nothing_in_a_long_run_is_skipped(bad: str, line: int) -> None:
    lines = [f"(assert (<= X_{i % 50} 0.5))" for i in range(10_000)]
    lines[line] = bad
    head = "".join(f"(declare-const X_{i} Real)" for i in range(50)) + "(declare-const Y_0 Real)\n"
    for fast in (True, False):
        with pytest.raises(InputError, match=f"^made: line {line + 2}:"):
            parse_query((head + "\n".join(lines)).encode(), "made", fast)


def test_a_wide_box() -> None:
    n = 30_000
    rng = np.random.default_rng(1)
    low = rng.normal(size=n)
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(n)) + "(declare-const Y_0 Real)\n"
    text += "".join(f"(assert (>= X_{i} {v!r}))(assert (<= X_{i} {v + 0.5!r}))\n" for i, v in enumerate(low.tolist()))
    query = parse_query((text + "(assert (<= Y_0 0.0))").encode(), "made")
    (case,) = to_property(query).cases
    assert (case.lower <= low).all() and (case.upper >= low + 0.5).all()
    assert np.allclose(case.lower, low, atol=1e-6) and np.allclose(case.upper, low + 0.5, atol=1e-6)
    assert holds(query, {"X": case.witness_lower, "Y": np.zeros(1)})
    assert holds(query, {"X": case.witness_upper, "Y": np.zeros(1)})
    outside = case.witness_upper.copy()
    outside[-1] += 0.1
    assert not holds(query, {"X": outside, "Y": np.zeros(1)})


def test_many_boxes() -> None:
    boxes = 3000
    text = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(assert (or\n"
    for k in range(boxes):
        text += f"(and (>= X_0 {k}.0) (<= X_0 {k}.5) (>= X_1 0.0) (<= X_1 1.0) (<= Y_0 {k}.0))\n"
        text += f"(and (>= X_0 {k}.0) (<= X_0 {k}.5) (>= X_1 0.0) (<= X_1 1.0) (>= Y_0 {k + 1}.0))\n"
    property = to_property(parse_query((text + "))").encode(), "made"))
    assert len(property.cases) == boxes
    case = property.cases[1234]
    assert case.lower.tolist() == [1234, 0] and case.upper.tolist() == [1234.5, 1]
    assert [rows.rhs.tolist() for rows in case.conjunctions] == [[1234], [-1235]]
    assert isinstance(parse_query((text + "))").encode(), "made").formula, Or)
