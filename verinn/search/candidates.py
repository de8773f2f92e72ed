"""Where a domain of a general graph may be split, and what each split seems worth.

As in GenBaB (Shi et al., "Neural Network Verification with Branch-and-Bound for General Nonlinearities",
2024): an element that nonlinear steps read is split at a point, and the split is worth what it takes from the
gaps between functions and lines, weighed by the coefficients that meet them. The few best are really bounded
by the search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.bounds.crown import Relaxation
from verinn.bounds.interval import Interval
from verinn.bounds.rows import flat
from verinn.ops.base import Elementwise, Lines
from verinn.ops.program import Program, Step
from verinn.ops.stairs import Stairs

#: where gaps are looked at, in parts of an interval
_SAMPLES = (1 / 6, 1 / 2, 5 / 6)
#: a point nearer to an end than this part of the interval is not split at, but for kinks and jumps
_MARGIN = 0.02


@dataclass(frozen=True, eq=False)
class Options:
    """Splits that D domains may make, the best C of each: ``value`` int64 (D, C), −1 for none, the number of a
    value; ``index`` int64 (D, C), the element; ``point`` float64 (D, C); ``score`` (D, C), greatest first."""

    value: Tensor
    index: Tensor
    point: Tensor
    score: Tensor


def splittable(program: Program) -> tuple[str, ...]:
    """Values that nonlinear steps read, but for inputs of the graph: those are split as a box."""
    inputs = {value.name for value in program.graph.inputs}
    read = [name for step in program.steps if not step.affine for name in step.node.inputs]
    return tuple(name for name in dict.fromkeys(read) if name not in inputs)


def options(relaxation: Relaxation, met: Mapping[str, Tensor], names: tuple[str, ...], count: int) -> Options:
    """The ``count`` most promising splits of each domain. ``met``: the coefficients (D, *shape) at nonlinear steps."""
    scores: dict[str, Tensor] = {}
    points: dict[str, Tensor] = {}
    for step in relaxation.program.steps:
        if not step.affine and step.node.name in met:
            for name, score, point in _of_step(relaxation, step, met[step.node.name]):
                if name in scores:  # what several steps read is split for all of them, where it helps one most
                    points[name] = torch.where(score > scores[name], point, points[name])
                    scores[name] = scores[name] + score
                else:
                    scores[name], points[name] = score, point
    jumps = jumping(relaxation.program)
    tops = []
    for number, name in enumerate(names):
        if name not in scores:
            continue
        low, high = (flat(end) for end in relaxation.intervals[name])
        point = _inside(flat(points[name]), low, high, name in jumps)
        score = flat(scores[name]).double()
        score = torch.where(point.isfinite() & (score > 0), score, -torch.inf)
        best = score.topk(min(count, score.shape[1]), 1)
        tops.append((torch.full_like(best.indices, number), best.indices, point.gather(1, best.indices), best.values))
    if not tops:
        size = len(relaxation.intervals[relaxation.program.graph.inputs[0].name][0])
        none = torch.zeros((size, 0), dtype=torch.int64, device=relaxation.program.device)
        return Options(none, none, none.double(), none.double())
    value, index, point, score = (torch.cat([top[i] for top in tops], 1) for i in range(4))
    best = score.topk(min(count, score.shape[1]), 1)
    value = torch.where(best.values > -torch.inf, value.gather(1, best.indices), -1)
    return Options(value, index.gather(1, best.indices), point.gather(1, best.indices), best.values)


def kept(program: Program) -> tuple[str, ...]:
    """Values whose intervals are handed down: those that may be split, and the ranges of step functions."""
    return (*splittable(program), *(step.node.name for step in program.steps if isinstance(step.op, Stairs)))


def jumping(program: Program) -> dict[str, Step]:
    """Values that a step function reads, with the first that does: a split of such a value splits its range."""
    found: dict[str, Step] = {}
    for step in program.steps:
        if isinstance(step.op, Stairs):
            found.setdefault(step.node.inputs[0], step)
    return found


def landings(step: Step, point: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The neighbouring values b, b + 1 of a step function between which its range [low, …] is split by a jump at
    ``point``, and where that is one (bool): f ≤ b implies x ≤ point there, f ≥ b + 1 implies x ≥ point, and f is
    always one or the other."""
    op = step.node.op
    if op in ("sign", "step"):
        below = low.clamp(-1, 0).round() if op == "sign" else torch.zeros_like(point)
        return below, below + 1, point == 0
    below = point + {"floor": -1.0, "ceil": 0.0, "round": -0.5}[op]
    return below, below + 1, (below == below.round()) & (point.abs() < 1 << 20)


def _inside(point: Tensor, low: Tensor, high: Tensor, ends: bool) -> Tensor:
    """Points within their intervals, strictly or with ``ends``, in the intervals' dtype, as float64; else NaN."""
    point = point.to(low.dtype)
    inside = (point >= low) & (point <= high) if ends else (point > low) & (point < high)
    return torch.where(inside, point, math.nan).double()


def _of_step(relaxation: Relaxation, step: Step, a: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """(name, score (D, *shape), point (D, *shape)) of the values that a step reads."""
    if len(step.node.inputs) == 2:
        return _of_product(relaxation, step, a.abs())
    name = step.node.inputs[0]
    if isinstance(step.op, Stairs):
        return [(name, *_of_stairs(relaxation, step, a))]
    if isinstance(step.op, Elementwise):
        return [(name, *_of_function(step, relaxation.intervals[name], a, relaxation.lines(step)))]
    low, high = relaxation.intervals[name]
    point = (low + high) / 2
    (loose,) = step.loose([(low, high)])
    return [(name, _spread(relaxation, step, a.abs(), loose) * (high - low), point)]


def _spread(relaxation: Relaxation, step: Step, a: Tensor, loose: Tensor) -> Tensor:
    """A rough weight of each element that a step like softmax or a maximum reads: (D, *shape of its input)."""
    low, high = relaxation.intervals[step.node.name]
    stake = (a * (high - low)).flatten(1).sum(1)
    low, high = relaxation.intervals[step.node.inputs[0]]
    width = flat(high - low).sum(1).clamp(min=1e-30)
    weight = stake / width * 0.25
    return weight.reshape(-1, *[1] * (low.dim() - 1)).expand_as(low) * loose


def _of_product(relaxation: Relaxation, step: Step, a: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """McCormick's planes are off by a quarter of the product of both widths; halving one halves that."""
    one, two = step.node.inputs
    (low, high), (low2, high2) = relaxation.intervals[one], relaxation.intervals[two]
    width, width2 = high - low, high2 - low2
    if step.node.op == "matmul":
        first = (a @ width2.transpose(-1, -2)) * width
        second = (width.transpose(-1, -2) @ a) * width2
    else:
        first = second = a * width * width2
    found = [(one, first / 8, (low + high) / 2), (two, second / 8, (low2 + high2) / 2)]
    return found[:1] if one == two else found


def _of_stairs(relaxation: Relaxation, step: Step, a: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the gap for a jump near the middle, where the range is not a single value already."""
    low, high = relaxation.intervals[step.node.inputs[0]]
    least, most = relaxation.intervals[step.node.name]
    (point,) = points(step, low, high)
    return torch.where(least < most, a.abs() * (most - least) / 2, 0.0), _between(step.node.op, point, least, most)


def _between(op: str, point: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """The jump nearest to one at ``point`` that divides a range [least, most]: the nearest to the middle of an
    interval with a jump at its end may lie at the other end, where the function doesn't jump within it."""
    ends = {"floor": (1.0, 0.0), "ceil": (0.0, -1.0), "round": (0.5, -0.5)}.get(op)
    return point if ends is None else torch.maximum(torch.minimum(point, most + ends[1]), least + ends[0])


def _of_function(step: Step, interval: Interval, a: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    """The best of a few points for each element, and what it takes from the gap (D, *shape)."""
    assert isinstance(step.op, Elementwise)
    low, high = interval
    positive = a.clamp(min=0)
    negative = positive - a
    before = _gap(step, low, high, lines, positive, negative)
    best, where = torch.full_like(before, -torch.inf), torch.full_like(before, math.nan)
    for point in points(step, low, high):
        p = point.clamp(low, high)
        after = _gap(step, low, p, step.op.lines(step.node, low, p), positive, negative)
        after = after + _gap(step, p, high, step.op.lines(step.node, p, high), positive, negative)
        score = torch.where((p > low) & (p < high), before - after / 2, -torch.inf).nan_to_num(-torch.inf)
        better = score > best
        best, where = torch.where(better, score, best), torch.where(better, p, where)
    # where neither half is any tighter on its own, the wider gap still says something
    best = torch.where(best.isfinite(), torch.maximum(best, 1e-3 * before), 0.0)
    return torch.where(step.op.loose(step.node, low, high), best, 0.0), where


def _gap(step: Step, low: Tensor, high: Tensor, lines: Lines, positive: Tensor, negative: Tensor) -> Tensor:
    """The mean distance of a function from its lines, weighed by coefficients' signs."""
    assert isinstance(step.op, Elementwise)
    total = torch.zeros_like(positive)
    offset = 0.0 if lines.lower_offset is None else lines.lower_offset
    for part in _SAMPLES:
        x = low + part * (high - low)
        y = step.op.apply(step.node, x)
        total = total + positive * (y - lines.lower_slope * x - offset)
        total = total + negative * (lines.upper_slope * x + lines.upper_offset - y)
    return total / len(_SAMPLES)


def points(step: Step, low: Tensor, high: Tensor) -> list[Tensor]:
    """Where an elementwise function's intervals may be split: kinks, jumps and inflections, and the middle."""
    op, middle = step.node.op, (low + high) / 2
    if op in ("relu", "leaky_relu", "prelu", "abs", "sign", "step"):
        return [torch.zeros_like(low)]
    if op == "clip":
        kinks = [float(step.node.attrs[side]) for side in ("lower", "upper")]
        return [*(torch.full_like(low, kink) for kink in kinks if math.isfinite(kink)), middle]
    if op in ("floor", "ceil", "round"):
        shift = 0.5 if op == "round" else 0.0
        return [(middle + shift).round() - shift]
    if op in ("sin", "cos", "tan"):  # inflections of all three are multiples of π from one of them
        shift = math.pi / 2 if op == "cos" else 0.0
        return [((middle - shift) / math.pi).round() * math.pi + shift, middle]
    quarter = (high - low) / 4
    return [torch.zeros_like(low), middle, middle - quarter, middle + quarter]
