"""A network as an exact formula over real variables, whichever solver will read it.

Everything is a conjunction of: linear facts; choices (one of a few conjunctions of linear comparisons must
hold, which is what a ReLU, a maximum or a sign means); products of two variables; curves y = f(x) that no
linear arithmetic can say. All numbers are fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from verinn.ir.graph import Node

ZERO, ONE = Fraction(0), Fraction(1)

#: a real interval; None: no end
Range = tuple[Fraction | None, Fraction | None]

#: a nonlinear element: the name of its node and its place, row-major
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Form:
    """Σ terms[v]·v + const over variables by number; no coefficient is zero."""

    terms: Mapping[int, Fraction]
    const: Fraction = ZERO

    @property
    def constant(self) -> bool:
        return not self.terms

    @property
    def single(self) -> bool:
        """Whether this is a variable, alone and as it is, or a constant."""
        return not self.terms or (len(self.terms) == 1 and self.const == 0 and next(iter(self.terms.values())) == 1)

    def __add__(self, other: Form) -> Form:
        return mixed([(ONE, self), (ONE, other)])

    def __sub__(self, other: Form) -> Form:
        return mixed([(ONE, self), (-ONE, other)])

    def __mul__(self, factor: Fraction) -> Form:
        if factor == 1:
            return self
        if factor == 0:
            return constant(ZERO)
        return Form({v: c * factor for v, c in self.terms.items()}, self.const * factor)

    def shifted(self, offset: Fraction) -> Form:
        """The form plus a number."""
        return Form(self.terms, self.const + offset) if offset else self

    def at(self, point: Sequence[Fraction]) -> Fraction:
        """The value where variable v is ``point[v]``."""
        return sum((c * point[v] for v, c in self.terms.items()), self.const)


def constant(value: Fraction | int) -> Form:
    return Form({}, Fraction(value))


def variable(number: int) -> Form:
    return Form({number: ONE})


def mixed(parts: Iterable[tuple[Fraction, Form]], const: Fraction = ZERO) -> Form:
    """Σ factor·form + const."""
    terms: dict[int, Fraction] = {}
    for factor, form in parts:
        if not factor:
            continue
        if form.const:
            const += factor * form.const
        for v, c in form.terms.items():
            product = factor if c == 1 else factor * c
            terms[v] = terms[v] + product if v in terms else product
    return Form({v: c for v, c in terms.items() if c}, const)


@dataclass(frozen=True, slots=True)
class Comparison:
    """``form`` REL 0; the relation is "<=", "<" or "=="."""

    form: Form
    relation: str

    def holds(self, point: Sequence[Fraction]) -> bool:
        value = self.form.at(point)
        return value <= 0 if self.relation == "<=" else value < 0 if self.relation == "<" else value == 0


def at_most(form: Form, other: Form) -> Comparison:
    return Comparison(form - other, "<=")


def below(form: Form, other: Form) -> Comparison:
    return Comparison(form - other, "<")


def equal(form: Form, other: Form) -> Comparison:
    return Comparison(form - other, "==")


@dataclass(frozen=True)
class All:
    """A conjunction; without parts it holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Any:
    """A disjunction; without parts it does not hold."""

    parts: tuple[Condition, ...]


Condition = All | Any | Comparison


@dataclass(frozen=True)
class Variable:
    """A real (or ``integer``) variable and its range, which holds wherever the rest does."""

    name: str
    lower: Fraction | None = None
    upper: Fraction | None = None
    integer: bool = False


@dataclass(frozen=True)
class Choice:
    """One of the pieces holds. Piece k of an element is its phase k; pieces that can't be are left out:
    ``phases`` says which those that are left are."""

    key: Key
    phases: tuple[int, ...]
    pieces: tuple[tuple[Comparison, ...], ...]


@dataclass(frozen=True)
class Product:
    """result = left · right, all variables."""

    result: int
    left: int
    right: int


@dataclass(frozen=True, eq=False)
class Curve:
    """y = f(x) for the elementwise operator of ``node``; x and y are variables, x in ``lower`` to ``upper``
    (floats, maybe infinite). ``element``: its place in the node's value."""

    node: Node
    element: int
    x: int
    y: int
    lower: float
    upper: float

    @property
    def key(self) -> Key:
        return self.node.name, self.element


@dataclass(frozen=True, eq=False)
class Formula:
    """All of it must hold. ``weak`` facts follow from the rest; they only help.

    It may admit more than the network does (weights that are known to an interval only, curves): a refutation
    holds, a solution has to be replayed, as it has to be anyway.
    """

    variables: tuple[Variable, ...]
    facts: tuple[Comparison, ...]
    weak: tuple[Comparison, ...]
    choices: tuple[Choice, ...]
    conditions: tuple[Condition, ...]
    products: tuple[Product, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True, eq=False)
class Encoding:
    """A formula, and where the graph's values are in it.

    ``values``: by name an object array (elements,) of forms, row-major. ``inputs``: the variables of x, all
    inputs of the graph side by side. ``ranges``: float64 ends (elements,) of values by name, where known.
    """

    formula: Formula
    values: Mapping[str, np.ndarray]
    inputs: tuple[int, ...]
    ranges: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
