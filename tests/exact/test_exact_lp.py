"""The solver behind one interface: optima and duals by both ways, and nothing where there is no optimum."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from verinn.exact import lp
from verinn.exact.lp import Answer, Programme, solved

WAYS = {"highspy": lp._by_highspy, "scipy": lp._by_scipy}
Way = Callable[[Programme, float], Answer | None]


def random_programme(rng: np.random.Generator) -> Programme:
    """Feasible and bounded: a box, and rows that one of its points fulfils."""
    rows, columns = int(rng.integers(1, 8)), int(rng.integers(1, 8))
    matrix = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < 0.7)
    value = matrix @ rng.uniform(-1, 1, columns)
    kind = rng.integers(0, 4, rows)
    low = np.where(kind == 0, -np.inf, value - np.where(kind == 3, 0.0, rng.random(rows)))
    high = np.where(kind == 1, np.inf, value + np.where(kind == 3, 0.0, rng.random(rows)))
    return Programme(rng.normal(size=columns), csc_matrix(matrix), low, high, -np.ones(columns), np.ones(columns))


def gap(programme: Programme, answer: Answer) -> float:
    """What the duals prove, below what the point attains."""
    rows, columns = answer.row_dual, answer.reduced
    ends = 0.0
    for dual, low, high in ((rows, programme.row_lower, programme.row_upper), (columns, -1.0, 1.0)):
        used = np.abs(dual) > 1e-9
        ends += (dual[used] * np.broadcast_to(np.where(dual > 0, low, high), dual.shape)[used]).sum()
    assert np.allclose(programme.cost, programme.matrix.T @ rows + columns, atol=1e-7)
    return float(programme.cost @ answer.x - ends)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_points_are_feasible_and_duals_prove_them_best(way: Way) -> None:
    for seed in range(40):
        programme = random_programme(np.random.default_rng(seed))
        answer = way(programme, 10.0)
        assert answer is not None, seed
        value = programme.matrix @ answer.x
        assert (value >= programme.row_lower - 1e-7).all() and (value <= programme.row_upper + 1e-7).all()
        assert abs(answer.x).max() <= 1 + 1e-7
        assert abs(gap(programme, answer)) < 1e-7, seed


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_where_there_is_no_optimum_there_is_no_answer(way: Way) -> None:
    one, far = np.ones(1), np.full(1, np.inf)
    row = csc_matrix([[1.0]])
    assert way(Programme(one, row, 2 * one, far, 0 * one, one), 10.0) is None  # infeasible
    assert way(Programme(-one, row, 0 * one, far, 0 * one, far), 10.0) is None  # unbounded


def test_without_highspy_scipy_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    programme = random_programme(np.random.default_rng(1))
    first = solved(programme, 10.0)
    real = builtins.__import__

    def missing(name: str, *given: Any, **named: Any) -> Any:
        if name == "highspy":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    second = solved(programme, 10.0)
    assert first is not None and second is not None
    assert programme.cost @ first.x == pytest.approx(programme.cost @ second.x, abs=1e-8)


def test_numbers_that_are_none_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    programme = random_programme(np.random.default_rng(2))
    answer = solved(programme, 10.0)
    assert answer is not None
    for bad in (np.nan, np.inf):
        broken = Answer(answer.x, np.full_like(answer.row_dual, bad), answer.reduced)
        monkeypatch.setattr(lp, "_by_highspy", lambda *_, broken=broken: broken)
        monkeypatch.setattr(lp, "_by_scipy", lambda *_, broken=broken: broken)
        assert solved(programme, 10.0) is None
