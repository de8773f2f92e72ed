"""The paper's objects on a discretised region: manipulations, rec, ladders, variation.

Huang, Kwiatkowska, Wang, Wu, "Safety Verification of Deep Neural Networks" (CAV 2017), section 4. A point of η_k is
a tuple of levels j (α_p = α_{x,p} + j_p · s_p for the chosen dimensions p). These functions follow the definitions
word by word and enumerate; the searches do the same over boxes, and are tested against them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Level = tuple[int, ...]
Box = tuple[Level, Level]


@dataclass(frozen=True)
class Manipulation:
    """δ_k: one step of the span in each dimension of ``move`` (entries −1, 0, 1)."""

    move: Level

    def __call__(self, alpha: Level) -> Level:
        return tuple(a + d for a, d in zip(alpha, self.move, strict=True))


def axes(dimensions: int) -> tuple[Manipulation, ...]:
    """Δ_k: a step up or down in each single dimension."""
    units = [tuple(int(i == j) for j in range(dimensions)) for i in range(dimensions)]
    return tuple(Manipulation(tuple(sign * u for u in unit)) for unit in units for sign in (1, -1))


def corners(dimensions: int) -> tuple[Manipulation, ...]:
    """Δ_k: a step in every dimension at once, up or down in each."""
    return tuple(Manipulation(move) for move in itertools.product((-1, 1), repeat=dimensions))


def rec(alpha: Level, beta: Level) -> Box:
    """rec(α, β) = ×_p [min, max]."""
    pairs = list(zip(alpha, beta, strict=True))
    return tuple(min(pair) for pair in pairs), tuple(max(pair) for pair in pairs)


def valid(alpha: Level, delta: Sequence[Manipulation]) -> bool:
    """Definition 2: α is interior to rec(V(α), α) = ∪ rec(α, δ(α)).

    A neighbourhood of α meets every orthant, so each must be filled: by some δ that moves in every dimension, the
    orthant's way. Steps of single dimensions reach the same points of the grid, but only on ladders of several steps.
    """
    return {d.move for d in delta} >= {d.move for d in corners(len(alpha))}


def inside(alpha: Level, low: Level, high: Level) -> bool:
    return all(a <= value <= b for a, value, b in zip(low, alpha, high, strict=True))


def ladders(start: Level, delta: Sequence[Manipulation], low: Level, high: Level) -> Iterator[tuple[Level, ...]]:
    """Definition 3: the ladders that never turn back: α_0 … α_j with α_{t+1} = δ(α_t), left where the next is outside.

    Complete: every valid branch is taken. A branch moves each dimension one way only, so that there are finitely many.
    """

    def climb(path: tuple[Level, ...], used: dict[int, int]) -> Iterator[tuple[Level, ...]]:
        grown = False
        for d in delta:
            ways = {p: m for p, m in enumerate(d.move) if m}
            after = d(path[-1])
            if any(used.get(p, m) != m for p, m in ways.items()) or not inside(after, low, high):
                continue
            grown = True
            yield from climb((*path, after), used | ways)
        if not grown:
            yield path

    yield from climb((start,), {})


def variation(ladder: Sequence[Level], label: Callable[[Level], int]) -> int:
    """Definition 4: Σ diff(α_t, α_{t+1}), how often the class changes along a ladder."""
    return sum(label(a) != label(b) for a, b in itertools.pairwise(ladder))


def covering(found: Sequence[Sequence[Level]], low: Level, high: Level) -> bool:
    """Whether the unit cells at the points of the ladders cover the region low..high."""
    points = {point for ladder in found for point in ladder}
    cells = itertools.product(*[range(a, b) for a, b in zip(low, high, strict=True)])
    return all(all(corner in points for corner in itertools.product(*[(c, c + 1) for c in cell])) for cell in cells)


def minimal(alpha: Level, delta: Manipulation, label: Callable[[Level], int]) -> bool:
    """Definition 3, discretised: no point of rec(α, δ(α)) on the grid has a class that neither end has."""
    beta = delta(alpha)
    low, high = rec(alpha, beta)
    ends = {label(alpha), label(beta)}
    every = itertools.product(*[range(a, b + 1) for a, b in zip(low, high, strict=True)])
    return all(label(point) in ends for point in every)
