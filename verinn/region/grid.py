"""Grids of inputs: x_i = offset_i + k_i · step_i with whole k_i, and boxes of them.

All numbers of a grid are rationals. The *point* of a level k is the float32 nearest to offset + k · step: what a
user feeds to the network. Boxes handed to the bounds contain both that float32 and the rational itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinn.errors import InputError

#: levels that are tabulated for all dimensions together
MOST_LEVELS = 1 << 22


@dataclass(frozen=True, eq=False)
class Grid:
    """Levels ``low``..``high`` (int64 (n,), both included) of each input, and their values.

    ``offset``/``step``: a rational for each input. ``base`` int64 (n,): where an input's levels begin in the
    tables; level k of input i has entry base[i] + k − low[i]. ``point`` float32: the number that is fed.
    ``down``/``up`` float64: an interval with that number and the rational one. ``floor``/``ceil``
    float64: the least interval with the rational one.
    """

    offset: tuple[Fraction, ...]
    step: tuple[Fraction, ...]
    low: np.ndarray
    high: np.ndarray
    base: np.ndarray
    point: np.ndarray
    down: np.ndarray
    up: np.ndarray
    floor: np.ndarray
    ceil: np.ndarray

    @property
    def n(self) -> int:
        return len(self.low)

    @property
    def points(self) -> int:
        """How many grid points there are."""
        return size(self.low, self.high)

    @property
    def free(self) -> np.ndarray:
        """The inputs with more than one level: int64."""
        return np.flatnonzero(self.high > self.low)

    def entry(self, k: np.ndarray) -> np.ndarray:
        """Places in the tables of levels k (..., n)."""
        return np.asarray(self.base + (k - self.low))

    def fed(self, k: np.ndarray) -> np.ndarray:
        """float32 points (..., n) of levels."""
        return np.asarray(self.point[self.entry(k)])

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 boxes (..., n) around all points of levels low..high, float32 and rational."""
        return self.down[self.entry(low)], self.up[self.entry(high)]

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """Levels (..., n) within the grid near real points x (..., n); nothing is claimed of ties."""
        offset = np.array([float(value) for value in self.offset])
        step = np.array([float(value) for value in self.step])
        return np.asarray(np.clip(np.rint((x - offset) / step), self.low, self.high).astype(np.int64))

    def inward(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The levels whose interval meets real boxes (D, n): (low, high), low > high where there is none.

        Levels that are left out have their whole interval, and so their point, outside of the box.
        """
        low, high = np.empty(lower.shape, np.int64), np.empty(lower.shape, np.int64)
        for i in range(self.n):
            first, count = int(self.base[i]), int(self.high[i] - self.low[i]) + 1
            low[:, i] = self.low[i] + np.searchsorted(self.up[first : first + count], lower[:, i], "left")
            high[:, i] = self.low[i] + np.searchsorted(self.down[first : first + count], upper[:, i], "right") - 1
        return low, high


def size(low: np.ndarray, high: np.ndarray) -> int:
    """How many points a box of levels (n,) holds: a whole number of any size."""
    return math.prod(int(width) for width in np.maximum(high - low + 1, 0))


def make_grid(
    offset: Sequence[Fraction], step: Sequence[Fraction], low: Sequence[int], high: Sequence[int], file: str = ""
) -> Grid:
    """A grid over n inputs. InputError where a step isn't positive, a range is empty, or there are too many levels."""
    lows, highs = np.array(low, np.int64), np.array(high, np.int64)
    if any(value <= 0 for value in step):
        raise InputError("a step of the grid is not above zero", file=file or None, hint="give positive steps")
    if (lows > highs).any():
        at = int(np.argmax(lows > highs))
        raise InputError(f"no grid point lies within the bounds of input {at}", file=file or None, hint="a finer step")
    ranges: dict[tuple[Fraction, Fraction], list[int]] = {}
    for o, s, a, b in zip(offset, step, lows.tolist(), highs.tolist(), strict=True):
        known = ranges.setdefault((o, s), [a, b])
        known[0], known[1] = min(known[0], a), max(known[1], b)
    if sum(b - a + 1 for a, b in ranges.values()) > MOST_LEVELS:
        raise InputError(
            f"the grid has more than {MOST_LEVELS:,} levels", file=file or None, hint="a coarser step or a smaller box"
        )
    tables, starts = [], {}
    total = 0
    for (o, s), (a, b) in ranges.items():
        starts[o, s] = total - a
        tables.append(_table(o, s, a, b))
        total += b - a + 1
    base = np.array([starts[o, s] + a for o, s, a in zip(offset, step, lows.tolist(), strict=True)], np.int64)
    return Grid(
        tuple(offset), tuple(step), lows, highs, base, *(np.concatenate(parts) for parts in zip(*tables, strict=True))
    )


def _table(offset: Fraction, step: Fraction, low: int, high: int) -> tuple[np.ndarray, ...]:
    """point, down, up, floor and ceil of some levels."""
    values = [offset + k * step for k in range(low, high + 1)]
    point = np.array([nearest32(value) for value in values], np.float32)
    wide = point.astype(np.float64)
    floor, ceil = np.array([below(value) for value in values]), np.array([-below(-value) for value in values])
    return point, np.minimum(wide, floor), np.maximum(wide, ceil), floor, ceil


def nearest32(value: Fraction) -> np.float32:
    """The float32 nearest to a rational, ties to even."""
    near = float(value)
    with np.errstate(over="ignore"):
        first = np.float32(near)
    if not np.isfinite(first):
        raise InputError(f"a grid point near {near:g} is out of float32's range", hint="a smaller box")
    # rounded twice: what differs is only a float64 that lies half way between two float32
    other = np.nextafter(first, np.float32(np.inf if near > float(first) else -np.inf))
    half_way = 2 * Fraction(near) == Fraction(float(first)) + Fraction(float(other))
    if Fraction(near) == value or not half_way:
        return first
    return min(first, other) if value < Fraction(near) else max(first, other)


def below(value: Fraction) -> float:
    """The greatest float64 that is at most ``value``."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def levels_within(offset: Fraction, step: Fraction, lower: np.float32, upper: np.float32) -> tuple[int, int]:
    """The levels whose float32 point lies in [lower, upper]; first > last where there is none."""
    if step * 1000 < Fraction(float(np.spacing(max(abs(lower), abs(upper))))):
        raise InputError("a step of the grid is far below float32's resolution", hint="a coarser step")
    first = math.floor((Fraction(float(lower)) - offset) / step)
    while nearest32(offset + first * step) >= lower:
        first -= 1
    while nearest32(offset + first * step) < lower:
        first += 1
    last = math.ceil((Fraction(float(upper)) - offset) / step)
    while nearest32(offset + last * step) <= upper:
        last += 1
    while nearest32(offset + last * step) > upper:
        last -= 1
    return first, last
