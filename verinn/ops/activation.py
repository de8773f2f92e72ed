"""Piecewise-linear elementwise operators.

Every line returned holds in exact arithmetic: whatever slope is chosen, in whatever precision, the
offset is then taken from the points where the distance to the function is extreme, and moved
outward by the rounding of those few operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Elementwise, Lines, ulps
from verinn.ops.curve import down, up


class Relu(Elementwise):
    """max(x, 0). The lower line's slope is alpha where unstable (CROWN: 1 if u > −l, else 0)."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.relu()

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return lower.relu(), upper.relu()

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower < 0) & (upper > 0)

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        active = (lower >= 0).to(lower.dtype)
        unstable = self.loose(node, lower, upper)
        u = torch.where(unstable, upper, 0.0)
        l = torch.where(unstable, lower, -1.0)  # noqa: E741 -- l and u are the field's names
        s = u / (u - l)
        t = torch.maximum(-(s * l), u - s * u) + ulps(u, 4)
        chosen = (u > -l).to(lower.dtype) if alpha is None else alpha
        return Lines(
            torch.where(unstable, chosen, active),
            None,
            torch.where(unstable, s, active),
            torch.where(unstable, t, 0.0),
        )


class PiecewiseLinear(Elementwise):
    """A continuous function with straight pieces between kinks; non-decreasing or convex."""

    def kinks(self, node: Node) -> list[float]:
        raise NotImplementedError

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.stack([self.apply(node, p) for p in self._points(node, lower, upper)])
        low, high = values.amin(0), values.amax(0)
        return low - ulps(low, 2), high + ulps(high, 2)  # an inexact slope, a product, this sum

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        inside = [(lower < kink) & (upper > kink) for kink in self.kinks(node)]
        return torch.stack(inside).any(0) if inside else torch.zeros_like(lower, dtype=torch.bool)

    def _points(self, node: Node, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """Both ends and every kink moved into [l, u]: where a piecewise-linear gap is extreme."""
        inner = [torch.clamp(torch.full_like(lower, kink), lower, upper) for kink in self.kinks(node)]
        return [lower, upper, *inner]

    def slopes(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        """Slopes of the lower and of the upper line; any value is sound, some are tight."""
        raise NotImplementedError

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        low_slope, up_slope = self.slopes(node, lower, upper, alpha)
        points = self._points(node, lower, upper)
        values = [self.apply(node, p) for p in points]
        slack = torch.stack([ulps(f, 3) + ulps(low_slope * p, 3) for f, p in zip(values, points, strict=True)]).amax(0)
        low = torch.stack([f - low_slope * p for f, p in zip(values, points, strict=True)]).amin(0) - slack
        slack = torch.stack([ulps(f, 3) + ulps(up_slope * p, 3) for f, p in zip(values, points, strict=True)]).amax(0)
        high = torch.stack([f - up_slope * p for f, p in zip(values, points, strict=True)]).amax(0) + slack
        return Lines(low_slope, low, up_slope, high)

    def _chord(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        width = upper - lower
        rise = self.apply(node, upper) - self.apply(node, lower)
        return torch.where(width > 0, rise / width, torch.zeros_like(width))


class LeakyRelu(PiecewiseLinear):
    """x for x ≥ 0, alpha·x below (alpha ≥ 0 of any size: convex below one, concave above)."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, x * node.attrs["alpha"])

    def kinks(self, node: Node) -> list[float]:
        return [0.0]

    def slopes(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        a = node.attrs["alpha"]
        chord = self._chord(node, lower, upper)
        steep = (upper > -lower).to(lower.dtype) if alpha is None else alpha
        free = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, a, a + (1.0 - a) * steep)).to(lower.dtype)
        return (free, chord) if a <= 1 else (chord, free)


class PRelu(PiecewiseLinear):
    """x for x ≥ 0, slope·x below (params slope, which broadcasts to x's shape; of any size and sign)."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, x * self._slope(node, x))

    def kinks(self, node: Node) -> list[float]:
        return [0.0]

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super().interval(node, lower, upper)
        error = self._error(node, lower)
        return low - error, high + error

    def slopes(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        a = self._slope(node, lower)
        chord = self._chord(node, lower, upper)
        steep = (upper > -lower).to(lower.dtype) if alpha is None else alpha
        free = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, a, a + (1.0 - a) * steep)).to(lower.dtype)
        return torch.where(a <= 1, free, chord), torch.where(a <= 1, chord, free)

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        lines = super().lines(node, lower, upper, alpha)
        assert lines.lower_offset is not None
        error = self._error(node, lower)
        low, high = lines.lower_offset - error, lines.upper_offset + error
        return Lines(lines.lower_slope, low - ulps(low, 1), lines.upper_slope, high + ulps(high, 1))

    def _slope(self, node: Node, x: Tensor) -> Tensor:
        return torch.from_numpy(node.params["slope"].value).to(x)

    def _error(self, node: Node, lower: Tensor) -> Tensor:
        """What the slope's own error and its rounding may move values by, for x ≥ ``lower``."""
        const = node.params["slope"]
        exact = torch.from_numpy(const.value).to(lower.device)
        error = (exact - exact.to(lower.dtype).double()).abs()
        if const.error is not None:
            error = error + torch.as_tensor(const.error).to(error)
        moved = error * (-lower.double()).clamp(min=0)
        return torch.where(moved > 0, moved * (1 + 1e-6) + torch.finfo(lower.dtype).tiny, 0.0).to(lower.dtype)


class Abs(PiecewiseLinear):
    """|x|: convex, the lower line's slope anywhere in [−1, 1]."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.abs()

    def kinks(self, node: Node) -> list[float]:
        return [0.0]

    def slopes(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        steep = (upper > -lower).to(lower.dtype) if alpha is None else alpha
        free = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, -1.0, 2 * steep - 1)).to(lower.dtype)
        return free, self._chord(node, lower, upper)


class Clip(PiecewiseLinear):
    """min(max(x, lower), upper): convex at its lower kink, concave at its upper one."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.clamp(node.attrs["lower"], node.attrs["upper"])

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact ends: a number is only chosen, so what is clipped to one number stays that number."""
        low, high = node.attrs["lower"], node.attrs["upper"]
        return down(lower.double().clamp(low, high), lower.dtype), up(upper.double().clamp(low, high), upper.dtype)

    def kinks(self, node: Node) -> list[float]:
        return [kink for kink in (node.attrs["lower"], node.attrs["upper"]) if math.isfinite(kink)]

    def slopes(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        low, high = node.attrs["lower"], node.attrs["upper"]
        foot, head = torch.clamp(lower, min=low), torch.clamp(upper, max=high)
        zero = torch.zeros_like(lower)
        # lower line: runs from (foot or origin of the rise) to (u, f(u)); alpha between flat and that
        rise = torch.where(upper > foot, (head - foot) / (upper - foot), zero).clamp(0, 1)
        steep = (upper - foot > foot - lower).to(lower.dtype) if alpha is None else alpha
        low_slope = torch.where(lower >= low, torch.where(upper <= high, torch.ones_like(zero), rise), rise * steep)
        # upper line: from (l, f(l)) to the upper kink, or flat
        climb = torch.where(head > lower, (head - foot) / (head - lower), zero).clamp(0, 1)
        steep = (head - lower > upper - head).to(lower.dtype) if alpha is None else alpha
        up_slope = torch.where(upper <= high, climb, climb * steep)
        return low_slope, up_slope
