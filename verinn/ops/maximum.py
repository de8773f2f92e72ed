"""The greatest element over axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Interval, Joint, Planes
from verinn.ops.flat import Flat


class ReduceMax(Joint):
    """The maximum over attrs axes, which stay with length 1."""

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0].amax(_axes(node), keepdim=True)

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        lower, upper = boxes[0]
        return lower.amax(_axes(node), keepdim=True), upper.amax(_axes(node), keepdim=True)

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        return Flat.of(self.interval(node, boxes), boxes)

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        lower, upper = boxes[0]
        least = lower.amax(_axes(node), keepdim=True)
        rival = (upper > least) | (lower == least)
        count = rival.sum(_axes(node), keepdim=True)
        return [rival & (count > 1)]


def _axes(node: Node) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in node.attrs["axes"])
