"""Intervals of unstable neurons, tightened by climbing the dual with what a violation needs.

Each neuron's bound has its own slopes, and a multiplier for every row of the output that must be at most
zero: what is found holds for the inputs that violate, and those are all that a search is about (the idea of
INVPROP, Kotha et al., NeurIPS 2023, within alpha-CROWN for intermediate layers, Xu et al., ICLR 2021).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from verinn.bounds.climb import Multipliers, Pace, Rows, climb
from verinn.search.neurons import PhaseTask

#: rows that are climbed together
BLOCK = 512


def tightened(task: PhaseTask, pace: Pace, block: int = BLOCK) -> PhaseTask | None:
    """One round over all layers. None: some interval became empty, so nothing violates."""
    low, high = task.low, task.high
    for layer in range(len(task.columns.names)):
        if task.expired():
            break
        low, high = _layer(task, layer, low, high, pace, block)
        if bool((low > high).any()):
            return None
    return replace(task, low=low, high=high)


def _layer(task: PhaseTask, layer: int, low: Tensor, high: Tensor, pace: Pace, block: int) -> tuple[Tensor, Tensor]:
    part = task.columns.part(layer)
    open_ = ((low[0, part] < 0) & (high[0, part] > 0)).nonzero().squeeze(1)
    new_low, new_high = low.clone(), high.clone()
    for some in open_.split(block // 2):
        column = some + part.start
        value = _lifted(task, layer, some, low, high, pace)
        down, up = value[: len(some)], -value[len(some) :]
        new_low[0, column] = torch.maximum(new_low[0, column], _below(down, low.dtype))
        new_high[0, column] = torch.minimum(new_high[0, column], -_below(-up, low.dtype))
        if task.expired():
            break
    return new_low, new_high


def _lifted(task: PhaseTask, layer: int, some: Tensor, low: Tensor, high: Tensor, pace: Pace) -> Tensor:
    """Lower bounds of z and then of −z for some neurons of a layer: float64 (2·len(some),), certified."""
    size = 2 * len(some)
    sign = torch.ones(size, dtype=low.dtype, device=low.device)
    sign[len(some) :] = -1
    index = task.columns.index[layer][some].repeat(2)
    none = low.new_zeros((size, 0))
    rows = Rows(low, high, none.long(), none, task.allowed, task.columns.sources[layer], index, sign)
    first = Multipliers(task.alpha.expand(size, -1), none, low.new_zeros((size, len(task.goals))))
    _, found, _ = climb(task.frame, task.goals, rows, first, pace, 0.0, task.expired)
    return task.certified(rows, found)


def _below(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → dtype, a little lower."""
    y = x.to(dtype)
    info = torch.finfo(dtype)
    return y - (y.abs() * info.eps + info.tiny)
