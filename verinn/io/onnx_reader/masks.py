"""Entries that are minus infinity, as masks of attention scores have them: pinned there, whatever the input.

A constant minus infinity added to a value, or chosen in its place by a constant mask, makes a ``Masked``: a finite
value, and which of its elements are minus infinity instead. Moves carry both along. Softmax is taken over the
other elements of each row alone and is 0 at these, exactly as exp(−∞) = 0 has it; so no infinity gets into the
graph. An operator that isn't listed here refuses such a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import BOOL, FLOATS, Builder, Known, Ref, Value
from verinn.io.onnx_reader.call import IMPORTERS, Call, axis_of
from verinn.io.onnx_reader.reduce import axes_of, kept
from verinn.ir import const as c
from verinn.ir.graph import Const, Shape

# Rows of a softmax with more different masks than this aren't taken apart.
MAX_MASKS = 256


@dataclass(frozen=True, eq=False)
class Masked:
    """``value``, but minus infinity where ``dead`` (bool, the value's shape)."""

    value: Value
    dead: np.ndarray

    @property
    def shape(self) -> Shape:
        return self.value.shape

    @property
    def dtype(self) -> int:
        return self.value.dtype


Given = Value | Masked | None


def concerns(op: str, given: Sequence[object]) -> bool:
    """Whether a node reads a masked value, or puts constants of minus infinity beside a value of the input."""
    if any(isinstance(value, Masked) for value in given):
        return True
    if op not in _MAKERS or not any(isinstance(value, Ref) and value.dtype in FLOATS for value in given):
        return False
    return any(isinstance(value, Known) and bool(_infinite(value).any()) for value in given)


def read(call: Call, given: Sequence[Given]) -> Sequence[Value | Masked | None]:
    """What a node makes of its inputs, some of them masked. ``call`` holds the finite values."""
    function = _FUNCTIONS.get(call.op)
    if function is None:
        raise Unsupported(
            f"operator {call.op} isn't supported on values that are minus infinity", hint="mask just before the softmax"
        )
    return function(call, [_dead(value) for value in given])


def finite(given: Sequence[Given]) -> list[Value | None]:
    """The inputs with numbers where they are minus infinity."""
    return [_finite(value) for value in given]


def _infinite(value: Known) -> np.ndarray:
    return np.isneginf(value.const.value) if c.is_float(value.const) else np.zeros(value.shape, bool)


def _finite(value: Given) -> Value | None:
    if isinstance(value, Masked):
        return value.value
    if isinstance(value, Known) and (infinite := _infinite(value)).any():
        return replace(value, const=c.make(np.where(infinite, 0.0, value.const.value), value.const.error))
    return value


def _dead(value: Given) -> np.ndarray | None:
    """Which elements of an input are minus infinity; None for one left out."""
    if value is None:
        return None
    if isinstance(value, Masked):
        return value.dead
    return _infinite(value) if isinstance(value, Known) else np.zeros(value.shape, bool)


def _made(value: Value, dead: np.ndarray) -> Value | Masked:
    dead = np.broadcast_to(dead, value.shape)
    return Masked(value, dead) if dead.any() else value


Dead = Sequence[np.ndarray | None]
Function = Callable[[Call, Dead], Sequence[Value | Masked | None]]


def _ordinary(call: Call) -> Value:
    result = IMPORTERS[call.op](call)
    assert not isinstance(result, Sequence)
    return result


def _moved(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    """A move moves the mask just as it moves the value."""
    marks: list[Value | None] = []
    for value, mask in zip(call.inputs, dead, strict=True):
        marked = value is not None and mask is not None and value.dtype in FLOATS
        marks.append(
            Known(Const(mask.astype(np.float64)), value.dtype) if marked and mask is not None and value else value
        )
    results = [IMPORTERS[call.op](replace(call, inputs=inputs)) for inputs in (call.inputs, marks)]
    values, moved = (result if isinstance(result, Sequence) else [result] for result in results)
    made: list[Value | Masked | None] = []
    for value, mark in zip(values, moved, strict=True):
        if isinstance(mark, Ref):
            raise Unsupported("moves minus infinity to a place that depends on the input")
        made.append(value if value is None or mark is None else _made(value, mark.const.value != 0))
    return made


def _cast(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    value = _ordinary(call)
    if value.dtype not in FLOATS:
        raise Unsupported("casts minus infinity to a type that has none")
    assert dead[0] is not None
    return [_made(value, dead[0])]


def _added(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    """−∞ + x = −∞ for any number x."""
    if call.op == "Sub" and dead[1] is not None and dead[1].any():
        raise Unsupported("subtracts minus infinity")
    value = _ordinary(call)
    return [_made(value, np.logical_or.reduce([np.broadcast_to(d, value.shape) for d in dead if d is not None]))]


def _scaled(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    """−∞ times or divided by a positive constant."""
    masked = next(index for index, mask in enumerate(dead) if mask is not None and mask.any())
    other = call.value(1 - masked)
    positive = isinstance(other, Known) and bool(np.all(other.const.value - c.error_of(other.const) > 0))
    if not positive or (call.op == "Div" and masked == 1):
        raise Unsupported("multiplies minus infinity by what isn't a positive constant")
    mask = dead[masked]
    assert mask is not None
    return [_made(_ordinary(call), mask)]


def _chosen(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    mask = call.value(0)
    if not isinstance(mask, Known):
        raise Unsupported("chooses minus infinity by a mask that depends on the input", hint="fix the mask's input")
    value = _ordinary(call)
    assert dead[1] is not None and dead[2] is not None
    return [_made(value, np.where(mask.const.value.astype(bool), dead[1], dead[2]))]


def _power(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    """exp(−∞) = 0."""
    assert dead[0] is not None
    return [call.builder.mul(_ordinary(call), Known(Const(1.0 - dead[0]), call.value().dtype))]


def _is_infinite(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    assert dead[0] is not None
    told = dead[0] if call.op == "IsInf" and call.attr("detect_negative", 1) else np.zeros_like(dead[0])
    return [Known(Const(told), BOOL)]


def _softmax(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    """Along an axis, or before opset 13 over all axes from there on, taken as one; 0 at the masked entries."""
    builder, x, mask, log = call.builder, call.real(), dead[0], call.op == "LogSoftmax"
    assert mask is not None
    axis = axis_of(int(call.attr("axis", -1 if call.opset >= 13 else 1)), len(x.shape))
    shape = x.shape
    if call.opset < 13:
        flat = (math.prod(shape[:axis]), math.prod(shape[axis:]))
        x, mask, axis = builder.reshape(x, flat), mask.reshape(flat), 1

    def function(rows: Value) -> Value:
        if rows.shape[1] == 1:
            return Known(Const(np.zeros(rows.shape) if log else np.ones(rows.shape)), rows.dtype)
        return builder.softmax(rows, 1, log)

    made = builder.reshape(_by_rows(builder, x, mask, axis, function, True), shape)
    return [_made(made, mask.reshape(shape)) if log else made]


def _greatest(call: Call, dead: Dead) -> Sequence[Value | Masked | None]:
    """The maximum of the entries that are numbers."""
    builder, x, mask = call.builder, call.real(), dead[0]
    axes = axes_of(call, x)
    assert mask is not None
    if axes is None or len(axes) != 1:
        raise Unsupported("takes a maximum over several axes of values that are minus infinity")
    made = _by_rows(builder, x, mask, axes[0], lambda rows: builder.greatest(rows, [1]), False)
    return [kept(call, made, axes)]


def _by_rows(
    builder: Builder, x: Value, dead: np.ndarray, axis: int, function: Callable[[Value], Value], back: bool
) -> Value:
    """A function of the live entries along an axis, applied to rows of one mask at a time.

    ``function`` takes (rows, entries); what it makes has an entry for each (``back``; the masked are 0), or a
    single one.
    """
    rank, size = len(x.shape), x.shape[axis]
    order = (*(k for k in range(rank) if k != axis), axis)
    lead = tuple(x.shape[k] for k in order[:-1])
    count = math.prod(lead)
    rows = builder.reshape(builder.transpose(x, order), (count, size))
    masks, which = np.unique(dead.transpose(order).reshape(count, size), axis=0, return_inverse=True)
    if masks.all(axis=1).any():
        raise InputError("takes a softmax or maximum of nothing but minus infinity", hint="that is no number")
    if len(masks) > MAX_MASKS:
        raise Unsupported(f"masks its rows in {len(masks)} ways", hint=f"at most {MAX_MASKS} are supported")
    parts, places = [], []
    for number, mask in enumerate(masks):
        at = np.flatnonzero(which.reshape(-1) == number)
        live = np.flatnonzero(~mask)
        part = function(builder.gather(builder.gather(rows, 0, at.tolist()), 1, live.tolist()))
        if back and len(live) < size:
            zero = Known(Const(np.zeros((len(at), 1))), x.dtype)
            source = np.full(size, len(live))
            source[live] = np.arange(len(live))
            part = builder.gather(builder.concat([part, zero], 1), 1, source.tolist())
        parts.append(part)
        places.append(at)
    joined = builder.gather(builder.concat(parts, 0), 0, np.argsort(np.concatenate(places)).tolist())
    made = builder.reshape(joined, (*lead, joined.shape[1]))
    return builder.transpose(made, np.argsort(order).tolist())


_MOVES = (
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Slice", "Split", "Expand", "Tile",
    "Gather", "GatherElements", "GatherND", "Pad", "Dropout",
)  # fmt: skip
_FUNCTIONS: dict[str, Function] = {
    **dict.fromkeys(_MOVES, _moved),
    "Cast": _cast,
    "CastLike": _cast,
    "Add": _added,
    "Sub": _added,
    "Mul": _scaled,
    "Div": _scaled,
    "Where": _chosen,
    "Exp": _power,
    "IsInf": _is_infinite,
    "IsNaN": _is_infinite,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "ReduceMax": _greatest,
}
# Where a constant of minus infinity meets a value that depends on the input.
_MAKERS = frozenset({"Add", "Sub", "Where", "Concat", "Pad"})
