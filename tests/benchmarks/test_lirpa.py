"""The examples of ``verinn.bounds``, run small: what they claim holds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

LIRPA = Path(__file__).resolve().parents[2] / "benchmarks" / "lirpa"

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example may use another one beside it, as it can where it is run."""
    monkeypatch.syspath_prepend(str(LIRPA))


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
    one, two, box = example("balls").run(count=1, rounds=4)
    assert one.ball > one.box and two.ball > two.box and box.ball == box.box > 0
    assert one.ball >= two.ball >= box.ball


def test_linear() -> None:
    """Constraints lift the certified margin, and it stays below what an attack finds between them."""
    (row,) = example("linear").run(radii=(0.08,), count=1, steps=3)
    assert row.box < row.cut <= row.attacked


def test_words() -> None:
    """No bound is above the enumerated minimum (the example asserts it), and some sentence is certified."""
    (row,) = example("words").run(sentences=3, budgets=(2,), training=60)
    assert 0 < row.crown <= row.robust <= row.sentences == 3
    assert row.gap >= 0


def test_weights() -> None:
    """The certified margin is below what samples and an attack find, and exact where nothing moves."""
    still, moved = example("weights").run(radii=(0.0, 0.05), samples=20, training=40)
    assert abs(still.crown - still.attacked) < 1e-5
    assert moved.ibp <= moved.crown <= moved.attacked + 1e-5
    assert moved.crown <= moved.sampled + 1e-5


def test_recurrent() -> None:
    (row,) = example("recurrent").run(radii=(0.01,), changed=1, training=8)
    assert row.ibp <= row.crown <= row.attacked + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balls", "linear", "words", "weights", "recurrent"])
def test_whole_examples(name: str) -> None:
    assert len(example(name).run()) >= 3
