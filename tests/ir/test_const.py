"""Error bounds of constants, checked against exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from verinn.ir import const as c
from verinn.ir.graph import Const

Rng = np.random.Generator
Exact = np.ndarray  # of Fractions


def draw(rng: Rng, shape: tuple[int, ...], inexact: bool) -> tuple[Const, Exact]:
    """A constant and exact numbers that it may stand for: at its value, or at the ends of its error."""
    kind = int(rng.integers(4))
    value = rng.standard_normal(shape)
    if kind == 0:
        value = value.astype(np.float32).astype(np.float64)
    elif kind == 1:
        value = np.round(value * 8) / 8
    elif kind == 2:
        value = value * 10.0 ** rng.integers(-12, 13, shape)
    if not inexact:
        return Const(value), _fractions(value)
    error = np.abs(value) * 2.0 ** -float(rng.integers(20, 60)) * rng.random(shape)
    side = rng.choice([-1, 0, 1], shape)
    signs = np.array([int(s) for s in side.flat], dtype=object).reshape(shape)
    return Const(value, error), _fractions(value) + signs * _fractions(error)


def _fractions(value: np.ndarray) -> Exact:
    return np.array([Fraction(float(v)) for v in value.flat], dtype=object).reshape(value.shape)


def holds(const: Const, exact: Exact) -> None:
    """|exact − value| ≤ error, in rational arithmetic."""
    assert const.value.shape == exact.shape
    distance = np.abs(exact - _fractions(const.value))
    assert np.all(distance <= _fractions(c.error_of(const)))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    ("ours", "exactly"),
    [
        (c.add, lambda x, y: x + y),
        (c.sub, lambda x, y: x - y),
        (c.mul, lambda x, y: x * y),
        (c.div, lambda x, y: x / y),
        (c.matmul, lambda x, y: x @ y),
    ],
    ids=["add", "sub", "mul", "div", "matmul"],
)
def test_two_operands(ours: Callable[..., Const], exactly: Callable[..., Exact], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, true_x = draw(rng, (4, 4), bool(rng.integers(2)))
    y, true_y = draw(rng, (4, 4), bool(rng.integers(2)))
    if ours is c.div and np.any(np.abs(y.value) <= c.error_of(y)):
        return
    holds(ours(x, y), exactly(true_x, true_y))


@pytest.mark.parametrize("seed", range(20))
def test_sums_and_roots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, true_x = draw(rng, (3, 5), bool(rng.integers(2)))
    holds(c.total(x, (1,)), true_x.sum(axis=1, keepdims=True))
    positive, true = Const(np.abs(x.value), x.error), np.abs(true_x)
    root = c.sqrt(positive)
    low = np.maximum(_fractions(root.value) - _fractions(c.error_of(root)), Fraction(0))
    high = _fractions(root.value) + _fractions(c.error_of(root))
    assert np.all((low * low <= true) & (true <= high * high))


def test_exact_results_say_so() -> None:
    rng = np.random.default_rng(0)
    singles = [c.exact(rng.standard_normal((5, 5)).astype(np.float32)) for _ in range(2)]
    small = Const(rng.integers(-50, 50, (5, 5)).astype(np.float64))
    assert c.mul(*singles).error is None
    assert c.mul(singles[0], Const(np.array(0.25))).error is None
    assert c.add(small, small).error is None
    assert c.matmul(small, small).error is None
    assert c.total(small, (0,)).error is None
    assert c.div(small, Const(np.array(4.0))).error is None
    assert c.sqrt(Const(np.array([0.0, 4.0, 2.25]))).error is None
    assert c.div(small, Const(np.array(3.0))).error is not None
    assert c.add(Const(np.array(1.0)), Const(np.array(1e-30))).error is not None


def test_extreme_sizes_are_bounded() -> None:
    """Near overflow and underflow, where error-free transformations fail."""
    sizes = np.array([1e300, 1e-300, 5e-324, 2.0**-540, 2.0**490, 1.0 + 2.0**-52, 0.0])
    with np.errstate(all="ignore"):
        products = c.mul(Const(sizes[:, None]), Const(sizes[None, :]))
        kept = np.isfinite(products.value)
        exact = _fractions(sizes)[:, None] * _fractions(sizes)[None, :]
        holds(Const(products.value[kept], c.error_of(products)[kept]), exact[kept])
        divisors = Const(sizes[:-1])
        quotients = c.div(Const(sizes[:, None]), Const(divisors.value[None, :]))
        exact = _fractions(sizes)[:, None] / _fractions(divisors.value)[None, :]
        kept = np.isfinite(quotients.value)
        holds(Const(quotients.value[kept], c.error_of(quotients)[kept]), exact[kept])


def test_moves_keep_errors() -> None:
    x = Const(np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3) * 1e-9)
    for moved in (
        c.reshape(x, (3, 2)),
        c.transpose(x, (1, 0)),
        c.expand(x, (4, 2, 3)),
        c.concat([x, c.neg(c.neg(x))], 0),
    ):
        assert moved.error is not None
        np.testing.assert_array_equal(moved.error, moved.value * 1e-9)
    with pytest.raises(ValueError, match="exactly enough"):
        c.whole(Const(np.array([0.9999]), np.array([0.01])), np.floor)
    with pytest.raises(ZeroDivisionError):
        c.div(Const(np.ones(1)), Const(np.array([1e-9]), np.array([1e-9])))
