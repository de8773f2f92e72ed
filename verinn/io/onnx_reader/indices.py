"""Importers of operators that pick or place elements by constant indices."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from verinn.errors import InputError
from verinn.io.onnx_reader.builder import Builder, Known, Value, limited
from verinn.io.onnx_reader.call import Call, axis_of, importer
from verinn.io.onnx_reader.select import gather_by_value, scatter_by_value
from verinn.ir.graph import Shape


def positions(call: Call, index: int, what: str) -> np.ndarray:
    """Constant indices, int64 of any shape (negative ones are the caller's)."""
    array = call.known(index, what).const.value
    if array.dtype.kind not in "iu":
        raise InputError(f"{what} are no integers")
    return array


def inside(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices counted from the start; InputError when one is out of range."""
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        raise InputError(f"reads index {int(indices.max())} or {int(indices.min())} of {size} entries")
    return np.where(indices < 0, indices + size, indices)


def pick(builder: Builder, x: Value, flat: np.ndarray) -> Value:
    """The elements of x at row-major positions ``flat``, in the shape of ``flat``."""
    limited(flat.shape)
    whole = builder.reshape(x, (math.prod(x.shape),))
    return builder.reshape(builder.gather(whole, 0, flat.reshape(-1).tolist()), flat.shape)


def place(builder: Builder, x: Value, flat: np.ndarray, updates: Value, reduction: str = "none") -> Value:
    """x with the elements at row-major positions ``flat`` replaced by (or combined with) ``updates``.

    ``flat`` has one position for each update; of several at one position the last wins, or all are combined.
    """
    size, count = math.prod(x.shape), math.prod(updates.shape)
    if count == 0:
        return x
    both = [builder.reshape(x, (size,)), builder.reshape(updates, (count,))]
    source = np.arange(size)
    if reduction == "none":
        source[flat.reshape(-1)] = size + np.arange(count)
        return builder.reshape(builder.gather(builder.concat(both, 0), 0, source.tolist()), x.shape)
    combine = _COMBINE.get(reduction)
    if combine is None:
        raise InputError(f"has the unknown reduction '{reduction}'")
    current = both[0]
    for places, numbers in _rounds(flat.reshape(-1)):
        old, new = (builder.gather(v, 0, at.tolist()) for v, at in ((current, places), (both[1], numbers)))
        current = place(builder, current, places, combine(builder, old, new))
    return builder.reshape(current, x.shape)


def _rounds(flat: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions and the numbers of their updates, in rounds in which no position comes twice."""
    seen: dict[int, int] = {}
    rounds: list[list[tuple[int, int]]] = []
    for number, at in enumerate(flat.tolist()):
        turn = seen.get(at, 0)
        seen[at] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append((at, number))
    return [(np.array([at for at, _ in pairs]), np.array([k for _, k in pairs])) for pairs in rounds]


_COMBINE: dict[str, Callable[[Builder, Value, Value], Value]] = {
    "add": lambda builder, x, y: builder.add(x, y),
    "mul": lambda builder, x, y: builder.mul(x, y),
    "max": lambda builder, x, y: builder.larger(x, y),
    "min": lambda builder, x, y: builder.smaller(x, y),
}


@importer("Gather")
def _gather(call: Call) -> Value:
    x = call.value()
    axis = axis_of(int(call.attr("axis", 0)), len(x.shape))
    if not x.shape:
        raise InputError("gathers from a scalar")
    if not isinstance(call.value(1), Known):
        return gather_by_value(call.builder, x, call.value(1), axis)
    indices = positions(call, 1, "the indices")
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    limited(shape)
    picked = call.builder.gather(x, axis, inside(indices, x.shape[axis]).reshape(-1).tolist())
    return call.builder.reshape(picked, shape)


@importer("GatherElements")
def _gather_elements(call: Call) -> Value:
    x, indices = call.value(), positions(call, 1, "the indices")
    return pick(call.builder, x, _element_positions(call, x.shape, indices))


def _element_positions(call: Call, shape: Shape, indices: np.ndarray) -> np.ndarray:
    """Row-major positions of Gather/ScatterElements: the index replaces the coordinate along the axis."""
    axis = axis_of(int(call.attr("axis", 0)), len(shape))
    fits = indices.ndim == len(shape) and all(
        a <= b for i, (a, b) in enumerate(zip(indices.shape, shape, strict=True)) if i != axis
    )
    if not fits:
        raise InputError(f"has indices of shape {list(indices.shape)} for a tensor of shape {list(shape)}")
    grid: list[np.ndarray] = list(np.indices(indices.shape))
    grid[axis] = inside(indices, shape[axis])
    return np.asarray(np.ravel_multi_index(tuple(grid), shape))


@importer("GatherND")
def _gather_nd(call: Call) -> Value:
    x, indices, batch = call.value(), positions(call, 1, "the indices"), int(call.attr("batch_dims", 0))
    if not indices.shape or not 0 <= batch < min(indices.ndim, len(x.shape)):
        raise InputError(f"gathers from {list(x.shape)} by indices of shape {list(indices.shape)}")
    if indices.shape[:batch] != x.shape[:batch] or batch + indices.shape[-1] > len(x.shape):
        raise InputError(f"gathers from {list(x.shape)} by indices of shape {list(indices.shape)}")
    starts, rest = _tuple_positions(x.shape, indices, batch)
    picked = pick(call.builder, x, starts[..., None] + np.arange(math.prod(rest)))
    return call.builder.reshape(picked, (*starts.shape, *rest))


def _tuple_positions(shape: Shape, indices: np.ndarray, batch: int = 0) -> tuple[np.ndarray, Shape]:
    """Row-major positions where the slices that index tuples name begin, and the shape of such a slice."""
    depth = indices.shape[-1]
    rest = shape[batch + depth :]
    lead = np.indices(indices.shape[:-1])[:batch]
    named = [inside(indices[..., k], shape[batch + k]) for k in range(depth)]
    grid = (*[np.broadcast_to(part, indices.shape[:-1]) for part in lead], *named)
    if not grid:
        return np.zeros(indices.shape[:-1], np.int64), rest
    return np.asarray(np.ravel_multi_index(grid, shape[: batch + depth])) * math.prod(rest), rest


@importer("ScatterND")
def _scatter_nd(call: Call) -> Value:
    x, updates = call.value(), call.value(2)
    shape = call.value(1).shape
    if not shape or shape[-1] > len(x.shape) or updates.shape != (*shape[:-1], *x.shape[shape[-1] :]):
        raise InputError(
            f"places {list(updates.shape)} by indices of shape {list(shape)} in a tensor of shape {list(x.shape)}"
        )
    reduction = str(call.attr("reduction", "none"))
    if not isinstance(call.value(1), Known):
        return scatter_by_value(call.builder, x, call.value(1), updates, reduction)
    starts, rest = _tuple_positions(x.shape, positions(call, 1, "the indices"))
    flat = starts[..., None] + np.arange(math.prod(rest))
    return place(call.builder, x, flat, updates, reduction)


@importer("ScatterElements", "Scatter")
def _scatter_elements(call: Call) -> Value:
    x, indices, updates = call.value(), positions(call, 1, "the indices"), call.value(2)
    if updates.shape != indices.shape:
        raise InputError(f"places {list(updates.shape)} by indices of shape {list(indices.shape)}")
    flat = _element_positions(call, x.shape, indices)
    return place(call.builder, x, flat, updates, str(call.attr("reduction", "none")))
