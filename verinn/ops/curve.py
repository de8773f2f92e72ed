"""Smooth scalar functions: their values with a bound on the error, and sound lines over any interval.

All arithmetic is in float64; what it loses is bounded by ``Curve.error`` and moved outward.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Elementwise, Interval, Lines

#: relative error of one elementary function of float64, four units in the last place: the kernels in use
#: (SLEEF "u10", Intel VML's high accuracy, glibc, CUDA) state two or fewer
ELEMENTARY = 8 * 2.0**-53
TINY = float(torch.finfo(torch.float64).tiny)
LARGEST = float(torch.finfo(torch.float64).max)


class Curve(Elementwise):
    """A function of the catalogue. Values over its domain are finite; outside of it, bounds are infinite."""

    slots = 2

    def value(self, node: Node, x: Tensor) -> Tensor:
        """f(x) for float64, off by at most ``error``."""
        raise NotImplementedError

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        """A bound on |y − f(x)| for the computed y; the default suits one elementary function."""
        return y.abs() * ELEMENTARY + TINY

    def range(self, node: Node) -> tuple[float, float]:
        """An interval that holds all values."""
        return -math.inf, math.inf

    def defined(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Where all of [l, u] belongs to one piece of the domain (bool); None: everywhere."""
        return None

    def extremes(self, node: Node, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        """Where an extreme value inside the interval has to join those at its ends (bool), and a bound on it."""
        return []

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return self.value(node, x)

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        return lower < upper

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> Interval:
        low, high = self.image(node, lower.double(), upper.double())
        return down(low, lower.dtype), up(high, upper.dtype)

    def image(self, node: Node, l: Tensor, u: Tensor) -> Interval:  # noqa: E741
        """An interval that contains f([l, u]), in float64; infinite where f is not defined everywhere."""
        first, last = self.value(node, l), self.value(node, u)
        below, above = first - self.error(node, l, first), last - self.error(node, u, last)
        low = torch.minimum(below, above)
        high = torch.maximum(first + self.error(node, l, first), last + self.error(node, u, last))
        for inside, value in self.extremes(node, l, u):
            low = torch.where(inside, low.clamp(max=value), low)
            high = torch.where(inside, high.clamp(min=value), high)
        least, most = self.range(node)
        low, high = low.clamp(least, LARGEST), high.clamp(-LARGEST, most)
        sound = ~(low.isnan() | high.isnan())
        known = self.defined(node, l, u)
        sound = sound if known is None else sound & known
        return torch.where(sound, low, -math.inf), torch.where(sound, high, math.inf)

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        low, high = self.interval(node, lower, upper)
        flat = torch.zeros_like(low)
        return Lines(flat, low, flat, high)


def down(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → ``dtype``, never above x; differentiable."""
    if dtype == torch.float64:
        return x
    info = torch.finfo(dtype)
    y = x.to(dtype).clamp(max=info.max)
    return torch.where(y.double() > x, y - (y.abs() * info.eps + info.tiny), y)


def up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → ``dtype``, never below x; differentiable."""
    return -down(-x, dtype)
