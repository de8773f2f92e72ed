"""Preimages of hidden values: against exact evaluation, and enumeration of grids."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_graph import Build, run

from verinn.exact.encoding.formula import Comparison
from verinn.exact.smt.preimage import Grid, Preimages, preimage
from verinn.exact.smt.solver import Domain, Status
from verinn.ir.graph import Graph
from verinn.ops.program import Program

F = Fraction


def network(rng: np.random.Generator) -> tuple[Graph, list[str]]:
    """Conv, ReLU, max pool, dense, leaky ReLU, dense, with small integers; and its hidden values."""
    build = Build((1, 1, 2, 3))
    conv = build.add(
        "conv", "x0", params={"weight": rng.integers(-2, 3, (2, 1, 2, 2)), "bias": rng.integers(-1, 2, 2)},
        strides=(1, 1), dilations=(1, 1), groups=1, pads=(0, 0, 0, 0),
    )  # fmt: skip
    relu = build.add("relu", conv)
    pool = build.add("max_pool", relu, kernel=(1, 2), strides=(1, 2), dilations=(1, 1), pads=(0, 0, 0, 0))
    flat = build.add("reshape", pool, shape=(1, 2))
    dense = build.add("linear", flat, params={"weight": rng.integers(-2, 3, (2, 2)), "bias": rng.integers(-2, 3, 2)})
    leaky = build.add("leaky_relu", dense, alpha=0.5)
    build.add("linear", leaky, params={"weight": rng.integers(-2, 3, (2, 2))})
    return build.graph(), [conv, relu, pool, leaky, "n6"]


def exactly(graph: Graph, x: tuple[Fraction, ...]) -> dict[str, list[Fraction]]:
    return {name: list(value.ravel()) for name, value in run(graph, [np.array(x, dtype=object)]).items()}


@pytest.mark.parametrize("seed", range(4))
def test_points_of_a_hidden_layer_have_preimages_and_others_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph, hidden = network(rng)
    program = Program.prepare(graph, torch.float64)
    low, high = -np.ones(6), np.ones(6)
    for name in hidden:
        asked = Preimages(program, low, high, [name])
        for _ in range(3):
            x = tuple(F(int(v), 4) for v in rng.integers(-4, 5, 6))
            value = exactly(graph, x)[name]
            found = asked.find({name: (value, value)})
            assert found.status is Status.SAT and found.exact
            assert exactly(graph, found.x)[name] == value
            assert all(-1 <= v <= 1 for v in found.x)
        far = [v + 1000 for v in value]
        assert asked.find({name: (far, far)}).status is Status.UNSAT


@pytest.mark.parametrize("seed", range(6))
def test_a_grid_is_searched_as_enumeration_does(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    build = Build((2,))
    first = build.add("linear", "x0", params={"weight": rng.integers(-3, 4, (2, 3)), "bias": rng.integers(-2, 3, 3)})
    hidden = build.add("relu", first)
    build.add("linear", hidden, params={"weight": rng.integers(-3, 4, (3, 1))})
    graph = build.graph()
    program = Program.prepare(graph, torch.float64)
    grid = Grid.even(2, F(1, 3), F(1, 7))
    points = [F(1, 7) + F(k, 3) for k in range(-6, 6) if -1 <= F(1, 7) + F(k, 3) <= 1]
    asked = Preimages(program, -np.ones(2), np.ones(2), [hidden], grid)
    counts = {Status.SAT: 0, Status.UNSAT: 0}
    for k in range(8):
        value = exactly(graph, tuple(points[i] for i in rng.integers(0, len(points), 2)))[hidden]
        low = [v + F(int(d), 40) for v, d in zip(value, rng.integers(-12, 3, 3), strict=True)] if k else value
        high = [end + F(int(v), 40) for end, v in zip(low, rng.integers(0, 16, 3), strict=True)]
        found = asked.find({hidden: (low, high)})
        inside = [
            x
            for x in itertools.product(points, points)
            if all(a <= v <= b for a, v, b in zip(low, exactly(graph, x)[hidden], high, strict=True))
        ]
        assert found.status is (Status.SAT if inside else Status.UNSAT)
        assert not inside or found.x in inside
        counts[found.status] += 1
    assert counts[Status.SAT]


def test_smaller_boxes_phases_and_points_left_out() -> None:
    build = Build((1,))
    wide = build.add("linear", "x0", params={"weight": [[1.0, -1.0]]})
    relu = build.add("relu", wide)
    graph = build.graph()
    asked = Preimages(Program.prepare(graph, torch.float64), -np.ones(1), np.ones(1), [relu])
    everywhere = {relu: ([0.0, 0.0], [np.inf, np.inf])}
    assert asked.find(everywhere, domain=Domain(phases={(relu, 0): 1})).x[0] >= 0
    assert asked.find(everywhere, domain=Domain(phases={(relu, 0): 0, (relu, 1): 0})).x == (0,)
    narrow = Domain(np.array([0.25]), np.array([0.5]), {(relu, 0): 0})
    assert asked.find(everywhere, domain=narrow).status is Status.UNSAT
    half = {relu: ([F(1, 2), 0.0], [F(1, 2), 0.0])}
    assert asked.find(half).x == (F(1, 2),)
    assert asked.find(half, apart=[([0.5], [0.5])]).status is Status.UNSAT
    (y, _) = asked.value(relu)
    assert asked.find(everywhere, also=[Comparison(y.shifted(F(-2)), "==")]).status is Status.UNSAT


def test_time_that_is_up_and_networks_too_large_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    from verinn.exact.encoding import builder

    graph, hidden = network(np.random.default_rng(0))
    program = Program.prepare(graph, torch.float64)
    targets = {hidden[-1]: (np.zeros(2), np.zeros(2))}
    late = preimage(program, -np.ones(6), np.ones(6), targets, expired=lambda: True)
    assert late.status is Status.UNKNOWN and late.reason == "time is up"
    monkeypatch.setattr(builder, "MOST_VARIABLES", 3)
    large = preimage(program, -np.ones(6), np.ones(6), targets)
    assert large.status is Status.UNKNOWN and "too large" in large.reason
