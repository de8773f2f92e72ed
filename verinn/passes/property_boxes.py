"""Input boxes: bounds intersected, rounded outward for proofs and inward for witnesses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from verinn.ir.prop import Rows
from verinn.passes.property_leaves import Leaves, ragged, round_up

_MAX32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the boxes, as upper bounds (lower bounds are kept negated), ordered by key.

    ``key`` = box · n + place. ``outer`` admits at least the reals below the decimal and the float32
    rounding of the decimal; ``inner`` (float32) is below the decimal and its rounding.
    """

    key: np.ndarray  # int64 (k,)
    value: np.ndarray  # float64 (k,) nearest
    strict: np.ndarray  # bool (k,)
    outer: np.ndarray  # float64 (k,)
    inner: np.ndarray  # float32 (k,)


def _rounded(value: np.ndarray, strict: np.ndarray, side: np.ndarray, single: np.ndarray) -> tuple[np.ndarray, ...]:
    """``outer`` float64 and ``inner`` float32 of upper bounds, all (k,)."""
    above = np.where((side == 0) | (side == -1), value, np.nextafter(value, np.inf))
    with np.errstate(over="ignore"):
        rounded = above.astype(np.float32).astype(np.float64)
        # Beyond float32 the rounding is infinite, but then no float32 lies between the two.
        outer = np.where(single & np.isfinite(rounded), np.maximum(above, rounded), above)
        below = np.where((side == 0) | (side == 1), value, np.nextafter(value, -np.inf))
        inner = np.minimum(below, _MAX32).astype(np.float32)
    step = (inner.astype(np.float64) > below) | strict
    return outer, np.where(step, np.nextafter(inner, np.float32(-np.inf)), inner)


def _side(key: np.ndarray, value: np.ndarray, strict: np.ndarray, where: np.ndarray, single: np.ndarray) -> Side:
    """The smallest of the upper bounds that share a key."""
    outer, inner = _rounded(value, strict, where, single)
    if len(key) > 1 and not (key[1:] > key[:-1]).all():
        order = np.argsort(key, kind="stable")
        key, value, strict, outer, inner = key[order], value[order], strict[order], outer[order], inner[order]
        first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        if len(first) < len(key):
            least = np.minimum.reduceat(value, first)
            tight = value == np.repeat(least, np.diff(np.append(first, len(key))))
            strict = np.logical_or.reduceat(strict & tight, first)
            outer, inner = np.minimum.reduceat(outer, first), np.minimum.reduceat(inner, first)
            key, value = key[first], least
    return Side(key, value, strict, outer, inner)


def _sides(leaves: Leaves, entries: np.ndarray, box: np.ndarray, single: np.ndarray) -> tuple[Side, Side]:
    """Lower (negated) and upper side of the given bound entries, which belong to the given boxes."""
    table = leaves.bounds
    upper = table.upper[entries]
    sides = []
    for want, sign in ((False, -1.0), (True, 1.0)):
        mine = entries[upper == want]
        place = table.place[mine]
        key = box[upper == want] * len(single) + place
        where = table.side[mine] * np.int8(sign)  # UNKNOWN turned round is unknown still
        sides.append(_side(key, sign * table.value[mine], table.strict[mine], where, single[place]))
    return sides[0], sides[1]


def _crossed(lower: np.ndarray, upper: np.ndarray, strict: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Where no value is between the bounds (k,): neither a real one nor a float32 one after rounding."""
    with np.errstate(over="ignore"):
        a = np.where(single, lower.astype(np.float32).astype(np.float64), lower)
        b = np.where(single, upper.astype(np.float32).astype(np.float64), upper)
    crossed: np.ndarray = (lower > upper) & ((a > b) | strict & (a >= b))
    return crossed


_PASSES = 100  # over the rows, each of which may give bounds to the next
_TIES = 1000  # of those compared digit by digit; the rest count as not empty, which is safe


def _tied(lower: np.ndarray, upper: np.ndarray, strict: np.ndarray) -> np.ndarray:
    """Places where the decimals themselves must tell whether a value is left."""
    return np.flatnonzero(strict & (lower == upper))[:_TIES]


def _empty_tie(leaves: Leaves, place: int, entries: np.ndarray) -> bool:
    """Whether the given bounds on the input at ``place``, exactly, leave no value."""
    table = leaves.bounds
    mine = entries[table.place[entries] == place].tolist()
    exact = [(bool(table.upper[k]), table.exact(k), bool(table.strict[k])) for k in mine]
    low, low_strict = max((value, strict) for upper, value, strict in exact if not upper)
    high, high_open = min((value, not strict) for upper, value, strict in exact if upper)
    return low > high or (low == high and (low_strict or not high_open))


@dataclass(frozen=True, eq=False)
class Base:
    """The box that holds in all cases, dense, each (n,); lower sides as they are, not negated."""

    lower: np.ndarray
    upper: np.ndarray
    inner_lower: np.ndarray
    inner_upper: np.ndarray
    near_lower: np.ndarray
    near_upper: np.ndarray
    strict_lower: np.ndarray
    strict_upper: np.ndarray
    entries: np.ndarray  # int64: the bound entries it comes from
    empty: int | None = None  # the first input with no value at all


def make_base(leaves: Leaves, numbers: np.ndarray, single: np.ndarray) -> Base:
    """The intersection of all bounds of the given leaves."""
    n = len(single)
    entries, _ = leaves.bounds.of(numbers)
    below, above = _sides(leaves, entries, np.zeros(len(entries), np.int64), single)

    def dense(side: Side, values: np.ndarray, empty: object, sign: int) -> np.ndarray:
        full = np.full(n, empty, values.dtype)
        full[side.key] = values if sign > 0 or values.dtype == bool else -values
        return full

    base = Base(
        dense(below, below.outer, -np.inf, -1),
        dense(above, above.outer, np.inf, 1),
        dense(below, below.inner, -np.inf, -1),
        dense(above, above.inner, np.inf, 1),
        dense(below, below.value, -np.inf, -1),
        dense(above, above.value, np.inf, 1),
        dense(below, below.strict, False, 1),
        dense(above, above.strict, False, 1),
        entries,
    )
    strict = base.strict_lower | base.strict_upper
    crossed = _crossed(base.near_lower, base.near_upper, strict, single)
    for place in _tied(base.near_lower, base.near_upper, strict):
        crossed[place] |= _empty_tie(leaves, int(place), entries)
    if not crossed.any():
        return base
    return replace(base, empty=int(np.argmax(crossed)))


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes as differences from the base: sparse sides, of which box i has start[i]:start[i+1]."""

    lower: Side
    upper: Side
    lower_start: np.ndarray
    upper_start: np.ndarray
    n: int
    empty: np.ndarray  # bool (boxes,)
    first_empty: int  # an input without value of the first empty box
    has_rows: np.ndarray  # bool (leaves,): the leaf has rows on inputs

    def content(self, box: int) -> tuple[bytes, ...]:
        """What tells a box from others."""
        parts = []
        for side, start in ((self.lower, self.lower_start), (self.upper, self.upper_start)):
            here = slice(start[box], start[box + 1])
            parts += [(side.key[here] - box * self.n).tobytes(), side.outer[here].tobytes(), side.inner[here].tobytes()]
        return tuple(parts)

    def dense(self, box: int, base: Base) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, np.ndarray]]:
        """lower, upper (float64), witness_lower, witness_upper (float32) of a box, and the decimal bounds to the
        nearest float64, each (n,)."""
        lower, upper = base.lower.copy(), base.upper.copy()
        inner_lower, inner_upper = base.inner_lower.copy(), base.inner_upper.copy()
        near_lower, near_upper = base.near_lower.copy(), base.near_upper.copy()
        here = slice(self.lower_start[box], self.lower_start[box + 1])
        place = self.lower.key[here] - box * self.n
        lower[place] = np.maximum(lower[place], -self.lower.outer[here])
        inner_lower[place] = np.maximum(inner_lower[place], -self.lower.inner[here])
        near_lower[place] = np.maximum(near_lower[place], -self.lower.value[here])
        here = slice(self.upper_start[box], self.upper_start[box + 1])
        place = self.upper.key[here] - box * self.n
        upper[place] = np.minimum(upper[place], self.upper.outer[here])
        inner_upper[place] = np.minimum(inner_upper[place], self.upper.inner[here])
        near_upper[place] = np.minimum(near_upper[place], self.upper.value[here])
        witness = _witness(inner_lower, inner_upper, near_lower, near_upper)
        return (lower, upper, *witness), (near_lower, near_upper)


def _witness(
    lower: np.ndarray, upper: np.ndarray, near_lower: np.ndarray, near_upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The float32 range of witnesses; where it is empty, the float32 roundings of the bounds."""
    none = lower > upper
    if none.any():
        with np.errstate(over="ignore"):
            lower = np.where(none, near_lower.astype(np.float32), lower)
            upper = np.where(none, near_upper.astype(np.float32), upper)
    return lower, upper


def close_by_rows(lower: np.ndarray, upper: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Finite bounds, where ``rows`` imply some, for inputs that have none of their own: (n,), (n,).

    So an input that another one is equal to gets the other's box. Bounds that are finite stay as they
    are; rows with inexact coefficients are not used. Exact arithmetic, rounded outward.
    """
    open_sides = np.isinf(lower) | np.isinf(upper)
    if not len(rows) or not open_sides.any():
        return lower, upper
    low = {int(i): float(lower[i]) for i in rows.x.index}
    high = {int(i): float(upper[i]) for i in rows.x.index}
    inexact = np.zeros(len(rows.x.index), bool) if rows.x_error is None else rows.x_error.value != 0
    usable = []
    for a, b, rhs in zip(rows.x.indptr[:-1], rows.x.indptr[1:], rows.rhs, strict=True):
        if np.isfinite(rhs) and not inexact[a:b].any() and open_sides[rows.x.index[a:b]].any():
            terms = [(int(i), Fraction(float(v))) for i, v in zip(rows.x.index[a:b], rows.x.value[a:b], strict=True)]
            usable.append((terms, Fraction(float(rhs))))
    for _ in range(_PASSES):
        if not sum(_close(terms, limit, low, high) for terms, limit in usable):
            break
    lower, upper = lower.copy(), upper.copy()
    lower[list(low)] = list(low.values())
    upper[list(high)] = list(high.values())
    return lower, upper


def close_witness(
    lower: np.ndarray, upper: np.ndarray, witness_lower: np.ndarray, witness_upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The float32 range of witnesses where only ``close_by_rows`` gave bounds, rounded outward: the rows decide."""
    with np.errstate(over="ignore"):
        below, above = lower.astype(np.float32), upper.astype(np.float32)
    below = np.where(below > lower, np.nextafter(below, np.float32(-np.inf)), below)
    above = np.where(above < upper, np.nextafter(above, np.float32(np.inf)), above)
    return (
        np.where(np.isinf(witness_lower), below, witness_lower),
        np.where(np.isinf(witness_upper), above, witness_upper),
    )


def _close(terms: list[tuple[int, Fraction]], limit: Fraction, low: dict[int, float], high: dict[int, float]) -> bool:
    """Uses Σ value·x ≤ limit when exactly one of its smallest terms is infinite; whether that gave a bound."""
    rest = limit
    free: tuple[int, Fraction] | None = None
    for place, value in terms:
        end = low[place] if value > 0 else high[place]
        if np.isfinite(end):
            rest -= value * Fraction(end)
        elif free is None:
            free = place, value
        else:
            return False
    if free is None:
        # Every term is bounded below; then each open far side is bounded above by the slack.
        return _close_far(terms, rest, low, high)
    place, value = free
    side = high if value > 0 else low
    if np.isfinite(side[place]):
        return False
    return _set(side, place, rest / value, up=value > 0)


def _close_far(
    terms: list[tuple[int, Fraction]], slack: Fraction, low: dict[int, float], high: dict[int, float]
) -> bool:
    progress = False
    for place, value in terms:
        near, far = (low, high) if value > 0 else (high, low)
        if not np.isfinite(far[place]):
            progress |= _set(far, place, Fraction(near[place]) + slack / value, up=value > 0)
    return progress


def _set(side: dict[int, float], place: int, bound: Fraction, up: bool) -> bool:
    number = round_up(bound) if up else 0.0 - round_up(-bound)
    if not np.isfinite(number):
        return False
    side[place] = number
    return True


def make_boxes(leaves: Leaves, groups: list[np.ndarray], base: Base, single: np.ndarray) -> Boxes:
    """One box for each group of leaf numbers, and which of them are empty within the base."""
    n = len(single)
    lengths = np.array([len(group) for group in groups], np.int64)
    numbers = np.concatenate(groups) if groups else np.zeros(0, np.int64)
    entries, counts = ragged(leaves.bounds.start, numbers)
    box = np.repeat(np.repeat(np.arange(len(groups)), lengths), counts)
    below, above = _sides(leaves, entries, box, single)
    edges = np.arange(len(groups) + 1) * n
    empty = np.zeros(len(groups), bool)
    first = -1
    for key in (below.key, above.key):
        place = key % n
        lower, lower_strict = _at(below, key, base.near_lower[place], base.strict_lower[place], -1)
        upper, upper_strict = _at(above, key, base.near_upper[place], base.strict_upper[place], 1)
        strict = lower_strict | upper_strict
        crossed = _crossed(lower, upper, strict, single[place])
        for k in _tied(lower, upper, strict):
            mine = np.concatenate([base.entries, entries[box == key[k] // n]])
            crossed[k] |= _empty_tie(leaves, int(place[k]), mine)
        if crossed.any():
            empty[key[crossed] // n] = True
            first = int(place[np.argmax(crossed)]) if first < 0 else first
    return Boxes(
        below, above, np.searchsorted(below.key, edges), np.searchsorted(above.key, edges), n,
        empty, first, leaves.has_input_rows,
    )  # fmt: skip


def _at(side: Side, key: np.ndarray, value: np.ndarray, strict: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """The bound of a side at the given keys, intersected with the base's ``value`` and ``strict``."""
    if not len(side.key):
        return value, strict
    where = np.minimum(np.searchsorted(side.key, key), len(side.key) - 1)
    found = side.key[where] == key
    mine = np.where(found, side.value[where], np.inf)
    theirs = sign * value
    both = np.minimum(mine, theirs)
    is_strict = (found & side.strict[where] & (mine == both)) | (strict & (theirs == both))
    return sign * both, is_strict
