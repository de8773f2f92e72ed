"""Elementwise functions with jumps: sign, step, floor, ceil, round. All are non-decreasing."""

from __future__ import annotations

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Elementwise, Interval, Lines
from verinn.ops.curve import ELEMENTARY, TINY, down, up

#: the nearest to an end of the interval, as a part of its width, that a line may aim at a jump
_NEAREST = 0.02


class Stairs(Elementwise):
    """A non-decreasing function, constant between jumps. Its values are exact in any dtype.

    A line of any slope ≥ 0 is below it when it is so at the upper end and just before each jump; jumps lie on
    one line, of which the first and the last decide. The steepest that is offered passes from just before the
    first jump to the upper end.
    """

    slots = 2

    def jumps(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """The first and the last jump in the interval (float64; any where there is none), and how much higher
        the function is right after, and lower right before, than the line on which all jumps lie."""
        raise NotImplementedError

    def trend(self, node: Node, x: Tensor) -> Tensor:
        """The line on which the jumps lie, at a jump."""
        raise NotImplementedError

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> Interval:
        return self.apply(node, lower), self.apply(node, upper)

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        low, high = self.interval(node, lower, upper)
        return low < high

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        dtype = lower.dtype
        l, u = lower.double(), upper.double()  # noqa: E741
        low, high = self.apply(node, l), self.apply(node, u)
        first, last, below, above = self.jumps(node, l, u)
        some = (low < high) & l.isfinite() & u.isfinite()
        width = (u - l).clamp(min=1e-30)
        middle = l + (u - l) / 2
        rise = torch.where(some, high - low, 0.0)
        steep = rise / torch.maximum(u - first, _NEAREST * width)
        steep2 = rise / torch.maximum(last - l, _NEAREST * width)
        many = last > first
        if alpha is None:  # what is highest, or lowest, in the middle; where there are many jumps, in between
            part = torch.where(many, 0.9, (middle > first).double())
            part2 = torch.where(many, 0.9, (middle < last).double())
        else:
            part, part2 = alpha[:, 0].double(), alpha[:, 1].double()
        s, t = self._held(steep * part, dtype), self._held(steep2 * part2, dtype)
        jumps = [(place, self.trend(node, place)) for place in (first, last)]
        corners = [(u, high), *[(place, torch.maximum(y + below, low)) for place, y in jumps]]
        corners2 = [(l, low), *[(place, torch.minimum(y + above, high)) for place, y in jumps]]
        floor = torch.stack([self._gap(s, x, y, -1) for x, y in corners]).amin(0)
        ceiling = torch.stack([self._gap(t, x, y, 1) for x, y in corners2]).amax(0)
        s, t = (torch.where(some, slope, 0.0).to(dtype) for slope in (s, t))
        floor, ceiling = torch.where(some, floor, low), torch.where(some, ceiling, high)
        return Lines(s, down(floor, dtype), t, up(ceiling, dtype))

    def _held(self, slope: Tensor, dtype: torch.dtype) -> Tensor:
        return slope.to(dtype).double().nan_to_num(0.0, 0.0, 0.0)

    def _gap(self, s: Tensor, x: Tensor, y: Tensor, way: int) -> Tensor:
        return y - s * x + way * ((y.abs() + (s * x).abs()) * ELEMENTARY + TINY)


class Sign(Stairs):
    """−1, 0 or 1."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.sign()

    def jumps(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float, float]:
        return torch.zeros_like(lower), torch.zeros_like(lower), -1.0, 1.0

    def trend(self, node: Node, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Step(Stairs):
    """1 where x > 0 (attrs strict), or where x ≥ 0 (not strict), else 0."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return ((x > 0) if node.attrs["strict"] else (x >= 0)).to(x.dtype)

    def jumps(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float, float]:
        return torch.zeros_like(lower), torch.zeros_like(lower), 0.0, 1.0

    def trend(self, node: Node, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Floor(Stairs):
    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.floor()

    def jumps(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float, float]:
        return lower.floor() + 1, upper.floor(), -1.0, 0.0

    def trend(self, node: Node, x: Tensor) -> Tensor:
        return x


class Ceil(Stairs):
    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.ceil()

    def jumps(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float, float]:
        return lower.ceil(), upper.ceil() - 1, 0.0, 1.0

    def trend(self, node: Node, x: Tensor) -> Tensor:
        return x


class Round(Stairs):
    """To the nearest whole number, halves to the even one."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.round()

    def jumps(self, node: Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """At halves: those from which the interval reaches both sides, or a side and the half itself."""
        return (lower - 0.5).ceil() + 0.5, (upper + 0.5).floor() - 0.5, -0.5, 0.5

    def trend(self, node: Node, x: Tensor) -> Tensor:
        return x
