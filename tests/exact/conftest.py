"""The helpers of other rooms' tests."""

import sys
from pathlib import Path

for room in ("bounds", "search"):
    sys.path.insert(0, str(Path(__file__).parent.parent / room))

from dataclasses import replace  # noqa: E402

import pytest  # noqa: E402

from verinn.search import run  # noqa: E402
from verinn.search.task import Task  # noqa: E402


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search splits ReLUs, in float32, in one process; what it leaves undecided stays so."""
    monkeypatch.setattr(run, "TINY", 0)
    made = run.plan_of
    forced = {"engine": "phases", "dtype": "float32", "helper": False}
    monkeypatch.setattr(run, "plan_of", lambda facts, options: replace(made(facts, options), **forced))
    monkeypatch.setattr(Task, "contractor", None)
