"""Domains of a search over ReLU phases, decided by linear programmes.

Where no phase is open, the programme is the network itself: either its multipliers prove that the domain
holds no violation, or its point is one. Both are up to rounding, so the multipliers are weighed again and
the point is replayed; neither is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.climb import Goals, Multipliers, Rows
from verinn.bounds.crown import Relaxation
from verinn.bounds.dual import Columns
from verinn.exact.lp import solved
from verinn.exact.relaxation import Domain, Duals, Forms, forms_of, supported

#: variables, and numbers in the rows, of the largest programme that is tried
MOST_VARIABLES, MOST_NUMBERS = 20_000, 4_000_000
#: seconds for one programme
PATIENCE = 20.0


@dataclass(frozen=True, eq=False)
class Refined:
    """What programmes found for D domains: ``rows`` and ``multipliers`` of bounds, points (D, n), claimed
    optima (D,). Where none was found: multipliers of zero, which prove nothing, and NaN."""

    rows: Rows
    multipliers: Multipliers
    points: Tensor
    value: Tensor


@dataclass(eq=False)
class Refiner:
    """Programmes of one search. The network's forms are made when first needed, and kept: they hang only on
    the relaxation and the goals, which stay."""

    relaxation: Relaxation  # of the search's box, float64
    columns: Columns
    goals: Goals
    lower: Tensor
    upper: Tensor
    expired: Callable[[], bool] = lambda: False
    _forms: list[Forms | None] = field(default_factory=list)

    def forms(self) -> Forms | None:
        """None where the network is too large, or not all of its nonlinear steps are ReLUs."""
        if not self._forms:
            self._forms.append(self._made())
        return self._forms[0]

    def _made(self) -> Forms | None:
        size = self.lower.shape[1] + 2 * self.columns.count
        if size > MOST_VARIABLES or not supported(self.relaxation):
            return None
        forms = forms_of(self.relaxation, self.columns, self.goals, self.lower, self.upper)
        return forms if forms.inner.nnz + forms.outer.nnz <= MOST_NUMBERS else None

    def refine(self, lower: Tensor, upper: Tensor, allowed: Tensor) -> Refined | None:
        """The best multipliers of domains with intervals lower, upper (D, U) of the unstable ReLUs' inputs.

        ``allowed`` bool (1, G). None where there is no programme for this network.
        """
        forms = self.forms()
        if forms is None:
            return None
        lower, upper = lower.double(), upper.double()
        found = [self._duals(forms, low, high) for low, high in zip(lower.cpu(), upper.cpu(), strict=True)]
        nothing = Duals(
            np.zeros(forms.neurons), np.zeros(forms.neurons), np.zeros(len(self.goals)), forms.middle, float("nan")
        )

        def stacked(name: str) -> Tensor:
            values = np.stack([getattr(nothing if one is None else one, name) for one in found])
            return torch.from_numpy(values).to(lower)

        phase = (upper <= 0).double() - ((upper > 0) & (lower >= 0)).double()
        splits = torch.arange(forms.neurons, device=lower.device).expand_as(phase)
        splits = torch.where(phase != 0, splits, -1)
        return Refined(
            Rows(lower, upper, splits, phase, allowed),
            Multipliers(stacked("alpha"), stacked("beta"), stacked("gamma")),
            stacked("x"),
            stacked("value"),
        )

    def _duals(self, forms: Forms, low: Tensor, high: Tensor) -> Duals | None:
        if self.expired():
            return None
        domain = Domain(forms, low.numpy(), high.numpy())
        answer = solved(domain.programme, PATIENCE)
        return None if answer is None else domain.duals(answer)

    def settled(
        self,
        lower: Tensor,
        upper: Tensor,
        allowed: Tensor,
        certified: Callable[[Rows, Multipliers], Tensor],
        strict: bool,
    ) -> tuple[Tensor, Tensor]:
        """(bool (D,): whether domains hold no violation, proved; points (P, n) of the others to be tried).

        ``certified``: what multipliers prove, rounded down; ``strict``: whether a violation is below zero.
        """
        refined = self.refine(lower, upper, allowed)
        if refined is None:
            return torch.zeros(len(lower), dtype=torch.bool, device=lower.device), self.lower[:0]
        proof = certified(refined.rows, refined.multipliers)
        closed = proof > 0
        if strict:
            closed |= (proof >= 0) & (refined.multipliers.gamma.sum(1) > 0)
        return closed, refined.points[~closed & refined.value.isfinite()]
