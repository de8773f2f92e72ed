"""All changes of t inputs at once: families of subsets, bounded together, split where that does not prove them.

A family is some groups of inputs and how many of each may change: C(|S_1|, c_1) · C(|S_2|, c_2) · … subsets. All
t-subsets of the inputs are one family. Its bound is over the set of all its changes, not over the box of all its
inputs (``around.Few``). What stays open is split: a group into a stronger and a weaker half, with every way to share
its count, so that the parts' subsets add up to the whole's. A family of a single subset is a box, and covered like one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.region import least
from verinn.bounds.rounding import exact_kernels
from verinn.region.around import Few, OutOfTime, rows
from verinn.region.cover import MOST_TOLD, Pace, cover, still
from verinn.region.points import Judge
from verinn.region.search import out_of_memory, promising
from verinn.result import Witness
from verinn.search.explore import Task

Group = tuple[tuple[int, ...], int]
#: families bounded at once
BATCH = 16
#: boxes that the cover of single subsets may take, each
EACH = 2000


@dataclass(frozen=True)
class Family:
    """Groups (inputs, how many of them change), without those of none; the strongest inputs of a group first."""

    groups: tuple[Group, ...]

    @property
    def size(self) -> int:
        """How many subsets of exactly so many inputs it holds."""
        return math.prod(math.comb(len(inputs), count) for inputs, count in self.groups)

    @property
    def single(self) -> bool:
        return all(len(inputs) == count for inputs, count in self.groups)

    @property
    def inputs(self) -> list[int]:
        return [i for inputs, _ in self.groups for i in inputs]

    def parts(self) -> list[Family]:
        """The group with the most choices in halves, its count shared in every way; the strongest part comes last."""
        at = max(range(len(self.groups)), key=lambda g: math.comb(len(self.groups[g][0]), self.groups[g][1]))
        inputs, count = self.groups[at]
        middle = max(1, len(inputs) // 2)
        strong, weak = inputs[:middle], inputs[middle:]
        rest = (*self.groups[:at], *self.groups[at + 1 :])
        found = []
        for first in range(max(0, count - len(weak)), min(count, len(strong)) + 1):
            shared = tuple(group for group in ((strong, first), (weak, count - first)) if group[1])
            found.append(Family((*rest, *shared)))
        return found

    def record(self, proof: dict[str, object]) -> dict[str, object]:
        """For JSON."""
        return {"groups": [{"change": count, "of": sorted(inputs)} for inputs, count in self.groups], **proof}


@dataclass(frozen=True, eq=False)
class Found:
    """``done`` of all subsets are proved, in so many ``families``; ``proved``: every one. ``told``: the proof, by
    family, where it isn't too long. A witness (replayed) ends the search."""

    proved: bool
    done: int
    families: int
    witness: Witness | None = None
    point: np.ndarray | None = None
    reason: str = ""
    told: tuple[dict[str, object], ...] = ()


@dataclass(eq=False)
class Search:
    """All changes of ``count`` of the inputs ``free``, each anywhere between ``lower`` and ``upper`` (n,)."""

    task: Task
    judge: Judge
    centre: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    confirm: Callable[[np.ndarray], Witness | None]
    expired: Callable[[], bool]
    done: int = 0
    families: int = 0
    told: list[dict[str, object]] = field(default_factory=list)
    listed: bool = True

    def run(self, free: list[int], count: int) -> Found:
        """Until all is proved, a witness, or no time or memory. A single subset that stays open ends it unproved."""
        self.done, self.families, self.told, self.listed = 0, 0, [], True
        try:
            with torch.no_grad(), exact_kernels():
                return self._loop([Family(((tuple(self._ranked(free)), count),))])
        except OutOfTime:
            return self._found(False, reason="the time was up")
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return self._found(False, reason="out of memory")

    def _loop(self, waiting: list[Family]) -> Found:
        pace = Pace(BATCH)
        while waiting:
            if self.expired():
                return self._found(False, reason="the time was up")
            some, waiting = waiting[-pace.size :], waiting[: -pace.size]
            open_, point = self._bounded(some)
            pace.next()
            if point is not None:
                return self._found(False, *point)
            singles = [family for family in open_ if family.single]
            if singles:
                ended = self._covered(singles)
                if ended is not None:
                    return ended
            for family in open_:
                if not family.single:
                    waiting += family.parts()
        return self._found(True)

    def _found(
        self, proved: bool, witness: Witness | None = None, point: np.ndarray | None = None, reason: str = ""
    ) -> Found:
        told = tuple(self.told) if self.listed else ()
        return Found(proved, self.done, self.families, witness, point, reason, told)

    def _ranked(self, free: list[int]) -> list[int]:
        """Inputs by how much each alone moves the rows, at the centre."""
        x = torch.from_numpy(self.centre.astype(np.float64))[None]
        a, _ = rows(self.task, x, x)
        gap = np.maximum(self.upper - self.centre, self.centre - self.lower)
        gain = np.abs(a[0].numpy()).max(0) * gap
        return sorted(free, key=lambda i: -float(gain[i]))

    def _set(self, some: list[Family]) -> tuple[Few, Tensor, Tensor]:
        """The changes of some families, and their boxes."""
        centre = self.centre.astype(np.float64)
        low, high = (np.repeat(centre[None], len(some), 0) for _ in range(2))
        group = np.full(low.shape, -1, np.int64)
        most = np.zeros((len(some), max(len(family.groups) for family in some)), np.int64)
        for d, family in enumerate(some):
            for g, (inputs, count) in enumerate(family.groups):
                at = list(inputs)
                low[d, at], high[d, at], group[d, at], most[d, g] = self.lower[at], self.upper[at], g, count
        few = Few(torch.from_numpy(centre), torch.from_numpy(group), torch.from_numpy(most))
        return few, torch.from_numpy(low), torch.from_numpy(high)

    def _bounded(self, some: list[Family]) -> tuple[list[Family], tuple[Witness, np.ndarray] | None]:
        """The families that stay open, and a witness if one was found."""
        few, low, high = self._set(some)
        a, c = rows(self.task, low, high, few, self.expired)
        value = torch.maximum(least(a, c, low, high), few.least(a, c, low, high))
        live = still(self.task, value)
        for d in (~live).nonzero().squeeze(1).tolist():
            self._proved(some[d], {"rows at least": value[d].tolist()})
        index = live.nonzero().squeeze(1).tolist()
        return [some[d] for d in index], self._tried(few, a, low, high, value, index)

    def _proved(self, family: Family, proof: dict[str, object]) -> None:
        self.done, self.families = self.done + family.size, self.families + 1
        self._tell([family.record(proof)])

    def _tell(self, records: list[dict[str, object]]) -> None:
        self.listed = self.listed and len(self.told) + len(records) <= MOST_TOLD
        self.told = [*self.told, *records] if self.listed else []

    def _tried(
        self, few: Few, a: Tensor, low: Tensor, high: Tensor, value: Tensor, index: list[int]
    ) -> tuple[Witness, np.ndarray] | None:
        """The changes that lower the worst row of each open family most, by its linear bound."""
        points = []
        gains = few.gains(a, low, high)
        for d in index[:16]:
            r = int(value[d].argmin())
            x = few.centre.clone()
            for g, count in enumerate(few.most[d].tolist()):
                best = torch.where(few.group[d] == g, gains[d, r], -1.0).topk(count).indices
                x[best] = torch.where(a[d, r, best] > 0, low[d, best], high[d, best])
            points.append(x)
        if not points:
            return None
        x32 = torch.stack(points).numpy().astype(np.float32)
        at_points, _ = self.judge.rows(torch.from_numpy(x32.astype(np.float64)))
        for at in promising(self.task.spec, at_points)[:4]:
            witness = self.confirm(x32[at])
            if witness is not None:
                return witness, x32[at]
        return None

    def _covered(self, singles: list[Family]) -> Found | None:
        """Single subsets as boxes; how it ended, unless all are proved."""
        _, low, high = self._set(singles)
        most = EACH * len(singles)
        found = cover(self.task, self.judge, low.numpy(), high.numpy(), self.confirm, self.expired, most=most)
        self.done, self.families = self.done + found.starts, self.families + found.starts
        if not found.proved:
            reason = "" if found.point is not None else found.reason or "a subset of inputs was not decided"
            return self._found(False, found.witness, found.point, reason)
        subsets = [sorted(family.inputs) for family in singles]
        self.listed = self.listed and bool(found.tree) and len(self.told) + len(found.tree) <= MOST_TOLD
        self._tell(
            [{"subsets": subsets, "cover": [one.record(self.centre) for one in found.tree]}] if found.tree else []
        )
        return None
