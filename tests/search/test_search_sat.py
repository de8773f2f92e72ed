"""Networks that encode clauses: contraction and halving decide them as a SAT solver would."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from search_brute import bounds, model, row, write

from verinn.api import verify
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import run as running
from verinn.search.explore import Task

torch.set_num_threads(1)

Clauses = list[list[int]]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second process."""
    made = running.plan_of
    monkeypatch.setattr(running, "plan_of", lambda facts, options: replace(made(facts, options), helper=False))


def run(path: Path, n: int, clauses: Clauses, seconds: float = 60.0) -> Result:
    """Is there an x in [0, 1]^n with relu(1 − Σ literals) = 0 for all clauses, and x or 1 − x zero everywhere?

    Y_0 = Σ clauses; Y_1 = Σ relu(x) − relu(2x − 1), which is x up to a half and 1 − x beyond.
    """
    weight, bias = np.zeros((n, len(clauses) + 2 * n)), np.zeros(len(clauses) + 2 * n)
    for j, clause in enumerate(clauses):
        for literal in clause:
            weight[abs(literal) - 1, j] = -1 if literal > 0 else 1
        bias[j] = 1 - sum(literal < 0 for literal in clause)
    out = np.zeros((len(bias), 2))
    out[: len(clauses), 0] = 1
    for i in range(n):
        j = len(clauses) + 2 * i
        weight[i, j], weight[i, j + 1], bias[j + 1] = 1, 2, -1
        out[j, 1], out[j + 1, 1] = 1, -1
    asserts = [*bounds([0.0] * n, [1.0] * n), row("<=", 0, (1, "Y_0")), row("<=", 0, (1, "Y_1"))]
    file = write(path / "p.vnnlib", n, 2, asserts)
    options = Options(attack=False, deadline=time.monotonic() + seconds, device="cpu")
    return verify(model([(weight, bias), (out, np.zeros(2))]), file, options)


def satisfiable(n: int, clauses: Clauses) -> bool:
    values = np.array(list(itertools.product([False, True], repeat=n)))
    holds = [np.any([values[:, abs(k) - 1] == (k > 0) for k in clause], axis=0) for clause in clauses]
    return bool(np.all(holds, axis=0).any())


def disjoint(rng: random.Random, n: int, count: int) -> Clauses:
    """Clauses that exclude every assignment exactly once: a clause is split on a variable, over and over."""
    made: Clauses = [[]]
    while len(made) < count:
        clause = made.pop(rng.choice([k for k, part in enumerate(made) if len(part) < n]))
        v = rng.choice([v for v in range(1, n + 1) if v not in clause and -v not in clause])
        made += [[*clause, v], [*clause, -v]]
    rng.shuffle(made)
    return made


def pigeons(holes: int) -> Clauses:
    """One pigeon more than holes."""

    def at(pigeon: int, hole: int) -> int:
        return pigeon * holes + hole + 1

    made = [[at(p, h) for h in range(holes)] for p in range(holes + 1)]
    for h in range(holes):
        made += [[-at(p, h), -at(q, h)] for p, q in itertools.combinations(range(holes + 1), 2)]
    return made


def random_clauses(rng: random.Random, n: int, count: int) -> Clauses:
    return [[v * rng.choice([-1, 1]) for v in rng.sample(range(1, n + 1), 3)] for _ in range(count)]


def test_all_clauses_over_few_variables(tmp_path: Path) -> None:
    every: Sequence[Sequence[int]] = list(itertools.product([1, -1], repeat=4))
    clauses = [[sign * (i + 1) for i, sign in enumerate(signs)] for signs in every]
    assert run(tmp_path, 4, clauses).verdict is Verdict.UNSAT
    result = run(tmp_path, 4, clauses[1:])
    assert result.verdict is Verdict.SAT and result.witness is not None


@pytest.mark.parametrize(("n", "count"), [(25, 40), (40, 142), (60, 90)])
def test_disjoint_clauses(n: int, count: int, tmp_path: Path) -> None:
    """As in the competition's unsat instances: a handful of halvings, few of the 2^n boxes."""
    clauses = disjoint(random.Random(n), n, count)
    result = run(tmp_path, n, clauses)
    assert result.verdict is Verdict.UNSAT and result.statistics["domains"] < 400
    assert run(tmp_path, n, clauses[1:]).verdict is Verdict.SAT


def test_pigeons(tmp_path: Path) -> None:
    assert run(tmp_path, 20, pigeons(4)).verdict is Verdict.UNSAT


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_clauses_have_their_truth(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = running.plan_of
    monkeypatch.setattr(running, "plan_of", lambda facts, options: replace(made(facts, options), dtype=dtype))
    found = set()
    for seed in range(12):
        clauses = random_clauses(random.Random(seed), 10, 44)
        expected = Verdict.SAT if satisfiable(10, clauses) else Verdict.UNSAT
        assert run(tmp_path, 10, clauses).verdict is expected
        found.add(expected)
    assert len(found) == 2


def test_without_contraction_the_same_takes_far_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clauses = disjoint(random.Random(1), 9, 40)
    quick = run(tmp_path, 9, clauses)
    monkeypatch.setattr(Task, "contractor", None)
    slow = run(tmp_path, 9, clauses, 4.0)
    assert quick.verdict is Verdict.UNSAT and slow.verdict is not Verdict.SAT
    assert 4 * quick.statistics["domains"] < slow.statistics["domains"]
