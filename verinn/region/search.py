"""Branch and bound over integer boxes: LiRPA proves whole boxes, clips others, and single points are decided exactly.

Nothing is forgotten: at any time what is covered and what waits add up to the whole, as whole numbers. So an end
without waiting boxes is a proof, and anything else that ends the search (time, memory, an interrupt) is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.region import box, clip, least
from verinn.bounds.rounding import exact_kernels
from verinn.ops.program import Program
from verinn.region.around import rows
from verinn.region.points import OPEN, SAFE, Judge
from verinn.region.spaces import Points, Space
from verinn.result import Witness
from verinn.search.explore import Task
from verinn.search.spec import Spec


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes low..high int64 (D, F) that wait, with the least bound known of each (D,)."""

    low: np.ndarray
    high: np.ndarray
    worst: np.ndarray

    def __len__(self) -> int:
        return len(self.worst)

    def part(self, index: np.ndarray | slice) -> Boxes:
        return Boxes(self.low[index], self.high[index], self.worst[index])

    @staticmethod
    def joined(one: Boxes, two: Boxes) -> Boxes:
        pairs = ((one.low, two.low), (one.high, two.high), (one.worst, two.worst))
        return Boxes(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Counts:
    """What was done. ``covered`` of ``total``, in the space's units; ``evaluated``: points decided one by one, of
    them ``doubtful`` by whole numbers; ``proved`` of ``bounded`` boxes; ``disputed``: points that violate by the
    network's exact function and not in ONNX Runtime, or that can't be told; ``stuck``: units that can't be split.
    """

    total: int
    covered: int = 0
    evaluated: int = 0
    doubtful: int = 0
    bounded: int = 0
    proved: int = 0
    disputed: int = 0
    stuck: int = 0


@dataclass(frozen=True, eq=False)
class Ended:
    """How the search stands: a witness (float32 input, replayed), or what waits, and why it stopped."""

    counts: Counts
    waiting: Boxes
    witness: Witness | None = None
    point: np.ndarray | None = None
    reason: str = ""

    @property
    def proved(self) -> bool:
        counts = self.counts
        return self.witness is None and counts.covered == counts.total and not (counts.disputed or counts.stuck)


@dataclass(frozen=True)
class Limits:
    """``batch``: boxes at once; ``leaf``: boxes of so few points are listed; ``store``: bytes that may wait."""

    expired: Callable[[], bool]
    batch: int = 256
    leaf: int = 32
    store: int = 1 << 30
    memory: int = 256 << 20
    tell: Callable[[Counts, int], None] | None = None
    keep: Callable[[Counts, Boxes], None] | None = None


@dataclass(eq=False)
class Search:
    """One search: the spec of one case over one space. ``confirm`` replays a float32 input in ONNX Runtime."""

    task: Task
    judge: Judge
    space: Space
    confirm: Callable[[np.ndarray], Witness | None]
    limits: Limits
    counts: Counts = field(init=False)
    waiting: Boxes = field(init=False)

    def __post_init__(self) -> None:
        low, high = self.space.root
        self.counts = Counts(self.space.count(low, high))
        self.waiting = Boxes(low[None], high[None], np.full(1, -np.inf))

    def resume(self, counts: Counts, waiting: Boxes) -> None:
        """Go on from where a search of the same question stood. ValueError when the numbers don't add up."""
        left = sum(self.space.count(low, high) for low, high in zip(waiting.low, waiting.high, strict=True))
        low, high = self.space.root
        inside = (waiting.low >= low).all() and (waiting.high <= high).all()
        if counts.total != self.counts.total or counts.covered + counts.stuck + left != counts.total or not inside:
            raise ValueError("covered and waiting do not add up to the whole")
        self.counts, self.waiting = counts, waiting

    def run(self) -> Ended:
        """Until a witness, nothing that waits, or a limit. Errors other than lack of memory get out."""
        try:
            with torch.no_grad(), exact_kernels():
                return self._loop()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return Ended(self.counts, self.waiting, reason="out of memory")

    def _loop(self) -> Ended:
        while len(self.waiting):
            if self.limits.expired():
                return Ended(self.counts, self.waiting, reason="the time was up")
            if self.waiting.low.nbytes * 2 > self.limits.store:
                return Ended(self.counts, self.waiting, reason="the boxes that wait outgrew the memory limit")
            start = max(0, len(self.waiting) - self.limits.batch)
            found = self._step(self.waiting.part(slice(start, None)), self.waiting.part(slice(0, start)))
            if found is not None:
                return Ended(self.counts, self.waiting, *found)
            if self.limits.tell is not None:
                self.limits.tell(self.counts, len(self.waiting))
            if self.limits.keep is not None:
                self.limits.keep(self.counts, self.waiting)
        reason = ""
        if self.counts.stuck:
            reason = "parts of cells can't be split any more and are not proved"
        elif self.counts.disputed:
            reason = (
                f"{self.counts.disputed} points violate by the network's exact function, or can't be told, and do not "
                "in ONNX Runtime"
            )
        return Ended(self.counts, self.waiting, reason=reason)

    def _step(self, boxes: Boxes, rest: Boxes) -> tuple[Witness, np.ndarray] | None:
        """One batch; ``waiting`` and ``counts`` change together, at the end, so that an interruption loses nothing."""
        counts = self.counts
        if isinstance(self.space, Points):
            few = np.array(
                [self.space.count(a, b) <= max(1, self.limits.leaf) for a, b in zip(boxes.low, boxes.high, strict=True)]
            )
            listed, boxes = boxes.part(few), boxes.part(~few)
            if len(listed):
                counts, found = self._listed(self.space, listed, counts)
                if found is not None:
                    self.counts = counts
                    return found
        children = boxes
        if len(boxes):
            counts, children, found = self._bounded(boxes, counts)
            if found is not None:
                self.counts = counts
                return found
        self.waiting, self.counts = Boxes.joined(rest, children), counts
        return None

    def _listed(self, space: Points, boxes: Boxes, counts: Counts) -> tuple[Counts, tuple[Witness, np.ndarray] | None]:
        """Every point of small boxes, decided exactly."""
        levels = np.concatenate([space.listed(a, b) for a, b in zip(boxes.low, boxes.high, strict=True)])
        x = space.grid.fed(space.all(levels))
        status, doubtful = self.judge.status(x)
        disputed = 0
        for at in np.flatnonzero(status != SAFE):
            witness = self.confirm(x[at])
            if witness is not None:
                return counts, (witness, x[at])
            disputed += 1
        return replace(
            counts,
            covered=counts.covered + len(x),
            evaluated=counts.evaluated + len(x),
            doubtful=counts.doubtful + doubtful,
            disputed=counts.disputed + disputed,
        ), None

    def _bounded(self, boxes: Boxes, counts: Counts) -> tuple[Counts, Boxes, tuple[Witness, np.ndarray] | None]:
        """CROWN over boxes: proved, clipped, tried, split."""
        lower, upper = (torch.from_numpy(end) for end in self.space.real(boxes.low, boxes.high))
        a, c = rows(self.task, lower, upper)
        open_, low_real, high_real, worst = judge_rows(self.task.spec, a, c, lower, upper)
        live = open_.any(1).numpy()
        low, high = boxes.low[live].copy(), boxes.high[live].copy()
        before = self._measure(boxes.low, boxes.high)
        self.space.inward(low, high, low_real.numpy()[live], high_real.numpy()[live])
        some = (low <= high).all(1)
        mix = _mix(self.task.spec, a, open_).numpy()[live][some][:, self.space.free]
        low, high, worst_ = low[some], high[some], worst.numpy()[live][some]
        after = self._measure(low, high)
        counts = replace(
            counts,
            covered=counts.covered + before - after,
            bounded=counts.bounded + len(boxes),
            proved=counts.proved + len(boxes) - len(low),
        )
        left = Boxes(low, high, worst_)
        if not len(left):
            return counts, left, None
        found = self._try(left, mix)
        if found is not None:
            return counts, left, found
        return self._split(left, mix, counts)

    def _measure(self, low: np.ndarray, high: np.ndarray) -> int:
        return sum(self.space.count(a, b) for a, b in zip(low, high, strict=True))

    def _try(self, boxes: Boxes, mix: np.ndarray) -> tuple[Witness, np.ndarray] | None:
        """The middle of each box and the corner that lowers its open rows, in ONNX Runtime where they look right."""
        lower, upper = self.space.real(boxes.low, boxes.high)
        if isinstance(self.space, Points):
            middle, corner = (boxes.low + boxes.high) >> 1, np.where(mix > 0, boxes.low, boxes.high)
            x = self.space.grid.fed(self.space.all(np.concatenate([middle, corner])))
        else:
            full = np.zeros_like(lower)
            full[:, self.space.free] = mix
            x = np.concatenate([(lower + upper) / 2, np.where(full > 0, lower, upper)]).astype(np.float32)
            x = self.inside(x)
        low, _ = self.judge.rows(torch.from_numpy(x.astype(np.float64)))
        for at in promising(self.task.spec, low)[:8]:
            witness = self.confirm(x[at])
            if witness is not None:
                return witness, x[at]
        return None

    def inside(self, x: np.ndarray) -> np.ndarray:
        """float32 points moved into the box that witnesses have to lie in."""
        case = self.task.spec.cases[0]
        return np.asarray(np.clip(x, case.witness_lower, case.witness_upper))

    def _split(self, boxes: Boxes, mix: np.ndarray, counts: Counts) -> tuple[Counts, Boxes, None]:
        width = self.space.width(boxes.low, boxes.high)
        can = width.max(1, initial=0) > 0
        single = boxes.part(~can)
        if not isinstance(self.space, Points):  # a single point is decided exactly, in the next round
            counts = replace(counts, stuck=counts.stuck + self._measure(single.low, single.high))
            single = boxes.part(slice(0, 0))
        boxes, mix, width = boxes.part(can), mix[can], width[can]
        if not len(boxes):
            return counts, single, None
        lower, upper = self.space.real(boxes.low, boxes.high)
        score = np.abs(mix) * (upper - lower)[:, self.space.free] * (width > 0)
        score = np.where(score.sum(1, keepdims=True) > 0, score, width)
        at = score.argmax(1)
        below, above = self.space.halves(boxes.low, boxes.high, at)
        index = np.arange(len(at))
        first, second = boxes.high.copy(), boxes.low.copy()
        first[index, at], second[index, at] = below, above
        down = mix[index, at] > 0  # the half with less comes last, and is looked at first
        one, two = Boxes(boxes.low, first, boxes.worst), Boxes(second, boxes.high, boxes.worst)
        order = np.argsort(-boxes.worst, kind="stable")
        pairs = [
            np.stack(
                [
                    np.where(down[:, None], getattr(two, end), getattr(one, end)),
                    np.where(down[:, None], getattr(one, end), getattr(two, end)),
                ],
                1,
            )[order]
            for end in ("low", "high")
        ]
        low, high = (pair.reshape(-1, pair.shape[-1]) for pair in pairs)
        made = Boxes(low, high, np.repeat(boxes.worst[order], 2))
        return counts, Boxes.joined(made, single), None


def judge_rows(spec: Spec, a: Tensor, c: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(open (D, J), lower, upper, worst (D,)): what is not refuted, and the part of each box where it may hold."""
    value = least(a, c, lower, upper)
    beaten = (value > 0) | (spec.strict[:1] & (value >= 0))
    low, high = torch.full_like(lower, torch.inf), torch.full_like(lower, -torch.inf)
    opened, worst = [], torch.full((len(lower),), torch.inf, dtype=torch.float64)
    for j in range(spec.conjunctions):
        mine = spec.owner == j
        still = ~beaten[:, mine].any(1)
        here = still.nonzero().squeeze(1)
        if len(here):
            region = clip(box(lower[here], upper[here]).with_rows(a[here][:, mine], c[here][:, mine]))
            possible = ~(region.lower > region.upper).any(1)
            still[here] = possible
            here = here[possible]
            low[here] = torch.minimum(low[here], region.lower[possible])
            high[here] = torch.maximum(high[here], region.upper[possible])
            worst[here] = torch.minimum(worst[here], value[here][:, mine].amax(1))
        opened.append(still)
    return torch.stack(opened, 1), low, high, worst


def _mix(spec: Spec, a: Tensor, open_: Tensor) -> Tensor:
    """The sum (D, n) of the rows of open conjunctions."""
    return (a * open_[:, spec.owner].double().unsqueeze(-1)).sum(1)


def promising(spec: Spec, low: Tensor) -> np.ndarray:
    """Points whose rows' lower bounds (P, R) allow a violation, the clearest first."""
    best = torch.stack([low[:, spec.owner == j].amax(1) for j in range(spec.conjunctions)], 1).amin(1)
    order = best.argsort()
    return order[best[order] <= 0].numpy()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any library's words."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        word in text for word in ("out of memory", "can't allocate", "alloc_failed")
    )


def prepare(graph_program: Program, spec: Spec, budget: int = 256 << 20) -> tuple[Task, Judge]:
    """The task in the dtype of ``graph_program`` and the judge in float64."""
    careful = (
        graph_program if graph_program.dtype == torch.float64 else Program.prepare(graph_program.graph, torch.float64)
    )
    return Task(graph_program, spec, careful, budget=budget), Judge(careful, spec)


__all__ = ["OPEN", "Boxes", "Counts", "Ended", "Limits", "Search", "prepare"]
