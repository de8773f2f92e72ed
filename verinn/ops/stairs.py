"""Elementwise functions with jumps: sign, step, floor, ceil, round. All are non-decreasing."""

from __future__ import annotations

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Elementwise, Interval, Lines


class Stairs(Elementwise):
    """A non-decreasing function, constant between jumps. Its values are exact in any dtype."""

    slots = 2

    def interval(self, node: Node, lower: Tensor, upper: Tensor) -> Interval:
        return self.apply(node, lower), self.apply(node, upper)

    def loose(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor:
        low, high = self.interval(node, lower, upper)
        return low < high

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        low, high = self.interval(node, lower, upper)
        flat = torch.zeros_like(low)
        return Lines(flat, low, flat, high)


class Sign(Stairs):
    """−1, 0 or 1."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.sign()


class Step(Stairs):
    """1 where x > 0 (attrs strict), or where x ≥ 0 (not strict), else 0."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return ((x > 0) if node.attrs["strict"] else (x >= 0)).to(x.dtype)


class Floor(Stairs):
    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.floor()


class Ceil(Stairs):
    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.ceil()


class Round(Stairs):
    """To the nearest whole number, halves to the even one."""

    def apply(self, node: Node, x: Tensor) -> Tensor:
        return x.round()
