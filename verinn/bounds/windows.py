"""alpha-CROWN for rows that see windows of images: slopes of each row's own, held on its windows alone.

Xu et al., "Fast and Complete" (ICLR 2021). Where every value between a row and the inputs is an image that the
row sees through a small window (see ``patches``), what the row may choose is small too: the slopes of the ReLUs
in its windows. So thousands of rows, each with slopes of its own, are climbed side by side, at a cost that
doesn't know how large the images are. Slopes hold for any numbers in [0, 1], and every evaluation is a pass of
``Backward`` with its rounding charged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from verinn.bounds.crown import Backward, OneHot, Relaxation
from verinn.bounds.domain import blocks_of, both_ways, mapped, narrow, room
from verinn.bounds.interval import Interval
from verinn.bounds.patches import Patches, Window, is_image, sights
from verinn.bounds.rows import flat
from verinn.ops.activation import Relu
from verinn.ops.base import Lines
from verinn.ops.program import Program, Step

#: Adam's rate, and what is left of it after a step
RATE, DECAY = 0.15, 0.93
#: passes that one step of ascent costs
STEP = 3.0


class Climber(Backward):
    """A backward pass with slopes of ReLUs by row, for rows that meet them as windows.

    ``slopes``: by step, as the windows' coefficients are held; those not given yet are made at their guess.
    """

    def __init__(self, relaxation: Relaxation, slopes: dict[str, Tensor]):
        super().__init__(relaxation)
        self.slopes = slopes

    def _bent(
        self, step: Step, lines: Lines, positive: Tensor | Patches, negative: Tensor | Patches
    ) -> Tensor | Patches:
        if not isinstance(step.op, Relu) or not isinstance(positive, Patches) or not isinstance(negative, Patches):
            return super()._bent(step, lines, positive, negative)
        name = step.node.name
        low, high = self.relaxation.intervals[step.node.inputs[0]]
        guess = positive.over(lines.lower_slope)
        if name not in self.slopes:
            made = guess.expand(1, *positive.a.shape[1:]).detach().clone()
            self.slopes[name] = made.requires_grad_(torch.is_grad_enabled())
        free = positive.over(((low < 0) & (high > 0)).to(guess.dtype)) > 0
        below = torch.where(free, self.slopes[name], guess)
        bent = positive.a * below + negative.a * negative.over(lines.upper_slope)
        return replace(positive, a=bent)


def climbs(program: Program, name: str) -> bool:
    """Whether rows at elements of a value meet some ReLU on their way back, and nothing but windows till then."""
    shape = program.shapes[name]
    if not is_image(shape):
        return False
    pending = {name: Window(tuple(shape[2:]))}
    met = False
    for step in reversed(program.steps):
        window = pending.pop(step.node.name, None)
        if window is None:
            continue
        met = met or isinstance(step.op, Relu)
        for source, seen, size in zip(step.node.inputs, sights(step, window), step.shapes, strict=True):
            if seen is not None and source in pending:
                seen = pending[source].union(seen)
            if seen is None or not seen.small(size):
                return met and not _curved(program, source)
            pending[source] = seen
    return met


def _curved(program: Program, name: str) -> bool:
    """Whether anything but affine steps makes a value of the inputs."""
    reached = {name}
    for step in reversed(program.steps):
        if step.node.name in reached:
            if not step.affine:
                return True
            reached.update(step.node.inputs)
    return False


def climbed(
    relaxation: Relaxation,
    referee: Relaxation,
    step: Step,
    mask: Tensor,
    lower: Tensor,
    upper: Tensor,
    steps: int,
    seconds: float,
    budget: int,
    workers: int = 1,
    expired: Callable[[], bool] = lambda: False,
) -> Interval:
    """The interval of a value that ``climbs``, its elements in ``mask`` (1, n) climbed; one domain.

    ``referee``: the relaxation in float64, in which the slopes found are weighed: a row sums up so much that
    float32's rounding can cost more than slopes gain. ``steps`` of ascent at most, as many as ``seconds`` allow by
    what the first block costs. When time is up the rest is left.
    """
    low, high = relaxation.intervals[step.node.name]
    if not bool(mask.any()):
        return low, high
    blocks = list(blocks_of(relaxation.program, step, mask, room(budget, low)))
    name, box = step.node.name, (lower, upper)
    began = time.monotonic()
    _weighed(referee, name, blocks[0], {}, box)
    sure = max(1e-6, (time.monotonic() - began) * len(blocks) / workers)  # seconds of a float64 pass for all
    some = int(min(steps, max(0.0, (seconds - sure) / (STEP * sure / 2))))

    def bounded(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if expired():
            nothing = torch.full(part.flatten(1).shape, torch.inf, dtype=low.dtype, device=low.device)
            return part.flatten(1), -nothing, nothing
        slopes = _ascent(relaxation, name, part, box, some) if some else {}
        least = _weighed(referee, name, part, slopes, box).unflatten(1, (-1, 2, part.shape[2]))
        down, up = (narrow(least[:, :, i].flatten(1), low.dtype) for i in range(2))
        return part.flatten(1), down, -up

    flat_low, flat_high = flat(low).clone(), flat(high).clone()
    for where, down, up in mapped(bounded, iter(blocks), workers):
        flat_low.scatter_(1, where, torch.fmax(flat_low.gather(1, where), down))
        flat_high.scatter_(1, where, torch.fmin(flat_high.gather(1, where), up))
    return flat_low.reshape(low.shape), flat_high.reshape(high.shape)


def wider(relaxation: Relaxation, referee: Program) -> Relaxation:
    """What is known so far, for a program in float64."""
    intervals = relaxation.intervals.items()
    return Relaxation(referee, {name: (low.double(), high.double()) for name, (low, high) in intervals})


def _weighed(
    referee: Relaxation, name: str, part: Tensor, slopes: dict[str, Tensor], box: tuple[Tensor, Tensor]
) -> Tensor:
    """Lower bounds (1, R) of rows at elements (1, U, P) of a value and, after those of each place, their negatives."""
    index, sign = both_ways(part)
    lower, upper = (end.double() for end in box)
    with torch.no_grad():
        held = {key: slope.double() for key, slope in slopes.items()}
        return Climber(referee, held).minimum({name: OneHot(index, sign)}, lower, upper)


def _ascent(
    relaxation: Relaxation, name: str, part: Tensor, box: tuple[Tensor, Tensor], steps: int
) -> dict[str, Tensor]:
    """The slopes that are best for each of these rows after so many steps of Adam, the guess among them."""
    index, sign = both_ways(part)
    best = torch.full(index.shape, -torch.inf, dtype=torch.float64, device=index.device)
    slopes: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    for count in range(1, steps + 2):
        last = count > steps
        with torch.set_grad_enabled(not last):
            value = Climber(relaxation, slopes).minimum({name: OneHot(index, sign)}, *box)
            better = (value > best).reshape(1, *part.shape[1:2], -1, 1, 1, 1)
            best = torch.fmax(best, value.detach())
            kept = {key: torch.where(better, slope.detach(), kept.get(key, slope)) for key, slope in slopes.items()}
            if last or not value.requires_grad:
                return kept
            gradients = torch.autograd.grad(value.nan_to_num(0.0, 0.0, 0.0).sum(), list(slopes.values()))
        for key, gradient in zip(list(slopes), gradients, strict=True):
            one, two = moments.get(key, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            one, two = 0.9 * one + 0.1 * gradient, 0.99 * two + 0.01 * gradient.square()
            moments[key] = one, two
            ratio = (one / (1 - 0.9**count)) / ((two / (1 - 0.99**count)).sqrt() + 1e-12)
            slopes[key] = (slopes[key].detach() + RATE * DECAY**count * ratio).clamp(0, 1).requires_grad_(True)
    return kept
