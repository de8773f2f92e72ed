"""Domains of a search over ReLU phases, decided by linear programmes.

Where no phase is open, the programme is the network itself: either its multipliers prove that the domain
holds no violation, or its point is one. Both are up to rounding, so the multipliers are weighed again, in
exact arithmetic where a tie asks for it, and the point is replayed; neither is believed.
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
from verinn.exact.rational import TooLarge, leaf_of
from verinn.exact.relaxation import Domain, Duals, Forms, forms_of, supported

#: variables, and numbers in the rows, of the largest programme that is tried
MOST_VARIABLES, MOST_NUMBERS = 20_000, 4_000_000
#: seconds for one programme
PATIENCE = 20.0
#: optima this near to zero, in units of their rows, are a matter of exact arithmetic
NEAR = 1e-9
#: leaves of one batch whose optimum is about zero, and whose points are tried
MOST_TIES = 2


@dataclass(frozen=True, eq=False)
class Refined:
    """What programmes found for D domains: ``rows`` and ``multipliers`` of bounds, points (D, n), claimed
    optima (D,). Where none was found: multipliers of zero, which prove nothing, and NaN."""

    rows: Rows
    multipliers: Multipliers
    points: Tensor
    value: Tensor
    duals: list[Duals]


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
        lower, upper = self._known(lower, upper)
        found = [self._duals(forms, low, high) for low, high in zip(lower.cpu(), upper.cpu(), strict=True)]

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(one, name) for one in found])).to(lower)

        phase = (upper <= 0).double() - ((upper > 0) & (lower >= 0)).double()
        splits = torch.arange(forms.neurons, device=lower.device).expand_as(phase)
        return Refined(
            Rows(lower, upper, torch.where(phase != 0, splits, -1), phase, allowed),
            Multipliers(stacked("alpha"), stacked("beta"), stacked("gamma")),
            stacked("x"),
            stacked("value"),
            found,
        )

    def _known(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Intervals as far as the relaxation, too, knows them."""
        ends = self.relaxation.intervals
        low = self.columns.gather({name: ends[name][0] for name in self.columns.sources})
        high = self.columns.gather({name: ends[name][1] for name in self.columns.sources})
        return torch.maximum(lower.double(), low), torch.minimum(upper.double(), high)

    def _duals(self, forms: Forms, low: Tensor, high: Tensor) -> Duals:
        domain = Domain(forms, low.numpy(), high.numpy())
        answer = None if self.expired() else solved(domain.programme, PATIENCE)
        if answer is not None:
            return domain.duals(answer)
        none = np.zeros(forms.neurons)
        middle = forms.middle
        return Duals(none, none, np.zeros(len(self.goals)), middle, float("nan"), np.zeros(len(middle), dtype=bool))

    def settled(
        self,
        lower: Tensor,
        upper: Tensor,
        allowed: Tensor,
        certified: Callable[[Rows, Multipliers], Tensor],
        strict: bool,
    ) -> tuple[Tensor, Tensor]:
        """Leaves: (bool (D,): whether they hold no violation, proved; points (P, n) of the others to be tried).

        ``certified``: what multipliers prove, rounded down; ``strict``: whether a violation is below zero.
        """
        refined = self.refine(lower, upper, allowed)
        if refined is None:
            return torch.zeros(len(lower), dtype=torch.bool, device=lower.device), self.lower[:0]
        proof = certified(refined.rows, refined.multipliers)
        closed = proof > 0
        if strict:
            closed |= (proof >= 0) & (refined.multipliers.gamma.sum(1) > 0)
        near = ~closed & (refined.value.abs() < NEAR)
        for i in near.nonzero().squeeze(1).tolist():
            closed[i] = self._exactly(refined.duals[i], refined.rows.phase[i], strict)
        ties = near & ~closed
        found = [refined.points[refined.value <= -NEAR]]
        if not strict:
            some = ties.nonzero().squeeze(1)[:MOST_TIES]
            found += [self._inside(refined.rows.lower[i], refined.rows.upper[i]) for i in some]
            found.append(refined.points[some[:1]])
        # in float32, as witnesses are: whether a point still touches a row is seen only then
        return closed, torch.cat(found).float().double()

    def _inside(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Another point (1, n) of a leaf (U,) whose goals can be zero at best, or none (0, n)."""
        forms = self.forms()
        assert forms is not None
        domain = Domain(forms, lower.cpu().numpy(), upper.cpu().numpy())
        answer = None if self.expired() else solved(domain.inside, PATIENCE)
        return self.lower[:0] if answer is None else torch.from_numpy(domain.point(answer)).to(self.lower).unsqueeze(0)

    def _exactly(self, duals: Duals, phase: Tensor, strict: bool) -> bool:
        """Whether a leaf is refuted in exact arithmetic; False also where that would be too much work."""
        if self.expired():
            return False
        box = (self.lower[0].cpu().numpy(), self.upper[0].cpu().numpy())
        try:
            leaf = leaf_of(self.relaxation, self.columns, self.goals, box, phase.cpu().numpy())
        except TooLarge:
            return False
        weights = [*duals.gamma.tolist(), *duals.beta.tolist()]
        return leaf.refuted(weights, np.flatnonzero(duals.still).tolist(), strict)
