"""Rows parted at the ReLUs in their windows: what is found holds, on each part and on all of them, and gets tighter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bounds_check import truth
from test_windows import ends, segmentation
from torch import Tensor

from verinn.bounds import crown, parted
from verinn.bounds.domain import relax
from verinn.bounds.parted import Parting, Parts, Sided, narrowed, parted_by, uncertain
from verinn.bounds.patches import Window
from verinn.bounds.windows import wider
from verinn.ops.program import Program

torch.set_num_threads(1)

Patch = pytest.MonkeyPatch


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


def broken(seed: int, workers: int = 1, rounds: int = 6) -> int:
    """How many rows have a bound, or an end of the interval made of it, that some point is beyond."""
    search, referee, points, _ = parting(seed, workers)
    values = referee.run([points])[search.name].flatten(1)
    for _ in range(rounds):
        if not search.advance():
            break
    bounds = search.bounds()
    beyond = ((values[:, search.index] * search.sign).amin(0) < bounds - 1e-9).sum()
    old = search.relaxation.intervals[search.name]
    low, high = (end.flatten().double() for end in narrowed(old, search.index, search.sign, bounds))
    outside = ((values.amin(0) < low - 1e-9) | (values.amax(0) > high + 1e-9)).sum()
    return int(beyond + outside)


def one_side(patch: Patch, first: bool) -> None:
    known = parted._children

    def half(*given: Any) -> tuple[Parts, Tensor]:
        both, stuck = known(*given)
        size = len(both.row) // 2
        return both.select(torch.arange(size) + (0 if first else size)), stuck

    patch.setattr(parted, "_children", half)


def active_side(patch: Patch) -> None:
    one_side(patch, True)


def inactive_side(patch: Patch) -> None:
    one_side(patch, False)


def stuck_parts(patch: Patch) -> None:
    """Parts that nothing is left to part in are forgotten."""
    known = parted._children

    def careless(*given: Any) -> tuple[Parts, Tensor]:
        both, stuck = known(*given)
        return both, torch.zeros_like(stuck)

    patch.setattr(parted, "_children", careless)


def given_up_parts(patch: Patch) -> None:
    """Parts of rows that are left alone are forgotten where they are no proof."""
    known = Parting._close
    patch.setattr(parted, "MOST", 4)
    patch.setattr(Parting, "_close", lambda self, parts, which: known(self, parts, which & (parts.value > 0)))


def sides_of_multipliers(patch: Patch) -> None:
    known = Sided._bent

    def bent(self: Sided, *given: Any) -> Any:
        parts = self.parts
        if parts is not None:
            self.parts = replace(parts, prices={name: -price for name, price in parts.prices.items()})
        try:
            return known(self, *given)
        finally:
            self.parts = parts

    patch.setattr(Sided, "_bent", bent)


def offsets(patch: Patch) -> None:
    """No upper line has an offset in a part."""

    def free(self: Sided, step: Any, a: Any) -> Any:
        return a if self.parts is None else replace(a, a=torch.zeros_like(a.a))

    patch.setattr(Sided, "_relaxed", free)


def shares(patch: Patch) -> None:
    """What one worker finds is counted for what the other was given."""
    known = Parting._climbed
    found: list[tuple[Parts, Any]] = []

    def late(self: Parting, parts: Parts) -> tuple[Parts, Any]:
        mine = known(self, parts)
        found.append(mine)
        other = next((one for one, _ in found if len(one.row) == len(parts.row) and one is not mine[0]), mine[0])
        return replace(mine[0], value=other.value), mine[1]

    patch.setattr(Parting, "_climbed", late)


def signs(patch: Patch) -> None:
    """Bounds of sign · element are counted as those of the element."""
    known = narrowed
    patch.setitem(globals(), "narrowed", lambda old, index, sign, bounds: known(old, index, sign.abs(), bounds))


FAULTS = (
    active_side,
    inactive_side,
    stuck_parts,
    given_up_parts,
    sides_of_multipliers,
    offsets,
    shares,
    signs,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_caught(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert broken(0, 2) or broken(1, 2)


def test_without_a_fault_nothing_is_broken() -> None:
    assert not broken(0, 2)


def test_what_is_no_number_proves_nothing(monkeypatch: Patch) -> None:
    search, _, _, before = parting(0)
    known = Sided.minimum
    monkeypatch.setattr(Sided, "minimum", lambda *given: known(*given) * torch.nan)
    for _ in range(4):
        search.advance()
    assert torch.equal(search.bounds(), before.double())


def beyond_exact(seed: int) -> int:
    """How many of a point's values are below the bounds found at it, in exact arithmetic, whatever the multipliers."""
    graph = segmentation(seed, 4, 4)
    program = Program.prepare(graph, torch.float64)
    size = int(np.prod(graph.inputs[0].shape))
    point = 1e3 * torch.randn((1, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        relaxation = relax(program, point, point, refine=False)
    name = graph.nodes[-2].name
    index = torch.arange(16).repeat(2)
    sign = torch.ones(32, dtype=torch.float64)
    sign[16:] = -1
    none = torch.full_like(sign, -torch.inf)
    search = Parting(relaxation, relaxation, name, index, sign, none, (point, point))
    with torch.no_grad():
        bounds = search._pass(relaxation, search.open)
    values = truth(graph, point.numpy(), point.numpy(), np.random.default_rng(0), 1)[0][0]
    exact = list(values[name].reshape(-1))
    return sum(bound > way * v for bound, way, v in zip(bounds.tolist(), sign.int().tolist(), exact * 2, strict=True))


@pytest.mark.parametrize("seed", range(2))
def test_bounds_hold_exactly_at_a_point(seed: int) -> None:
    assert beyond_exact(seed) == 0


def test_without_rounding_parts_are_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(crown, "gamma", lambda terms, dtype: 0.0)
    monkeypatch.setattr(crown, "unit", lambda dtype: 0.0)
    assert beyond_exact(0) > 0
