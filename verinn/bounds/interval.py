"""Interval bound propagation (IBP), rounded outward: one step at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verinn.bounds.rounding import centre, gamma, outward, tiny
from verinn.ops.base import Affine, Joint
from verinn.ops.program import Step

Interval = tuple[Tensor, Tensor]


def magnitude(interval: Interval) -> Tensor:
    """The greatest |x| of each element."""
    return torch.maximum(interval[0].abs(), interval[1].abs())


def propagate(step: Step, inputs: Sequence[Interval]) -> Interval:
    """The interval of a step's value from those of its inputs, each (D, *shape); never NaN, but maybe infinite."""
    if isinstance(step.op, Joint):
        low, high = step.op.interval(step.node, inputs)
    elif not isinstance(step.op, Affine):
        low, high = step.op.interval(step.node, *inputs[0])
    elif step.forward_terms == 0 and step.errors is None:
        return _moved(step, inputs)
    else:
        low, high = _affine(step, inputs)
    return _known(low, high)


def _known(low: Tensor, high: Tensor) -> Interval:
    """Ends that are not numbers, or that overflowed on the wrong side, say nothing."""
    inf = torch.inf
    return low.nan_to_num(-inf, -inf, -inf), high.nan_to_num(inf, inf, inf)


def _moved(step: Step, inputs: Sequence[Interval]) -> Interval:
    """No arithmetic but adding b: the ends move like numbers do."""
    assert isinstance(step.op, Affine)
    lower = step.op.linear(step.node, [pair[0] for pair in inputs], step.params)
    upper = step.op.linear(step.node, [pair[1] for pair in inputs], step.params)
    b = step.op.offset(step.node, step.params)
    return (lower, upper) if b is None else _known(*outward(lower + b, upper + b))


def _affine(step: Step, inputs: Sequence[Interval]) -> Interval:
    """L c + b ± |L| r, each enlarged by what rounding and inexact weights can do."""
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    dtype = inputs[0][0].dtype if inputs else next(iter(step.params.values())).dtype
    g = gamma(step.forward_terms + 3, dtype)
    pairs = [centre(*pair) for pair in inputs]
    sizes = [c.abs() + r for c, r in pairs]
    spread = [r + g * size for (_, r), size in zip(pairs, sizes, strict=True)]
    middle = op.linear(node, [c for c, _ in pairs], step.params)
    radius = op.linear(node, spread, step.magnitudes, absolute=True) * (1 + 2 * g)
    b = op.offset(node, step.params)
    if b is not None:
        middle = middle + b
        radius = radius + g * b.abs()
    if step.errors is not None:
        if op.weights:  # else L has no parameters, and no error
            radius = radius + op.linear(node, sizes, step.errors, absolute=True) * (1 + 2 * g)
        error = op.offset(node, step.errors)
        radius = radius if error is None else radius + error * (1 + 2 * g)
    radius = radius * (1 + 2 * g) + tiny(dtype) * (step.forward_terms + 3)
    return outward(middle - radius, middle + radius)
