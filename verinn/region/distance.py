"""The smallest adversarial change of an image in L0, L1, L2 or L∞: lower and upper bounds at any time.

An upper bound is a witness, replayed; a lower bound is a cover: a ball, or for L0 all subspaces of t inputs for
t = 1, 2, …, without a violation (the L0 search of the CAV 2017 paper's successors: all t-pixel subspaces below, greedy
stacking above). On a grid distances come in steps, and lower bounds are rounded up to the next one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verinn.attack.pgd import pgd
from verinn.bounds.rounding import exact_kernels
from verinn.errors import InputError, Unsupported
from verinn.ir.prop import Case
from verinn.ops.program import Program
from verinn.options import Options
from verinn.region import few
from verinn.region.around import Around, rows
from verinn.region.cover import cover
from verinn.region.decide import describe
from verinn.region.grid import below
from verinn.region.points import SAFE
from verinn.region.question import Question
from verinn.region.search import prepare
from verinn.region.state import Bounds, load_bounds, save_bounds
from verinn.region.verdict import Cover as Counted
from verinn.region.verdict import Kind, Report
from verinn.result import Verdict, Witness
from verinn.search.plan import facts_of, plan_of
from verinn.search.run import solve
from verinn.search.spec import Spec, groups

#: inputs that one step of greedy stacking is tried with
MOST_STEPS = 256
#: seconds between two writes of a state
EVERY = 20.0
#: radii that are tried by bounds alone
MOST_HALVES = 24
NORMS: dict[str, float] = {"0": 0, "1": 1, "2": 2, "inf": math.inf}


@dataclass(frozen=True)
class DistanceSettings:
    """``p``: 0, 1, 2 or inf. ``on_grid``: only grid points count. ``gap``: stop once upper ≤ (1 + gap) · lower.
    ``tell``: hears the bounds whenever they get better. ``state``: a file to go on from and to keep them in, with the
    ``mark`` of its question."""

    options: Options
    p: float
    on_grid: bool = False
    gap: float = 0.01
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda text: None
    state: str | Path | None = None
    mark: str = ""

    def expired(self) -> bool:
        deadline = self.options.deadline
        return self.stop() or (deadline is not None and time.monotonic() >= deadline)


def smallest_change(question: Question, settings: DistanceSettings) -> Report:
    """Bounds of the distance to the nearest violation within the question's grid (its box, where not ``on_grid``).

    Distances are in pixels' units. The verdict is `unsafe` where there is a witness (its distance is the upper bound),
    `safe-continuous` where the whole box is proved, else `unknown`.
    """
    if question.centre is None or len(question.grids) != 1:
        raise InputError("distances are measured from an image", hint="give --image instead of a property")
    if len(set(question.scale.std)) > 1:
        raise Unsupported("distances need one standard deviation for all channels")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _Distance(question, settings).run()
    finally:
        torch.set_num_threads(threads)


@dataclass(eq=False)
class _Distance:
    question: Question
    settings: DistanceSettings
    lower: Fraction = Fraction(0)
    upper: float = math.inf
    witness: Witness | None = None
    point: np.ndarray | None = None
    whole: bool = False  # the whole box is proved
    reason: str = ""
    certificate: list[dict[str, Any]] = field(default_factory=list)
    history: list[tuple[float, float, float]] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.case, self.grid = self.question.grids[0]
        assert self.question.centre is not None
        self.centre = self.grid.fed(self.question.centre)
        self.std = next(iter(set(self.question.scale.std)))
        problem = self.question.problem
        specs = list(groups([self.case]))
        if len(specs) != 1:
            raise Unsupported("the model has too many classes for distances")
        self.spec: Spec = specs[0]
        plan = plan_of(facts_of(problem), self.settings.options)
        dtype = torch.float64 if plan.dtype == "float64" else torch.float32
        self.task, self.judge = prepare(Program.prepare(problem.graph, dtype), self.spec)
        self.points = max(16, min(plan.points, 512))
        self.low, self.high = self.grid.box(self.grid.low, self.grid.high)

    def run(self) -> Report:
        if self.question.problem.confirm(self.centre) is not None:
            raise InputError("the image itself has another class", hint="give its class as --label")
        if self.settings.p == 0 and self.judge.status(self.centre[None])[0][0] == SAFE:
            self.lower = Fraction(1)
        self._resume()
        self._note()
        if self.settings.p in (0, 1):
            self._stacked()
        self._attack(self.settings.p)
        if self.settings.p == 0:
            self._subspaces()
        else:
            self._balls()
        return self._report()

    def _resume(self) -> None:
        path = self.settings.state
        if path is None or not Path(path).exists():
            return
        kept = load_bounds(path, self.settings.mark)
        self.lower, self.whole = max(self.lower, kept.lower), kept.whole
        self.certificate = kept.certificate
        if kept.point is not None:
            if kept.point.shape != self.centre.shape:
                raise InputError("is broken (its point has another shape)", file=str(path), hint="delete it")
            witness = self._confirm(kept.point)
            if witness is not None:
                self._above(witness, self._placed(kept.point))

    def _keep(self) -> None:
        if self.settings.state is not None:
            self.saved = time.monotonic()
            bounds = Bounds(self.lower, self.whole, self.certificate, self.point)
            save_bounds(self.settings.state, self.settings.mark, bounds)

    # -- bounds -----------------------------------------------------------------------------------

    def distance(self, x: np.ndarray) -> float:
        """The distance of a float32 input from the image, in pixels' units, rounded up."""
        gaps = np.abs(x.astype(np.float64) - self.centre.astype(np.float64))
        gaps, p = gaps[gaps > 0], self.settings.p
        if p == 0:
            return float(len(gaps))
        size = max(gaps, default=0.0) if p == math.inf else math.fsum(gaps if p == 1 else gaps * gaps)
        size = math.sqrt(size * (1 + 2.0**-50)) if p == 2 else size
        return -below(-Fraction(size * (1 + 2.0**-50)) * self.std)

    def exactly(self, x: np.ndarray) -> float:
        """The same in fractions, to the last bit."""
        gaps = [abs(Fraction(float(a)) - Fraction(float(b))) * self.std for a, b in zip(x, self.centre, strict=True)]
        p = self.settings.p
        if p == 2:
            return math.nextafter(math.sqrt(-below(-sum((gap * gap for gap in gaps), Fraction(0)))), math.inf)
        found = Fraction(sum(gap != 0 for gap in gaps)) if p == 0 else max(gaps) if p == math.inf else sum(gaps)
        return -below(-Fraction(found))

    def _above(self, witness: Witness, x: np.ndarray) -> None:
        """A replayed witness: an upper bound if it is nearer than those before."""
        away = self.distance(x)
        if away < self.upper:
            self.upper, self.witness, self.point = away, witness, x
            self._note()

    def _below(self, radius: Fraction, how: dict[str, Any]) -> None:
        """No violation at a distance of at most (for a whole box: within) ``radius``."""
        radius = self._next_on_grid(radius) if self.settings.on_grid else radius
        if radius > self.lower:
            self.lower = radius
            self.certificate.append({"at least": float(radius), **how})
            self._note()

    def _next_on_grid(self, radius: Fraction) -> Fraction:
        """The least distance on the grid above a proved radius, where all steps are alike.

        Points are the float32 near the grid's rationals: what that moves them is taken off the radius first.
        """
        steps = set(self.question.scale.step)
        if len(steps) != 1 or self.settings.p == 0:
            return radius
        step = next(iter(steps))
        moved = Fraction(float((self.grid.up - self.grid.down).max())) * 2 * self.grid.n * self.std
        radius = max(Fraction(0), radius - moved)
        if self.settings.p in (1, math.inf):
            return (math.floor(radius / step) + 1) * step
        squares = math.floor((radius / step) ** 2) + 1
        return max(radius, Fraction(below(Fraction(math.sqrt(squares)) * step * (1 - Fraction(1, 1 << 50)))))

    def _note(self) -> None:
        self.history.append((time.monotonic() - self.began, float(self.lower), self.upper))
        if time.monotonic() - self.saved > EVERY:
            self._keep()
        self.settings.tell(f"at least: {below(self.lower)}\nat most: {self._told()}")

    def _told(self) -> str:
        return repr(self.upper) if math.isfinite(self.upper) else "none found"

    def _closed(self) -> bool:
        return self.whole or (self.lower > 0 and self.upper <= float(self.lower) * (1 + self.settings.gap))

    # -- above ------------------------------------------------------------------------------------

    def _confirm(self, x: np.ndarray) -> Witness | None:
        """A replay; a point off the grid is moved to it first, where only grid points count."""
        return self.question.problem.confirm(self._placed(x))

    def _placed(self, x: np.ndarray) -> np.ndarray:
        if self.settings.on_grid:
            return self.grid.fed(self.grid.nearest(x.astype(np.float64)))
        return np.clip(x.astype(np.float32), self.case.witness_lower, self.case.witness_upper)

    def _attack(self, p: float) -> None:
        """Gradient descent in growing boxes about the image; what it finds is drawn back toward the image."""
        program = Program.prepare(self.question.problem.graph, torch.float32)
        reach = np.maximum(self.high - self.centre, self.centre - self.low).max()
        late = self._until(self._share(4))
        with exact_kernels():
            for share in (0.02, 0.05, 0.1, 0.2, 0.4, 1.0):
                low = np.maximum(self.low, self.centre - share * reach)
                high = np.minimum(self.high, self.centre + share * reach)
                near = replace(self.spec, lower=torch.from_numpy(low)[None], upper=torch.from_numpy(high)[None])
                for x, _ in pgd(program, near, self.points, 30, self.settings.options.seed, late):
                    for row in x[:4].numpy():
                        if not late():
                            self._improved(row, p)
                    if self.witness is not None:
                        return

    def _improved(self, x: np.ndarray, p: float) -> None:
        """Takes a violation (n,), and shorter ones on its way back to the image."""
        point = self._placed(x)
        witness = self._confirm(point)
        if witness is None:
            return
        self._above(witness, point)
        if p in (0, 1):
            self._restored(point, self._until(self._share(8)))
            point = self.point if self.point is not None else point
        if p != 0:
            self._shrunk(point.astype(np.float64))

    def _shrunk(self, x: np.ndarray) -> None:
        """Bisection between the image and a violation."""
        inside, outside = 0.0, 1.0
        for _ in range(20):
            share = (inside + outside) / 2
            point = self._placed(self.centre + share * (x - self.centre))
            witness = self._confirm(point)
            if witness is None:
                inside = share
            else:
                outside = share
                self._above(witness, point)

    def _restored(self, x: np.ndarray, late: Callable[[], bool]) -> None:
        """Coordinates put back to the image's, in ever smaller groups, as long as the class stays wrong."""
        point = x.copy()
        ranked = np.argsort(np.abs(point - self.centre)).tolist()
        order = [i for i in ranked if point[i] != self.centre[i]]
        size = len(order)
        while size and not late():
            kept: list[int] = []
            for start in range(0, len(order), size):
                some = order[start : start + size]
                if late():
                    return
                tried = point.copy()
                tried[some] = self.centre[some]
                witness = self._confirm(tried)
                if witness is None:
                    kept += some
                else:
                    point = tried
                    self._above(witness, point)
            order, size = kept, size // 2

    def _stacked(self) -> None:
        """Greedy stacking: again and again the one input and value that lower the margin most."""
        point = self.centre.astype(np.float64)
        most = self.upper - 1 if self.settings.p == 0 else math.inf
        late = self._until(self._share(4))
        for _ in range(int(min(self.grid.n, most, 200))):
            some = self._promising(point)
            tried = np.repeat(point[None], 2 * len(some), 0)
            tried[np.arange(len(some)), some] = self.low[some]
            tried[len(some) + np.arange(len(some)), some] = self.high[some]
            with torch.no_grad(), exact_kernels():
                low, _ = self.judge.rows(torch.from_numpy(tried))
            best = torch.stack([low[:, self.spec.owner == j].amax(1) for j in range(self.spec.conjunctions)], 1).amin(1)
            point = tried[int(best.argmin())]
            placed = self._placed(point)
            witness = self._confirm(placed)
            if witness is not None:
                self._improved(placed, self.settings.p)
                return
            if late():
                return

    def _promising(self, point: np.ndarray) -> np.ndarray:
        """The inputs that may lower a row most, by its slope at a point: those that one step is tried with."""
        if len(self.grid.free) <= MOST_STEPS:
            return self.grid.free
        x = torch.from_numpy(point)[None]
        with torch.no_grad(), exact_kernels():
            a = rows(self.task, x, x)[0][0].numpy()
        gain = np.abs(a) * np.where(a > 0, point - self.low, self.high - point)
        best = gain.max(0)[self.grid.free]
        return np.asarray(self.grid.free[np.argsort(-best, kind="stable")[:MOST_STEPS]])

    # -- below ------------------------------------------------------------------------------------

    def _balls(self) -> None:
        """Radii between the bounds, by bisection: first by bounds of the whole ball, then by covers; those that a share
        of the time leaves open are halved."""
        if self.settings.p != math.inf:
            self._bounded()
        top = min(self.upper, self._diameter())
        failed = Fraction(top)
        radius = failed if self.witness is None else (self.lower + failed) / 2 if self.lower else failed / 4
        while not self.settings.expired() and not self._closed():
            if self._below_ball(radius, self._proved(radius)):
                if radius >= Fraction(self._diameter()):
                    self.whole = True
            else:
                failed = radius
            limit = min(Fraction(self.upper) if math.isfinite(self.upper) else Fraction(self._diameter()), failed)
            least = Fraction(self.settings.gap) * max(self.lower, limit / 64) / 2
            if limit - self.lower <= least:
                break
            radius = (self.lower + limit) / 2 if self.lower else limit / 2
        if not self._closed():
            self.reason = "the time was up" if self.settings.expired() else "larger balls were not decided"

    def _bounded(self) -> None:
        """The largest ball that bounds over it prove in one go: cheap, and it holds for all smaller ones."""
        failed = Fraction(min(self.upper, self._diameter()))
        for _ in range(MOST_HALVES):
            least = Fraction(self.settings.gap) * max(self.lower, failed / 64)
            if self.settings.expired() or self._closed() or failed - self.lower <= least:
                return
            radius = (self.lower + failed) / 2 if self.lower else failed / 4
            if not self._below_ball(radius, self._cover(radius, self.settings.expired, 0)):
                failed = radius

    def _below_ball(self, radius: Fraction, found: dict[str, Any]) -> bool:
        if found:
            self._below(radius, {"ball": float(radius), "norm": self.settings.p, **found})
        return bool(found)

    def _diameter(self) -> float:
        """The distance of the farthest corner of the box, rounded up."""
        far = np.maximum(self.high - self.centre, self.centre - self.low) * float(self.std)
        p = self.settings.p
        value = far.max() if p == math.inf else far.sum() if p == 1 else math.sqrt((far**2).sum())
        return float(value) * (1 + 1e-9)

    def _proved(self, radius: Fraction) -> dict[str, Any]:
        """How a ball was proved, or nothing. Witnesses on the way improve the upper bound."""
        until = self._share()
        if self.settings.p != math.inf:
            upper, half = self.upper, (time.monotonic() + until) / 2
            found = self._cover(radius, self._until(half), 20_000)
            if found or self.upper < upper:
                return found
        problem = self.question.problem
        box = self._within(*self._enclosing(radius / self.std))
        asked = replace(problem, prop=replace(problem.prop, cases=(box,)))
        result = solve(asked, replace(self.settings.options, deadline=until))
        if result.verdict is Verdict.UNSAT:
            return {"how": "the ordinary search of its box", "domains": result.statistics.get("domains", 0)}
        if result.witness is not None:
            self._improved(result.witness.values["X"].ravel(), self.settings.p)
        return {}

    def _cover(self, radius: Fraction, expired: Callable[[], bool], most: int) -> dict[str, Any]:
        """How a ball of the 1- or 2-norm was proved by bounds over it and its parts, or nothing."""
        reach = radius / self.std
        low, high = self._enclosing(reach)
        around = Around(torch.from_numpy(self.centre.astype(np.float64)), -below(-reach), self.settings.p)
        found = cover(
            self.task, self.judge, low[None], high[None], self._confirm, expired, around, most,
        )  # fmt: skip
        if found.proved:
            told = [one.record(self.centre) for one in found.tree]
            how = "linear bounds over the ball, rounding counted"
            return {"how": how, "boxes": found.closed, **({"cover": told} if told else {})}
        if found.point is not None:
            self._improved(found.point, self.settings.p)
        return {}

    def _until(self, until: float) -> Callable[[], bool]:
        return lambda: time.monotonic() > until or self.settings.expired()

    def _share(self, parts: int = 5) -> float:
        """Until when one thing (a ball) may be worked on: a part of the time that is left."""
        deadline, now = self.settings.options.deadline, time.monotonic()
        return now + (20.0 if deadline is None else max(0.0, deadline - now) / parts)

    def _enclosing(self, reach: Fraction) -> tuple[np.ndarray, np.ndarray]:
        """The ball's box (n,), outward, within the region."""
        low = np.array([below(Fraction(float(c)) - reach) for c in self.centre])
        high = np.array([-below(-(Fraction(float(c)) + reach)) for c in self.centre])
        return np.maximum(low, self.low), np.minimum(high, self.high)

    def _within(self, low: np.ndarray, high: np.ndarray) -> Case:
        ends = (
            np.maximum(low.astype(np.float32), self.case.witness_lower),
            np.minimum(high.astype(np.float32), self.case.witness_upper),
        )
        return replace(self.case, lower=low, upper=high, witness_lower=ends[0], witness_upper=np.maximum(*ends))

    def _subspaces(self) -> None:
        """All t-subsets of inputs, each moving over its whole range, for t = 1, 2, …"""
        free = self.grid.free.tolist()
        search = few.Search(
            self.task, self.judge, self.centre.astype(np.float64), self.low, self.high, self._confirm,
            self.settings.expired,
        )  # fmt: skip
        for t in range(max(1, int(self.lower)), len(free) + 1):
            if t >= self.upper or self.settings.expired():
                break
            found = search.run(free, t)
            if found.point is not None:
                self._improved(found.point, 0)
            total = math.comb(len(free), t)
            self.counted.append(Counted(f"subspaces of {t} inputs", found.done, total))
            if not found.proved:
                self.reason = found.reason or f"some subspaces of {t} inputs hold a violation"
                break
            told = {"cover": list(found.told)} if found.told else {}
            self._below(Fraction(t + 1), {"subspaces": total, "inputs": t, "families": found.families, **told})
            self.whole = t == len(free)
        if self._closed():
            self.reason = ""
        elif not self.reason:
            self.reason = "the time was up"

    # -- the report -------------------------------------------------------------------------------

    def _report(self) -> Report:
        self._keep()
        settings, question = self.settings, self.question
        if self.point is not None:
            self.upper = min(self.upper, self.exactly(self.point))
        name = next(key for key, value in NORMS.items() if value == settings.p)
        kind = Kind.UNSAFE if self.witness is not None else Kind.UNKNOWN
        if self.whole and self.witness is None:
            kind = Kind.SAFE_CONTINUOUS
        closed = kind is Kind.UNSAFE and self._closed()
        what = "a grid point" if settings.on_grid else "a real input"
        replayed = f"{what}, as float32, in ONNX Runtime on the original model"
        above = [] if self.witness is None else [{"at most": self.upper, "witness": True}]
        return Report(
            kind, f"smallest change in L{name}: {question.text}", describe(self.grid), question.problem.prop.n,
            question.moved, tuple(self.counted), question.assumptions, self.point, self.witness,
            "" if self.witness is None else replayed,
            "" if closed or kind is Kind.SAFE_CONTINUOUS else self.reason, question.problem.warnings,
            {"seconds": time.monotonic() - self.began, "history": self.history},
            {"at least": below(self.lower), "at most": self._told(), "certificate": [*self.certificate, *above]},
        )  # fmt: skip


__all__ = ["NORMS", "DistanceSettings", "smallest_change"]
