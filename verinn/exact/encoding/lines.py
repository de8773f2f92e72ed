"""Sound lines and ranges of an elementwise operator, as exact comparisons: its own, from ``verinn.ops``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from verinn.exact.encoding.formula import Comparison, Curve, Form, mixed, variable
from verinn.exact.encoding.numbers import fraction, short
from verinn.ir.graph import Node
from verinn.ops.base import Elementwise, Lines
from verinn.ops.registry import OPS


def lines_over(node: Node, low: Tensor, high: Tensor, every: bool = True) -> list[Lines]:
    """Lines over ranges (D, *shape), float64; more than one choice of them where there is a choice (``every``)."""
    op = OPS[node.op]
    assert isinstance(op, Elementwise)
    if not every or not op.slots:
        return [op.lines(node, low, high)]
    shape = low.shape if op.slots == 1 else (len(low), op.slots, *low.shape[1:])
    found = [op.lines(node, low, high, torch.full(shape, end, dtype=low.dtype)) for end in (0.0, 1.0)]
    return found if op.slots == 1 else [*found, op.lines(node, low, high)]


def range_over(node: Node, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """An interval of f over ranges (D, *shape), float64."""
    op = OPS[node.op]
    assert isinstance(op, Elementwise)
    return op.interval(node, low, high)


def comparisons(
    every: Sequence[Lines], place: tuple[int, ...], x: Form, y: Form, ends: tuple[float, float], exactly: bool = False
) -> list[Comparison]:
    """One element's lines, as comparisons that hold for x in ``ends``; made short unless ``exactly``."""
    found: dict[tuple[bool, Fraction, Fraction], Comparison] = {}
    for lines in every:
        for over, slope, offset in _fractions(lines, place, ends, exactly):
            above = mixed([(slope, x), (Fraction(-1), y)], offset)  # line − y
            found[over, slope, offset] = Comparison(above * Fraction(-1) if over else above, "<=")
    return list(found.values())


def _fractions(
    lines: Lines, place: tuple[int, ...], ends: tuple[float, float], exactly: bool
) -> Iterator[tuple[bool, Fraction, Fraction]]:
    """Whether it is the upper one, slope and offset of each line of one element."""
    pairs = ((lines.lower_slope, lines.lower_offset, False), (lines.upper_slope, lines.upper_offset, True))
    for slopes, offsets, over in pairs:
        slope = float(slopes.expand_as(lines.upper_slope)[place])
        offset = 0.0 if offsets is None else float(offsets.expand_as(lines.upper_slope)[place])
        line = _line(slope, offset, ends, over, exactly)
        if line is not None:
            yield over, *line


def _line(
    slope: float, offset: float, ends: tuple[float, float], over: bool, exactly: bool
) -> tuple[Fraction, Fraction] | None:
    """Slope and offset as fractions; a shorter slope moves the offset by what that may cost."""
    if not (math.isfinite(slope) and math.isfinite(offset)):
        return None
    if exactly:
        return Fraction(slope), Fraction(offset)
    near = short(slope, up=over)
    assert near is not None
    lost = Fraction(slope) - near
    if not lost:
        moved = offset
    elif all(map(math.isfinite, ends)):
        # slope·x = near·x + lost·x: the offset takes the worst of the rest
        rest = [lost * Fraction(end) for end in ends]
        exact = Fraction(offset) + (max(rest) if over else min(rest))
        moved = math.nextafter(float(exact), math.inf if over else -math.inf)
    else:
        return None
    end = short(moved, up=over)
    return None if end is None else (near, end)


def curve_cell(curve: Curve, low: float, high: float, exactly: bool) -> list[Comparison]:
    """What y = f(x) is known to keep to while x is in [low, high] (floats; infinite ends give ranges only)."""
    node, place = curve.node, (0, 0)
    ends = torch.tensor([[low]], dtype=torch.float64), torch.tensor([[high]], dtype=torch.float64)
    x, y = variable(curve.x), variable(curve.y)
    least, most = range_over(node, *ends)
    found = ranged(y, float(least[place]), float(most[place]))
    if math.isfinite(low) and math.isfinite(high):
        found.extend(comparisons(lines_over(node, *ends, every=low < high), place, x, y, (low, high), exactly))
    return found


def ranged(y: Form, low: float, high: float) -> list[Comparison]:
    """low ≤ y ≤ high, as far as the ends are finite."""
    found = []
    least, most = fraction(low), fraction(high)
    if least is not None:
        found.append(Comparison((y * Fraction(-1)).shifted(least), "<="))
    if most is not None:
        found.append(Comparison(y.shifted(-most), "<="))
    return found


def float_ends(array: tuple[np.ndarray, np.ndarray] | None, element: int) -> tuple[float, float]:
    """The known ends of one element; none known: infinite."""
    return (-math.inf, math.inf) if array is None else (float(array[0][element]), float(array[1][element]))
