"""Single points decided exactly: float64 with rigorous error bounds, whole numbers where that leaves a doubt."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.domain import relax
from verinn.bounds.region import least
from verinn.ops.program import Program
from verinn.region.integers import Inexact, outputs
from verinn.search.spec import Spec

SAFE, VIOLATES, OPEN = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Judge:
    """Whether points violate a spec of one case, for the network's exact function.

    ``program``: the network in float64, on the CPU. ``spec``: one case; a tie (a row that is exactly zero)
    violates where the row is not ``strict``, and not where it is.
    """

    program: Program
    spec: Spec

    def status(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """SAFE, VIOLATES or OPEN for each float point (P, n), and how many took whole numbers to decide.

        OPEN is left only where a weight, a row or an operator is not exactly known.
        """
        points = torch.from_numpy(x.astype(np.float64))
        low, high = self.rows(points)
        found = self._by_conjunction(low, high)
        doubtful = np.flatnonzero(found == OPEN)
        for at in doubtful:
            found[at] = self._exactly(x[at])
        return found, len(doubtful)

    def rows(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (P, R) each of the rows' exact values at points (P, n) float64."""
        program, spec, size = self.program, self.spec, len(points)
        intervals = relax(program, points, points, refine=False).intervals
        ends = [intervals[out.value] for out in program.graph.outputs]
        low, high = (
            torch.cat([end[side].expand(size, *end[side].shape[1:]).flatten(1) for end in ends], 1) for side in (0, 1)
        )
        a, error = spec.y[:1], spec.y_error
        if spec.x is not None:
            a = torch.cat([a, spec.x[:1]], 2)
            low, high = torch.cat([low, points], 1), torch.cat([high, points], 1)
            if error is not None or spec.x_error is not None:
                none = (torch.zeros_like(spec.y), torch.zeros_like(spec.x))
                error = torch.cat(
                    [none[0] if error is None else error, none[1] if spec.x_error is None else spec.x_error], 2
                )
        elif spec.x_error is not None:
            raise AssertionError("coefficients of inputs have errors but no values")
        c = -spec.rhs[:1].expand(size, -1)
        a = a.expand(size, -1, -1)
        charge = torch.zeros_like(c)
        if error is not None:
            reach = torch.maximum(low.abs(), high.abs()).unsqueeze(1)
            charge = (error[:1] * reach).sum(-1) * (1 + 1e-9)
        return least(a, c, low, high) - charge, -least(-a, -c, low, high) + charge

    def _by_conjunction(self, low: Tensor, high: Tensor) -> np.ndarray:
        strict = self.spec.strict[:1]
        false = (low > 0) | (strict & (low >= 0))
        true = torch.where(strict, high < 0, high <= 0)
        refuted, fulfilled = [], []
        for j in range(self.spec.conjunctions):
            mine = self.spec.owner == j
            refuted.append(false[:, mine].any(1))
            fulfilled.append(true[:, mine].all(1))
        violates = torch.stack(fulfilled, 1).any(1).numpy()
        safe = torch.stack(refuted, 1).all(1).numpy()
        return np.where(safe, SAFE, np.where(violates, VIOLATES, OPEN))

    def _exactly(self, x: np.ndarray) -> int:
        spec = self.spec
        if spec.y_error is not None or spec.x_error is not None:
            return OPEN
        try:
            y = outputs(self.program, x)
        except Inexact:
            return OPEN
        inputs = [Fraction(float(value)) for value in x]
        true = [self._row_holds(r, y, inputs) for r in range(len(spec.owner))]
        owners = spec.owner.tolist()
        for j in range(spec.conjunctions):
            if all(holds for holds, owner in zip(true, owners, strict=True) if owner == j):
                return VIOLATES
        return SAFE

    def _row_holds(self, r: int, y: list[Fraction], x: list[Fraction]) -> bool:
        spec = self.spec
        value = -Fraction(float(spec.rhs[0, r]))
        for weight, number in zip(spec.y[0, r].tolist(), y, strict=True):
            value += Fraction(weight) * number if weight else 0
        if spec.x is not None:
            for weight, number in zip(spec.x[0, r].tolist(), x, strict=True):
                value += Fraction(weight) * number if weight else 0
        return value < 0 or (value == 0 and not bool(spec.strict[0, r]))
