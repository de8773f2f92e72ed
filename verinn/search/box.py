"""One box as the search over ReLU phases sees it: relaxed, tightened, halved, and what it leaves to search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from verinn.bounds.climb import Goals, Multipliers, Pace, Rows, climb
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.dual import Columns, columns_of
from verinn.bounds.interval import Interval
from verinn.bounds.relevance import relevance
from verinn.bounds.rounding import cast_down, cast_up
from verinn.ops.program import Program
from verinn.search.lift import Memory, tightened
from verinn.search.neurons import PhaseTask
from verinn.search.spec import Spec
from verinn.search.touch import PlainRows

#: conjunctions that are bounded together
BLOCK = 512


@dataclass(frozen=True)
class Refinement:
    """How single neurons of a case's box are refined: by ``kind`` "lp" or "milp". ``left``: seconds there still are."""

    kind: str
    left: Callable[[], float]


@dataclass(frozen=True, eq=False)
class Setting:
    """What all boxes of one case share. ``budget``: bytes for one block of coefficients; ``workers``: threads."""

    program: Program
    referee: Program
    spec: Spec
    case: int
    width: int  # domains that a batch should have
    budget: int
    workers: int
    expired: Callable[[], bool]
    refinement: Refinement | None = None

    @cached_property
    def relevant(self) -> dict[str, Tensor]:
        """The elements of values that the rows can depend on (see ``relevance``)."""
        return read_by(self.program, self.spec, self.case)


@dataclass(frozen=True, eq=False)
class Open:
    """A conjunction that one climb doesn't refute in a box: its number, the bound reached, and its search."""

    conjunction: int
    bound: float
    task: PhaseTask


@dataclass(frozen=True, eq=False)
class Box:
    """A box (1, n), float64, of a setting's case, relaxed in the search's dtype and in float64.

    ``tight``: whether its neurons were tightened already. ``depth``: how often it was halved.
    ``held``: where phases are chosen, what is known there of the unstable neurons, (1, U) by column;
    ``memories``: by layer, what bounded its neurons there.
    """

    setting: Setting
    lower: Tensor
    upper: Tensor
    relaxation: Relaxation
    careful: Relaxation
    tight: bool = False
    depth: int = 0
    held: tuple[Tensor, Tensor] | None = None
    memories: dict[int, Memory] = field(default_factory=dict)

    @staticmethod
    def of(
        setting: Setting, lower: Tensor, upper: Tensor, careful: Relaxation, tight: bool = False, depth: int = 0
    ) -> Box:
        """The box as the search sees it, from what is known of it in float64."""
        dtype = setting.program.dtype
        known = {name: (cast_down(low, dtype), cast_up(high, dtype)) for name, (low, high) in careful.intervals.items()}
        return Box(setting, lower, upper, Relaxation(setting.program, known), careful, tight, depth)

    @cached_property
    def columns(self) -> Columns:
        return columns_of(self.relaxation, self.setting.relevant)

    @property
    def free_inputs(self) -> int:
        """How many inputs are not fixed."""
        return int((self.upper > self.lower).sum())

    @cached_property
    def open(self) -> Tensor:
        """bool (U,): columns of neurons whose phase is open."""
        free = self.free()
        return ((free.low < 0) & (free.high > 0))[0]

    def task(self, goals: Goals, rows: Tensor) -> PhaseTask:
        """The search for a violation of all of some goals, of which ``rows`` (R,) are rows of the spec."""
        known, setting = self.relaxation.intervals, self.setting
        low = self.columns.gather({name: ends[0] for name, ends in known.items()})
        high = self.columns.gather({name: ends[1] for name, ends in known.items()})
        if self.held is not None:
            low, high = self.held
        return PhaseTask(
            self.relaxation,
            self.columns,
            goals,
            rows,
            self.lower,
            self.upper,
            low,
            high,
            (high > -low).to(low.dtype),
            torch.full((1, len(goals)), 1.0 / max(1, len(goals)), dtype=low.dtype, device=low.device),
            setting.spec,
            setting.case,
            self.careful,
            setting.width,
            cut=self.held is not None,
            expired=setting.expired,
        )

    def goals(self, mine: Tensor) -> Goals:
        return goals_of(self.setting.spec, self.setting.case, mine)

    def left(self, conjunctions: Tensor) -> list[Open]:
        """Conjunctions that one climb doesn't refute, the nearest to a proof first."""
        found: list[Open] = []
        spec = self.setting.spec
        case = torch.tensor([self.setting.case], device=spec.owner.device)
        beaten = PlainRows.of(spec, self.careful.program).beaten(self.careful, case)[0]
        conjunctions = conjunctions[~(beaten & (spec.owner == conjunctions.unsqueeze(1))).any(1)]
        for block in conjunctions.split(BLOCK) if len(conjunctions) else ():
            found.extend(_climbed(self, block))
        return sorted(found, key=lambda one: -one.bound)

    def free(self) -> PhaseTask:
        """The box without goals, with what it remembers."""
        none = self.setting.spec.owner.new_zeros(0)
        m = self.setting.spec.y.shape[2]
        task = self.task(Goals(self.lower.new_zeros((0, m)), None, self.lower.new_zeros(0)), none)
        return replace(task, memories=dict(self.memories))

    def _lifted(self, pace: Pace, workers: int) -> PhaseTask | None:
        own = {layer: memory.copy() for layer, memory in self.memories.items()}
        return tightened(replace(self.free(), memories=own), pace, workers=workers)

    def remembering(self, pace: Pace) -> Box | None:
        """The box as one that is cut: its neurons bounded once more, with what bounded them remembered.

        None: no input is in it.
        """
        free = self.free()
        return replace(self, held=(free.low, free.high))._known(pace, self.setting.workers)

    def side(self, column: int, on: bool, pace: Pace, workers: int = 1) -> Box | None:
        """The box where one unstable neuron is on (or off), tightened. None: no input is in it.

        Later layers are bounded anew with a phase known before them, for all conjunctions: what splitting
        phases at bounds that stay can't do.
        """
        free = self.free()
        low, high = free.low.clone(), free.high.clone()
        (low if on else high)[0, column] = 0.0
        return replace(self, held=(low, high), depth=self.depth + 1)._known(pace, workers)

    def _known(self, pace: Pace, workers: int) -> Box | None:
        """Bounded anew, where phases are chosen."""
        lifted = self._lifted(pace, workers)
        if lifted is None:
            return None
        return replace(self, held=(lifted.low, lifted.high), memories=lifted.memories, tight=True)

    def tightened(self, pace: Pace) -> Box:
        """The box with every unstable neuron bounded by slopes of its own.

        What is found holds in the whole box, so it serves all conjunctions and every smaller box.
        """
        assert self.held is None, "phases are chosen in boxes that are tight already"
        lifted = self._lifted(pace, self.setting.workers)
        assert lifted is not None, "bounds that hold for every input of a box can't exclude each other"
        intervals = dict(self.careful.intervals)
        for i, source in enumerate(self.columns.sources):
            index, part = self.columns.index[i], self.columns.part(i)
            ends = lifted.low[:, part].double(), lifted.high[:, part].double()
            intervals[source] = narrowed(intervals[source], index, ends)
        careful = Relaxation(self.careful.program, intervals)
        return Box.of(self.setting, self.lower, self.upper, careful, True, self.depth)

    def halves(self, axis: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Lower and upper ends of both halves; they share the middle."""
        middle = (self.lower[:, axis] + self.upper[:, axis]) / 2
        left, right = self.upper.clone(), self.lower.clone()
        left[:, axis], right[:, axis] = middle, middle
        return (self.lower, left), (right, self.upper)


def narrowed(known: Interval, index: Tensor, ends: Interval) -> Interval:
    """An interval (1, *shape) where some of its elements, by number (K,), have other ends (1, K), if narrower ones."""
    low, high = (end.flatten(1) for end in known)
    low = low.index_copy(1, index, torch.maximum(low[:, index], ends[0]))
    high = high.index_copy(1, index, torch.minimum(high[:, index], ends[1]))
    return low.reshape(known[0].shape), high.reshape(known[1].shape)


def relaxed(
    setting: Setting,
    lower: Tensor,
    upper: Tensor,
    conjunctions: Tensor,
    known: dict[str, Interval] | None = None,
    depth: int = 0,
) -> tuple[Box, list[Open]] | None:
    """A box, and those of some conjunctions that it leaves open. None: time ran out.

    The box is relaxed in the search's dtype first; in float32 the price of rounding makes many intervals
    wider than they need be, so what is open after that is relaxed again in float64. ``known``: float64
    intervals that hold already.
    """
    program, referee = setting.program, setting.referee
    dtype, budget, workers, relevant = program.dtype, setting.budget, setting.workers, setting.relevant
    held = {name: (cast_down(low, dtype), cast_up(high, dtype)) for name, (low, high) in (known or {}).items()}
    refined = partial(relax, budget=budget, workers=workers, relevant=relevant, expired=setting.expired)
    rough = refined(program, cast_down(lower, dtype), cast_up(upper, dtype), held)
    found = {name: (low.double(), high.double()) for name, (low, high) in rough.intervals.items()}
    if setting.expired():
        return None
    box = Box.of(setting, lower, upper, Relaxation(referee, found), depth=depth)
    left = box.left(conjunctions)
    if not left or dtype == torch.float64 or setting.expired():
        return box, left
    fine = refined(referee, lower, upper, found)
    box = Box.of(setting, lower, upper, fine, depth=depth)
    left = box.left(numbers(left, conjunctions))
    return None if left and setting.expired() else (box, left)


def goals_of(spec: Spec, s: int, mine: Tensor) -> Goals:
    """Rows (an index) of the spec for case s, with the constraints on its inputs."""

    def errors(e: Tensor | None, like: Tensor) -> Tensor | None:
        if e is None:
            return None
        return torch.cat([e[s][mine], torch.zeros_like(like)])

    cut, cut_c = spec.cut[s], spec.cut_c[s]
    none = spec.y.new_zeros((len(cut), spec.y.shape[2]))
    x = None
    if spec.x is not None or len(cut):
        own = spec.x[s][mine] if spec.x is not None else cut.new_zeros((len(mine), cut.shape[1]))
        x = torch.cat([own, cut])
    return Goals(
        torch.cat([spec.y[s][mine], none]),
        x,
        torch.cat([spec.rhs[s][mine], -cut_c]),
        errors(spec.y_error, none),
        errors(spec.x_error, cut),
    )


def read_by(
    program: Program, spec: Spec, case: int, intervals: Mapping[str, Interval] | None = None
) -> dict[str, Tensor]:
    """The elements of values that the rows of a case can depend on (see ``relevance``), given what is known."""
    outputs = program.graph.outputs
    sizes = [torch.Size(program.shapes[out.value]).numel() for out in outputs]
    read = spec.y[case] != 0
    if spec.y_error is not None:
        read = read | (spec.y_error[case] != 0)
    start: dict[str, Tensor] = {}
    for out, part in zip(outputs, read.any(0).split(sizes), strict=True):
        mask = part.reshape(1, *program.shapes[out.value])
        start[out.value] = start[out.value] | mask if out.value in start else mask
    return relevance(program, start, intervals)


def numbers(left: list[Open], like: Tensor) -> Tensor:
    """The numbers of open conjunctions, as a tensor of ``like``'s kind."""
    return torch.tensor([one.conjunction for one in left], dtype=like.dtype, device=like.device)


def _climbed(box: Box, conjunctions: Tensor) -> list[Open]:
    """Conjunctions bounded in one pass: those that stay open, each with its bound and its multipliers."""
    spec, case = box.setting.spec, box.setting.case
    owner = spec.owner
    every = (owner.unsqueeze(0) == conjunctions.unsqueeze(1)).any(0).nonzero().squeeze(1)
    task = box.task(box.goals(every), every)
    cuts = len(task.goals) - len(every)
    mine = owner[every].unsqueeze(0) == conjunctions.unsqueeze(1)
    allowed = torch.cat([mine, mine.new_ones((len(mine), cuts))], 1)
    size = len(conjunctions)
    none = task.low.new_zeros((size, 0))
    rows = Rows(task.low, task.high, none.long(), none, allowed)
    gamma = allowed.to(none.dtype) / allowed.sum(1, keepdim=True)
    first = Multipliers(task.alpha.expand(size, -1), none, gamma)
    best, found, _ = climb(task.frame, task.goals, rows, first, Pace(20), 0.0, box.setting.expired)
    proof = task.certified(rows, found)
    left = []
    for i, j in enumerate(conjunctions.tolist()):
        own = (owner == j).nonzero().squeeze(1)
        strict = bool(spec.strict[case][own].all()) and not cuts
        if proof[i] > 0 or (strict and proof[i] >= 0 and float(found.gamma[i].sum()) > 0):
            continue
        fresh = box.task(box.goals(own), own)
        gamma = found.gamma[i : i + 1][:, allowed[i]]
        left.append(Open(j, float(best[i]), replace(fresh, alpha=found.alpha[i : i + 1], gamma=gamma)))
    return left
