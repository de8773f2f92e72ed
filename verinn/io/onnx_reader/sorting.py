"""TopK: the greatest of an axis in order, by a sorting network of maxima and minima, and their places by steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Value
from verinn.io.onnx_reader.call import Call, axis_of, importer
from verinn.io.onnx_reader.reduce import reaches
from verinn.ir import const as c
from verinn.ir.graph import Const

_INT64 = 7
# Longer axes aren't sorted; of shorter ones than the second, the places are told as well.
MAX_SORTED = 1024
MAX_PLACED = 32


@importer("TopK")
def _top_k(call: Call) -> list[Value | None]:
    builder, x = call.builder, call.value()
    axis = axis_of(int(call.attr("axis", -1)), len(x.shape))
    count = int(call.scalar(1, "the number of entries")) if call.opset >= 10 else int(call.attr("k", 0))
    size = x.shape[axis]
    if not 1 <= count <= size:
        raise InputError(f"takes {count} of {size} entries", hint="the model is damaged")
    if count > 1 and not call.attr("sorted", 1):
        raise Unsupported("takes the greatest in any order", hint="sorted ones are supported")
    order = [*(k for k in range(len(x.shape)) if k != axis), axis]
    back = np.argsort(order).tolist()
    rows = builder.transpose(x, order)
    largest = bool(call.attr("largest", 1))
    if isinstance(rows, Known) and rows.const.error is None:
        return [builder.transpose(value, back) for value in _constant(rows, count, largest)]
    if size > MAX_SORTED:
        raise Unsupported(f"sorts {size} entries", hint=f"at most {MAX_SORTED} are sorted")
    rows = rows if largest else builder.neg(rows)
    values = builder.narrow(_sorted(builder, rows, count), len(x.shape) - 1, 0, count)
    values = values if largest else builder.neg(values)
    places = None if call.unused(1) else builder.transpose(_places(builder, rows, count), back)
    return [builder.transpose(builder.retype(values, x.dtype), back), places]


def _constant(rows: Known, count: int, largest: bool) -> tuple[Known, Known]:
    value = rows.const.value
    order = c.as_float(rows.const).value if rows.dtype in FLOATS else value
    at = np.argsort(-order if largest else order, axis=-1, kind="stable")[..., :count]
    return Known(Const(np.take_along_axis(value, at, -1)), rows.dtype), Known(Const(at.astype(np.int64)), _INT64)


def layers(size: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs to be compared at once: merge exchange (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M)."""
    top = 1 << max(0, math.ceil(math.log2(size)) - 1) if size > 1 else 0
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            yield [(i, i + d) for i in range(size - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


def _sorted(builder: Builder, rows: Value, count: int) -> Value:
    """The last axis from the greatest to the least; its bounds by intervals are the bounds in order."""
    axis, size = len(rows.shape) - 1, rows.shape[-1]
    if count == 1:
        return builder.greatest(rows, [axis])
    for pairs in layers(size):
        ends = [builder.gather(rows, axis, list(side)) for side in zip(*pairs, strict=True)]
        both = builder.concat([builder.reshape(end, (*end.shape, 1)) for end in ends], axis + 1)
        high = builder.reshape(builder.greatest(both, [axis + 1]), ends[0].shape)
        low = builder.reshape(builder.neg(builder.greatest(builder.neg(both), [axis + 1])), ends[0].shape)
        source = np.arange(size)
        for number, (i, j) in enumerate(pairs):
            source[i], source[j] = size + number, size + len(pairs) + number
        rows = builder.gather(builder.concat([rows, high, low], axis), axis, source.tolist())
    return rows


def _places(builder: Builder, rows: Value, count: int) -> Value:
    """The place of each rank: an entry's rank is how many come before it; of equal ones the first comes first."""
    axis, size = len(rows.shape) - 1, rows.shape[-1]
    if count == 1:
        reach = reaches(builder, rows, axis, last=False)
        if reach is None:
            return Known(Const(np.zeros(rows.shape, np.int64)), _INT64)
        return builder.retype(builder.total(reach, [axis]), _INT64)
    if isinstance(rows, Known):
        raise Unsupported("sorts constants that aren't known exactly")
    if size > MAX_PLACED:
        raise Unsupported(f"tells the places of {size} entries in order", hint=f"at most {MAX_PLACED} are told")
    pairs = list(combinations(range(size), 2))
    first, second = (builder.gather(rows, axis, list(side)) for side in zip(*pairs, strict=True))
    before = builder.retype(builder.step(builder.add(first, second, -1), strict=False), 1)
    weight = np.zeros((len(pairs), size))
    for number, (i, j) in enumerate(pairs):
        weight[number, j], weight[number, i] = 1.0, -1.0
    offset = np.arange(size - 1, -1, -1.0)  # pairs in which an entry is the first
    rank = builder.add(builder.linear(before, Const(weight)), Known(Const(offset), 1))
    # 1 where an entry's rank is r, as the difference of two steps
    ends = Known(Const(0.5 - np.arange(count + 1.0)), 1)
    reach = builder.retype(builder.step(builder.add(builder.reshape(rank, (*rank.shape, 1)), ends), False), 1)
    hot = builder.add(builder.narrow(reach, axis + 1, 0, count), builder.narrow(reach, axis + 1, 1, count), -1)
    place = builder.linear(builder.swap(hot), Const(np.arange(float(size)).reshape(-1, 1)))
    return builder.retype(builder.reshape(place, (*rank.shape[:-1], count)), _INT64)
