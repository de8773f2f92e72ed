"""The examples of ``verinn.bounds``, run small: what they claim holds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

LIRPA = Path(__file__).resolve().parents[2] / "benchmarks" / "lirpa"

pytest.importorskip("sklearn")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lirpa_{name}", LIRPA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_balls() -> None:
    """A ball is certified as far as its box, and further where it is smaller."""
    one, two, box = example("balls").run(count=1, rounds=5)
    assert one.ball > one.box and two.ball > two.box and box.ball == box.box > 0
    assert one.ball >= two.ball >= box.ball
