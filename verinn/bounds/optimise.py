"""alpha-CROWN on any graph: the slopes, tangent points and mixes of all relaxations climbed by their gradients.

Xu et al., "Fast and Complete" (ICLR 2021), on general graphs as in Xu et al. (NeurIPS 2020); constraints on
any value have multipliers of their own (Wang et al., "Beta-CROWN", NeurIPS 2021, and Shi et al., "Neural
Network Verification with Branch-and-Bound for General Nonlinearities", 2024). Lines hold for any parameters
in [0, 1], multipliers for any numbers at least zero, and every evaluation is a pass of ``Backward`` with its
rounding charged: the best value seen is a bound as it stands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from verinn.bounds.certify import mixed
from verinn.bounds.climb import Goals
from verinn.bounds.crown import Backward, LinearForm, OneHot, Relaxation, dot
from verinn.bounds.domain import loose, targets
from verinn.bounds.gathered import Sums
from verinn.bounds.interval import Interval, propagate
from verinn.bounds.rounding import cast_down, sum_slack, unit
from verinn.bounds.sums import sums_of
from verinn.bounds.windows import climbed, climbs, wider
from verinn.ops.activation import Abs, LeakyRelu, Relu
from verinn.ops.base import Elementwise, Joint
from verinn.ops.program import Program, Step


@dataclass(frozen=True)
class Pace:
    """Steps of Adam, its rates for relaxation parameters and for multipliers, and their decay by step.

    ``hope``: a row is left alone once ``hope`` times the speed it has had would not bring it to what is
    enough; None: all steps are made.
    """

    steps: int
    alpha: float = 0.1
    beta: float = 0.1
    decay: float = 0.97
    hope: float | None = None


@dataclass(frozen=True, eq=False)
class Cuts:
    """Half-spaces that hold in each of B domains: sign·(v − point) ≤ 0 for an element v of some value.

    ``value`` int64 (B, K): the number of the value in ``names``, −1 for none; ``index`` int64 (B, K): the
    element, in the value flattened; ``point`` float64 (B, K); ``sign`` (B, K): 1 for v ≤ point, else −1.
    """

    names: tuple[str, ...]
    value: Tensor
    index: Tensor
    point: Tensor
    sign: Tensor

    def select(self, index: Tensor) -> Cuts:
        return Cuts(self.names, self.value[index], self.index[index], self.point[index], self.sign[index])

    def put(self, relaxation: Relaxation, beta: Tensor, start: dict[str, Tensor], c: Tensor) -> Tensor:
        """Adds beta (B, K) ≥ 0 times the half-spaces to rows (B, 1, *shape) by value name and c (B, 1); returns c."""
        weight = beta.double() * self.sign
        slack = (self.value.shape[1] + 4) * 2 * unit(torch.float64)
        for number, name in enumerate(self.names):
            here = self.value == number
            if bool(here.any()):
                share = torch.where(here, weight, 0.0)
                c = c - _placed(relaxation, name, share, torch.where(here, self.index, 0), start, slack)
        moved = torch.where(self.value >= 0, weight * self.point, 0.0)
        return c - moved.sum(1, keepdim=True) - moved.abs().sum(1, keepdim=True) * slack


def _placed(
    relaxation: Relaxation, name: str, share: Tensor, index: Tensor, start: dict[str, Tensor], slack: float
) -> Tensor:
    """Puts one value's multipliers into the start; what rounding them may cost (B, 1)."""
    shape, dtype = relaxation.program.shapes[name], relaxation.program.dtype
    flat = share.new_zeros((len(share), torch.Size(shape).numel()))
    total, size = flat.scatter_add(1, index, share), flat.scatter_add(1, index, share.detach().abs())
    if name in start:
        before = start[name].double().expand(len(share), *start[name].shape[1:]).flatten(1)
        total, size = total + before, size + before.detach().abs()
    held = total.to(dtype)
    start[name] = held.reshape(-1, 1, *shape)
    loss = ((total - held.double()).detach().abs() + size * slack).reshape(-1, 1, *shape)
    return dot(loss, relaxation.size(name).double()) * sum_slack(flat.shape[1], torch.float64)


@dataclass(frozen=True, eq=False)
class Ask:
    """What B bounds are asked for: mixes of goals (those ``allowed``, bool (B|1, G)), or one element each of a
    value (``source``; ``index`` (B,) into it flattened, ``sign`` (B,)). ``cuts``: what holds in each domain.
    ``sums``: what is known of sums in products of matrices, for each bound."""

    goals: Goals | None = None
    allowed: Tensor | None = None
    source: str = ""
    index: Tensor | None = None
    sign: Tensor | None = None
    cuts: Cuts | None = None
    sums: Mapping[str, Sums] = field(default_factory=dict)

    def select(self, index: Tensor) -> Ask:
        def pick(x: Tensor | None) -> Tensor | None:
            return x if x is None or len(x) == 1 else x[index]

        cuts = None if self.cuts is None else self.cuts.select(index)
        sums = {name: held.select(index) for name, held in self.sums.items()}
        return Ask(self.goals, pick(self.allowed), self.source, pick(self.index), pick(self.sign), cuts, sums)

    def start(self, relaxation: Relaxation, now: Parameters) -> tuple[dict[str, Tensor | OneHot], Tensor]:
        """Rows (B, 1, *shape) by value name and their c (B, 1)."""
        start: dict[str, Tensor] = {}
        if self.goals is not None:
            assert self.allowed is not None
            start, c = mixed(relaxation, self.goals, now.gamma.double() * self.allowed)
        if self.source:
            assert self.index is not None and self.sign is not None
            index, sign = self.index.unsqueeze(1), self.sign.unsqueeze(1)
            if self.goals is None:
                c = torch.zeros(index.shape, dtype=torch.float64, device=index.device)
                if self.cuts is None or not now.beta.shape[1]:
                    return {self.source: OneHot(index, sign)}, c
            c = c - _placed(relaxation, self.source, sign.double(), index, start, 2 * unit(torch.float64))
        if self.cuts is not None and now.beta.shape[1]:
            c = self.cuts.put(relaxation, now.beta, start, c)
        return dict(start), c


@dataclass(frozen=True, eq=False)
class Parameters:
    """Parameters of B bounds: ``alphas`` (B, *slots, *shape) by step in [0, 1], ``beta`` (B, K) and ``gamma`` (B, G)
    at least zero."""

    alphas: Mapping[str, Tensor]
    beta: Tensor
    gamma: Tensor

    def select(self, index: Tensor) -> Parameters:
        alphas = {name: alpha[index] for name, alpha in self.alphas.items()}
        return Parameters(alphas, self.beta[index], self.gamma[index])

    def tensors(self) -> list[Tensor]:
        return [*self.alphas.values(), self.beta, self.gamma]

    def like(self, tensors: list[Tensor]) -> Parameters:
        """The same with other tensors, in the order of ``tensors``."""
        return Parameters(dict(zip(self.alphas, tensors, strict=False)), tensors[-2], tensors[-1])

    def keep(self, where: Tensor, other: Parameters, rows: Tensor) -> None:
        """Overwrites some rows by some of another's."""
        for mine, its in zip(self.tensors(), other.tensors(), strict=True):
            mine[where] = its[rows]


def slotted(program: Program) -> list[tuple[Step, int]]:
    """The steps whose relaxation has parameters, with their number."""
    kinds = (Elementwise, Joint)
    found = [(step, step.op.slots) for step in program.steps if isinstance(step.op, kinds)]
    return [(step, slots) for step, slots in found if slots]


def first(relaxation: Relaxation, size: int, cuts: int = 0, allowed: Tensor | None = None) -> Parameters:
    """Where to start from: the relaxations' own guesses, no multipliers, the goals mixed in equal parts."""
    program = relaxation.program
    alphas = {}
    for step, slots in slotted(program):
        if not all(name in relaxation.intervals for name in step.node.inputs):
            continue  # not bounded yet: what is asked for comes before
        guess = guessed(relaxation, step, slots)
        alphas[step.node.name] = guess.expand(size, *guess.shape[1:]).clone()
    none = torch.zeros((size, cuts), dtype=program.dtype, device=program.device)
    if allowed is None:
        return Parameters(alphas, none, none[:, :0])
    gamma = (allowed.to(none.dtype) / allowed.sum(1, keepdim=True).clamp(min=1)).expand(size, -1).clone()
    return Parameters(alphas, none, gamma)


def guessed(relaxation: Relaxation, step: Step, slots: int) -> Tensor:
    """The parameters (D, *slots, *shape) that a step's relaxation starts from: about those of its own guess."""
    boxes = [relaxation.intervals[name] for name in step.node.inputs]
    if hasattr(step.op, "guess"):
        guess: Tensor = step.op.guess(step.node, boxes)
        return guess
    low, high = boxes[0]
    if isinstance(step.op, Relu | LeakyRelu | Abs):
        return (high > -low).to(low.dtype)
    size = (len(low), *step.node.shape) if slots == 1 else (len(low), slots, *step.node.shape)
    return torch.full(size, 0.5, dtype=low.dtype, device=low.device)


@dataclass(frozen=True, eq=False)
class Found:
    """The best ``value`` float64 (B,) of each row, and its ``parameters``."""

    value: Tensor
    parameters: Parameters


def evaluate(
    base: Relaxation, ask: Ask, now: Parameters, lower: Tensor, upper: Tensor, record: dict[str, Tensor] | None = None
) -> tuple[Tensor, LinearForm]:
    """Bounds (B,) with given parameters, sound as they are: lower, upper (B|1, n) in the program's dtype."""
    relaxation = moved(base, now.alphas)
    start, c = ask.start(relaxation, now)
    form = Backward(relaxation, record, sums=ask.sums).run(start, c)
    return form.minimum(lower, upper)[:, 0], form


def moved(base: Relaxation, alphas: Mapping[str, Tensor]) -> Relaxation:
    """A relaxation with other parameters; what does not depend on them is shared."""
    lines = {name: held for name, held in base._lines.items() if name not in alphas}
    planes = {name: held for name, held in base._planes.items() if name not in alphas}
    return Relaxation(base.program, base.intervals, alphas, {}, base, lines, planes, _sizes=base._sizes)


def summed(base: Relaxation, ask: Ask, now: Parameters, lower: Tensor, upper: Tensor, room: int) -> Ask:
    """What is asked, with bounds of the sums that its rows make of products' second matrices over one domain."""
    moving = moved(base, now.alphas)
    plain = Relaxation(base.program, base.intervals)
    return replace(ask, sums=sums_of(plain, moving, *ask.start(moving, now), lower, upper, room))


def climb(
    base: Relaxation,
    ask: Ask,
    now: Parameters,
    lower: Tensor,
    upper: Tensor,
    pace: Pace,
    enough: float | Tensor = 0.0,
    expired: Callable[[], bool] = lambda: False,
) -> Found:
    """Lifts B bounds together, each until it is above ``enough``; ``base`` holds one domain, or one for each.

    Without an element asked for, gamma keeps the sum one: a positive mix of the goals is to be lifted above zero.
    """
    size, device = len(now.gamma), now.gamma.device
    best = torch.full((size,), -torch.inf, dtype=torch.float64, device=device)
    began = best
    kept = now.like([tensor.clone() for tensor in now.tensors()])
    live = torch.arange(size, device=device)
    adam: _Adam | None = None
    for step in range(pace.steps + 1):
        last = step == pace.steps
        value, slopes = _lifted(base, ask, now, lower, upper, not last)
        value = value.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        better = (value > best[live]).nonzero().squeeze(1)
        best[live[better]] = value[better]
        kept.keep(live[better], now, better)
        if step == 0:
            began = best.clone()
        going = best[live] <= (enough[live] if isinstance(enough, Tensor) else enough)
        if pace.hope is not None and step >= 3:
            need = (enough[live] if isinstance(enough, Tensor) else enough) - best[live]
            speed = (best[live] - began[live]) / step
            going &= speed * (pace.hope * (pace.steps - step)) > need
        if last or not bool(going.any()) or expired():
            break
        assert slopes is not None
        if adam is None:
            adam = _Adam.start(now, slopes)
        if int(going.sum()) < 0.75 * len(live):
            index = going.nonzero().squeeze(1)
            live, ask, now, slopes = live[index], ask.select(index), now.select(index), [s[index] for s in slopes]
            adam = adam.select(index)
            if len(lower) > 1:
                base, lower, upper = base.select(index), lower[index], upper[index]
        now = adam.move(now, slopes, pace, step, ask)
    return Found(best, kept)


def _lifted(
    base: Relaxation, ask: Ask, now: Parameters, lower: Tensor, upper: Tensor, ascend: bool
) -> tuple[Tensor, list[Tensor] | None]:
    """Bounds (B,) and their gradients by all parameters."""
    if not ascend:
        return evaluate(base, ask, now, lower, upper)[0], None
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_(True) for tensor in now.tensors()]
        value, _ = evaluate(base, ask, now.like(leaves), lower, upper)
        some = value[value.isfinite()].sum()
        if not some.requires_grad:  # nothing that has parameters is met
            return value.detach(), [torch.zeros_like(leaf) for leaf in leaves]
        slopes = torch.autograd.grad(some, leaves, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(leaf) if slope is None else slope.nan_to_num(0.0, 0.0, 0.0)
        for leaf, slope in zip(leaves, slopes, strict=True)
    ]


class _Adam:
    """Moments of the gradients of each tensor of parameters (Kingma and Ba, ICLR 2015)."""

    def __init__(self, moments: list[tuple[Tensor, Tensor]], unit_: Tensor):
        self.moments = moments
        self.unit = unit_

    @staticmethod
    def start(now: Parameters, slopes: list[Tensor]) -> _Adam:
        size = len(now.gamma)
        return _Adam([(torch.zeros_like(s), torch.zeros_like(s)) for s in slopes], now.gamma.new_ones((size, 1)))

    def select(self, index: Tensor) -> _Adam:
        return _Adam([(one[index], two[index]) for one, two in self.moments], self.unit[index])

    def move(self, now: Parameters, slopes: list[Tensor], pace: Pace, step: int, ask: Ask) -> Parameters:
        """One step uphill, back into what is allowed."""
        ratios = []
        if (
            now.gamma.shape[1] and not ask.source
        ):  # the mix is normed: only what lifts more than the mix as a whole counts
            slopes[-1] = slopes[-1] - (slopes[-1] * now.gamma).sum(1, keepdim=True)
        for i, slope in enumerate(slopes):
            one, two = self.moments[i]
            one = 0.9 * one + 0.1 * slope
            two = 0.99 * two + 0.01 * slope * slope
            self.moments[i] = one, two
            grown = step + 1
            ratios.append((one / (1 - 0.9**grown)) / ((two / (1 - 0.99**grown)).sqrt() + 1e-12))
        fade = pace.decay**step
        *alphas, beta, gamma = now.tensors()
        moved_ = [
            (alpha + pace.alpha * fade * ratio).clamp(0, 1) for alpha, ratio in zip(alphas, ratios[:-2], strict=True)
        ]
        beta = (beta + pace.beta * fade * self.unit * ratios[-2]).clamp(min=0)
        if ask.source and ask.allowed is not None:
            gamma = (gamma + pace.beta * fade * self.unit * ratios[-1]).clamp(min=0) * ask.allowed
        elif ask.allowed is not None and gamma.shape[1] > 1:
            new = (gamma + pace.beta * fade * ratios[-1]).clamp(min=0) * ask.allowed
            total = new.sum(1, keepdim=True)
            gamma = torch.where(total > 1e-6, new / total.clamp(min=1e-6), gamma)
        return now.like([*moved_, beta, gamma])


def tightened(
    base: Relaxation,
    lower: Tensor,
    upper: Tensor,
    pace: Pace,
    room: int,
    expired: Callable[[], bool] = lambda: False,
    relevant: Mapping[str, Tensor] | None = None,
    seconds: float = math.inf,
    workers: int = 1,
    referee: Program | None = None,
) -> Relaxation:
    """One domain's relaxation with intervals of what nonlinear steps read climbed, each element's with parameters
    of its own, if they are ``relevant``. ``room``: bytes for one block of rows. When time is up the rest is left:
    after ``seconds``, of which values whose rows are windows get equal shares, or when ``expired``. ``workers``:
    threads for blocks of windows; ``referee``: the program in float64, by which these are weighed.

    Affine functions of the inputs are left as they are: what meets no relaxation has no parameters to climb."""
    program = base.program
    plain = {value.name for value in program.graph.inputs}
    wanted = targets(program)
    until = time.monotonic() + seconds
    waiting = [] if referee is None else [name for name in wanted if climbs(program, name)]
    intervals = {value.name: base.intervals[value.name] for value in program.graph.inputs}
    relaxation = Relaxation(program, intervals)
    for step in program.steps:
        name = step.node.name
        known = base.intervals[name]
        made = propagate(step, [intervals[value] for value in step.node.inputs])
        intervals[name] = torch.maximum(made[0], known[0]), torch.minimum(made[1], known[1])
        if step.affine and plain.issuperset(step.node.inputs):
            plain.add(name)
        elif name in wanted and not expired() and time.monotonic() < until:
            mask = loose(relaxation, name, wanted[name])
            if relevant is not None:
                mask = mask & relevant[name] if name in relevant else torch.zeros_like(mask)
            if referee is not None and name in waiting:
                share = (until - time.monotonic()) / len(waiting)
                waiting.remove(name)
                some = partial(climbed, steps=4 * pace.steps, seconds=share, budget=room, workers=workers)
                wide = wider(relaxation, referee)
                intervals[name] = some(relaxation, wide, step, mask.flatten(1), lower, upper, expired=expired)
                continue
            enough = 0.0 if all(map(settles, wanted[name])) else torch.inf
            intervals[name] = _climbed(relaxation, step, mask, lower, upper, pace, enough, room, expired)
    return relaxation


def _climbed(
    relaxation: Relaxation,
    step: Step,
    mask: Tensor,
    lower: Tensor,
    upper: Tensor,
    pace: Pace,
    enough: float,
    room: int,
    expired: Callable[[], bool],
) -> Interval:
    """The interval of a step's value, its loose elements climbed in blocks."""
    name = step.node.name
    low, high = relaxation.intervals[name]
    index = mask.flatten().nonzero().squeeze(1)
    if not len(index):
        return low, high
    flat = [low.flatten().clone(), -high.flatten()]
    rows = torch.cat([index, index])
    sign = torch.cat([torch.ones_like(index), -torch.ones_like(index)]).to(low.dtype)
    size = max(1, room // (weight(relaxation.program) * low.element_size()))
    for part in torch.arange(len(rows), device=rows.device).split(size):
        if expired():
            break
        ask = Ask(source=name, index=rows[part], sign=sign[part])
        now = first(relaxation, len(part))
        ask = summed(relaxation, ask, now, lower, upper, room // low.element_size())
        found = climb(relaxation, ask, now, lower, upper, pace, enough, expired)
        value = cast_down(found.value, low.dtype)
        for side in (0, 1):
            mine = (sign[part] > 0) == (side == 0)
            where = rows[part][mine]
            flat[side][where] = torch.fmax(flat[side][where], value[mine])
    return flat[0].reshape(low.shape), -flat[1].reshape(high.shape)


def settles(reader: Step) -> bool:
    """Whether a sign is all that its reader asks of a value."""
    return reader.node.op in ("relu", "leaky_relu", "prelu", "abs", "sign", "step")


def weight(program: Program) -> int:
    """About how many numbers one row holds on to while it is climbed."""
    return 12 * sum(torch.Size(shape).numel() for shape in program.shapes.values())
