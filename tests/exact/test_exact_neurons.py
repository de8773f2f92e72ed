"""Ends of single neurons by linear programmes: they hold at every point, are never wider, and no lie moves them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dual_nets import NETS, Bounded, bounded, some_box, width

from verinn.bounds.domain import split_inputs
from verinn.exact.milp.programme import Guess, Programme
from verinn.exact.neurons import Effort, refined

torch.set_num_threads(1)

NAMES = ("dense", "conv", "residual", "two_ends", "straight", "pooled", "inexact")
LP, MILP = 1.0, math.inf


def left() -> Callable[[], float]:
    until = time.monotonic() + 30
    return lambda: until - time.monotonic()


def network(name: str, seed: int) -> Bounded:
    rng = np.random.default_rng([seed, len(name)])
    graph = NETS[name](rng)
    return bounded(graph, *some_box(rng, width(graph)))


def at_points(net: Bounded, source: str, index: np.ndarray, count: int = 4000) -> np.ndarray:
    """(count, K): the neurons at random points of the box, corners among them."""
    rng = np.random.default_rng(0)
    share = rng.uniform(size=(count, len(net.lower)))
    share[::2] = share[::2].round()
    x = torch.from_numpy(net.lower + share * (net.upper - net.lower)).clamp(*(end[0] for end in net.box))
    values = split_inputs(net.program, x)
    values.update(net.program.run([values[v.name] for v in net.graph.inputs]))
    return values[source].flatten(1).numpy()[:, index]


def layers(net: Bounded) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Unstable neurons of each ReLU step with the ends that they have."""
    found = []
    for source, index in zip(net.columns.sources, net.columns.index, strict=True):
        low, high = (end.flatten(1)[0, index].numpy() for end in net.root.intervals[source])
        if len(index):
            found.append((source, index.numpy(), low, high))
    return found


def check(net: Bounded, nodes: float, workers: int = 1) -> tuple[float, float]:
    """All neurons refined: (widths before, after)."""
    before = after = 0.0
    for source, index, low, high in layers(net):
        new = refined(net.root, *net.box, source, index, Effort(left(), nodes=nodes, workers=workers))
        z = at_points(net, source, index)
        slack = 1e-13 * (1 + np.abs(z).max())  # the points themselves are rounded
        assert (new[0] >= low).all() and (new[1] <= high).all() and (new[0] <= new[1]).all()
        assert (z >= new[0] - slack).all() and (z <= new[1] + slack).all()
        before, after = before + float((high - low).sum()), after + float((new[1] - new[0]).sum())
    return before, after


@pytest.mark.parametrize("name", NAMES)
def test_ends_hold_and_are_narrower(name: str) -> None:
    widths = np.array([[*check(network(name, seed), LP), check(network(name, seed), MILP)[1]] for seed in range(6)])
    before, once, tree = widths.sum(0)
    assert tree <= once + 1e-9 * before
    if name not in ("straight", "inexact"):  # whose ReLUs read what CROWN bounds exactly
        assert tree < before and (once < before or name == "two_ends")


def test_a_tree_finds_the_least_value() -> None:
    """Where the end doesn't leave one phase only, the tree goes on to what some point attains."""
    gaps = []
    for seed in range(8):
        net = network("dense", seed)
        source, index, _, _ = layers(net)[-1]
        low, high = refined(net.root, *net.box, source, index, Effort(left()))
        z = at_points(net, source, index, 40_000)
        open_ = (low < -1e-6) & (high > 1e-6)
        gaps.extend(((z.min(0) - low) / (high - low))[open_].tolist())
    assert gaps and max(gaps) < 0.1 and float(np.median(gaps)) < 0.02


def test_threads_find_the_same() -> None:
    for seed in range(3):
        net = network("conv", seed)
        assert check(net, MILP, 2)[1] == pytest.approx(check(net, MILP)[1], rel=1e-6)


@pytest.mark.parametrize("lie", ["none", "random", "nan", "infeasible", "zero", "scaled"])
def test_nothing_that_highs_says_is_believed(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    true = Programme.solved

    def lying(
        self: Programme, active: np.ndarray, lower: np.ndarray, upper: np.ndarray, seconds: float
    ) -> Guess | None:
        guess = true(self, active, lower, upper, seconds)
        if lie == "none" or guess is None:
            return None
        weights = {
            "random": rng.normal(size=self.system.rows) * 10.0 ** rng.integers(-12, 12),
            "nan": np.full(self.system.rows, np.nan),
            "infeasible": rng.normal(size=self.system.rows),
            "zero": np.zeros(self.system.rows),
            "scaled": guess.weights * rng.uniform(-1, 3, size=self.system.rows),
        }[lie]
        return Guess(weights, None if lie == "infeasible" else guess.point, 1e6)

    monkeypatch.setattr(Programme, "solved", lying)
    for name in ("dense", "conv", "residual"):
        for seed in range(4):
            before, after = check(network(name, seed), 40.0)
            assert after == before or lie not in ("none", "nan", "zero")


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_without_time_ends_stay(seconds: float) -> None:
    net = network("dense", 0)
    for source, index, low, high in layers(net):
        new = refined(net.root, *net.box, source, index, Effort(lambda: seconds))
        assert (new[0] == low).all() and (new[1] == high).all()


def test_time_that_runs_out_at_any_point_leaves_ends_that_hold() -> None:
    net = network("dense", 1)
    for most in range(1, 40, 3):
        source, index, low, high = layers(net)[-1]
        asked = iter(range(most))
        new = refined(net.root, *net.box, source, index, Effort(lambda: 5.0 if next(asked, None) is not None else 0.0))  # noqa: B023
        z = at_points(net, source, index)
        assert (new[0] >= low).all() and (new[1] <= high).all()
        assert (z >= new[0] - 1e-12).all() and (z <= new[1] + 1e-12).all()


def test_a_network_without_an_exact_formula_keeps_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verinn.exact.encoding.encode.MOST_TERMS", 3)
    net = network("dense", 0)
    for source, index, low, high in layers(net):
        new = refined(net.root, *net.box, source, index, Effort(left()))
        assert (new[0] == low).all() and (new[1] == high).all()
