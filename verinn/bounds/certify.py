"""What multipliers prove: the bound they give, computed again with every rounding counted.

Climbing the dual (``climb.py``) is free to be careless; a leaf is proved, and an interval narrowed, only
by what comes out here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verinn.bounds.climb import Goals, Multipliers, Rows
from verinn.bounds.crown import Backward, LinearForm, OneHot, Relaxation, dot
from verinn.bounds.domain import split_inputs
from verinn.bounds.dual import Columns
from verinn.bounds.rounding import sum_slack


def certified(
    root: Relaxation, columns: Columns, goals: Goals | None, rows: Rows, multipliers: Multipliers
) -> LinearForm:
    """Linear lower bounds (B, 1) of what the rows ask for, sound wherever ``root`` and the rows' intervals hold.

    The multipliers may be anything: what is not allowed is moved to where it is.
    """
    relaxation = relaxation_of(root, columns, rows, multipliers)
    start: dict[str, Tensor | OneHot] = {}
    size = len(multipliers.alpha)
    c = torch.zeros((size, 1), dtype=torch.float64, device=multipliers.alpha.device)
    if goals is not None:
        dense, c = mixed(relaxation, goals, multipliers.gamma.clamp(min=0).double() * rows.allowed)
        start.update(dense)
    if rows.source is not None:
        assert rows.index is not None and rows.sign is not None
        one = OneHot(rows.index.unsqueeze(1), rows.sign.unsqueeze(1))
        held = start.get(rows.source)
        if held is None:
            start[rows.source] = one
        else:  # an output that is bounded itself: its element joins the mix
            assert isinstance(held, Tensor)
            total = held.double() + one.dense(root.program.shapes[rows.source], torch.float64)
            start[rows.source] = total.to(root.program.dtype)
            loss = (total - start[rows.source].double()).abs() + total.abs() * 2.0**-52  # type: ignore[union-attr]
            c = c - _cost(relaxation, rows.source, loss)
    return Backward(relaxation).run(start, c)


def relaxation_of(root: Relaxation, columns: Columns, rows: Rows, multipliers: Multipliers) -> Relaxation:
    """The root's relaxation with the rows' intervals and multipliers in the unstable neurons."""
    size = len(multipliers.alpha)
    intervals = dict(root.intervals)
    alphas, pulls = {}, {}
    pull = multipliers.pull(rows)
    for i, (name, source) in enumerate(zip(columns.names, columns.sources, strict=True)):
        index, part = columns.index[i], columns.part(i)
        low, high = intervals[source]  # which another ReLU that reads it may have narrowed
        shape = low.shape[1:]

        def filled(base: Tensor, values: Tensor, index: Tensor = index, shape: torch.Size = shape) -> Tensor:
            count = len(values)
            return base.flatten(1).expand(count, -1).index_copy(1, index, values).reshape(count, *shape)

        if len(index):
            tight = torch.maximum(rows.lower[:, part], low.flatten(1)[:, index])
            under = torch.minimum(rows.upper[:, part], high.flatten(1)[:, index])
            intervals[source] = filled(low, tight), filled(high, under)
        alphas[name] = filled(torch.zeros_like(low), multipliers.alpha[:, part].clamp(0, 1))
        if pull is not None:
            pulls[name] = filled(torch.zeros_like(low), pull[:, part])
    made = Relaxation(root.program, intervals, alphas, pulls, root)
    assert all(len(alpha) == size for alpha in alphas.values())
    return made


def mixed(relaxation: Relaxation, goals: Goals, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Coefficients (B, 1, *shape) by value and c (B, 1) of the goals mixed by float64 ``weights`` (B, G) ≥ 0."""
    program = relaxation.program
    slack = (len(goals) + 4) * 2.0**-52
    c = -(weights @ goals.rhs) - (weights @ goals.rhs.abs()) * slack
    start: dict[str, Tensor] = {}
    sizes = [torch.Size(program.shapes[out.value]).numel() for out in program.graph.outputs]
    parts = [(out.value, piece) for out, piece in zip(program.graph.outputs, goals.y.split(sizes, 1), strict=True)]
    errors = [None] * len(parts) if goals.y_error is None else list(goals.y_error.split(sizes, 1))
    if goals.x is not None:
        for name, piece in _by_input(relaxation, goals.x):
            parts.append((name, piece))
        errors += (
            [None] * (len(parts) - len(errors))
            if goals.x_error is None
            else [piece for _, piece in _by_input(relaxation, goals.x_error)]
        )
    for (name, piece), error in zip(parts, errors, strict=True):
        mixed = weights @ piece
        loss = (weights @ piece.abs()) * slack
        if error is not None:
            loss = loss + (weights @ error) * (1 + slack)
        if name in start:
            mixed = mixed + start[name].flatten(1).double()
            loss = loss + mixed.abs() * 2.0**-52
        held = mixed.to(program.dtype)
        loss = (loss + (mixed - held.double()).abs()) * (1 + 1e-12)
        start[name] = held.reshape(-1, 1, *program.shapes[name])
        c = c - _cost(relaxation, name, loss.reshape(start[name].shape)).squeeze(1)
    return start, c.unsqueeze(1)


def _by_input(relaxation: Relaxation, rows: Tensor) -> list[tuple[str, Tensor]]:
    return [(name, piece.flatten(1)) for name, piece in split_inputs(relaxation.program, rows).items()]


def _cost(relaxation: Relaxation, name: str, loss: Tensor) -> Tensor:
    """What coefficients wrong by ``loss`` (B, 1, *shape) may cost: (B, 1)."""
    size = relaxation.size(name).double()
    return dot(loss, size) * sum_slack(size[0].numel(), torch.float64)
