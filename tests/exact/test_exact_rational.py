"""Leaves in exact arithmetic: forms without an error, and no wrong refutation whatever the guess."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from dual_nets import NETS, bounded, goals_of, some_box, width
from exact_graph import exact, run

from verinn.exact import rational
from verinn.exact.rational import Leaf, TooLarge, affine, balanced, dyadic, leaf_of

torch.set_num_threads(1)
Rng = np.random.Generator


def test_dyadic_numbers_are_the_floats() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-30, 30, (4, 3))
    values[0, 0] = 0.0
    held = dyadic(values)
    for i in range(4):
        assert held.row(i) == [Fraction(float(v)) for v in values[i]]
    assert dyadic(np.zeros(0)).power == 0


@pytest.mark.parametrize("name", ["dense", "conv", "residual", "two_ends", "straight"])
def test_forms_are_exact(name: str) -> None:
    """At a random point, with its own phases, every form has the network's exact value."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        graph = NETS[name](rng)
        lower, upper = some_box(rng, width(graph))
        net = bounded(graph, lower, upper)
        x = rng.uniform(lower, upper)
        sizes = np.cumsum([int(np.prod(v.shape)) for v in graph.inputs])[:-1]
        given = [exact(part).reshape(v.shape) for v, part in zip(graph.inputs, np.split(x, sizes), strict=True)]
        true = run(graph, given)
        active = {
            step.node.name: np.asarray([v > 0 for v in true[step.node.inputs[0]].reshape(-1)])
            for step in net.program.steps
            if step.node.op == "relu"
        }
        forms = affine(net.program, active)
        at = [*map(Fraction, x.tolist()), Fraction(1)]
        for value, form in forms.items():
            mine = [sum(a * b for a, b in zip(form.row(i), at, strict=True)) for i in range(len(form.numbers))]
            assert mine == [Fraction(v) for v in true[value].reshape(-1)], (value, seed)


def random_leaf(rng: Rng) -> tuple[Leaf, list[Fraction]]:
    """Rows over a box, and a point at which all of them are at most zero, some exactly."""
    n, rows = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    lower = [Fraction(int(v), 4) for v in rng.integers(-4, 1, n)]
    upper = [low + Fraction(int(v), 4) for low, v in zip(lower, rng.integers(0, 5, n), strict=True)]
    point = [low + (high - low) * Fraction(int(rng.integers(0, 4)), 3) for low, high in zip(lower, upper, strict=True)]
    made = []
    for _ in range(rows):
        a = [Fraction(int(v), 2) for v in rng.integers(-3, 4, n)]
        slack = Fraction(int(rng.integers(0, 2)) * int(rng.integers(0, 3)), 8)
        made.append([*a, -sum((p * q for p, q in zip(a, point, strict=True)), Fraction(0)) - slack])
    return Leaf(made, int(rng.integers(1, rows + 1)), lower, upper), point


def test_no_guess_refutes_a_leaf_that_holds_a_point() -> None:
    """Nor, of rows that must be below zero, one with a point where they are."""
    for seed in range(400):
        rng = np.random.default_rng(seed)
        leaf, point = random_leaf(rng)
        guess = (rng.random(len(leaf.rows)) * (rng.random(len(leaf.rows)) < 0.7)).tolist()
        inside = np.flatnonzero(rng.random(leaf.n) < 0.5).tolist()
        assert not leaf.refuted(guess, inside, False), seed
        value = [
            sum((a * b for a, b in zip(row, [*point, Fraction(1)], strict=True)), Fraction(0)) for row in leaf.rows
        ]
        if all(v < 0 for v in value[: leaf.goals]):
            assert not leaf.refuted(guess, inside, True), seed


def test_ties_are_decided_from_rounded_guesses() -> None:
    """x/3 + y/7 ≥ c and −x/3 − y/7 ≥ −c leave a line: not below zero, but not above it."""
    third, seventh, c = Fraction(1, 3), Fraction(1, 7), Fraction(2, 9)
    rows = [[third, seventh, -c], [-3 * third, -3 * seventh, 3 * c]]
    leaf = Leaf(rows, 1, [Fraction(-5)] * 2, [Fraction(5)] * 2)
    guess = [0.75 + 1e-13, 0.25 - 1e-14]
    assert leaf.refuted(guess, [0, 1], True) and not leaf.refuted(guess, [0, 1], False)
    assert not leaf.refuted(guess, [], True)  # as they are, the weights miss by their rounding
    apart = Leaf([rows[0], [*rows[1][:2], 3 * c + Fraction(1, 10**40)]], 1, leaf.lower, leaf.upper)
    assert apart.refuted(guess, [0, 1], False)


def test_balanced_weights_cancel_exactly() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        rows = [[Fraction(int(v), 7) for v in rng.integers(-9, 10, 4)] for _ in range(5)]
        weights = balanced(rows, rng.random(5).tolist(), [0, 2])
        if weights is not None:
            assert any(weights)
            for j in (0, 2):
                assert sum(w * row[j] for w, row in zip(weights, rows, strict=True)) == 0
    assert balanced([[Fraction(1), Fraction(0)]], [0.0], [0]) is None
    assert balanced([[Fraction(1), Fraction(0)]], [1.0], [0]) is None  # only nothing cancels one row


def test_what_is_not_exactly_known_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    for name in ("inexact", "dense"):
        graph = NETS[name](rng)
        net = bounded(graph, *some_box(rng, width(graph)))
        goals = goals_of(rng, net, 1, False)
        assert goals is not None
        box, phase = (net.lower, net.upper), np.ones(net.columns.count)
        if name == "dense":
            assert leaf_of(net.root, net.columns, goals, box, phase).n == 3
            with pytest.raises(TooLarge):
                leaf_of(net.root, net.columns, goals, box, 0 * phase)
            monkeypatch.setattr(rational, "MOST_PRODUCTS", 10)
        with pytest.raises(TooLarge):
            leaf_of(net.root, net.columns, goals, box, phase)
