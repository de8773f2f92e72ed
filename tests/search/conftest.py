"""Networks of the benchmarks, which are not installed, are imported from the repository's root."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402

from verinn.search import run  # noqa: E402


@pytest.fixture(autouse=True)
def bounds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search leaves undecided stays so: nobody asks Z3 or linear programmes."""
    monkeypatch.setattr(run, "TINY", 0)
