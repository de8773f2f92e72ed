"""Rows that see windows of images, each decided by a small search of its own over phases of the ReLUs in its windows.

Where the sign of a value is all that is asked, as of the margins of a segmentation's pixels, each row is a property
of a small network: what its windows show. Its domain is parted at a ReLU, as in Bunel et al., "Branch and Bound for
Piecewise Linear Neural Network Verification" (JMLR 2020), with a multiplier for each side (Wang et al.,
"Beta-CROWN", NeurIPS 2021). Parts of many rows are climbed side by side in float32 and weighed in float64; a row's
bound is the least of its parts', which cover its box.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from verinn.bounds.crown import OneHot, Relaxation
from verinn.bounds.domain import targets
from verinn.bounds.interval import Interval
from verinn.bounds.patches import Patches
from verinn.bounds.rounding import cast_down
from verinn.bounds.windows import Climber, climbs
from verinn.ops.activation import Relu
from verinn.ops.base import Lines
from verinn.ops.program import Program, Step

#: parts that a row may have open and closed before it is left alone
MOST = 400
#: parts that are bounded side by side
WIDTH = 96
#: steps of Adam for each part, its rate, and what is left of that after a step
STEPS, RATE, DECAY = 12, 0.15, 0.9


#: by ReLU, for each row: what its relaxation costs (below zero where it has none), and the coefficients' sizes
Costs = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Parts:
    """L parts of rows: ``row`` (L,) its row's number, ``value`` float64 (L,) what it is known to be above.

    By ReLU, (L, kh, kw, C) as rows see it: ``slopes`` in [0, 1]; ``sides``: above zero where the part lies at the
    active side, below where at the inactive one, of the size that its multiplier is measured in, else zero;
    ``prices``: multipliers ≥ 0 in that measure.
    """

    row: Tensor
    value: Tensor
    slopes: Mapping[str, Tensor]
    sides: Mapping[str, Tensor]
    prices: Mapping[str, Tensor]

    def select(self, index: Tensor) -> Parts:
        held = ({name: x[index] for name, x in part.items()} for part in (self.slopes, self.sides, self.prices))
        return Parts(self.row[index], self.value[index], *held)

    def join(self, other: Parts) -> Parts:
        mine, its = ((p.slopes, p.sides, p.prices) for p in (self, other))
        held = ({name: torch.cat([one[name], two[name]]) for name in one} for one, two in zip(mine, its, strict=True))
        return Parts(torch.cat([self.row, other.row]), torch.cat([self.value, other.value]), *held)


class Sided(Climber):
    """A backward pass of parts: ReLUs that they were parted at are linear, for a multiplier of the side.

    On a part, side · z ≥ 0 for the z that a ReLU reads, so a row is at least itself less price · side · z.
    ``costs``, if given, receives by ReLU what its relaxation costs each row, and how large the coefficients are.
    """

    def __init__(self, relaxation: Relaxation, parts: Parts | None, costs: Costs | None):
        super().__init__(relaxation, {} if parts is None else dict(parts.slopes))
        self.parts = parts
        self.costs = costs

    def _relaxed(self, step: Step, a: Tensor | Patches) -> Tensor | Patches:
        if self.parts is None or not isinstance(step.op, Relu) or not isinstance(a, Patches):
            return a
        return replace(a, a=a.a.masked_fill(self._side(step, a) != 0, 0.0))

    def _side(self, step: Step, a: Patches) -> Tensor:
        assert self.parts is not None
        return self.parts.sides[step.node.name].reshape(a.a.shape).to(a.a.dtype)

    def _bent(
        self, step: Step, lines: Lines, positive: Tensor | Patches, negative: Tensor | Patches
    ) -> Tensor | Patches:
        if not isinstance(step.op, Relu) or not isinstance(positive, Patches) or not isinstance(negative, Patches):
            return super()._bent(step, lines, positive, negative)
        name, shape = step.node.name, positive.a.shape
        low, high = self.relaxation.intervals[step.node.inputs[0]]
        guess, above = positive.over(lines.lower_slope), positive.over(lines.upper_slope)
        free = positive.over(((low < 0) & (high > 0)).to(guess.dtype)) > 0
        if self.parts is None:
            self.slopes[name] = guess.expand(1, *shape[1:]).reshape(-1, *shape[3:]).clone()
            return replace(positive, a=positive.a * guess + negative.a * above)
        below = torch.where(free, self.slopes[name].reshape(shape).to(guess.dtype), guess)
        side = self._side(step, positive)
        if self.costs is not None:
            wide = positive.over(torch.minimum(-low, high))
            cost = positive.a * wide - negative.a * negative.over(lines.upper_offset)
            cost = cost.masked_fill(~free | (side != 0), -1.0)
            self.costs[name] = cost.reshape(-1, *shape[3:]), (positive.a - negative.a).reshape(-1, *shape[3:])
        bent = positive.a * below + negative.a * above
        bent = torch.where(side != 0, (positive.a + negative.a) * (side > 0), bent)
        # whatever a multiplier is rounded to is one, of the same sign: only the difference loses by rounding
        price = self.parts.prices[name].reshape(shape).to(side.dtype) * side
        return replace(positive, a=bent - price)


class Parting:
    """The search for the signs of some elements of one value over one box, a batch of parts at a time.

    ``relaxation``, ``referee``: intervals of all values before it, in float32 and in float64; ``index`` (R,) the
    elements, ``sign`` (R,): 1 where they may be above zero, −1 where below; ``value`` (R,): what is known.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        referee: Relaxation,
        name: str,
        index: Tensor,
        sign: Tensor,
        value: Tensor,
        box: tuple[Tensor, Tensor],
        workers: int = 1,
    ):
        self.relaxation, self.referee, self.name = relaxation, referee, name
        self.workers = workers
        self.index, self.sign, self.box = index, sign, box
        #: the least bound of the parts that are closed or given up, and how many parts there were
        self.least = torch.full(value.shape, torch.inf, dtype=torch.float64, device=value.device)
        self.count = torch.ones_like(index)
        rows = torch.arange(len(index), device=index.device)
        pass_ = Sided(relaxation, None, None)
        pass_.minimum({name: OneHot(index.unsqueeze(0), sign)}, *box)
        none = {key: torch.zeros_like(slope) for key, slope in pass_.slopes.items()}
        self.open = Parts(rows, value.double(), pass_.slopes, none, none)

    def bounds(self) -> Tensor:
        """Lower bounds float64 (R,) of sign · element."""
        return self.least.clone().scatter_reduce(0, self.open.row, self.open.value, "amin")

    def advance(self) -> bool:
        """Bounds a batch of parts, those of the rows nearest to a proof; False if nothing is left to do."""
        near = self.bounds()[self.open.row]
        order = torch.sort(near, descending=True, stable=True).indices
        if not len(order):
            return False
        width = WIDTH * self.workers
        now, self.open = self.open.select(order[:width]), self.open.select(order[width:])
        now, costs = self._bounded(now)
        done = (now.value > 0) | (self.count[now.row] >= MOST)
        self._close(now, done)
        children, stuck = _children(now, costs, ~done)
        self._close(now, stuck)
        self.open = self.open.join(children)
        self.count.scatter_add_(0, children.row, torch.ones_like(children.row))
        return True

    def _bounded(self, parts: Parts) -> tuple[Parts, Costs]:
        """Parts climbed, by all workers."""
        shares = [
            parts.select(index) for index in torch.arange(len(parts.row), device=parts.row.device).chunk(self.workers)
        ]
        if len(shares) == 1:
            return self._climbed(parts)
        with ThreadPoolExecutor(len(shares)) as pool:
            found = list(pool.map(self._climbed, shares))
        costs = {
            key: (torch.cat([c[key][0] for _, c in found]), torch.cat([c[key][1] for _, c in found]))
            for key in found[0][1]
        }
        return reduce(Parts.join, [part for part, _ in found]), costs

    def _close(self, parts: Parts, which: Tensor) -> None:
        self.least.scatter_reduce_(0, parts.row[which], parts.value[which], "amin")

    def _pass(self, relaxation: Relaxation, parts: Parts, costs: Costs | None = None) -> Tensor:
        start = {self.name: OneHot(self.index[parts.row].unsqueeze(0), self.sign[parts.row])}
        box = [end.to(relaxation.program.dtype) for end in self.box]
        return Sided(relaxation, parts, costs).minimum(start, box[0], box[1])[0]

    def _climbed(self, parts: Parts) -> tuple[Parts, Costs]:
        """Parts with the best slopes and multipliers found, weighed in float64."""
        best = torch.full_like(parts.value, -torch.inf)
        kept, now = parts, parts
        moments: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        for count in range(1, STEPS + 2):
            with torch.enable_grad():
                leaves = {
                    (kind, key): x.detach().requires_grad_(True)
                    for kind, held in (("slopes", now.slopes), ("prices", now.prices))
                    for key, x in held.items()
                }
                now = _with(now, leaves)
                value = self._pass(self.relaxation, now)
                gradients = torch.autograd.grad(value.nan_to_num(0.0, 0.0, 0.0).sum(), list(leaves.values()))
            better = value.detach() > best
            best = torch.where(better, value.detach(), best)
            kept = _better(kept, now, better)
            if count > STEPS or bool((best > 0).all()):
                break
            for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                one, two = moments.get(key, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
                one, two = 0.9 * one + 0.1 * gradient, 0.99 * two + 0.01 * gradient.square()
                moments[key] = one, two
                ratio = (one / (1 - 0.9**count)) / ((two / (1 - 0.99**count)).sqrt() + 1e-12)
                most = 1.0 if key[0] == "slopes" else torch.inf
                leaves[key] = (leaf.detach() + RATE * DECAY**count * ratio).clamp(0, most)
            now = _with(now, leaves)
        costs: Costs = {}
        self._pass(self.relaxation, kept, costs)
        return replace(kept, value=torch.fmax(kept.value, self._pass(self.referee, kept))), costs


def _with(parts: Parts, leaves: Mapping[tuple[str, str], Tensor]) -> Parts:
    held = {kind: {key: x for (k, key), x in leaves.items() if k == kind} for kind in ("slopes", "prices")}
    return replace(parts, slopes=held["slopes"], prices=held["prices"])


def _better(kept: Parts, now: Parts, better: Tensor) -> Parts:
    where = better.reshape(-1, 1, 1, 1)
    slopes = {key: torch.where(where, x.detach(), kept.slopes[key]) for key, x in now.slopes.items()}
    prices = {key: torch.where(where, x.detach(), kept.prices[key]) for key, x in now.prices.items()}
    return replace(kept, slopes=slopes, prices=prices)


def _children(parts: Parts, costs: Costs, open_: Tensor) -> tuple[Parts, Tensor]:
    """Both sides of the ReLU that costs each open part most, and the parts (L,) in which none is left to part."""
    names = list(costs)
    flat = torch.cat([costs[name][0].flatten(1) for name in names], 1)
    most, chosen = flat.max(1)
    stuck = open_ & ~(most > 0)
    left = (open_ & ~stuck).nonzero().squeeze(1)
    both = []
    for way in (1.0, -1.0):
        part, start = parts.select(left), 0
        sides = {}
        for name in names:
            size = costs[name][1][left].flatten(1)
            here = chosen[left] - start
            mine = (here >= 0) & (here < size.shape[1])
            place = here.clamp(0, size.shape[1] - 1).unsqueeze(1)
            mark = way * size.gather(1, place) * mine.unsqueeze(1)
            before = part.sides[name]
            sides[name] = before.flatten(1).scatter_add(1, place, mark.to(before.dtype)).reshape(before.shape)
            start += size.shape[1]
        both.append(replace(part, sides=sides))
    return both[0].join(both[1]), stuck


def uncertain(interval: Interval) -> tuple[Tensor, Tensor, Tensor]:
    """The elements (R,) of one domain's interval that may have both signs, which the likelier one is (R,), and what
    sign · element is known to be above (R,)."""
    low, high = (end.flatten() for end in interval)
    index = ((low < 0) & (high > 0)).nonzero().squeeze(1)
    up = -low[index] < high[index]
    return index, torch.where(up, 1.0, -1.0).to(low.dtype), torch.where(up, low[index], -high[index])


def narrowed(interval: Interval, index: Tensor, sign: Tensor, bounds: Tensor) -> Interval:
    """One domain's interval with lower bounds float64 (R,) of sign · element counted in."""
    low, high = (end.flatten().clone() for end in interval)
    value, up = cast_down(bounds, low.dtype), sign > 0
    low[index[up]] = torch.fmax(low[index[up]], value[up])
    high[index[~up]] = torch.fmin(high[index[~up]], -value[~up])
    return low.reshape(interval[0].shape), high.reshape(interval[1].shape)


def parted_by(program: Program) -> list[str]:
    """Values whose rows ``climb`` and of which nothing but the sign is read, with a jump."""
    return [
        name
        for name, readers in targets(program).items()
        if climbs(program, name) and all(reader.node.op in ("step", "sign") for reader in readers)
    ]
