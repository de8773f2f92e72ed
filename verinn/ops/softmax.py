"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Interval, Joint, Planes
from verinn.ops.curve import ELEMENTARY, TINY, down, up
from verinn.ops.flat import Flat


class LogSoftmax(Joint):
    """x_i − log Σ exp(x_j) along attrs axis."""

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0].log_softmax(node.attrs["axis"] + 1)

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        low, high = self.extremes(node, boxes)
        return down(low, boxes[0][0].dtype), up(high, boxes[0][0].dtype)

    def extremes(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        """The exact extremes in float64, rounded outward: x_i at one end, all others at the opposite one."""
        axis = node.attrs["axis"] + 1
        lower, upper = (x.double().movedim(axis, -1) for x in boxes[0])
        low, high = _least(lower, upper), _most(lower, upper)
        return low.movedim(-1, axis), high.movedim(-1, axis)

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        return Flat.of(self.interval(node, boxes), boxes)

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        lower, upper = boxes[0]
        if lower.shape[node.attrs["axis"] + 1] == 1:
            return [torch.zeros_like(lower, dtype=torch.bool)]
        return [lower < upper]


class Softmax(LogSoftmax):
    """exp(x_i) / Σ exp(x_j) along attrs axis."""

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0].softmax(node.attrs["axis"] + 1)

    def extremes(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        low, high = super().extremes(node, boxes)
        low, high = low.exp(), high.exp()
        return (low * (1 - ELEMENTARY) - TINY).clamp(min=0), (high * (1 + ELEMENTARY) + TINY).clamp(max=1)


def _rivals(rest: Tensor, own: Tensor) -> Tensor:
    """log Σ exp(rest_j − own_i) over j ≠ i and a zero in place of i: (…, K)."""
    gaps = rest.unsqueeze(-2) - own.unsqueeze(-1)
    gaps = torch.where(torch.eye(own.shape[-1], dtype=torch.bool, device=own.device), 0.0, gaps)
    return gaps.logsumexp(-1)


def _slack(lower: Tensor, upper: Tensor, value: Tensor) -> Tensor:
    """What differences, exponentials, their sum and the logarithm lose."""
    size = torch.maximum(lower.abs(), upper.abs()).amax(-1, keepdim=True)
    return (2 * size + value.abs() + value.shape[-1] + 4) * (2 * ELEMENTARY)


def _least(lower: Tensor, upper: Tensor) -> Tensor:
    value = -_rivals(upper, lower)
    return (value - _slack(lower, upper, value)).nan_to_num(nan=-torch.inf, posinf=0.0, neginf=-torch.inf)


def _most(lower: Tensor, upper: Tensor) -> Tensor:
    value = -_rivals(lower, upper)
    return (value + _slack(lower, upper, value)).nan_to_num(nan=0.0, posinf=0.0, neginf=-torch.inf).clamp(max=0.0)
