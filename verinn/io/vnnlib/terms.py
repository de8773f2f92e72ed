"""Polynomials over scalar ids, built bottom-up from the arithmetic of a VNN-LIB formula.

A polynomial is a mapping from monomials to coefficients, times a scale: so that a negation, or a
product with a constant, costs nothing however deep it is nested, and a sum moves only its smaller side.
"""

from __future__ import annotations

from fractions import Fraction

from verinn.ir.query import Atom, Relation

Monomial = tuple[int, ...]
MAX_MONOMIALS = 100_000  # of one product; a product of sums can grow beyond any memory
MAX_DEGREE = 1000
MAX_BITS = 16_384  # of a coefficient's numerator or denominator
ONE = Fraction(1)
_MINUS_ONE = Fraction(-1)


class TooLarge(ValueError):
    """A polynomial outgrew the limits above."""


class Term:
    """A polynomial, the type of its variables, and how its constants were written."""

    __slots__ = ("decimals", "dtype", "integers", "parts", "scale")

    def __init__(
        self, parts: dict[Monomial, Fraction], dtype: str = "", integers: bool = False, decimals: bool = False
    ):
        self.parts = parts
        self.scale = ONE
        self.dtype = dtype
        self.integers = integers
        self.decimals = decimals

    def constant(self) -> Fraction | None:
        """The value when no variable occurs."""
        if not self.parts:
            return Fraction(0)
        if len(self.parts) == 1 and () in self.parts:
            return self.parts[()] * self.scale
        return None


def negate(term: Term) -> Term:
    term.scale = _MINUS_ONE if term.scale is ONE else -term.scale
    return term


def _join(into: Term, other: Term) -> None:
    into.dtype = into.dtype or other.dtype
    into.integers |= other.integers
    into.decimals |= other.decimals


def _check(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("a constant expression grows beyond any use")
    return value


def add(left: Term, right: Term) -> Term:
    """left + right; both are used up. Raises TooLarge."""
    if len(right.parts) > len(left.parts):
        left, right = right, left
    _join(left, right)
    parts = left.parts
    same = right.scale is left.scale
    factor = ONE if same else _check(right.scale / left.scale)
    for monomial, value in right.parts.items():
        moved = value if same else _check(value * factor)
        old = parts.get(monomial)
        if old is None:
            parts[monomial] = moved
        elif old + moved:
            parts[monomial] = _check(old + moved)
        else:
            del parts[monomial]
    return left


def multiply(left: Term, right: Term) -> Term:
    """left · right; both are used up. Raises TooLarge."""
    for term, other in ((left, right), (right, left)):
        value = term.constant()
        if value is not None:
            _join(other, term)
            if value:
                other.scale = _check(other.scale * value)
            else:
                other.parts, other.scale = {}, ONE
            return other
    if len(left.parts) * len(right.parts) > MAX_MONOMIALS:
        raise TooLarge("a product of sums has too many different products")
    parts: dict[Monomial, Fraction] = {}
    for first, a in left.parts.items():
        for second, b in right.parts.items():
            monomial = tuple(sorted(first + second))
            if len(monomial) > MAX_DEGREE:
                raise TooLarge(f"a product has a degree above {MAX_DEGREE}")
            parts[monomial] = _check(parts.get(monomial, 0) + a * b)
    _join(left, right)
    left.parts = {monomial: value for monomial, value in parts.items() if value}
    left.scale = _check(left.scale * right.scale)
    return left


_RELATIONS = {
    b"<=": (Relation.LE, False), b">=": (Relation.LE, True),
    b"<": (Relation.LT, False), b">": (Relation.LT, True),
    b"==": (Relation.EQ, False), b"=": (Relation.EQ, False), b"!=": (Relation.NE, False),
}  # fmt: skip
COMPARISONS = frozenset(_RELATIONS)


def compare(operator: bytes, left: Term, right: Term) -> Atom:
    """left OP right as polynomial REL 0. Raises TooLarge."""
    relation, swap = _RELATIONS[operator]
    if swap:
        left, right = right, left
    if left.scale is ONE and right.scale is ONE and len(left.parts) <= 1 and len(right.parts) <= 1:
        plain = _compare_plain(left.parts, right.parts)
        if plain is not None:
            return Atom(plain, relation)
    term = add(left, negate(right)) if len(left.parts) >= len(right.parts) else add(negate(right), left)
    scale = term.scale
    parts = term.parts if scale == 1 else {m: _check(v * scale) for m, v in term.parts.items() if scale}
    return Atom(tuple(sorted(parts.items())), relation)


def _compare_plain(
    left: dict[Monomial, Fraction], right: dict[Monomial, Fraction]
) -> tuple[tuple[Monomial, Fraction], ...] | None:
    """The terms of left - right when each side is one variable or number: the usual case, without arithmetic."""
    minus = [(monomial, _MINUS_ONE if value is ONE else -value) for monomial, value in right.items()]
    plus = list(left.items())
    if not plus or not minus:
        return tuple(plus or minus)
    if plus[0][0] == minus[0][0]:
        return None
    return (plus[0], minus[0]) if plus[0][0] < minus[0][0] else (minus[0], plus[0])
