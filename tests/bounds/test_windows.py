"""Rows that see windows, climbed with slopes of their own: what is found holds, and is no worse than CROWN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bounds_check import truth
from crafted import f32
from exact_graph import Build

from verinn.bounds import crown, windows
from verinn.bounds.domain import relax
from verinn.bounds.optimise import Pace, tightened
from verinn.bounds.relevance import relevance
from verinn.bounds.windows import climbed, climbs
from verinn.ir.graph import Graph
from verinn.ops.program import Program

torch.set_num_threads(1)


def segmentation(seed: int, height: int = 6, width: int = 5) -> Graph:
    """Three convolutions over the first channels of an image, and a step at each pixel."""
    rng = np.random.default_rng(seed)
    b = Build((1, 3, height, width))
    h = b.add("slice", "x0", starts=(0, seed % 2, 0, 0), steps=(1,) * 4, sizes=(1, 2, height, width))
    for channels, out, pads in ((2, 4, (1, 1, 1, 1)), (4, 3, (0, 1, 2, 1))):
        weight = f32(rng.normal(size=(out, channels, 3, 3)))
        params = {"weight": weight, "bias": f32(rng.normal(size=out))}
        h = b.add("relu", b.add("conv", h, params=params, strides=(1, 1), dilations=(1, 1), groups=1, pads=pads))
    params = {"weight": f32(rng.normal(size=(1, 3, 1, 1)))}
    h = b.add("conv", h, params=params, strides=(1, 1), dilations=(1, 1), groups=1, pads=(0, 0, 0, 0))
    b.add("step", h, strict=True)
    return b.graph()


def ends(graph: Graph, seed: int, radius: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn((1, int(np.prod(graph.inputs[0].shape))), generator=generator, dtype=torch.float32)
    return middle - radius, middle + radius


@pytest.mark.parametrize("seed", range(4))
def test_climbed_windows_hold_and_are_tighter(seed: int) -> None:
    graph = segmentation(seed)
    program, referee = Program.prepare(graph, torch.float32), Program.prepare(graph, torch.float64)
    lower, upper = ends(graph, seed)
    with torch.no_grad():
        base = relax(program, lower, upper)
        sharp = tightened(base, lower, upper, Pace(10), 1 << 14, seconds=60.0, workers=2, referee=referee)
    points = lower.double() + torch.rand((4000, lower.shape[1]), dtype=torch.float64) * (upper - lower).double()
    points[:2000] = torch.where(points[:2000] < (lower + upper) / 2, lower.double(), upper.double())
    values = referee.run([points.reshape(-1, *graph.inputs[0].shape)])
    gained = 0.0
    for step in program.steps:
        name = step.node.name
        low, high = (end.double() for end in sharp.intervals[name])
        assert bool((values[name] >= low - 1e-9).all()) and bool((values[name] <= high + 1e-9).all())
        if climbs(program, name):
            width = float((base.intervals[name][1].double() - base.intervals[name][0].double()).sum())
            gained += width - float((high - low).sum())
            assert float((high - low).sum()) <= width + 1e-6
    assert gained > 0.01


def test_what_time_does_not_allow_is_left() -> None:
    graph = segmentation(1)
    program = Program.prepare(graph, torch.float64)
    lower, upper = (end.double() for end in ends(graph, 1))
    step = program.steps[-2]
    with torch.no_grad():
        base = relax(program, lower, upper, refine=False)
        before = base.intervals[step.node.name]
        mask = torch.ones((1, int(np.prod(step.node.shape))), dtype=torch.bool)
        plain = climbed(base, base, step, mask, lower, upper, 9, 0.0, 1 << 20)  # one pass, but no step of ascent
        late = climbed(base, base, step, mask, lower, upper, 9, 60.0, 1 << 20, 1, lambda: True)
    assert float((plain[1] - plain[0]).sum()) < float((before[1] - before[0]).sum())
    assert torch.equal(late[0], before[0]) and torch.equal(late[1], before[1])


def test_which_values_climb() -> None:
    program = Program.prepare(segmentation(0), torch.float32)
    convs = [step.node.name for step in program.steps if step.node.op == "conv"]
    assert [climbs(program, name) for name in convs] == [False, True, True]  # the first meets no ReLU


def test_what_is_one_number_depends_on_nothing() -> None:
    graph = segmentation(0)
    program = Program.prepare(graph, torch.float32)
    lower, upper = ends(graph, 0, 0.02)
    last, margin = program.steps[-1].node.name, program.steps[-2].node.name
    with torch.no_grad():
        intervals = relax(program, lower, upper).intervals
    found = relevance(program, {last: torch.ones((1, *program.shapes[last]), dtype=torch.bool)}, intervals)
    low, high = intervals[margin]
    assert torch.equal(found[margin], (low <= 0) & (high > 0))
    assert not bool(found[margin].all())


def outside(seed: int, radius: float) -> int:
    """How many of some points' exact values are outside of the intervals climbed for them, weighed in float64."""
    graph = segmentation(seed, 4, 4)
    program = Program.prepare(graph, torch.float64)
    lower, upper = (1e3 * end.double() for end in ends(graph, seed, radius))
    with torch.no_grad():
        base = relax(program, lower, upper, refine=False)
        known = truth(graph, lower.numpy(), upper.numpy(), np.random.default_rng(seed), 6)[0]
        bad = 0
        for step in program.steps:
            name = step.node.name
            if climbs(program, name):
                mask = torch.ones((1, int(np.prod(step.node.shape))), dtype=torch.bool)
                low, high = climbed(base, base, step, mask, lower, upper, 4, 60.0, 1 << 20, 2)
                for values in known:
                    found = zip(low.flatten().tolist(), values[name].reshape(-1), high.flatten().tolist(), strict=True)
                    bad += sum(not a <= v <= b for a, v, b in found)
    return bad


@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_climbed_windows_hold_exactly(radius: float) -> None:
    assert outside(0, radius) + outside(1, radius) == 0


def test_without_rounding_climbed_windows_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crown, "gamma", lambda terms, dtype: 0.0)
    assert outside(0, 0.0) + outside(1, 0.0) > 0


def test_slopes_beyond_one_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    known = windows._ascent

    def steep(*given: Any) -> dict[str, torch.Tensor]:
        return {name: 1.5 + slope for name, slope in known(*given).items()}

    monkeypatch.setattr(windows, "_ascent", steep)
    assert outside(0, 0.3) + outside(1, 0.3) > 0


def test_both_ends_made_of_the_same_rows_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    known = windows.both_ways
    monkeypatch.setattr(windows, "both_ways", lambda part: (known(part)[0], known(part)[1].abs()))
    assert outside(0, 0.3) + outside(1, 0.3) > 0
