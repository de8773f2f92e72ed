"""Climbing the dual: rows of bounds are lifted together by Adam, each as far as it needs to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.bounds.domain import split_inputs
from verinn.bounds.dual import Frame, Primal, pieces
from verinn.ops.program import Program


@dataclass(frozen=True, eq=False)
class Goals:
    """Linear rows over outputs and inputs, each at most zero where a violation is: y·Y + x·X − rhs ≤ 0.

    ``y`` (G, m), ``x`` (G, n) or None, ``rhs`` (G,), all float64; errors as in Spec, or None.
    """

    y: Tensor
    x: Tensor | None
    rhs: Tensor
    y_error: Tensor | None = None
    x_error: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rhs)

    def start(self, program: Program, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Coefficients by value name and constants (B,) of the rows mixed by ``weights`` (B, G)."""
        dtype = program.dtype
        sizes = [torch.Size(program.shapes[out.value]).numel() for out in program.graph.outputs]
        mixed = weights @ self.y.to(dtype)
        start: dict[str, Tensor] = {}
        for out, part in zip(program.graph.outputs, mixed.split(sizes, 1), strict=True):
            rows = part.reshape(-1, *program.shapes[out.value])
            start[out.value] = start[out.value] + rows if out.value in start else rows
        if self.x is not None:
            for name, part in split_inputs(program, weights @ self.x.to(dtype)).items():
                start[name] = start[name] + part if name in start else part
        return start, -(weights @ self.rhs.to(dtype))

    def values(self, program: Program, corner: Tensor, values: dict[str, Tensor]) -> Tensor:
        """(B, G) at points of the relaxation."""
        y = torch.cat([values[out.value].flatten(1) for out in program.graph.outputs], 1)
        f = y @ self.y.to(y.dtype).T - self.rhs.to(y.dtype)
        return f if self.x is None else f + corner @ self.x.to(y.dtype).T


@dataclass(frozen=True, eq=False)
class Rows:
    """What B rows ask for, and what holds there.

    ``source``, ``index`` (B,), ``sign`` (B,): an element of a value, or None for the goals alone.
    ``lower``, ``upper`` (B|1, U): intervals of the unstable ReLUs' inputs. ``splits`` (B, K): columns
    whose sign is fixed, −1 for none; ``phase`` (B, K): 1 where z ≤ 0, −1 where z ≥ 0, 0 for none.
    ``allowed`` bool (B|1, G): the goals that hold together there, those of one conjunction.
    """

    lower: Tensor
    upper: Tensor
    splits: Tensor
    phase: Tensor
    allowed: Tensor
    source: str | None = None
    index: Tensor | None = None
    sign: Tensor | None = None

    def select(self, index: Tensor) -> Rows:
        def pick(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[index]

        return Rows(
            pick(self.lower),
            pick(self.upper),
            self.splits[index],
            self.phase[index],
            pick(self.allowed),
            self.source,
            None if self.index is None else self.index[index],
            None if self.sign is None else self.sign[index],
        )


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Parameters of B bounds: ``alpha`` (B, U) in [0, 1], ``beta`` (B, K) ≥ 0, ``gamma`` (B, G) ≥ 0."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor

    def select(self, index: Tensor) -> Multipliers:
        return Multipliers(self.alpha[index], self.beta[index], self.gamma[index])

    def pull(self, rows: Rows) -> Tensor | None:
        """(B, U): what split multipliers add to the coefficients of the ReLUs' inputs."""
        if rows.splits.shape[1] == 0:
            return None
        pull = torch.zeros_like(self.alpha)
        return pull.scatter_add_(1, rows.splits.clamp(min=0), self.beta * rows.phase)


def evaluate(frame: Frame, goals: Goals | None, rows: Rows, multipliers: Multipliers, primal: bool = True) -> Primal:
    """The dual at given multipliers. Without ``primal`` only ``value`` and ``a`` are made."""
    program, size = frame.program, len(multipliers.alpha)
    lines = pieces(rows.lower, rows.upper, multipliers.alpha)
    start: dict[str, Tensor] = {}
    const = multipliers.alpha.new_zeros(size)
    if goals is not None:
        start, const = goals.start(program, multipliers.gamma)
    last = len(program.steps) - 1
    if rows.source is not None:
        assert rows.index is not None and rows.sign is not None
        shape = program.shapes[rows.source]
        one = multipliers.alpha.new_zeros((size, torch.Size(shape).numel()))
        one = one.scatter_(1, rows.index.unsqueeze(1), rows.sign.unsqueeze(1)).reshape(size, *shape)
        start[rows.source] = start[rows.source] + one if rows.source in start else one
        if goals is None:
            last = next((i for i, step in enumerate(program.steps) if step.node.name == rows.source), -1)
    trace = frame.back(start, const, lines, multipliers.pull(rows))
    count = len(frame.columns.names)
    empty = const.new_zeros((size, 0))
    widths = [frame.columns.start[i + 1] - frame.columns.start[i] for i in range(count)]
    a = torch.cat([trace.a[i] if i in trace.a else const.new_zeros((size, widths[i])) for i in range(count)], 1)
    if not primal:
        corner = frame.corner(trace)
        return Primal(frame.minimum(trace, corner), empty, a, empty, empty, empty)
    corner, values, zs, hs = frame.forward(trace, lines, last)
    z = torch.cat(
        [part if part.shape[1] == w else const.new_zeros((size, w)) for part, w in zip(zs, widths, strict=True)], 1
    )
    h = torch.cat(
        [part if part.shape[1] == w else const.new_zeros((size, w)) for part, w in zip(hs, widths, strict=True)], 1
    )
    found = empty if goals is None else goals.values(program, corner, values)
    return Primal(frame.minimum(trace, corner), corner, a, z, h, found)


@dataclass(frozen=True)
class Pace:
    """How long and how fast to climb: Adam's rates for alpha and for multipliers, their decay.

    ``hope``: a row is left alone once it would not be lifted enough by going on at ``hope`` times the speed
    it has had; None: it always goes on.
    """

    steps: int
    alpha: float = 0.25
    beta: float = 0.25
    decay: float = 0.95
    hope: float | None = None


def climb(
    frame: Frame,
    goals: Goals | None,
    rows: Rows,
    first: Multipliers,
    pace: Pace,
    enough: float | Tensor,
    expired: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Multipliers, Primal]:
    """(best value (B,), its multipliers, the last primal of each row).

    Rows are left alone once they are above ``enough``. Where no element is asked for, ``gamma`` keeps the
    sum one: a positive mix of the goals is to be lifted above zero.
    """
    size = len(first.alpha)
    device = first.alpha.device
    best = torch.full((size,), -torch.inf, dtype=first.alpha.dtype, device=device)
    kept = Multipliers(first.alpha.clone(), first.beta.clone(), first.gamma.clone())
    live = torch.arange(size, device=device)
    here, now = rows, first
    state: _Adam | None = None
    last: Primal | None = None
    for step in range(pace.steps + 1):
        primal = evaluate(frame, goals, here, now)
        if last is None:
            began = primal.value
        last = primal if last is None else _written(last, live, primal)
        better = primal.value > best[live]
        where = live[better]
        best[where] = primal.value[better]
        kept.alpha[where], kept.beta[where] = now.alpha[better], now.beta[better]
        kept.gamma[where] = now.gamma[better]
        limit = enough[live] if isinstance(enough, Tensor) else enough
        going = best[live] <= limit
        if pace.hope is not None and step >= 2:
            speed = (best[live] - began[live]).clamp(min=0) / step
            going &= best[live] + pace.hope * speed * (pace.steps - step) > limit
        if step == pace.steps or not bool(going.any()) or expired():
            break
        if state is None:
            state = _Adam.start(frame, here, now, primal, pace)
        if int(going.sum()) < 0.8 * len(live):
            index = going.nonzero().squeeze(1)
            live, here, now, state = live[index], here.select(index), now.select(index), state.select(index)
            primal = primal.select(index)
        now = state.move(here, now, primal, pace, step)
    assert last is not None
    return best, kept, last


def _written(last: Primal, live: Tensor, primal: Primal) -> Primal:
    """The primal of all rows with those of the live ones brought up to date."""
    if len(live) == len(last.value):
        return primal
    return Primal(
        last.value.index_copy(0, live, primal.value),
        last.corner.index_copy(0, live, primal.corner),
        last.a.index_copy(0, live, primal.a),
        last.z.index_copy(0, live, primal.z),
        last.h.index_copy(0, live, primal.h),
        last.goals.index_copy(0, live, primal.goals),
    )


class _Adam:
    """Moments of the gradients; multipliers are measured in units that fit their row."""

    def __init__(self, first: Tensor, second: Tensor, unit: Tensor, widths: tuple[int, int, int]):
        self.first, self.second, self.unit, self.widths = first, second, unit, widths

    @staticmethod
    def start(frame: Frame, rows: Rows, now: Multipliers, primal: Primal, pace: Pace) -> _Adam:
        widths = now.alpha.shape[1], now.beta.shape[1], now.gamma.shape[1]
        zero = now.alpha.new_zeros((len(now.alpha), sum(widths)))
        # a split multiplier weighs against the coefficients of its layer; a goal against what is bounded
        stable = primal.a.new_zeros((len(primal.a), 1))  # where no neuron is unstable, there is nothing to weigh
        typical = torch.cat([primal.a.abs(), stable], 1).amax(1, keepdim=True) * 0.2
        beta = typical.clamp(min=1e-6).expand(-1, widths[1])
        if rows.source is None:
            gamma = torch.ones_like(now.gamma)
        else:
            gamma = primal.value.abs().unsqueeze(1) / primal.goals.abs().clamp(min=1e-6) * 0.2
        unit = torch.cat([torch.ones_like(now.alpha), beta, gamma], 1)
        return _Adam(zero, zero.clone(), unit, widths)

    def select(self, index: Tensor) -> _Adam:
        return _Adam(self.first[index], self.second[index], self.unit[index], self.widths)

    def move(self, rows: Rows, now: Multipliers, primal: Primal, pace: Pace, step: int) -> Multipliers:
        free = (rows.lower < 0) & (rows.upper > 0)
        slope = torch.where(free, primal.a.clamp(min=0) * primal.z, 0.0)
        split = primal.z.gather(1, rows.splits.clamp(min=0)) * rows.phase if self.widths[1] else now.beta
        # without an element the mix is normed: only what lifts more than the mix as a whole counts
        goal = primal.goals
        if rows.source is None:
            goal = goal - primal.value.unsqueeze(1)
        gradient = torch.cat([slope, split, goal], 1) * self.unit
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.99 * self.second + 0.01 * gradient * gradient
        grown = step + 1
        ratio = (self.first / (1 - 0.9**grown)) / ((self.second / (1 - 0.99**grown)).sqrt() + 1e-12)
        change = ratio * self.unit * pace.decay**step
        alpha, beta, gamma = change.split(self.widths, 1)
        new = (now.gamma + pace.beta * gamma).clamp(min=0) * rows.allowed
        if rows.source is None:
            total = new.sum(1, keepdim=True)
            new = torch.where(total > 1e-6, new / total.clamp(min=1e-6), now.gamma)
        return Multipliers(
            (now.alpha + pace.alpha * alpha).clamp(0, 1), (now.beta + pace.beta * beta).clamp(min=0), new
        )
