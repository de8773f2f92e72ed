"""Mutants: a solver that lies, fails or answers nonsense closes nothing that holds a violation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dual_nets import NETS, Bounded, bounded, goals_of, some_box, width
from search_brute import bounds, model, row, write

from verinn.api import verify
from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Rows
from verinn.bounds.domain import split_inputs
from verinn.exact import leaves
from verinn.exact.leaves import Refiner
from verinn.exact.lp import Answer, Programme, solved
from verinn.options import Options
from verinn.result import Verdict

torch.set_num_threads(1)
Lie = Callable[[Programme, np.random.Generator], Answer | None]


def _filled(programme: Programme, make: Callable[[int], np.ndarray]) -> Answer:
    rows, columns = programme.matrix.shape
    return Answer(make(columns), make(rows), make(columns))


def nothing(programme: Programme, rng: np.random.Generator) -> Answer | None:
    return None


def noise(programme: Programme, rng: np.random.Generator) -> Answer | None:
    return _filled(programme, lambda size: rng.normal(size=size))


def huge(programme: Programme, rng: np.random.Generator) -> Answer | None:
    return _filled(programme, lambda size: rng.normal(size=size) * 10.0 ** float(rng.uniform(100, 308)))


def tiny(programme: Programme, rng: np.random.Generator) -> Answer | None:
    return _filled(programme, lambda size: rng.normal(size=size) * 1e-310)


def zeros(programme: Programme, rng: np.random.Generator) -> Answer | None:
    return _filled(programme, np.zeros)


def flipped(programme: Programme, rng: np.random.Generator) -> Answer | None:
    answer = solved(programme, 10.0)
    assert answer is not None
    return Answer(answer.x, -answer.row_dual, -answer.reduced)


def boasting(programme: Programme, rng: np.random.Generator) -> Answer | None:
    """An optimum that is far above zero, and duals that are nearly right."""
    answer = solved(programme, 10.0)
    assert answer is not None
    x = answer.x.copy()
    x[-1] = 1e-10 if rng.random() < 0.5 else 5.0
    return Answer(x, answer.row_dual * rng.uniform(0.9, 1.1, len(answer.row_dual)), answer.reduced)


LIES: dict[str, Lie] = {lie.__name__: lie for lie in (nothing, noise, huge, tiny, zeros, flipped, boasting)}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_no_leaf_with_a_violation_is_closed(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(12):
        rng = np.random.default_rng([seed, 5])
        graph = NETS[("dense", "conv", "residual", "straight")[seed % 4]](rng)
        net = bounded(graph, *some_box(rng, width(graph)))
        goals = goals_of(rng, net, 2, bool(seed % 2))
        assert goals is not None
        x = torch.from_numpy(rng.uniform(net.lower, net.upper, (6, width(graph))))
        values = split_inputs(net.program, x)
        values.update(net.program.run([values[v.name] for v in net.graph.inputs]))
        z = net.columns.gather({name: values[name] for name in net.columns.sources})
        f = goals.values(net.program, x, values)
        low, high = (end.expand(len(z), -1) for end in net.known)
        low, high = torch.where(z > 0, 0.0, low), torch.where(z > 0, high, 0.0)
        allowed = torch.ones((1, 2), dtype=torch.bool)
        monkeypatch.setattr(leaves, "solved", lambda programme, seconds, rng=rng: lie(programme, rng))
        for d in range(len(z)):  # goals that this point just violates
            mine = Goals(goals.y, goals.x, goals.rhs + f[d] + 1e-9)
            search = Refiner(net.root, net.columns, mine, *net.box)

            def proof(rows: Rows, found: Multipliers, mine: Goals = mine, net: Bounded = net) -> torch.Tensor:
                return certified(net.root, net.columns, mine, rows, found).minimum(*net.box)[:, 0]

            closed, points = search.settled(low[d : d + 1], high[d : d + 1], allowed, proof, bool(seed % 2))
            assert not bool(closed.any()), (seed, d)
            assert bool(((points >= net.box[0].float()) & (points <= net.box[1].float())).all())


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_search_with_a_lying_solver_says_nothing_wrong(
    lie: Lie, monkeypatch: pytest.MonkeyPatch, phases: None, tmp_path: Path
) -> None:
    """y = |x₀ − ⅓| + |x₁ + ¼| at most 2⁻⁸: true near one point, which only its leaves know."""
    layers = [
        (np.asarray([[1.0, -1.0, 0, 0], [0, 0, 1.0, -1.0]]), np.asarray([-1 / 3, 1 / 3, 0.25, -0.25])),
        (np.ones((4, 1)), np.zeros(1)),
    ]
    rng = np.random.default_rng(3)
    monkeypatch.setattr(leaves, "solved", lambda programme, seconds: lie(programme, rng))
    for level, false in ((2.0**-8, Verdict.UNSAT), (-(2.0**-8), Verdict.SAT)):
        file = write(tmp_path / "p.vnnlib", 2, 1, [*bounds([-1, -1], [1, 1]), row("<=", level, (1, "Y_0"))])
        assert verify(model(layers), file, Options(attack=False, device="cpu")).verdict is not false
