"""Floats as fractions, and fractions made short: a solver's arithmetic slows with every digit."""

from __future__ import annotations

import math
from fractions import Fraction

#: significant bits of the ends of redundant ranges and lines
BITS = 16


def fraction(value: float) -> Fraction | None:
    """The exact number; None of an infinity or NaN: no end."""
    return Fraction(value) if math.isfinite(value) else None


def short(value: float, up: bool) -> Fraction | None:
    """A dyadic number of few bits that is no less (``up``), or no greater, and near; None if not finite."""
    if not math.isfinite(value):
        return None
    if value == 0.0:
        return Fraction(0)
    mantissa, power = math.frexp(value)
    scaled = mantissa * 2.0**BITS  # exact
    whole = math.ceil(scaled) if up else math.floor(scaled)
    power -= BITS
    return Fraction(whole << power) if power >= 0 else Fraction(whole, 1 << -power)


def above(value: Fraction) -> float:
    """The least float64 that is no less."""
    near = _nearest(value)
    return near if math.isinf(near) or Fraction(near) >= value else math.nextafter(near, math.inf)


def beneath(value: Fraction) -> float:
    """The greatest float64 that is no greater."""
    return -above(-value)


def _nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -1.7976931348623157e308
