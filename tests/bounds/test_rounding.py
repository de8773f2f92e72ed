"""Every bound holds in exact arithmetic, on networks built to provoke rounding; without its rounding
terms the same code is caught."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from bounds_check import Exact, interval_violations, row_violations, truth
from crafted import NETS, boxes, charges_vanish, f32, points
from exact_graph import Build, exact
from mutants import MUTANTS, Patch

from verinn.bounds.domain import bound_rows, relax
from verinn.bounds.rounding import cast_down, cast_up, centre, exact_kernels, gamma, outward, sum_slack, unit
from verinn.ir.graph import Graph
from verinn.ops.program import Program

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64]
SEEDS = (0, 1)
#: in these dtypes weights overflow or coefficients do: no bound is finite, and none is wrong
BLIND = {("subnormal", torch.float32), ("underflow64", torch.float32)}

Instance = tuple[Graph, np.ndarray, np.ndarray, Exact]


@cache
def instance(name: str, seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    graph = NETS[name](rng)
    lower, upper = boxes(rng, sum(int(np.prod(value.shape)) for value in graph.inputs))
    return graph, lower, upper, truth(graph, lower, upper, rng, 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_intervals_hold_exactly(name: str, dtype: torch.dtype) -> None:
    for seed in SEEDS:
        for refine in (True, False):
            assert interval_violations(*instance(name, seed), dtype, refine) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_linear_forms_hold_exactly(name: str, dtype: torch.dtype) -> None:
    for seed in SEEDS:
        for alphas, mixed in ((False, False), (True, False), (False, True), (True, True)):
            rng = np.random.default_rng(100 + seed)
            bad, finite = row_violations(*instance(name, seed), dtype, rng, alphas=alphas, mixed=mixed)
            assert bad == []
            assert finite == 21 or (name, dtype) in BLIND


@pytest.mark.parametrize(("dtype", "size", "scale"), [(torch.float32, 1e-20, 1e37), (torch.float64, 1e-155, 1e300)])
def test_a_charge_that_underflows_is_still_charged(dtype: torch.dtype, size: float, scale: float) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        graph = charges_vanish(rng, size)
        lower, upper = (end * size for end in boxes(rng, 4))
        if dtype == torch.float32:
            lower, upper = f32(lower), f32(upper)
        known = truth(graph, lower, upper, rng, 8)
        bad, finite = row_violations(graph, lower, upper, known, dtype, rng, mixed=False, scale=scale)
        assert bad == [] and finite == 21


def caught(dtype: torch.dtype) -> bool:
    """Whether any bound of any crafted network is wrong."""
    for name in NETS:
        for seed in SEEDS:
            case = instance(name, seed)
            if any(interval_violations(*case, dtype, refine) for refine in (False, True)):
                return True
            if row_violations(*case, dtype, np.random.default_rng(seed), mixed=False)[0]:
                return True
    return False


@pytest.mark.parametrize(
    ("mutant", "dtype"),
    [(mutant, dtype) for mutant, dtypes in MUTANTS for dtype in dtypes],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_without_rounding_the_same_code_is_caught(
    mutant: Callable[[Patch], None], dtype: torch.dtype, monkeypatch: Patch
) -> None:
    mutant(monkeypatch)
    assert caught(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_everything_removed_is_caught_on_every_network(dtype: torch.dtype, monkeypatch: Patch) -> None:
    MUTANTS[0][0](monkeypatch)
    for name in NETS:
        case = instance(name, 0)
        assert interval_violations(*case, dtype, False), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_inexact_offset_costs_its_error_only(dtype: torch.dtype) -> None:
    """Behind a shift by 0.1 a bound is as wide as the box and a few units in the last place."""
    for op, params, attrs in (
        ("shift", {"offset": np.asarray([0.1, -0.3])}, {}),
        ("pad", {}, {"pads": (1, 0), "value": 0.1}),
    ):
        b = Build((2,))
        name = b.add(op, "x0", params=params, **attrs)
        program = Program.prepare(b.graph(), dtype)
        box = torch.tensor([[1.0, 1.0]], dtype=dtype)
        relaxation = relax(program, box, box)
        low, high = relaxation.intervals[name]
        assert bool(((high - low) < 1e-5).all())
        row = torch.ones((1, 1, *program.shapes[name]), dtype=dtype)
        least = bound_rows(relaxation, {name: row}, torch.zeros((1, 1), dtype=torch.float64)).minimum(box, box)
        assert float(least) > float(low.sum()) - 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_tools_are_exact(dtype: torch.dtype) -> None:
    """Casts, centres and outward ends, against rationals."""
    rng = np.random.default_rng(5)
    wide = torch.from_numpy(rng.normal(size=400) * 10.0 ** rng.uniform(-46, 39, 400))
    for down, up, x in zip(cast_down(wide, dtype), cast_up(wide, dtype), wide, strict=True):
        assert float(down) <= float(x) <= float(up)
    one, two = wide[:200].to(dtype), wide[200:].to(dtype)
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    ok = low.isfinite() & high.isfinite() & (high - low).isfinite()
    low, high = low[ok], high[ok]
    c, r = (exact(t.double().numpy()) for t in centre(low, high))
    assert np.all(c - r <= exact(low.double().numpy())) and np.all(c + r >= exact(high.double().numpy()))
    total = low + high
    true = exact(low.double().numpy()) + exact(high.double().numpy())
    lower, upper = outward(total, total)
    assert np.all(exact(lower.double().numpy()) <= true) and np.all(true <= exact(upper.double().numpy()))
    for terms in (1, 7, 1000, 10**6):
        assert gamma(terms, dtype) >= terms * unit(dtype)
        assert sum_slack(terms, dtype) >= 1
    assert gamma(2**60, dtype) == np.inf


def test_boxes_of_every_kind_are_tried() -> None:
    rng = np.random.default_rng(0)
    lower, upper = boxes(rng, 5)
    assert np.all(lower <= upper) and np.any(np.all(lower == upper, axis=1))
    assert np.any((lower < 0) & (upper > 0)) and np.any((np.abs(lower) < 1e-38) & (lower != 0))
    corners = points(rng, lower[0], upper[0], 4)
    assert all(
        float(low) <= float(x) <= float(high) for low, x, high in zip(lower[0], corners[3], upper[0], strict=True)
    )


@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_only_kernels_that_the_model_covers(wanted: str) -> None:
    """Whatever the program around us asked for; and that is put back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        with exact_kernels():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cudnn.enabled
        assert torch.get_float32_matmul_precision() == wanted
    finally:
        torch.set_float32_matmul_precision(before)
