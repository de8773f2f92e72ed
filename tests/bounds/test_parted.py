"""Rows parted at the ReLUs in their windows: what is found holds, on each part and on all of them, and gets tighter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_windows import ends, segmentation
from torch import Tensor

from verinn.bounds.domain import relax
from verinn.bounds.parted import Parting, Parts, narrowed, parted_by, uncertain
from verinn.bounds.patches import Window
from verinn.bounds.windows import wider
from verinn.ops.program import Program

torch.set_num_threads(1)


def parting(seed: int, workers: int = 1) -> tuple[Parting, Program, Tensor, Tensor]:
    graph = segmentation(seed)
    program, referee = Program.prepare(graph, torch.float32), Program.prepare(graph, torch.float64)
    lower, upper = ends(graph, seed)
    with torch.no_grad():
        relaxation = relax(program, lower, upper)
    (name,) = parted_by(program)
    found = uncertain(relaxation.intervals[name])
    box = lower, upper
    made = Parting(relaxation, wider(relaxation, referee), name, *found, box, workers)
    points = lower.double() + torch.rand((3000, lower.shape[1]), dtype=torch.float64) * (upper - lower).double()
    points[:2000] = torch.where(points[:2000] < (lower + upper) / 2, lower.double(), upper.double())
    return made, referee, points.reshape(-1, *graph.inputs[0].shape), found[2]


@pytest.mark.parametrize("seed", range(4))
def test_parts_together_bound_rows_and_lift_them(seed: int) -> None:
    search, referee, points, before = parting(seed, 1 + seed % 2)
    assert len(before) > 2
    values = referee.run([points])[search.name].flatten(1)[:, search.index] * search.sign
    known = search.bounds()
    for _ in range(6):
        if not search.advance():
            break
        bounds = search.bounds()
        assert bool((bounds >= known - 1e-12).all())
        assert bool((values.amin(0) >= bounds - 1e-9).all())
        known = bounds
    assert float((known - before).mean()) > 0.01
    old = search.relaxation.intervals[search.name]
    low, high = narrowed(old, search.index, search.sign, known)
    assert bool((low >= old[0]).all()) and bool((high <= old[1]).all())


@pytest.mark.parametrize("seed", range(3))
def test_a_part_is_bounded_on_its_side_with_any_multiplier(seed: int) -> None:
    search, referee, points, _ = parting(seed)
    for _ in range(3):
        search.advance()
    parts = search.open
    generator = torch.Generator().manual_seed(seed)

    def some(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: torch.rand(x.shape, generator=generator) for key, x in held.items()}

    values = referee.run([points])
    margins = values[search.name].flatten(1)
    inside = 0
    for kind in (parts, replace(parts, slopes=some(dict(parts.slopes)), prices=some(dict(parts.prices)))):
        with torch.no_grad():
            bounds = search._pass(search.referee, kind)
        for i in range(len(kind.row)):
            where = holds(search, kind, i, values)
            inside += int(where.sum())
            row = kind.row[i]
            assert bool((margins[where][:, search.index[row]] * search.sign[row] >= bounds[i] - 1e-9).all())
    assert inside > 0


def holds(search: Parting, parts: Parts, i: int, values: dict[str, Tensor]) -> Tensor:
    """Which points lie in a part: what its ReLUs read has the signs of its sides, window by window."""
    program = search.referee.program
    height, width = program.shapes[search.name][2:]
    place = int(search.index[parts.row[i]]) % (height * width)
    window = Window((height, width))
    where = torch.ones(len(values[search.name]), dtype=torch.bool)
    for step in reversed(program.steps[: [s.node.name for s in program.steps].index(search.name) + 1]):
        if step.node.op == "conv":
            window = window.back(step.node)
        if step.node.op == "relu":
            z = values[step.node.inputs[0]]
            sides = parts.sides[step.node.name][i].double()
            for y, x, channel in sides.nonzero().tolist():
                row = place // width * window.stride[0] + window.offset[0] + y
                column = place % width * window.stride[1] + window.offset[1] + x
                where &= z[:, 0, channel, row, column] * sides[y, x, channel] >= 0
    return where
