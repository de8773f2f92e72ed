"""Searches over phases in boxes whose neurons were refined: verdicts stay true, intervals only narrow."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from search_brute import Layers, Row, bounds, evaluate, model, random_box, random_layers, row, truth, write

from verinn.api import verify
from verinn.cli import main
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import phased, run
from verinn.search.box import Box, Open
from verinn.search.task import Task

torch.set_num_threads(1)

SIZES = [(2, 4, 4, 2), (3, 4, 3, 3, 2), (4, 6, 5, 2), (3, 6, 6, 1)]
Call = tuple[Box, Box]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every search splits ReLUs alone. What was refined: boxes before and after."""
    monkeypatch.setattr(run, "TINY", 0)
    made, refined, found = run.plan_of, phased.refined, []
    forced = {"engine": "phases", "dtype": "float32", "helper": False}
    monkeypatch.setattr(run, "plan_of", lambda facts, options: run.replace(made(facts, options), **forced))
    monkeypatch.setattr(Task, "contractor", None)

    def told(box: Box, left: list[Open]) -> Box:
        found.append((box, refined(box, left)))
        return found[-1][1]

    monkeypatch.setattr(phased, "refined", told)
    return found


def drawn(seed: int) -> tuple[Layers, list[Row]]:
    """A row whose level is near what the network reaches."""
    rng = np.random.default_rng([seed, 77])
    layers = random_layers(rng, SIZES[seed % len(SIZES)])
    lower, upper = random_box(rng, layers[0][0].shape[0])
    y = evaluate(layers, rng.uniform(lower, upper, (3000, layers[0][0].shape[0])))[:, 0]
    level = float(y.max()) + float(rng.choice([-0.013, 0.007, 0.05]))
    return layers, [*bounds(lower, upper), row(">=", level, (1.0, "Y_0"))]


def decide(seed: int, path: Path, kind: str, seconds: float = 20.0) -> tuple[Result, str]:
    layers, asserts = drawn(seed)
    file = write(path / "p.vnnlib", layers[0][0].shape[0], layers[-1][0].shape[1], asserts)
    options = Options(attack=False, deadline=time.monotonic() + seconds, device="cpu", refine=kind)
    return verify(model(layers), file, options), truth(layers, asserts)


@pytest.mark.parametrize("kind", ["lp", "milp"])
def test_verdicts_stay_true_and_intervals_narrow(kind: str, tmp_path: Path, calls: list[Call]) -> None:
    for seed in range(16):
        result, want = decide(seed, tmp_path, kind)
        assert result.verdict in (Verdict.SAT, Verdict.UNSAT), (seed, result.reason)
        assert want in (result.verdict.value, "unknown"), seed
    narrower = 0
    for before, after in calls:
        for name, (low, high) in before.careful.intervals.items():
            new_low, new_high = after.careful.intervals[name]
            assert bool((new_low >= low).all()) and bool((new_high <= high).all())
            narrower += int((new_high - new_low < 0.999 * (high - low)).sum())
    assert calls and narrower


def test_nothing_is_refined_unless_asked_for(tmp_path: Path, calls: list[Call]) -> None:
    for seed in range(4):
        decide(seed, tmp_path, "none")
    assert not calls and Options().refine == "none"


def test_the_command_line_refines(tmp_path: Path, calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(12):
        layers, asserts = drawn(seed)
        file = write(tmp_path / "p.vnnlib", layers[0][0].shape[0], layers[-1][0].shape[1], asserts)
        onnx.save(model(layers), tmp_path / "m.onnx")
        assert main(["verify", str(tmp_path / "m.onnx"), str(file), "--timeout", "20", "--refine", "milp"]) == 0
        verdict = capsys.readouterr().out.split()[0]
        assert verdict in ("sat", "unsat") and truth(layers, asserts) in (verdict, "unknown")
    assert calls
