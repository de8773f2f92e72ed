"""Domains that can't be split any more are decided exactly, one by one, and nothing is lost on the way."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import search_brute as brute
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.api import Options, verify
from verinn.result import Verdict
from verinn.search import bab, run
from verinn.search.bab import Limits, search
from verinn.search.explore import Explored
from verinn.search.handover import Handover


def leaky() -> onnx.ModelProto:
    """y = leaky(3x) + leaky(−3x), with slopes 1 and 1/4 on the sides: least, and exactly 0, at x = 0."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["z"]),
        helper.make_node("LeakyRelu", ["z"], ["h"], alpha=0.25),
        helper.make_node("Gemm", ["h", "v"], ["y"]),
    ]
    weights = [("w", np.array([[3.0, -3.0]])), ("v", np.array([[1.0], [1.0]]))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights]
    graph = helper.make_graph(nodes, "leaky", [x], [y], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def asked(path: Path, relation: str, seconds: float = 20.0) -> tuple[Verdict, str]:
    rows = [*brute.bounds([-1.0], [0.75]), brute.row(relation, 0.0, (1, "Y_0"))]
    result = verify(
        leaky(),
        brute.write(path / "p.vnnlib", 1, 1, rows),
        Options(attack=False, device="cpu", deadline=time.monotonic() + seconds),
    )
    return result.verdict, result.reason


def test_a_tie_that_no_halving_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TINY", 0)
    assert asked(tmp_path, "<=")[0] is Verdict.SAT
    assert asked(tmp_path, "<")[0] is Verdict.UNSAT
    monkeypatch.setattr(run, "HANDED", 0)
    assert asked(tmp_path, "<", 1.0)[0] is Verdict.TIMEOUT  # it halves on and on


@pytest.mark.parametrize(("engine", "most"), [("boxes", 1024), ("phases", 1024), ("boxes", 1)])
def test_stuck_domains_of_random_networks_are_decided(
    engine: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every domain counts as stuck: the verdict is then the exact solvers' own, at the end or in between."""
    monkeypatch.setattr(run, "TINY", 0)
    taken = bab._Search._take
    seen: list[int] = []

    def stuck(self: bab._Search, explored: Explored, part: bab.Batch) -> object:
        children = explored.children
        if children is not None and len(self.left) + len(children) > 3:
            explored = replace(
                explored, children=None, stuck=explored.stuck + len(children),
                left=children if explored.left is None else children.joined([explored.left, children]),
            )  # fmt: skip
            seen.append(len(children))
        return taken(self, explored, part)

    monkeypatch.setattr(bab._Search, "_take", stuck)
    monkeypatch.setattr(bab, "_MOST_LEFT", most)
    rng, found = np.random.default_rng(3), set()
    for number in range(10):
        layers = brute.random_layers(rng, (3, 6, 6, 1))
        lower, upper = np.full(3, -1.0), np.full(3, 1.0)
        points = rng.uniform(lower, upper, (4000, 3))
        y = points
        for k, (w, b) in enumerate(layers):
            y = y @ w + b
            y = np.maximum(y, 0) if k + 1 < len(layers) else y
        level = float(y.min()) + (1.0 if number % 2 else -2.0) * 0.1 * float(np.ptp(y))
        rows = [*brute.bounds(lower.tolist(), upper.tolist()), brute.row("<=", level, (1, "Y_0"))]
        where = brute.write(tmp_path / "p.vnnlib", 3, 1, rows)
        verdict = verify(brute.model(layers), where, Options(engine=engine, attack=False, device="cpu")).verdict
        if number % 2:
            assert verdict is Verdict.SAT, number
        else:
            assert verdict in (Verdict.UNSAT, Verdict.SAT), number
            if verdict is Verdict.UNSAT:
                assert y.min() > level
        found.add(verdict)
    assert found == {Verdict.SAT, Verdict.UNSAT} and sum(seen)


class Many:
    """A task of ``count`` domains one after the other, each of which is stuck; the last child is closed."""

    due, herd, spec, referee = math.inf, 0, None, None

    def __init__(self, count: int):
        self.count = count

    def root(self) -> "One":
        return One()

    def explore(self, domains: object) -> Explored:
        self.count -= 1
        none = torch.zeros((0, 1)), torch.zeros(0, dtype=torch.int64)
        return Explored(One() if self.count else None, 0, *none, stuck=1, left=One())  # type: ignore[arg-type]


def test_many_stuck_domains_are_handed_over_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost, none is asked about twice, and after one that stays open no other is."""
    monkeypatch.setattr(bab, "_MOST_LEFT", 4)
    for wrong, want, times in ((0, Verdict.UNSAT, 11), (6, Verdict.UNKNOWN, 6)):
        task, seen = Many(11), []

        def exact(_: object, part: object, task: Many = task, seen: list[int] = seen, wrong: int = wrong) -> object:
            seen.append(task.count)
            return len(seen) != wrong, None

        limits = Limits(4, False, lambda: False, exact=exact)  # type: ignore[arg-type]
        assert search(task, limits, lambda x, c: None, lambda *_: None).verdict is want  # type: ignore[arg-type]
        assert len(seen) == times and max(seen) > 0  # some of them while the search went on


def test_clauses_of_one_domain_close_others_that_are_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refuted domain is not asked about twice; what a clause spares is refuted without it, too."""
    made: list[Handover] = []
    real = Handover.__call__

    def watched(self: Handover, task: object, part: object) -> object:
        if self not in made:
            made.append(self)
        first = real(self, task, part)  # type: ignore[arg-type]
        spared, answer = self.spared, real(self, task, part)  # type: ignore[arg-type]
        if first[0]:
            assert answer == first and self.spared == spared + len(part)  # type: ignore[arg-type]
            self.clauses.clear()
            assert real(replace(self, made={}), task, part)[0]  # type: ignore[arg-type]
        return answer

    monkeypatch.setattr(Handover, "__call__", watched)
    monkeypatch.setattr(run, "TINY", 0)
    assert asked(tmp_path, "<")[0] is Verdict.UNSAT
    assert len(made) == 1 and made[0].spared


class Told:
    """A task whose only domain is stuck, of which ``left`` is handed over."""

    def __init__(self, left: object):
        self.left, self.due, self.herd, self.spec, self.referee = left, math.inf, 0, None, None

    def root(self) -> "One":
        return One()

    def explore(self, domains: object) -> Explored:
        none = torch.zeros((0, 1)), torch.zeros(0, dtype=torch.int64)
        return Explored(None, 0, *none, stuck=1, left=self.left)  # type: ignore[arg-type]


class One:
    share, worst = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def __len__(self) -> int:
        return 1

    def part(self, start: int, stop: int) -> "One":
        return self

    @staticmethod
    def joined(parts: list["One"]) -> "One":
        return parts[0]


@pytest.mark.parametrize(
    ("left", "closed", "want"),
    [(One(), True, Verdict.UNSAT), (One(), False, Verdict.UNKNOWN), (None, True, Verdict.UNKNOWN)],
)
def test_only_what_was_handed_over_and_refuted_is_closed(left: object, closed: bool, want: Verdict) -> None:
    limits = Limits(4, False, lambda: False, exact=lambda task, part: (closed, None))
    assert search(Told(left), limits, lambda x, c: None, lambda *_: None).verdict is want  # type: ignore[arg-type]


def test_a_domain_that_the_solver_leaves_open_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TINY", 0)
    monkeypatch.setattr("verinn.search.handover.NODES", 0)
    assert asked(tmp_path, "<")[0] is Verdict.UNKNOWN
    monkeypatch.setattr(Handover, "_decider", lambda self, case: None)
    assert asked(tmp_path, "<")[0] is Verdict.UNKNOWN
