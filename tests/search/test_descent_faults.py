"""Faults of searches that bound each domain before it is split: each shows as a wrong verdict."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phases_run import run, use  # noqa: F401
from search_brute import SHAPES, truth
from test_descent import descending, instances  # noqa: F401

from verinn.result import Verdict
from verinn.search import descent, phased
from verinn.search.bab import Limits, Outcome
from verinn.search.neurons import PhaseTask

Patch = pytest.MonkeyPatch


def wrong(path: Path) -> bool:
    """Whether any of some instances is called what it is not."""
    for shape in SHAPES:
        for layers, asserts in instances(shape, 4):
            verdict = run(layers, asserts, path)
            if verdict in (Verdict.SAT, Verdict.UNSAT) and verdict.value != truth(layers, asserts):
                return True
    return False


def first_half(patch: Patch) -> None:
    known = descent.children
    patch.setattr(descent, "children", lambda *given: known(*given)[:1])


def last_half(patch: Patch) -> None:
    known = descent.children
    patch.setattr(descent, "children", lambda *given: known(*given)[1:])


def sibling(patch: Patch) -> None:
    """Both children have the intervals of one of them."""
    known = descent.children
    patch.setattr(descent, "children", lambda *given: known(*given)[:1] * 2)


def given_up(patch: Patch) -> None:
    """Searches that were given up count as over."""
    known = descent.search
    patch.setattr(descent, "outlook", lambda task: 0.0)
    patch.setattr(descent, "PURSE", 0.1)

    def over(*given: Any) -> Outcome:
        outcome = known(*given)
        return replace(outcome, verdict=Verdict.UNSAT, unfinished=False) if outcome.unfinished else outcome

    patch.setattr(descent, "search", over)


def eager(patch: Patch) -> None:
    """Intervals lose a part of their width too much."""
    known = descent.tightened

    def narrow(*given: Any, **named: Any) -> PhaseTask | None:
        found = known(*given, **named)
        if found is None:
            return None
        loss = 0.3 * (found.high - found.low)
        return replace(found, low=found.low + loss, high=found.high - loss)

    patch.setattr(descent, "tightened", narrow)


def nearly(patch: Patch) -> None:
    """What is nearly proved counts as closed."""
    patch.setattr(descent, "proved", lambda task, rows, best, found: best > -2)


FAULTS = (first_half, last_half, sibling, given_up, eager, nearly)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_caught(fault: Callable[[Patch], None], monkeypatch: Patch, tmp_path: Path) -> None:
    fault(monkeypatch)
    assert wrong(tmp_path)


def clock(most: int) -> Callable[[], bool]:
    asked = itertools.count()
    return lambda: next(asked) >= most


def refuted(path: Path, monkeypatch: Patch) -> bool:
    """Whether all descents of some instance that is violated end as `unsat`, time being up after so many questions."""
    verdicts: dict[int, set[Verdict]] = {}
    real = descent.descend

    def watched(task: PhaseTask, limits: Limits, attempt: Any, tell: Any, *given: Any) -> Outcome:
        for most in range(0, 40, 2):
            late = replace(limits, expired=clock(most))
            verdicts.setdefault(most, set()).add(real(task, late, lambda *point: None, tell, 1).verdict)
        return Outcome(Verdict.UNKNOWN, reason="only watched")

    monkeypatch.setattr(phased, "descend", watched)
    for shape in SHAPES:
        for layers, asserts in instances(shape, 3):
            if truth(layers, asserts) == "unsat":
                continue
            verdicts.clear()
            run(layers, asserts, path)
            if {Verdict.UNSAT} in verdicts.values():
                return True
    return False


def test_time_that_is_up_in_a_node_closes_nothing(monkeypatch: Patch, tmp_path: Path) -> None:
    assert not refuted(tmp_path, monkeypatch)


def test_nodes_that_are_closed_when_time_is_up_are_caught(monkeypatch: Patch, tmp_path: Path) -> None:
    known = descent.visit

    def late(task: PhaseTask, node: descent.Node) -> descent.Visited:
        visited = known(task, node)
        return replace(visited, closed=True) if task.expired() else visited

    monkeypatch.setattr(descent, "visit", late)
    assert refuted(tmp_path, monkeypatch)
