"""Domains of a search over ReLU phases: one box and one conjunction for all, phases of neurons for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import pad

from verinn.bounds.climb import Multipliers, Rows


@dataclass(frozen=True, eq=False)
class Phases:
    """D subproblems. ``lower``, ``upper`` (D, U): intervals of the unstable ReLUs' inputs, by column, in the
    search's dtype. ``splits`` int64 (D, K): columns whose phase was chosen, −1 for none; ``phase`` (D, K): 1
    where z ≤ 0, −1 where z ≥ 0, 0 for none. ``alpha`` (D, U), ``beta`` (D, K), ``gamma`` (D, G): the
    multipliers to start from. ``share``, ``worst`` float64 (D,): as in Domains.
    """

    lower: Tensor
    upper: Tensor
    splits: Tensor
    phase: Tensor
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    share: Tensor
    worst: Tensor

    def __len__(self) -> int:
        return len(self.share)

    def select(self, index: Tensor) -> Phases:
        """The domains of a mask or index, in its order."""
        return Phases(*(getattr(self, f.name)[index] for f in fields(self)))

    def part(self, start: int, stop: int) -> Phases:
        return Phases(*(getattr(self, f.name)[start:stop] for f in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Phases]) -> Phases:
        """Batches one after the other; lists of splits are padded to the same length."""
        if len(parts) == 1:
            return parts[0]
        most = max(part.splits.shape[1] for part in parts)
        padded = {"splits": -1, "phase": 0, "beta": 0}

        def column(part: Phases, name: str) -> Tensor:
            value: Tensor = getattr(part, name)
            return pad(value, (0, most - value.shape[1]), value=padded[name]) if name in padded else value

        return Phases(*(torch.cat([column(part, f.name) for part in parts]) for f in fields(Phases)))

    def rows(self, allowed: Tensor) -> Rows:
        """What a bound of the goals asks for in these domains."""
        return Rows(self.lower, self.upper, self.splits, self.phase, allowed)

    @property
    def multipliers(self) -> Multipliers:
        return Multipliers(self.alpha, self.beta, self.gamma)

    @property
    def free(self) -> Tensor:
        """bool (D, U): neurons whose phase is open."""
        return (self.lower < 0) & (self.upper > 0)
