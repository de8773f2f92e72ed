"""Every operator's bounds against exact values; and the same gate catches bounds that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from gate import gate, traps
from ops_cases import CASES
from shrinking import Failure, smallest

from verinn.ir.graph import Node, frozen
from verinn.ops import curve, product
from verinn.ops.base import Elementwise
from verinn.ops.registry import OPS

torch.set_num_threads(1)

Patch = pytest.MonkeyPatch


def test_every_operator_passes_the_gate() -> None:
    assert set(CASES) == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_bounds_hold(op: str) -> None:
    report = gate(op, 40)
    assert report.wrong == [], smallest(report)
    assert report.checks > 300


def test_bounds_of_large_products_of_matrices_hold(monkeypatch: Patch) -> None:
    """Where one parameter serves all products of an element."""
    monkeypatch.setattr(product, "_FEW", 0)
    report = gate("matmul", 40)
    assert report.wrong == []
    assert report.checks > 300


def upper_for_lower(patch: Patch) -> None:
    """The second factor's slopes of the planes above, in those below."""
    back = product.TermPlanes.back

    def mixed(self: product.TermPlanes, positive: torch.Tensor, negative: torch.Tensor) -> list[torch.Tensor]:
        twisted = replace(self, below=(self.below[0], self.above[1]))
        return back(twisted, positive, negative)

    patch.setattr(product.TermPlanes, "back", mixed)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_bounds_hold_over_many_boxes(op: str) -> None:
    report = gate(op, 3000, seed=1)
    assert report.wrong == [], smallest(report)


def test_traps() -> None:
    for name, report in traps():
        assert report.wrong == [], name


def ends_only(patch: Patch) -> None:
    """The offset from the ends of the interval, as if every function were concave."""

    def offset(self: curve._Below, s: torch.Tensor, point: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return torch.minimum(self.gap(s, self.l), self.gap(s, self.u))

    patch.setattr(curve._Below, "offset", offset)


def nearest(patch: Patch) -> None:
    """Offsets rounded to nearest instead of outward."""
    patch.setattr(curve, "down", lambda x, dtype: x.to(dtype))


def exact_values(patch: Patch) -> None:
    """Values and differences taken as exact."""
    for op in ("tanh", "sin", "softplus"):
        patch.setattr(type(OPS[op]), "error", lambda self, node, x, y: torch.zeros_like(y))
    patch.setattr(curve, "ELEMENTARY", 0.0)


def convex_everywhere(patch: Patch) -> None:
    """Bends of the wrong kind: x³ and tanh as if they were convex."""
    for op in ("tanh", "pow", "sin"):
        patch.setattr(type(OPS[op]), "bends", lambda self, node, lower, upper: curve.Bends((1,)))


@pytest.mark.parametrize(
    ("mutant", "ops"),
    [
        (ends_only, ["tanh", "exp", "sin", "gelu"]),
        (nearest, ["tanh", "exp", "sin", "gelu"]),
        (exact_values, ["tanh", "sin", "softplus"]),
        (convex_everywhere, ["tanh", "pow", "sin"]),
        (upper_for_lower, ["matmul"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_lines_are_caught(mutant: Callable[[Patch], None], ops: list[str], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    assert any(gate(op, 60).wrong for op in ops)


def test_a_failure_is_made_small(monkeypatch: Patch) -> None:
    """Of sines as if they were convex, Hypothesis finds one of a single element, between round ends."""
    convex_everywhere(monkeypatch)
    report = gate("sin", 20)
    assert report.failed is not None and report.failed[1].shape[1] > 1
    small = smallest(report)
    assert isinstance(small, Failure) and str(small).startswith("sin")
    assert small.low.size == 1 and small.low[0] < small.high[0]
    assert all(round(float(end[0]), 1) == pytest.approx(float(end[0]), abs=1e-6) for end in (small.low, small.high))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("op", [name for name, entry in OPS.items() if isinstance(entry, curve.Curve)])
def test_lines_are_differentiable_and_near_the_best(op: str, dtype: torch.dtype) -> None:
    """On boxes of ordinary size, some parameter comes close to the best line below, whose value in the middle
    is that of the convex hull of a dense sample; and gradients by
    the parameters are finite."""
    attrs = {"elu": [{"alpha": 1.0}], "pow": [{"exponent": float(p)} for p in (2, 3, 4, 5, -1, 0.5, 1.5)]}
    for fields in attrs.get(op, [{}]):
        node, handle = Node("y", op, ("x",), (1,), frozen(fields)), OPS[op]
        assert isinstance(handle, Elementwise)
        rng = np.random.default_rng(1)
        centre = rng.uniform(-4, 4, (60, 1))
        half = 10.0 ** rng.uniform(-2, 0.3, (60, 1))
        low, high = centre - half, centre + half
        if op == "tan":
            low, high = centre / 4, centre / 4 + half.clip(max=0.4)
        elif op in ("log", "sqrt", "reciprocal", "pow"):
            low, high = abs(centre) + 0.05, abs(centre) + 0.05 + half
        lower, upper = torch.from_numpy(low).to(dtype), torch.from_numpy(high).to(dtype)
        part = torch.linspace(0, 1, 401, dtype=torch.float64)
        x = lower.double() + (upper.double() - lower.double()) * part
        y = handle.apply(node, x)
        middle = x[:, 200]
        for sense in (1, -1):
            best = torch.full((60,), -torch.inf, dtype=torch.float64)
            for k in range(21):
                alpha = torch.full((60, 2, 1), k / 20, dtype=dtype, requires_grad=True)
                lines = handle.lines(node, lower, upper, alpha)
                parts = (lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
                (grad,) = (
                    torch.autograd.grad(sum(part.sum() for part in parts), alpha, allow_unused=True)
                    if any(part.requires_grad for part in parts)
                    else (None,)
                )
                assert grad is None or bool(grad.isfinite().all())
                slope, offset = parts[:2] if sense > 0 else parts[2:]
                best = torch.maximum(best, sense * (slope * middle.unsqueeze(1) + offset).double().squeeze(1).detach())
            hull = _hull_at_middle(part.numpy(), (sense * y).numpy())
            reach = (y.amax(1) - y.amin(1)).numpy()
            assert bool((best.numpy() >= hull - 0.08 * reach - 1e-4).all()), (
                op,
                fields,
                sense,
            )


def _hull_at_middle(part: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The convex hull of samples (n, k) at their middle: the least of all chords across it."""
    k = len(part) // 2
    left, right = part[:k:4], part[k + 1 :: 4]
    weight = (part[k] - left)[:, None] / (right[None, :] - left[:, None])
    ys = values[:, None, k + 1 :: 4] * weight + values[:, :k:4, None] * (1 - weight)
    return np.minimum(ys.min((1, 2)), values[:, k])
