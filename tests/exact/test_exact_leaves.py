"""What is asked of programmes of leaves: when a tie counts, and which points are worth a replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crafted import layer
from dual_nets import Bounded, bounded
from exact_graph import Build

from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Rows
from verinn.exact import leaves
from verinn.exact.leaves import Refiner

torch.set_num_threads(1)


def hinges() -> Bounded:
    """y = relu(3x₀ − 1) + relu(−7x₁ − 2) over [−0.9, 0.9]²: zero in a quarter of the box, and nowhere below."""
    b = Build((2,))
    h = b.add("relu", layer(b, "x0", np.asarray([[3.0, 0], [0, -7.0]]), np.asarray([-1.0, -2.0])))
    layer(b, h, np.ones((2, 1)), np.zeros(1))
    return bounded(b.graph(), np.full(2, -0.9), np.full(2, 0.9))


def shut(net: Bounded, level: float) -> tuple[Refiner, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The search for y ≤ level, and the leaf where both neurons are inactive."""
    goals = Goals(torch.ones((1, 1)).double(), None, torch.tensor([level]).double())
    low, high = net.known
    return Refiner(net.root, net.columns, goals, *net.box), low, high.clamp(max=0), torch.ones((1, 1)).bool()


@pytest.mark.parametrize("strict", [False, True])
def test_a_violation_that_is_a_tie_everywhere(strict: bool) -> None:
    """y ≤ 0 all over the leaf, so there a point far inside is to be tried; y < 0 nowhere."""
    net = hinges()
    search, *leaf = shut(net, 0.0)

    def proof(rows: Rows, found: Multipliers) -> torch.Tensor:
        return certified(net.root, net.columns, search.goals, rows, found).minimum(*net.box)[:, 0]

    closed, points = search.settled(*leaf, proof, strict)
    assert bool(closed[0]) is strict
    if not strict:
        assert len(points) == 2
        assert torch.equal(points, points.float().double())
        z = torch.stack([3 * points[:, 0] - 1, -7 * points[:, 1] - 2], 1)
        assert float(z.amax(1).min()) < -0.5


def test_zero_refutes_only_with_a_goal_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net = hinges()
    search, *leaf = shut(net, 1.0)
    for weight, answer in ((1.0, True), (0.0, False)):
        found = Refiner.refine(search, *leaf)
        assert found is not None
        found.multipliers.gamma[:] = weight
        monkeypatch.setattr(search, "refine", lambda *_, found=found: found)
        for strict in (True, False):
            closed, _ = search.settled(*leaf, lambda rows, _: torch.zeros(len(rows.lower)).double(), strict)
            assert bool(closed[0]) is (answer and strict)


def test_a_search_without_time_decides_nothing() -> None:
    net = hinges()
    search, *leaf = shut(net, 0.0)
    search.expired = lambda: True
    closed, points = search.settled(*leaf, lambda rows, _: torch.full((len(rows.lower),), -1.0).double(), True)
    assert not bool(closed.any()) and len(points) == 0


@pytest.mark.parametrize("limit", ["MOST_VARIABLES", "MOST_NUMBERS"])
def test_large_networks_have_no_programme(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, limit, 1)
    search, *leaf = shut(hinges(), 0.0)
    assert search.refine(*leaf) is None
