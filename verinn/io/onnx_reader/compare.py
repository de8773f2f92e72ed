"""Importers of comparisons, logic and choices. Of values that depend on the inputs each is 0 or 1, by steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import BOOL, Builder, Known, Value, limited
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.select import blend
from verinn.ir import const as c
from verinn.ir.graph import Const

_COMPARISONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}


@importer(*_COMPARISONS)
def _compare(call: Call) -> Value:
    x, y = call.value(0), call.value(1)
    if isinstance(x, Known) and isinstance(y, Known):
        if x.const.error is not None or y.const.error is not None:
            raise Unsupported("compares constants that aren't known exactly")
        limited(call.builder.common(x.shape, y.shape))
        return Known(Const(np.asarray(_COMPARISONS[call.op](x.const.value, y.const.value))), BOOL)
    if x.dtype != y.dtype:
        raise InputError(f"compares values of the types {x.dtype} and {y.dtype}", hint="they have to be of one type")
    return _VARIABLE[call.op](call.builder, x, y)


def _less(strict: bool, turned: bool) -> Callable[[Builder, Value, Value], Value]:
    def compare(builder: Builder, x: Value, y: Value) -> Value:
        return builder.step(builder.add(x, y, -1) if turned else builder.add(y, x, -1), strict)

    return compare


def equal(builder: Builder, x: Value, y: Value) -> Value:
    """[x ≥ y] − [x > y]; of two booleans 1 − |x − y|."""
    if x.dtype == BOOL:
        return builder.flip(_unequal(builder, x, y))
    gap = builder.add(x, y, -1)
    return builder.retype(builder.add(builder.step(gap, False), builder.step(gap, True), -1), BOOL)


def both(builder: Builder, x: Value, y: Value) -> Value:
    """x and y, as 0/1."""
    if isinstance(x, Known) or isinstance(y, Known):
        return builder.retype(builder.mul(x, y), BOOL)
    # A product of two 0/1 values is what is above one of their sum: a ReLU, not a product of variables.
    both = builder.add(builder.add(x, y), Known(Const(np.array(1)), BOOL), -1)
    return builder.retype(builder.relu(both), BOOL)


def _either(builder: Builder, x: Value, y: Value) -> Value:
    return builder.flip(both(builder, builder.flip(x), builder.flip(y)))


def _unequal(builder: Builder, x: Value, y: Value) -> Value:
    return builder.retype(builder.elementwise("abs", builder.add(x, y, -1)), BOOL)


_VARIABLE: dict[str, Callable[[Builder, Value, Value], Value]] = {
    "Equal": equal,
    "Less": _less(True, False),
    "LessOrEqual": _less(False, False),
    "Greater": _less(True, True),
    "GreaterOrEqual": _less(False, True),
    "And": both,
    "Or": _either,
    "Xor": _unequal,
}


@importer("Not")
def _not(call: Call) -> Value:
    x = call.value()
    if isinstance(x, Known):
        return Known(Const(~x.const.value.astype(bool)), BOOL)
    return call.builder.flip(x)


@importer("Where")
def _where(call: Call) -> Value:
    """A choice by a mask; of constants by a constant mask a constant."""
    mask, x, y = call.value(0), call.value(1), call.value(2)
    if not isinstance(mask, Known):
        return blend(call.builder, mask, x, y)
    chosen = mask.const.value.astype(bool)
    if isinstance(x, Known) and isinstance(y, Known):
        limited(call.builder.common(chosen.shape, x.shape, y.shape))
        value = np.where(chosen, x.const.value, y.const.value)
        if x.const.error is None and y.const.error is None:
            return Known(Const(value), x.dtype)
        return Known(c.make(value, np.where(chosen, c.error_of(x.const), c.error_of(y.const))), x.dtype)
    return masked(call.builder, chosen, x, y)


def masked(builder: Builder, mask: np.ndarray, x: Value, y: Value) -> Value:
    """x · mask + y · (1 − mask) by a constant mask."""
    shape = builder.common(mask.shape, x.shape, y.shape)
    parts: list[Value] = []
    for value, keep in ((x, mask), (y, ~mask)):
        if keep.all() and value.shape == shape:
            return value
        if isinstance(value, Known):  # may hold infinities where it isn't chosen
            kept = np.where(keep, value.const.value, 0.0)
            parts.append(Known(c.make(kept, np.where(keep, c.error_of(value.const), 0.0)), value.dtype))
        else:
            parts.append(builder.mul(value, Known(Const(keep.astype(np.float64)), value.dtype)))
    return builder.expand(builder.add(parts[0], parts[1]), shape)


@importer("IsNaN")
def _is_nan(call: Call) -> Value:
    """No value of an exact function is NaN; a constant may be."""
    x = call.value()
    return Known(Const(np.isnan(x.const.value) if isinstance(x, Known) else np.zeros(x.shape, bool)), BOOL)


@importer("IsInf")
def _is_inf(call: Call) -> Value:
    """No value of an exact function is infinite; a constant may be."""
    x = call.value()
    if not isinstance(x, Known):
        return Known(Const(np.zeros(x.shape, bool)), BOOL)
    value = x.const.value
    positive = np.isposinf(value) if call.attr("detect_positive", 1) else np.zeros(x.shape, bool)
    negative = np.isneginf(value) if call.attr("detect_negative", 1) else np.zeros(x.shape, bool)
    return Known(Const(np.asarray(positive | negative)), BOOL)
