"""When the plan asks Z3: of tiny networks whose inputs have no ends, or that bounds leave undecided."""

from pathlib import Path

import numpy as np
import pytest
import search_brute as brute

from verinn.api import Options, verify
from verinn.result import Verdict
from verinn.search import run
from verinn.search.bab import Outcome

LAYERS = [(np.array([[1.0, -1.0]]), np.array([0.0, 0.5])), (np.array([[1.0], [1.0]]), np.array([0.25]))]


@pytest.fixture(autouse=True)
def tiny(bounds_alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the size that Z3 is asked about."""
    monkeypatch.setattr(run, "TINY", 64)


def asked(path: Path, rows: list[brute.Row], engine: str = "auto") -> tuple[Verdict, str]:
    """y = relu(x) + relu(0.5 − x) + 0.25: never below 0.75."""
    where = brute.write(path / "p.vnnlib", 1, 1, rows)
    result = verify(brute.model(LAYERS), where, Options(engine=engine, attack=False))
    return result.verdict, result.reason


def test_inputs_without_ends(tmp_path: Path) -> None:
    half = brute.row(">=", 0.25, (1, "X_0"))
    assert asked(tmp_path, [half, brute.row("<", 0.75, (1, "Y_0"))])[0] is Verdict.UNSAT
    assert asked(tmp_path, [half, brute.row(">=", 40.0, (1, "Y_0"))])[0] is Verdict.SAT
    verdict, reason = asked(tmp_path, [half, brute.row("<", 0.75, (1, "Y_0"))], "boxes")
    assert verdict is Verdict.UNKNOWN and "unbounded" in reason


def test_what_bounds_leave_undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "search", lambda *given: Outcome(Verdict.UNKNOWN, reason="stuck"))
    for level, verdict in ((0.5, Verdict.UNSAT), (1.0, Verdict.SAT)):
        rows = [*brute.bounds([-1], [1]), brute.row("<=", level, (1, "Y_0"))]
        assert asked(tmp_path, rows)[0] is verdict
        assert asked(tmp_path, rows, "boxes") == (Verdict.UNKNOWN, "stuck")
    monkeypatch.setattr(run, "TINY", 0)
    assert asked(tmp_path, rows) == (Verdict.UNKNOWN, "stuck")
