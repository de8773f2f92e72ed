"""Intervals of a batch of boxes: what time allows is refined, and holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crafted import f32, layer
from dual_nets import residual
from exact_graph import Build
from torch import Tensor

from verinn.bounds import domain
from verinn.bounds.domain import relax
from verinn.ir.graph import Graph
from verinn.ops.program import Program


def deep(rng: np.random.Generator) -> Graph:
    b = Build((4,))
    h = "x0"
    for before, after in ((4, 10), (10, 10), (10, 10), (10, 2)):
        h = layer(b, b.add("relu", h) if h != "x0" else h, f32(rng.normal(size=(before, after))), f32(np.zeros(after)))
    return b.graph()


def _width(intervals: dict[str, tuple[Tensor, Tensor]]) -> float:
    return float(sum((high - low).sum() for low, high in intervals.values()))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("make", [deep, residual])
def test_intervals_hold_whenever_time_is_up(make, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """However many blocks were refined, no value of a sample is outside; the more blocks, the narrower they are."""
    monkeypatch.setattr(domain, "CACHE", 1)  # an element a block
    rng = np.random.default_rng(5)
    program = Program.prepare(make(rng), torch.float64)
    size = sum(int(np.prod(value.shape)) for value in program.graph.inputs)
    lower = torch.from_numpy(rng.uniform(-1, 0, (2, size)))
    upper = lower + 1.0
    points = lower + torch.from_numpy(rng.random((500, 1, size))) * (upper - lower)
    widths = []
    for blocks in (1, 3, 10_000):
        calls = iter(range(blocks))
        found = relax(program, lower, upper, workers=workers, expired=lambda calls=calls: next(calls, None) is None)
        widths.append(_width(found.intervals))
        for box in range(2):
            exact = relax(program, points[:, box], points[:, box], refine=False).intervals
            for name, (low, high) in found.intervals.items():
                assert (exact[name][1] >= low[box]).all()
                assert (exact[name][0] <= high[box]).all()
    assert widths[0] > widths[1] > widths[2]
