"""Runs of the search over ReLU phases, in small batches and without a helper."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from search_brute import Layers, Row, Tree, model, truth, write

from verinn.api import verify
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import run as running

Use = Callable[..., None]
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def use(monkeypatch: Patch) -> Use:
    """Phases in small batches and without a helper; call it to change more of every plan."""
    made = running.plan_of

    def change(**fields: Any) -> None:
        fields = {"engine": "phases", "dtype": "float32", "helper": False, "batch": 3, **fields}
        monkeypatch.setattr(running, "plan_of", lambda facts, options: replace(made(facts, options), **fields))

    change()
    return change


def decide(
    network: onnx.ModelProto, sizes: tuple[int, int], asserts: list[Row | Tree], path: Path, **more: Any
) -> Result:
    file = write(path / "p.vnnlib", *sizes, asserts)
    options = Options(attack=False, deadline=time.monotonic() + more.get("seconds", 20.0), device="cpu")
    return verify(network, file, options)


def run(layers: Layers, asserts: list[Row | Tree], path: Path, **more: Any) -> Verdict:
    return decide(model(layers), (layers[0][0].shape[0], layers[-1][0].shape[1]), asserts, path, **more).verdict


def check(verdict: Verdict, layers: Layers, asserts: list[Row | Tree]) -> bool:
    """Whether it was decided; a wrong verdict fails."""
    if verdict in (Verdict.SAT, Verdict.UNSAT):
        assert verdict.value == truth(layers, asserts)
    return verdict in (Verdict.SAT, Verdict.UNSAT)
