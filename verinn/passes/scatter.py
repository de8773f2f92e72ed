"""How far rounding may move the values of a graph, measured by perturbed evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from verinn.ops.base import Affine
from verinn.ops.curve import Curve
from verinn.ops.program import Program, Step

JUMPS = frozenset({"step", "sign", "floor", "ceil", "round"})
# How much further from the clean value than the run itself a jump may be seen.
_DOUBT = 4.0


def scatter(
    program: Program, points: Sequence[Tensor], clean: Mapping[str, Tensor], unit: float, seed: int, runs: int = 6
) -> dict[str, Tensor]:
    """For every output value how far perturbed runs stray from ``clean``: (D, *shape), the largest of all runs.

    After each node a random number is added, as large as arithmetic of relative error ``unit`` may
    make there: about √n roundings of |L||x| + |b| for a sum of n products. The errors of constants
    count too. The measure needs no a-priori bound, which grows by |L| in each layer and soon says
    nothing, and yet sees cancellation, unlike a tolerance relative to the output. Functions that jump
    read a deviation several times as large: near a jump both sides are legal. Sums of whole numbers
    that float32 holds exactly have no rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    width = {step.node.name: _rounding(step, clean, unit) for step in program.steps}
    spread = {output.value: torch.zeros_like(clean[output.value]) for output in program.graph.outputs}
    for _ in range(runs):
        values = dict(zip([value.name for value in program.graph.inputs], points, strict=True))
        for step in program.steps:
            xs = [values[name] for name in step.node.inputs]
            if step.node.op in JUMPS:
                before = clean[step.node.inputs[0]]
                xs = [before + _DOUBT * (xs[0] - before)]
            y = step.apply(xs)
            noise = torch.rand(y.shape, generator=generator, dtype=torch.float64) * 2 - 1
            values[step.node.name] = y + noise * width[step.node.name]
        for name, so_far in spread.items():
            stray = (values[name] - clean[name]).abs().nan_to_num(nan=torch.inf)
            spread[name] = torch.maximum(so_far, stray)
    return spread


def _rounding(step: Step, clean: Mapping[str, Tensor], unit: float) -> Tensor:
    """How far the arithmetic of one node may stray."""
    xs = [clean[name].abs() for name in step.node.inputs]
    value: Tensor = clean[step.node.name].abs()
    if step.node.op == "matmul":
        return (xs[0] @ xs[1]).mul(2.0 * unit * (1.0 + float(xs[0].shape[-1]) ** 0.5))
    if isinstance(step.op, Curve):  # of a few elementary functions, whose errors are relative to what they start from
        return (value + xs[0]).mul(4.0 * unit)
    if step.node.op in JUMPS:
        return torch.zeros_like(value)
    if not isinstance(step.op, Affine):
        return value.mul(2.0 * unit)
    size: Tensor = step.op.linear(step.node, xs, step.magnitudes, absolute=True)
    offset = step.op.offset(step.node, step.magnitudes)
    if offset is not None:
        size = size + offset
    if step.errors is not None:
        wide = size.mul(2.0 * unit * (1.0 + float(step.forward_terms) ** 0.5))
        size = wide + step.op.linear(step.node, xs, step.errors, absolute=True)
        offset = step.op.offset(step.node, step.errors)
        return size if offset is None else size + offset
    if _whole(step, clean) and bool((size < 2.0**24).all()):
        return torch.zeros_like(value)
    return size.mul(2.0 * unit * (1.0 + float(step.forward_terms) ** 0.5))


def _whole(step: Step, clean: Mapping[str, Tensor]) -> bool:
    """Whether a node computes with whole numbers only: then nothing is rounded while sums stay below 2^24."""
    parts = [clean[name] for name in step.node.inputs] + list(step.params.values())
    return all(bool((part == part.round()).all()) for part in parts)
