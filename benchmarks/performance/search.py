"""Domains per second of the whole branch and bound, on the shipped example and on networks of real size.

The attack is off: it would end some searches before they begin. Every property asks for a value of one
output that lies below what descent finds, by a quarter of what it gained: too low to be reached at once, and too
close to be refuted at the root, whatever bounds are used. The larger searches run until time is up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.performance.networks import NETWORKS
from benchmarks.performance.rows import Row
from benchmarks.performance.timing import Settings
from verinn.api import verify
from verinn.io.onnx_reader import read_graph
from verinn.io.vnnlib import read_query
from verinn.ops.program import Program
from verinn.options import Options
from verinn.passes.property import to_property
from verinn.result import Result

DIGITS = Path(__file__).resolve().parents[1] / "digits"
BEYOND = 0.25  # how far below the least value found, as a share of what descent gained
STEPS = 40  # of the descent


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, and a box of it: ``radius`` around ``centre``."""

    name: str
    model: onnx.ModelProto
    centre: np.ndarray
    radius: float


def problems(settings: Settings) -> Iterator[Problem]:
    """The shipped networks around a test image each, then the synthetic ones."""
    for name, image, radius in (("dense", "dense_1500_unsat", 0.3), ("conv", "conv_1600_unsat", 0.15)):
        if settings.wants(f"digits {name}"):
            box = to_property(read_query(DIGITS / "vnnlib" / f"{image}.vnnlib")).cases[0]
            model = onnx.load(str(DIGITS / "onnx" / f"digits_{name}.onnx"))
            yield Problem(f"digits {name}", model, (box.lower + box.upper) / 2, radius)
    for case in NETWORKS:
        if settings.wants(case.name):
            net = case.make()
            centre = np.random.default_rng(3).uniform(0.2, 0.8, net.inputs)
            yield Problem(case.name, net.model(), centre, 0.03)


def search(settings: Settings) -> Iterator[Row]:
    """One row for each problem."""
    for problem in problems(settings):
        with tempfile.TemporaryDirectory(prefix="verinn-performance-") as folder:
            path = Path(folder) / "property.vnnlib"
            path.write_text(property_of(problem))
            yield _timed(problem, path, settings)


def _timed(problem: Problem, prop: Path, settings: Settings) -> Row:
    deadline = time.monotonic() + settings.search_seconds
    threads = torch.get_num_threads()
    options = Options(deadline=deadline, device=settings.device, attack=False, threads=threads)
    return _row(problem.name, verify(problem.model, prop, options), settings)


def _row(name: str, result: Result, settings: Settings) -> Row:
    domains, seconds = int(result.statistics["domains"]), float(result.statistics["seconds"])
    plan = result.plan["plan"]
    return Row(
        group="search",
        case=name,
        operation="branch and bound",
        dtype=plan["dtype"],
        device=settings.device,
        domains=domains,
        repeats=1,
        seconds=seconds,
        fastest=seconds,
        domains_per_second=domains / max(seconds, 1e-9),
        note=result.verdict.value,
    )


def property_of(problem: Problem) -> str:
    """VNN-LIB 1.0: the box, and a low value of the first output."""
    program = Program.prepare(read_graph(problem.model), torch.float64)
    n = len(problem.centre)
    lower, upper = problem.centre - problem.radius, problem.centre + problem.radius
    start, least = _descend(program, torch.from_numpy(lower), torch.from_numpy(upper))
    wanted = least - BEYOND * (start - least)
    lines = [f"(declare-const X_{i} Real)" for i in range(n)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(program.shapes[program.graph.outputs[0].value][-1])]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {low:.6f}))", f"(assert (<= X_{i} {high:.6f}))"]
    return "\n".join([*lines, f"(assert (<= Y_0 {wanted:.4f}))"]) + "\n"


def _descend(program: Program, lower: torch.Tensor, upper: torch.Tensor) -> tuple[float, float]:
    """The first output at the box's centre, and the least value that signed gradient steps find."""
    x = ((lower + upper) / 2).unsqueeze(0)
    values = []
    for step in range(STEPS):
        x.requires_grad_(True)
        y = program.flat(x)[0, 0]
        values.append(float(y.detach()))
        (slope,) = torch.autograd.grad(y, x)
        size = (upper - lower) * (0.25 * (1 - step / STEPS))
        x = torch.minimum(torch.maximum(x.detach() - size * slope.sign(), lower), upper)
    return values[0], min(values)
