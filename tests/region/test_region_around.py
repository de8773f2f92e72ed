"""Bounds over balls and over few changed inputs: below every point of the set, and nearer than those over its box."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from region_brute import Net, random_net, violates
from test_region_honesty import hard

from verinn.bounds.region import least
from verinn.bounds.rounding import exact_kernels
from verinn.ops.program import Program
from verinn.options import Options
from verinn.region.around import Around, Few, Near, rows
from verinn.region.cover import cover
from verinn.region.distance import DistanceSettings, smallest_change
from verinn.region.few import Family, Search
from verinn.region.question import Question, Scale, about_image
from verinn.region.search import Task, prepare
from verinn.region.verdict import Kind
from verinn.search.spec import groups

torch.set_num_threads(1)
SCALE = Scale((Fraction(1, 4),), levels=None)


def asked(seed: int, n: int, reach: int = 2) -> tuple[Net, np.ndarray, int, Question] | None:
    """A random network around a point of a clear class; None where it has none."""
    rng = np.random.default_rng(seed)
    net, centre = random_net(rng, n), rng.integers(-3, 4, n) * 1.0
    y = net.values(centre[None])
    label = int(y[0].argmax())
    if violates(y, label, "violate")[0]:
        return None
    return net, centre, label, about_image(net.model(), centre, SCALE, Fraction(reach), label)


def task_of(question: Question, dtype: torch.dtype) -> Task:
    spec = next(iter(groups([question.grids[0][0]])))
    return prepare(Program.prepare(question.problem.graph, dtype), spec)[0]


def below(task: Task, near: Near | None, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    ends = torch.from_numpy(low)[None], torch.from_numpy(high)[None]
    with torch.no_grad(), exact_kernels():
        a, c = rows(task, *ends, near)
        value = least(a, c, *ends)
        return (value if near is None else torch.maximum(value, near.least(a, c, *ends)))[0].numpy()


def margins(net: Net, x: np.ndarray, label: int) -> np.ndarray:
    y = net.values(x)
    return np.delete(y[:, [label]] - y, label, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_hold_on_the_set_and_are_nearer_than_the_box(dtype: torch.dtype) -> None:
    rng, nearer, seen = np.random.default_rng(0), 0, 0
    for seed in range(24):
        found = asked(seed, 6)
        if found is None:
            continue
        net, centre, label, question = found
        task, middle = task_of(question, dtype), torch.from_numpy(centre)
        low, high = centre - 1.5, centre + 2.0
        gap = rng.normal(size=(400, 6))
        sets: list[tuple[Near, np.ndarray]] = []
        for p in (1, 2):
            inside = gap / np.linalg.norm(gap, p, axis=1, keepdims=True) * rng.choice([1.0, 0.5], (400, 1))
            ends = np.concatenate([np.eye(6), -np.eye(6)])
            sets.append((Around(middle, 1.0, p), centre + np.concatenate([inside, ends])))
        group = rng.integers(0, 2, 6)
        most = np.minimum(np.bincount(group, minlength=2), [1, 2])
        few = Few(middle, torch.from_numpy(group)[None], torch.from_numpy(most)[None])
        changed = np.repeat(centre[None], 400, 0)
        for row in changed:
            for g in (0, 1):
                some = rng.permutation(np.flatnonzero(group == g))[: most[g]]
                row[some] = np.where(rng.random(len(some)) < 0.7, rng.choice([-1.5, 2.0], len(some)), 0) + centre[some]
        sets.append((few, changed))
        for near, x in sets:
            value = below(task, near, low, high)
            assert (margins(net, x, label).min(0) >= value - 1e-9 * (dtype == torch.float64) - 1e-12).all(), seed
            nearer += int((value > below(task, None, low, high) + 0.1).all())
            seen += 1
    assert seen >= 30 and nearer > seen / 2


def test_few_changes_of_a_linear_form_are_enumerated() -> None:
    """Against all subsets, in fractions: never above the least value, and hardly below."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        n, count = int(rng.integers(2, 6)), int(rng.integers(1, 4))
        centre = rng.normal(size=n) * 10.0 ** rng.integers(-3, 6)
        low, high = centre - rng.exponential(size=n), centre + rng.exponential(size=n)
        a, c = rng.normal(size=n) * 10.0 ** rng.integers(-4, 5, n), float(rng.normal())
        group = rng.integers(0, 2, n)
        most = np.array([count, 1])
        near = Few(torch.from_numpy(centre), torch.from_numpy(group)[None], torch.from_numpy(most)[None])
        value = near.least(
            torch.from_numpy(a)[None, None], torch.tensor([[c]], dtype=torch.float64), torch.from_numpy(low)[None],
            torch.from_numpy(high)[None],
        )  # fmt: skip
        gains = [
            max(Fraction(w) * (Fraction(m) - Fraction(end)) for end in (m, lo, up))
            for w, m, lo, up in zip(a.tolist(), centre.tolist(), low.tolist(), high.tolist(), strict=True)
        ]
        lost = Fraction(0)
        for g in (0, 1):
            lost += sum(sorted((gains[i] for i in range(n) if group[i] == g), reverse=True)[: most[g]], Fraction(0))
        middle = sum((Fraction(w) * Fraction(m) for w, m in zip(a.tolist(), centre.tolist(), strict=True)), Fraction(c))
        size = float(sum(abs(Fraction(w) * Fraction(m)) for w, m in zip(a.tolist(), centre.tolist(), strict=True)))
        assert Fraction(float(value)) <= middle - lost
        assert float(middle - lost) - float(value) <= 1e-12 * (size + abs(c) + float(lost))


@pytest.mark.parametrize("groups_", [(((0, 1, 2, 3, 4, 5, 6), 3),), (((0, 2, 4), 2), ((1, 3, 5, 6), 1))])
def test_parts_of_a_family_are_its_subsets_once(groups_: tuple[tuple[tuple[int, ...], int], ...]) -> None:
    def subsets(family: Family) -> list[frozenset[int]]:
        ways = itertools.product(*[itertools.combinations(inputs, count) for inputs, count in family.groups])
        return [frozenset(i for part in way for i in part) for way in ways]

    waiting, leaves = [Family(groups_)], []
    whole = subsets(waiting[0])
    while waiting:
        family = waiting.pop()
        assert family.size == len(subsets(family)) and sorted(family.inputs) == sorted(set(family.inputs))
        leaves += subsets(family) if family.single else []
        waiting += [] if family.single else family.parts()
    assert len(leaves) == len(whole) and set(leaves) == set(whole)


def test_l0_bounds_of_several_inputs_are_true_and_counted() -> None:
    """Up to 3 of 5 inputs, each at 9 values: below the bound nothing violates, and every subset is in one family."""
    deepest, split = 0, False
    for seed in range(40, 54):
        found = asked(seed, 5, 1)
        if found is None:
            continue
        net, centre, label, question = found
        report = smallest_change(question, DistanceSettings(Options(device="cpu", deadline=time.monotonic() + 2.0), 0))
        at_least = int(report.extra["at least"])
        deepest = max(deepest, at_least)
        for t in range(1, min(at_least, 4)):
            for some in itertools.combinations(range(5), t):
                x = np.repeat(centre[None], 9**t, 0)
                x[:, some] += np.array(list(itertools.product(np.linspace(-1, 1, 9), repeat=t)))
                assert not violates(net.values(x), label, "violate").any(), seed
        if report.kind is Kind.SAFE_CONTINUOUS:
            assert at_least == 6
        for one in report.extra["certificate"]:
            if "cover" in one:
                split = split or one["families"] > 1
                assert _counted(one["cover"], one["inputs"]) == one["subspaces"] == math.comb(5, one["inputs"])
    assert deepest >= 3 and split


def test_time_that_is_up_within_a_bound_proves_nothing() -> None:
    """The first look at the clock is in time; the next, between two blocks of hidden values, is not."""
    question = hard(3)
    spec = next(iter(groups([question.grids[0][0]])))
    task, judge = prepare(Program.prepare(question.problem.graph, torch.float64), spec)
    grid, looks = question.grids[0][1], itertools.count()
    low, high = grid.box(grid.low, grid.high)
    late: Callable[[], bool] = lambda: next(looks) > 0  # noqa: E731
    found = Search(task, judge, np.zeros(3), low, high, lambda x: None, late).run([0, 1, 2], 2)
    assert not found.proved and found.done == 0 and "time" in found.reason
    looks = itertools.count()
    ball = Around(torch.zeros(3).double(), 1.0, 2)
    proved = cover(task, judge, low[None], high[None], lambda x: None, late, ball)
    assert not proved.proved and "time" in proved.reason and next(looks) > 1


def _counted(told: list[dict[str, object]], count: int) -> int:
    seen: set[frozenset[int]] = set()
    total = 0
    for one in told:
        if "subsets" in one:
            made = [frozenset(some) for some in one["subsets"]]  # type: ignore[attr-defined]
        else:
            assert min(one["rows at least"]) > 0  # type: ignore[call-overload]
            ways = [itertools.combinations(g["of"], g["change"]) for g in one["groups"]]  # type: ignore[attr-defined]
            made = [frozenset(i for part in way for i in part) for way in itertools.product(*ways)]
        total += len(made)
        seen |= set(made)
    assert len(seen) == total and all(len(some) == count for some in seen)
    return total
