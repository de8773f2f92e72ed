"""Discrete substitutions: each position of a sequence may be one of a finite set, within a budget.

The setting of word substitutions: Jia et al., "Certified Robustness to Adversarial Word Substitutions", and
Huang et al., "Achieving Verified Robustness to Symbol Substitutions" (both EMNLP 2019); the budget and its
dynamic programme: Xu et al. (NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from verinn.bounds.interval import Interval
from verinn.bounds.perturbation import DOUBLE, Perturbation, Shape, number, settled
from verinn.bounds.rounding import gamma, tiny
from verinn.errors import InputError


@dataclass(frozen=True, eq=False)
class Substitutions(Perturbation):
    """A sequence of L embeddings of length E, of which some may be replaced.

    ``original``: the input (1, …, L, E). ``candidates``: for each position the embeddings (K_i, E) that may stand
    there instead. ``budget``: how much all replacements may cost together. ``costs``: for each position the whole
    numbers (K_i,), at least one, that its candidates cost; one each when left out.
    """

    original: Any
    candidates: Sequence[Any]
    budget: int
    costs: Sequence[Sequence[int]] | None = None

    def enclosing(self, shape: Shape) -> Interval:
        original, words, costs = self._parts(shape)
        every = torch.cat([original.unsqueeze(1), torch.where(self._usable(costs), words, original.unsqueeze(1))], 1)
        return every.amin(1).reshape(1, *shape), every.amax(1).reshape(1, *shape)

    def least(self, shape: Shape, a: Tensor) -> Tensor:
        """The exact minimum, rounded down: by position, what the best candidate of each cost gains; then the least
        sum of gains for each amount of budget, position after position."""
        original, words, costs = self._parts(shape)
        length, width = original.shape
        rows = a.reshape(*a.shape[:2], length, width)
        base = (rows * original).sum((-1, -2))
        gains = torch.einsum("drle,lke->drlk", rows, words - original.unsqueeze(1))
        best = gains.new_zeros((self.budget + 1, *base.shape))
        for i in range(length):
            options = [best]
            for cost in sorted({int(c) for c in costs[i] if 0 < c <= self.budget}):
                gain = torch.where(costs[i] == cost, gains[:, :, i], torch.inf).amin(-1)
                options.append(torch.cat([best[:cost], best[:-cost] + gain]))
            best = torch.stack(options).amin(0)
        size = (rows.abs() * torch.maximum(words.abs().amax(1), original.abs())).sum((-1, -2))
        lost = 4 * size * gamma(width + 2 * length + 8, DOUBLE) + tiny(DOUBLE) * a.shape[-1]
        return settled(base + best[-1] - lost)

    def batch(self, shape: Shape) -> int | None:
        return None

    def each(self, shape: Shape) -> Iterator[Tensor]:
        """Every input (*shape) of the set: for small ones, the truth to compare with."""
        original, words, costs = self._parts(shape)
        choices = [[0, *[k + 1 for k in range(words.shape[1]) if costs[i, k] > 0]] for i in range(len(original))]
        for chosen in product(*choices):
            spent = sum(int(costs[i, k - 1]) for i, k in enumerate(chosen) if k)
            if spent <= self.budget:
                picked = [words[i, k - 1] if k else original[i] for i, k in enumerate(chosen)]
                yield torch.stack(picked).reshape(shape)

    def _usable(self, costs: Tensor) -> Tensor:
        return ((costs > 0) & (costs <= self.budget)).unsqueeze(-1)

    def _parts(self, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
        """The original (L, E), candidates (L, K, E) and their costs (L, K), zero where there is none."""
        original = number(self.original)
        if tuple(original.shape) != shape or original.ndim < 2 or original.numel() != shape[-1] * shape[-2]:
            raise InputError(
                f"the original has the shape {list(original.shape)}, the input {list(shape)}",
                hint="substitutions are for one sequence (1, positions, embedding)",
            )
        original = original.reshape(shape[-2:])
        given = [number(words).reshape(-1, shape[-1]) for words in self.candidates]
        if len(given) != len(original):
            raise InputError(
                f"{len(given)} sets of candidates for {len(original)} positions", hint="give one, maybe empty, for each"
            )
        if self.budget < 0 or int(self.budget) != self.budget:
            raise InputError(f"the budget {self.budget} is no whole number ≥ 0", hint="it is what substitutions cost")
        most = max(1, *(len(words) for words in given))
        words = torch.stack(
            [torch.cat([own, old.expand(most - len(own), -1)]) for own, old in zip(given, original, strict=True)]
        )
        costs = torch.zeros((len(given), most), dtype=torch.int64)
        for i, own in enumerate(given):
            price = torch.ones(len(own), dtype=torch.int64) if self.costs is None else torch.as_tensor(self.costs[i])
            if len(price) != len(own) or bool((price < 1).any()):
                raise InputError(f"the costs of position {i} don't fit its candidates", hint="one ≥ 1 for each")
            costs[i, : len(own)] = price
        return original, words, costs
