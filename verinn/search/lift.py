"""Intervals of unstable neurons, tightened by climbing the dual with what a violation needs.

Each neuron's bound has its own slopes, and a multiplier for every row of the output that must be at most
zero: what is found holds for the inputs that violate, and those are all that a search is about (the idea of
INVPROP, Kotha et al., NeurIPS 2023, within alpha-CROWN for intermediate layers, Xu et al., ICLR 2021).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from verinn.bounds.climb import Multipliers, Pace, Rows, climb
from verinn.bounds.domain import CACHE
from verinn.search.neurons import PhaseTask
from verinn.search.work import Assistant

#: rows that are climbed together: at most so many, and as many as the caches hold
BLOCK = 512
FEWEST = 32
#: the part of an interval's width by which an end must move to be computed with care
WORTH = 0.005


def tightened(
    task: PhaseTask, pace: Pace, assistant: Assistant | None = None, workers: int = 1, some: Tensor | None = None
) -> PhaseTask | None:
    """One round over all layers, shared with a second process, or by threads. ``some`` bool (U,): only these columns.

    None: an interval became empty, so nothing violates. Without goals what is found holds for every input.
    """
    low, high = task.low, task.high
    plain = () if len(task.goals) or task.cut else sharp(task)
    for layer in range(len(task.columns.names)):
        if task.expired():
            break
        if layer in plain:
            continue
        low, high = _layer(replace(task, low=low, high=high), layer, pace, assistant, workers, some)
        if bool((low > high).any()):
            return None
    return replace(task, low=low, high=high)


def sharp(task: PhaseTask) -> tuple[int, ...]:
    """Layers whose bounds no slope can improve: those that read the inputs through affine steps alone."""
    program = task.relaxation.program
    plain = {value.name for value in program.graph.inputs}
    for step in program.steps:
        if step.affine and all(name in plain for name in step.node.inputs):
            plain.add(step.node.name)
    return tuple(i for i, source in enumerate(task.columns.sources) if source in plain)


def _layer(
    task: PhaseTask, layer: int, pace: Pace, assistant: Assistant | None, workers: int, some: Tensor | None
) -> tuple[Tensor, Tensor]:
    part = task.columns.part(layer)
    wanted = (task.low[0, part] < 0) & (task.high[0, part] > 0)
    open_ = (wanted if some is None else wanted & some[part]).nonzero().squeeze(1)
    if not len(open_):
        return task.low, task.high
    new_low, new_high = task.low.clone(), task.high.clone()
    mine, job = open_, None
    if assistant is not None and len(open_) > 8:  # always the same neurons, of which each process remembers its own
        mine, other = open_[open_ % 2 == 0], open_[open_ % 2 == 1]
        job = assistant(lifted, layer, other, task.low, task.high, task.alpha, pace)
    order = open_ if job is None else torch.cat([mine, other])
    found = [lifted(task, layer, mine, task.low, task.high, task.alpha, pace, 1 if job else workers)]
    if job is not None:
        try:
            found.append(job.result())
        except Exception:  # whatever it was: a true defect will show in this process, too
            found.append(lifted(task, layer, other, task.low, task.high, task.alpha, pace))
    down, up = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    column = order + part.start
    new_low[0, column] = torch.fmax(new_low[0, column], down)
    new_high[0, column] = torch.fmin(new_high[0, column], up)
    return new_low, new_high


def lifted(
    task: PhaseTask,
    layer: int,
    some: Tensor,
    low: Tensor,
    high: Tensor,
    alpha: Tensor,
    pace: Pace,
    workers: int = 1,
) -> tuple[Tensor, Tensor]:
    """Bounds (len(some),) of some neurons of a layer (numbers among its columns), certified.

    Where time runs out, the rest keep what they have.
    """
    first = task.columns.start[layer]
    down, up = low[0, some + first].clone(), high[0, some + first].clone()

    def bound(number: Tensor) -> Tensor | None:
        if task.expired():
            return None
        with torch.no_grad():  # which is a matter of each thread
            return _climbed(task, layer, some[number], low, high, alpha, pace)

    blocks = torch.arange(len(some), device=some.device).split(rows_of(task) // 2)
    pool = ThreadPoolExecutor(workers) if workers > 1 else None
    for number, value in zip(blocks, map(bound, blocks) if pool is None else pool.map(bound, blocks), strict=True):
        if value is not None:
            down[number] = _below(value[: len(number)], low.dtype)
            up[number] = -_below(value[len(number) :], low.dtype)
    if pool is not None:
        pool.shutdown()
    return down, up


def rows_of(task: PhaseTask) -> int:
    """How many rows are climbed together."""
    program = task.relaxation.program
    widest = max((torch.Size(shape).numel() for shape in program.shapes.values()), default=1)
    if program.device.type != "cpu":
        return BLOCK
    return min(BLOCK, max(FEWEST, CACHE // (widest * torch.finfo(program.dtype).bits // 8)))


def wanted(
    task: PhaseTask, layer: int, some: Tensor, low: Tensor, high: Tensor, alpha: Tensor
) -> tuple[Rows, Multipliers]:
    """Rows for lower bounds of z and then of −z for some neurons of a layer, and the multipliers to start from."""
    size = 2 * len(some)
    sign = torch.ones(size, dtype=low.dtype, device=low.device)
    sign[len(some) :] = -1
    index = task.columns.index[layer][some].repeat(2)
    fixed, phase = _fixed(low, high)
    if not len(task.goals) and not task.cut:  # the box is all that there is: what is stable is so by its bounds
        fixed, phase = fixed[:, :0], phase[:, :0]
    splits, phase = fixed.expand(size, -1), phase.expand(size, -1)
    rows = Rows(low, high, splits, phase, task.allowed, task.columns.sources[layer], index, sign)
    memory = task.memory(layer)
    fresh = Multipliers(alpha.expand(size, -1), torch.zeros_like(phase), low.new_zeros((size, len(task.goals))))
    return rows, fresh if memory is None else memory.recall(some, fixed[0], fresh)


def _climbed(task: PhaseTask, layer: int, some: Tensor, low: Tensor, high: Tensor, alpha: Tensor, pace: Pace) -> Tensor:
    """Lower bounds of z and then of −z for some neurons of a layer: float64 (2·len(some),), certified."""
    rows, start = wanted(task, layer, some, low, high, alpha)
    best, found, _ = climb(task.frame, task.asked, rows, start, pace, 0.0, task.expired)
    memory = task.memory(layer)
    if memory is not None:
        memory.keep(some, _fixed(low, high)[0][0], found)
    column = some + task.columns.start[layer]
    known, width = torch.cat([low[0, column], -high[0, column]]), (high - low)[0, column].repeat(2)
    value = torch.full_like(best, -torch.inf, dtype=torch.float64)
    better = (best > known + WORTH * width).nonzero().squeeze(1)
    if len(better):
        value[better] = task.certified(rows.select(better), found.select(better))
    return value


class Memory:
    """The multipliers last found for the bounds of a layer's neurons: where the next climb starts.

    Split multipliers are kept by column, so that they fit whatever is fixed next time. What is remembered
    decides how soon a bound is good, never whether it holds.
    """

    def __init__(self, neurons: int, columns: int, goals: int, like: Tensor):
        self.known = torch.zeros(neurons, dtype=torch.bool, device=like.device)
        self.alpha = like.new_zeros((2, neurons, columns))
        self.beta = like.new_zeros((2, neurons, columns))
        self.gamma = like.new_zeros((2, neurons, goals))

    def recall(self, some: Tensor, fixed: Tensor, fresh: Multipliers) -> Multipliers:
        known = self.known[some].repeat(2).unsqueeze(1)
        alpha, gamma = self.alpha[:, some].flatten(0, 1), self.gamma[:, some].flatten(0, 1)
        beta = self.beta[:, some].flatten(0, 1)[:, fixed]
        return Multipliers(torch.where(known, alpha, fresh.alpha), beta, torch.where(known, gamma, fresh.gamma))

    def keep(self, some: Tensor, fixed: Tensor, found: Multipliers) -> None:
        count = len(some)
        self.known[some] = True
        self.alpha[:, some] = found.alpha.unflatten(0, (2, count))
        self.gamma[:, some] = found.gamma.unflatten(0, (2, count))
        beta = found.beta.new_zeros((2 * count, self.beta.shape[2]))
        beta[:, fixed] = found.beta
        self.beta[:, some] = beta.unflatten(0, (2, count))

    def copy(self) -> Memory:
        """What is remembered, to go on from separately."""
        other = copy(self)
        other.known, other.alpha = self.known.clone(), self.alpha.clone()
        other.beta, other.gamma = self.beta.clone(), self.gamma.clone()
        return other


def _fixed(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The columns (1, K) whose phase is the same everywhere, and their phase, as in Rows."""
    column = ((low >= 0) | (high <= 0))[0].nonzero().squeeze(1)
    phase = torch.where(high[0, column] <= 0, 1.0, -1.0).to(low.dtype)
    return column.unsqueeze(0), phase.unsqueeze(0)


def _below(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → dtype, a little lower."""
    y = x.to(dtype)
    info = torch.finfo(dtype)
    return y - (y.abs() * info.eps + info.tiny)
