"""Boxes halved and tightened before their phases are searched: no verdict becomes wrong, no violation is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phases_run import check, run, use  # noqa: F401
from search_brute import SHAPES, Layers, Row, Tree, random_asserts, random_layers, truth

from verinn.bounds import climb
from verinn.ops.program import Program
from verinn.result import Verdict
from verinn.search import phased
from verinn.search.box import Box
from verinn.search.leverage import leverage
from verinn.search.lift import wanted
from verinn.search.neurons import PhaseTask

SIZES = (2, 8, 6, 2)
Patch = pytest.MonkeyPatch


def instances(shape: str, count: int) -> Iterator[tuple[Layers, list[Row | Tree]]]:
    for seed in range(count):
        rng = np.random.default_rng([seed, SHAPES.index(shape), 31])
        layers = random_layers(rng, SIZES)
        yield layers, random_asserts(rng, shape, layers, False)


@pytest.fixture(autouse=True)
def waiting(monkeypatch: Patch) -> None:
    """Everything waits: no box is small enough, and every search looks hopeless until boxes were halved often."""
    monkeypatch.setattr(phased, "FEW_NEURONS", 0)
    monkeypatch.setattr(phased, "outlook", lambda task: math.inf)


@pytest.mark.parametrize(("pays", "few"), [(math.inf, 32), (-1.0, 32), (0.5, -1)], ids=["halved", "both", "tightened"])
@pytest.mark.parametrize("shape", ["conjunction", "disjunction", "mixed"])
def test_verdicts_are_true(shape: str, pays: float, few: int, monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(phased, "PAYS", pays)
    monkeypatch.setattr(phased, "FEW_INPUTS", few)
    known = 0
    for layers, asserts in instances(shape, 4):
        known += check(run(layers, asserts, tmp_path), layers, asserts)
    assert known >= 2


def test_tightened_intervals_hold_and_are_tighter(monkeypatch: Patch, tmp_path: Path) -> None:
    """Weights are eighths and points dyadic, so float64 evaluates the network without rounding."""
    seen: list[tuple[Box, Box]] = []
    real = Box.tightened

    def watched(box: Box, *given: Any) -> Box:
        seen.append((box, real(box, *given)))
        return seen[-1][1]

    monkeypatch.setattr(Box, "tightened", watched)
    monkeypatch.setattr(phased, "PAYS", -1.0)
    for layers, asserts in instances("disjunction", 4):
        run(layers, asserts, tmp_path)
    narrowed = 0
    for before, after in seen:
        program: Program = before.careful.program
        low, high = before.lower, before.upper
        x = low + (high - low) * torch.from_numpy(np.random.default_rng(0).integers(0, 257, (500, low.shape[1])) / 256)
        (value,) = program.graph.inputs
        values = program.run([x.reshape(-1, *value.shape)])
        for name in before.columns.sources:
            (was_low, was_high), (down, up) = before.careful.intervals[name], after.careful.intervals[name]
            assert bool(((values[name] >= down) & (values[name] <= up)).all())
            assert bool(((down >= was_low) & (up <= was_high)).all())
            narrowed += int(((down > was_low) | (up < was_high)).sum())
    assert seen and narrowed


def test_halves_cover_their_box_and_know_their_depth(monkeypatch: Patch, tmp_path: Path) -> None:
    made: list[tuple[Box, int]] = []
    real = Box.halves

    def watched(box: Box, axis: int) -> Any:
        (low, middle), (again, high) = real(box, axis)
        assert torch.equal(low, box.lower) and torch.equal(high, box.upper)
        assert torch.equal(middle[:, axis], again[:, axis])
        rest = [i for i in range(low.shape[1]) if i != axis]
        assert torch.equal(middle[:, rest], box.upper[:, rest]) and torch.equal(again[:, rest], box.lower[:, rest])
        made.append((box, axis))
        return (low, middle), (again, high)

    monkeypatch.setattr(Box, "halves", watched)
    monkeypatch.setattr(phased, "PAYS", math.inf)
    for layers, asserts in instances("conjunction", 6):
        run(layers, asserts, tmp_path)
    assert {box.depth for box, _ in made} >= {0, 1, 2}


def every_open(box: Box) -> torch.Tensor:
    none = box.setting.spec.owner.new_zeros(0)
    task = box.task(box.goals(none), none)
    return ((task.low < 0) & (task.high > 0))[0]


def test_boxes_cut_at_phases_give_true_verdicts_and_cover(monkeypatch: Patch, tmp_path: Path) -> None:
    """Weights are eighths and points dyadic, so float64 evaluates the network without rounding."""
    seen: dict[int, tuple[Box, int, list[Box]]] = {}
    real = Box.side

    def watched(box: Box, column: int, on: bool, *given: Any) -> Box | None:
        before = {layer: memory.copy() for layer, memory in box.memories.items()}
        part = real(box, column, on, *given)
        for layer, memory in before.items():  # of which both sides, and whoever waits, have their own
            assert torch.equal(memory.alpha, box.memories[layer].alpha)
            assert torch.equal(memory.beta, box.memories[layer].beta)
        seen.setdefault(id(box), (box, column, []))[2].extend([part] if part is not None else [])
        assert seen[id(box)][1] == column
        if part is not None:
            low, high = known(part)
            assert float(low[0, column]) >= 0 if on else float(high[0, column]) <= 0
        return part

    monkeypatch.setattr(Box, "side", watched)
    always_cut(monkeypatch)
    sure = 0
    for shape in SHAPES:
        for layers, asserts in instances(shape, 2):
            verdict = run(layers, asserts, tmp_path)
            if verdict in (Verdict.SAT, Verdict.UNSAT):
                sure += 1
                assert verdict.value == truth(layers, asserts)
    assert sure >= 2
    assert seen
    lost = 0
    for box, _, parts in seen.values():
        span = box.upper - box.lower
        steps = torch.from_numpy(np.random.default_rng(5).integers(0, 17, (200, span.shape[1]))) / 16
        program: Program = box.careful.program
        (value,) = program.graph.inputs
        z = box.columns.gather(program.run([(box.lower + steps * span).reshape(-1, *value.shape)]))
        inside = held_in(box, z)
        lost += int(inside.any())
        # a point of the box keeps all that is known in one of its parts
        some = torch.stack([held_in(part, z) for part in parts]).any(0) if parts else torch.zeros_like(inside)
        assert bool((some | ~inside).all())
    assert lost


def always_cut(monkeypatch: Patch) -> None:
    monkeypatch.setattr(phased, "FEW_INPUTS", -1)
    monkeypatch.setattr(phased, "SPENDS", 0.0)
    monkeypatch.setattr(phased, "_may_wait", lambda box, left: not box.tight)
    monkeypatch.setattr(phased, "early", every_open)


def known(box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    task = box.free()
    return task.low, task.high


def held_in(box: Box, z: torch.Tensor) -> torch.Tensor:
    low, high = known(box)
    return ((low <= z) & (z <= high)).all(1)


def test_leverage_is_the_derivative_through_all_bounds(monkeypatch: Patch, tmp_path: Path) -> None:
    """Against automatic differentiation of the goal's bound by a factor of each ReLU's upper offset."""
    seen: list[tuple[PhaseTask, PhaseTask, torch.Tensor]] = []

    def watched(box: PhaseTask, goal: PhaseTask) -> torch.Tensor:
        found = leverage(box, goal)
        seen.append((box, goal, found))
        return found

    monkeypatch.setattr(phased, "leverage", watched)
    always_cut(monkeypatch)
    for layers, asserts in instances("disjunction", 5):
        run(layers, asserts, tmp_path)
    through = 0
    for box, goal, found in seen:
        total, direct = differentiated(box, goal, monkeypatch)
        open_ = ((box.low < 0) & (box.high > 0))[0]
        assert bool((found[~open_] == -math.inf).all())
        torch.testing.assert_close(found[open_], total[open_], rtol=1e-3, atol=1e-5)
        through += int((total - direct > 1e-3 * total.abs().max()).sum())
    assert through  # some neurons of the first layer count by the bounds behind them


def differentiated(box: PhaseTask, goal: PhaseTask, monkeypatch: Patch) -> tuple[torch.Tensor, torch.Tensor]:
    factor = torch.ones(1, box.columns.count, requires_grad=True)
    real = climb.pieces

    def scaled(*given: Any) -> Any:
        lines = real(*given)
        return replace(lines, offset=lines.offset * factor)

    def lost(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        there = replace(goal, low=low, high=high)
        rows = there.root().rows(there.allowed)
        value = climb.evaluate(there.frame, there.goals, rows, there.root().multipliers, primal=False).value
        return -torch.autograd.grad(value.sum(), factor)[0][0]

    with monkeypatch.context() as patch, torch.enable_grad():
        patch.setattr(climb, "pieces", scaled)
        low, high = box.low, box.high
        for layer in range(len(box.columns.names)):
            part = box.columns.part(layer)
            some = ((box.low < 0) & (box.high > 0))[0, part].nonzero().squeeze(1)
            if not len(some):
                continue
            rows, first = wanted(box, layer, some, low, high, box.alpha)
            value = climb.evaluate(box.frame, None, rows, first, primal=False).value
            column = some + part.start
            # the numbers that are known, with the derivatives of what bounds them
            value = value - value.detach() + torch.cat([box.low[0, column], -box.high[0, column]])
            low = low.index_copy(1, column, value[: len(some)].unsqueeze(0))
            high = high.index_copy(1, column, -value[len(some) :].unsqueeze(0))
        return lost(low, high), lost(box.low, box.high)
