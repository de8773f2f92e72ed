"""Verdicts against Z3 over the reals: tiny networks, every shape of property, every kind of search."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from search_brute import (
    SHAPES,
    Layers,
    Row,
    Tree,
    bounds,
    evaluate,
    model,
    random_asserts,
    random_layers,
    row,
    truth,
    write,
)

from verinn.api import verify
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import run

torch.set_num_threads(1)

SIZES = [(1, 4, 2), (2, 5, 2), (2, 3, 3, 2), (3, 4, 1), (3, 3, 3, 2), (1, 2, 2, 2, 1), (2, 8, 3)]

#: how a search may go about it: what to change in the plan
WAYS: dict[str, dict[str, Any]] = {
    "float64": {},
    "float32": {"dtype": "float32"},
    "inputs": {"neurons": 0, "depth": 10**9},
    "neurons": {"neurons": 10**9, "depth": 0},
    "batches of one": {"batch": 1},
    "phases": {"engine": "phases", "dtype": "float32"},
    "phases in float64": {"engine": "phases", "dtype": "float64", "batch": 3},
}
#: ways in which rounding and single points are looked at
SOME = ["float64", "float32", "inputs", "neurons", "phases"]
Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Changes fields of every plan made from here on."""
    made = run.plan_of

    def change(**fields: Any) -> None:
        monkeypatch.setattr(run, "plan_of", lambda facts, options: replace(made(facts, options), **fields))

    return change


def decide(
    layers: Layers, asserts: list[Row | Tree], path: Path, attack: bool, seconds: float = 1.0, first_relu: bool = False
) -> Result:
    file = write(path / "p.vnnlib", layers[0][0].shape[0], layers[-1][0].shape[1], asserts)
    options = Options(attack=attack, deadline=time.monotonic() + seconds, device="cpu")
    return verify(model(layers, first_relu), file, options)


def compare(shape: str, way: str, attack: bool, seeds: range, path: Path) -> Counter[str]:
    """Verdicts of random instances; a verdict against the truth fails at once."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        rng = np.random.default_rng([seed, SHAPES.index(shape)])
        sizes, first_relu = SIZES[seed % len(SIZES)], seed % 5 == 4
        layers = random_layers(rng, sizes)
        asserts = random_asserts(rng, shape, layers, first_relu)
        true = truth(layers, asserts, first_relu)
        result = decide(layers, asserts, path, attack, 1.0 if shape != "strict" else 0.3, first_relu)
        verdict = result.verdict.value
        counts[verdict] += 1
        if verdict == "sat" and true == "unsat":  # only by the float32 rounding of ONNX Runtime itself
            assert result.witness is not None and shape == "strict", (shape, seed, way)
            x, y = (result.witness.values[name].reshape(1, -1).astype(np.float64) for name in "XY")
            assert not np.array_equal(evaluate(layers, x, first_relu), y), (shape, seed, way)
        elif verdict in ("sat", "unsat"):
            assert true == verdict, (shape, seed, way)
    return counts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_verdicts_are_true(shape: str, way: str, use: Use, tmp_path: Path) -> None:
    use(helper=False, **WAYS[way])
    counts = compare(shape, way, way == "batches of one", range(12), tmp_path)
    open_ = counts["unknown"] + counts["timeout"]
    assert open_ <= (6 if shape == "strict" else 1), counts  # touching strict rows can't be settled by bounds


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_many_verdicts_are_true(shape: str, way: str, use: Use, tmp_path: Path) -> None:
    use(helper=False, **WAYS[way])
    counts = compare(shape, way, True, range(100, 200), tmp_path)
    assert counts["unknown"] + counts["timeout"] <= (50 if shape == "strict" else 5), counts


# --- the margin ladder: properties whose truth hangs on the last bits ---


def convex(rng: np.random.Generator, n: int) -> tuple[Layers, np.ndarray, np.ndarray, Fraction]:
    """Y_0 convex (greatest at a corner) with its exact maximum over a box, all dyadic."""
    layers = [
        (rng.integers(-8, 9, (n, 5)) / 8, rng.integers(-4, 5, 5) / 8),
        (rng.integers(0, 9, (5, 1)) / 8, rng.integers(-8, 9, 1) / 8),
    ]
    lower = rng.integers(-8, 1, n) / 8
    upper = lower + rng.integers(1, 9, n) / 8
    corners = np.stack(np.meshgrid(*zip(lower, upper, strict=True), indexing="ij"), -1).reshape(-1, n)
    return layers, lower, upper, Fraction(float(evaluate(layers, corners).max()))


@pytest.mark.parametrize("way", SOME)
def test_the_margin_ladder(way: str, use: Use, tmp_path: Path) -> None:
    """Y_0 ≥ maximum ± 2⁻ᵏ: sat up to the maximum, unsat beyond it or not settled, never the other way."""
    use(helper=False, **WAYS[way])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        layers, lower, upper, most = convex(rng, 1 + seed % 3)
        for k in (8, 16, 24, 40, 52, 60):
            step = Fraction(1, 2**k)
            due = k <= (16 if way == "float32" else 40)  # a busy machine may take its time
            limit = 10.0 if due else 0.3
            above = decide(layers, [*bounds(lower, upper), row(">=", most + step, (1, "Y_0"))], tmp_path, True, limit)
            assert above.verdict is not Verdict.SAT
            assert above.verdict is Verdict.UNSAT or not due, (way, seed, k)
            below = decide(layers, [*bounds(lower, upper), row(">=", most - step, (1, "Y_0"))], tmp_path, False, 0.3)
            assert below.verdict is not Verdict.UNSAT
        touch = decide(layers, [*bounds(lower, upper), row(">=", most, (1, "Y_0"))], tmp_path, True)
        assert touch.verdict is Verdict.SAT
        strict = decide(layers, [*bounds(lower, upper), row(">", most, (1, "Y_0"))], tmp_path, True, 0.3)
        assert strict.verdict is not Verdict.SAT


@pytest.mark.parametrize("way", SOME)
@pytest.mark.parametrize(("slope", "kink"), [(4.0, 1.0), (3.0, 1.0), (7.0, 2.0), (1.0, 0.3)])
def test_a_single_point_is_never_lost(way: str, slope: float, kink: float, use: Use, tmp_path: Path) -> None:
    """y = −|s x − k| is at least 0 in one point only; where no float32 is that point, there is no witness,
    and no proof either."""
    use(helper=False, **WAYS[way])
    kink = float(np.float32(kink))
    layers = [(np.asarray([[slope, -slope]]), np.asarray([-kink, kink])), (np.asarray([[-1.0], [-1.0]]), np.zeros(1))]
    result = decide(layers, [*bounds([0.0], [1.0]), row(">=", 0, (1, "Y_0"))], tmp_path, False, 0.5)
    assert result.verdict is not Verdict.UNSAT
    if Fraction(kink) / Fraction(slope) == Fraction(1, 4):
        assert result.verdict is Verdict.SAT
    twin = [(layers[0][0], layers[0][1]), (np.asarray([[1.0, -1.0], [-1.0, 1.0]]), np.zeros(2))]
    both = [*bounds([0.0], [1.0]), row(">=", 0, (1, "Y_0")), row(">=", 0, (1, "Y_1"))]  # sx = k, by two rows
    assert decide(twin, both, tmp_path, False, 0.5).verdict is not Verdict.UNSAT
    apart = [*both[:2], row(">=", 2**-12, (1, "Y_0")), row(">=", 0, (1, "Y_1"))]
    assert decide(twin, apart, tmp_path, True, 10.0).verdict is Verdict.UNSAT  # a busy machine may take its time


def test_all_kinds_of_split_agree(use: Use, tmp_path: Path) -> None:
    """Splitting inputs only, neurons first, or nothing but neurons, on nets of two hidden layers: the same verdicts."""
    for seed in range(12):
        rng = np.random.default_rng([77, seed])
        layers = random_layers(rng, (2, 6, 4, 2))
        asserts = random_asserts(rng, ("one", "conjunction", "disjunction", "region")[seed % 4], layers, False)
        found = []
        for way in ("inputs", "neurons", "phases"):
            use(helper=False, **WAYS[way])
            found.append(decide(layers, asserts, tmp_path, False, 2.0).verdict)
        assert found[0] is found[1] is found[2], seed
