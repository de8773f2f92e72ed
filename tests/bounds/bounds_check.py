"""What a sound bound must satisfy, checked exactly: returns the violations found."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import torch
from crafted import points
from exact_graph import exact, run, somewhere

from verinn.bounds.domain import bound_rows, relax, split_inputs
from verinn.ir.graph import Graph
from verinn.ops.program import Program, Step

Exact = list[list[dict[str, np.ndarray]]]  # by box, by point


def truth(graph: Graph, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator, count: int) -> Exact:
    """Exact values at points of each box; inexact weights are somewhere within their errors."""
    sizes = [int(np.prod(value.shape)) for value in graph.inputs]
    found: Exact = []
    for low, high in zip(lower, upper, strict=True):
        here = []
        for number, x in enumerate(points(rng, low, high, count)):
            values = run(graph, np.split(x, np.cumsum(sizes)[:-1]), somewhere(random.Random(number % 3)))
            here.append({**values, "x": x})
        found.append(here)
    return found


def slots_of(step: Step) -> tuple[int, ...]:
    """The shape of a step's parameters, without the axis of domains."""
    slots = getattr(step.op, "slots", 1)
    return step.node.shape if slots <= 1 else (slots, *step.node.shape)


def tensors(lower: np.ndarray, upper: np.ndarray, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(lower).to(dtype), torch.from_numpy(upper).to(dtype)


def interval_violations(
    graph: Graph, lower: np.ndarray, upper: np.ndarray, known: Exact, dtype: torch.dtype, refine: bool
) -> list[str]:
    program = Program.prepare(graph, dtype)
    with torch.no_grad():
        relaxation = relax(program, *tensors(lower, upper, dtype), refine=refine)
    bad = []
    for name, (low, high) in relaxation.intervals.items():
        low, high = low.expand(len(lower), *low.shape[1:]), high.expand(len(lower), *high.shape[1:])
        for box, here in enumerate(known):
            ends = list(zip(low[box].reshape(-1).tolist(), high[box].reshape(-1).tolist(), strict=True))
            for values in here:
                for (a, b), v in zip(ends, values[name].reshape(-1), strict=True):
                    if v < a or v > b:  # comparisons of Fraction with float are exact
                        bad.append(f"{name} box {box}: {float(v)!r} is not in [{a!r}, {b!r}]")
    return bad


def row_violations(
    graph: Graph,
    lower: np.ndarray,
    upper: np.ndarray,
    known: Exact,
    dtype: torch.dtype,
    rng: np.random.Generator,
    refine: bool = True,
    alphas: bool = False,
    mixed: bool = True,
    scale: float = 1.0,
) -> tuple[list[str], int]:
    """Violations of linear forms below rows over the last value, and how many rows were finite."""
    program = Program.prepare(graph, dtype)
    low, high = tensors(lower, upper, dtype)
    last = graph.outputs[0].value
    shape = program.shapes[last]
    size, n = int(np.prod(shape)), lower.shape[1]
    rows = torch.from_numpy(rng.normal(size=(1, 3, size)) * scale).to(dtype)
    rows[0, 0] = (torch.arange(size) == 0).double() * scale
    rows[0, 1] = -rows[0, 0]
    c = torch.from_numpy(rng.normal(size=(1, 3))) * (scale == 1)
    start = {last: rows.unflatten(-1, shape)}
    own = torch.from_numpy(rng.normal(size=(3, n))).float().to(dtype)  # and terms in the inputs themselves
    if mixed:
        start.update({k: v.unsqueeze(0) for k, v in split_inputs(program, own).items()})
    with torch.no_grad():
        relaxation = relax(program, low, high, refine=refine)
        if alphas:
            relaxation.alphas = {
                step.node.name: torch.from_numpy(rng.uniform(size=(len(lower), *slots_of(step)))).to(dtype)
                for step in program.steps
                if not step.affine
            }
        form = bound_rows(relaxation, start, c)
        least = form.minimum(low, high)
        form = form.exact(low, high)
    bad, finite = [], 0
    own_terms = exact(own.double().numpy()) if mixed else exact(np.zeros((3, n)))
    weights, constants = exact(rows[0].double().numpy()), exact(c[0].numpy())
    a, offset = form.a.double().expand(len(lower), 3, n), form.c.expand(len(lower), 3)
    for box, here in enumerate(known):
        for r in range(3):
            usable = bool(a[box, r].isfinite().all() and offset[box, r].isfinite())
            finite += usable
            slope = exact(a[box, r].numpy()) if usable else None
            bound = float(least[box, r])
            for values in here:
                x = values["x"]
                value = np.dot(weights[r], values[last].reshape(-1)) + np.dot(own_terms[r], x) + constants[r]
                if bound > value:
                    bad.append(f"minimum, box {box} row {r}: {bound!r} > {float(value)!r}")
                if usable and np.dot(slope, x) + Fraction(float(offset[box, r])) > value:
                    bad.append(f"form, box {box} row {r} lies above {float(value)!r}")
    return bad, finite
