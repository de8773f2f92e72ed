"""Planes without slopes: an interval as a relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.ops.base import Interval, Planes


@dataclass(frozen=True, eq=False)
class Flat(Planes):
    """Constants below and above."""

    lower_offset: Tensor
    upper_offset: Tensor
    shapes: tuple[torch.Size, ...]
    terms: int = 0

    @staticmethod
    def of(interval: Interval, boxes: Sequence[Interval]) -> Flat:
        return Flat(*interval, tuple(low.shape[1:] for low, _ in boxes))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(self.lower_offset)

    def back(self, positive: Tensor, negative: Tensor) -> list[Tensor]:
        return [positive.new_zeros((*positive.shape[:2], *shape)) for shape in self.shapes]

    def at(self, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.lower_offset, self.upper_offset
