"""Real boxes, perhaps within a ball, proved to hold no violation: what lower bounds of distances rest on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from verinn.bounds.region import least
from verinn.bounds.rounding import exact_kernels
from verinn.region.around import Around, OutOfTime, rows
from verinn.region.points import Judge
from verinn.region.search import judge_rows, out_of_memory, promising
from verinn.result import Witness
from verinn.search.explore import Task

#: boxes of a cover, and numbers in them, that are told one by one
MOST_TOLD, MOST_NUMBERS = 5000, 1 << 21
#: seconds that are long for one batch
SLOW = 0.6
#: boxes of one batch from which the ball's corners are tried
MOST_CORNERS = 8
#: boxes whose widest side is below this part of their place are not halved any more
NARROW = 1e-9


@dataclass(frozen=True, eq=False)
class Cover:
    """``proved``: no box is left. ``closed``: boxes that bounds proved or that miss the ball, lower and upper (K, n);
    ``starts``: of the boxes given, those that nothing of is left. A witness ends the search. ``tree``: for every box
    that was bounded what became of it, in a form that can be checked without the search (see ``Looked``)."""

    proved: bool
    closed: int
    starts: int
    witness: Witness | None = None
    point: np.ndarray | None = None
    reason: str = ""
    tree: tuple[Looked, ...] = ()


@dataclass(frozen=True, eq=False)
class Looked:
    """One box lower, upper (n,) of a proved cover, and why no violation is missed there: ``outside`` the ball; or the
    rows' least values over it, ``least`` (R,), show that there is none; or else only the box ``kept``[0] to ``kept``[1]
    in it may hold one (its rows are above zero in the rest), and both halves of that are boxes of the cover as well."""

    lower: np.ndarray
    upper: np.ndarray
    least: np.ndarray
    outside: bool
    kept: tuple[np.ndarray, np.ndarray] | None

    def record(self, centre: np.ndarray) -> dict[str, object]:
        """For JSON: only inputs that the box lets move, by number, each with its ends."""
        found: dict[str, object] = {"box": _ends(self.lower, self.upper, centre)}
        if self.kept is not None:
            return {**found, "halved": _ends(*self.kept, centre)}
        return {**found, "outside the ball": True} if self.outside else {**found, "rows at least": self.least.tolist()}


def _ends(lower: np.ndarray, upper: np.ndarray, centre: np.ndarray) -> dict[str, list[float]]:
    moving = np.flatnonzero((lower != centre) | (upper != centre)).tolist()
    return {str(i): [float(lower[i]), float(upper[i])] for i in moving}


def cover(
    task: Task,
    judge: Judge,
    lower: np.ndarray,
    upper: np.ndarray,
    confirm: Callable[[np.ndarray], Witness | None],
    expired: Callable[[], bool],
    around: Around | None = None,
    most: int = 20_000,
    batch: int = 256,
) -> Cover:
    """Boxes (K, n) float64 bounded and halved until all are proved, ``most`` were bounded, or a witness was replayed.

    ``confirm`` gets float32 points of the boxes (and of the ball). Lack of memory and time end it unproved.
    """
    boxes = _Stack(torch.from_numpy(lower), torch.from_numpy(upper), torch.arange(len(lower)))
    left = np.ones(len(lower), np.int64)  # how many boxes wait for each one given
    closed = bounded = 0
    tree: list[Looked] = []
    pace = Pace(batch)
    try:
        with torch.no_grad(), exact_kernels():
            while len(boxes):
                if expired() or bounded > most:
                    reason = "the time was up" if expired() else f"{most} boxes were bounded"
                    return Cover(False, closed, int((left == 0).sum()), reason=reason)
                some, boxes = boxes.taken(pace.size)
                bounded += len(some)
                children, found, looked = _step(task, judge, some, around, confirm, expired)
                pace.next()
                if bounded <= min(MOST_TOLD, MOST_NUMBERS // lower.shape[1]):
                    tree.extend(looked)
                if found is not None:
                    return Cover(False, closed, int((left == 0).sum()), *found)
                if children is None:
                    return Cover(False, closed, int((left == 0).sum()), reason="a box can't be split any more")
                closed += len(some) - len(children) // 2
                np.subtract.at(left, some.owner.numpy(), 1)
                np.add.at(left, children.owner.numpy(), 1)
                boxes = boxes.joined(children)
    except OutOfTime:
        return Cover(False, closed, int((left == 0).sum()), reason="the time was up")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Cover(False, closed, int((left == 0).sum()), reason="out of memory")
    return Cover(True, closed, len(left), tree=tuple(tree) if len(tree) == bounded else ())


@dataclass
class Pace:
    """How many are bounded at once: few at first, ``most`` at last, fewer where that takes long, so that time and
    interrupts are looked at in time."""

    most: int
    size: int = 4
    began: float = field(default_factory=time.monotonic)

    def next(self) -> None:
        """After each batch."""
        took, self.began = time.monotonic() - self.began, time.monotonic()
        self.size = (
            max(1, self.size // 2) if took > SLOW else min(self.most, 2 * self.size) if took < SLOW / 4 else self.size
        )


@dataclass(frozen=True, eq=False)
class _Stack:
    """Boxes that wait, and which of those given they are parts of."""

    lower: Tensor
    upper: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.owner)

    def part(self, index: Tensor | slice) -> _Stack:
        return _Stack(self.lower[index], self.upper[index], self.owner[index])

    def taken(self, count: int) -> tuple[_Stack, _Stack]:
        start = max(0, len(self) - count)
        return self.part(slice(start, None)), self.part(slice(0, start))

    def joined(self, other: _Stack) -> _Stack:
        pairs = ((self.lower, other.lower), (self.upper, other.upper), (self.owner, other.owner))
        return _Stack(*(torch.cat(pair) for pair in pairs))


def _step(
    task: Task,
    judge: Judge,
    some: _Stack,
    around: Around | None,
    confirm: Callable[[np.ndarray], Witness | None],
    expired: Callable[[], bool],
) -> tuple[_Stack | None, tuple[Witness, np.ndarray] | None, list[Looked]]:
    """One batch: (halves of what stays open, or None where a box can't be halved; a witness and its point; what
    became of each box)."""
    a, c = rows(task, some.lower, some.upper, around, expired)
    open_, low, high, _ = judge_rows(task.spec, a, c, some.lower, some.upper)
    live = open_.any(1)
    value, outside = least(a, c, some.lower, some.upper), torch.zeros_like(live)
    if around is not None:
        outside = around.misses(some.lower, some.upper)
        value = torch.maximum(value, around.least(a, c, some.lower, some.upper))
        live &= ~outside
        live &= still(task, value)
    looked = [
        Looked(
            some.lower[d].numpy(), some.upper[d].numpy(), value[d].numpy(), bool(outside[d]),
            (low[d].numpy(), high[d].numpy()) if bool(live[d]) else None,
        )
        for d in range(len(some))
    ]  # fmt: skip
    if not bool(live.any()):
        return some.part(slice(0, 0)), None, looked
    rest = _Stack(low[live], high[live], some.owner[live])
    mix = (a * open_[:, task.spec.owner].double().unsqueeze(-1)).sum(1)[live]
    tried = [(rest.lower + rest.upper) / 2, torch.where(mix > 0, rest.lower, rest.upper)]
    if around is not None:  # the ball's own corners, for each row of the boxes that are most open
        some_ = value[live].amin(1).argsort()[:MOST_CORNERS]
        rows_ = a[live][some_]
        ends = (end[some_].repeat_interleave(rows_.shape[1], 0) for end in (rest.lower, rest.upper))
        tried.append(around.lowest(rows_.flatten(0, 1), *ends))
    x = torch.cat(tried).numpy()
    case = task.spec.cases[0]
    x = np.clip(x.astype(np.float32), case.witness_lower, case.witness_upper)
    at_points, _ = judge.rows(torch.from_numpy(x.astype(np.float64)))
    for at in promising(task.spec, at_points)[:4]:
        if around is None or around.holds(x[at : at + 1])[0]:
            witness = confirm(x[at])
            if witness is not None:
                return None, (witness, x[at]), []
    return _halved(rest, mix), None, looked


def still(task: Task, value: Tensor) -> Tensor:
    """Boxes (D,) with a conjunction that no row (D, R) refutes."""
    spec = task.spec
    beaten = (value > 0) | (spec.strict[:1] & (value >= 0))
    return torch.stack([~beaten[:, spec.owner == j].any(1) for j in range(spec.conjunctions)], 1).any(1)


def _halved(rest: _Stack, mix: Tensor) -> _Stack | None:
    width = rest.upper - rest.lower
    score = mix.abs() * width
    score = torch.where(score.sum(1, keepdim=True) > 0, score, width)
    at = score.argmax(1, keepdim=True)
    place = torch.maximum(rest.lower.abs(), rest.upper.abs()).gather(1, at)
    if bool((width.gather(1, at) <= NARROW * (1 + place)).any()):
        return None
    middle = (rest.lower.gather(1, at) + rest.upper.gather(1, at)) / 2
    one = _Stack(rest.lower, rest.upper.scatter(1, at, middle), rest.owner)
    return one.joined(_Stack(rest.lower.scatter(1, at, middle), rest.upper, rest.owner))
