"""Importers of arithmetic, matrix products and convolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verinn.errors import InputError
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Ref, Value
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.matmul import matmul
from verinn.io.onnx_reader.select import truncated
from verinn.io.onnx_reader.windows import Windows, windows_of
from verinn.ir import const as c
from verinn.ir.check import broadcasts
from verinn.ir.graph import Const


@importer("Add")
def _add(call: Call) -> Value:
    return call.builder.add(call.value(0), call.value(1))


@importer("Sub")
def _sub(call: Call) -> Value:
    return call.builder.add(call.value(0), call.value(1), -1)


@importer("Mul")
def _mul(call: Call) -> Value:
    return call.builder.mul(call.value(0), call.value(1))


@importer("Div")
def _div(call: Call) -> Value:
    x, y = call.value(0), call.value(1)
    if x.dtype in FLOATS:
        return call.builder.div(x, y)
    if isinstance(x, Known) and isinstance(y, Known):
        return _integer_quotient(x, y)
    if isinstance(y, Known) and np.any(y.const.value == 0):
        raise InputError("divides an integer by zero", hint="repair the model")
    return truncated(call.builder, call.builder.div(x, y))


def _integer_quotient(x: Known, y: Known) -> Known:
    a, b = np.broadcast_arrays(x.const.value, y.const.value)
    if np.any(b == 0):
        raise InputError("divides an integer by zero", hint="repair the model")
    return Known(Const((np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(np.int64)), x.dtype)


@importer("Neg")
def _neg(call: Call) -> Value:
    return call.builder.neg(call.value())


@importer("Sum")
def _sum(call: Call) -> Value:
    return summed(call.builder, call.given())


@importer("Mean")
def _mean(call: Call) -> Value:
    values = call.given()
    return call.builder.div(summed(call.builder, values), number(len(values), values[0].dtype))


def summed(builder: Builder, values: Sequence[Value]) -> Value:
    """The sum of any number of values, the variable ones in a single node."""
    refs = [value for value in values if isinstance(value, Ref)]
    total: Value | None = None
    if len(refs) > 1:
        shape = builder.common(*[ref.shape for ref in refs])
        parts = [builder.ref(builder.expand(ref, shape)) for ref in refs]
        total = builder.emit("sum", parts, {"signs": (1,) * len(parts)})
    elif refs:
        total = refs[0]
    for value in values:
        if isinstance(value, Known):
            total = value if total is None else builder.add(total, value)
    if total is None:
        raise InputError("sums nothing")
    return total


def number(value: float, dtype: int) -> Known:
    """A float scalar that float64 holds exactly."""
    return Known(Const(np.array(float(value))), dtype)


# -- matrix products -------------------------------------------------------------------------------


@importer("MatMul")
def _matmul(call: Call) -> Value:
    return matmul(call.builder, call.value(0), call.value(1))


@importer("Gemm")
def _gemm(call: Call) -> Value:
    builder = call.builder
    x, y = call.real(0), call.real(1)
    if len(x.shape) != 2 or len(y.shape) != 2:
        raise InputError(f"multiplies the shapes {list(x.shape)} and {list(y.shape)}", hint="matrices are needed")
    x = builder.swap(x) if call.attr("transA", 0) else x
    y = builder.swap(y) if call.attr("transB", 0) else y
    alpha, beta = float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0))
    if alpha != 1.0:
        if isinstance(x, Known):
            x = builder.mul(x, number(alpha, x.dtype))
        else:
            y = builder.mul(y, number(alpha, y.dtype))
    product = matmul(builder, x, y)
    if not call.has(2) or beta == 0.0:
        return product
    addend = call.real(2)
    if not broadcasts(addend.shape, product.shape):
        raise InputError(f"adds the shape {list(addend.shape)} to {list(product.shape)}", hint="they don't fit")
    if beta != 1.0:
        addend = builder.mul(addend, number(beta, addend.dtype))
    return builder.add(product, addend)


# -- convolution ------------------------------------------------------------------------------------


@importer("Conv")
def _conv(call: Call) -> Value:
    x, kernel = call.real(0), call.known(1, "the kernel")
    if len(x.shape) < 3 or len(kernel.shape) != len(x.shape):
        raise InputError(f"convolves {list(x.shape)} by a kernel of shape {list(kernel.shape)}")
    given = call.ints("kernel_shape", None)
    if given is not None and tuple(given) != kernel.shape[2:]:
        raise InputError(f"states the kernel shape {given} for a kernel of shape {list(kernel.shape)}")
    frame = windows_of(call, x.shape[2:], kernel.shape[2:])
    params = {"weight": c.as_float(kernel.const)}
    if call.has(2):
        bias = call.known(2, "the bias").const
        params["bias"] = c.reshape(bias, (bias.value.size,))
    return call.builder.emit("conv", [call.builder.ref(x)], conv_attrs(frame, int(call.attr("group", 1))), params)


def conv_attrs(frame: Windows, groups: int) -> dict[str, object]:
    """Attributes of a core convolution."""
    return {"strides": frame.strides, "dilations": frame.dilations, "groups": groups, "pads": frame.pads}
