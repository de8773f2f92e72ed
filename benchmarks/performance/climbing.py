"""Climbs per second: rows of the dual evaluated (one pass back and one forward), and what multipliers prove.

The rows are domains as a search over phases has them: all over one box, which is relaxed once and not timed,
each with some phases fixed and multipliers of its own. ``evaluate`` is one step of the climb, in the working
precision; ``certify`` computes in float64 what a leaf's multipliers prove, every rounding counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.performance.bounds import boxes
from benchmarks.performance.networks import NETWORKS, Case
from benchmarks.performance.rows import Row
from benchmarks.performance.timing import Settings, measure
from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Rows, evaluate
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.dual import Columns, Frame, columns_of
from verinn.bounds.rounding import cast_down, cast_up, exact_kernels
from verinn.ops.program import Program

#: phases fixed in each domain
SPLITS = 8
#: those whose steps are linear or ReLUs throughout
CASES = tuple(case for case in NETWORKS if not case.name.startswith("pooled"))
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Root:
    """One relaxed box, and the domains within it."""

    relaxation: Relaxation
    columns: Columns
    frame: Frame
    goals: Goals
    lower: Tensor
    upper: Tensor

    @staticmethod
    def of(careful: Relaxation, dtype: torch.dtype, lower: Tensor, upper: Tensor) -> Root:
        """In ``dtype``, from the relaxation of the box in float64."""
        program = careful.program
        if dtype != program.dtype:
            program = Program.prepare(program.graph, dtype, program.device)
        known = {name: (cast_down(low, dtype), cast_up(up, dtype)) for name, (low, up) in careful.intervals.items()}
        relaxation = Relaxation(program, known)
        columns = columns_of(relaxation)
        frame = Frame.of(relaxation, lower.to(dtype), upper.to(dtype), columns)
        outputs = math.prod(program.shapes[program.graph.outputs[0].value])
        y = torch.zeros((1, outputs), dtype=torch.float64, device=program.device)
        y[0, :2] = torch.tensor([1.0, -1.0], dtype=torch.float64, device=program.device)[:outputs]
        return Root(relaxation, columns, frame, Goals(y, None, y.new_zeros(1)), lower, upper)

    def domains(self, count: int) -> tuple[Rows, Multipliers]:
        """``count`` domains with phases and multipliers drawn from a fixed seed: the same on every device."""
        known = self.relaxation.intervals
        low = self.columns.gather({name: known[name][0] for name in self.columns.sources})
        high = self.columns.gather({name: known[name][1] for name in self.columns.sources})
        width, splits = self.columns.count, min(SPLITS, self.columns.count)
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(low)

        column = drawn(count, width).topk(splits, 1).indices
        phase = torch.where(drawn(count, splits) < 0.5, 1.0, -1.0).to(low.dtype)
        end = low.new_zeros((count, splits))
        low, high = low.expand(count, -1), high.expand(count, -1)
        rows = Rows(
            low.scatter(1, column, torch.where(phase < 0, end, low.gather(1, column))),
            high.scatter(1, column, torch.where(phase > 0, end, high.gather(1, column))),
            column,
            phase,
            torch.ones_like(end[:1, :1], dtype=torch.bool),
        )
        return rows, Multipliers(drawn(count, width), drawn(count, splits) * 0.1, end.new_ones((count, 1)))

    def evaluated(self, rows: Rows, multipliers: Multipliers) -> Any:
        return evaluate(self.frame, self.goals, rows, multipliers)

    def certified(self, rows: Rows, multipliers: Multipliers) -> Any:
        form = certified(self.relaxation, self.columns, self.goals, rows, multipliers)
        return form.minimum(self.lower, self.upper)


def climbing(settings: Settings) -> Iterator[Row]:
    """Every network, by batch: steps of the climb in each dtype, and leaves certified in float64."""
    with torch.no_grad(), exact_kernels():
        for case in CASES:
            if settings.wants(case.name):
                yield from _case(case, settings)


def _case(case: Case, settings: Settings) -> Iterator[Row]:
    program = Program.prepare(case.make().graph(), torch.float64, settings.device)
    lower, upper = boxes(program, 1, case.radius)
    careful = relax(program, lower, upper)
    for dtype in settings.dtypes:
        root = Root.of(careful, _DTYPES[dtype], lower, upper)
        yield from _sizes(case, "evaluate", dtype, root, Root.evaluated, settings)
    root = Root.of(careful, torch.float64, lower, upper)
    yield from _sizes(case, "certify", "float64", root, Root.certified, settings)


def _sizes(
    case: Case, operation: str, dtype: str, root: Root, work: Callable[..., Any], settings: Settings
) -> Iterator[Row]:
    """All batches, until one would take too long: then the larger ones are only told."""
    seconds, before = 0.0, 1
    for count in settings.batches:
        name = ("climbing", case.name, operation, dtype, settings.device, count)
        if seconds * count / before > 2 * settings.patience:
            yield Row(*name, note=f"left out: about {seconds * count / before:.0f} s a call")
            continue
        if _bytes(root, count) > settings.memory:
            yield Row(*name, note="left out: too much memory")
            continue
        try:
            timing = measure(_bound(root, work, count), settings)
        except (MemoryError, torch.OutOfMemoryError):
            yield Row(*name, note="out of memory")
            continue
        seconds, before = timing.median, count
        yield Row(
            *name,
            repeats=timing.repeats,
            seconds=timing.median,
            fastest=timing.fastest,
            bounds_per_second=count / timing.median,
            domains_per_second=count / timing.median,
        )


def _bound(root: Root, work: Callable[..., Any], count: int) -> Callable[[], Any]:
    rows, multipliers = root.domains(count)
    return lambda: work(root, rows, multipliers)


def _bytes(root: Root, count: int) -> int:
    """Of some copies of every value, as a pass holds them."""
    program = root.relaxation.program
    elements = sum(math.prod(shape) for shape in program.shapes.values())
    return 6 * count * elements * torch.finfo(program.dtype).bits // 8
