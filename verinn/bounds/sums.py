"""Bounds of the sums that coefficients make of a product's second matrix (see ``gathered.py``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verinn.bounds.crown import Backward, Relaxation
from verinn.bounds.gathered import Sums
from verinn.bounds.rows import Rows
from verinn.ops.program import Step


def sums_of(
    base: Relaxation,
    moving: Relaxation,
    start: Mapping[str, Rows],
    c: Tensor,
    lower: Tensor,
    upper: Tensor,
    room: int,
) -> dict[str, Sums]:
    """Sums by product of matrices, for the coefficients that rows (B, 1, *shape) of ``moving`` meet it with.

    ``base``: one domain, whose own guesses bound the sums over its box lower, upper (1, n). ``room``: numbers that
    one block of rows may have. Only where more columns are summed over than products are gathered into one.
    """
    wide = [step for step in base.program.steps if step.node.op == "matmul" and step.node.shape[-1] > _inner(step)]
    if not wide:
        return {}
    met: dict[str, Tensor] = {}
    Backward(moving, met=met).run(start, c)
    found = {}
    for step in wide:
        if step.node.name in met:
            a = met[step.node.name][:, 0].detach()
            found[step.node.name] = _bounded(base, step, a, lower, upper, room)
    return found


def _inner(step: Step) -> int:
    return step.shapes[0][-1]


def _bounded(base: Relaxation, step: Step, a: Tensor, lower: Tensor, upper: Tensor, room: int) -> Sums:
    """Both bounds of every sum; those of nothing are zero."""
    name, shape = step.node.inputs[1], step.shapes[1]
    inner, columns = shape[-2:]
    lead = torch.Size(shape[:-2]).numel()
    rows = a.reshape(len(a), lead, -1, columns)
    low = torch.zeros((*rows.shape[:-1], inner), dtype=torch.float64, device=a.device)
    high = torch.zeros_like(low)
    where = rows.abs().amax(-1).nonzero()
    widest = max(torch.Size(some).numel() for some in base.program.shapes.values())
    for part in where.split(max(1, room // (widest * 2 * inner))):
        one, place, row = part.unbind(1)
        picked = torch.zeros((len(part), inner, lead, inner, columns), dtype=a.dtype, device=a.device)
        several = torch.arange(len(part), device=a.device).unsqueeze(1)
        each = torch.arange(inner, device=a.device).unsqueeze(0)
        picked[several, each, place.unsqueeze(1), each] = rows[one, place, row].unsqueeze(1)
        picked = picked.reshape(1, -1, *shape)
        both = Backward(base).minimum({name: torch.cat([picked, -picked], 1)}, lower, upper)[0]
        least, most = both.nan_to_num(-torch.inf, torch.inf, -torch.inf).reshape(2, len(part), inner)
        low[one, place, row], high[one, place, row] = least, -most
    size = (*a.shape[:-1], inner)
    return Sums(a, low.reshape(size), high.reshape(size))
