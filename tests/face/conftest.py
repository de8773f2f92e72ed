"""Fixtures for the tests of the face."""

import sys
import types
from pathlib import Path

import face_fake
import pytest
from face_tools import ONE, TWO


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's stand-in in place of verinn.api."""
    api = types.ModuleType("verinn.api")
    api.verify = face_fake.verify  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verinn.api", api)


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A property in version 1.0."""
    path = tmp_path / "one.vnnlib"
    path.write_text(ONE)
    return str(path)


@pytest.fixture
def two(tmp_path: Path) -> str:
    """A property in version 2.0."""
    path = tmp_path / "two.vnnlib"
    path.write_text(TWO)
    return str(path)
