"""The tree of weighed linear programmes against enumeration in fractions, and against HiGHS lying to it."""

import math
import random
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from patterns import Box, Layer, Row, evaluate, violated
from test_smt_truth import case_of, graph_of, random_layers, random_ways
from torch import Tensor

from verinn.exact.domains import Clause, Clauses, Domain, Status
from verinn.exact.milp import programme as highs
from verinn.exact.milp.programme import Guess, Programme, integer_programme
from verinn.exact.milp.system import System, system_of
from verinn.exact.milp.tree import Pace, Tree
from verinn.exact.rational import TooLarge
from verinn.ops.program import Program
from verinn.result import Verdict, Witness
from verinn.search.bab import Outcome
from verinn.search.milp import MilpLimits, decide
from verinn.search.smt import Exactly, encoded_of

F = Fraction


def drawn(seed: int) -> tuple[list[Layer], Box, list[list[Row]], Exactly]:
    rng = random.Random(seed)
    n = rng.randint(2, 3)
    layers = random_layers(rng, n)
    box = [(low, low + F(rng.randint(0, 8), 4)) for low in (F(rng.randint(-8, 4), 4) for _ in range(n))]
    ways = random_ways(rng, layers, box)
    return layers, box, ways, Exactly(Program.prepare(graph_of(layers, n), torch.float64), case_of(box, ways), 0)


def decided(seed: int, seconds: float = 60.0, learn: bool = False) -> tuple[Outcome, bool]:
    layers, box, ways, task = drawn(seed)

    def attempt(x: Tensor, case: Tensor) -> Witness | None:
        """A replay in fractions."""
        y = evaluate(layers, [F(float(v)) for v in x])
        for way in ways:
            totals = [(sum((c * v for c, v in zip(form, y, strict=False)), form[-1]), s) for form, s in way]
            if all(t < 0 or (t == 0 and not s) for t, s in totals):
                return Witness({})
        return None

    until = time.monotonic() + seconds
    limits = MilpLimits(
        lambda: time.monotonic() > until, lambda: until - time.monotonic(), learn=learn, whole=seed % 2 == 0
    )
    outcome = decide(task, limits, attempt, lambda *_: None)
    return outcome, violated(layers, box, ways)


def agree(seed: int) -> None:
    outcome, want = decided(seed, learn=seed % 3 == 0)
    assert outcome.verdict is (Verdict.SAT if want else Verdict.UNSAT), (seed, outcome.reason)


@pytest.mark.parametrize("part", range(2))
def test_the_tree_says_what_enumeration_says(part: int) -> None:
    for seed in range(part, 40, 2):
        agree(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_the_tree_says_what_enumeration_says_of_300_networks(part: int) -> None:
    for seed in range(part, 300, 4):
        agree(seed)


@pytest.mark.parametrize("lie", ["infeasible", "random", "none", "nan"])
def test_nothing_that_highs_says_is_believed(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def lying(self: Programme, active: np.ndarray, lower: np.ndarray, upper: np.ndarray, seconds: float) -> object:
        if lie == "none":
            return None
        weights = rng.normal(size=self.system.rows) * (np.nan if lie == "nan" else 1.0)
        return Guess(weights, None, math.inf) if lie == "infeasible" else Guess(weights, self._box[0][:-1], 1.0)

    monkeypatch.setattr(Programme, "solved", lying)
    for seed in range(24):
        outcome, want = decided(seed, 5.0)
        assert not (want and outcome.verdict is Verdict.UNSAT), seed


def test_a_claim_of_the_integer_programme_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verinn.search.milp.integer_programme", lambda *_: highs.Claim(None, True))
    seed = next(s for s in range(0, 40, 2) if decided(s)[1] and drawn(s)[3].case.conjunctions)
    outcome, want = decided(seed)
    assert want and outcome.verdict is Verdict.SAT
    monkeypatch.setattr("verinn.search.milp.encoded_of", lambda task, over: encoded_of(task))  # time ends later
    outcome, _ = decided(seed, 0.0)
    assert outcome.verdict is Verdict.TIMEOUT and "proves nothing" in outcome.reason


def test_time_may_run_out_while_a_formula_is_written() -> None:
    outcome, _ = decided(0, 0.0)
    assert outcome.verdict is Verdict.TIMEOUT and "time ran out" in outcome.reason
    asked: list[bool] = []

    def over() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(TooLarge, match="time ran out"):
        encoded_of(drawn(0)[3], over)
    assert len(asked) == 4


def test_time_and_counts_end_a_tree_undecided() -> None:
    outcome, _ = decided(1, 0.0)
    assert outcome.verdict is Verdict.TIMEOUT
    for seed in range(30):
        task = drawn(seed)[3]
        tree = Tree(encoded_of(task).encoding, lambda x: False)
        answer = tree.check(Domain(), Pace(lambda: 60.0, nodes=0))
        assert answer.status is Status.UNKNOWN and "no more were allowed" in answer.reason


def test_a_formula_that_needs_more_levels_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of open choices that no programme says anything of: a reason, not a stack that is full."""
    layers = [
        Layer([[F(1 + i % 7) for i in range(300)], [F(-1 - i % 5) for i in range(300)]], [F(0)] * 300, "relu"),
        Layer([[F(1), F(-1)]] * 300, [F(0)] * 2, "none"),
    ]
    case = case_of([(F(-1), F(1))] * 2, [[([F(1), F(0), F(-1)], False)]])
    task = Exactly(Program.prepare(graph_of(layers, 2), torch.float64), case, 0)
    monkeypatch.setattr(Programme, "solved", lambda *_: None)
    answer = Tree(encoded_of(task).encoding, lambda x: False).check(Domain(), Pace(lambda: 60.0))
    assert answer.status is Status.UNKNOWN and "choices were made" in answer.reason


def system(seed: int) -> System:
    return system_of(encoded_of(drawn(seed)[3]).encoding)


def test_what_rows_add_up_to_is_bounded_from_below_in_fractions() -> None:
    rng = np.random.default_rng(1)
    for seed in range(12):
        made = system(seed)
        for _ in range(5):
            weights = rng.normal(size=made.rows) * 10.0 ** rng.integers(-6, 6, made.rows)
            found = made.least(weights, made.lower, made.upper)
            if not math.isfinite(found.value):
                continue
            dense = made.matrix.toarray()
            total = F(0)
            w = [F(float(v)) for v in found.weights]
            for v in range(dense.shape[1]):
                a = sum((wi * F(float(c)) for wi, c in zip(w, dense[:, v], strict=True) if wi and c), F(0))
                end = made.lower[v] if a > 0 else made.upper[v]
                total += a * F(float(end)) if a else 0
            total += sum((wi * F(float(c)) for wi, c in zip(w, made.const, strict=True)), F(0))
            assert F(found.value) <= total, seed
            assert (found.weights[~made.equal] >= 0).all()


def test_the_integer_programme_finds_a_point_where_there_is_one() -> None:
    asked = 0
    for seed in range(16):
        layers, box, ways, task = drawn(seed)
        if violated(layers, box, ways):
            made = system_of(encoded_of(task).encoding)
            claim = integer_programme(made, made.lower, made.upper, 20.0, 0)
            assert claim.point is not None and not claim.none, seed
            asked += 1
    assert asked > 4


def test_clauses_close_domains_and_force_phases() -> None:
    a, b, c = ("a", 0), ("b", 0), ("c", 1)
    clauses = Clauses(dict.fromkeys((a, b, c), (0, 1)))
    one = Clause(frozenset(), frozenset({(a, 0), (b, 1)}))
    two = Clause(frozenset({(0, True, 0.5)}), frozenset({(b, 0), (c, 1)}))
    assert clauses.add(one) and clauses.add(two) and not clauses.add(one)
    whole = Domain(np.zeros(1), np.ones(1), {a: 0})
    assert clauses.narrowed(whole).domain.phases == {a: 0, b: 0}  # the second one holds only in half of the box
    half = Domain(np.zeros(1), np.array([0.5]), {a: 0})
    narrowed = clauses.narrowed(half)
    assert narrowed.domain.phases == {a: 0, b: 0, c: 0} and narrowed.conflict is None
    closed = clauses.narrowed(Domain(np.zeros(1), np.array([0.25]), {a: 0, c: 1}))
    assert closed.conflict is not None
    # what closed it, told of the domain as it was: b was forced by the first clause
    assert closed.resolved(closed.conflict) == Clause(frozenset({(0, True, 0.5)}), frozenset({(a, 0), (c, 1)}))


def test_clauses_of_a_tree_exclude_no_solution() -> None:
    """Every clause that a tree learned is refuted by enumeration, too: Z3 of the formula with its phases says so."""
    from verinn.exact.smt.solver import SmtSolver

    checked = 0
    for seed in range(40):
        task = drawn(seed)[3]
        encoding = encoded_of(task).encoding
        tree = Tree(encoding, lambda x: False, learn=True)
        tree.check(Domain(), Pace(lambda: 20.0, nodes=200))
        solver = SmtSolver(encoding)
        for clause in tree.clauses.learned[:4]:
            keys = {choice.key for choice in encoding.formula.choices}
            if not clause.bounds and all(key in keys for key, _ in clause.phases):
                assert solver.check(Domain(phases=dict(clause.phases)), 20.0).status is Status.UNSAT, seed
                checked += 1
    assert checked > 10
