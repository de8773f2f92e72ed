"""Smooth scalar functions: their values with a bound on the error, and sound lines over any interval.

One engine makes the lines of all of them. An entry of the catalogue says where its function bends which way;
between two such places, where it is convex, it lies above each of its tangents, and where it is concave, above
its chord. A line below it is a tangent at a point of a convex piece, chosen by a parameter from those tangents
that pass below the ends of the interval (as for S-shaped functions in CROWN, Zhang et al., NeurIPS 2018, with
the tangent point free as in alpha-CROWN, Xu et al., ICLR 2021, for general functions as in GenBaB, Shi et al.,
2024); where there is none, the chord. Whatever the slope became, the offset is then bounded over each piece
by those arguments, so that nothing depends on how well tangent points were found. Lines above are lines below −f.

All arithmetic is in float64; what it loses is bounded and moved outward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.base import Elementwise, Interval, Lines

#: relative error of one elementary function of float64, four units in the last place: the kernels in use
#: (SLEEF "u10", Intel VML's high accuracy, glibc, CUDA) state two or fewer
ELEMENTARY = 8 * 2.0**-53
TINY = float(torch.finfo(torch.float64).tiny)
LARGEST = float(torch.finfo(torch.float64).max)
#: halvings in the search for a tangent point, and secant steps after them
_HALVINGS, _SECANTS = 14, 3
#: slopes beyond this are not worth their rounding
_STEEPEST = {torch.float32: 1e18, torch.float64: 1e100}


@dataclass(frozen=True, eq=False)
class Bends:
    """Where a function bends: its pieces in order are convex (+1), concave (−1) or straight (0).

    ``signs``: of each piece, a number or a tensor that broadcasts to the interval's shape. ``breaks``: between
    them, one fewer, each an interval that holds the place where the curvature changes (equal ends: exactly).
    ``kinks``: of each break, +1 where the slope jumps up, −1 where it jumps down; none given: no jumps.
    ``valid``: where the pieces are all there is (bool; None: everywhere).
    """

    signs: Sequence[float | Tensor]
    breaks: Sequence[tuple[float | Tensor, float | Tensor]] = ()
    kinks: Sequence[float] = ()
    valid: Tensor | None = None


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

    def slope(self, node: Node, x: Tensor) -> Tensor:
        """f'(x) for float64, off by at most ``slope_error``; at a kink, of either side."""
        raise NotImplementedError

    #: an absolute part of the slope's error comes with functions whose slope is a sum or difference of size one
    steep = 1.0

    def slope_error(self, node: Node, slope: Tensor) -> Tensor:
        """A bound on the error of a computed slope."""
        return (slope.abs() + self.steep) * (16 * ELEMENTARY) + TINY

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        """The pieces of the function, as far as [l, u] may meet them."""
        raise NotImplementedError

    #: tangents are taken this part of the width away from the ends, where a slope may be infinite
    margin = 0.0

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
        low = torch.where(low.isnan(), least, low.clamp(least, LARGEST))
        high = torch.where(high.isnan(), most, high.clamp(-LARGEST, most))
        known = self.defined(node, l, u)
        if known is None:
            return low, high
        return torch.where(known, low, -math.inf), torch.where(known, high, math.inf)

    def lines(self, node: Node, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        l, u = lower.double(), upper.double()  # noqa: E741
        with torch.no_grad():
            low, high = self.image(node, l, u)
            bends = self._bends(node, l, u)
        own = (None, None) if alpha is None else (alpha[:, 0].double(), alpha[:, 1].double())
        s, t = _Below(self, node, 1.0, bends, l, u).line(own[0], low, lower.dtype)
        s2, t2 = _Below(self, node, -1.0, bends, l, u).line(own[1], -high, lower.dtype)
        return Lines(s, t, -s2, -t2)

    def _bends(self, node: Node, l: Tensor, u: Tensor) -> Bends:  # noqa: E741
        bends, known = self.bends(node, l, u), self.defined(node, l, u)
        if known is None:
            return bends
        return replace(bends, valid=known if bends.valid is None else bends.valid & known)

    def guess(self, node: Node, boxes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The parameters (D, 2, *shape) whose lines are about those of the best guess: where to start a climb."""
        lower, upper = boxes[0]
        l, u = lower.double(), upper.double()  # noqa: E741
        with torch.no_grad():
            bends = self._bends(node, l, u)
            parts = [_Below(self, node, sense, bends, l, u).guess() for sense in (1.0, -1.0)]
        return torch.stack(parts, 1).to(lower.dtype)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Part [a, b] of the interval where g is convex (``convex``) or concave; empty where a > b."""

    a: Tensor
    b: Tensor
    convex: Tensor


@dataclass(frozen=True, eq=False)
class _Tangents:
    """Tangent points between ``first`` and ``last``, on the piece of that number, where ``some`` exist; at a kink
    (number −2 or less), lines through it with slopes between ``least`` and ``most``."""

    number: int
    first: Tensor
    last: Tensor
    some: Tensor
    least: Tensor | None = None
    most: Tensor | None = None

    def line(self, below: _Below, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        """(slope, point) for a parameter; None: what is highest in the middle of the interval."""
        middle = below.l + (below.u - below.l) / 2
        if self.least is not None and self.most is not None:
            part = (self.first < middle).to(middle.dtype) if alpha is None else alpha
            return self.least + part * (self.most - self.least), self.first
        if alpha is None:
            p = middle.clamp(self.first, self.last)
        else:
            p = torch.minimum(self.first + alpha * (self.last - self.first), self.last)
        p = torch.where(self.some, p, self.first)
        return below.slope(p), p.detach()

    def parameter(self, slope: Tensor, point: Tensor) -> Tensor:
        """The parameter that gives a line, where this option can."""
        if self.least is not None and self.most is not None:
            part = (slope - self.least) / (self.most - self.least)
        else:
            part = (point - self.first) / (self.last - self.first)
        return part.nan_to_num(0.5, 0.5, 0.5).clamp(1e-6, 1 - 1e-6)


class _Below:
    """Lines below g = sense · f on [l, u]."""

    def __init__(self, curve: Curve, node: Node, sense: float, bends: Bends, l: Tensor, u: Tensor):  # noqa: E741
        self.curve, self.node, self.sense, self.l, self.u = curve, node, sense, l, u
        self.valid = bends.valid
        self.kinks = [float(at[0]) for at, jump in zip(bends.breaks, bends.kinks, strict=False) if jump * sense > 0]
        self.pieces: list[_Piece] = []
        self.cells: list[tuple[Tensor, Tensor]] = []
        start: Tensor = l
        for number, sign in enumerate(bends.signs):
            end = u
            if number < len(bends.breaks):
                left, right = (torch.as_tensor(place, dtype=l.dtype, device=l.device) for place in bends.breaks[number])
                end = torch.minimum(u, left)
            bent = torch.as_tensor(sign, dtype=l.dtype, device=l.device) * sense
            self.pieces.append(_Piece(start, end, (bent > 0).expand(l.shape)))
            if number < len(bends.breaks):
                start = torch.maximum(l, right)
                if bool((left < right).any()):
                    self.cells.append((torch.maximum(l, left), torch.minimum(u, right)))

    def g(self, x: Tensor) -> Tensor:
        return self.curve.value(self.node, x) * self.sense

    def slope(self, x: Tensor) -> Tensor:
        return self.curve.slope(self.node, x) * self.sense

    def line(self, alpha: Tensor | None, floor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(slope, offset) of a line below g, of ``dtype``; ``floor``: a constant below g, maybe −∞."""
        with torch.no_grad():
            options = self.options()
            chord = self.chord()
        if alpha is None and len(options) > 1:
            slope, point, number = self.best(options, chord, dtype)
        else:
            slope, point, number = self.chosen(options, chord, alpha)
        held = slope.to(dtype)
        usable = held.isfinite() & (held.abs() <= _STEEPEST[dtype])
        usable = usable if self.valid is None else usable & self.valid
        held = torch.where(usable, held, 0.0)
        offset = down(self.offset(held.double(), point, number), dtype)
        sound = usable & offset.isfinite()
        return torch.where(sound, held, 0.0), torch.where(sound, offset, down(floor, dtype))

    def chosen(self, options: list[_Tangents], chord: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Slope, tangent point and the number of its piece (−1: the chord) for parameters; where several pieces
        have tangents, they share the parameter's range in their order."""
        slope, point = chord, self.l
        number = torch.full(self.l.shape, -1, device=self.l.device)
        count = sum((option.some.to(self.l.dtype) for option in options), torch.zeros_like(self.l))
        before: Tensor = torch.zeros_like(self.l)
        for option in options:
            here, place = option.some, None
            if alpha is not None:
                share = alpha * count - before
                here = here & (share >= 0) & ((share < 1) | (before + 1 == count))
                place = share.clamp(0, 1)
            one, p = option.line(self, place)
            slope, point = torch.where(here, one, slope), torch.where(here, p, point)
            number = torch.where(here, option.number, number)
            before = before + option.some
        return slope, point, number

    def best(self, options: list[_Tangents], chord: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Of the chord and a tangent of each piece, what lies highest in the middle."""
        middle = self.l + (self.u - self.l) / 2
        none = torch.full(self.l.shape, -1, device=self.l.device)
        found = chord, self.l, none
        height = self.offset(chord.to(dtype).double(), self.l, none) + chord * middle
        for option in options:
            one = self.chosen([option], chord, None)
            value = self.offset(one[0].to(dtype).double(), one[1], one[2]) + one[0] * middle
            better = (value > height) | height.isnan()
            height = torch.where(better, value, height)
            found = tuple(torch.where(better, new, old) for new, old in zip(one, found, strict=True))  # type: ignore
        return found

    def guess(self) -> Tensor:
        """The parameter whose line lies about highest in the middle."""
        options = self.options()
        if not options:
            return torch.full_like(self.l, 0.5)
        count = sum((option.some.to(self.l.dtype) for option in options), torch.zeros_like(self.l))
        slope, point, number = self.best(options, self.chord(), torch.float64)
        result, before = torch.full_like(self.l, 0.5), torch.zeros_like(self.l)
        for option in options:
            mine = option.some & (number == option.number)
            result = torch.where(mine, (before + option.parameter(slope, point)) / count.clamp(min=1), result)
            before = before + option.some
        return result

    def chord(self) -> Tensor:
        """The slope between the ends; of narrow intervals, that in the middle."""
        width = self.u - self.l
        wide = width > 1e-7 * torch.maximum(self.l.abs(), self.u.abs())
        return torch.where(wide, (self.g(self.u) - self.g(self.l)) / width, self.slope(self.l + width / 2))

    def options(self) -> list[_Tangents]:
        """Per convex piece, the tangents that pass below both ends of the interval."""
        found = self._kinked()
        for number, piece in enumerate(self.pieces):
            some = piece.convex & (piece.a <= piece.b)
            if not bool(some.any()):
                continue
            first, last = piece.a, piece.b
            if self.curve.margin:
                inset = (self.u - self.l) * self.curve.margin
                first = torch.minimum(torch.maximum(first, self.l + inset), piece.b)
                last = torch.maximum(torch.minimum(last, self.u - inset), first)
            first, some = self._tangent(piece, first, some & (piece.a > self.l), some, self.l, True)
            last, some = self._tangent(piece, last, some & (piece.b < self.u), some, self.u, False)
            some = some & (first <= last)
            found.append(_Tangents(number, first, torch.maximum(first, last), some))
        return found

    def _kinked(self) -> list[_Tangents]:
        """Lines through the places where the slope jumps up."""
        found: list[_Tangents] = []
        for place in self.kinks:
            at = torch.full_like(self.l, place)
            height = self.g(at)
            least, most = (self.g(self.l) - height) / (self.l - at), (self.g(self.u) - height) / (self.u - at)
            some = (self.l < at) & (at < self.u) & (least <= most)
            if bool(some.any()):
                found.append(_Tangents(-2 - len(found), at, at, some, least, most))
        return found

    def _tangent(
        self, piece: _Piece, point: Tensor, wanted: Tensor, some: Tensor, end: Tensor, rising: bool
    ) -> tuple[Tensor, Tensor]:
        """``point`` replaced, where ``wanted``, by the piece's outermost point whose tangent passes below (end,
        g(end)), and ``some`` without those where there is none. ``rising``: the end lies left of the piece."""
        if not bool(wanted.any()):
            return point, some
        index = wanted.nonzero(as_tuple=True)
        a, b, e = piece.a.expand_as(point)[index], piece.b.expand_as(point)[index], end[index]
        goal = self.g(e)

        def under(p: Tensor) -> Tensor:
            return self.g(p) + self.slope(p) * (e - p) <= goal

        good, bad = (b, a) if rising else (a, b)  # the farther from the end, the lower the tangent there
        possible = under(good)
        whole = under(bad)
        good = torch.where(whole, bad, good)
        for _ in range(_HALVINGS + 6):
            middle = (good + bad) / 2
            fits = under(middle)
            good, bad = torch.where(fits, middle, good), torch.where(fits, bad, middle)
        return point.index_put(index, good), some.index_put(index, possible)

    def offset(self, s: Tensor, point: Tensor, number: Tensor) -> Tensor:
        """A lower bound of g − s·x over the interval, in float64. ``point``: where the tangent of the piece of that
        number has slope s, about."""
        lows = []
        for k, piece in enumerate(self.pieces):
            empty = piece.a > piece.b
            a, b = torch.where(empty, self.l, piece.a), torch.where(empty, self.l, piece.b)
            ends = torch.minimum(self.gap(s, a), self.gap(s, b))
            if bool(piece.convex.any()):
                p = self._touch(piece.convex & ~empty & (number != k), s, a, b, torch.where(number == k, point, a))
                tangent = self.gap(s, p) - self._tilt(s, p, a, b)
                ends = torch.where(piece.convex, tangent, ends)
            lows.append(torch.where(empty, math.inf, ends))
        for left, right in self.cells:  # where the bend is not known, |f'| is at most two
            empty = left > right
            fall = (s.abs() + 2) * (right - left).clamp(min=0) * (1 + 1e-9)
            lows.append(torch.where(empty, math.inf, self.gap(s, torch.where(empty, self.l, left)) - fall))
        return torch.stack(torch.broadcast_tensors(*lows)).amin(0)

    def gap(self, s: Tensor, x: Tensor) -> Tensor:
        """g(x) − s·x, rounded down."""
        with torch.no_grad():
            y = self.g(x)
            error = self.curve.error(self.node, x, y) + (y.abs() + (s * x).abs()) * ELEMENTARY + TINY
        return y - s * x - error

    def _tilt(self, s: Tensor, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """How far the tangent at p, seen from slope s, may fall between a and b."""
        with torch.no_grad():
            slope = self.slope(p)
            lean = slope - s
            reach = torch.where(lean > 0, p - a, b - p)
            error = self.curve.slope_error(self.node, slope) + s.abs() * ELEMENTARY
            return (lean.abs() * reach + error * (b - a)) * (1 + 1e-9) + TINY

    @torch.no_grad()
    def _touch(self, wanted: Tensor, s: Tensor, a: Tensor, b: Tensor, p: Tensor) -> Tensor:
        """``p`` replaced, where ``wanted``, by the point of [a, b] where the slope is about s."""
        wanted, s = wanted.expand_as(p), s.detach().expand_as(p)
        if not bool(wanted.any()):
            return p
        index = wanted.nonzero(as_tuple=True)
        low, high, goal = a.expand_as(p)[index], b.expand_as(p)[index], s[index]
        first, last = self.slope(low) - goal, self.slope(high) - goal
        if bool(((first < 0) & (last > 0)).any()):
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                lean = self.slope(middle) - goal
                left = lean < 0
                low, first = torch.where(left, middle, low), torch.where(left, lean, first)
                high, last = torch.where(left, high, middle), torch.where(left, last, lean)
            for _ in range(_SECANTS):
                middle = (low - first * (high - low) / (last - first)).nan_to_num(0.0).clamp(low, high)
                lean = self.slope(middle) - goal
                left = lean < 0
                low, first = torch.where(left, middle, low), torch.where(left, lean, first)
                high, last = torch.where(left, high, middle), torch.where(left, last, lean)
        nearer = torch.where(first.abs() <= last.abs(), low, high)
        return p.index_put(index, nearer)


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
