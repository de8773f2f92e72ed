"""Projected gradient descent on the constraints of a property (Madry et al., ICLR 2018).

Every conjunction of every case is attacked from random points, many of them on faces of the box: what
violates narrowly is often there. What is minimised is the greatest of the conjunction's rows: all of them
at most zero is a violation. Attacks take turns: one by the gradient's sign, one that first moves the outputs
in random directions (output-diversified starts; Tashiro et al., NeurIPS 2020), one by normed gradients with
momentum (Adam), which gets into corners that the sign's steps are too coarse for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from verinn.attack.ramps import ramped
from verinn.ops.program import Program
from verinn.search.spec import Spec

#: unbounded inputs are attacked within this distance of zero (or of their one bound)
REACH = 100.0


def pgd(
    program: Program,
    spec: Spec,
    points: int,
    steps: int,
    seed: int,
    expired: Callable[[], bool],
    regions: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of points (P, n) float64 with their case (P,), most promising first, each hit at most once.

    ``points``: how many are moved at the same time, shared by all cases and conjunctions. ``regions``:
    boxes lower, upper (B, n) and their case (B,) to start in, half of the points; they may leave them.
    """
    program = ramped(program)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    case, goal = _targets(spec, points, generator)
    place = torch.rand((len(case), spec.lower.shape[1]), generator=generator, dtype=torch.float64)
    on_face = torch.rand(place.shape, generator=generator) < 0.35
    place = torch.where(on_face, place.round(), place).to(spec.lower.device)
    inner = None
    if regions is not None:
        some = torch.randint(len(regions[2]), (len(case) // 2,), generator=generator).to(place.device)
        case = torch.cat([regions[2][some], case[len(some) :]])
        inner = regions[0][some] + place[: len(some)] * (regions[1][some] - regions[0][some])
    lower, upper = _finite(spec.lower[case], spec.upper[case])
    width = upper - lower
    x = lower + place * width
    if inner is not None:
        x = torch.cat([inner, x[len(inner) :]])
    done = torch.zeros(len(case), dtype=torch.bool, device=x.device)
    mine = spec.owner == goal.unsqueeze(1)
    turn = (seed + 2) % 3
    if turn == 1:
        x = _diversified(program, x, lower, upper, generator)
    first = second = torch.zeros_like(x)
    for step in range(steps):
        if expired():
            return
        loss, gradient = _gradient(program, spec, case, x, mine)
        hit = (loss <= 0) & ~done
        if bool(hit.any()):
            done |= hit
            order = loss[hit].argsort()
            yield x[hit][order], case[hit][order]
        size = 0.3 * 0.02 ** (step / max(1, steps - 1))
        move = gradient.sign()
        if turn == 2:
            scaled = gradient * width
            first, second = 0.8 * first + 0.2 * scaled, 0.95 * second + 0.05 * scaled.square()
            move = first / (second.sqrt() + 1e-30)
        x = torch.minimum(torch.maximum(x - size * width * move.nan_to_num(0.0), lower), upper)
    loss, _ = _gradient(program, spec, case, x, mine)
    order = loss.argsort()[:8]  # near misses too: ONNX Runtime's rounding may differ from ours
    yield x[order], case[order]


def _diversified(program: Program, x: Tensor, lower: Tensor, upper: Tensor, generator: torch.Generator) -> Tensor:
    """Points moved a few steps so that random mixes of the outputs grow."""
    direction: Tensor | None = None
    for _ in range(4):
        with torch.enable_grad():
            moving = x.clone().requires_grad_(True)
            y = program.flat(moving.to(program.dtype)).double()
            if not y.requires_grad:
                return x
            if direction is None:
                direction = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device)
            (gradient,) = torch.autograd.grad((y * direction).sum(), moving)
        move = 0.25 * (upper - lower) * gradient.nan_to_num(0.0).sign()
        x = torch.minimum(torch.maximum(x + move, lower), upper)
    return x


def _targets(spec: Spec, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which case and conjunction each point goes for: all pairs in turn, or a random choice of them."""
    pairs = len(spec.cases) * spec.conjunctions
    if pairs <= points:
        number = torch.arange(points // pairs * pairs) % pairs
    else:
        number = torch.randint(pairs, (points,), generator=generator)
    number = number.to(spec.lower.device)
    return number // spec.conjunctions, number % spec.conjunctions


def _finite(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.where(lower.isfinite(), lower, torch.where(upper.isfinite(), upper - REACH, -REACH))
    return low, torch.where(upper.isfinite(), upper, low + REACH)


def _gradient(program: Program, spec: Spec, case: Tensor, x: Tensor, mine: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest row of each point's conjunction (P,), and its gradient (P, n)."""
    with torch.enable_grad():
        moving = x.clone().requires_grad_(True)
        y = program.flat(moving.to(program.dtype)).double()
        rows = spec.values(case, moving, y)
        loss = rows.masked_fill(~mine, -torch.inf).amax(1)
        if spec.cut.shape[1]:  # constraints on the inputs
            cuts = (spec.cut[case] @ moving.unsqueeze(-1)).squeeze(-1) + spec.cut_c[case]
            loss = torch.maximum(loss, cuts.amax(1))
        if not loss.requires_grad:  # nothing that is compared depends on the inputs
            return loss, torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(loss.sum(), moving)
    return loss.detach(), gradient
