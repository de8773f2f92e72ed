"""Importers of constants and of arithmetic on constants only: what exporters compute shapes with."""

from __future__ import annotations

import math

import numpy as np
import onnx

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Known, Value, limited
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.tensors import known_of, known_of_sparse
from verinn.ir import const as c
from verinn.ir.graph import Const

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


@importer("NonZero")
def _non_zero(call: Call) -> Value:
    x = call.constant()
    if x.const.error is not None:
        raise Unsupported("looks for zeros in a constant that isn't known exactly")
    return Known(Const(np.array(np.nonzero(np.atleast_1d(x.const.value)), dtype=np.int64)), _INT64)


@importer("EyeLike")
def _eye_like(call: Call) -> Value:
    x = call.value()
    if len(x.shape) != 2:
        raise InputError(f"makes an identity like a tensor of shape {list(x.shape)}")
    dtype = int(call.attr("dtype", x.dtype))
    eye = np.eye(*x.shape, k=int(call.attr("k", 0)))
    return Known(Const(eye if dtype in FLOATS else eye.astype(np.int64)), dtype)
