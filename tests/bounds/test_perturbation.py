"""Sets of inputs: least values against exact arithmetic, linear programmes and enumeration; gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from verinn.bounds.perturbation import Ball, Box, Perturbation, Polytope
from verinn.bounds.substitution import Substitutions
from verinn.errors import InputError

SHAPE = (2, 3)
N = 6

extreme = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-310, -5e-324, 1e300, -1e300, 1.0, -1.0, 1 / 3, 1e-160, -1e160]),
    st.floats(-1e3, 1e3),
    st.floats(-1e200, 1e200),
)
vector = st.lists(extreme, min_size=N, max_size=N)


def fractions(values: Any) -> list[Fraction]:
    return [Fraction(float(v)) for v in np.ravel(values)]


def least(one: Perturbation, a: Any) -> float:
    return float(one.least(SHAPE, torch.tensor(a, dtype=torch.float64).reshape(1, 1, N))[0, 0])


@settings(max_examples=150, deadline=None)
@given(vector, vector, st.one_of(st.just(0.0), st.floats(0, 1e3), st.sampled_from([1e-310, 1e200])))
def test_dual_norms_at_the_extremes(a: list[float], centre: list[float], radius: float) -> None:
    """Never above the exact least value, and near it where nothing overflows."""
    fa, fc, r = fractions(a), fractions(centre), Fraction(radius)
    middle = sum(x * y for x, y in zip(fa, fc, strict=True))
    size = sum(abs(x) * (abs(y) + r) for x, y in zip(fa, fc, strict=True))
    for p in (1.0, 2.0, math.inf):
        value = least(Ball(np.reshape(centre, SHAPE), radius, p), a)
        assert value < math.inf
        if value == -math.inf:
            assert size > Fraction(1e306)
            continue
        fall = middle - Fraction(value)
        norm = {1.0: max(map(abs, fa)), math.inf: sum(map(abs, fa))}.get(p)
        if norm is not None:
            assert fall >= r * norm
            assert fall <= r * norm + size * Fraction(1e-14) + Fraction(1e-305)
        else:
            square = sum(x * x for x in fa)
            assert fall >= 0 and fall * fall >= r * r * square
            slack = size * Fraction(1e-14) + Fraction(1e-305)
            assert fall <= slack or (fall - slack) ** 2 <= r * r * square


@settings(max_examples=150, deadline=None)
@given(vector, vector, vector)
def test_boxes_at_the_extremes(a: list[float], one: list[float], two: list[float]) -> None:
    lower, upper = np.minimum(one, two), np.maximum(one, two)
    exact = sum(min(x * u, x * v) for x, u, v in zip(fractions(a), fractions(lower), fractions(upper), strict=True))
    value = least(Box(lower.reshape(SHAPE), upper.reshape(SHAPE)), a)
    assert value == -math.inf or Fraction(value) <= exact


def inside(rng: np.random.Generator, centre: np.ndarray, radius: float, p: float) -> np.ndarray:
    d = rng.standard_normal((2000, N)) * rng.integers(0, 2, (2000, N))
    norm = np.linalg.norm(d, ord=p, axis=1, keepdims=True)
    return centre + d / np.where(norm > 0, norm, 1) * radius


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("seed", range(5))
def test_balls_within_boxes(p: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre, radius = rng.random(N), 0.5
    lower, upper = np.zeros(N), np.ones(N)
    a = rng.standard_normal((7, N))
    ball = Ball(centre.reshape(SHAPE), radius, p, 0.0, 1.0)
    found = ball.least(SHAPE, torch.tensor(a).unsqueeze(0))[0].numpy()
    x = inside(rng, centre, radius, p)
    x = x[((x >= lower) & (x <= upper)).all(1)]
    assert (found <= (x @ a.T).min(0)).all()
    assert np.allclose(found, [truth(row, centre, radius, p, lower, upper) for row in a], rtol=1e-9)


def truth(a: np.ndarray, c: np.ndarray, radius: float, p: float, lower: np.ndarray, upper: np.ndarray) -> float:
    """The least value over ball and box: a linear programme, or the bisection of the ball's multiplier."""
    if p == math.inf:
        return float(np.minimum(a * np.maximum(lower, c - radius), a * np.minimum(upper, c + radius)).sum())
    if p == 1:  # x = c + s − t
        rows = np.ones((1, 2 * N))
        ends = [(0, float(u)) for u in upper - c] + [(0, float(v)) for v in c - lower]
        return float(a @ c + linprog(np.concatenate([a, -a]), rows, [radius], bounds=ends).fun)
    low, high = 0.0, 1e6
    for _ in range(200):
        step = (low + high) / 2
        far = np.linalg.norm(np.clip(c - step * a, lower, upper) - c) > radius
        low, high = (low, step) if far else (step, high)
    return float(a @ np.clip(c - low * a, lower, upper))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_polytopes(rows: int, seed: int) -> None:
    """One row: the linear programme's optimum. Several: not above it, and mostly near."""
    rng = np.random.default_rng(seed)
    g, a = rng.standard_normal((rows, N)), rng.standard_normal((9, N))
    limits = (g @ rng.uniform(-0.5, 0.5, N)) + 0.1
    box = -np.ones(SHAPE), np.ones(SHAPE)
    one = Polytope(*box, g.reshape(rows, *SHAPE), limits)
    found = one.least(SHAPE, torch.tensor(a).unsqueeze(0))[0].numpy()
    best = np.array([linprog(row, g, limits, bounds=[(-1, 1)] * N).fun for row in a])
    assert (found <= best + 1e-9).all()
    assert np.allclose(found, best, atol=1e-9 if rows == 1 else 0.05)
    alone = Box(*box).least(SHAPE, torch.tensor(a).unsqueeze(0))[0].numpy()
    assert (found >= alone).all() and (found > alone + 1e-3).any()


def substitutions(seed: int, priced: bool) -> tuple[Substitutions, tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, 5)
    words = [rng.standard_normal((count, 3)) for count in counts]
    costs = [rng.integers(1, 4, count).tolist() for count in counts] if priced else None
    return Substitutions(rng.standard_normal((1, 5, 3)), words, int(rng.integers(0, 5)), costs), (1, 5, 3)


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_dynamic_programme_is_the_enumeration(seed: int, priced: bool) -> None:
    one, shape = substitutions(seed, priced)
    a = torch.randn(1, 20, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    every = torch.stack([x.flatten() for x in one.each(shape)])
    exact = (a[0] @ every.T).amin(1)
    found = one.least(shape, a)[0]
    assert (found <= exact + 1e-15).all() and torch.allclose(found, exact, atol=1e-12)
    low, high = (end.flatten() for end in one.enclosing(shape))
    assert (every >= low).all() and (every <= high).all()


def test_a_budget_of_everything_is_every_position_alone() -> None:
    one = Substitutions(np.zeros((2, 2)), [[[1.0, 0.0]], [[0.0, -1.0], [0.5, 0.5]]], 2)
    a = torch.tensor([[-1.0, 2.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64).unsqueeze(0)
    assert torch.allclose(one.least((2, 2), a)[0], torch.tensor([-2.0, -1.0], dtype=torch.float64))


MAKERS: dict[str, Callable[[Tensor, Tensor], Perturbation]] = {
    "box": lambda c, r: Box(c - r, c + r),
    "l1": lambda c, r: Ball(c, r, 1),
    "l2": lambda c, r: Ball(c, r, 2),
    "linf": lambda c, r: Ball(c, r, math.inf),
    "l2 in a box": lambda c, r: Ball(c, r, 2, c - 0.083, c + 0.171),
    "l1 in a box": lambda c, r: Ball(c, r, 1, c - 0.083, c + 0.171),
    "polytope": lambda c, r: Polytope(c - r, c + r, torch.ones(1, *SHAPE), torch.full((1,), 1.0)),
    "substitutions": lambda c, r: Substitutions(c, [(c[i : i + 1] + r).reshape(1, 3) for i in range(2)], 1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_gradients(name: str) -> None:
    """By centre, radius and coefficients, against differences."""
    generator = torch.Generator().manual_seed(4)
    centre = torch.randn(SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    a = torch.randn((1, 4, N), generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, r, w: MAKERS[name](c, r).least(SHAPE, w), (centre, radius, a), eps=1e-6, atol=1e-5
    )


def test_a_zero_form_has_a_gradient() -> None:
    a = torch.zeros((1, 2, N), dtype=torch.float64, requires_grad=True)
    for p in (1, 2, math.inf):
        value = Ball(np.ones(SHAPE), 0.5, p).least(SHAPE, a)
        (slope,) = torch.autograd.grad(value.sum(), a)
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize(
    "one, text",
    [
        (Box(np.ones(SHAPE), np.zeros(SHAPE)), "empty"),
        (Ball(np.ones(SHAPE), 1.0, 3), "norm p = 3"),
        (Ball(np.ones(SHAPE), -1.0), "radius"),
        (Ball(np.ones((3, 2)), 1.0), r"centre has the shape \[3, 2\]"),
        (Polytope(0.0, 1.0, np.ones((1, 3, 2)), [1.0]), "don't fit"),
        (Substitutions(np.ones(SHAPE), [[]], 1), "1 sets of candidates for 2"),
        (Substitutions(np.ones(SHAPE), [[], []], -1), "budget"),
        (Substitutions(np.ones(SHAPE), [[[1.0, 2.0, 3.0]], []], 1, [[0], []]), "costs of position 0"),
    ],
)
def test_bad_sets(one: Perturbation, text: str) -> None:
    with pytest.raises(InputError, match=text):
        one.least(SHAPE, torch.ones((1, 1, N), dtype=torch.float64))
