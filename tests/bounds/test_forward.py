"""Forward linear bounds hold in exact arithmetic, on the networks that provoke rounding and on curved ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from bounds_check import Exact, interval_violations, truth
from crafted import NETS, boxes
from exact_graph import Build

from verinn.bounds import domain, forward
from verinn.bounds.domain import relax
from verinn.bounds.forward import too_dear
from verinn.ir.graph import Graph
from verinn.ops.program import Program

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64]
Patch = pytest.MonkeyPatch


@cache
def instance(name: str) -> tuple[Graph, np.ndarray, np.ndarray, Exact]:
    rng = np.random.default_rng(0)
    graph = NETS[name](rng)
    lower, upper = boxes(rng, sum(int(np.prod(value.shape)) for value in graph.inputs))
    return graph, lower, upper, truth(graph, lower, upper, rng, 8)


def alone(patch: Patch) -> None:
    """Forward bounds always, and no backward pass beside them; nor intervals."""
    patch.setattr(domain, "too_dear", lambda program: dict.fromkeys(program.shapes, -1.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_forward_bounds_hold_exactly(name: str, dtype: torch.dtype, monkeypatch: Patch) -> None:
    alone(monkeypatch)
    monkeypatch.setattr(domain, "_meet", lambda one, other: other)
    assert interval_violations(*instance(name), dtype, True) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_rounding_forward_bounds_are_caught(dtype: torch.dtype, monkeypatch: Patch) -> None:
    alone(monkeypatch)
    monkeypatch.setattr(domain, "_meet", lambda one, other: other)
    monkeypatch.setattr(forward, "gamma", lambda terms, dtype: 0.0)
    monkeypatch.setattr(forward, "tiny", lambda dtype: 0.0)
    assert any(interval_violations(*instance(name), dtype, True) for name in NETS)


def curved(rng: np.random.Generator) -> Graph:
    b = Build((4,))
    x = b.add("linear", "x0", params={"weight": rng.normal(size=(4, 6)), "bias": rng.normal(size=6)})
    y = b.add("tanh", x)
    z = b.add("mul", y, x)
    b.add("sin", z)
    s = b.add("linear", "n3", params={"weight": rng.normal(size=(6, 5))})
    t = b.add("softmax", s, axis=0)
    b.add("mul", t, t)
    return b.graph(*[f"n{k}" for k in range(7)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_bounds_of_curves_and_products_hold(dtype: torch.dtype, monkeypatch: Patch) -> None:
    alone(monkeypatch)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        program = Program.prepare(curved(rng), dtype)
        middle = torch.from_numpy(rng.normal(size=(8, 4))).to(dtype)
        width = torch.from_numpy(10.0 ** rng.uniform(-4, 0, (8, 1))).to(dtype)
        lower, upper = middle - width, middle + width
        with torch.no_grad():
            found = relax(program, lower, upper).intervals
            plain = relax(program, lower, upper, refine=False).intervals
        part = torch.from_numpy(rng.random((300, 8, 4)))
        part[:100] = part[:100].round()
        x = lower.double() + (upper.double() - lower.double()) * part
        values = Program.prepare(program.graph, torch.float64).run([x.flatten(0, 1)])
        for name, (low, high) in found.items():
            v = values[name].unflatten(0, (300, 8))
            slack = 1e-12 * (1 + v.abs())
            assert bool((low.double() <= v + slack).all()) and bool((v - slack <= high.double()).all()), name
        narrow = (found["n4"][1] - found["n4"][0]) < 0.8 * (plain["n4"][1] - plain["n4"][0])
        assert seed or bool(narrow.any())


def test_small_networks_and_many_inputs_have_none() -> None:
    small = Program.prepare(curved(np.random.default_rng(0)), torch.float64)
    assert too_dear(small) is None
    b = Build((40,))
    b.add("linear", "x0", params={"weight": np.ones((40, 20000))})
    b.add("relu", "n0")
    assert too_dear(Program.prepare(b.graph(), torch.float32)) is None
