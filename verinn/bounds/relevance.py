"""Which elements of a graph's values some rows can depend on at all: the others need no bounds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verinn.bounds.interval import Interval
from verinn.ops.base import Affine, Elementwise
from verinn.ops.program import Program, Step


def relevance(
    program: Program, start: Mapping[str, Tensor], intervals: Mapping[str, Interval] | None = None
) -> dict[str, Tensor]:
    """For every value that rows over some values depend on, the elements that matter: bool (1, *shape).

    ``start``: the elements that the rows read, bool (1, *shape) by value name. Only weights that are
    exactly zero make a difference: what may cancel counts. ``intervals``: of all values, for boxes: what they say is
    one number depends on nothing there.
    """
    found = dict(start)
    for step in reversed(program.steps):
        if step.node.name in found:
            read = found[step.node.name]
            if intervals is not None and not isinstance(step.op, Affine):
                low, high = intervals[step.node.name]
                read = read & (low < high).any(0, keepdim=True)
            for name, mask in zip(step.node.inputs, _back(step, read), strict=True):
                found[name] = found[name] | mask if name in found else mask
    return found


def _back(step: Step, mask: Tensor) -> list[Tensor]:
    if isinstance(step.op, Elementwise):
        return [mask]
    if not isinstance(step.op, Affine):
        return [mask.new_ones((1, *shape)) for shape in step.shapes]
    if not step.node.inputs:
        return []
    dtype = next(iter(step.magnitudes.values())).dtype if step.magnitudes else torch.float32
    errors = step.errors or {}
    ones = {name: ((value != 0) | (errors.get(name, value) != 0)).to(dtype) for name, value in step.magnitudes.items()}
    full = mask.to(dtype).expand(1, *step.node.shape)
    return [back != 0 for back in step.op.back(step.node, full, ones, step.shapes)]
