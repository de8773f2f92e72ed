"""Products of two variable values: elementwise, and of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Interval, Joint, Planes, ulps
from verinn.ops.flat import Flat

#: a product of matrices up to this many numbers (domains · m · k · n) has its interval term by term
_TERMS = 1 << 24


class Mul(Joint):
    """x · y, two inputs of one shape; x · x is a square."""

    slots = 2

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0] * xs[1]

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        if node.inputs[0] == node.inputs[1]:
            low, high = square(boxes[0])
        else:
            low, high = corners(*boxes)
        down, up = low - ulps(low, 2), high + ulps(high, 2)
        return (down.clamp(min=0), up) if node.inputs[0] == node.inputs[1] else (down, up)

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        return Flat.of(self.interval(node, boxes), boxes)

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        wide = (boxes[0][0] < boxes[0][1]) & (boxes[1][0] < boxes[1][1])
        return [wide, wide]


class Matmul(Joint):
    """x (…, m, k) times y (…, k, n), with the same leading axes."""

    slots = 2

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0] @ xs[1]

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        (low, high), (low2, high2) = boxes
        terms = low.shape[-1]
        rows, columns = low.shape[-2], low2.shape[-1]
        if low.numel() // rows * rows * columns <= _TERMS:
            x = low.unsqueeze(-1), high.unsqueeze(-1)
            y = low2.unsqueeze(-3), high2.unsqueeze(-3)
            least, most = corners(x, y)
            size = torch.maximum(least.abs(), most.abs()).sum(-2)
            least, most = least.sum(-2), most.sum(-2)
        else:
            c, r = low / 2 + high / 2, high / 2 - low / 2
            c2, r2 = low2 / 2 + high2 / 2, high2 / 2 - low2 / 2
            middle, spread = c @ c2, c.abs() @ r2 + r @ (c2.abs() + r2)
            least, most = middle - spread, middle + spread
            size = (c.abs() + r) @ (c2.abs() + r2)
        slack = ulps(size, terms + 8) + terms * torch.finfo(size.dtype).tiny
        return least - slack, most + slack

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        return Flat.of(self.interval(node, boxes), boxes)

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        x, y = boxes[0][0] < boxes[0][1], boxes[1][0] < boxes[1][1]
        return [x & y.any(-1).unsqueeze(-2), y & x.any(-2).unsqueeze(-1)]


def corners(x: Interval, y: Interval) -> Interval:
    """The least and the greatest product, rounded to nearest; an infinite bound times an exact zero is zero."""
    products = [_times(a, b) for a in x for b in y]
    low = torch.minimum(torch.minimum(products[0], products[1]), torch.minimum(products[2], products[3]))
    high = torch.maximum(torch.maximum(products[0], products[1]), torch.maximum(products[2], products[3]))
    return low, high


def _times(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a == 0) | (b == 0), 0.0, a * b)


def square(x: Interval) -> Interval:
    """The least and the greatest square, rounded to nearest."""
    low, high = x
    least = torch.maximum(low, -high).clamp(min=0)
    most = torch.maximum(-low, high)
    return least * least, most * most
