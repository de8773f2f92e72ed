"""Small networks are searched and given to linear programmes over phases in turns; no turn's end is a verdict."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from search_brute import bounds, evaluate, model, random_layers, row, truth, write

from verinn.api import verify
from verinn.options import Options
from verinn.result import Verdict
from verinn.search import milp, run
from verinn.search.bab import Outcome

torch.set_num_threads(1)
COMMITTED = Path(__file__).resolve().parents[2] / "soundness"


@pytest.mark.parametrize("name", ["shapes-021", "provable-030"])
def test_a_twin_that_bounds_leave_open_is_proved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TINY", 64)
    files = COMMITTED / "onnx" / f"{name}.onnx", COMMITTED / "vnnlib" / f"{name}.vnnlib"
    result = verify(*files, Options(attack=False, device="cpu", deadline=time.monotonic() + 120))
    assert result.verdict is Verdict.UNSAT


@pytest.mark.parametrize("seed", range(6))
def test_turns_that_end_prove_nothing(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns too short for anything, again and again, until one is long enough: the verdict is the true one."""
    layers = random_layers(np.random.default_rng(seed), [2, 6, 6, 1])
    points = np.random.default_rng(seed).uniform(-1, 1, (2000, 2))
    most = float(evaluate(layers, points).max())
    asserts = [*bounds([-1.0] * 2, [1.0] * 2), row(">=", most + (0.25 if seed % 2 else 0.0), (1, "Y_0"))]
    expected = truth(layers, asserts)
    file = write(tmp_path / "p.vnnlib", 2, 1, asserts)
    monkeypatch.setattr(run, "TURN", 1e-4)
    monkeypatch.setattr(run, "TINY", 64)
    monkeypatch.setattr(run.Run, "_tiny", lambda self: False)
    turns: list[str] = []
    decide = milp.decide

    def told(*arguments: Any) -> Outcome:
        outcome = decide(*arguments)
        turns.append(outcome.verdict.value)
        return outcome

    monkeypatch.setattr(milp, "decide", told)
    result = verify(model(layers), file, Options(attack=False, device="cpu", deadline=time.monotonic() + 60))
    assert result.verdict.value == expected
    assert turns and ("timeout" in turns or expected == "sat")


@pytest.mark.parametrize("hopeful", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_phases_get_a_turn_where_many_inputs_are_halved(
    seed: int, hopeful: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few domains are expected phases are searched in between, else boxes alone; the verdict is the true one."""
    layers = random_layers(np.random.default_rng(seed), [4, 6, 6, 1])
    points = np.random.default_rng(seed).uniform(-1, 1, (5000, 4))
    most = float(evaluate(layers, points).max())
    asserts = [*bounds([-1.0] * 4, [1.0] * 4), row(">=", most + (0.3 if seed % 2 else 0.0), (1, "Y_0"))]
    file = write(tmp_path / "p.vnnlib", 4, 1, asserts)
    monkeypatch.setattr(run, "PHASES_TURN", (1e-9, 1e10))
    monkeypatch.setattr(run, "PROMISING", math.inf if hopeful else -1.0)
    searched: list[bool] = []
    search = run.search_phases

    def told(*arguments: Any) -> Outcome:
        searched.append(True)
        return search(*arguments)

    monkeypatch.setattr(run, "search_phases", told)
    result = verify(model(layers), file, Options(attack=False, device="cpu", deadline=time.monotonic() + 60))
    assert result.plan["plan"]["engine"] == "boxes" and result.verdict.value == truth(layers, asserts)
    assert bool(searched) is hopeful
