"""Piecewise-linear operators, fuzzed: intervals and lines against rational arithmetic; and max pooling.

What holds for every operator is in ``gate.py``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_graph import apply, exact, run
from ops_cases import CASES

from verinn.ir.graph import Node, frozen
from verinn.ops import activation
from verinn.ops.base import Elementwise, Lines
from verinn.ops.pool import MaxPool
from verinn.ops.program import Program
from verinn.ops.registry import OPS

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64]
STRAIGHT = ["relu", "leaky_relu", "clip", "abs"]

ATTRS: dict[str, list[dict[str, float]]] = {
    "leaky_relu": [{"alpha": a} for a in (0.0, 0.01, 0.1, 1.0, 2.7, 1 / 3, 1 + 2.0**-24 - 2.0**-50)],
    "clip": [
        {"lower": low, "upper": high}
        for low, high in (
            (0.0, 6.0),
            (-0.1, 0.7),
            (-1.0, 1.0),
            (0.3, 0.3),
            (-np.inf, 0.1),
            (0.1, np.inf),
            (-1e-9, 1e-9),
        )
    ],
}


def cases(op: str) -> Iterator[tuple[Node, list[float]]]:
    """The operator with its attributes, and the points where it bends."""
    for attrs in ATTRS.get(op, [{}]):
        bends = [v for v in attrs.values() if np.isfinite(v)] if op == "clip" else [0.0]
        yield Node("y", op, ("x",), (1,), frozen(attrs)), bends


def intervals(rng: np.random.Generator, bends: list[float], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes around every special point, at every width, on either side and across; (D, 1) each."""
    ends = []
    for point, width in itertools.product(
        [*bends, 0.0, 1.0, -2.5, 20.0, -20.0, 25.0, -100.0, 1e4, -1e-3, 1e-30],
        [0.0, 1e-38, 1e-9, 1e-6, 1e-3, 0.3, 2.0, 50.0, 1e5],
    ):
        for low, high in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0), rng.random(2)):
            ends.append((point - low * width, point + high * width))
    for _ in range(60):
        ends.append(tuple(np.sort(rng.normal(size=2) * 10.0 ** rng.uniform(-6, 3))))
    pair = torch.tensor(np.asarray(ends), dtype=torch.float64).to(dtype)
    return pair[:, :1].contiguous(), pair[:, 1:].contiguous()


def alphas(rng: np.random.Generator, like: torch.Tensor) -> list[torch.Tensor | None]:
    return [None, torch.from_numpy(rng.uniform(size=like.shape)).to(like.dtype), torch.zeros_like(like)]


def columns(lines: Lines, like: torch.Tensor) -> list[list[Fraction]]:
    offset = torch.zeros_like(like) if lines.lower_offset is None else lines.lower_offset
    found = []
    for t in (lines.lower_slope, offset, lines.upper_slope, lines.upper_offset):
        assert t.dtype == like.dtype and t.shape == like.shape
        found.append(list(exact(t.double().numpy()).reshape(-1)))
    return found


def exact_image(node: Node, x: Fraction) -> Fraction:
    return apply(node, [np.asarray([x], dtype=object)], {})[0]


def straight_violations(op: str, dtype: torch.dtype) -> list[str]:
    """Lines and intervals are checked at the ends and bends, which decides for the whole interval."""
    bad = []
    rng = np.random.default_rng(2)
    handle = OPS[op]
    assert isinstance(handle, Elementwise)
    for node, bends in cases(op):
        lower, upper = intervals(rng, bends, dtype)
        low, high = handle.interval(node, lower, upper)
        boxes = list(zip(lower.reshape(-1).tolist(), upper.reshape(-1).tolist(), strict=True))
        points = [[Fraction(l), Fraction(u), *[Fraction(k) for k in bends if l <= k <= u]] for l, u in boxes]  # noqa: E741
        images = [[exact_image(node, x) for x in xs] for xs in points]
        for box, ys, a, b in zip(boxes, images, low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True):
            if min(ys) < a or max(ys) > b:
                bad.append(f"{op} {dict(node.attrs)} on {box}: image outside [{a}, {b}]")
        for alpha in alphas(rng, lower):
            s, t, s2, t2 = columns(handle.lines(node, lower, upper, alpha), lower)
            for k, (xs, ys) in enumerate(zip(points, images, strict=True)):
                for x, y in zip(xs, ys, strict=True):
                    if s[k] * x + t[k] > y or s2[k] * x + t2[k] < y:
                        bad.append(f"{op} {dict(node.attrs)} on {boxes[k]}: a line is wrong at {float(x)}")
    return bad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", STRAIGHT)
def test_straight_lines_hold_exactly(op: str, dtype: torch.dtype) -> None:
    assert straight_violations(op, dtype) == []


@pytest.mark.parametrize("alpha", [1 + 2**-23 + 2**-24 - 2**-50, (1 + 2**-22 + 2**-24 - 2**-40) / 8, 0.1])
def test_a_slope_that_no_float32_is(alpha: float) -> None:
    """Rounding of the slope and of the product may add up to more than one unit in the last place."""
    handle, node = OPS["leaky_relu"], Node("y", "leaky_relu", ("x",), (1,), frozen({"alpha": alpha}))
    assert isinstance(handle, Elementwise)
    x = -torch.linspace(1, 2, 3001)
    low, high = handle.interval(node, x, x)
    s, t, s2, t2 = columns(handle.lines(node, x, x), x)
    for k, v in enumerate(x.tolist()):
        y = Fraction(v) * Fraction(alpha)
        assert float(low[k]) <= y <= float(high[k])
        assert s[k] * Fraction(v) + t[k] <= y <= s2[k] * Fraction(v) + t2[k]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["relu", "leaky_relu", "clip"])
def test_without_rounding_straight_lines_are_caught(
    op: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "ulps", lambda x, count: torch.zeros_like(x))
    assert straight_violations(op, dtype)


@pytest.mark.parametrize("op", STRAIGHT)
def test_lines_are_not_far_off(op: str) -> None:
    """Sound is easy; on a box of width one the gap at either end is a few times the box's own height at most."""
    handle = OPS[op]
    assert isinstance(handle, Elementwise)
    for node, bends in cases(op):
        lower = torch.tensor([[b - w] for b in bends for w in (0.0, 0.3, 0.5, 1.0)], dtype=torch.float64)
        upper = lower + 1
        low, high = handle.interval(node, lower, upper)
        lines = handle.lines(node, lower, upper)
        offset = torch.zeros_like(lower) if lines.lower_offset is None else lines.lower_offset
        for x in (lower, upper):
            gap = (lines.upper_slope * x + lines.upper_offset) - (lines.lower_slope * x + offset)
            assert bool((gap <= 3 * (high - low) + 1e-6).all())
        stable = ~handle.loose(node, lower, upper)
        assert bool((gap[stable] < 1e-9).all())


def pools() -> Iterator[tuple[Program, Node, MaxPool, np.random.Generator]]:
    for seed in range(40):
        rng = np.random.default_rng([seed, 5])
        program = Program.prepare(CASES["max_pool"](rng), torch.float64)
        (step,) = program.steps
        assert isinstance(step.op, MaxPool)
        yield program, step.node, step.op, rng


def test_max_pool_values_and_intervals() -> None:
    for program, node, op, rng in pools():
        x = torch.from_numpy(rng.normal(size=(2, *program.shapes["x0"])))
        width = torch.from_numpy(np.abs(rng.normal(size=x.shape)) * rng.integers(0, 2, x.shape))
        low, high = op.interval(node, x - width, x + width)
        for d in range(2):
            assert np.array_equal(op.apply(node, x)[d].numpy(), run(program.graph, [exact(x[d].numpy())])[node.name])
        assert bool(((low <= op.apply(node, x)) & (op.apply(node, x) <= high)).all())


def test_max_pool_lines() -> None:
    """The best entry is below the maximum, the ceiling above; a sole entry is the maximum; ``place`` is the
    transpose of picking, and no input is picked more often than stated."""
    for program, node, op, rng in pools():
        x = torch.from_numpy(rng.normal(size=(3, *program.shapes["x0"])))
        width = torch.from_numpy(np.abs(rng.normal(size=x.shape)) * 10.0 ** rng.uniform(-3, 0.5, x.shape))
        best, sole, ceiling = op.choice(node, x - width, x + width)
        for _ in range(10):
            inside = x + width * torch.from_numpy(rng.uniform(-1, 1, x.shape))
            true = op.apply(node, inside)
            picked = op.windows(node, inside, -torch.inf).gather(-1, best.unsqueeze(-1)).squeeze(-1)
            assert bool((picked <= true).all()) and bool((true <= ceiling).all())
            assert torch.equal(picked[sole], true[sole])
            a = torch.from_numpy(rng.integers(-5, 6, true.shape).astype(float))
            placed = op.place(node, best, a, program.shapes["x0"])
            assert torch.allclose((placed * inside).flatten(1).sum(1), (a * picked).flatten(1).sum(1))
        ones = op.place(node, best, torch.ones_like(true), program.shapes["x0"])
        assert int(ones.max()) <= op.terms(node)
