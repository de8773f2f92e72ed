"""Does an assignment fulfil a query? Exact evaluation of the formula as written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction

import numpy as np

from verinn.ir.query import And, Atom, Bounds, Formula, Kind, Or, Query, Relation

_ROUNDED = ("real", "float32")


def holds(query: Query, values: Mapping[str, np.ndarray], assuming: Collection[Kind] = ()) -> bool:
    """Whether the formula of ``query`` is true when each declared variable has the value given.

    ``values`` maps every variable's name to an array with as many elements as the variable (row-major);
    the numbers, which may be Fractions, are taken exactly as they are. Arithmetic is rational, so strictness and
    equality are exact. Only bounds on a single input of type real or float32 (`<= X c` with coefficient 1 or -1)
    are read as the competition's scorer reads them, comparing in float32: `<=`, `>=` and `==` hold when
    they hold exactly or against the float32 nearest c; `<`, `>` and `!=` must hold both ways.

    ``assuming``: what speaks of a variable of these kinds counts as true. A value that is not finite, of a
    variable of another kind, makes the result False. Raises KeyError for a missing variable and
    ValueError for one of the wrong size.
    """
    point = _Point(query, values, assuming)
    return point.finite and _evaluate(query.formula, point)


class _Point:
    """The values of all scalars by scalar id."""

    def __init__(self, query: Query, values: Mapping[str, np.ndarray], assuming: Collection[Kind]):
        self.assumed = np.zeros(sum(variable.size for variable in query.variables), bool)
        arrays: list[np.ndarray] = []
        single: list[np.ndarray] = []
        self.large: dict[int, Fraction] = {}  # numbers that float64 does not hold
        for variable in query.variables:
            array = np.asarray(values[variable.name]).reshape(-1)
            if array.size != variable.size:
                raise ValueError(f"{variable.name} has {variable.size} elements, not {array.size}")
            if array.dtype.kind in "iuO":
                for k in _unheld(array):
                    self.large[variable.start + int(k)] = Fraction(array.item(int(k)))
            arrays.append(array.astype(np.float64))
            self.assumed[variable.start : variable.start + variable.size] = variable.kind in assuming
            rounded = variable.kind is Kind.INPUT and variable.dtype in _ROUNDED
            single.append(np.full(variable.size, rounded))
        self.values = np.concatenate(arrays)
        self.single = np.concatenate(single)
        self.finite = bool(np.isfinite(self.values[~self.assumed]).all())

    def exact(self, scalar: int) -> Fraction:
        if scalar in self.large:
            return self.large[scalar]
        return Fraction(float(self.values[scalar]))


def _unheld(array: np.ndarray) -> np.ndarray:
    """The places of integers, or of rational numbers, that float64 does not hold."""
    if array.dtype.kind == "O":
        return np.flatnonzero([Fraction(float(number)) != number for number in array])
    return np.flatnonzero(np.abs(array.astype(np.float64)) >= 2.0**53)


def _evaluate(formula: Formula, point: _Point) -> bool:
    """Walks the tree with a stack; parts that can't change the result any more are not visited."""
    stack: list[tuple[And | Or, int]] = []
    node: Formula | None = formula
    result = False
    while True:
        if isinstance(node, (And, Or)):
            stack.append((node, 1))
            node = node.parts[0]
            continue
        if node is not None:
            result = _bounds_hold(node, point) if isinstance(node, Bounds) else _atom_holds(node, point)
        if not stack:
            return result
        parent, taken = stack.pop()
        settled = result == isinstance(parent, Or)
        if settled or taken == len(parent.parts):
            node = None
        else:
            stack.append((parent, taken + 1))
            node = parent.parts[taken]


def _bounds_hold(bounds: Bounds, point: _Point) -> bool:
    """All bounds of an array at once.

    The decimal d has the nearest float64 v: a float64 x below (above) v is below (above) d, so only
    x = v needs the decimal itself.
    """
    x = point.values[bounds.index]
    sign = np.where(bounds.upper, 1.0, -1.0)
    x, v = sign * x, sign * bounds.value
    good = x < v
    single = point.single[bounds.index]
    with np.errstate(over="ignore"):
        good |= single & (x <= v.astype(np.float32).astype(np.float64))
    if point.large:
        for k in np.flatnonzero(np.isin(bounds.index, list(point.large))):
            difference = point.exact(int(bounds.index[k])) - _decimal(bounds, int(k))
            good[k] = (difference <= 0) if bounds.upper[k] else (difference >= 0)
    good |= point.assumed[bounds.index]
    if (~good & (x != v)).any():
        return False
    for k in np.flatnonzero(~good):
        difference = point.exact(int(bounds.index[k])) - _decimal(bounds, int(k))
        if difference > 0 if bounds.upper[k] else difference < 0:
            return False
    return True


def _decimal(bounds: Bounds, k: int) -> Fraction:
    if bounds.text is not None:
        return Fraction(bounds.text[k].decode())
    return Fraction(repr(float(bounds.value[k])))


def _atom_holds(atom: Atom, point: _Point) -> bool:
    if any(point.assumed[scalar] for monomial, _ in atom.terms for scalar in monomial):
        return True
    total = Fraction(0)
    for monomial, coefficient in atom.terms:
        for scalar in monomial:
            coefficient *= point.exact(scalar)
        total += coefficient
    exactly = _compare(total, atom.relation)
    bound = _single_bound(atom, point)
    if bound is None:
        return exactly
    scalar, factor, constant = bound
    rounded = _compare(factor * (point.exact(scalar) - constant), atom.relation)
    if atom.relation in (Relation.LT, Relation.NE):
        return exactly and rounded
    return exactly or rounded


def _single_bound(atom: Atom, point: _Point) -> tuple[int, Fraction, Fraction] | None:
    """(x, ±1, float32 of c) when the atom says ±(x - c) REL 0 of an input compared in float32."""
    terms = [(monomial, value) for monomial, value in atom.terms if monomial]
    if len(terms) != 1 or len(terms[0][0]) != 1:
        return None
    (scalar,), factor = terms[0]
    if abs(factor) != 1 or not point.single[scalar]:
        return None
    constant = sum((value for monomial, value in atom.terms if not monomial), Fraction(0))
    try:
        with np.errstate(over="ignore"):
            rounded = float(np.float32(float(-constant / factor)))
    except OverflowError:
        return None
    return (scalar, factor, Fraction(rounded)) if np.isfinite(rounded) else None


def _compare(value: Fraction, relation: Relation) -> bool:
    if relation is Relation.LE:
        return value <= 0
    if relation is Relation.LT:
        return value < 0
    return (value == 0) == (relation is Relation.EQ)


__all__ = ["holds"]
