"""A query's own formula, polynomials and all, over a network's exact formula."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from verinn.exact.encoding.builder import Builder
from verinn.exact.encoding.formula import ONE, All, Any, Comparison, Condition, Form, constant, mixed
from verinn.exact.rational import TooLarge
from verinn.ir.query import And, Atom, Bounds, Formula, Or, Relation

#: atoms of the largest formula that is translated
MOST_ATOMS = 20_000


def query_condition(builder: Builder, query: Formula, forms: Sequence[Form], rounded: Sequence[bool]) -> Condition:
    """What the query asks for. ``forms``: by scalar id; ``rounded``: whether a bound on it also holds when it
    holds against the float32 nearest the number written (inputs): then the wider of both is kept.

    A product of scalars is a variable of the formula. Raises TooLarge.
    """
    return _Reader(builder, forms, rounded).read(query)


class _Reader:
    def __init__(self, builder: Builder, forms: Sequence[Form], rounded: Sequence[bool]):
        self.builder, self.forms, self.rounded = builder, forms, rounded
        self.monomials: dict[tuple[int, ...], Form] = {(): constant(1)}
        self.atoms = 0

    def read(self, query: Formula) -> Condition:
        if isinstance(query, And | Or):
            parts = tuple(self.read(part) for part in query.parts)
            return All(parts) if isinstance(query, And) else Any(parts)
        self.atoms += len(query.index) if isinstance(query, Bounds) else 1
        if self.atoms > MOST_ATOMS:
            raise TooLarge("the query has too many atoms for an exact formula")
        return self._bounds(query) if isinstance(query, Bounds) else self._atom(query)

    def _bounds(self, bounds: Bounds) -> Condition:
        found = []
        for k, scalar in enumerate(bounds.index.tolist()):
            text = repr(float(bounds.value[k])) if bounds.text is None else bounds.text[k].decode()
            sign = Fraction(1 if bounds.upper[k] else -1)
            found.append(self._single(scalar, sign, Fraction(text)))
        return All(tuple(found))

    def _single(self, scalar: int, sign: Fraction, bound: Fraction) -> Comparison:
        """x ≤ bound, or −x ≤ −bound for the sign −1."""
        near = _float32(bound) if self.rounded[scalar] else bound
        bound = max(bound, near) if sign > 0 else min(bound, near)
        return Comparison((self.forms[scalar] * sign).shifted(-sign * bound), "<=")

    def _atom(self, atom: Atom) -> Condition:
        form = mixed([(coefficient, self._monomial(monomial)) for monomial, coefficient in atom.terms])
        if atom.relation is Relation.LT:
            return Comparison(form, "<")
        if atom.relation is Relation.NE:
            return Any((Comparison(form, "<"), Comparison(form * -ONE, "<")))
        single = self._single_bound(atom)
        if single is None:
            return Comparison(form, "<=" if atom.relation is Relation.LE else "==")
        scalar, sign, bound = single
        if atom.relation is Relation.LE:
            return self._single(scalar, sign, bound)
        return All((self._single(scalar, ONE, bound), self._single(scalar, -ONE, bound)))

    def _single_bound(self, atom: Atom) -> tuple[int, Fraction, Fraction] | None:
        """(scalar, ±1, bound) of an atom ±(x − bound) REL 0 over a scalar whose bounds are rounded."""
        terms = [(monomial, value) for monomial, value in atom.terms if monomial]
        if len(terms) != 1 or len(terms[0][0]) != 1:
            return None
        (scalar,), factor = terms[0]
        if abs(factor) != 1 or not self.rounded[scalar]:
            return None
        rest = sum((value for monomial, value in atom.terms if not monomial), Fraction(0))
        return scalar, factor, -rest / factor

    def _monomial(self, monomial: tuple[int, ...]) -> Form:
        """A product of scalars; products of its leading parts are shared."""
        if monomial not in self.monomials:
            last = self.forms[monomial[-1]]
            name = f"monomial{len(self.monomials)}"
            self.monomials[monomial] = (
                last if len(monomial) == 1 else self.builder.product(name, self._monomial(monomial[:-1]), last)
            )
        return self.monomials[monomial]


def _float32(value: Fraction) -> Fraction:
    try:
        with np.errstate(over="ignore"):
            near = float(np.float32(float(value)))
    except OverflowError:
        return value
    return Fraction(near) if np.isfinite(near) else value
