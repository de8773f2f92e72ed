"""Regions: emptiness and least values against linear programming and against exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_graph import exact
from scipy.optimize import linprog

from verinn.bounds import region as region_module
from verinn.bounds.region import Region, box, clip, least, least_in, separate, weigh

torch.set_num_threads(1)

Rng = np.random.Generator


def region_of(lower: np.ndarray, upper: np.ndarray, a: np.ndarray, c: np.ndarray) -> Region:
    """One region as a batch."""
    arrays = (lower, upper, a, c)
    return Region(*[torch.from_numpy(np.asarray(x, dtype=np.float64)).unsqueeze(0) for x in arrays])


def exact_least(a: np.ndarray, c: Fraction, lower: np.ndarray, upper: np.ndarray) -> Fraction:
    """Least a·x + c over a box, all Fractions."""
    return sum((min(g * low, g * high) for g, low, high in zip(a, lower, upper, strict=True)), c)


def holds(region: Region, x: np.ndarray) -> bool:
    """Whether a point of Fractions is in the box and fulfils all rows, exactly."""
    lower, upper, a, c = (exact(t[0].numpy()) for t in (region.lower, region.upper, region.a, region.c))
    return bool(np.all(lower <= x) and np.all(x <= upper) and np.all(a @ x + c <= 0))


def around(rng: Rng, n: int, rows: int, decades: float) -> tuple[Region, np.ndarray]:
    """A region whose rows all pass through a point of its box or leave a little room, and that point."""
    lower = rng.normal(size=n) * 10.0 ** rng.uniform(-decades, decades)
    upper = lower + np.abs(rng.normal(size=n)) * 10.0 ** rng.uniform(-decades, decades, n) * rng.integers(0, 3, n)
    x = exact(lower) + (exact(upper) - exact(lower)) * exact(rng.integers(0, 5, n)) / 4
    a = rng.normal(size=(rows, n)) * 10.0 ** rng.uniform(-decades, decades, (rows, 1))
    if rows > 1 and rng.random() < 0.5:  # nearly parallel, and opposed
        a[1] = -a[0] * (1 + rng.choice([0.0, 1e-16, 1e-12, 1e-3]) * rng.normal(size=n))
    a[rng.random(a.shape) < 0.2] = 0
    room = rng.choice([0.0, 0.0, 1e-9, 1.0]) * 10.0 ** rng.uniform(-decades, decades)
    c = []
    for row in exact(a):  # the greatest float64 that keeps x inside, less some room
        limit = -(row @ x)
        value = float(limit)
        value = value if Fraction(value) <= limit else float(np.nextafter(value, -np.inf))
        c.append(value - room)
    region = region_of(lower, upper, a, np.asarray(c))
    assert holds(region, x)
    return region, x


def feasible() -> Iterator[tuple[Region, np.ndarray]]:
    rng = np.random.default_rng(11)
    for k in range(250):
        yield around(rng, int(rng.integers(1, 6)), int(rng.integers(1, 8)), (0.5, 4.0, 12.0)[k % 3])


def test_regions_with_a_point_are_never_empty() -> None:
    """Touching rows, nearly parallel rows, scales from 1e-12 to 1e12: a point that fulfils all is there."""
    for region, x in feasible():
        margin, _ = separate(region)
        assert not bool(margin > 0)
        inside = clip(region)
        lower, upper = exact(inside.lower[0].numpy()), exact(inside.upper[0].numpy())
        assert np.all(lower <= x) and np.all(x <= upper)


def test_a_batch_is_decided_like_its_parts() -> None:
    rng = np.random.default_rng(3)
    parts = [around(rng, 3, 4, 1.0)[0] for _ in range(20)]
    whole = Region(*[torch.cat([getattr(p, name) for p in parts]) for name in ("lower", "upper", "a", "c")])
    shifted = Region(whole.lower, whole.upper, whole.a, whole.c + torch.rand(20, 4, dtype=torch.float64) * 2)
    together = separate(shifted)[0] > 0
    alone = torch.cat([separate(shifted.select(torch.tensor([i])))[0] > 0 for i in range(20)])
    assert torch.equal(together, alone) and bool(together.any()) and not bool(together.all())


def test_weighed_rows_are_rounded_down_exactly() -> None:
    """``weigh`` is at most the exact least value of the weighed rows, whatever the weights."""
    rng = np.random.default_rng(7)
    for k in range(200):
        n, rows, decades = int(rng.integers(1, 6)), int(rng.integers(1, 7)), (0.5, 4.0, 12.0)[k % 3]
        region, _ = around(rng, n, rows, decades)
        weights = np.abs(rng.normal(size=rows)) * 10.0 ** rng.uniform(-decades, decades, rows)
        if rows > 1:  # cancelling: only rounding is left
            weights[1] = weights[0]
        lower, upper, a, c = (exact(t[0].numpy()) for t in (region.lower, region.upper, region.a, region.c))
        w = exact(weights)
        true = exact_least(w @ a, w @ c, lower, upper)
        assert float(weigh(region, torch.from_numpy(weights).unsqueeze(0))) <= true


def test_without_rounding_the_same_code_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_module, "_EPS", 0.0)
    for test in (
        test_regions_with_a_point_are_never_empty,
        test_weighed_rows_are_rounded_down_exactly,
        test_least_is_rounded_down_exactly_and_tight,
    ):
        with pytest.raises((AssertionError, OverflowError)):
            test()


def test_least_is_rounded_down_exactly_and_tight() -> None:
    rng = np.random.default_rng(8)
    for k in range(200):
        region, _ = around(rng, int(rng.integers(1, 7)), 3, (0.5, 4.0, 12.0)[k % 3])
        found = least(region.a, region.c, region.lower, region.upper)[0]
        lower, upper = exact(region.lower[0].numpy()), exact(region.upper[0].numpy())
        for row, constant, value in zip(region.a[0].numpy(), region.c[0].numpy(), found.tolist(), strict=True):
            size = float(np.abs(row) @ np.maximum(np.abs(region.lower[0].numpy()), np.abs(region.upper[0].numpy())))
            true = exact_least(exact(row), Fraction(float(constant)), lower, upper)
            assert value <= true
            assert value >= float(true) - 1e-13 * (size + abs(constant)) - 1e-299


def test_least_in_is_below_the_optimum() -> None:
    """Below every feasible point's value exactly, below HiGHS' optimum nearly, never below the box's least."""
    rng = np.random.default_rng(9)
    better = 0
    for k in range(120):
        n, rows = int(rng.integers(1, 6)), int(rng.integers(1, 6))
        region, x = around(rng, n, rows, (0.3, 1.0, 9.0)[k % 3])
        a, c = rng.normal(size=(2, n)), rng.normal(size=2)
        forms, constants = torch.from_numpy(a).unsqueeze(0), torch.from_numpy(c).unsqueeze(0)
        wanted = torch.ones((1, 2), dtype=torch.bool)
        found = least_in(region, forms, constants, wanted)
        plain = least(forms, constants, region.lower, region.upper)[0]
        for row, constant, value in zip(a, c, found.tolist(), strict=True):
            assert not value > exact(row) @ x + Fraction(float(constant))
        if k % 3 < 2:
            bounds = list(zip(region.lower[0].tolist(), region.upper[0].tolist(), strict=True))
            for row, constant, value, least_value in zip(a, c, found.tolist(), plain.tolist(), strict=True):
                best = linprog(row, region.a[0].numpy(), -region.c[0].numpy(), bounds=bounds, method="highs")
                if best.status == 0:
                    size = 1 + np.abs(row) @ np.abs(region.upper[0].numpy()) + abs(constant)
                    assert value <= best.fun + constant + 1e-6 * size
                better += value > least_value + 1e-9
    assert better > 10  # the rows do help


def test_least_in_answers_for_the_wanted_forms_in_order() -> None:
    rng = np.random.default_rng(10)
    region, _ = around(rng, 3, 3, 0.3)
    a, c = torch.from_numpy(rng.normal(size=(1, 5, 3))), torch.from_numpy(rng.normal(size=(1, 5)))
    every = least_in(region, a, c, torch.ones((1, 5), dtype=torch.bool))
    some = torch.tensor([[True, False, True, False, True]])
    assert torch.equal(least_in(region, a, c, some), every[some[0]])


def test_separate_agrees_with_linear_programming() -> None:
    """Random regions: empty by a margin is found empty, and what is found empty is infeasible for HiGHS."""
    rng = np.random.default_rng(12)
    empty = found = 0
    for _ in range(150):
        n, rows = int(rng.integers(1, 6)), int(rng.integers(2, 9))
        lower = rng.normal(size=n)
        upper = lower + np.abs(rng.normal(size=n))
        a = rng.normal(size=(rows, n))
        c = -(a @ ((lower + upper) / 2)) + rng.uniform(-0.6, 0.9, rows) * np.abs(a).sum(1)
        # min t: a x + c <= t
        best = linprog(
            [0.0] * n + [1.0],
            np.hstack([a, -np.ones((rows, 1))]),
            -c,
            bounds=[*zip(lower, upper, strict=True), (None, None)],
            method="highs",
        )
        margin = float(separate(region_of(lower, upper, a, c))[0])
        if margin > 0:
            found += 1
            assert best.fun > -1e-9
        if best.fun > 1e-3 * (1 + np.abs(c).max()):
            empty += 1
            assert margin > 0
    assert empty > 20 and found >= empty


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_empty_by_one_unit_in_the_last_place(scale: float) -> None:
    """x ≤ v and x ≥ next(v): empty but by less than rounding can tell; x ≤ v and x ≥ v: not empty. Neither
    may be called empty when it isn't, whatever the direction of the rows."""
    rng = np.random.default_rng(13)
    for _ in range(60):
        g = rng.normal(size=2) * scale
        point = exact(rng.uniform(0.25, 0.75, 2))
        level = exact(g) @ point
        value = float(level)
        low = value if Fraction(value) <= level else float(np.nextafter(value, -np.inf))
        high = value if Fraction(value) >= level else float(np.nextafter(value, np.inf))
        touching = region_of(np.zeros(2), np.ones(2), np.stack([g, -g]), np.asarray([-high, low]))
        assert holds(touching, point) and not bool(separate(touching)[0] > 0)
        assert not bool((clip(touching).lower > clip(touching).upper).any())
        gap = region_of(np.zeros(2), np.ones(2), np.stack([g, -g]), np.asarray([-low, low + 1e-9 * scale]))
        assert bool(separate(gap)[0] > 0)


def test_nothing_is_empty_because_of_nan() -> None:
    """Rows and constants that are not numbers, or infinite, prove nothing and cut nothing."""
    lower, upper = np.zeros(2), np.ones(2)
    plain = np.asarray([[1.0, 1.0], [-1.0, 0.5]])
    for a, c in (
        (np.asarray([[np.nan, 1.0], [1.0, 1.0]]), np.asarray([-1.0, -1.0])),
        (plain, np.asarray([np.nan, -1.0])),
        (plain, np.asarray([-np.inf, -1.0])),
        (plain * np.nan, np.asarray([5.0, 5.0])),
        (np.zeros((2, 2)), np.asarray([-1.0, -1.0])),
        (np.zeros((2, 2)), np.asarray([0.0, 0.0])),
        (np.asarray([[np.inf, 1.0], [-np.inf, 1.0]]), np.asarray([-1.0, -1.0])),
        (np.asarray([[1e308, 1e308], [-1e308, 1e308]]), np.asarray([-1e308, -1e308])),
        (np.asarray([[5e-324, 0.0], [0.0, -5e-324]]), np.asarray([0.0, 0.0])),
    ):
        region = region_of(lower, upper, a, c)
        margin, point = separate(region)
        assert not bool(margin > 0) and bool(point.isfinite().all())
        inside = clip(region)
        assert bool((inside.lower <= inside.upper).all())
        bound = least_in(region, torch.ones(1, 1, 2).double(), torch.zeros(1, 1).double(), torch.tensor([[True]]))
        assert not bool(bound > 0)


def test_a_region_without_rows_is_its_box() -> None:
    lower, upper = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    region = box(lower, upper)
    assert region.a.shape == (2, 0, 3) and clip(region) is region


def test_clipping_cuts_what_it_can() -> None:
    """x + y ≤ 1/2 in the unit square; 2 x ≥ 1; a row that excludes the box."""
    half = clip(region_of(np.zeros(2), np.ones(2), np.asarray([[1.0, 1.0]]), np.asarray([-0.5])))
    assert torch.allclose(half.upper, torch.full((1, 2), 0.5, dtype=torch.float64))
    right = clip(region_of(np.zeros(2), np.ones(2), np.asarray([[-2.0, 0.0]]), np.asarray([1.0])))
    assert torch.allclose(right.lower, torch.tensor([[0.5, 0.0]], dtype=torch.float64))
    gone = clip(region_of(np.zeros(2), np.ones(2), np.asarray([[1.0, 1.0]]), np.asarray([0.5])))
    assert bool((gone.lower > gone.upper).any())
