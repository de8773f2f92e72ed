"""Importers of constants and of arithmetic on constants only: what exporters compute shapes with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Value, limited
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.tensors import known_of, known_of_sparse
from verinn.ir import const as c
from verinn.ir.graph import Const

_BOOL = onnx.TensorProto.BOOL
_FLOAT = onnx.TensorProto.FLOAT
_INT64 = onnx.TensorProto.INT64


@importer("Constant")
def _constant(call: Call) -> Value:
    for attribute in call.node.attribute:
        value = call.attr(attribute.name)
        if attribute.name == "value":
            return known_of(value)
        if attribute.name == "sparse_value":
            return known_of_sparse(value)
        if attribute.name in ("value_float", "value_floats"):
            return Known(Const(np.array(value, dtype=np.float64)), _FLOAT)
        if attribute.name in ("value_int", "value_ints"):
            return Known(Const(np.array(value, dtype=np.int64)), _INT64)
        if attribute.name in ("value_string", "value_strings"):
            raise Unsupported("is a constant of strings")
    raise InputError("is a constant without a value")


@importer("ConstantOfShape")
def _constant_of_shape(call: Call) -> Value:
    shape = call.ints("shape", 0, "the shape") or []
    limited(shape)
    fill = call.attr("value")
    known = Known(Const(np.zeros(1)), _FLOAT) if fill is None else known_of(fill)
    return Known(c.expand(c.reshape(known.const, (1,) * len(shape)), shape), known.dtype)


@importer("Range")
def _range(call: Call) -> Value:
    start, limit, delta = (call.constant(index) for index in range(3))
    first, last, step = (call.scalar(index, "a bound of the range") for index in range(3))
    if step == 0:
        raise InputError("counts in steps of zero")
    count = max(0, math.ceil((last - first) / step))
    limited([count])
    if start.dtype not in FLOATS:
        return Known(Const(int(first) + int(step) * np.arange(count)), start.dtype)
    steps = c.mul(Const(np.arange(count, dtype=np.float64)), c.reshape(delta.const, ()))
    return Known(c.add(c.reshape(start.const, ()), steps), limit.dtype)


def _compare(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Call], Value]:
    def compare(call: Call) -> Value:
        x, y = call.constant(0).const, call.constant(1).const
        if x.error is not None or y.error is not None:
            raise Unsupported("compares constants that aren't known exactly")
        return Known(Const(np.asarray(function(x.value, y.value))), _BOOL)

    return compare


for _op, _function in {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}.items():
    importer(_op)(_compare(_function))


@importer("Not")
def _not(call: Call) -> Value:
    return Known(Const(~call.constant(0).const.value.astype(bool)), _BOOL)


@importer("Where")
def _where(call: Call) -> Value:
    """A choice by a constant mask: x · mask + y · (1 − mask) where x or y depends on the input."""
    mask, x, y = call.constant(0).const.value.astype(bool), call.value(1), call.value(2)
    if isinstance(x, Known) and isinstance(y, Known):
        limited(call.builder.common(mask.shape, x.shape, y.shape))
        value = np.where(mask, x.const.value, y.const.value)
        if x.const.error is None and y.const.error is None:
            return Known(Const(value), x.dtype)
        return Known(c.make(value, np.where(mask, c.error_of(x.const), c.error_of(y.const))), x.dtype)
    return _masked(call.builder, mask, x, y)


def _masked(builder: Builder, mask: np.ndarray, x: Value, y: Value) -> Value:
    shape = builder.common(mask.shape, x.shape, y.shape)
    parts: list[Value] = []
    for value, keep in ((x, mask), (y, ~mask)):
        if isinstance(value, Known):  # may hold infinities where it isn't chosen
            kept = np.where(keep, value.const.value, 0.0)
            parts.append(Known(c.make(kept, np.where(keep, c.error_of(value.const), 0.0)), value.dtype))
        else:
            parts.append(builder.mul(value, Known(Const(keep.astype(np.float64)), value.dtype)))
    return builder.expand(builder.add(parts[0], parts[1]), shape)


def _step(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Call], Value]:
    def step(call: Call) -> Value:
        x = call.constant(0)
        return Known(c.whole(x.const, function), x.dtype)

    return step


for _op, _rounding in {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Sign": np.sign}.items():
    importer(_op)(_step(_rounding))


@importer("Sqrt")
def _sqrt(call: Call) -> Value:
    x = call.constant(0)
    if np.any(x.const.value - c.error_of(x.const) < 0.0):
        raise InputError("takes the root of a negative constant", hint="repair the model")
    return Known(c.sqrt(x.const), x.dtype)


@importer("Reciprocal")
def _reciprocal(call: Call) -> Value:
    x = call.constant(0)
    return call.builder.div(Known(Const(np.ones(())), x.dtype), x)


@importer("Mod")
def _mod(call: Call) -> Value:
    x, y = call.constant(0), call.constant(1)
    if x.dtype in FLOATS or np.any(y.const.value == 0):
        raise Unsupported("takes a remainder of reals or by zero")
    function = np.fmod if call.attr("fmod", 0) else np.mod
    return Known(Const(function(x.const.value, y.const.value)), x.dtype)


@importer("Pow")
def _pow(call: Call) -> Value:
    """The first power of anything, and small integer powers of constants."""
    x, power = call.value(0), call.scalar(1, "the exponent")
    if power == 1.0:
        return call.builder.expand(x, call.builder.common(x.shape, call.value(1).shape))
    if not isinstance(x, Known) or power != int(power) or not 0 < power <= 64:
        raise Unsupported(f"takes the power {power:g}")
    result = x.const
    for _ in range(int(power) - 1):
        result = c.mul(result, x.const)
    return Known(result, x.dtype)


@importer("ReduceProd")
def _reduce_prod(call: Call) -> Value:
    x = call.constant(0)
    axes = call.axes("axes", 1, len(x.shape))
    if x.dtype in FLOATS:
        raise Unsupported("multiplies reals")
    keep = bool(call.attr("keepdims", 1))
    return Known(Const(np.asarray(x.const.value.prod(axis=None if not axes else tuple(axes), keepdims=keep))), x.dtype)
