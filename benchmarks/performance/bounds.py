"""Bounds per second: intervals and CROWN through single layers and through whole networks.

What is timed is what the search does with a fresh batch of domains: slopes, intercepts and the price of
rounding are computed anew in every call, never taken from the call before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.performance.networks import LAYERS, NETWORKS, Case
from benchmarks.performance.rows import Row
from benchmarks.performance.timing import Settings, Timing, measure
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import bound_rows, relax, targets
from verinn.bounds.interval import propagate
from verinn.bounds.rounding import exact_kernels
from verinn.ops.program import Program

#: rows bounded at once where the number of domains varies: as many as there are classes
ROWS = 10
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Size:
    """A batch of domains, and of rows in each; 0 rows where intervals are propagated."""

    domains: int
    rows: int = 0

    @property
    def cells(self) -> int:
        """What the work grows with, about."""
        return self.domains * max(1, self.rows)


Work = Callable[[], Relaxation]
Count = Callable[[Relaxation], int]  # how many bounds one call made
Prepare = Callable[[Program, Tensor, Tensor, int], tuple[Work, Count]]


@dataclass(frozen=True)
class Operation:
    """One way to bound. ``prepare`` does what is not timed, for boxes (D, n) and a number of rows, and returns
    what is."""

    name: str
    prepare: Prepare
    sizes: Callable[[Sequence[int]], list[Size]]


def layers(settings: Settings) -> Iterator[Row]:
    """Every layer by itself."""
    return _group("layers", LAYERS, (_IBP, _CROWN), settings)


def networks(settings: Settings) -> Iterator[Row]:
    """Whole networks; ``refined`` bounds the unstable neurons by CROWN, too, as each new box wants it."""
    return _group("networks", NETWORKS, (_IBP, _CROWN, _REFINED), settings)


def _group(group: str, cases: Sequence[Case], operations: Sequence[Operation], settings: Settings) -> Iterator[Row]:
    with torch.no_grad(), exact_kernels():
        for case in cases:
            if not settings.wants(case.name):
                continue
            graph = case.make().graph()
            for dtype in settings.dtypes:
                program = Program.prepare(graph, _DTYPES[dtype], settings.device)
                for operation in operations:
                    yield from _operation(group, case, dtype, program, operation, settings)


def _operation(
    group: str, case: Case, dtype: str, program: Program, operation: Operation, settings: Settings
) -> Iterator[Row]:
    """All sizes of one operation, until one would take too long: then the larger ones are only told."""
    seconds, before = 0.0, Size(1, 1)
    for size in operation.sizes(settings.batches):
        growth = size.cells / before.cells  # below 1 where the other axis begins
        name = (group, case.name, operation.name, dtype, settings.device, size.domains, size.rows)
        if seconds * growth > 2 * settings.patience:
            yield Row(*name, note=f"left out: about {seconds * growth:.0f} s a call")
            continue
        if _bytes(program, size) > settings.memory:
            yield Row(*name, note="left out: too much memory")
            continue
        lower, upper = boxes(program, size.domains, case.radius)
        try:
            work, count = operation.prepare(program, lower, upper, size.rows)
            timing = measure(work, settings)
        except (MemoryError, torch.OutOfMemoryError):
            yield Row(*name, note="out of memory")
            continue
        seconds, before = timing.median, size
        yield _row(name, timing, count(timing.result), size)


def _row(name: tuple[str, str, str, str, str, int, int], timing: Timing[Relaxation], bounds: int, size: Size) -> Row:
    return Row(
        *name,
        repeats=timing.repeats,
        seconds=timing.median,
        fastest=timing.fastest,
        bounds_per_second=bounds / timing.median,
        domains_per_second=size.domains / timing.median,
    )


def _bytes(program: Program, size: Size) -> int:
    """Of a few copies of the coefficients at the widest value."""
    widest = max(math.prod(shape) for shape in program.shapes.values())
    return 6 * size.domains * max(1, size.rows) * widest * torch.finfo(program.dtype).bits // 8


def boxes(program: Program, count: int, radius: float) -> tuple[Tensor, Tensor]:
    """``count`` boxes around fixed points: (count, n) each, in the program's dtype."""
    n = sum(math.prod(value.shape) for value in program.graph.inputs)
    centres = np.random.default_rng(1).uniform(-1.0, 1.0, (count, n))
    at = {"dtype": program.dtype, "device": program.device}
    return torch.tensor(centres - radius, **at), torch.tensor(centres + radius, **at)  # type: ignore[arg-type]


def _shape(program: Program) -> tuple[str, tuple[int, ...]]:
    """The value that is the output, and its shape."""
    value = program.graph.outputs[0].value
    return value, program.shapes[value]


def _ibp(program: Program, lower: Tensor, upper: Tensor, rows: int) -> tuple[Work, Count]:
    """Bounds: the intervals of all values."""
    made = sum(math.prod(program.shapes[step.node.name]) for step in program.steps)
    return lambda: relax(program, lower, upper, refine=False), lambda _: len(lower) * made


def _crown(program: Program, lower: Tensor, upper: Tensor, rows: int) -> tuple[Work, Count]:
    """Bounds: rows over the output. Every domain has its own: so coefficients look in the middle of a network."""
    intervals = relax(program, lower, upper, refine=False).intervals
    value, shape = _shape(program)
    drawn = np.random.default_rng(2).normal(size=(len(lower), rows, *shape))
    a = torch.tensor(drawn, dtype=program.dtype, device=program.device)
    c = torch.zeros((1, rows), dtype=torch.float64, device=program.device)

    def work() -> Relaxation:
        fresh = Relaxation(program, dict(intervals))
        bound_rows(fresh, {value: a}, c).minimum(lower, upper)
        return fresh

    return work, lambda _: len(lower) * rows


def _refined(program: Program, lower: Tensor, upper: Tensor, rows: int) -> tuple[Work, Count]:
    """Bounds: two for every neuron that intervals leave unstable, and the rows over the output."""
    value, shape = _shape(program)
    picked = torch.eye(math.prod(shape), dtype=program.dtype, device=program.device)[:rows]
    a = picked.reshape(1, len(picked), *shape)
    c = torch.zeros((1, len(picked)), dtype=torch.float64, device=program.device)

    def work() -> Relaxation:
        relaxation = relax(program, lower, upper)
        bound_rows(relaxation, {value: a}, c).minimum(lower, upper)
        return relaxation

    return work, lambda relaxation: len(lower) * len(picked) + 2 * _unstable(relaxation)


def _unstable(relaxation: Relaxation) -> int:
    """How many neurons, over all domains, were bounded by CROWN on the way."""
    count = 0
    known = relaxation.intervals
    wanted = targets(relaxation.program)
    for step in relaxation.program.steps:
        if step.node.name not in wanted:
            continue
        before = propagate(step, [known[name] for name in step.node.inputs])
        loose = torch.zeros_like(before[0], dtype=torch.bool)
        for reader in wanted[step.node.name]:
            ends = [before if name == step.node.name else known[name] for name in reader.node.inputs]
            for name, part in zip(reader.node.inputs, reader.loose(ends), strict=True):
                if name == step.node.name:
                    loose |= part
        count += int(loose.sum())
    return count


def _both(batches: Sequence[int]) -> list[Size]:
    """Many domains with a few rows, then one domain with many rows."""
    return [Size(batch, ROWS) for batch in batches] + [Size(1, batch) for batch in batches]


_IBP = Operation("ibp", _ibp, lambda batches: [Size(batch) for batch in batches])
_CROWN = Operation("crown", _crown, _both)
_REFINED = Operation("refined", _refined, lambda batches: [Size(batch, ROWS) for batch in batches])
