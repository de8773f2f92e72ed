"""Arithmetic on constants, in float64, with an elementwise bound on the distance from the exact result.

Each function returns a ``Const`` whose error bounds |exact − value|, where *exact* ranges over every
choice of the operands within their own errors. Rounding is measured, not assumed, where that is cheap
(error-free transformations: TwoSum, Dekker's TwoProduct), so a result that happens to be exact says so
(``error is None``). Model: Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., ch. 2-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from verinn.ir.graph import Const

UNIT = 2.0**-53
TINY = 2.0**-1074
# Products inside this range neither overflow nor lose bits to underflow in TwoProduct.
_LARGE = 2.0**480
_SMALL = 2.0**-440


def gamma(terms: int) -> float:
    """γₙ = n·u / (1 − n·u): the relative error of n roundings in float64, in any order."""
    return terms * UNIT / (1.0 - terms * UNIT)


def up(error: np.ndarray, operations: int = 8) -> np.ndarray:
    """A non-negative quantity computed with at most ``operations`` roundings, enlarged to a true upper bound."""
    grown = error * (1.0 + 4.0 * (operations + 2) * UNIT)
    return np.where(grown > 0.0, grown + operations * TINY, 0.0)


def make(value: np.ndarray, error: np.ndarray | None = None) -> Const:
    """A Const whose error is dropped where it says nothing (all zero)."""
    value = np.asarray(value)
    if error is None or not np.any(error):
        return Const(value)
    return Const(value, np.broadcast_to(error, value.shape))


def exact(array: np.ndarray) -> Const:
    """A constant given by a file: floats become float64 (exact for float16, bfloat16, float32), integers int64.

    uint64 values past the int64 range raise OverflowError.
    """
    array = np.asarray(array)
    if array.dtype == np.bool_:
        return Const(array)
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise OverflowError("an unsigned integer exceeds the int64 range")
        return Const(array.astype(np.int64))
    return Const(array.astype(np.float64))


def is_float(const: Const) -> bool:
    """Whether the constant is of reals (float64), not of integers or booleans."""
    return const.value.dtype.kind == "f"


def as_float(const: Const) -> Const:
    """The same numbers as float64; an integer past 2^53 gets an error bound of its rounding."""
    if is_float(const):
        return const
    value = const.value.astype(np.float64)
    error = np.where(np.abs(value) > 2.0**53, np.abs(value) * 2 * UNIT, 0.0)
    return make(value, error)


def move(const: Const, function: Callable[[np.ndarray], np.ndarray]) -> Const:
    """Apply a function that only rearranges, repeats or drops elements."""
    value = np.asarray(function(const.value), order="C")
    if const.error is None:
        return Const(value)
    return make(value, function(const.error))


def reshape(const: Const, shape: Sequence[int]) -> Const:
    """Row-major reshape."""
    return move(const, lambda array: array.reshape(tuple(shape)))


def transpose(const: Const, perm: Sequence[int]) -> Const:
    """Permute the axes."""
    return move(const, lambda array: array.transpose(tuple(perm)))


def expand(const: Const, shape: Sequence[int]) -> Const:
    """Broadcast to ``shape`` (a read-only view)."""
    value = np.broadcast_to(const.value, tuple(shape))
    return Const(value, None if const.error is None else np.broadcast_to(const.error, tuple(shape)))


def concat(parts: Sequence[Const], axis: int) -> Const:
    """Join along an existing axis."""
    value = np.concatenate([part.value for part in parts], axis=axis)
    if all(part.error is None for part in parts):
        return Const(value)
    return make(value, np.concatenate([error_of(part) for part in parts], axis=axis))


def error_of(const: Const) -> np.ndarray:
    """The error array, zeros when the value is exact."""
    return np.zeros(const.shape) if const.error is None else const.error


def neg(x: Const) -> Const:
    """−x, exactly."""
    return Const(np.asarray(-x.value), x.error)


def absolute(x: Const) -> Const:
    """|x|: 1-Lipschitz, so the error carries over."""
    return Const(np.asarray(np.abs(x.value)), x.error)


def maximum(x: Const, y: Const) -> Const:
    """Elementwise maximum: 1-Lipschitz in the maximum norm of its operands."""
    value = np.maximum(x.value, y.value)
    return _lipschitz(value, x, y)


def minimum(x: Const, y: Const) -> Const:
    """Elementwise minimum."""
    value = np.minimum(x.value, y.value)
    return _lipschitz(value, x, y)


def _lipschitz(value: np.ndarray, x: Const, y: Const) -> Const:
    if x.error is None and y.error is None:
        return Const(value)
    return make(value, np.maximum(error_of(x), error_of(y)))


def add(x: Const, y: Const) -> Const:
    """x + y with broadcasting; integers exactly, reals with the rounding that TwoSum measures."""
    if not is_float(x) and not is_float(y):
        return Const(x.value + y.value)
    x, y = as_float(x), as_float(y)
    a, b = x.value, y.value
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.asarray(a + b)
        back = total - a
        lost = np.abs((a - (total - back)) + (b - back))
    lost = np.where(np.isfinite(total), lost, 0.0)
    return make(total, up(lost + error_of(x) + error_of(y)))


def sub(x: Const, y: Const) -> Const:
    """x − y with broadcasting."""
    if not is_float(x) and not is_float(y):
        return Const(x.value - y.value)
    return add(as_float(x), neg(as_float(y)))


def mul(x: Const, y: Const) -> Const:
    """x · y with broadcasting; the product of two float32 numbers is exact in float64."""
    if not is_float(x) and not is_float(y):
        return Const(x.value * y.value)
    x, y = as_float(x), as_float(y)
    a, b = x.value, y.value
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        product = np.asarray(a * b)
        lost = np.abs(_product_error(a, b, product))
        if x.error is None and y.error is None:
            return make(product, up(lost))
        ea, eb = error_of(x), error_of(y)
        return make(product, up(lost + np.abs(a) * eb + np.abs(b) * ea + ea * eb))


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    big = 134217729.0 * a
    high = big - (big - a)
    return high, a - high


def _product_error(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> np.ndarray:
    """a·b − product exactly (Dekker) where no range limit is near, else a bound of it."""
    # Two float32 numbers have 48 bits together, far from the range limits: no need to measure.
    if _is_float32(a) and _is_float32(b):
        return np.zeros(())
    ah, al = _split(a)
    bh, bl = _split(b)
    measured = al * bl - (((product - ah * bh) - al * bh) - ah * bl)
    size = np.abs(product)
    safe = (size < _LARGE) & (size > _SMALL) & (np.abs(a) < _LARGE) & (np.abs(b) < _LARGE)
    zero = (a == 0.0) | (b == 0.0)
    bound = np.where(np.isfinite(size), size * UNIT + TINY, 0.0)
    return np.where(safe, measured, np.where(zero, 0.0, bound))


def _is_float32(a: np.ndarray) -> bool:
    with np.errstate(over="ignore", under="ignore"):
        return bool(np.all(a.astype(np.float32) == a))


def div(x: Const, y: Const) -> Const:
    """x / y with broadcasting, for reals. The caller has made sure that y, with its error, isn't zero."""
    x, y = as_float(x), as_float(y)
    a, b = x.value, y.value
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        quotient = np.asarray(a / b)
        back = np.asarray(quotient * b)
        lossless = (back == a) & (_product_error(quotient, b, back) == 0.0)
        lost = np.where(lossless | ~np.isfinite(quotient), 0.0, np.abs(quotient) * UNIT + TINY)
        ea, eb = error_of(x), error_of(y)
        room = np.abs(b) - eb
        if np.any(room <= 0.0):
            raise ZeroDivisionError("division by a constant that may be zero")
        return make(quotient, up(lost + (ea + (np.abs(quotient) * (1 + 2 * UNIT) + TINY) * eb) / room))


def sqrt(x: Const) -> Const:
    """The square root. The caller has made sure that x, with its error, is positive or exactly zero."""
    x = as_float(x)
    root = np.sqrt(x.value)
    square = root * root
    lossless = (square == x.value) & (_product_error(root, root, square) == 0.0)
    lost = np.where(lossless, 0.0, root * 2 * UNIT)
    spread = np.divide(error_of(x), root, out=np.zeros_like(root), where=root > 0.0)
    return make(root, up(lost + spread))


def total(x: Const, axes: Sequence[int]) -> Const:
    """Sum over ``axes``, which stay with length 1. The rounding of any summation order is covered."""
    axes = tuple(axes)
    value = x.value.sum(axis=axes, keepdims=True)
    if not is_float(x):
        return Const(value)
    terms = int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    size = np.abs(x.value).sum(axis=axes, keepdims=True)
    lost = np.zeros_like(value) if terms < 2 else np.where(size < 2.0**53 * _quantum(x.value), 0.0, gamma(terms) * size)
    if x.error is None:
        return make(value, up(lost, 2 * terms))
    return make(value, up(lost + x.error.sum(axis=axes, keepdims=True), 2 * terms))


def _quantum(a: np.ndarray) -> float:
    """The largest power of two that divides every element (1 when all are zero)."""
    nonzero = a[a != 0.0]
    if not nonzero.size:
        return 1.0
    mantissa, exponent = np.frexp(nonzero)
    if int(exponent.min()) < -900 or not np.all(np.isfinite(nonzero)):
        return TINY
    digits = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    lowest = (digits & -digits).astype(np.float64)
    return float(np.ldexp(lowest, exponent.astype(np.int64) - 53).min())


def matmul(x: Const, y: Const) -> Const:
    """x @ y as numpy's matmul, with γₖ|x||y| for the rounding and the operands' errors carried through."""
    if not is_float(x) and not is_float(y):
        return Const(np.matmul(x.value, y.value))
    x, y = as_float(x), as_float(y)
    a, b = x.value, y.value
    terms = a.shape[-1]
    value = np.matmul(a, b)
    size = np.matmul(np.abs(a), np.abs(b))
    quantum = _quantum(a) * _quantum(b)
    # Every partial sum is a multiple of the quantum and below 2^53 of them: no rounding happens.
    lost = np.where(size * (1 + gamma(terms + 2)) < 2.0**53 * quantum, 0.0, gamma(terms) * size + terms * TINY)
    if x.error is not None:
        lost = lost + np.matmul(x.error, np.abs(b) + error_of(y))
    if y.error is not None:
        lost = lost + np.matmul(np.abs(a), y.error)
    return make(value, up(lost, 2 * terms))


def round_to(const: Const, dtype: np.dtype | type) -> Const:
    """What a file's Cast to a narrower float type makes of an exact constant; an inexact one is left as it is."""
    if const.error is not None:
        return const
    with np.errstate(over="ignore", under="ignore"):
        return Const(const.value.astype(dtype).astype(np.float64))


def whole(const: Const, function: Callable[[np.ndarray], np.ndarray]) -> Const:
    """A step function (floor, ceil, round, trunc) of a constant; ValueError when its error leaves the step open."""
    value = function(const.value)
    if const.error is not None and (
        np.any(function(const.value - const.error) != value) or np.any(function(const.value + const.error) != value)
    ):
        raise ValueError("a rounded constant isn't known exactly enough to tell its integer part")
    return Const(value)
