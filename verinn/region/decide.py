"""The grid question decided: an attack, the continuous engine where inputs are many, and the search over boxes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from verinn.attack.pgd import pgd
from verinn.bounds.rounding import exact_kernels
from verinn.errors import InputError
from verinn.ops.program import Program
from verinn.options import Options
from verinn.region.grid import Grid
from verinn.region.points import SAFE, Judge
from verinn.region.question import Question, restricted
from verinn.region.search import Boxes, Counts, Ended, Limits, Search, prepare
from verinn.region.spaces import Cells, Points
from verinn.region.state import load, save
from verinn.region.verdict import Cover, Kind, Report
from verinn.result import Result, Verdict, Witness
from verinn.search.plan import facts_of, plan_of
from verinn.search.run import solve
from verinn.search.spec import Spec, groups

#: with so few inputs that move, boxes are split from the start; else the continuous engine comes first
FEW = 10
#: grids of so few points are searched from the start, too
LISTED = 1 << 14


@dataclass(frozen=True)
class Settings:
    """``cells``: prove the cells between grid points, so that the answer is for every real input. ``state``: a file to
    go on from and to keep the search in, with the ``mark`` of its question, written every ``every`` seconds.
    ``stop``: asked beside the deadline. ``tell``: a line of progress now and then. ``engine``: also ask the continuous
    engine.
    """

    options: Options
    cells: bool = False
    state: str | Path | None = None
    mark: str = ""
    every: float = 20.0
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] | None = None
    engine: bool = True
    leaf: int = 32
    batch: int = 256

    def expired(self) -> bool:
        deadline = self.options.deadline
        return self.stop() or (deadline is not None and time.monotonic() >= deadline)


def decide(question: Question, settings: Settings) -> Report:
    """Decide a question. Every `unsafe` was replayed; a safe verdict means that every point, or cell, is covered."""
    return _Run(question, settings).decide()


class _Run:
    def __init__(self, question: Question, settings: Settings):
        self.question, self.settings = question, settings
        self.problem = question.problem
        self.began = time.monotonic()
        self.plan = plan_of(facts_of(self.problem), settings.options)
        self.parts: dict[str, tuple[Counts, Boxes]] = {}
        self.saved = time.monotonic()
        self.notes: list[str] = list(self.problem.warnings)
        self.history: list[tuple[float, int]] = []  # (seconds, units covered): what the plot shows

    def decide(self) -> Report:
        before = torch.get_num_threads()
        torch.set_num_threads(self.plan.threads)
        try:
            kept = self._resumed()
            return self._decide(kept)
        finally:
            torch.set_num_threads(before)

    def _decide(self, kept: dict[str, tuple[Counts, Boxes]]) -> Report:
        ends: list[Ended] = []
        continuous = True
        for number, (case, grid) in enumerate(self.question.grids):
            specs = list(groups([case]))
            if not kept:
                found = self._attacked(grid, specs)
                if found is not None:
                    return self._unsafe(*found, ends)
            first = self.settings.engine and len(grid.free) > FEW and grid.points > LISTED and not kept
            result = self._engine(number) if first else None
            if result is not None and result.verdict is Verdict.UNSAT:
                ends.append(self._whole(grid, len(specs)))
                continue
            if result is not None and result.witness is not None:
                found = self._from_engine(result.witness, grid, specs)
                if found is not None:
                    return self._unsafe(*found, ends)
            continuous = continuous and self.settings.cells
            for part, spec in enumerate(specs):
                ended = self._searched(f"{number}.{part}", grid, spec, kept)
                ends.append(ended)
                if ended.witness is not None and ended.point is not None:
                    return self._unsafe(ended.point, ended.witness, ends)
        self._keep()
        return self._report(ends, continuous)

    def _whole(self, grid: Grid, parts: int) -> Ended:
        space = Cells.of(grid) if self.settings.cells else Points(grid)
        low, high = space.root
        total = space.count(low, high) * parts
        return Ended(Counts(total, total), Boxes(low[None][:0], high[None][:0], np.zeros(0)))

    # -- witnesses --------------------------------------------------------------------------------

    def _confirm(self, x: np.ndarray) -> Witness | None:
        return self.problem.confirm(x.astype(np.float32))

    def _attacked(self, grid: Grid, specs: list[Spec]) -> tuple[np.ndarray, Witness] | None:
        """Gradient descent, rounded to the grid where the grid is asked for."""
        program = Program.prepare(self.problem.graph, torch.float32)
        low, high = grid.box(grid.low, grid.high)
        with exact_kernels():
            for spec in specs:
                near = replace(spec, lower=torch.from_numpy(low)[None], upper=torch.from_numpy(high)[None])
                judge = Judge(Program.prepare(self.problem.graph, torch.float64), spec)
                points = max(16, min(self.plan.points, 512))
                for x, _ in self._moves(program, near, points):
                    found = self._tried(x.numpy(), grid, judge)
                    if found is not None:
                        return found
        return None

    def _moves(self, program: Program, spec: Spec, points: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return pgd(program, spec, points, self.plan.steps, self.settings.options.seed, self.settings.expired)

    def _tried(self, x: np.ndarray, grid: Grid, judge: Judge) -> tuple[np.ndarray, Witness] | None:
        points = grid.fed(grid.nearest(x)) if not self.settings.cells else self._inside(x, judge.spec)
        with torch.no_grad():
            status, _ = judge.status(points[:32])
        for at in np.flatnonzero(status != SAFE)[:4]:
            witness = self._confirm(points[at])
            if witness is not None:
                return points[at], witness
        return None

    def _inside(self, x: np.ndarray, spec: Spec) -> np.ndarray:
        case = spec.cases[0]
        return np.asarray(np.clip(x.astype(np.float32), case.witness_lower, case.witness_upper))

    def _from_engine(self, witness: Witness, grid: Grid, specs: list[Spec]) -> tuple[np.ndarray, Witness] | None:
        """A real witness: as it is where the continuum is asked for, else the grid points about it."""
        x = np.concatenate(
            [
                witness.values[v.name].ravel()
                for v in self.problem.query.networks[0].variables
                if v.kind.value == "input"
            ]
        )
        if self.settings.cells:
            return x, witness
        rng = np.random.default_rng(self.settings.options.seed)
        step = np.array([float(value) for value in grid.step])
        around = x + (rng.random((64, len(x))) - 0.5) * step
        around[0] = x
        with exact_kernels():
            for spec in specs:
                judge = Judge(Program.prepare(self.problem.graph, torch.float64), spec)
                found = self._tried(around, grid, judge)
                if found is not None:
                    return found
        return None

    # -- proofs -----------------------------------------------------------------------------------

    def _engine(self, number: int) -> Result | None:
        """Branch and bound over the real hull of one case's grid, for half of the time that is left."""
        options, now = self.settings.options, time.monotonic()
        if self.settings.expired():
            return None
        until = None if options.deadline is None else now + (options.deadline - now) * 0.5
        case, grid = self.question.grids[number]
        try:
            return solve(restricted(self.question, case, grid), replace(options, deadline=until))
        except MemoryError:
            return None

    def _searched(self, name: str, grid: Grid, spec: Spec, kept: dict[str, tuple[Counts, Boxes]]) -> Ended:
        dtype = torch.float64 if self.plan.dtype == "float64" else torch.float32
        budget = self.settings.options.memory // 8
        task, judge = prepare(Program.prepare(self.problem.graph, dtype), spec, budget)
        space = Cells.of(grid) if self.settings.cells else Points(grid)
        batch = max(1, min(self.settings.batch, self.plan.batch))

        def step(counts: Counts, waiting: Boxes) -> None:
            self.parts[name] = counts, waiting
            if len(self.history) < 10_000:
                self.history.append((time.monotonic() - self.began, counts.covered))
            if self.settings.state is not None and time.monotonic() - self.saved > self.settings.every:
                self._keep()

        limits = Limits(
            self.settings.expired, batch, self.settings.leaf, self.settings.options.memory // 2, budget,
            self._told, step,
        )  # fmt: skip
        search = Search(task, judge, space, self._confirm, limits)
        if name in kept:
            try:
                search.resume(*kept[name])
            except ValueError as error:
                raise InputError(f"is broken ({error})", file=str(self.settings.state), hint="delete it") from None
        self.parts[name] = search.counts, search.waiting
        ended = search.run()
        self.parts[name] = ended.counts, ended.waiting
        return ended

    def _told(self, counts: Counts, waiting: int) -> None:
        if self.settings.tell is not None:
            self.settings.tell(
                f"covered so far: {100 * counts.covered // max(1, counts.total)} %, {waiting} boxes wait"
            )

    def _resumed(self) -> dict[str, tuple[Counts, Boxes]]:
        path = self.settings.state
        if path is None or not Path(path).exists():
            return {}
        return load(path, self.settings.mark)

    def _keep(self) -> None:
        if self.settings.state is not None:
            self.saved = time.monotonic()
            save(self.settings.state, self.settings.mark, self.parts)

    # -- reports ----------------------------------------------------------------------------------

    def _covers(self, ends: list[Ended]) -> tuple[Cover, ...]:
        """Points or whole cells covered; what was not looked at counts as not covered."""
        total = self.question.points
        if not self.settings.cells:
            whole = sum(ended.counts.total for ended in ends)
            done = sum(ended.counts.covered for ended in ends)
            return (Cover("grid points", done, max(total, whole)),)
        done = total = 0
        for (_, grid), ended in zip(self.question.grids, [*ends, *[None] * len(self.question.grids)], strict=False):
            space = Cells.of(grid)
            total += space.count(*space.root) // space.parts
            done += 0 if ended is None else ended.counts.covered // space.parts
        return (Cover("cells between grid points", done, max(total, done)),)

    def _report(self, ends: list[Ended], continuous: bool) -> Report:
        good = all(ended.proved for ended in ends) and not self.problem.prop.limits
        reason = "" if good else next((ended.reason for ended in ends if ended.reason), "")
        if not good and not reason:
            reason = "; ".join(self.problem.prop.limits) or "not every point is covered"
        kind = Kind.UNKNOWN
        if good:
            kind = Kind.SAFE_CONTINUOUS if continuous else Kind.SAFE_ON_GRID
        return self._made(kind, ends, reason=reason)

    def _unsafe(self, point: np.ndarray, witness: Witness, ends: list[Ended]) -> Report:
        self._keep()
        what = "a real input" if self.settings.cells else "a grid point"
        replayed = f"{what}, as float32, in ONNX Runtime on the original model"
        return self._made(Kind.UNSAFE, ends, point=point, witness=witness, replayed=replayed)

    def _made(
        self, kind: Kind, ends: list[Ended], *, reason: str = "", point: np.ndarray | None = None,
        witness: Witness | None = None, replayed: str = "",
    ) -> Report:  # fmt: skip
        totals = {
            key: sum(getattr(ended.counts, key) for ended in ends)
            for key in ("evaluated", "doubtful", "bounded", "proved", "disputed", "stuck")
        }
        grid = self.question.grids[0][1] if self.question.grids else None
        region = "empty" if grid is None else describe(grid, len(self.question.grids))
        if kind is Kind.SAFE_CONTINUOUS or self.settings.cells:
            region = f"every real input between the ends of the {region}"
        statistics = {
            **totals,
            "units covered": sum(ended.counts.covered for ended in ends),
            "units": sum(ended.counts.total for ended in ends),
            "seconds": time.monotonic() - self.began,
            "history": self.history[:: max(1, len(self.history) // 500)],
        }
        return Report(
            kind, self.question.text, region, self.problem.prop.n, self.question.moved, self._covers(ends),
            self.question.assumptions, point, witness, replayed, reason, tuple(self.notes), statistics,
        )  # fmt: skip


def describe(grid: Grid, cases: int = 1) -> str:
    """A grid in words."""
    free = grid.free
    if not len(free):
        return "a single point"
    steps = {grid.step[i] for i in free}
    levels = (grid.high - grid.low + 1)[free]
    step = f"step {next(iter(steps))}" if len(steps) == 1 else f"{len(steps)} different steps"
    span = f"{levels.min()}" if levels.min() == levels.max() else f"{levels.min()} to {levels.max()}"
    more = "" if cases == 1 else f", {cases} boxes"
    return f"grid of {step}, {span} levels in each of {len(free)} dimensions{more}"
