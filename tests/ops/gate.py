"""The gate: single operators over random boxes, every bound against exact values.

By hand, with as many boxes as wanted: ``python tests/ops/gate.py --boxes 3000 [op …]``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # beside its neighbours, as pytest has it
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "bounds")]

import mpmath
import numpy as np
import torch
from exact_graph import KNOWN, exact
from exact_graph import run as run_exactly
from ops_cases import CASES
from ops_referee import exactly, value
from torch import Tensor

from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import bound_rows, relax
from verinn.bounds.optimise import guessed, slotted
from verinn.ir.graph import Graph
from verinn.ops.program import Program
from verinn.ops.registry import OPS

#: boxes of one graph
BATCH = 10
#: digits of the referee where values aren't rational
DIGITS = 60

PI = math.pi
#: where an operator is special, beside zero
SPECIAL: dict[str, tuple[float, ...]] = {
    "clip": (-0.1, 0.7, 6.0, -1e-9),
    "hard_swish": (-3.0, 3.0, -1.5, -2.5),
    "gelu": (-0.7517915, -1.41421356, 1.41421356, -3.0, 5.0, -40.0),
    "gelu_tanh": (-0.7524614, -1.4185, 1.4185, -3.0, -12.0, 30.0),
    "silu": (-1.2784645, -2.39935728, 2.39935728, -6.0),
    "mish": (-1.1924312, -2.2563764, 1.4905712, -6.0, 40.0),
    "sin": (PI / 2, -PI / 2, PI, 2 * PI, 3 * PI / 2, -3 * PI, 100.0, 1e6, 1e8),
    "cos": (PI / 2, -PI / 2, PI, 2 * PI, 3 * PI / 2, -3 * PI, 100.0, 1e6, 1e8),
    "tan": (0.7, PI / 2, -PI / 2, PI, 2.0, 4.0, 50.0, 1e7),
    "exp": (80.0, -80.0, 710.0, -750.0, 5.0),
    "softplus": (80.0, -80.0, 5.0),
    "sigmoid": (20.0, -20.0, 90.0, -90.0),
    "tanh": (9.0, -9.0, 20.0),
    "erf": (4.0, -6.0, 0.5),
    "atan": (1.0, -10.0, 1e8),
    "log": (1.0, 1e-3, 1e-30, 50.0),
    "sqrt": (1.0, 1e-3, 1e-30, 50.0),
    "reciprocal": (1.0, -1.0, 1e-3, -1e-30, 50.0),
    "pow": (1.0, -1.0, 2.0, 1e-3, 1e-10, 30.0),
    "floor": (1.0, -1.0, 0.5, 7.0, -2.5),
    "ceil": (1.0, -1.0, 0.5, 7.0, -2.5),
    "round": (0.5, -0.5, 1.5, 2.5, 1.0, -7.5),
    "softmax": (1.0, 30.0, -80.0, -310.0, -1e9),
    "log_softmax": (1.0, 30.0, -80.0),
}
WIDTHS = (0.0, 1e-30, 1e-9, 1e-6, 1e-3, 0.1, 0.5, 1.0, 2.0, 4.0, 10.0, 100.0, 1e4)
#: the traps in which other verifiers were caught: operator, attributes, box
TRAPS: tuple[tuple[str, dict[str, float], float, float], ...] = (
    ("pow", {"exponent": 4.0}, 1.0, 3.0),
    ("pow", {"exponent": 4.0}, -3.0, -1.0),
    ("pow", {"exponent": 2.0}, -2.0, 3.0),
    ("tan", {}, 0.2, 1.2),
    ("tan", {}, -1.2, -0.2),
    ("tan", {}, 1.0, 2.0),
    ("log", {}, -1.0, 2.0),
    ("reciprocal", {}, -1.0, 2.0),
)


@dataclass
class Report:
    """What was tried of one operator, and what was wrong."""

    op: str
    boxes: int = 0
    checks: int = 0
    infinite: int = 0  # bounds that say nothing
    wrong: list[str] = field(default_factory=list)
    failed: tuple[Graph, np.ndarray, np.ndarray] | None = None  # the first graph, and the boxes (D, n), that were wrong
    seconds: float = 0.0


def ends(rng: np.random.Generator, op: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A box in float32: each element of its own kind, or all of one kind around one point."""
    points = [0.0, 0.0, *SPECIAL.get(op, (1.0, -2.5, 20.0)), float(rng.normal()), float(rng.normal() * 10)]
    together = rng.random() < 0.5
    size = () if together else shape
    centre = np.broadcast_to(rng.choice(points, size), shape) + 0.1 * (rng.random() < 0.3) * rng.normal(size=shape)
    width = np.broadcast_to(rng.choice(WIDTHS, size), shape) * np.where(rng.random() < 0.5, 1.0, rng.random(shape))
    lean = np.broadcast_to(rng.choice([0.0, 0.5, 1.0, rng.random()], size), shape)
    if rng.random() < 0.02:  # far away
        centre, width = centre + rng.choice([-1e30, 1e20, 1e8], shape), width * 1e7
    low, high = (np.asarray(end, dtype=np.float32) for end in (centre - lean * width, centre + (1 - lean) * width))
    if op in ("log", "sqrt", "pow", "reciprocal") and rng.random() < 0.7:  # most within the domain
        flip = -1 if op in ("reciprocal", "pow") and rng.random() < 0.3 else 1
        low, high = np.minimum(abs(low), abs(high)), np.maximum(abs(low), abs(high))
        low, high = (low, high) if flip > 0 else (-high, -low)
    return np.minimum(low, high), np.maximum(low, high)


def samples(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, op: str, count: int) -> list[np.ndarray]:
    """Points of a box as Fractions: corners, special points inside, and anywhere."""
    low, high = low.reshape(-1), high.reshape(-1)
    found = [exact(low), exact(high), exact(np.where(rng.random(low.shape) < 0.5, low, high))]
    for _ in range(count - 3):
        kind = rng.random()
        if kind < 0.35:
            inner = np.clip(rng.choice([0.0, *SPECIAL.get(op, (0.0,))], low.shape), low, high)
            inner = np.clip(inner + rng.normal(size=low.shape) * 10.0 ** rng.uniform(-9, -1), low, high)
            found.append(exact(inner))
        else:
            part = exact(rng.random(low.shape) ** rng.choice([1, 1, 8]))
            part = 1 - part if kind > 0.7 else part
            found.append(exact(low) + (exact(high) - exact(low)) * part)
    return found


def undefined(op: str, attrs: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Elements whose interval holds a point where the operator has no value."""
    if op == "log":
        return low <= 0
    if op == "sqrt":
        return low < 0
    if op == "reciprocal":
        return (low <= 0) & (high >= 0)
    if op == "pow":
        p = attrs["exponent"]
        if p.is_integer():
            return (low <= 0) & (high >= 0) & (p < 0)
        return (low < 0) | ((low <= 0) & (p < 0))
    if op == "tan":
        first, last = low.astype(np.float64) / PI + 0.5, high.astype(np.float64) / PI + 0.5
        return np.floor(first) != np.floor(last)
    return np.zeros(low.shape, dtype=bool)


def exact_values(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The value of a graph of one node at a point (n,) of Fractions, flattened; Fractions or mpf."""
    (node,) = graph.nodes
    sizes = [int(np.prod(v.shape)) for v in graph.inputs]
    parts = [p.reshape(v.shape) for p, v in zip(np.split(x, np.cumsum(sizes)[:-1]), graph.inputs, strict=True)]
    if node.op in KNOWN:
        return np.asarray(run_exactly(graph, parts)[node.name]).reshape(-1)
    xs = [parts[[v.name for v in graph.inputs].index(name)] for name in node.inputs]
    return np.asarray(value(node, xs, {}), dtype=object).reshape(-1)


def _mp(v: Any) -> Any:
    return exactly(v) if isinstance(v, Fraction) else v


def alphas_of(base: Relaxation, make: Any) -> dict[str, Tensor]:
    """Parameters for every nonlinear step, ``make`` given their shapes."""
    found = {}
    for step, slots in slotted(base.program):
        found[step.node.name] = make(guessed(base, step, slots).shape).to(base.program.dtype)
    return found


def climbed(
    program: Program, base: Relaxation, start: dict[str, Tensor], box: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Parameters after a few steps of ascent on the sum of finite bounds."""
    c = torch.zeros((1, 1), dtype=torch.float64)
    alphas = {k: v.requires_grad_() for k, v in alphas_of(base, lambda s: torch.full(s, 0.5)).items()}
    for _ in range(3):
        if not alphas:
            break
        relaxation = Relaxation(program, base.intervals, alphas)
        least = bound_rows(relaxation, start, c).minimum(*box)
        total = torch.where(least.isfinite(), least, 0.0).sum()
        if not total.requires_grad:
            break
        grads = torch.autograd.grad(total, list(alphas.values()), allow_unused=True)
        with torch.no_grad():
            for alpha, grad in zip(alphas.values(), grads, strict=True):
                if grad is not None:
                    alpha.add_(0.3 * grad.nan_to_num(0.0, 0.0, 0.0).sign()).clamp_(0, 1)
    return {k: v.detach() for k, v in alphas.items()}


def check_graph_boxes(
    rng: np.random.Generator, graph: Graph, low: np.ndarray, high: np.ndarray, report: Report, points: int = 7
) -> None:
    """All bounds of a graph of one node over boxes (D, n) of float32."""
    (node,) = graph.nodes
    batch, size = len(low), math.prod(node.shape)
    report.boxes += batch
    holes = undefined(node.op, node.attrs, low, high)
    xs = [samples(rng, *box, node.op, points) for box in zip(low, high, strict=True)]
    with mpmath.workdps(DIGITS):
        truth = [
            None if hole.any() and OPS[node.op] else [exact_values(graph, x) for x in some]
            for some, hole in zip(xs, holes, strict=True)
        ]
    picked = rng.permutation(size)[:3]
    rows = np.concatenate([np.eye(size)[picked], -np.eye(size)[picked], rng.normal(size=(2, size)).astype(np.float32)])
    for dtype in (torch.float32, torch.float64):
        program = Program.prepare(graph, dtype)
        box = torch.from_numpy(low).to(dtype), torch.from_numpy(high).to(dtype)
        start = {node.name: torch.from_numpy(rows).to(dtype).reshape(1, len(rows), *node.shape)}
        with torch.no_grad():
            base = relax(program, *box)
        _interval(report, node.name, base, truth, holes, size, dtype)
        kinds = {
            "default": {},
            "random": alphas_of(base, lambda s: torch.from_numpy(rng.random(s))),
            "extreme": alphas_of(base, lambda s: torch.from_numpy(rng.integers(0, 2, s))),
            "climbed": climbed(program, base, start, box),
        }
        for kind, alphas in kinds.items():
            if kind != "default" and not alphas:
                continue
            with torch.no_grad():
                form = bound_rows(Relaxation(program, base.intervals, alphas), start, torch.zeros((1, 1)).double())
                least = form.minimum(*box)
            _rows(report, f"{kind} {dtype}", node, least, rows, truth, (low, high))


def _interval(
    report: Report, name: str, base: Relaxation, truth: Any, holes: np.ndarray, size: int, dtype: torch.dtype
) -> None:
    low, high = (end.expand(len(truth), *end.shape[1:]).reshape(len(truth), size) for end in base.intervals[name])
    for d, values in enumerate(truth):
        below, above = low[d].tolist(), high[d].tolist()
        if values is None:
            for k in np.flatnonzero(holes[d]):
                if below[k] != -math.inf or above[k] != math.inf:
                    report.wrong.append(f"{report.op} {dtype}: [{below[k]}, {above[k]}] where it has no value")
            continue
        report.infinite += sum(not math.isfinite(v) for v in below + above)
        for ys in values:
            report.checks += 2 * size
            for y, a, b in zip(ys, below, above, strict=True):
                if y < a or y > b:  # exact: a Fraction, or an mpf, against a float
                    report.wrong.append(f"{report.op} {dtype}: {y} is not in [{a!r}, {b!r}]")


def _rows(report: Report, kind: str, node: Any, least: Tensor, rows: np.ndarray, truth: Any, box: Any) -> None:
    weights = [[(k, Fraction(float(w))) for k, w in enumerate(row) if w] for row in rows]
    for d, values in enumerate(truth):
        bounds = least[d if len(least) > 1 else 0].tolist()
        if values is None:
            if node.op in ("tan", "reciprocal", "log") and len(node.shape) and math.prod(node.shape) == 1:
                for bound in bounds:
                    if bound > -1e300:  # NaN and −inf say nothing
                        report.wrong.append(f"{report.op} {kind}: a bound of {bound} where it has no value")
            continue
        report.infinite += sum(not math.isfinite(v) for v in bounds)
        for ys in values:
            for bound, weight in zip(bounds, weights, strict=True):
                report.checks += 1
                if math.isnan(bound):
                    continue
                if all(isinstance(ys[k], Fraction) for k, _ in weight):
                    true = sum((w * ys[k] for k, w in weight), Fraction(0))
                else:
                    with mpmath.workdps(DIGITS):
                        true = mpmath.fsum(exactly(w) * _mp(ys[k]) for k, w in weight)
                if bound > true:
                    here = f"{dict(node.attrs)} on {box[0][d].tolist()} to {box[1][d].tolist()}"
                    report.wrong.append(f"{report.op} {here} {kind}: {bound!r} > {float(true)!r}")


def gate(op: str, boxes: int, seed: int = 0) -> Report:
    """Random attributes, shapes and boxes of one operator."""
    report, began = Report(op), time.monotonic()
    for number in itertools.count():
        if report.boxes >= boxes:
            break
        rng = np.random.default_rng([seed, number, sorted(OPS).index(op)])
        graph = CASES[op](rng)
        n = sum(int(np.prod(v.shape)) for v in graph.inputs)
        pairs = [ends(rng, op, (n,)) for _ in range(BATCH)]
        low, high = (np.stack(end) for end in zip(*pairs, strict=True))
        check_graph_boxes(rng, graph, low, high, report)
        if report.wrong and report.failed is None:
            report.failed = graph, low, high
    report.seconds = time.monotonic() - began
    return report


def traps() -> Iterator[tuple[str, Report]]:
    """Boxes over which other verifiers' bounds are wrong."""
    from exact_graph import Build

    rng = np.random.default_rng(0)
    for op, attrs, low, high in TRAPS:
        b, report = Build((1,)), Report(op)
        b.add(op, "x0", **attrs)
        check_graph_boxes(rng, b.graph(), np.float32([[low]]), np.float32([[high]]), report, 40)
        yield f"{op} {attrs} [{low}, {high}]", report
    b, report = Build((1, 5)), Report("softmax")
    b.add("softmax", "x0", axis=1)
    low, high = np.full((2, 5), -20, dtype=np.float32), np.full((2, 5), 20, dtype=np.float32)
    low[1], high[1] = -1e4, 1e4
    check_graph_boxes(rng, b.graph(), low, high, report, 40)
    yield "softmax over a wide box", report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="fuzz every operator's bounds against exact values")
    parser.add_argument("ops", nargs="*", help="operators; all where none is named")
    parser.add_argument("--boxes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    for op in asked.ops or list(OPS):
        report = gate(op, asked.boxes, asked.seed)
        total.update(boxes=report.boxes, checks=report.checks, wrong=len(report.wrong))
        print(
            f"{op:12} {report.boxes} boxes, {report.checks} checks, {len(report.wrong)} wrong, "
            f"{report.infinite} infinite, {report.seconds:.0f} s",
            flush=True,
        )
        for text in report.wrong[:3]:
            print("   ", text[:400], flush=True)
    print(f"{len(asked.ops or OPS)} operators, {dict(total)}")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
