"""Choice by whole numbers that depend on the inputs, exact, as 0/1 values: gather, scatter, slice, one-hot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from verinn.errors import Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Builder, Choice, Fork, Known, Value, limited
from verinn.io.onnx_reader.facts import Origin
from verinn.io.onnx_reader.matmul import matmul
from verinn.ir import const as c
from verinn.ir.graph import Const, Shape

# The largest number of elements that are placed one after the other, each with a mask of its own.
MAX_PLACED = 64


def at_least(builder: Builder, x: Value, numbers: Sequence[int]) -> Value:
    """(*x.shape, k): where whole numbers x reach each of k whole numbers, as 0/1. Steps lie half between."""
    offsets = Known(Const(0.5 - np.array(numbers, dtype=np.float64)), x.dtype)
    return builder.step(builder.add(builder.reshape(x, (*x.shape, 1)), offsets), strict=False)


def one_hot(builder: Builder, x: Value, first: int, count: int) -> Value:
    """(*x.shape, count): 1 where whole numbers x are first, first + 1, …, else 0."""
    rank = len(x.shape)
    low, high = builder.whole_range(x)
    if first == low and first + count - 1 == high and count > 1:
        # Every x is one of them: the first and the last are told by a single step.
        reach = at_least(builder, x, range(first + 1, first + count))
        ones = Known(Const(np.ones((*x.shape, 1))), x.dtype)
        zeros = Known(Const(np.zeros((*x.shape, 1))), x.dtype)
        return builder.add(builder.concat([ones, reach], rank), builder.concat([reach, zeros], rank), -1)
    reach = at_least(builder, x, range(first, first + count + 1))
    return builder.add(builder.narrow(reach, rank, 0, count), builder.narrow(reach, rank, 1, count), -1)


def wrapped_hot(builder: Builder, x: Value, size: int) -> Value:
    """``one_hot`` of the indices of an axis of ``size`` entries; negative ones count from the end."""
    limited((*x.shape, size))
    low, _ = builder.whole_range(x)
    hot = one_hot(builder, x, 0, size)
    return hot if low >= 0 else builder.add(hot, one_hot(builder, x, -size, size))


def gather_by_value(builder: Builder, x: Value, indices: Value, axis: int, inside: bool = False) -> Value:
    """Gather by indices that depend on the inputs. An index out of range is an error when the model runs.

    ``inside``: what an index out of range gives doesn't matter.
    """
    lead, size, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    low, high = builder.whole_range(indices)
    if low == high:
        one = builder.gather(x, axis, [int(low) % size] * math.prod(indices.shape))
        return builder.reshape(one, (*lead, *indices.shape, *rest))
    line = _progression(x) if inside or (low >= 0 and high < size) else None
    if line is not None:
        scaled = builder.mul(indices, Known(Const(np.array(line[1])), indices.dtype))
        return builder.retype(builder.add(scaled, Known(Const(np.array(line[0])), indices.dtype)), x.dtype)
    hot = builder.reshape(wrapped_hot(builder, indices, size), (math.prod(indices.shape), size))
    before = range(axis)
    table = builder.transpose(x, (axis, *before, *range(axis + 1, len(x.shape))))
    table = builder.reshape(table, (size, math.prod(lead) * math.prod(rest)))
    picked = matmul(builder, builder.retype(hot, x.dtype), table)
    picked = builder.reshape(picked, (*indices.shape, *lead, *rest))
    rank = len(indices.shape)
    order = [rank + i for i in before] + list(range(rank)) + [rank + axis + i for i in range(len(rest))]
    return builder.transpose(picked, order)


def _progression(x: Value) -> tuple[int, int] | None:
    """(a, b) where a vector of whole constants is a, a + b, a + 2b, …"""
    if not isinstance(x, Known) or len(x.shape) != 1 or x.const.value.dtype.kind != "i" or x.shape[0] < 2:
        return None
    gaps = np.diff(x.const.value)
    return (int(x.const.value[0]), int(gaps[0])) if np.all(gaps == gaps[0]) else None


def scatter_by_value(builder: Builder, x: Value, indices: Value, updates: Value, reduction: str) -> Value:
    """ScatterND by index tuples that depend on the inputs: each update in turn, where its mask is 1."""
    depth, count = indices.shape[-1], math.prod(indices.shape[:-1])
    if reduction != "none":
        raise Unsupported(f"places by indices that depend on the input with the reduction '{reduction}'")
    rest = x.shape[depth:]
    tuples = builder.reshape(indices, (count, depth))
    values = builder.reshape(updates, (count, *rest))
    for numbers, coordinates in _alike(builder, tuples, x.shape):
        x = _scattered(builder, x, numbers, coordinates, values)
    return x


# Of one index tuple: a place along the axis, or where it comes from and, as a value, the place.
Coordinates = list["int | tuple[Origin, Value]"]


def _alike(builder: Builder, tuples: Value, shape: Shape) -> list[tuple[list[int], list[Coordinates]]]:
    """Index tuples in a row whose coordinates that depend on the inputs are the same, taken together."""
    count, depth = tuples.shape
    groups: list[tuple[list[int], list[Coordinates]]] = []
    for number in range(count):
        coordinates: Coordinates = []
        for k in range(depth):
            found = builder.origin(tuples, number * depth + k)
            if isinstance(found, Known):
                coordinates.append(int(found.const.value.reshape(-1)[0]) % shape[k])
            else:
                coordinates.append((found, builder.element(tuples, number * depth + k)))
        if groups and _variable(groups[-1][1][0]) == _variable(coordinates):
            groups[-1][0].append(number)
            groups[-1][1].append(coordinates)
        else:
            groups.append(([number], [coordinates]))
    if len(groups) > MAX_PLACED:
        raise Unsupported(
            f"places slices at {len(groups)} indices that depend on the input",
            hint=f"at most {MAX_PLACED} are supported",
        )
    return groups


def _variable(coordinates: Coordinates) -> list[Origin | None]:
    return [None if isinstance(item, int) else item[0] for item in coordinates]


def _scattered(builder: Builder, x: Value, numbers: list[int], places: list[Coordinates], values: Value) -> Value:
    """Updates whose constant coordinates differ and whose others are the same, placed at once."""
    depth, rank = len(places[0]), len(x.shape)
    known = [k for k in range(depth) if isinstance(places[0][k], int)]
    hot: Value = Known(Const(np.ones((1,) * rank)), x.dtype)
    for k in range(depth):
        item = places[0][k]
        if not isinstance(item, int):
            along = builder.reshape(wrapped_hot(builder, item[1], x.shape[k]), (x.shape[k], *[1] * (rank - k - 1)))
            hot = builder.mul(hot, along)
    # The updates laid out along the axes whose coordinates are constant; of several at one place the last wins.
    rest = x.shape[depth:]
    grid = tuple(x.shape[k] for k in known)
    cells = math.prod(grid)
    flat = np.zeros(len(numbers), np.int64)
    for at, coordinates in enumerate(places):
        for k in known:
            item = coordinates[k]
            assert isinstance(item, int)
            flat[at] = flat[at] * x.shape[k] + item
    source = np.full(cells, -1)
    source[flat] = numbers
    spread = (*(x.shape[k] if k in known else 1 for k in range(depth)), *rest)
    laid = builder.reshape(builder.gather(values, 0, np.maximum(source, 0).tolist()), spread)
    mask = np.broadcast_to((source >= 0).reshape(*spread[:depth], *[1] * len(rest)), spread).astype(np.float64)
    return blend(builder, builder.mul(hot, Known(Const(mask), x.dtype)), laid, x)


def blend(builder: Builder, mask: Value, x: Value, y: Value) -> Value:
    """x where the 0/1 ``mask`` is 1, else y: y + mask · (x − y), with broadcasting."""
    if isinstance(x, Known) and isinstance(y, Known) and not (_finite(x) and _finite(y)):
        raise Unsupported("chooses between infinite constants by a value that depends on the input")
    mask = builder.retype(mask, y.dtype)  # else the choice would be a truth value, as the mask is
    chosen = builder.add(y, builder.mul(mask, builder.add(x, y, -1)))
    return builder.expand(chosen, builder.common(mask.shape, x.shape, y.shape))


def _finite(x: Known) -> bool:
    return bool(np.all(np.isfinite(c.as_float(x.const).value)))


def slice_by_value(builder: Builder, x: Value, axis: int, start: Value, end: Value) -> Value:
    """x[start:end] along an axis, for bounds that depend on the inputs and are a constant number apart.

    Unsupported when they aren't, or when the inputs allow a place where the slice would be cut short.
    """
    total = x.shape[axis]
    first, last = builder.origin(start), builder.origin(end)
    if isinstance(first, Known) or isinstance(last, Known) or (first.name, first.index) != (last.name, last.index):
        raise Unsupported("slices as many entries as the input says", hint="only places may depend on the input")
    size = last.offset - first.offset
    place = builder.element(start, 0)
    low, high = builder.whole_range(place)
    if size <= 0 or low < 0:
        raise Unsupported(
            f"slices {size} of {total} entries at a place that depends on the input, from {low:g} to {high:g}",
            hint="give a property that bounds the place from below by 0",
        )
    if high + size > total:
        choice = Choice(first.name, first.index, first.offset, total, size)
        if choice not in builder.world:
            raise Fork(choice)
        size = builder.world[choice]
    if size == 0:
        return builder.narrow(x, axis, 0, 0)
    offsets = Known(Const(np.arange(size)), start.dtype)
    return gather_by_value(builder, x, builder.add(place, offsets), axis, inside=True)


def size_flag(builder: Builder, choice: Choice, size: int) -> Value:
    """1 where just ``size`` entries are left of a slice, else 0: shape (1,)."""
    place = builder.element_of(choice.name, choice.index, choice.offset)
    if size == choice.size:
        reach = at_least(builder, place, [choice.total - size + 1])
        return builder.reshape(builder.flip(reach), (1,))
    if size == 0:
        return builder.reshape(at_least(builder, place, [choice.total]), (1,))
    return builder.reshape(one_hot(builder, place, choice.total - size, 1), (1,))


def truncated(builder: Builder, x: Value) -> Value:
    """Toward zero: floor(max(x, 0)) − floor(max(−x, 0)); one of them where the sign is known."""
    low, high = builder.range_of(x)
    if np.all(low >= 0):
        return builder.elementwise("floor", x)
    if np.all(high <= 0):
        return builder.elementwise("ceil", x)
    up = builder.elementwise("floor", builder.relu(x))
    down = builder.elementwise("ceil", builder.clip(x, -math.inf, 0.0))
    return builder.add(up, down)


def is_whole(x: Value) -> bool:
    """Whether a value is of whole numbers by its type."""
    return x.dtype not in FLOATS
