"""The attacks that a hidden counterexample must survive: PGD and APGD, with many restarts.

PGD (Madry et al., ICLR 2018) with fixed relative step sizes; APGD (Croce and Hein, ICML 2020), which halves its
step when it stops to gain. Both climb a margin that is positive at a counterexample. They are meant to be
strong, not quick, and know nothing of how an instance was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

Margin = Callable[[Tensor], Tensor]  # points (P, n) to margins (P,): positive or zero is a counterexample


@dataclass(frozen=True)
class Attack:
    """``step`` is relative to half of the box's width; of APGD it is the first step."""

    kind: str
    step: float
    steps: int
    restarts: int


# What SoundnessBench's own check runs, and APGD-CE beside it.
PAPER = (
    *(
        Attack("pgd", step, steps, 1000)
        for step, steps in (
            (0.25, 100),
            (0.02, 100),
            (0.02, 250),
            (0.02, 500),
            (0.01, 1000),
            (0.01, 3000),
            (0.01, 5000),
        )
    ),
    Attack("apgd", 2.0, 100, 1000),
)
# The same number of restarts with fewer steps: seconds for a small network on a CPU.
SHORT = (
    Attack("pgd", 0.25, 100, 1000),
    Attack("pgd", 0.02, 100, 1000),
    Attack("pgd", 0.01, 300, 1000),
    Attack("apgd", 2.0, 100, 1000),
)


def run(margin: Margin, lower: Tensor, upper: Tensor, attack: Attack, seed: int) -> dict[str, Any]:
    """What the attack found in the box (n,), (n,): the record that goes into the truth.

    ``seed`` draws the starts, ``found`` counts the restarts that met a counterexample on their way, ``best`` is the
    greatest margin seen.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    place = torch.rand((attack.restarts, lower.numel()), generator=generator, dtype=torch.float64)
    x = (lower + (upper - lower) * place.to(lower)).clamp(lower, upper)
    best = _pgd(margin, x, lower, upper, attack) if attack.kind == "pgd" else _apgd(margin, x, lower, upper, attack)
    return {**asdict(attack), "seed": seed, "found": int((best >= 0).sum()), "best": float(f"{float(best.max()):.6g}")}


def run_all(
    margin: Margin, lower: Tensor, upper: Tensor, attacks: Sequence[Attack], seed: int
) -> tuple[dict[str, Any], ...]:
    """One record an attack; later attacks are left out once one has found a counterexample."""
    records: list[dict[str, Any]] = []
    for index, attack in enumerate(attacks):
        records.append(run(margin, lower, upper, attack, seed + index))
        if records[-1]["found"]:
            break
    return tuple(records)


def _gradient(margin: Margin, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        moving = x.detach().requires_grad_(True)
        value = margin(moving)
        (gradient,) = torch.autograd.grad(value.sum(), moving)
    return value.detach(), gradient


def _pgd(margin: Margin, x: Tensor, lower: Tensor, upper: Tensor, attack: Attack) -> Tensor:
    """The best margin of each restart (P,)."""
    size = attack.step * (upper - lower) / 2
    best = x.new_full((len(x),), -torch.inf)
    for _ in range(attack.steps):
        value, gradient = _gradient(margin, x)
        best = torch.maximum(best, value)
        x = (x + size * gradient.sign()).clamp(lower, upper)
    return torch.maximum(best, margin(x).detach())


def _apgd(margin: Margin, x: Tensor, lower: Tensor, upper: Tensor, attack: Attack) -> Tensor:
    """Auto-PGD: momentum 0.75; at checkpoints a restart that gained too rarely goes back and halves its step."""
    size = attack.step * (upper - lower).expand_as(x) / 2
    value, gradient = _gradient(margin, x)
    best, place, slope = value.clone(), x.clone(), gradient.clone()
    before = x.clone()
    gains = torch.zeros(len(x), device=x.device)
    shrunk = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    at_check = best.clone()
    width = max(int(0.22 * attack.steps), 1)
    check, since = width, 0
    for step in range(attack.steps):
        moved = (x + size * gradient.sign()).clamp(lower, upper)
        if step:
            moved = (x + 0.75 * (moved - x) + 0.25 * (x - before)).clamp(lower, upper)
        before, x = x, moved
        last = value
        value, gradient = _gradient(margin, x)
        gains += (value > last).float()
        better = value > best
        best = torch.where(better, value, best)
        place = torch.where(better[:, None], x, place)
        slope = torch.where(better[:, None], gradient, slope)
        since += 1
        if since == check:
            stuck = (gains < 0.75 * check) | (~shrunk & (best <= at_check))
            size = torch.where(stuck[:, None], size / 2, size)
            x = torch.where(stuck[:, None], place, x)
            gradient = torch.where(stuck[:, None], slope, gradient)
            shrunk, at_check = stuck, best.clone()
            gains.zero_()
            width = max(width - max(int(0.03 * attack.steps), 1), max(int(0.06 * attack.steps), 1))
            check, since = width, 0
    return best
