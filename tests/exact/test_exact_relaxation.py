"""The programme of a domain: its rows are the network's, and its duals reach its optimum as multipliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dual_nets import NETS, Bounded, bounded, goals_of, some_box, split_rows, width

from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Rows, evaluate
from verinn.bounds.domain import split_inputs
from verinn.exact.leaves import Refined, Refiner
from verinn.exact.relaxation import forms_of, supported

torch.set_num_threads(1)

NAMES = ("dense", "conv", "residual", "two_ends", "straight")
Case = tuple[Bounded, Goals, Rows]


def case(name: str, seed: int, splits: int = 3) -> Case:
    """A network, goals and some domains."""
    rng = np.random.default_rng([seed, len(name)])
    graph = NETS[name](rng)
    net = bounded(graph, *some_box(rng, width(graph)))
    count = int(rng.integers(1, 4))
    goals = goals_of(rng, net, count, bool(rng.integers(2)))
    assert goals is not None
    return net, goals, split_rows(rng, net, 4, splits, count)


def refiner(net: Bounded, goals: Goals) -> Refiner:
    return Refiner(net.root, net.columns, goals, *net.box)


def points(net: Bounded, goals: Goals, count: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random points of the box, the inputs z of the unstable ReLUs and the goals there."""
    x = torch.from_numpy(np.random.default_rng(0).uniform(net.lower, net.upper, (count, len(net.lower))))
    values = split_inputs(net.program, x)
    values.update(net.program.run([values[v.name] for v in net.graph.inputs]))
    return (
        x,
        net.columns.gather({name: values[name] for name in net.columns.sources}),
        goals.values(net.program, x, values),
    )


def proved(net: Bounded, goals: Goals, refined: Refined) -> torch.Tensor:
    form = certified(net.root, net.columns, goals, refined.rows, refined.multipliers)
    return form.minimum(*net.box)[:, 0]


@pytest.mark.parametrize("name", NAMES)
def test_forms_are_the_network(name: str) -> None:
    for seed in range(4):
        net, goals, _ = case(name, seed)
        forms = forms_of(net.root, net.columns, goals, *net.box)
        x, z, f = points(net, goals, 20)
        known = np.concatenate([x.numpy(), z.relu().numpy()], 1)
        assert np.allclose(forms.inner @ known.T + forms.inner_c[:, None], z.T, atol=1e-12)
        assert np.allclose(forms.outer @ known.T + forms.outer_c[:, None], f.T, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_duals_reach_the_optimum_and_never_exceed_it(name: str) -> None:
    for seed in range(8):
        net, goals, rows = case(name, seed)
        refined = refiner(net, goals).refine(rows.lower, rows.upper, rows.allowed)
        assert refined is not None and bool(refined.value.isfinite().all())
        value = evaluate(net.frame, goals, refined.rows, refined.multipliers).value
        proof = proved(net, goals, refined)
        size = 1 + refined.value.abs()
        # intervals narrower than the network's own bend the triangle where alpha can't follow
        assert bool((value <= refined.value + 1e-9 * size).all()), (name, seed)
        assert bool((proof <= refined.value + 1e-9 * size).all()), (name, seed)
        plain = refiner(net, goals).refine(*net.known, rows.allowed)
        assert plain is not None
        assert float(proved(net, goals, plain)[0]) == pytest.approx(float(plain.value[0]), abs=1e-6), (name, seed)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_proved_holds_at_points(name: str) -> None:
    """No point of a domain is below what its multipliers prove of their mix."""
    for seed in range(8):
        net, goals, rows = case(name, seed)
        _, z, f = points(net, goals)
        refined = refiner(net, goals).refine(rows.lower, rows.upper, rows.allowed)
        assert refined is not None
        proof = proved(net, goals, refined)
        for d in range(len(rows.lower)):
            inside = ((z >= rows.lower[d]) & (z <= rows.upper[d])).all(1)
            mix = f[inside] @ refined.multipliers.gamma[d]
            mix = mix + (z[inside] * refined.rows.phase[d]) @ refined.multipliers.beta[d]
            assert bool((mix >= proof[d]).all()), (name, seed)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_are_decided(name: str) -> None:
    """All phases those of some point: either proved, or the point found violates and keeps the phases."""
    decided = 0
    for seed in range(8):
        net, goals, _ = case(name, seed)
        _, z, f = points(net, goals, 12)
        low, high = (end.expand(len(z), -1) for end in net.known)
        low, high = torch.where(z > 0, 0.0, low), torch.where(z > 0, high, 0.0)
        one = torch.ones((1, len(goals)), dtype=torch.bool)
        mine = refiner(net, goals)
        refined = mine.refine(low, high, one)
        assert refined is not None
        proof = proved(net, goals, refined)
        violated = (f <= 0).all(1)
        assert not bool((violated & (proof > 0)).any())
        assert bool(((proof > 0) | (refined.value <= 1e-9)).all())
        for d in range(len(z)):
            if refined.value[d] < -1e-7:
                point = refined.points[d : d + 1]
                values = split_inputs(net.program, point)
                values.update(net.program.run([values[v.name] for v in net.graph.inputs]))
                assert bool((goals.values(net.program, point, values) <= 0).all()), (name, seed)
                decided += 1
    assert decided


@pytest.mark.parametrize("name", ["pooled", "curved"])
def test_other_nonlinear_steps_have_no_programme(name: str) -> None:
    net, goals, rows = case(name, 0)
    assert not supported(net.root)
    mine = refiner(net, goals)
    assert mine.refine(rows.lower, rows.upper, rows.allowed) is None
    closed, found = mine.settled(rows.lower, rows.upper, rows.allowed, lambda *_: 1 / 0, False)
    assert not bool(closed.any()) and len(found) == 0
