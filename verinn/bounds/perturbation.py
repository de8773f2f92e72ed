"""Sets of inputs beyond the box, and the least value of a linear form over each: rounded down, differentiable.

Dual norms for Lp balls, as in Xu et al., "Automatic Perturbation Analysis for Scalable Certified Robustness
and Beyond" (NeurIPS 2020). A set is given in the shape of the input it belongs to, or with one more axis in
front: a batch of D sets. Gradients flow to whatever tensors a set is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.interval import Interval
from verinn.bounds.rounding import gamma, outward, tiny
from verinn.bounds.rows import dot
from verinn.errors import InputError

Shape = tuple[int, ...]
DOUBLE = torch.float64


class Perturbation:
    """A set of values of one input. ``shape`` is the input's; numbers are float64."""

    def enclosing(self, shape: Shape) -> Interval:
        """A box (D|1, *shape) that contains the set."""
        raise NotImplementedError

    def least(self, shape: Shape, a: Tensor) -> Tensor:
        """Lower bounds (D, R) of a·x over the set, for coefficients a (D|1, R, n) taken as they are."""
        raise NotImplementedError

    def batch(self, shape: Shape) -> int | None:
        """How many sets this is, None when it was given without an axis for that."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Box(Perturbation):
    """lower ≤ x ≤ upper. Equal ends: a point."""

    lower: Any
    upper: Any

    def enclosing(self, shape: Shape) -> Interval:
        lower, upper = fitted(self.lower, shape, "lower"), fitted(self.upper, shape, "upper")
        if bool((lower > upper).any()):
            raise InputError("the box is empty: a lower end is above its upper end", hint="exchange them")
        return lower, upper

    def least(self, shape: Shape, a: Tensor) -> Tensor:
        lower, upper = (end.flatten(1) for end in self.enclosing(shape))
        return least_in_box(a, lower, upper)

    def batch(self, shape: Shape) -> int | None:
        return batched(shape, self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Ball(Perturbation):
    """‖x − centre‖_p ≤ radius for p = 1, 2 or inf, and within [lower, upper] where those are given.

    ``radius``: a number, or one for each set of a batch (D,).
    """

    centre: Any
    radius: Any
    p: float = 2.0
    lower: Any = None
    upper: Any = None

    def enclosing(self, shape: Shape) -> Interval:
        centre, radius = self._parts(shape)
        radius = radius.reshape(-1, *[1] * len(shape))
        low, high = outward(centre - radius, centre + radius)
        limits = self._limits(shape)
        return (low, high) if limits is None else (torch.maximum(low, limits[0]), torch.minimum(high, limits[1]))

    def least(self, shape: Shape, a: Tensor) -> Tensor:
        centre, radius = self._parts(shape)
        centre, limits = centre.flatten(1), self._limits(shape)
        if limits is None:
            return self._alone(a, centre, radius)
        if self.p == torch.inf:
            return least_in_box(a, *(end.flatten(1) for end in self.enclosing(shape)))
        lower, upper = (end.flatten(1) for end in limits)
        shared = self._greedy if self.p == 1 else self._clipped
        clipped, held = shared(a, centre, radius, lower, upper)
        inner = torch.where(clipped, held, a)
        rest = a - inner
        size = torch.maximum(lower.abs(), upper.abs())
        lost = dot(rest.abs(), size) * 2.0**-52
        together = self._alone(inner, centre, radius) + least_in_box(rest, lower, upper) - lost.nan_to_num(torch.inf)
        together = together - together.abs() * 2.0**-51
        return torch.fmax(together, torch.fmax(self._alone(a, centre, radius), least_in_box(a, lower, upper)))

    def batch(self, shape: Shape) -> int | None:
        sizes = batched(shape, self.centre, *([] if self.lower is None else [self.lower, self.upper]))
        radius = number(self.radius)
        return sizes if radius.ndim == 0 else max(sizes or 1, len(radius.reshape(-1)))

    def _parts(self, shape: Shape) -> tuple[Tensor, Tensor]:
        if self.p not in (1, 2, torch.inf):
            raise InputError(f"balls of the norm p = {self.p} are not supported", hint="p is 1, 2 or inf")
        radius = number(self.radius).reshape(-1, 1)
        if bool((radius < 0).any()) or bool(radius.isnan().any()):
            raise InputError("the radius of a ball is negative or no number", hint="give a radius ≥ 0")
        return fitted(self.centre, shape, "centre"), radius

    def _limits(self, shape: Shape) -> Interval | None:
        if self.lower is None and self.upper is None:
            return None
        low = fitted(-torch.inf if self.lower is None else self.lower, shape, "lower")
        return low, fitted(torch.inf if self.upper is None else self.upper, shape, "upper")

    def _alone(self, a: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
        """a·centre − radius·‖a‖ with the dual norm: what the ball alone allows."""
        n = a.shape[-1]
        norm = a.abs().amax(-1) if self.p == 1 else _euclidean(a) if self.p == 2 else a.abs().sum(-1)
        cost = torch.where(radius > 0, radius * norm * (1 + gamma(n + 12, DOUBLE)), 0.0)
        charge = dot(a.abs(), centre.abs()) * gamma(n + 6, DOUBLE) + tiny(DOUBLE) * (n + 4)
        value = dot(a, centre) - cost - charge
        return settled(value - value.abs() * 2.0**-51)

    def _greedy(self, a: Tensor, centre: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """How coefficients are shared between a 1-norm ball and a box: (where the box takes some, the ball's share).

        The least value of a sum over an intersection is at least the sum of the least values, however a is
        shared. The largest coefficients move to their ends until the radius is used up; the next one's size is
        what the ball keeps of them.
        """
        size = a.abs()
        with torch.no_grad():
            gap = _gaps(a, centre, lower, upper)
            order = size.argsort(dim=-1, descending=True)
            used = gap.gather(-1, order).cumsum(-1)
            last = (used < radius.unsqueeze(1)).sum(-1, keepdim=True).clamp(max=a.shape[-1] - 1)
            every = used[..., -1:] <= radius.unsqueeze(1)
        level = torch.where(every, 0.0, size.gather(-1, order.gather(-1, last)))
        return size > level, a.sign() * level

    @torch.no_grad()  # at the best share the bound doesn't change with it
    def _clipped(
        self, a: Tensor, centre: Tensor, radius: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for the 2-norm, by the Karush-Kuhn-Tucker conditions: x − centre is along a, or at an end."""
        gap = _gaps(a, centre, lower, upper)
        size = a.abs()
        at_end = torch.zeros_like(a, dtype=torch.bool)
        step = torch.zeros_like(size[..., :1])
        for _ in range(_ROUNDS):
            left = radius.unsqueeze(1).square() - torch.where(at_end, gap.square(), 0.0).sum(-1, keepdim=True)
            free = torch.where(at_end, 0.0, size.square()).sum(-1, keepdim=True)
            step = (left.clamp(min=0) / free).sqrt()
            more = size * step > gap
            if bool((more <= at_end).all()):
                break
            at_end = at_end | more
        return at_end, (a.sign() * gap / step).nan_to_num(0.0, 0.0, 0.0)


def _gaps(a: Tensor, centre: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """How far each coordinate can move from the centre to lower a·x: (D, R, n)."""
    return torch.where(a > 0, (centre - lower).unsqueeze(1), (upper - centre).unsqueeze(1)).clamp(min=0)


#: rounds of finding which coordinates of a ball within a box are at their ends
_ROUNDS = 30


@dataclass(frozen=True, eq=False)
class Polytope(Perturbation):
    """lower ≤ x ≤ upper and rows·x ≤ limits: ``rows`` (K, *shape) or (D, K, *shape), ``limits`` (K,) or (D, K)."""

    lower: Any
    upper: Any
    rows: Any
    limits: Any

    def enclosing(self, shape: Shape) -> Interval:
        return Box(self.lower, self.upper).enclosing(shape)

    def least(self, shape: Shape, a: Tensor) -> Tensor:
        """By multipliers of the rows: the best for one row, by ascent for several."""
        lower, upper = (end.flatten(1) for end in self.enclosing(shape))
        rows, limits = self._rows(shape)
        weights = ascent(a, lower, upper, rows, limits)
        mixed = a + weights @ rows
        moved = (weights * limits.unsqueeze(1)).sum(-1)
        reach = torch.maximum(lower.abs(), upper.abs())
        size = dot(a.abs() + weights @ rows.abs(), reach) + (weights * limits.abs().unsqueeze(1)).sum(-1)
        value = least_in_box(mixed, lower, upper) - moved - size * gamma(2 * rows.shape[1] + 8, DOUBLE)
        return torch.fmax(settled(value), least_in_box(a, lower, upper))

    def batch(self, shape: Shape) -> int | None:
        sizes = batched(shape, self.lower, self.upper)
        rows = number(self.rows)
        return sizes if rows.ndim == len(shape) + 1 else max(sizes or 1, len(rows))

    def _rows(self, shape: Shape) -> tuple[Tensor, Tensor]:
        rows, limits = number(self.rows), number(self.limits)
        if rows.ndim == len(shape) + 1:
            rows = rows.unsqueeze(0)
        if tuple(rows.shape[2:]) != shape or limits.shape[-1:] != rows.shape[1:2]:
            raise InputError(
                f"rows of shape {list(rows.shape)} with {list(limits.shape)} limits don't fit the input {list(shape)}",
                hint="give rows (K, *shape) and limits (K,)",
            )
        return rows.flatten(2), limits.reshape(-1, limits.shape[-1])


def ascent(a: Tensor, lower: Tensor, upper: Tensor, rows: Tensor, limits: Tensor) -> Tensor:
    """Multipliers ≥ 0 (D, R, K) of rows·x − limits ≤ 0 that lift the least values of forms a (D|1, R, n) over boxes.

    For one row the dual is concave and piecewise linear: its best multiplier is at a breakpoint −a_j/g_j, and
    moves with it. For several, gradient ascent, then the rows in turn; no gradient passes through these.
    """
    size = max(len(a), len(lower), len(rows))
    a, width = a.expand(size, *a.shape[1:]), (upper - lower).expand(size, -1)
    rows = rows.expand(size, *rows.shape[1:])
    slack = (rows * lower.unsqueeze(1)).sum(-1) - limits  # of each row at the lower corner
    if rows.shape[1] == 1:
        return _turned(a, a.new_zeros((*a.shape[:2], 1)), rows, slack, width, 0).unsqueeze(-1)
    with torch.no_grad():
        weights = _climbed(a, rows, slack, width)
        for _ in range(2):
            for k in range(rows.shape[1]):
                weights[..., k] = _turned(a, weights, rows, slack, width, k)
    return weights


def _turned(a: Tensor, weights: Tensor, rows: Tensor, slack: Tensor, width: Tensor, k: int) -> Tensor:
    """The best multiplier (D, R) of row k, the others fixed."""
    g = rows[:, k].unsqueeze(1)
    others = weights.clone()
    others[..., k] = 0.0
    free = a + others @ rows
    points = (-free / g).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
    best = torch.zeros_like(points[..., 0])
    top = (free.clamp(max=0) * width.unsqueeze(1)).sum(-1)  # without this row
    for part in points.split(_POINTS, -1):
        with torch.no_grad():
            tried = free.unsqueeze(2) + part.unsqueeze(3) * g.unsqueeze(2)
            value = (tried.clamp(max=0) * width[:, None, None]).sum(-1) + part * slack[:, k, None, None]
            value, where = value.max(-1)
        best = torch.where(value > top, part.gather(-1, where.unsqueeze(-1)).squeeze(-1), best)
        top = torch.maximum(top, value)
    return best


def _climbed(a: Tensor, rows: Tensor, slack: Tensor, width: Tensor) -> Tensor:
    """Multipliers (D, R, K) by supergradients with shrinking steps, rows and forms scaled to their spread."""
    spread = (a.abs() * width.unsqueeze(1)).sum(-1).clamp(min=1e-300).unsqueeze(-1)
    scale = (rows.abs() * width.unsqueeze(1)).sum(-1).clamp(min=1e-300)
    forms, g, h = a / spread, rows / scale.unsqueeze(-1), slack / scale
    weights = forms.new_zeros((*a.shape[:2], rows.shape[1]))
    best, top = weights, torch.full_like(spread, -torch.inf)
    for step in range(_STEPS):
        mixed = forms + weights @ g
        taken = (mixed < 0) * width.unsqueeze(1)
        value = (mixed * taken).sum(-1, keepdim=True) + (weights * h.unsqueeze(1)).sum(-1, keepdim=True)
        best, top = torch.where(value > top, weights, best), torch.maximum(top, value)
        slope = taken @ g.transpose(1, 2) + h.unsqueeze(1)
        length = slope.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        weights = (weights + 0.95**step * slope / length).clamp(min=0)
    return best * (spread / scale.unsqueeze(1))


#: steps of ascent for several rows
_STEPS = 120
#: breakpoints tried at once
_POINTS = 64


def least_in_box(a: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Least value of a·x (D|1, R, n) over boxes (D|1, n): (D, R), rounded down."""
    n = a.shape[-1]
    value = dot(a.clamp(min=0), lower) + dot(a.clamp(max=0), upper)
    size = dot(a.abs(), torch.maximum(lower.abs(), upper.abs()))
    return settled(value - size * gamma(n + 8, DOUBLE) - tiny(DOUBLE) * (n + 4))


def settled(value: Tensor) -> Tensor:
    """What is not a number says nothing."""
    return value.nan_to_num(-torch.inf, torch.inf, -torch.inf)


def _euclidean(a: Tensor) -> Tensor:
    """‖a‖₂ along the last axis, scaled so that squares neither overflow nor vanish; its gradient at zero is zero."""
    scale = a.detach().abs().amax(-1)
    some = scale > 0
    scale = torch.where(some, scale, 1.0)
    total = (a / scale.unsqueeze(-1)).square().sum(-1)
    return torch.where(some, torch.where(some, total, 1.0).sqrt() * scale, 0.0)


def number(x: Any) -> Tensor:
    """Anything like an array as a float64 tensor; gradients stay."""
    if isinstance(x, (list, tuple)) and any(isinstance(part, Tensor) for part in x):
        return torch.stack([number(part) for part in x])
    return x.to(DOUBLE) if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x, np.float64))


def fitted(x: Any, shape: Shape, what: str) -> Tensor:
    """A part of a set with its batch axis in front: (D|1, *shape). Numbers are repeated."""
    tensor = number(x)
    if tensor.ndim == 0:
        return tensor.expand(1, *shape)
    if tuple(tensor.shape) == shape:
        return tensor.unsqueeze(0)
    if tuple(tensor.shape[1:]) == shape:
        return tensor
    raise InputError(
        f"{what} has the shape {list(tensor.shape)}, the input {list(shape)}",
        hint="give the input's shape, or one more axis in front for a batch",
    )


def batched(shape: Shape, *parts: Any) -> int | None:
    """The length of the batch axis, if any of the parts has one."""
    sizes = [len(tensor) for tensor in map(number, parts) if tensor.ndim == len(shape) + 1]
    return max(sizes, default=None)
