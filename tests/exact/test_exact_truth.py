"""Small ReLU networks by splitting phases alone: every verdict is Z3's, and none is unknown."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from search_brute import Layers, Row, bounds, evaluate, model, random_box, random_layers, row, truth, write

from verinn.api import verify
from verinn.options import Options
from verinn.result import Result, Verdict

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("phases")

SIZES = [(2, 5, 2), (3, 5, 2), (2, 4, 4, 2), (4, 6, 1), (3, 4, 3, 3, 2), (5, 8, 2), (6, 10, 2), (4, 6, 5, 2)]


def close_asserts(rng: np.random.Generator, layers: Layers, count: int) -> list[Row]:
    """Rows whose levels are near what the network reaches, and no tie: the margin is no dyadic of few bits."""
    n, m = layers[0][0].shape[0], layers[-1][0].shape[1]
    lower, upper = random_box(rng, n)
    y = evaluate(layers, rng.uniform(lower, upper, (3000, n)))
    made = []
    anchor = rng.integers(len(y))
    for _ in range(count):
        c = rng.integers(-2, 3, m)
        c[rng.integers(m)] = rng.choice([-1, 1])
        value = y @ c
        level = value.max() if count == 1 or rng.random() < 0.4 else value[anchor]
        level = float(level) + float(rng.choice([-0.1, -0.013, 0.007, 0.05, 0.3]))
        made.append(row(">=", level, *[(float(k), f"Y_{i}") for i, k in enumerate(c) if k]))
    return [*bounds(lower, upper), *made]


def decide(layers: Layers, asserts: list[Row], path: Path, seconds: float = 30.0) -> Result:
    file = write(path / "p.vnnlib", layers[0][0].shape[0], layers[-1][0].shape[1], asserts)
    return verify(model(layers), file, Options(attack=False, deadline=time.monotonic() + seconds, device="cpu"))


def compare(seeds: range, path: Path) -> None:
    for seed in seeds:
        rng = np.random.default_rng([seed, 31])
        layers = random_layers(rng, SIZES[seed % len(SIZES)])
        asserts = close_asserts(rng, layers, 1 + seed % 3)
        result = decide(layers, asserts, path)
        assert result.verdict in (Verdict.SAT, Verdict.UNSAT), (seed, result.reason)
        assert truth(layers, asserts) in (result.verdict.value, "unknown"), seed


def test_every_verdict_is_true_and_none_is_unknown(tmp_path: Path) -> None:
    compare(range(40), tmp_path)


@pytest.mark.slow
def test_many_verdicts_are_true_and_none_is_unknown(tmp_path: Path) -> None:
    compare(range(1000, 1400), tmp_path)


def test_ties_of_strict_rows_are_proved(tmp_path: Path) -> None:
    """Y_0 convex with its exact maximum at a corner: it is not exceeded, and it is attained."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        n = 2 + seed % 3
        layers = [
            (rng.integers(-8, 9, (n, 6)) / 8, rng.integers(-4, 5, 6) / 8),
            (rng.integers(0, 9, (6, 1)) / 8, rng.integers(-8, 9, 1) / 8),
        ]
        lower = rng.integers(-8, 1, n) / 8
        upper = lower + rng.integers(1, 9, n) / 8
        corners = np.stack(np.meshgrid(*zip(lower, upper, strict=True), indexing="ij"), -1).reshape(-1, n)
        most = Fraction(float(evaluate(layers, corners).max()))
        box = bounds(lower, upper)
        assert decide(layers, [*box, row(">", most, (1, "Y_0"))], tmp_path).verdict is Verdict.UNSAT, seed
        assert decide(layers, [*box, row(">=", most, (1, "Y_0"))], tmp_path).verdict is Verdict.SAT, seed
        beyond = decide(layers, [*box, row(">=", most + Fraction(1, 2**40), (1, "Y_0"))], tmp_path)
        assert beyond.verdict is Verdict.UNSAT, seed


def test_a_tie_that_no_float32_attains_is_not_refuted(tmp_path: Path) -> None:
    """−|3x − 1| ≥ 0 at one third only."""
    layers = [(np.asarray([[3.0, -3.0]]), np.asarray([-1.0, 1.0])), (np.asarray([[-1.0], [-1.0]]), np.zeros(1))]
    asserts = [*bounds([0.0], [1.0]), row(">=", 0, (1, "Y_0"))]
    assert decide(layers, asserts, tmp_path).verdict is not Verdict.UNSAT
    strict = [*bounds([0.0], [1.0]), row(">", 0, (1, "Y_0"))]
    assert decide(layers, strict, tmp_path).verdict is Verdict.UNSAT
