"""Properties as the generators make them: written as VNN-LIB 1.0 or 2.0, and decided exactly for known outputs.

A property is a formula over the elements of named tensors; numbers are rationals that decimals can hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from verinn.audit.enclosure import Enclosure


@dataclass(frozen=True)
class Row:
    """Σ coefficient·element RELATION bound; an element is (tensor, flat number)."""

    terms: tuple[tuple[str, int, Fraction], ...]
    relation: str
    bound: Fraction


@dataclass(frozen=True)
class And:
    parts: tuple[Formula, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Formula, ...]


Formula = Row | And | Or


@dataclass(frozen=True)
class Tensor:
    """A declared input or output: its name in version 2.0 (in 1.0 it is X or Y), its shape, and whose it is."""

    name: str
    shape: tuple[int, ...]
    output: bool
    network: str = "f"
    onnx: str = ""  # the tensor's name in the model

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Query:
    """Declared tensors (inputs of a network before its outputs) and assertions, all of which must hold.

    ``kinship``: of networks in version 2.0, a line such as ``(equal-to f)``. ``comment``: the file's first line.
    """

    tensors: tuple[Tensor, ...]
    assertions: tuple[Formula, ...]
    version: str = "1.0"
    kinship: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""


def linear(coefficients: Mapping[tuple[str, int], Any], relation: str, bound: Any) -> Row:
    """A row from a mapping of elements to coefficients."""
    terms = tuple((name, index, Fraction(value)) for (name, index), value in coefficients.items())
    return Row(terms, relation, Fraction(bound))


def box(name: str, lower: Sequence[Any], upper: Sequence[Any]) -> list[Formula]:
    """Bounds on every element of a tensor."""
    rows: list[Formula] = []
    for index, (low, high) in enumerate(zip(lower, upper, strict=True)):
        rows += [linear({(name, index): 1}, ">=", low), linear({(name, index): 1}, "<=", high)]
    return rows


# -- text -----------------------------------------------------------------------------------------------


def decimal(value: Fraction) -> str:
    """The exact decimal, without an exponent. AssertionError when there is none."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    assert rest == 1, "no decimal holds the number exactly"
    places = max(twos, fives, 1)
    digits = str(abs(value.numerator) * (10**places // value.denominator)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def text(query: Query) -> str:
    """The file's content."""
    two = query.version != "1.0"
    lines = [f"; {query.comment}"] if query.comment else []
    tensors = {tensor.name: tensor for tensor in query.tensors}
    if two:
        lines += [f"(vnnlib-version <{query.version}>)", "", *_declarations(query)]
    else:
        for tensor in query.tensors:
            letter = "Y" if tensor.output else "X"
            lines += [f"(declare-const {letter}_{index} Real)" for index in range(tensor.size)]
    lines.append("")

    def element(name: str, index: int) -> str:
        tensor = tensors[name]
        if not two:
            return f"{'Y' if tensor.output else 'X'}_{index}"
        if not tensor.shape:
            return tensor.name
        place = ",".join(str(int(at)) for at in np.unravel_index(index, tensor.shape))
        return f"{tensor.name}[{place}]"

    lines += [f"(assert {_formula(part, element)})" for part in query.assertions]
    return "\n".join(lines) + "\n"


def _declarations(query: Query) -> list[str]:
    lines = []
    for network in dict.fromkeys(tensor.network for tensor in query.tensors):
        lines.append(f"(declare-network {network}")
        if network in query.kinship:
            lines.append(f"  {query.kinship[network]}")
        for tensor in query.tensors:
            if tensor.network == network:
                shape = ",".join(map(str, tensor.shape))
                lines.append(f"  (declare-{'output' if tensor.output else 'input'} {tensor.name} float32 [{shape}])")
        lines.append(")")
    return lines


def _formula(formula: Formula, element: Callable[[str, int], str]) -> str:
    if isinstance(formula, Row):
        return _row(formula, element)
    word = "and" if isinstance(formula, And) else "or"
    return f"({word} {' '.join(_formula(part, element) for part in formula.parts)})"


def _row(row: Row, element: Callable[[str, int], str]) -> str:
    """Two elements with coefficients 1 and -1 and no bound are compared directly."""
    coefficients = [value for _, _, value in row.terms]
    if coefficients == [1, -1] and row.bound == 0:
        (one, i, _), (other, j, _) = row.terms
        return f"({row.relation} {element(one, i)} {element(other, j)})"
    parts = [
        element(name, index) if value == 1 else f"(* {decimal(value)} {element(name, index)})"
        for name, index, value in row.terms
    ]
    left = parts[0] if len(parts) == 1 else f"(+ {' '.join(parts)})"
    return f"({row.relation} {left} {decimal(row.bound)})"


# -- meaning ----------------------------------------------------------------------------------------------


def holds(query: Query, values: Mapping[str, Enclosure]) -> bool | None:
    """Whether all assertions hold for values of all tensors; None where intervals leave it open."""
    flat = {name: (value.lo.reshape(-1), value.hi.reshape(-1)) for name, value in values.items()}
    return _all([_holds(part, flat) for part in query.assertions])


def _holds(formula: Formula, values: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bool | None:
    if isinstance(formula, And):
        return _all([_holds(part, values) for part in formula.parts])
    if isinstance(formula, Or):
        answers = [_holds(part, values) for part in formula.parts]
        return True if True in answers else None if None in answers else False
    low, high = reach(formula, values)
    if formula.relation == "==":
        return True if low == high == 0 else None if low <= 0 <= high else False
    if formula.relation in (">=", ">"):
        low, high = -high, -low
    strict = formula.relation in ("<", ">")
    if high < 0 or (high == 0 and not strict):
        return True
    return False if low > 0 or (low == 0 and strict) else None


def reach(row: Row, values: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Fraction, Fraction]:
    """Least and greatest value of the row's left side minus its bound."""
    low = high = -row.bound
    for name, index, coefficient in row.terms:
        ends = [coefficient * side[index] for side in values[name]]
        low, high = low + min(ends), high + max(ends)
    return low, high


def _all(answers: Sequence[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True
