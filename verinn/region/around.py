"""Sets of changes that are no boxes, and the least value of linear forms over them: balls, and few inputs at a time.

A ball is far smaller than its box where inputs are many, so all bounds are taken over the set itself: those of hidden
values as well as those of the rows (dual norms, as in Xu et al., NeurIPS 2020; for few inputs the sum of the largest
changes, as in "top-t" bounds of few-pixel attacks: Shapira et al., OOPSLA 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.crown import LinearForm, Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.perturbation import Ball, settled
from verinn.bounds.rounding import cast_down, cast_up, gamma, tiny
from verinn.bounds.rows import dot
from verinn.ops.program import Step
from verinn.search.explore import Task, bound_spec


class OutOfTime(Exception):
    """Time was up before bounds were there."""


class Near(Protocol):
    """A set within each of some boxes (D, n), float64."""

    def least(self, a: Tensor, c: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Lower bounds (D, R) of forms a·x + c over the set within boxes: a (D|1, R, n), c (D|1, R)."""


@dataclass(frozen=True)
class Around:
    """A ball ‖x − centre‖_p ≤ radius, p = 1, 2 or inf; centre float64 (n,)."""

    centre: Tensor
    radius: float
    p: float

    def misses(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Boxes (D,) that are farther from the centre than the radius, rounding counted."""
        gap = torch.maximum(torch.maximum(lower - self.centre, self.centre - upper), torch.zeros(()).double())
        norm = gap.amax(1) if self.p == np.inf else gap.sum(1) if self.p == 1 else gap.square().sum(1).sqrt()
        return norm * (1 - (gap.shape[1] + 8) * 2.0**-50) > self.radius

    def least(self, a: Tensor, c: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        shape = (lower.shape[1],)
        ball = Ball(self.centre, self.radius, self.p, lower, upper)
        value = ball.least(shape, a)
        return value + c - (value.abs() + c.abs()) * 2.0**-51

    def holds(self, x: np.ndarray) -> np.ndarray:
        """Points (P, n) that lie in the ball, or a little beside it: only where a witness is looked for hangs on it."""
        gap = np.abs(x - self.centre.numpy())
        norm = gap.max(1) if self.p == np.inf else gap.sum(1) if self.p == 1 else np.sqrt((gap**2).sum(1))
        return np.asarray(norm <= self.radius * (1 + 1e-6))

    def lowest(self, a: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Points (D, n) of the ball within boxes where forms a (D, n) are least, or about: worth trying."""
        size = a.abs()
        gap = torch.where(a > 0, self.centre - lower, upper - self.centre).clamp(min=0)
        if self.p == 1:
            order = size.argsort(1, descending=True)
            most = gap.gather(1, order)
            left = (self.radius - (most.cumsum(1) - most)).clamp(min=0)
            gap = torch.zeros_like(gap).scatter(1, order, torch.minimum(most, left))
        elif self.p == 2:
            gap = torch.minimum(gap, self.radius * size / size.norm(dim=1, keepdim=True).clamp(min=1e-300))
        return self.centre - a.sign() * gap


@dataclass(frozen=True)
class Few:
    """Of each group of inputs at most so many differ from the centre, within the box; all others are as there.

    ``centre`` float64 (n,); ``group`` int64 (D, n): the group of each input, −1 for none; ``most`` int64 (D, G).
    Boxes have the centre's value in both ends of inputs without a group, and contain it in the others.
    """

    centre: Tensor
    group: Tensor
    most: Tensor

    def least(self, a: Tensor, c: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The form's value at the centre, less the greatest changes that each group may have."""
        count = int(self.most.sum(1).max())
        n, dtype = a.shape[-1], torch.float64
        gain = self.gains(a, lower, upper)
        lost = torch.zeros(gain.shape[:2], dtype=dtype)
        for g in range(self.most.shape[1]):
            size = min(int(self.most[:, g].max()), n)
            if size:
                best = torch.where((self.group == g).unsqueeze(1), gain, 0.0).topk(size, -1).values
                kept = torch.arange(size) < self.most[:, g, None]
                lost = lost + torch.where(kept.unsqueeze(1), best, 0.0).sum(-1)
        middle = self.centre.unsqueeze(0)
        charge = dot(a.abs(), middle.abs()) * gamma(n + 6, dtype) + tiny(dtype) * (n + 4)
        value = dot(a, middle) + c
        value = value - (value.abs() + c.abs()) * 2.0**-51 - charge
        value = value - lost * (1 + gamma(count + 8, dtype)) - tiny(dtype) * (count + 4)
        return settled(value - value.abs() * 2.0**-51)

    def gains(self, a: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """How much each input alone can lower each form (D, R, n), up to rounding."""
        gap = torch.where(a > 0, (self.centre - lower).unsqueeze(1), (upper - self.centre).unsqueeze(1)).clamp(min=0)
        return a.abs() * gap


@dataclass(frozen=True)
class _Within:
    """Hidden values bounded over a set within boxes (D, n)."""

    near: Near
    lower: Tensor
    upper: Tensor
    expired: Callable[[], bool]

    def refresh(self, relaxation: Relaxation, step: Step) -> None:
        """Nothing is known beside the set."""

    def minimum(self, form: LinearForm, lower: Tensor, upper: Tensor) -> Tensor:
        if self.expired():
            raise OutOfTime
        exact = form.exact(lower, upper)
        over_box = form.minimum(lower, upper)
        return torch.fmax(over_box, self.near.least(exact.a.double(), exact.c, self.lower, self.upper))


def rows(
    task: Task,
    lower: Tensor,
    upper: Tensor,
    near: Near | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Tensor]:
    """Lower linear bounds of the spec's rows over boxes (D, n): a (D, R, n), c (D, R), exact as float64.

    ``near``: they only have to hold on this set within the boxes. ``expired``: looked at between layers and blocks of
    them; raises OutOfTime.
    """
    dtype = task.program.dtype
    low, high = cast_down(lower, dtype), cast_up(upper, dtype)
    cutter = None if near is None else _Within(near, lower, upper, expired)
    relaxation = relax(task.program, low, high, budget=task.budget, cutter=cutter, first=near is not None)
    case = torch.zeros(len(low), dtype=torch.int64)
    form = bound_spec(task, relaxation, case).exact(low, high)
    a = form.a.double()
    return a.expand(len(low), *a.shape[1:]), form.c.expand(len(low), -1)
