"""Splits of open domains: a box halved, or the phase of one ReLU fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from verinn.bounds.crown import Backward, OneHot, Relaxation
from verinn.bounds.region import Region, clip, least
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.base import Elementwise
from verinn.search.store import Domains, join
from verinn.search.task import Task


def branch(
    task: Task,
    domains: Domains,
    relaxation: Relaxation,
    a: Tensor,
    weights: Tensor,
    costs: Mapping[str, Tensor],
    stakes: Tensor | None = None,
) -> tuple[Domains | None, Domains | None]:
    """Children of open domains, and those that could not be split.

    ``stakes`` (D, n): what halving each input would decide, where something is known of that; such domains
    are halved there, unless they are deep already.
    """
    chosen = _choose_neurons(task, domains, relaxation, costs)
    width = domains.upper - domains.lower
    score = (a.abs() * weights.unsqueeze(-1)).sum(1) * width
    score = torch.where(score.sum(1, keepdim=True) > 0, score, width)
    if stakes is not None:
        told = ((stakes > 0).any(1) & ~_deep(task, domains)).unsqueeze(1)
        chosen = torch.where(told, -1, chosen)
        score = torch.where(told, stakes, score)
    made: list[Domains] = []
    for number in range(len(task.relus)):
        mine = (chosen[:, 0] == number).nonzero().squeeze(1)
        if len(mine):
            made.extend(_split_neuron(task, number, domains.select(mine), relaxation.select(mine), chosen[mine, 1]))
    rest = (chosen[:, 0] < 0).nonzero().squeeze(1)
    stuck = None
    if len(rest):
        halves, stuck = _split_input(task, domains.select(rest), score[rest])
        made.extend(halves)
    return (join(made) if made else None), stuck


def _deep(task: Task, domains: Domains) -> Tensor:
    return domains.share * len(task.spec.cases) <= 0.5**task.depth


def _choose_neurons(task: Task, domains: Domains, relaxation: Relaxation, costs: Mapping[str, Tensor]) -> Tensor:
    """(D, 2): number of the ReLU step and the neuron to split, or −1 where an input split is better."""
    size = len(domains)
    best = torch.full((size,), -torch.inf, dtype=torch.float64, device=domains.case.device)
    chosen = torch.full((size, 2), -1, dtype=torch.int64, device=domains.case.device)
    unstable = torch.zeros(size, dtype=torch.int64, device=domains.case.device)
    for number, step in enumerate(task.relus):
        assert isinstance(step.op, Elementwise)
        loose = step.op.loose(step.node, *relaxation.intervals[step.node.inputs[0]]).flatten(1)
        unstable += loose.sum(1)
        if step.node.name not in costs:
            continue
        cost = torch.where(loose, costs[step.node.name].expand(size, *step.node.shape).flatten(1).double(), -torch.inf)
        value, where = cost.max(1)
        better = (value > best) & (chosen[:, 0] < 0)
        best = torch.where(better, value, best)
        chosen[better, 0] = number
        chosen[better, 1] = where[better]
    few = (unstable > 0) & ((unstable <= task.neurons) | _deep(task, domains)) & best.isfinite()
    return torch.where(few.unsqueeze(1), chosen, -1)


def _split_neuron(task: Task, number: int, domains: Domains, relaxation: Relaxation, neuron: Tensor) -> list[Domains]:
    """Both phases of one neuron (index within ReLU step ``number``) of each domain."""
    name = task.relus[number].node.inputs[0]
    index = neuron.unsqueeze(1)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64, device=index.device)
    form = Backward(relaxation).run({name: OneHot(index.expand(-1, 2), sign)})
    dtype = task.program.dtype
    form = form.exact(cast_down(domains.lower, dtype), cast_up(domains.upper, dtype))
    low, high = relaxation.intervals[name]
    zero = torch.zeros_like(index, dtype=dtype)
    phases = []
    for phase in (0, 1):
        flat_low, flat_high = low.flatten(1), high.flatten(1)
        if phase == 0:
            flat_high = flat_high.scatter(1, index, zero)
        else:
            flat_low = flat_low.scatter(1, index, zero)
        known = {**domains.known, name: (flat_low.reshape(low.shape), flat_high.reshape(high.shape))}
        splits = torch.cat([2 * (index + task.starts[number]) + phase, domains.splits], 1)
        rows = torch.cat([form.a[:, phase : phase + 1].double(), domains.rows], 1)
        rows_c = torch.cat([form.c[:, phase : phase + 1], domains.rows_c], 1)
        box = clip(Region(domains.lower, domains.upper, rows[:, :1], rows_c[:, :1]), 1)
        child = replace(
            domains,
            lower=box.lower,
            upper=box.upper,
            splits=splits,
            rows=rows,
            rows_c=rows_c,
            known=known,
            share=domains.share / 2,
        )
        phases.append(_tidied(child.select(~(box.lower > box.upper).any(1))))
    return phases


def _tidied(domains: Domains) -> Domains:
    """Without the splits that the box implies (their phases stay known), the others moved to the front."""
    a, c = domains.rows, domains.rows_c
    kept = (domains.splits >= 0) & ~(least(-a, -c, domains.lower, domains.upper) >= 0)
    count = int(kept.sum(1).max()) if len(domains) else 0
    order = kept.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :count]
    valid = kept.gather(1, order)
    wide = order.unsqueeze(-1).expand(-1, -1, a.shape[-1])
    return replace(
        domains,
        splits=torch.where(valid, domains.splits.gather(1, order), -1),
        rows=torch.where(valid.unsqueeze(-1), a.gather(1, wide), 0.0),
        rows_c=torch.where(valid, c.gather(1, order), -1.0),
    )


def _split_input(task: Task, domains: Domains, score: Tensor) -> tuple[list[Domains], Domains | None]:
    """Halves each box in the dimension where the score (D, n) is greatest; and those that are too narrow."""
    lower, upper = domains.lower, domains.upper
    middle = lower + (upper - lower) / 2
    wide = upper - lower > task.narrow * (task.spec.upper - task.spec.lower)[domains.case]
    score = torch.where((middle > lower) & (middle < upper) & wide, score, -1.0)
    value, axis = score.max(1, keepdim=True)
    fine = (value >= 0).squeeze(1)
    cut = middle.gather(1, axis)
    half = replace(domains, share=domains.share / 2)
    halves = [replace(half, upper=upper.scatter(1, axis, cut)), replace(half, lower=lower.scatter(1, axis, cut))]
    stuck = None if bool(fine.all()) else domains.select(~fine)
    return [part.select(fine) for part in halves], stuck
