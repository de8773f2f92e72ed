"""Domains of a search over any graph: a box, intervals of the values that nonlinear steps read, and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from verinn.bounds.interval import Interval
from verinn.bounds.optimise import Cuts, Parameters

#: parameters of relaxations wait in this: they may be any numbers in [0, 1]
STORED = torch.float16


@dataclass(frozen=True, eq=False)
class Pieces:
    """D subproblems, one conjunction each: ``goal`` int64 (D,), its number among those of the task.

    ``lower``/``upper`` float64 (D, n): boxes. ``known``: intervals of values by name, (D, *shape) each, in the
    search's dtype; they hold wherever the box and the splits do. ``value``, ``index`` int64, ``point`` float64,
    ``sign`` (D, K): splits made, as in Cuts. ``alphas``, ``beta`` (D, K), ``gamma`` (D, G): parameters to start
    from. ``share``, ``worst`` float64 (D,): as in Domains.
    """

    lower: Tensor
    upper: Tensor
    goal: Tensor
    known: dict[str, Interval]
    value: Tensor
    index: Tensor
    point: Tensor
    sign: Tensor
    alphas: dict[str, Tensor]
    beta: Tensor
    gamma: Tensor
    share: Tensor
    worst: Tensor

    def __len__(self) -> int:
        return len(self.share)

    def select(self, index: Tensor) -> Pieces:
        """The domains of a mask or index, in its order."""

        def chosen(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: chosen(held) for name, held in value.items()}
            return tuple(end[index] for end in value) if isinstance(value, tuple) else value[index]

        return Pieces(*(chosen(getattr(self, f.name)) for f in fields(self)))

    def part(self, start: int, stop: int) -> Pieces:
        return self.select(torch.arange(start, min(stop, len(self)), device=self.goal.device))

    @staticmethod
    def joined(parts: Sequence[Pieces]) -> Pieces:
        """Batches one after the other; lists of splits are padded to the same length."""
        if len(parts) == 1:
            return parts[0]
        most = max(part.value.shape[1] for part in parts)
        padded = {"value": -1, "index": 0, "point": 0, "sign": 0, "beta": 0}

        def column(name: str) -> Any:
            held = [getattr(part, name) for part in parts]
            if name in padded:
                held = [pad(one, (0, most - one.shape[1]), value=padded[name]) for one in held]
            if not isinstance(held[0], dict):
                return torch.cat(held)
            if name == "alphas":
                return {key: torch.cat([one[key] for one in held]) for key in held[0]}
            return {key: tuple(torch.cat([one[key][end] for one in held]) for end in (0, 1)) for key in held[0]}

        return Pieces(*(column(f.name) for f in fields(Pieces)))

    def cuts(self, names: tuple[str, ...]) -> Cuts | None:
        """The splits as half-spaces."""
        return Cuts(names, self.value, self.index, self.point, self.sign) if self.value.shape[1] else None

    def parameters(self, dtype: torch.dtype) -> Parameters:
        alphas = {name: alpha.to(dtype) for name, alpha in self.alphas.items()}
        return Parameters(alphas, self.beta.to(dtype), self.gamma.to(dtype))
