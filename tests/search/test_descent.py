"""Searches that bound each domain before it is split: no verdict becomes wrong, no point is lost on the way."""

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
from search_brute import SHAPES, Layers, Row, Tree, random_asserts, random_layers

from verinn.result import Verdict
from verinn.search import descent, phased
from verinn.search.bab import Limits, Outcome
from verinn.search.leverage import weighty
from verinn.search.lift import tightened
from verinn.search.neurons import PhaseTask
from verinn.search.phases import Phases

SIZES = (2, 8, 8, 2)
Patch = pytest.MonkeyPatch


def instances(shape: str, count: int) -> Iterator[tuple[Layers, list[Row | Tree]]]:
    for seed in range(count):
        rng = np.random.default_rng([seed, SHAPES.index(shape), 57])
        layers = random_layers(rng, SIZES)
        yield layers, random_asserts(rng, shape, layers, False)


@pytest.fixture(autouse=True)
def descending(monkeypatch: Patch) -> None:
    """Every search is expected to take too long, so that all there is to do is to bound and to split."""
    monkeypatch.setattr(phased, "outlook", lambda task: math.inf)
    monkeypatch.setattr(descent, "outlook", lambda task: math.inf)
    monkeypatch.setattr(phased, "FEW_INPUTS", -1)
    given_up = Outcome(Verdict.UNKNOWN, reason="not tried", unfinished=True)
    monkeypatch.setattr(phased, "search", lambda *given: given_up)
    monkeypatch.setattr(descent, "MOST_ROUNDS", 1)
    monkeypatch.setattr(phased, "HOPELESS", math.inf)
    monkeypatch.setattr(descent, "FEW", 0)
    monkeypatch.setattr(descent, "PART", 0.5)


def begun(monkeypatch: Patch, path: Path, shape: str = "disjunction", count: int = 4) -> list[tuple[PhaseTask, Limits]]:
    """The tasks that some instances descend with, undecided."""
    seen: list[tuple[PhaseTask, Limits]] = []

    def watched(task: PhaseTask, limits: Limits, *given: Any) -> Outcome:
        seen.append((task, limits))
        return Outcome(Verdict.UNKNOWN, reason="only watched")

    monkeypatch.setattr(phased, "descend", watched)
    for layers, asserts in instances(shape, count):
        run(layers, asserts, path)
    assert seen
    return seen


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shape", ["conjunction", "disjunction", "mixed"])
def test_verdicts_are_true(shape: str, workers: int, monkeypatch: Patch, tmp_path: Path) -> None:
    split: list[Phases] = []
    real = descent.split

    def watched(domains: Phases, column: torch.Tensor) -> Phases:
        split.append(domains)
        return real(domains, column)

    def descend(task: PhaseTask, limits: Limits, attempt: Any, tell: Any, *given: Any) -> Outcome:
        return descent.descend(task, limits, attempt, tell, workers)

    monkeypatch.setattr(descent, "split", watched)
    monkeypatch.setattr(phased, "descend", descend)
    known = 0
    for layers, asserts in instances(shape, 6):
        known += check(run(layers, asserts, tmp_path), layers, asserts)
    assert known >= 3
    assert split


def test_searches_that_take_longer_than_expected_are_given_up(monkeypatch: Patch, tmp_path: Path) -> None:
    """Every search is expected to be over at once, and none is allowed more than a few domains."""
    monkeypatch.setattr(descent, "outlook", lambda task: 0.0)
    monkeypatch.setattr(descent, "PURSE", 0.5)
    trusts: list[float] = []
    real = descent.visit

    def watched(task: PhaseTask, node: descent.Node) -> descent.Visited:
        trusts.append(node.trust)
        return real(task, node)

    monkeypatch.setattr(descent, "visit", watched)
    known = 0
    for shape in SHAPES:
        for layers, asserts in instances(shape, 2):
            known += check(run(layers, asserts, tmp_path), layers, asserts)
    assert known >= 4
    assert min(trusts) < 1.0


def test_no_point_that_violates_is_lost(monkeypatch: Patch, tmp_path: Path) -> None:
    """What violates in a node stays in the interval found for it, and in one of the node's children."""
    checked = 0
    for task, _ in begun(monkeypatch, tmp_path, "disjunction", 8):
        with torch.no_grad():
            node = descent.Node(task.root(), {}, descent.untried(task))
            for _ in range(3):
                z = violating(task)
                inside = held(node.domain, z)
                visited = descent.visit(task, node)
                if visited.closed or not bool(visited.node.domain.free.any()):
                    assert not visited.closed or not bool(inside.any())
                    break
                assert bool((held(visited.node.domain, z) | ~inside).all())
                parts = descent.children(task, visited.node, visited.primal)
                some = torch.stack([held(part.domain, z) for part in parts]).any(0)
                assert bool((some | ~inside).all())
                checked += int(inside.sum())
                node = parts[0]
    assert checked


def violating(task: PhaseTask) -> torch.Tensor:
    """(P, U): what unstable neurons read at points that keep the goals; dyadic, so without rounding."""
    span = task.upper - task.lower
    steps = torch.from_numpy(np.random.default_rng(3).integers(0, 257, (4000, span.shape[1]))) / 256
    points = task.lower + steps * span
    program = task.referee
    (value,) = program.graph.inputs
    values = program.run([points.reshape(-1, *value.shape)])
    case = torch.full((len(points),), task.case)
    y = torch.cat([values[out.value].flatten(1) for out in program.graph.outputs], 1)
    rows = task.spec.values(case, points, y)[:, task.rows]
    return task.columns.gather(values)[(rows <= 0).all(1)]


def held(domain: Phases, z: torch.Tensor) -> torch.Tensor:
    return ((domain.lower <= z) & (z <= domain.upper)).all(1)


def test_only_the_neurons_asked_for_are_bounded(monkeypatch: Patch, tmp_path: Path) -> None:
    narrowed = 0
    for task, _ in begun(monkeypatch, tmp_path):
        domain = task.root()
        if task.columns.count < 4:
            continue
        with torch.no_grad():
            some, weight = weighty(task, domain, 0.5, descent.untried(task))
            assert 0 < int(some.sum()) <= task.columns.count // 2
            assert bool((weight[some] > 0).all())
            found = tightened(task, descent.ROUND, some=some)
        if found is not None:
            assert torch.equal(found.low[:, ~some], task.low[:, ~some])
            assert torch.equal(found.high[:, ~some], task.high[:, ~some])
            narrowed += int((found.low > task.low).sum() + (found.high < task.high).sum())
    assert narrowed


def test_layers_that_no_round_narrows_are_left_alone_for_a_while(monkeypatch: Patch, tmp_path: Path) -> None:
    tried = 0
    for task, _ in begun(monkeypatch, tmp_path):
        domain, first = task.root(), task.columns.part(0)
        if len(task.columns.names) < 2 or not task.columns.index[0].numel():
            continue
        hope = descent.untried(task)
        with torch.no_grad():
            some, weight = weighty(task, domain, 1.0, hope)
            if not bool(some[first].any()) or not bool(some[first.stop :].any()):
                continue
            half = torch.where(some, (domain.upper - domain.lower) / 2, 0.0)
            half[:, first] = 0
            hope = descent.learned(task, hope, some, weight, domain, replace(domain, lower=domain.lower + half))
            assert float(hope[0]) == pytest.approx(descent.LEAST)
            assert float(hope.max()) == pytest.approx(0.5)
            some, _ = weighty(task, domain, 1.0, hope)
            assert not bool(some[first].any())
            for _ in range(100):
                hope = descent.learned(task, hope, torch.zeros_like(some), weight, domain, domain)
            some, _ = weighty(task, domain, 1.0, hope)
            assert bool(some[first].any())
        tried += 1
    assert tried


def test_a_descent_out_of_time_proves_nothing(monkeypatch: Patch, tmp_path: Path) -> None:
    for task, limits in begun(monkeypatch, tmp_path):
        late = replace(limits, expired=lambda: True)
        outcome = descent.descend(task, late, lambda *given: None, lambda *given: None)
        assert outcome.verdict is Verdict.TIMEOUT
