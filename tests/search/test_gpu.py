"""On a GPU both searches decide what they decide on the CPU, their bounds hold, and runs can be repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from search_brute import Layers, bounds, model, random_asserts, random_layers, row, write

from benchmarks.performance.networks import Builder
from verinn.api import verify
from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Pace, Rows, climb
from verinn.bounds.domain import relax
from verinn.bounds.dual import Frame, columns_of
from verinn.bounds.rounding import cast_down, cast_up, exact_kernels
from verinn.ops.program import Program
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import plan
from verinn.search import run as running

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ENGINES = ("boxes", "phases")
NETS = {
    "dense": lambda: Builder(20).dense(64).relu().dense(64).relu().dense(4),
    "conv": lambda: Builder(3, 8, 8).conv(8, 3, 2, 1).relu().conv(8, 3, 1, 1).relu().dense(4),
    "residual": lambda: Builder(3, 8, 8).conv(8, 3, 1, 1).relu().residual(8).relu().dense(4),
    "pool": lambda: Builder(1, 8, 8).conv(4, 3, 1, 1).relu().max_pool(2).dense(16).relu().dense(4),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every plan has this engine, in small batches."""
    made = running.plan_of

    def fixed(facts: plan.Facts, options: Options) -> plan.Plan:
        return replace(made(facts, options), engine=request.param, batch=8, dtype="float32", helper=False)

    monkeypatch.setattr(running, "plan_of", fixed)
    return str(request.param)


def decide(network: onnx.ModelProto, file: Path, device: str, attack: bool = False, seconds: float = 60.0) -> Result:
    options = Options(attack=attack, deadline=time.monotonic() + seconds, device=device, threads=1)
    return verify(network, file, options)


def instances(shape: str, path: Path, count: int = 4) -> Iterator[tuple[Layers, Path]]:
    for seed in range(count):
        rng = np.random.default_rng([seed, 11])
        layers = random_layers(rng, (2, 6, 5, 2))
        yield layers, write(path / f"{seed}.vnnlib", 2, 2, random_asserts(rng, shape, layers, False))


@pytest.mark.parametrize("shape", ["one", "conjunction", "disjunction", "cases", "mixed", "region"])
def test_verdicts_are_those_of_the_cpu(shape: str, engine: str, tmp_path: Path) -> None:
    decided = 0
    for layers, file in instances(shape, tmp_path):
        expected = decide(model(layers), file, "cpu", seconds=1.0).verdict
        if expected is Verdict.TIMEOUT:  # a tie, which halving boxes doesn't decide
            continue
        decided += 1
        for attack in (False, True):
            assert decide(model(layers), file, "cuda", attack).verdict is expected
    assert decided


@pytest.mark.parametrize(("margin", "expected"), [(-1.0, Verdict.UNSAT), (0.05, Verdict.SAT)])
def test_image_networks_are_decided(margin: float, expected: Verdict, engine: str, tmp_path: Path) -> None:
    """In a small box the least output is about that of the points sampled."""
    for name in ("dense", "conv", "residual", "pool"):
        made, network = NETS[name](), NETS[name]().model()
        x = torch.from_numpy(np.random.default_rng(4).uniform(-1 / 128, 1 / 128, (2000, made.inputs)))
        least = float(Program.prepare(made.graph(), torch.float64).flat(x)[:, 0].min())
        level = np.floor((least + margin) * 1024) / 1024
        box = bounds([-1 / 128] * made.inputs, [1 / 128] * made.inputs)
        file = write(tmp_path / f"{name}.vnnlib", made.inputs, 4, [*box, row("<=", level, (1, "Y_0"))])
        assert decide(network, file, "cuda", attack=expected is Verdict.SAT).verdict is expected, name


def test_runs_can_be_repeated(engine: str, tmp_path: Path) -> None:
    for layers, file in instances("conjunction", tmp_path):
        if decide(model(layers), file, "cpu", seconds=1.0).verdict is Verdict.TIMEOUT:
            continue
        runs = [decide(model(layers), file, "cuda") for _ in range(3)]
        assert len({run.verdict for run in runs}) == 1
        assert len({run.statistics["domains"] for run in runs}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("net", NETS)
def test_bounds_contain_what_is_sampled(net: str, dtype: torch.dtype) -> None:
    """Intervals and climbed bounds from the GPU, against values of float64 on the CPU."""
    graph = NETS[net]().graph()
    program, exact = Program.prepare(graph, dtype, "cuda"), Program.prepare(graph, torch.float64)
    n, rng = int(np.prod(graph.inputs[0].shape)), np.random.default_rng(5)
    centre = torch.from_numpy(rng.uniform(-1, 1, (1, n)))
    lower, upper = centre - 0.05, centre + 0.05
    x = lower + (upper - lower) * torch.from_numpy(rng.integers(0, 5, (500, n)) / 4)
    values = exact.run([x.reshape(-1, *graph.inputs[0].shape)])
    with torch.no_grad(), exact_kernels():
        ends = cast_down(lower.cuda(), dtype), cast_up(upper.cuda(), dtype)
        relaxation = relax(program, *ends)
        least = _climbed(relaxation, ends).cpu()
    for name, (low, high) in relaxation.intervals.items():
        slack = 1e-12 * (1 + values[name].abs())  # of the sampled values' own rounding
        assert bool((values[name] >= low.cpu().double() - slack).all())
        assert bool((values[name] <= high.cpu().double() + slack).all())
    assert bool((values[graph.outputs[0].value].flatten(1) >= least - 1e-12).all())


def _climbed(relaxation: Any, ends: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Certified lower bounds of the outputs, one climb for each."""
    program = relaxation.program
    columns = columns_of(relaxation)
    low = columns.gather({name: relaxation.intervals[name][0] for name in columns.sources})
    high = columns.gather({name: relaxation.intervals[name][1] for name in columns.sources})
    out = program.graph.outputs[0].value
    index = torch.arange(torch.Size(program.shapes[out]).numel(), device="cuda")
    none, size = low.new_zeros((len(index), 0)), len(index)
    rows = Rows(low, high, none.long(), none, none.bool()[:1], out, index, torch.ones_like(index).to(low.dtype))
    first = Multipliers(torch.full((size, columns.count), 0.5, dtype=low.dtype, device="cuda"), none, none)
    goals: Goals | None = None
    _, found, _ = climb(Frame.of(relaxation, *ends, columns), goals, rows, first, Pace(10), torch.inf)
    form = certified(relaxation, columns, goals, rows, found)
    return form.minimum(*ends)[:, 0]


@contextmanager
def _tf32() -> Iterator[None]:
    """As somebody may have set it before a run."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_tf32_within_a_run(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a product whose error would be a thousand times greater."""
    errors: list[float] = []
    real = running.Run._searched

    def measured(run: Any, *given: Any) -> Any:
        a = torch.from_numpy(np.random.default_rng(6).uniform(0.5, 1.0, (256, 256))).cuda()
        errors.append(float(((a.float() @ a.float()).double() / (a @ a) - 1).abs().max()))
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.enabled
        return real(run, *given)

    monkeypatch.setattr(running.Run, "_searched", measured)
    (layers, file) = next(instances("one", tmp_path))
    with _tf32():
        decide(model(layers), file, "cuda")
        assert torch.get_float32_matmul_precision() == "high"
    assert errors and max(errors) < 1e-5
