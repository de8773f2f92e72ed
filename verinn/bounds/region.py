"""Regions: boxes cut by linear rows, and what linear forms can be in them.

A region is a box and rows a·x + c ≤ 0 that must hold: input constraints of the property, ReLU splits
seen from the input, linear lower bounds of the output rows that a violation needs to be ≤ 0. Any
positive combination of the rows gives a sound answer, so multipliers are sought without rounding in mind
and only what they yield is rounded down. Float64 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Region:
    """Boxes lower, upper (D, n) and rows a (D, K, n), c (D, K): a·x + c ≤ 0. All float64.

    A row of zeros with c = −1 says nothing and pads.
    """

    lower: Tensor
    upper: Tensor
    a: Tensor
    c: Tensor

    def select(self, index: Tensor) -> Region:
        return Region(self.lower[index], self.upper[index], self.a[index], self.c[index])

    def with_box(self, lower: Tensor, upper: Tensor) -> Region:
        """The same rows over other boxes."""
        return Region(lower, upper, self.a, self.c)

    def with_rows(self, a: Tensor, c: Tensor) -> Region:
        """The region cut by more rows (D, R, n), (D, R)."""
        return Region(self.lower, self.upper, torch.cat([self.a, a], 1), torch.cat([self.c, c], 1))


def box(lower: Tensor, upper: Tensor) -> Region:
    """A region without rows."""
    size, n = lower.shape
    return Region(lower, upper, lower.new_zeros((size, 0, n)), lower.new_zeros((size, 0)))


def least(a: Tensor, c: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Rounded-down minimum of a·x + c over boxes: a (D, R, n), c (D, R), lower, upper (D, n) → (D, R)."""
    low, high = a * lower.unsqueeze(1), a * upper.unsqueeze(1)
    value = torch.minimum(low, high).sum(-1) + c
    size = torch.maximum(low.abs(), high.abs()).sum(-1) + c.abs()
    return value - size * ((a.shape[-1] + 4) * _EPS) - 1e-300


def least_in(region: Region, a: Tensor, c: Tensor, wanted: Tensor) -> Tensor:
    """Rounded-down lower bound of forms over regions: a (D, R, n), c (D, R), ``wanted`` bool (D, R).

    (P,) for the P wanted forms, in order. One sweep of coordinate ascent over the rows' multipliers:
    for one row the dual is concave and piecewise linear, so its best multiplier is at a breakpoint
    −a_j/g_j. Multipliers are sought in float32; what they prove is rounded down in float64.
    """
    domain, form = wanted.nonzero(as_tuple=True)
    a, c = a[domain, form], c[domain, form]
    lower, upper = region.lower[domain], region.upper[domain]
    rows, rows_c = region.a[domain], region.c[domain]
    weights = _multipliers(a, c, rows, rows_c, lower, upper)
    mixed = a + (weights.unsqueeze(1) @ rows).squeeze(1)
    constant = c + (weights * rows_c).sum(-1)
    reach = torch.maximum(lower.abs(), upper.abs())
    size = ((a.abs() + (weights.unsqueeze(1) @ rows.abs()).squeeze(1)) * reach).sum(-1)
    size = size + c.abs() + (weights * rows_c.abs()).sum(-1)
    value = least(mixed.unsqueeze(1), constant.unsqueeze(1), lower, upper).squeeze(1)
    return value - size * ((2 * rows.shape[1] + 6) * _EPS)


def _multipliers(a: Tensor, c: Tensor, rows: Tensor, rows_c: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Weights ≥ 0 (P, K) of rows (P, K, n), (P, K) that lift the least value of forms a (P, n), c (P,)."""
    width = upper - lower
    c = (c + (a * lower).sum(-1)).float()  # over the unit cube, so that float32 is enough
    rows_c = (rows_c + (rows * lower.unsqueeze(1)).sum(-1)).float()
    a, rows = (a * width).float(), (rows * width.unsqueeze(1)).float()
    weights = torch.zeros_like(rows_c)
    for k in range(rows.shape[1]):
        g, h = rows[:, k], rows_c[:, k]
        points = (-a / g).nan_to_num(0.0, 0.0, 0.0).clamp_(min=0.0)
        forms = torch.addcmul(a.unsqueeze(1), points.unsqueeze(2), g.unsqueeze(1))
        values = torch.addcmul(forms.clamp_(max=0.0).sum(-1), points, h.unsqueeze(1))
        value, where = values.max(-1)
        best = points.gather(1, where.unsqueeze(1)).squeeze(1)
        best = torch.where(value > a.clamp(max=0.0).sum(-1), best, 0.0)
        weights[:, k] = best
        a, c = torch.addcmul(a, best.unsqueeze(1), g), torch.addcmul(c, best, h)
    return weights.double().nan_to_num(0.0, 0.0, 0.0)


def separate(region: Region, rounds: int = 14) -> tuple[Tensor, Tensor]:
    """Whether regions are empty, proved: (margin (D,), point (D, n)).

    margin > 0: some positive combination of the rows is at least that much (rounded down) everywhere
    in the box, so no point fulfils all rows. ``point`` is the box's point that fulfils them best, roughly.
    The linear programme min t: aₖ·x + cₖ ≤ t·‖row‖ over the box is solved for all regions at once by a
    primal-dual interior-point method (Nocedal and Wright, *Numerical Optimization*, ch. 14); its
    multipliers are then weighed with rounding counted, so nothing depends on how well it went.
    """
    scale = _row_size(region).clamp(min=1e-300)
    a, c = region.a / scale.unsqueeze(-1), region.c / scale
    width = (region.upper - region.lower).clamp(min=1e-300)
    a, c = a * width.unsqueeze(1), c + (a * region.lower.unsqueeze(1)).sum(-1)  # over the unit cube
    weights, z = _interior_point(a, c, rounds)
    margin = weigh(region, weights / scale)
    return margin, region.lower + z.clamp(0, 1) * width


def _row_size(region: Region) -> Tensor:
    """How much each row varies over its box, plus its size at the middle."""
    middle = (region.lower + region.upper) / 2
    spread = (region.a.abs() * (region.upper - region.lower).unsqueeze(1)).sum(-1)
    return spread + ((region.a * middle.unsqueeze(1)).sum(-1) + region.c).abs()


def _interior_point(a: Tensor, c: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Multipliers (D, K) of min t: a x + c ≤ t, 0 ≤ x ≤ 1, and x (D, n). Not exact; see ``separate``."""
    size, rows, n = a.shape
    x = a.new_full((size, n), 0.5)
    t = ((a * 0.5).sum(-1) + c).amax(1) + 0.5
    weight = a.new_full((size, rows), 1.0 / rows)
    low, high = a.new_full((size, n), 0.1), a.new_full((size, n), 0.1)
    for _ in range(rounds):
        slack = (t.unsqueeze(1) - (a @ x.unsqueeze(-1)).squeeze(-1) - c).clamp(min=1e-14)
        room_low, room_high = x.clamp(min=1e-14), (1 - x).clamp(min=1e-14)
        gap = (weight * slack).sum(1) + (low * room_low).sum(1) + (high * room_high).sum(1)
        target = (0.1 * gap / (rows + 2 * n)).unsqueeze(1)
        dx, dt = _newton(a, weight / slack, low / room_low + high / room_high, target, slack, room_low, room_high)
        ds = dt.unsqueeze(1) - (a @ dx.unsqueeze(-1)).squeeze(-1)
        dw = (target - weight * ds) / slack - weight
        dl, dh = (target - low * dx) / room_low - low, (target + high * dx) / room_high - high
        primal = torch.minimum(_reach(slack, ds), torch.minimum(_reach(room_low, dx), _reach(room_high, -dx)))
        dual = torch.minimum(_reach(weight, dw), torch.minimum(_reach(low, dl), _reach(high, dh)))
        x, t = x + primal * dx, t + primal.squeeze(1) * dt
        weight, low, high = weight + dual * dw, low + dual * dl, high + dual * dh
    return weight.nan_to_num(0.0).clamp(min=0), x.nan_to_num(0.5)


def _newton(
    a: Tensor, pull: Tensor, diagonal: Tensor, target: Tensor, slack: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The Newton step (dx (D, n), dt (D,)) of the normal equations."""
    n = a.shape[-1]
    weighed = a * pull.unsqueeze(-1)
    matrix = a.new_zeros((len(a), n + 1, n + 1))
    matrix[:, :n, :n] = a.transpose(1, 2) @ weighed
    matrix[:, :n, :n].diagonal(dim1=1, dim2=2).add_(diagonal)
    matrix[:, :n, n] = matrix[:, n, :n] = -weighed.sum(1)
    matrix[:, n, n] = pull.sum(1)
    matrix.diagonal(dim1=1, dim2=2).mul_(1 + 1e-12)
    push = target / slack
    right = a.new_empty((len(a), n + 1))
    right[:, :n] = -(a * push.unsqueeze(-1)).sum(1) + target / low - target / high
    right[:, n] = push.sum(1) - 1
    step = torch.linalg.solve_ex(matrix, right).result.nan_to_num(0.0)
    return step[:, :n], step[:, n]


def _reach(value: Tensor, step: Tensor) -> Tensor:
    """The longest step (at most one) that keeps ``value`` positive: (D, 1)."""
    ratio = torch.where(step < 0, -value / step, torch.inf)
    return (0.95 * ratio.amin(1, keepdim=True)).clamp(max=1.0)


def weigh(region: Region, weights: Tensor) -> Tensor:
    """Rounded-down minimum over the box of Σ wₖ (aₖ·x + cₖ), the weights (D, K) ≥ 0 taken as they are: (D,)."""
    mixed = torch.einsum("dk,dkn->dn", weights, region.a).unsqueeze(1)
    constant = (weights * region.c).sum(1, keepdim=True)
    reach = torch.maximum(region.lower.abs(), region.upper.abs())
    size = (torch.einsum("dk,dkn->dn", weights, region.a.abs()) * reach).sum(-1) + (weights * region.c.abs()).sum(1)
    value = least(mixed, constant, region.lower, region.upper).squeeze(1)
    return value - size * ((weights.shape[1] + 6) * _EPS)


def clip(region: Region, rounds: int = 2) -> Region:
    """The same region with its box shrunk by its rows (clip-and-verify).

    An empty region comes back with lower > upper in some dimension.
    """
    lower, upper, a = region.lower, region.upper, region.a
    if a.shape[1] == 0:
        return region
    empty = torch.zeros_like(lower[:, :1], dtype=torch.bool)
    for _ in range(rounds):
        value = least(a, region.c, lower, upper)
        empty |= (value > 0).any(1, keepdim=True)  # no point fulfils that row
        slack = (-value).clamp(min=0) * (1 + 4 * _EPS)
        step = slack.unsqueeze(-1) / a.abs()  # over a zero coefficient: infinite or NaN, and then no cut
        step = torch.where(step.isnan(), torch.inf, step)
        room = (lower.abs() + upper.abs()).unsqueeze(1) * (4 * _EPS) + step * (4 * _EPS) + 1e-300
        ceiling = torch.where(a > 0, lower.unsqueeze(1) + step + room, torch.inf).amin(1)
        floor = torch.where(a < 0, upper.unsqueeze(1) - step - room, -torch.inf).amax(1)
        lower, upper = torch.maximum(lower, floor), torch.minimum(upper, ceiling)
    return Region(torch.where(empty, torch.inf, lower), upper, a, region.c)
