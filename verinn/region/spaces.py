"""What a search over integer boxes covers: the points of a grid, or the cells between them.

A box is low..high in whole numbers over the inputs that may move. For points both ends are included and
halves are disjoint; for cells the box is the closed hyper-rectangle between two grid planes, and halves share
a plane, so that together they cover every real point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from verinn.region.grid import Grid, size


class Space(Protocol):
    """What the search asks of the set that it covers. Boxes are int64 (D, F), real boxes float64 (D, n)."""

    @property
    def free(self) -> np.ndarray:
        """The inputs that may move: int64 (F,)."""

    @property
    def root(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole, as one box (F,), (F,)."""

    def count(self, low: np.ndarray, high: np.ndarray) -> int:
        """How much of the whole one box (F,) is, in units of the space."""

    def real(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Real boxes that contain everything that the boxes stand for."""

    def inward(self, low: np.ndarray, high: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        """Shrinks boxes in place to what real boxes meet; low > high where that is nothing."""

    def halves(self, low: np.ndarray, high: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The upper end of the lower half and the lower end of the upper one, in dimension ``at`` (D,) each."""

    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """How far boxes can still be split in each dimension (D, F): 0 where not at all."""


@dataclass(frozen=True, eq=False)
class Points:
    """The points of a grid. The unit is one point."""

    grid: Grid

    @cached_property
    def free(self) -> np.ndarray:
        return self.grid.free

    @property
    def root(self) -> tuple[np.ndarray, np.ndarray]:
        return self.grid.low[self.free], self.grid.high[self.free]

    def count(self, low: np.ndarray, high: np.ndarray) -> int:
        return size(low, high)

    def all(self, k: np.ndarray) -> np.ndarray:
        """Levels of all inputs (D, n) from those that move (D, F)."""
        whole = np.repeat(self.grid.low[None], len(k), 0)
        whole[:, self.free] = k
        return whole

    def real(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.grid.box(self.all(low), self.all(high))

    def inward(self, low: np.ndarray, high: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        first, last = self.grid.inward(lower, upper)
        np.maximum(low, first[:, self.free], out=low)
        np.minimum(high, last[:, self.free], out=high)
        none = (first > last).any(1)
        high[none] = low[none] - 1

    def halves(self, low: np.ndarray, high: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(at))
        middle = (low[rows, at] + high[rows, at]) >> 1
        return middle, middle + 1

    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.asarray(high - low)

    def listed(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Every point (P, F) of one box (F,)."""
        number = np.arange(size(low, high))
        listed = np.repeat(low[None], len(number), 0)
        for at in np.flatnonzero(high > low)[::-1]:  # the digits of each point's number, the last input's first
            number, digit = np.divmod(number, high[at] - low[at] + 1)
            listed[:, at] += digit
        return listed


@dataclass(frozen=True, eq=False)
class Cells:
    """The hyper-rectangles between neighbouring grid points, each of 2^bits parts in every dimension.

    The unit is one part; a box that ends at grid planes stands for whole cells.
    """

    grid: Grid
    bits: int

    @staticmethod
    def of(grid: Grid) -> Cells:
        """Cells of at most 2^20 parts a dimension, fewer where float64 could not tell their planes apart."""
        reach = np.maximum(np.abs(grid.floor[grid.base]), np.abs(grid.ceil[grid.entry(grid.high)]))
        ratio = float(max(1.0, (reach / [float(step) for step in grid.step]).max(initial=1.0)))
        levels = float(np.abs([grid.low, grid.high]).max(initial=1))
        return Cells(grid, max(0, min(20, 46 - math.ceil(math.log2(max(ratio, levels))))))

    @cached_property
    def _step(self) -> np.ndarray:
        return np.array([float(step) for step in self.grid.step])

    @cached_property
    def free(self) -> np.ndarray:
        return self.grid.free

    @property
    def root(self) -> tuple[np.ndarray, np.ndarray]:
        return self.grid.low[self.free] << self.bits, self.grid.high[self.free] << self.bits

    @property
    def parts(self) -> int:
        """How many parts one cell has."""
        return 1 << (self.bits * len(self.free))

    def count(self, low: np.ndarray, high: np.ndarray) -> int:
        return math.prod(int(width) for width in np.maximum(high - low, 0))

    def real(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, _ = self.grid.box(*self._fixed(len(low)))
        upper = self.grid.box(*self._fixed(len(low)))[1]
        lower[:, self.free], upper[:, self.free] = self._plane(low, -1), self._plane(high, 1)
        return lower, upper

    def _fixed(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.repeat(self.grid.low[None], count, 0), np.repeat(self.grid.high[None], count, 0)

    def _plane(self, k: np.ndarray, side: int) -> np.ndarray:
        """The place of planes (D, F) of the free inputs, rounded down (side −1) or up (1).

        The outermost ones also cover the float32 that a user would feed.
        """
        grid, free = self.grid, self.free
        level, rest = k >> self.bits, k & ((1 << self.bits) - 1)
        entry = grid.base[free] + (level - grid.low[free])
        outer = (rest == 0) & ((level == grid.low[free]) | (level == grid.high[free]))
        outside, inside = (grid.down, grid.floor) if side < 0 else (grid.up, grid.ceil)
        at = np.where(outer, outside[entry], inside[entry])
        ahead = rest * 2.0**-self.bits * self._step[free]
        error = (np.abs(at) + self._step[free]) * 2.0**-50
        return np.asarray(np.where(rest == 0, at, at + ahead + side * error))

    def inward(self, low: np.ndarray, high: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        """Moves planes by whole parts. Two are a margin for rounding: places are below 2^46 parts."""
        grid, free = self.grid, self.free
        origin = grid.floor[grid.base[free]]
        scale = 2.0**self.bits / self._step[free]
        start = grid.low[free] << self.bits
        with np.errstate(invalid="ignore"):
            first = np.floor((lower[:, free] - origin) * scale) - 2
            last = np.ceil((upper[:, free] - origin) * scale) + 2
        none = ~(lower <= upper).all(1)
        reach = 2.0**51
        np.maximum(low, start + np.nan_to_num(first, nan=0.0).clip(-reach, reach).astype(np.int64), out=low)
        np.minimum(high, start + np.nan_to_num(last, nan=0.0).clip(-reach, reach).astype(np.int64), out=high)
        high[none] = low[none] - 1

    def halves(self, low: np.ndarray, high: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At a grid plane near the middle as long as one lies inside."""
        rows = np.arange(len(at))
        a, b = low[rows, at], high[rows, at]
        middle = (a + b) >> 1
        half = 1 << (self.bits - 1) if self.bits else 0
        plane = ((middle + half) >> self.bits) << self.bits
        middle = np.where((plane > a) & (plane < b), plane, middle)
        return middle, middle

    def width(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        wide = high - low
        return np.where(wide > 1, wide * 2.0**-self.bits, 0.0)
