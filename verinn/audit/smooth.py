"""Smooth functions of rational numbers, enclosed by rationals.

Values come from mpmath at 384 bits, where its elementary functions err by a few units in the last place; the
enclosure is widened to 2^-240 (relative where the value is above one), many orders beyond that. Where the
result is rational and known (exp 0, square roots of squares, …) it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import mpmath

BITS = 384
GRID = 240

Pair = tuple[Fraction, Fraction]
ZERO, HALF, ONE = Fraction(0), Fraction(1, 2), Fraction(1)
_EXACT: Mapping[str, Mapping[Fraction, Fraction]] = {
    "Exp": {ZERO: ONE},
    "Log": {ONE: ZERO},
    "Sin": {ZERO: ZERO},
    "Cos": {ZERO: ONE},
    "Tan": {ZERO: ZERO},
    "Atan": {ZERO: ZERO},
    "Asin": {ZERO: ZERO},
    "Erf": {ZERO: ZERO},
    "Tanh": {ZERO: ZERO},
    "Sinh": {ZERO: ZERO},
    "Cosh": {ZERO: ONE},
    "Asinh": {ZERO: ZERO},
    "Sigmoid": {ZERO: HALF},
}
_FUNCTIONS: Mapping[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "Exp": mpmath.exp,
    "Log": mpmath.log,
    "Sin": mpmath.sin,
    "Cos": mpmath.cos,
    "Tan": mpmath.tan,
    "Atan": mpmath.atan,
    "Asin": mpmath.asin,
    "Acos": mpmath.acos,
    "Erf": mpmath.erf,
    "Tanh": mpmath.tanh,
    "Sinh": mpmath.sinh,
    "Cosh": mpmath.cosh,
    "Asinh": mpmath.asinh,
    "Sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "Softplus": lambda x: mpmath.log1p(mpmath.exp(-abs(x))) + max(x, 0),
}
NAMES = tuple(_FUNCTIONS)


def enclose(name: str, x: Fraction) -> Pair:
    """An interval of rationals that holds the function's value; the same number twice where it is exact."""
    if x in _EXACT.get(name, {}):
        value = _EXACT[name][x]
        return value, value
    with mpmath.workprec(BITS):
        return _widened(_FUNCTIONS[name](mpmath.mpf(x.numerator) / x.denominator))


def _widened(value: mpmath.mpf) -> Pair:
    sign, mantissa, exponent, _ = value._mpf_
    number = Fraction(int(mantissa)) * Fraction(2) ** int(exponent) * (-1 if sign else 1)
    slack = max(abs(number), ONE) / 2**GRID
    return outward(number - slack, number + slack)


def outward(low: Fraction, high: Fraction, bits: int = GRID) -> Pair:
    """Both ends on the grid of 2^-bits, so that denominators don't grow without end."""
    scale = 1 << bits
    return Fraction(math.floor(low * scale), scale), Fraction(math.ceil(high * scale), scale)


def root(x: Fraction) -> Pair:
    """The square root: exact for squares of rationals, else within 2^-240, by integers alone."""
    if x < 0:
        raise ValueError("the square root of a negative number")
    top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
    if top * top == x.numerator and bottom * bottom == x.denominator:
        value = Fraction(top, bottom)
        return value, value
    whole = math.isqrt((x.numerator << (2 * GRID)) // x.denominator)
    return Fraction(whole, 1 << GRID), Fraction(whole + 1, 1 << GRID)
