"""Products of matrices below rows: what is summed over columns is bounded as a whole before McCormick's planes.

Σ_mn a_mn Σ_k x_mk·y_kn = Σ_mk x_mk·u_mk with u_mk = Σ_n a_mn·y_kn. McCormick's planes (Mathematical Programming
1976) of x_mk·u_mk lose a quarter of the product of both widths, and u_mk is far narrower than what the widths of
y_kn add up to: bounds of it come from a backward pass of its own, for coefficients near to those in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.bounds.interval import Interval
from verinn.bounds.rounding import gamma, tiny, unit

_EPS = 2 * unit(torch.float64)
_TINY = tiny(torch.float64)


@dataclass(frozen=True, eq=False)
class Sums:
    """For coefficients ``a`` (B, …, m, n) of a product of matrices: bounds ``low``, ``high`` float64 (B, …, m, k) of
    the sums Σ_n a_mn·y_kn. What y's elements have in common makes them far narrower than sums of intervals."""

    a: Tensor
    low: Tensor
    high: Tensor

    def select(self, index: Tensor) -> Sums:
        return Sums(self.a[index], self.low[index], self.high[index])

    def spread(self, index: Tensor, size: int) -> Sums:
        """The same as some of ``size`` bounds; of the others nothing is known."""
        a, low, high = (held.new_zeros((size, *held.shape[1:])) for held in (self.a, self.low, self.high))
        return Sums(
            a.index_copy(0, index, self.a), low.index_copy(0, index, self.low), high.index_copy(0, index, self.high)
        )

    def at(self, a: Tensor, y: Interval) -> Interval:
        """Bounds (B, …, m, k) of the sums with other coefficients, float64: of the part along those known, by
        what is known, and of the rest by intervals (…, k, n)."""
        low, high = (end.double() for end in y)
        known = self.a.double()
        part = (a.detach() * known).sum(-1, keepdim=True) / known.square().sum(-1, keepdim=True).clamp(min=1e-30)
        part = part.clamp(min=0)
        rest = a - part * known
        least, most = _weighed(rest, low, high)
        least, most = least + part * self.low, most + part * self.high
        reach = torch.maximum(low.abs(), high.abs()).mT
        size = (a.abs() + part * known.abs()) @ reach + part * torch.maximum(self.low.abs(), self.high.abs())
        slack = size * ((a.shape[-1] + 8) * 2 * _EPS) + _TINY * (4 * a.shape[-1] + 8)
        plain = _weighed(a, low, high)
        return torch.fmax(least, plain[0]) - slack, torch.fmin(most, plain[1]) + slack


def _weighed(a: Tensor, low: Tensor, high: Tensor) -> Interval:
    """Σ_n a_mn·y_kn by intervals of y, rounded to nearest."""
    positive, negative = a.clamp(min=0), a.clamp(max=0)
    return positive @ low.mT + negative @ high.mT, positive @ high.mT + negative @ low.mT


@dataclass(frozen=True, eq=False)
class Gathered:
    """A plane below Σ_mn a_mn (x y)_mn: coefficients of x and y (B, 1, *shape), and c float64 (B, 1)."""

    x: Tensor
    y: Tensor
    c: Tensor


def gathered(boxes: Sequence[Interval], sums: Sums, a: Tensor, mix: Tensor, extra: float) -> Gathered:
    """McCormick's planes of the products x_mk·u_mk, u_mk = Σ_n a_mn·y_kn, for rows ``a`` (B, 1, …, m, n).

    One product for each n products x_mk·y_kn: where many y_kn move together, or against each other, their sum's range
    is what counts. ``mix`` (B|1, …, m, k): parameters in [0, 1]; ``extra``: operations charged beyond the sums'.
    """
    dtype = a.dtype
    a = a.squeeze(1)
    xs = [end.double() for end in boxes[0]]
    us = sums.at(a.double(), boxes[1])
    mix = mix.double()
    of_u = (xs[0] + mix * (xs[1] - xs[0])).to(dtype)
    of_x = (us[0] + mix * (us[1] - us[0])).to(dtype)
    p, q = of_u.double(), of_x.double()
    found = []  # the least of x·u − p·u − q·x is at a corner, whatever p and q are
    for x in xs:
        for u in us:
            one, two, three = x * u, p * u, q * x
            found.append(one - two - three - (one.abs() + two.abs() + three.abs()) * (8 * _EPS) - _TINY)
    offset = torch.stack(found).amin(0).flatten(1)
    count, terms = offset.shape[1], a.shape[-2]
    reach = torch.maximum(boxes[1][0].abs(), boxes[1][1].abs()).double()
    size = (p.abs() * (a.double().abs() @ reach.mT)).flatten(1).sum(1)
    under = reach.flatten(1).sum(1) * ((terms + 2) * 4 * tiny(dtype))
    loss = size * (gamma(terms + 8 + extra, dtype) * (1 + 1e-6)) + under
    c = offset.sum(1) - offset.abs().sum(1) * ((count + extra + 4) * _EPS) - loss
    return Gathered(of_x.unsqueeze(1), (of_u.mT @ a).unsqueeze(1), c.unsqueeze(1))
