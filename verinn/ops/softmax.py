"""Softmax and its logarithm along one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Interval, Joint, Planes
from verinn.ops.curve import ELEMENTARY, TINY, down, up
from verinn.ops.flat import Flat

#: with more numbers than this (domains · K · K) in one tensor of slopes, planes are constant
_MOST = 1 << 26
_EPS = torch.finfo(torch.float64).eps
#: an element this far below the greatest of its row counts for nothing, as a large negative mask leaves them
_FAR = 300.0
#: at least what such an element changes any probability by, with 1 to spare for rounding
_GONE = math.exp(1 - _FAR)


@dataclass(frozen=True, eq=False)
class DensePlanes(Planes):
    """Planes of every element along an axis over all elements along it: slopes (D, …, K, K), the last axis that
    of the input, the others in the order of the value's with the axis moved to the end."""

    below: Tensor
    above: Tensor
    axis: int
    lower_offset: Tensor
    upper_offset: Tensor
    weight: Tensor
    terms: int

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        parts = []
        for a, slopes in ((positive, self.below), (negative, self.above)):
            rows = a.movedim(self.axis + 1, -1).movedim(1, -2)  # (D, …, R, K)
            parts.append(rows @ slopes)
        return [(parts[0] + parts[1]).movedim(-2, 1).movedim(-1, self.axis + 1)]

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = xs[0].movedim(self.axis, -1).unsqueeze(-1)
        low, high = ((slopes @ x).squeeze(-1).movedim(-1, self.axis) for slopes in (self.below, self.above))
        return low + self.lower_offset, high + self.upper_offset


class LogSoftmax(Joint):
    """x_i − log Σ exp(x_j) along attrs axis."""

    slots = 2

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

    def near(self, node: Node, boxes: Sequence[Interval]) -> tuple[Sequence[Interval], Tensor | None, Tensor | None]:
        """Boxes over which the value is nearly the same, which of their elements are constants there that stand for
        others (bool), and how far at most the value moves with them (float64); None, None: the boxes themselves."""
        return boxes, None, None

    def planes(self, node: Node, boxes: Sequence[Interval], alpha: Tensor | None = None) -> Planes:
        """Above: the log-sum-exp is above its tangent at a point of the box. Below: each exp(x_j − x_i) is below
        its chord, so their sum is below a linear T, and log T below its tangent at a value of T; 1/T above.

        The bounds of Wei, Wu, Wu, Chen, Barrett and Farchi, "Convex Bounds on the Softmax Function with
        Applications to Robustness Verification" (AISTATS 2023), made linear. Parameters move both points.
        Where a constant lies better in the middle of the box, it is taken.
        """
        axis, dtype = node.attrs["axis"] + 1, boxes[0][0].dtype
        boxes, far, gone = self.near(node, boxes)
        lower, upper = (x.double().movedim(axis, -1) for x in boxes[0])
        if lower.numel() * lower.shape[-1] > _MOST:
            return Flat.of(self.interval(node, boxes), boxes)
        low, high = (None, None) if alpha is None else (alpha[:, k].double().movedim(axis, -1) for k in (0, 1))
        middle = lower / 2 + upper / 2
        gap = upper.unsqueeze(-2) - lower.unsqueeze(-1), lower.unsqueeze(-2) - upper.unsqueeze(-1)
        own = torch.eye(lower.shape[-1], dtype=torch.bool, device=lower.device)
        most, least = (
            torch.where(own, 0.0, end + sign * end.abs() * _EPS) for end, sign in zip(gap, (1, -1), strict=True)
        )
        width = (upper - lower).unsqueeze(-2) * (1 + 4 * _EPS)
        ends = [end.movedim(axis, -1) for end in self.extremes(node, boxes)]
        below = self._below(least, most, middle, low)
        logs = [end.movedim(axis, -1) for end in LogSoftmax.extremes(self, node, boxes)]
        above = self._above(lower, upper, middle, high, logs)
        fixed = None if far is None else far.movedim(axis, -1).unsqueeze(-2)
        spare = 0.0 if gone is None else gone.movedim(axis, -1)
        made = [
            _held(_without(slopes, fixed), value + way * spare, middle, width, constant, way, dtype)
            for (slopes, value), constant, way in ((below, ends[0], -1), (above, ends[1], 1))
        ]
        size = torch.maximum(lower.abs(), upper.abs()).unsqueeze(-2)
        steep = torch.maximum(made[0][0].abs(), made[1][0].abs()).double()
        weight = up((steep * size).sum(-1) * (1 + 1e-6), dtype).movedim(-1, axis)
        offsets = down(made[0][1], dtype).movedim(-1, axis), up(made[1][1], dtype).movedim(-1, axis)
        return DensePlanes(made[0][0], made[1][0], axis, *offsets, weight, lower.shape[-1] + 2)

    def _below(self, least: Tensor, most: Tensor, middle: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor]:
        """Slopes (…, K, K) of a plane below, and its value (…, K) at the middle, rounded down."""
        steps, total, error = _chords(least, most, middle)
        start = _start(least, most, total, part)
        steps = steps / start.unsqueeze(-1)
        value = 1 - torch.log(start) - total / start
        slack = (2 + start.log().abs() + total / start) * (16 * ELEMENTARY) + error / start
        return _centred(-steps), value - slack

    def _above(
        self, lower: Tensor, upper: Tensor, middle: Tensor, part: Tensor | None, logs: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Slopes (…, K, K) of a plane above, and its value (…, K) at the middle, rounded up."""
        weights, value, error = _tangent(lower, upper, middle, part)
        return _centred(-weights), -value + error

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        lower, upper = self.near(node, boxes)[0][0]
        if lower.shape[node.attrs["axis"] + 1] == 1:
            return [torch.zeros_like(lower, dtype=torch.bool)]
        return [lower < upper]


class Softmax(LogSoftmax):
    """exp(x_i) / Σ exp(x_j) along attrs axis."""

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0].softmax(node.attrs["axis"] + 1)

    def near(self, node: Node, boxes: Sequence[Interval]) -> tuple[Sequence[Interval], Tensor | None, Tensor | None]:
        """Elements at most m − 300, with m a lower bound of the row's greatest, are lifted to m − 300: each changes
        the sum of all exponentials, which is at least exp(m), by a part of exp(−300). What a mask of −1e9 or of the
        type's least number leaves of an element would else lose all others in its rounding."""
        axis = node.attrs["axis"] + 1
        lower, upper = boxes[0]
        greatest = lower.amax(axis, keepdim=True)
        level = greatest - _FAR
        far = (upper <= level) & (greatest.double() - level.double() >= _FAR - 0.5)
        if not bool(far.any()):
            return boxes, None, None
        gone = far.any(axis, keepdim=True).double() * (lower.shape[axis] * _GONE)
        return [(torch.where(far, level, lower), torch.where(far, level, upper))], far, gone

    def extremes(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        boxes, _, gone = self.near(node, boxes)
        low, high = super().extremes(node, boxes)
        low, high = low.exp() * (1 - ELEMENTARY) - TINY, high.exp() * (1 + ELEMENTARY) + TINY
        if gone is not None:
            low, high = low - gone * (1 + _EPS), high + gone * (1 + _EPS)
        return low.clamp(min=0), high.clamp(max=1)

    def _below(self, least: Tensor, most: Tensor, middle: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor]:
        """1/T is convex, above its tangent at t: 2/t − T/t²."""
        steps, total, error = _chords(least, most, middle)
        start = _start(least, most, total, part)
        value = (2 - total / start) / start
        slack = ((2 + total / start) * (16 * ELEMENTARY) + error / start) / start
        return _centred(-steps / start.square().unsqueeze(-1)), value - slack

    def _above(
        self, lower: Tensor, upper: Tensor, middle: Tensor, part: Tensor | None, logs: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """exp(−L) is below its chord over the values that the log-sum-exp L of differences takes."""
        weights, value, error = _tangent(lower, upper, middle, part)
        first, last = (end * (1 + ELEMENTARY) + TINY for end in (logs[0].exp(), logs[1].exp()))
        span = logs[1] - logs[0]
        c = torch.where(span > 1e-9, (last - first) / span, last)
        # a line c·(z − logs[0]) + base over z = −L, at least exp(z) at both ends, whatever c
        base = torch.maximum(first, last - c * span)
        reach = -value - logs[0]
        top = base + c * reach + c * error + (base.abs() + c * (span + reach.abs() + logs[0].abs())) * (8 * ELEMENTARY)
        return c.unsqueeze(-1) * _centred(-weights), top


def _without(slopes: Tensor, fixed: Tensor | None) -> Tensor:
    """Slopes over elements that are constants are none: the plane's value there says all."""
    return slopes if fixed is None else torch.where(fixed, 0.0, slopes)


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


def _centred(slopes: Tensor) -> Tensor:
    """Slopes over differences x_j − x_i (…, i, j) as slopes over x."""
    own = torch.eye(slopes.shape[-1], dtype=torch.bool, device=slopes.device)
    slopes = torch.where(own, 0.0, slopes)
    return torch.where(own, -slopes.sum(-1, keepdim=True), slopes)


def _chords(least: Tensor, most: Tensor, middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the chords of exp over the differences, the sum T of chords at the middle, and a bound on its error."""
    low, high = least.exp(), most.exp()
    width = most - least
    steps = torch.where(width > 1e-9, (high - low) / width, high)
    here = middle.unsqueeze(-2) - middle.unsqueeze(-1)
    values = torch.maximum(low + steps * (here - least), high - steps * (most - here))
    size = high + steps * (width + least.abs() + most.abs())
    return steps, values.sum(-1), size.sum(-1) * (16 * ELEMENTARY + _EPS * len(size.shape) * size.shape[-1])


def _start(least: Tensor, most: Tensor, total: Tensor, part: Tensor | None) -> Tensor:
    """Where T is linearised: its value at the middle, or by parameters anywhere between its least and greatest."""
    if part is None:
        return total
    low, high = least.logsumexp(-1), most.logsumexp(-1)
    return torch.exp(low + part * (high - low))


def _tangent(lower: Tensor, upper: Tensor, middle: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The tangent of L_i = log Σ exp(x_j − x_i) at a point: weights (…, i, j) of the differences, the tangent's
    value (…, i) at the middle, and a bound on its error. Parameters move x_i one way and the others the other way."""
    own = torch.eye(middle.shape[-1], dtype=torch.bool, device=middle.device)
    there = middle.unsqueeze(-2)
    if part is not None:
        lean = (2 * part - 1).unsqueeze(-1) * (upper - lower).unsqueeze(-2) / 2
        there = there + torch.where(own, lean, -lean)
    else:
        there = there.expand(*middle.shape, middle.shape[-1])
    gaps = there - torch.where(own, there, 0.0).sum(-1, keepdim=True)
    weights, level = gaps.softmax(-1), gaps.logsumexp(-1)
    moved = (middle.unsqueeze(-2) - middle.unsqueeze(-1)) - gaps
    value = level + (weights * moved).sum(-1)
    reach = torch.maximum(lower.abs(), upper.abs()).amax(-1, keepdim=True)
    terms = 16 * ELEMENTARY + _EPS * middle.shape[-1]
    return weights, value, (4 * reach + level.abs() + moved.abs().amax(-1) + middle.shape[-1]) * terms


def _held(
    slopes: Tensor, value: Tensor, middle: Tensor, width: Tensor, constant: Tensor, way: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(slopes of ``dtype``, offset): the plane through ``value`` at the middle, moved by ``way`` for what rounding
    changes over the box; or the constant, where it is better in the middle or the plane is no number."""
    held = slopes.to(dtype)
    lost = (slopes.detach() - held.detach().double()).abs()
    error = slopes.detach().abs() * (128 * ELEMENTARY + _EPS * slopes.shape[-1]) + TINY  # exponents may be large
    moved = ((lost + error + error.sum(-1, keepdim=True) * _own(error)) * width).sum(-1) * (1 + 1e-9)
    size = (held.double().abs() * middle.unsqueeze(-2).abs()).sum(-1)
    level = (held.double() * middle.unsqueeze(-2)).sum(-1)
    slack = moved + (size + value.abs()) * (8 * ELEMENTARY + _EPS * slopes.shape[-1]) + TINY
    offset = value - level + way * slack
    better = (way * (value + way * slack) < way * constant) & held.isfinite().all(-1) & offset.isfinite()
    return torch.where(better.unsqueeze(-1), held, 0.0), torch.where(better, offset, constant)


def _own(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
