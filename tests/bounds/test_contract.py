"""Contraction: no point that fulfils the rows is ever lost, in exact arithmetic; and what it should find it finds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from bounds_check import Exact, tensors, truth
from crafted import NETS, boxes, f32, layer
from exact_graph import Build, exact
from mutants import MUTANTS

from verinn.bounds import contract as contract_module
from verinn.bounds.contract import Contractor, Rows, contract
from verinn.bounds.domain import relax
from verinn.ir.graph import Graph
from verinn.ops.program import Program

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64]
Instance = tuple[Graph, np.ndarray, np.ndarray, Exact]
Values = dict[str, np.ndarray]


@cache
def instance(name: str, seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    graph = NETS[name](rng)
    lower, upper = boxes(rng, sum(int(np.prod(value.shape)) for value in graph.inputs))
    return graph, lower, upper, truth(graph, lower, upper, rng, 6)


def side_by_side(values: Values, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([values[name].reshape(-1) for name in names])


def level(row: np.ndarray, v: np.ndarray) -> float:
    """The greatest c with row·v + c ≤ 0, exactly."""
    limit = -(exact(row) @ v)
    value = float(np.clip(float(limit), -1e300, 1e300)) if abs(limit) < Fraction(10) ** 300 else -1e300
    return value if Fraction(value) <= limit else float(np.nextafter(value, -np.inf))


def lost(case: Instance, dtype: torch.dtype, rng: np.random.Generator, rows: int = 2) -> list[str]:
    """Points that fulfil all rows and are not in what contraction leaves. The rows are tight at one point each."""
    graph, lower, upper, known = case
    names = tuple(out.value for out in graph.outputs) + tuple(value.name for value in graph.inputs)
    program = Program.prepare(graph, dtype)
    contractor = Contractor.prepare(program)
    assert contractor is not None
    box = relax(program, *tensors(lower, upper, dtype), refine=False).intervals
    width = len(side_by_side({**known[0][0]}, names))
    a, c = rng.normal(size=(len(lower), rows, width)), np.empty((len(lower), rows))
    outputs = sum(known[0][0][out.value].size for out in graph.outputs)
    a[:, :, outputs:] *= rng.integers(0, 2)  # rows over outputs alone, or over inputs, too
    for d, here in enumerate(known):
        for r in range(rows):
            least = min(here, key=lambda values: exact(a[d, r]) @ side_by_side(values, names))
            c[d, r] = level(a[d, r], side_by_side(least, names))
    with torch.no_grad():
        after, empty = contract(contractor, box, Rows(names, torch.from_numpy(a), torch.from_numpy(c)), 4)
    bad = []
    for d, here in enumerate(known):
        for values in here:
            v = side_by_side(values, names)
            if any(exact(a[d, r]) @ v + Fraction(c[d, r]) > 0 for r in range(rows)):
                continue
            if bool(empty[d]):
                bad.append(f"box {d} is not empty")
            bad += [f"{name} box {d}" for name, ends in after.items() if not inside(values[name], ends, d)]
    return bad


def inside(value: np.ndarray, ends: tuple[torch.Tensor, torch.Tensor], d: int) -> bool:
    low, high = (end.expand(d + 1, *end.shape[1:])[d] if len(end) == 1 else end[d] for end in ends)
    # an end that is not a number says nothing
    pairs = zip(low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True)
    return not any(v < a or v > b for (a, b), v in zip(pairs, value.reshape(-1), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_no_point_that_fulfils_the_rows_is_lost(name: str, dtype: torch.dtype) -> None:
    for seed in (0, 1):
        for rows in (1, 2):
            assert lost(instance(name, seed), dtype, np.random.default_rng(7 + seed), rows) == []


def chain(rng: np.random.Generator, scale: float) -> Instance:
    """Nets whose rows decide every value before them, so that each rounding counts."""
    b = Build((4,))
    weight = np.abs(f32(rng.normal(size=(4, 4)))) * rng.choice([-1, 1], (4, 1)) * scale
    h = b.add("relu", layer(b, "x0", f32(weight), f32(rng.normal(size=4) * scale)))
    h = b.add("leaky_relu", layer(b, h, f32(np.abs(rng.normal(size=(4, 4))))), alpha=0.3)
    h = b.add("clip", layer(b, h, f32(np.abs(rng.normal(size=(4, 4))) / scale)), lower=-0.1, upper=1e30)
    h = b.add("abs", layer(b, h, f32(np.abs(rng.normal(size=(4, 4))))))
    layer(b, h, f32(np.abs(rng.normal(size=(4, 1)))))
    graph = b.graph()
    lower, upper = boxes(rng, 4)
    return graph, lower, upper, truth(graph, lower, upper, rng, 6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_huge_and_tiny_scales(scale: float, dtype: torch.dtype) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        assert lost(chain(rng, scale), dtype, rng, 1) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_rounding_the_same_code_is_caught(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of sums must lose theirs, too: what they are rounded by nearly covers the way back."""
    MUTANTS[0][0](monkeypatch)
    monkeypatch.setattr(contract_module, "ulps", lambda x, count: torch.zeros_like(x))
    monkeypatch.setattr(contract_module, "_above", lambda high, low: (high - low).clamp(min=0))
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found += lost(chain(rng, 1.0), dtype, rng, 1)
    assert found


def clauses(dtype: torch.dtype, *signs: Sequence[int]) -> tuple[Contractor, dict[str, tuple[torch.Tensor, ...]]]:
    """A network that sums relu(1 − Σ literals) over clauses of inputs in [0, 1]."""
    n = len(signs[0])
    b = Build((n,))
    weight = -np.asarray(signs, dtype=np.float64).T
    bias = 1 - (weight > 0).sum(0)
    h = b.add("relu", layer(b, "x0", weight, bias.astype(np.float64)))
    layer(b, h, np.ones((len(signs), 1)))
    program = Program.prepare(b.graph(), dtype)
    contractor = Contractor.prepare(program)
    assert contractor is not None
    box = torch.zeros((1, n), dtype=dtype), torch.ones((1, n), dtype=dtype)
    return contractor, dict(relax(program, *box, refine=False).intervals)  # type: ignore[arg-type]


def zero_rows(contractor: Contractor) -> Rows:
    name = contractor.program.graph.outputs[0].value
    return Rows((name,), torch.ones((1, 1, 1), dtype=torch.float64), torch.zeros((1, 1), dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_propagates_units(dtype: torch.dtype) -> None:
    """a; a → b; b → ¬c: the inputs are decided, up to rounding; with c, too, there is no input."""
    chain_of = [[1, 0, 0], [-1, 1, 0], [0, -1, -1]]
    contractor, box = clauses(dtype, *chain_of)
    after, empty = contract(contractor, box, zero_rows(contractor), 8)  # type: ignore[arg-type]
    low, high = after["x0"]
    assert not bool(empty.any()) and bool(((high - low) < 1e-4).all())
    assert torch.allclose(low, torch.tensor([[1.0, 1.0, 0.0]], dtype=dtype), atol=1e-4)
    contractor, box = clauses(dtype, *chain_of, [0, 0, 1])
    assert bool(contract(contractor, box, zero_rows(contractor), 8)[1].all())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_batch_is_contracted_like_its_parts(dtype: torch.dtype) -> None:
    graph, lower, upper, _ = instance("bent", 0)
    program = Program.prepare(graph, dtype)
    contractor = Contractor.prepare(program)
    assert contractor is not None
    box = relax(program, *tensors(lower, upper, dtype), refine=False).intervals
    name = graph.outputs[0].value
    a = torch.randn((len(lower), 1, box[name][0][0].numel()), generator=torch.Generator().manual_seed(0)).double()
    rows = Rows((name,), a, torch.zeros((len(lower), 1), dtype=torch.float64))
    together, empty = contract(contractor, box, rows)
    for d in range(len(lower)):
        pick = torch.tensor([d])
        one, void = contract(contractor, {k: (p[pick], q[pick]) for k, (p, q) in box.items()}, rows.select(pick))
        assert bool(void) == bool(empty[d])
        if not bool(void):
            assert all(torch.allclose(one[k][0][0], together[k][0][d]) for k in one)


def test_unbounded_values_and_nan_prove_nothing() -> None:
    contractor, box = clauses(torch.float64, [1, 1], [-1, 0])
    for bad in (torch.inf, torch.nan):
        wide = {name: (torch.full_like(low, -bad), torch.full_like(high, bad)) for name, (low, high) in box.items()}
        after, empty = contract(contractor, wide, zero_rows(contractor), 3)  # type: ignore[arg-type]
        assert not bool(empty.any())
        assert not any(bool((low > 0.5).any()) for name, (low, _) in after.items() if name == "x0")


def test_a_large_program_has_no_contractor() -> None:
    contractor, _ = clauses(torch.float64, [1, 1], [-1, 0])
    assert Contractor.prepare(contractor.program, 5) is None


def test_rows_with_inexact_coefficients_are_weakened() -> None:
    """1·y ≤ −1/2 on y ≥ −1: with an error of a half, y = −1 fulfils (1/2)·y ≤ −1/2."""
    b = Build((1,))
    name = layer(b, "x0", np.ones((1, 1)))
    program = Program.prepare(b.graph(), torch.float64)
    contractor = Contractor.prepare(program)
    assert contractor is not None
    box = relax(program, torch.tensor([[-1.0]]).double(), torch.tensor([[1.0]]).double()).intervals
    one = torch.ones((1, 1, 1), dtype=torch.float64)
    for error, most in ((None, -0.5), (one / 2, 0.0)):
        after, empty = contract(contractor, box, Rows((name,), one, one[0] / 2, error))
        assert not bool(empty) and abs(float(after["x0"][1]) - most) < 1e-9
