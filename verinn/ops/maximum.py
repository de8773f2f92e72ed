"""The greatest element over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Interval, Joint, Planes, ulps


@dataclass(frozen=True, eq=False)
class WeighedPlanes(Planes):
    """Planes over the elements along axes that the value has with length 1: ``below``, ``above`` are slopes (D, *shape
    of the input)."""

    below: Tensor
    above: Tensor
    axes: tuple[int, ...]
    lower_offset: Tensor
    upper_offset: Tensor
    weight: Tensor
    terms: int = 2

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        return [torch.addcmul(positive * self.below.unsqueeze(1), negative, self.above.unsqueeze(1))]

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        low, high = ((xs[0] * slope).sum(self.axes, keepdim=True) for slope in (self.below, self.above))
        return low + self.lower_offset, high + self.upper_offset


class ReduceMax(Joint):
    """The maximum over attrs axes, which stay with length 1."""

    slots = 2

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0].amax(_axes(node), keepdim=True)

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        lower, upper = boxes[0]
        return lower.amax(_axes(node), keepdim=True), upper.amax(_axes(node), keepdim=True)

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        """Below: the element that is greatest in the middle, or a mixture of those with the greatest lower and
        the greatest upper bound. Above: with h the greatest upper bound of the others, max(x_i, h) for the
        element x_i with the greatest, which is convex in x_i: a chord, or flatter."""
        axes = _axes(node)
        lower, upper = (_last(end, axes) for end in boxes[0])
        dtype, eps = lower.dtype, torch.finfo(lower.dtype).eps
        first, second = lower.argmax(-1, keepdim=True), upper.argmax(-1, keepdim=True)
        if alpha is None:
            below = _unit(lower, (lower / 2 + upper / 2).argmax(-1, keepdim=True))
            part = torch.ones((), dtype=dtype, device=lower.device)
        else:
            mix, part = (alpha[:, slot].reshape(-1, *first.shape[1:]) for slot in (0, 1))
            below = _unit(lower, first) * (1 - mix) + _unit(lower, second) * mix
        own_low, own_high = lower.gather(-1, second), upper.gather(-1, second)
        others = upper.scatter(-1, second, -math.inf).amax(-1, keepdim=True)
        climb = (own_high - others) / (own_high - own_low)
        climb = torch.where(own_low >= others, 1.0, climb.nan_to_num(0.0, 0.0, 0.0).clamp(0, 1))
        s = torch.where(own_low >= others, 1.0, climb * part)
        sole = own_low >= others  # the others never matter
        foot = torch.where(sole, 0.0, others - s * own_low)
        ceiling = torch.where(sole, 0.0, torch.maximum(foot, own_high - s * own_high))
        size = torch.maximum(lower.abs(), upper.abs()).amax(-1, keepdim=True)
        slack = torch.where(sole, 0.0, ulps(size, 6))
        above = _unit(lower, second) * s
        # a mixture's weights may add up to a little more or less than one
        floor = -ulps(size, 4) if alpha is not None else torch.zeros_like(size)
        weight = (size * 2) * (1 + 8 * eps)
        shape = (-1, *node.shape)
        return WeighedPlanes(
            _back(below, axes, boxes[0][0].shape),
            _back(above, axes, boxes[0][0].shape),
            axes,
            floor.reshape(shape),
            (ceiling + slack).reshape(shape),
            weight.reshape(shape),
        )

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        lower, upper = boxes[0]
        least = lower.amax(_axes(node), keepdim=True)
        rival = (upper > least) | (lower == least)
        count = rival.sum(_axes(node), keepdim=True)
        return [rival & (count > 1)]


def _axes(node: Node) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in node.attrs["axes"])


def _last(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x with the axes moved to the end and made one."""
    moved: Tensor = x.movedim(axes, tuple(range(x.dim() - len(axes), x.dim())))
    return moved.flatten(x.dim() - len(axes))


def _back(x: Tensor, axes: tuple[int, ...], shape: torch.Size) -> Tensor:
    """The inverse of ``_last`` for a shape (any, *shape[1:])."""
    rest = tuple(range(len(shape) - len(axes), len(shape)))
    wide: Tensor = x.unflatten(-1, [shape[axis] for axis in axes])
    return wide.movedim(rest, axes)


def _unit(like: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter(-1, index, 1.0)
