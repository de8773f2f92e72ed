"""Elementwise nonlinear operators: piecewise-linear ones, and the S-shaped tanh and sigmoid.

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


class Tanh(Elementwise):
    """tanh: convex below zero, concave above, odd. Lines by tangent or chord (as in CROWN)."""

    #: f(x) = height · tanh(x · stretch) + level
    stretch, height, level = 1.0, 1.0, 0.0

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.tanh()

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._f(lower.double()), self._f(upper.double())
        return _down(low - _error(low), lower.dtype), _up(high + _error(high), upper.dtype)

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        return lower < upper

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        l, u = lower.double(), upper.double()  # noqa: E741
        with torch.no_grad():
            low_slope, low_point = self._tangent_below(l, u)
            up_slope, up_point = self._tangent_below(-u, -l)
        s, t = self._below(l, u, low_slope, low_point, lower.dtype)
        # f(x) = 2·level − f(−x): a line under f on [−u, −l] is one above f on [l, u]
        s2, t2 = self._below(-u, -l, up_slope, up_point, lower.dtype, mirrored=True)
        return Lines(s, t, s2, t2)

    def _f(self, x: Tensor) -> Tensor:
        return self.height * torch.tanh(x * self.stretch) + self.level

    def _slope(self, x: Tensor) -> Tensor:
        return self.height * self.stretch * (1 - torch.tanh(x * self.stretch).square())

    def _tangent_below(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """The slope of a tight lower line, and its tangent point (NaN where it is a chord)."""
        width = (u - l).clamp(min=1e-300)
        chord = torch.where(u - l > 1e-9, (self._f(u) - self._f(l)) / width, torch.zeros_like(l))
        low, high = l.clone(), torch.minimum(u, torch.zeros_like(u)).clamp(min=l)
        goal_mid = (l + u) / 2
        for _ in range(40):  # the tangent at d < 0 that meets the curve at u
            middle = (low + high) / 2
            above = self._f(middle) + self._slope(middle) * (u - middle) > self._f(u)
            high = torch.where(above, middle, high)
            low = torch.where(above, low, middle)
        point = torch.where(u <= 0, goal_mid, low)
        take_chord = (l >= 0) | (self._slope(l) >= chord * (1 + 1e-9) + 1e-300) & (u > 0)
        slope = torch.where(take_chord, chord, self._slope(point))
        return slope, torch.where(take_chord, torch.full_like(point, math.nan), point)

    def _below(
        self,
        l: Tensor,  # noqa: E741
        u: Tensor,
        slope: Tensor,
        point: Tensor,
        dtype: torch.dtype,
        mirrored: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Offset of the lower line with this slope (given in ``dtype``), rounded down.

        The gap f − line is convex below zero, concave above: its least value is at an end, or at the
        tangent point, near which rounding of the slope moves the line by at most |Δs|·(u − l).
        """
        s = slope.to(dtype).double()
        gap = torch.minimum(self._f(l) - s * l, self._f(u) - s * u)
        at_point = self._f(point) - s * point - (s - self._slope(point)).abs() * (u - l)
        # a chord steeper than the curve at l (by rounding): the gap falls at most this fast from l to 0
        fall = (s - self._slope(l)).clamp(min=0) * (u.clamp(max=0) - l).clamp(min=0)
        gap = torch.minimum(gap, torch.where(point.isnan(), self._f(l) - s * l - fall, at_point))
        reach = torch.maximum(l.abs(), u.abs())
        steepest = self.height * self.stretch
        slack = 64 * torch.finfo(torch.float64).eps * (1 + self.height + (s.abs() + steepest) * reach)
        offset = gap - slack
        return (
            (slope.to(dtype), _up(2 * self.level - offset, dtype))
            if mirrored
            else (slope.to(dtype), _down(offset, dtype))
        )


class Sigmoid(Tanh):
    """1/(1 + exp(−x)) = tanh(x/2)/2 + 1/2."""

    stretch, height, level = 0.5, 0.5, 0.5

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.sigmoid()


def _error(value: Tensor) -> Tensor:
    """Bound on the rounding of a float64 tanh or sigmoid (a few ulp of one)."""
    return 16 * torch.finfo(torch.float64).eps * (1 + value.abs())


def _down(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The float64 tensor rounded down to ``dtype``."""
    if dtype == torch.float64:
        return x
    y = x.to(dtype)
    return torch.where(y.double() > x, torch.nextafter(y, torch.full_like(y, -math.inf)), y)


def _up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The float64 tensor rounded up to ``dtype``."""
    return -_down(-x, dtype)
