"""Products of two variable values: elementwise, and of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.ir.graph import Node, frozen
from verinn.ops.base import Interval, Joint, Planes, ulps
from verinn.ops.catalogue import Pow
from verinn.ops.curve import down, up

#: a product of matrices up to this many numbers (domains · m · k · n) has its interval term by term
_TERMS = 1 << 22
#: a product of matrices up to this many products has a parameter for each
_FEW = 1 << 14
_SQUARE, _TWO = Pow(), frozen({"exponent": 2.0})
_TINY = float(torch.finfo(torch.float64).tiny)


@dataclass(frozen=True, eq=False)
class MulPlanes(Planes):
    """below[0]·x + below[1]·y + lower_offset ≤ x·y ≤ above[0]·x + above[1]·y + upper_offset."""

    below: tuple[Tensor, Tensor]
    above: tuple[Tensor, Tensor]
    lower_offset: Tensor
    upper_offset: Tensor
    weight: Tensor
    terms: int = 2

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        return [
            torch.addcmul(positive * low.unsqueeze(1), negative, high.unsqueeze(1))
            for low, high in zip(self.below, self.above, strict=True)
        ]

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        low = self.below[0] * xs[0] + self.below[1] * xs[1] + self.lower_offset
        return low, self.above[0] * xs[0] + self.above[1] * xs[1] + self.upper_offset


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
        """Both planes of the envelope (McCormick, Mathematical Programming 1976) mixed by parameters, one half each
        where none are given; of a square, a tangent and the chord."""
        dtype = boxes[0][0].dtype
        half = torch.full((1, 2, *node.shape), 0.5, dtype=dtype, device=boxes[0][0].device) if alpha is None else alpha
        if node.inputs[0] == node.inputs[1]:
            lines = _SQUARE.lines(Node(node.name, "pow", node.inputs[:1], node.shape, _TWO), *boxes[0], alpha)
            low, high = lines.lower_slope / 2, lines.upper_slope / 2
            assert lines.lower_offset is not None
            below, above, offsets = (low, low), (high, high), (lines.lower_offset, lines.upper_offset)
        else:
            below, above = _slopes(boxes, half[:, 0], half[:, 1])
            known = [slope.isfinite() for slope in (*below, *above)]
            usable = known[0] & known[1] & known[2] & known[3]
            below, above = ((_where(usable, p), _where(usable, q)) for p, q in (below, above))
            offsets = self._offsets(node, boxes, below, above)
            sound = offsets[0].isfinite() & offsets[1].isfinite()
            below, above = ((_where(sound, p), _where(sound, q)) for p, q in (below, above))
            flat = self.interval(node, boxes)
            offsets = torch.where(sound, offsets[0], flat[0]), torch.where(sound, offsets[1], flat[1])
        x, y = (torch.maximum(low.abs(), high.abs()) for low, high in boxes)
        steep = [torch.maximum(low.abs(), high.abs()) for low, high in zip(below, above, strict=True)]
        weight = (_times(steep[0], x) + _times(steep[1], y)) * (1 + 8 * torch.finfo(dtype).eps)
        return MulPlanes(below, above, *offsets, weight)

    def _offsets(
        self,
        node: Node,
        boxes: Sequence[Interval],
        below: tuple[Tensor, Tensor],
        above: tuple[Tensor, Tensor],
    ) -> Interval:
        """The least of x·y − p·x − q·y, which is at a corner whatever p and q are, and the greatest."""
        xs, ys = ([end.double() for end in box] for box in boxes)
        eps = 8 * torch.finfo(torch.float64).eps

        def gaps(slopes: tuple[Tensor, Tensor], sign: float) -> Tensor:
            p, q = (slope.double() for slope in slopes)
            found = []
            for x in xs:
                for y in ys:
                    a, b, c = x * y, p * x, q * y
                    found.append((a - b - c) * sign - (a.abs() + b.abs() + c.abs()) * eps - _TINY)
            return torch.stack(found).amin(0)

        dtype = boxes[0][0].dtype
        return down(gaps(below, 1.0), dtype), up(-gaps(above, -1.0), dtype)

    def loose(self, node: Node, boxes: Sequence[Interval]) -> list[Tensor]:
        wide = (boxes[0][0] < boxes[0][1]) & (boxes[1][0] < boxes[1][1])
        return [wide, wide]


def _where(mask: Tensor, x: Tensor) -> Tensor:
    return torch.where(mask, x, 0.0)


def _slopes(
    boxes: Sequence[Interval], low: Tensor, high: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Slopes (of x, of y) of the lower and of the upper plane for parameters."""
    (lx, ux), (ly, uy) = boxes
    wx, wy = ux - lx, uy - ly
    return (ly + low * wy, lx + low * wx), (uy - high * wy, lx + high * wx)


@dataclass(frozen=True, eq=False)
class MatmulPlanes(Planes):
    """The planes of all products x_ik·y_kj, mixed by one parameter for each element (i, j) of the result, and
    summed over k. Slopes are never written out: those of x_ik below are y's lower end + parameter · y's width."""

    boxes: Sequence[Interval]
    low: Tensor
    high: Tensor
    lower_offset: Tensor
    upper_offset: Tensor
    weight: Tensor
    terms: int

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        (lx, ux), (ly, uy) = ([end.unsqueeze(1) for end in box] for box in self.boxes)
        wx, wy = (ux - lx).mT, (uy - ly).mT
        low, high = positive * self.low.unsqueeze(1), negative * self.high.unsqueeze(1)
        x = positive @ ly.mT + negative @ uy.mT + (low - high) @ wy
        y = lx.mT @ (positive + negative) + wx @ (low + high)
        return [x, y]

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (lx, ux), (ly, uy) = self.boxes
        x, y = xs
        wide_x, wide_y = (ux - lx) @ y, x @ (uy - ly)
        lower = x @ ly + lx @ y + self.low * (wide_x + wide_y) + self.lower_offset
        return lower, x @ uy + lx @ y + self.high * (wide_x - wide_y) + self.upper_offset


@dataclass(frozen=True, eq=False)
class TermPlanes(Planes):
    """The same planes with a parameter for each product: slopes (D, …, m, k, n) of x_ik and y_kj."""

    below: tuple[Tensor, Tensor]
    above: tuple[Tensor, Tensor]
    lower_offset: Tensor
    upper_offset: Tensor
    weight: Tensor
    terms: int

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        xs, ys = [], []
        for a, (of_x, of_y) in ((positive, self.below), (negative, self.above)):
            by_row = a.movedim(1, -2) @ of_x.mT  # (D, …, m, R, k)
            by_column = a.movedim(1, -1).movedim(-3, -1) @ of_y.movedim(-1, -3)  # (D, …, n, R, k)
            xs.append(by_row)
            ys.append(by_column)
        return [(xs[0] + xs[1]).movedim(-2, 1), (ys[0] + ys[1]).movedim(-2, 1).mT]

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x, y = xs[0].unsqueeze(-1), xs[1].unsqueeze(-3)
        low, high = ((p * x + q * y).sum(-2) for p, q in (self.below, self.above))
        return low + self.lower_offset, high + self.upper_offset


class Matmul(Joint):
    """x (…, m, k) times y (…, k, n), with the same leading axes."""

    slots = 2

    def guess(self, node: Node, boxes: Sequence[Interval]) -> Tensor:
        """A parameter for each product where these are few, else one for each element."""
        low = boxes[0][0]
        shape = (*node.shape[:-1], low.shape[-1], node.shape[-1])
        shape = shape if math.prod(shape) <= _FEW else node.shape
        return torch.full((len(low), 2, *shape), 0.5, dtype=low.dtype, device=low.device)

    def apply(self, node: Node, xs: Sequence[Tensor]) -> Tensor:
        return xs[0] @ xs[1]

    def interval(self, node: Node, boxes: Sequence[Interval]) -> Interval:
        (low, high), (low2, high2) = boxes
        terms = low.shape[-1]
        if low.numel() * low2.shape[-1] <= _TERMS:
            least, most = corners((low.unsqueeze(-1), high.unsqueeze(-1)), (low2.unsqueeze(-3), high2.unsqueeze(-3)))
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
        """McCormick's planes of each product (see ``Mul``), in sums; no tensor of all products is made."""
        dtype = boxes[0][0].dtype
        half = torch.full((1, 2, *node.shape), 0.5, dtype=dtype, device=boxes[0][0].device) if alpha is None else alpha
        low, high = half[:, 0], half[:, 1]
        each = low.dim() > len(node.shape) + 1
        (lx, ux), (ly, uy) = ([end.double() for end in box] for box in boxes)
        x, y = torch.maximum(lx.abs(), ux.abs()), torch.maximum(ly.abs(), uy.abs())
        size = x @ y
        terms = lx.shape[-1]
        # sums of the offsets in float64, and widths of the boxes' ends, rounded in the dtype in use
        info = torch.finfo(dtype)
        slack = size * (4 * (terms + 16) * torch.finfo(torch.float64).eps + 8 * info.eps) + (terms + 4) * info.tiny
        a, b = low.double(), high.double()
        if each:
            lx, ux, ly, uy = lx.unsqueeze(-1), ux.unsqueeze(-1), ly.unsqueeze(-3), uy.unsqueeze(-3)
            lower = -((1 - a) * (lx * ly) + a * (ux * uy)).sum(-2) - slack
            upper = -((1 - b) * (lx * uy) + b * (ux * ly)).sum(-2) + slack
        else:
            lower = -((1 - a) * (lx @ ly) + a * (ux @ uy)) - slack
            upper = -((1 - b) * (lx @ uy) + b * (ux @ ly)) + slack
        # of either plane: |slope of x| ≤ |y| and |slope of y| ≤ |x|, each made of up to three parts of that size
        weight = up(size * (6 * (1 + 1e-6)), dtype)
        reach = max(*node.shape[-2:]) + 8
        offsets = down(lower, dtype), up(upper, dtype)
        if not each:
            return MatmulPlanes(boxes, low, high, *offsets, weight, reach)
        ends = [(x.unsqueeze(-1), y.unsqueeze(-3)) for x, y in zip(*boxes, strict=True)]
        slopes = _slopes([(ends[0][k], ends[1][k]) for k in (0, 1)], low, high)
        return TermPlanes(*slopes, *offsets, weight, reach)

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
