"""Arrays of rational numbers, or of intervals of them where a smooth function was on the way.

All arithmetic is exact; only ``smooth`` widens, outward. Products of matrices are computed over one common
denominator in whole numbers, which for dyadic weights is what makes them quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from verinn.audit import smooth


class Undecided(ValueError):
    """An interval that is too wide for a question with two answers, such as which number is greater."""


@dataclass(frozen=True, eq=False)
class Enclosure:
    """``lo`` and ``hi``: object arrays of Fraction of one shape, the same array where the values are exact.

    ``kind``: ``f`` for reals, ``i`` for whole numbers, ``b`` for truth values (0 and 1).
    """

    lo: np.ndarray
    hi: np.ndarray
    kind: str = "f"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lo.shape

    @property
    def exact(self) -> bool:
        return self.lo is self.hi

    def at(self, index: np.ndarray) -> Enclosure:
        """Elements by their flat numbers; number -1 is zero."""
        lo = _take(self.lo, index)
        return Enclosure(lo, lo if self.exact else _take(self.hi, index), self.kind)

    def moved(self, change: Callable[[np.ndarray], np.ndarray]) -> Enclosure:
        lo = np.asarray(change(self.lo), dtype=object)
        return Enclosure(lo, lo if self.exact else np.asarray(change(self.hi), dtype=object), self.kind)

    def numbers(self) -> np.ndarray:
        """The values of an exact array; Undecided otherwise."""
        if not self.exact and bool((self.lo != self.hi).any()):
            raise Undecided("a value that must be known exactly is an interval")
        return self.lo

    def integers(self) -> list[int]:
        return [int(value) for value in self.numbers().reshape(-1)]


def of(values: Any, kind: str | None = None) -> Enclosure:
    """An array of numbers (floats are taken as the very binary numbers they are)."""
    array = np.asarray(values)
    if kind is None:
        kind = "b" if array.dtype == np.bool_ else "i" if array.dtype.kind in "iu" else "f"
    flat = np.empty(array.size, dtype=object)
    for index, value in enumerate(array.reshape(-1).tolist()):
        flat[index] = value if isinstance(value, Fraction) else Fraction(value)
    whole = np.asarray(flat.reshape(array.shape), dtype=object)
    return Enclosure(whole, whole, kind)


def shaped(x: Enclosure, shape: tuple[int, ...]) -> Enclosure:
    return x.moved(lambda values: values.reshape(shape))


def between(low: Any, high: Any) -> Enclosure:
    """A box of inputs."""
    return Enclosure(of(low).lo, of(high).lo)


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    padded = np.empty(values.size + 1, dtype=object)
    padded[:-1] = values.reshape(-1)
    padded[-1] = Fraction(0)
    return np.asarray(padded[index], dtype=object).reshape(index.shape)


def _each(function: Callable[..., Fraction], *arrays: np.ndarray) -> np.ndarray:
    """Elementwise with broadcasting, always an object array."""
    result = np.frompyfunc(function, len(arrays), 1)(*arrays)
    return np.asarray(result, dtype=object)


def add(x: Enclosure, y: Enclosure) -> Enclosure:
    return _both(x, y, np.asarray(x.lo + y.lo, dtype=object), lambda: x.hi + y.hi)


def subtract(x: Enclosure, y: Enclosure) -> Enclosure:
    return _both(x, y, np.asarray(x.lo - y.hi, dtype=object), lambda: x.hi - y.lo)


def _both(x: Enclosure, y: Enclosure, lo: np.ndarray, hi: Callable[[], Any]) -> Enclosure:
    kind = "i" if x.kind == y.kind == "i" else "f"
    return Enclosure(lo, lo if x.exact and y.exact else np.asarray(hi(), dtype=object), kind)


def _corners(function: Callable[[Fraction, Fraction], Fraction], x: Enclosure, y: Enclosure) -> Enclosure:
    """A function that takes its extremes over a rectangle at the corners."""
    kind = "i" if x.kind == y.kind == "i" else "f"
    first = _each(function, x.lo, y.lo)
    if x.exact and y.exact:
        return Enclosure(first, first, kind)
    others = [_each(function, a, b) for a, b in ((x.lo, y.hi), (x.hi, y.lo), (x.hi, y.hi))]
    return Enclosure(_each(min, first, *others), _each(max, first, *others), kind)


def multiply(x: Enclosure, y: Enclosure) -> Enclosure:
    return _corners(lambda a, b: a * b, x, y)


def divide(x: Enclosure, y: Enclosure) -> Enclosure:
    """Quotients of reals; Undecided where the divisor may be zero."""
    if any(low <= 0 <= high for low, high in zip(y.lo.reshape(-1), y.hi.reshape(-1), strict=True)):
        raise Undecided("a divisor may be zero")
    return _corners(lambda a, b: a / b, x, y)


def negate(x: Enclosure) -> Enclosure:
    lo = np.asarray(-x.hi, dtype=object)
    return Enclosure(lo, lo if x.exact else np.asarray(-x.lo, dtype=object), x.kind)


def rising(function: Callable[..., Fraction], *parts: Enclosure, kind: str = "f") -> Enclosure:
    """A function that doesn't fall in any of its arguments."""
    lo = _each(function, *(part.lo for part in parts))
    if all(part.exact for part in parts):
        return Enclosure(lo, lo, kind)
    return Enclosure(lo, _each(function, *(part.hi for part in parts)), kind)


def absolute(x: Enclosure) -> Enclosure:
    if x.exact:
        return rising(abs, x, kind=x.kind)
    low = _each(lambda a, b: max(a, -b, Fraction(0)), x.lo, x.hi)
    return Enclosure(low, _each(lambda a, b: max(-a, b), x.lo, x.hi), x.kind)


def decide(question: Callable[[Fraction, Fraction], bool], x: Enclosure, y: Enclosure) -> Enclosure:
    """Truth values of a comparison that is monotone in x − y; Undecided where both answers are possible."""
    answer = _each(lambda a, b: Fraction(question(a, b)), x.lo, y.hi)
    if bool(np.any(answer != _each(lambda a, b: Fraction(question(a, b)), x.hi, y.lo))):
        raise Undecided("a comparison is open")
    return Enclosure(answer, answer, "b")


def equal(x: Enclosure, y: Enclosure) -> Enclosure:
    """Truth values of x = y; Undecided where intervals overlap."""

    def question(a: Fraction, b: Fraction, c: Fraction, d: Fraction) -> Fraction:
        if a == b == c == d:
            return Fraction(1)
        if a <= d and c <= b:
            raise Undecided("an equality is open")
        return Fraction(0)

    answer = _each(question, x.lo, x.hi, y.lo, y.hi)
    return Enclosure(answer, answer, "b")


def rise_smooth(name: str, x: Enclosure) -> Enclosure:
    """A smooth function that rises, by its name in ``verinn.audit.smooth`` (``Sqrt`` too)."""
    function = smooth.root if name == "Sqrt" else lambda value: smooth.enclose(name, value)
    pairs = {value: function(value) for array in (x.lo, x.hi) for value in array.reshape(-1)}
    lo = _each(lambda value: pairs[value][0], x.lo)
    hi = _each(lambda value: pairs[value][1], x.hi)
    return tidy(lo, hi)


def wave(name: str, x: Enclosure) -> Enclosure:
    """Sine or cosine: the value in the middle, give or take half of the width."""

    def ends(low: Fraction, high: Fraction) -> smooth.Pair:
        a, b = smooth.enclose(name, (low + high) / 2)
        half = (high - low) / 2
        return max(a - half, Fraction(-1)), min(b + half, Fraction(1))

    pairs = [ends(low, high) for low, high in zip(x.lo.reshape(-1), x.hi.reshape(-1), strict=True)]
    lo, hi = (of([pair[side] for pair in pairs]).lo.reshape(x.shape) for side in (0, 1))
    return tidy(lo, hi)


def tidy(lo: np.ndarray, hi: np.ndarray) -> Enclosure:
    """Exact again where all ends meet."""
    if bool(np.all(lo == hi)):
        return Enclosure(lo, lo)
    return Enclosure(lo, hi)


def dot(x: Enclosure, y: Enclosure) -> Enclosure:
    """The matrix product over the last axis of x and the second to last of y, as numpy's matmul."""
    if x.exact and y.exact:
        value = _whole(x.lo, y.lo, np.matmul)
        return Enclosure(value, value, "i" if x.kind == y.kind == "i" else "f")
    if y.exact or x.exact:
        known, open_ = (y.lo, x) if y.exact else (x.lo, y)
        middle, half = (open_.lo + open_.hi) / 2, (open_.hi - open_.lo) / 2
        weight = np.asarray(abs(known), dtype=object)
        if y.exact:
            centre, reach = _whole(middle, known, np.matmul), _whole(half, weight, np.matmul)
        else:
            centre, reach = _whole(known, middle, np.matmul), _whole(weight, half, np.matmul)
        return Enclosure(np.asarray(centre - reach, dtype=object), np.asarray(centre + reach, dtype=object))
    left, right = x.moved(lambda a: a[..., :, :, None]), y.moved(lambda a: a[..., None, :, :])
    return total(multiply(left, right), (-2,), False)


def _whole(x: np.ndarray, y: np.ndarray, product: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    a, over_a = _common(x)
    b, over_b = _common(y)
    divisor = over_a * over_b
    return _each(lambda value: Fraction(value, divisor), product(a, b))


def _common(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Numerators over the least common denominator."""
    divisor = math.lcm(*{value.denominator for value in x.reshape(-1)}) if x.size else 1
    whole = np.frompyfunc(lambda value: value.numerator * (divisor // value.denominator), 1, 1)(x)
    return np.asarray(whole, dtype=object), divisor


def total(x: Enclosure, axes: tuple[int, ...], keep: bool) -> Enclosure:
    """Sums over axes."""

    def summed(values: np.ndarray) -> np.ndarray:
        whole, divisor = _common(values)
        sums = np.asarray(np.sum(whole, axis=axes, keepdims=keep), dtype=object)
        return _each(lambda value: Fraction(value, divisor), sums)

    return x.moved(summed)


def extreme(function: Callable[[Any], Any], x: Enclosure, axes: tuple[int, ...], keep: bool) -> Enclosure:
    """max or min over axes."""
    ufunc: Any = np.maximum if function is max else np.minimum
    return x.moved(lambda values: np.asarray(ufunc.reduce(values, axis=axes, keepdims=keep), dtype=object))
