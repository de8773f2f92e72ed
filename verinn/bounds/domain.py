"""Bounds of a batch of domains: intervals first, CROWN only where an interval leaves a neuron unstable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from verinn.bounds.crown import Backward, LinearForm, OneHot, Relaxation
from verinn.bounds.forward import Forward, passes, too_dear
from verinn.bounds.interval import Interval, propagate
from verinn.bounds.patches import footprint, is_image, places
from verinn.bounds.rows import flat
from verinn.ops.base import Affine, Elementwise
from verinn.ops.pool import MaxPool
from verinn.ops.program import Program, Step

#: bytes for one block of coefficients on a CPU: what fits into its caches, and what malloc reuses
CACHE = 6 << 20


def split_inputs(program: Program, x: Tensor) -> dict[str, Tensor]:
    """Flat inputs (D, n) as the graph's inputs, each (D, *shape)."""
    sizes = [torch.Size(value.shape).numel() for value in program.graph.inputs]
    pieces = x.split(sizes, dim=1)
    return {
        v.name: piece.unflatten(1, v.shape or (1,)).reshape(-1, *v.shape)
        for v, piece in zip(program.graph.inputs, pieces, strict=True)
    }


class Cutter(Protocol):
    """What a search knows of a batch beyond boxes and intervals: linear rows that hold there."""

    def refresh(self, relaxation: Relaxation, step: Step) -> None:
        """The step's value is about to be refined, all before it is final: make its rows afresh."""

    def minimum(self, form: LinearForm, lower: Tensor, upper: Tensor) -> Tensor:
        """A lower bound of a form's rows (D, R), float64."""


def relax(
    program: Program,
    lower: Tensor,
    upper: Tensor,
    inherited: Mapping[str, Interval] | None = None,
    refine: bool = True,
    budget: int = 256 << 20,
    cutter: Cutter | None = None,
    workers: int = 1,
    relevant: Mapping[str, Tensor] | None = None,
    first: bool = False,
    expired: Callable[[], bool] = lambda: False,
) -> Relaxation:
    """Intervals of every value for boxes (D, n) in the program's dtype.

    With few inputs and a large network, forward bounds come first, and CROWN where it is not much dearer.
    ``inherited``: intervals known to hold already (of a parent domain). ``refine``: bound the
    unstable inputs of nonlinear steps by CROWN. ``budget``: bytes for one block of coefficients.
    ``workers``: threads that bound blocks side by side, without a cutter; kernels had better use one each,
    since threads of a kernel wait for each other, badly so on a machine that is busy otherwise.
    ``relevant``: the elements worth refining, by value (see ``relevance``); None: all. ``first``: also refine what
    one affine step makes of the inputs, since the cutter knows a set that is no box. ``expired``: whether time is up;
    what is not refined by then keeps the interval that it has.
    """
    lows, highs = split_inputs(program, lower), split_inputs(program, upper)
    known = inherited or {}
    ends = {name: (lows[name], highs[name]) for name in lows}
    ends = {name: _meet(end, known[name]) if name in known else end for name, end in ends.items()}
    relaxation = Relaxation(program, ends)
    wanted = targets(program, first) if refine else {}
    few = too_dear(program) if wanted else None
    forward = None if few is None else Forward.start(relaxation, lower, upper)
    ask = _Ask(lower, upper, budget, cutter, workers, expired)
    for step in program.steps:
        name = step.node.name
        interval = propagate(step, [relaxation.intervals[value] for value in step.node.inputs])
        if not step.node.inputs:  # a constant: the same in every domain
            interval = tuple(end.expand(len(lower), *end.shape[1:]) for end in interval)  # type: ignore[assignment]
        if inherited and name in inherited:
            interval = _meet(interval, inherited[name])
        if name in program.whole:
            interval = interval[0].ceil(), interval[1].floor()
        relaxation.intervals[name] = interval
        if forward is not None:
            relaxation.intervals[name] = _meet(interval, forward.step(step))
        if cutter is not None and not isinstance(step.op, MaxPool):
            cutter.refresh(relaxation, step)
        if name in wanted:
            mask = flat(loose(relaxation, name, wanted[name]))
            if relevant is not None:
                mask = mask & flat(relevant[name]) if name in relevant else torch.zeros_like(mask)
            if few is None or few[name] >= passes(mask):
                relaxation.intervals[name] = _refined(relaxation, step, mask, ask)
    return relaxation


def targets(program: Program, first: bool = False) -> dict[str, tuple[Step, ...]]:
    """Values worth refining, with the nonlinear steps that read them.

    Not those that one affine step makes of the inputs (unless ``first``), nor those that an elementwise step makes:
    there the interval is as good already, over a box.
    """
    depth = {value.name: 0 for value in program.graph.inputs}
    found: dict[str, tuple[Step, ...]] = {}
    makers = {step.node.name for step in program.steps if not isinstance(step.op, Elementwise)}
    for step in program.steps:
        below = max((depth[name] for name in step.node.inputs), default=0)
        if isinstance(step.op, Affine):
            depth[step.node.name] = below + (1 if step.forward_terms else 0)
            continue
        depth[step.node.name] = 2
        for source in dict.fromkeys(step.node.inputs):
            if depth[source] > (0 if first else 1) and source in makers:
                found[source] = (*found.get(source, ()), step)
    return found


@dataclass(frozen=True)
class _Ask:
    """How elements are refined: see ``relax``."""

    lower: Tensor
    upper: Tensor
    budget: int
    cutter: Cutter | None
    workers: int
    expired: Callable[[], bool]


def _refined(relaxation: Relaxation, step: Step, mask: Tensor, ask: _Ask) -> Interval:
    low, high = relaxation.intervals[step.node.name]
    if not bool(mask.any()):
        return low, high
    flat_low, flat_high = flat(low), flat(high)
    blocks = blocks_of(relaxation.program, step, mask, room(ask.budget, low))

    def bounded(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():  # which is a matter of each thread
            return _block(relaxation, step, part, ask.lower, ask.upper, ask.cutter)

    for where, down, up in mapped(bounded, blocks, ask.workers if ask.cutter is None else 1):
        flat_low = flat_low.scatter(1, where, torch.fmax(flat_low.gather(1, where), down))
        flat_high = flat_high.scatter(1, where, torch.fmin(flat_high.gather(1, where), up))
        if ask.expired():
            break
    return flat_low.reshape(low.shape), flat_high.reshape(high.shape)


def mapped(
    function: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], blocks: Iterator[Tensor], workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What a function makes of each block, by so many threads; blocks that nobody waits for any more are not begun."""
    if workers == 1:
        yield from map(function, blocks)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, blocks)


def _block(
    relaxation: Relaxation, step: Step, part: Tensor, lower: Tensor, upper: Tensor, cutter: Cutter | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Which elements, and lower and upper bounds of them: (D, R) each."""
    low = relaxation.intervals[step.node.name][0]
    index, sign = both_ways(part)
    start = {step.node.name: OneHot(index, sign)}
    if cutter is None:
        least = Backward(relaxation).minimum(start, lower, upper)
    else:
        least = cutter.minimum(Backward(relaxation).run(start), lower, upper)
    least = least.unflatten(1, (-1, 2, part.shape[2]))
    down, up = (narrow(least[:, :, i].flatten(1), low.dtype) for i in range(2))
    return part.flatten(1).expand(len(low), -1), down, -up


def room(budget: int, low: Tensor) -> int:
    """How many coefficients of one domain a block may have."""
    budget = min(budget, CACHE) if low.device.type == "cpu" else budget
    return budget // (low.element_size() * len(low))


def blocks_of(program: Program, step: Step, mask: Tensor, most: int) -> Iterator[Tensor]:
    """The elements to bound (D|1, U, P) in blocks of ``most`` coefficients, those at one place side by side."""
    shape, name = step.node.shape, step.node.name
    count = max(1, most // (2 * footprint(program, name)))
    if is_image(shape):
        yield from places(mask.any(0), shape, count)
    else:
        for part in _rows(step, mask).split(count, dim=1):
            yield part.unsqueeze(1)


def both_ways(part: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (D|1, U · 2P) that pick elements and, after those of each place, their negatives."""
    sign = torch.ones((part.shape[1], 2, part.shape[2]), device=part.device)
    sign[:, 1] = -1
    return torch.cat([part, part], 2).flatten(1), sign.flatten()


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → dtype, moved down by an ulp: cheaper than an exact downward cast."""
    y = x.to(dtype)
    info = torch.finfo(dtype)
    return y if dtype == torch.float64 else y - (y.abs() * info.eps + info.tiny)


def loose(relaxation: Relaxation, name: str, readers: tuple[Step, ...]) -> Tensor:
    """Which elements of a value any of its readers loses by. An input that is not bounded yet may be anything."""
    masks = []
    for reader in readers:
        boxes = []
        for source, shape in zip(reader.node.inputs, reader.shapes, strict=True):
            if source in relaxation.intervals:
                boxes.append(relaxation.intervals[source])
            else:
                low = relaxation.intervals[name][0].new_full((1, *shape), -torch.inf)
                boxes.append((low, -low))
        parts = reader.loose(boxes)
        masks += [part for source, part in zip(reader.node.inputs, parts, strict=True) if source == name]
    return torch.stack([mask.expand(len(relaxation.intervals[name][0]), *mask.shape[1:]) for mask in masks]).any(0)


def _rows(step: Step, mask: Tensor) -> Tensor:
    """Which elements to bound: per domain (D, R) where rows are cheap to pick, else the union (1, R)."""
    together = mask.any(0)
    union = int(together.sum())
    most = int(mask.sum(1).max())
    if step.node.op == "linear" and most < 0.8 * union:
        return mask.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    return together.nonzero().reshape(1, -1)


def _meet(one: Interval, other: Interval) -> Interval:
    return torch.fmax(one[0], other[0]), torch.fmin(one[1], other[1])


def bound_rows(
    relaxation: Relaxation, start: Mapping[str, Tensor], c: Tensor, record: dict[str, Tensor] | None = None
) -> LinearForm:
    """Lower linear bounds of rows over values: coefficients (D|1, R, *shape) by name, c float64 (D|1, R)."""
    return Backward(relaxation, record).run(start, c)
