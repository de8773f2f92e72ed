"""Importers of quantised operators: round half to even, saturated, as whole numbers in real arithmetic."""

from __future__ import annotations

import math

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.affine import conv_attrs, number
from verinn.io.onnx_reader.builder import Builder, Known, Value
from verinn.io.onnx_reader.call import Call, axis_of, importer
from verinn.io.onnx_reader.matmul import matmul
from verinn.io.onnx_reader.windows import windows_of
from verinn.ir import const as c
from verinn.ir.graph import Const

_FLOAT, _UINT8, _INT8, _UINT16, _INT16, _INT32 = 1, 2, 3, 4, 5, 6
_RANGES = {_UINT8: (0, 255), _INT8: (-128, 127), _UINT16: (0, 65535), _INT16: (-32768, 32767)}


def saturated(builder: Builder, x: Value, dtype: int) -> Value:
    """A rounded real clipped to the range of an integer type."""
    if dtype not in _RANGES:
        raise Unsupported(f"quantises to the type number {dtype}", hint="8 and 16 bits are supported")
    low, high = _RANGES[dtype]
    return builder.retype(builder.clip(x, low, high), dtype)


def _shaped(builder: Builder, value: Value, axis: int, x: Value) -> Value:
    """A scale or zero point as it broadcasts to x: one for all, or one for each entry of the axis."""
    size = math.prod(value.shape)
    if size == 1:
        return builder.reshape(value, ())
    if len(value.shape) != 1 or size != x.shape[axis]:
        raise Unsupported(f"has scales of the shape {list(value.shape)} for {list(x.shape)}")
    return builder.reshape(value, (size, *[1] * (len(x.shape) - axis - 1)))


def _real(builder: Builder, value: Value) -> Value:
    """Whole numbers as reals."""
    if isinstance(value, Known):
        return Known(c.as_float(value.const), _FLOAT)
    return builder.retype(value, _FLOAT)


def _axis(call: Call, x: Value) -> int:
    if call.attr("block_size", 0):
        raise Unsupported("quantises in blocks", hint="one scale for all, or one along an axis, is supported")
    return axis_of(int(call.attr("axis", 1)), len(x.shape)) if len(x.shape) > 1 else 0


@importer("QuantizeLinear")
def _quantize(call: Call) -> Value:
    """saturate(round(x / scale) + zero point)."""
    builder, x = call.builder, call.value()
    axis = _axis(call, x)
    scale = _shaped(builder, call.real(1), axis, x)
    rounded = builder.elementwise("round", builder.div(_real(builder, x), scale))
    if not call.has(2):
        return saturated(builder, rounded, int(call.attr("output_dtype", _UINT8)) or _UINT8)
    zero = call.value(2)
    shifted = builder.add(rounded, _shaped(builder, _real(builder, zero), axis, x))
    return saturated(builder, shifted, zero.dtype)


@importer("DequantizeLinear")
def _dequantize(call: Call) -> Value:
    """(x − zero point) · scale."""
    builder, x = call.builder, call.value()
    axis = _axis(call, x)
    scale = call.real(1)
    y = _centred(builder, x, call.value(2) if call.has(2) else None, axis)
    return builder.retype(builder.mul(y, _shaped(builder, scale, axis, x)), scale.dtype)


def _centred(builder: Builder, x: Value, zero: Value | None, axis: int) -> Value:
    """x minus its zero point, as reals."""
    y = _real(builder, x)
    return y if zero is None else builder.add(y, _shaped(builder, _real(builder, zero), axis, x), -1)


@importer("DynamicQuantizeLinear")
def _dynamic(call: Call) -> list[Value | None]:
    """Scale and zero point from the extremes of x itself, zero among them."""
    builder, x = call.builder, call.real()
    axes = range(len(x.shape))
    high = builder.reshape(builder.relu(builder.greatest(x, axes)), ())
    low = builder.neg(builder.reshape(builder.relu(builder.greatest(builder.neg(x), axes)), ()))
    scale = builder.div(builder.add(high, low, -1), number(255.0, x.dtype))
    inverse = builder.elementwise("reciprocal", scale)
    zero = builder.clip(builder.elementwise("round", builder.neg(builder.mul(low, inverse))), 0.0, 255.0)
    y = builder.add(builder.elementwise("round", builder.mul(x, inverse)), zero)
    return [saturated(builder, y, _UINT8), scale, builder.retype(zero, _UINT8)]


def _requantised(builder: Builder, total: Value, factor: Value, zero: Value, axis: int) -> Value:
    scaled = builder.elementwise("round", builder.mul(total, _shaped(builder, factor, axis, total)))
    return saturated(builder, builder.add(scaled, _shaped(builder, _real(builder, zero), axis, total)), zero.dtype)


def _factor(call: Call, left: int, right: int, out: int) -> Value:
    """left scale · right scale / output scale."""
    builder = call.builder
    scales = [call.value(index) for index in (left, right, out)]
    flat = [builder.reshape(scale, (math.prod(scale.shape),)) for scale in scales]
    return builder.div(builder.mul(flat[0], flat[1]), flat[2])


@importer("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Value:
    """Inputs a, its scale and zero point; b, the same; scale and zero point of the result."""
    builder, a, b = call.builder, call.value(0), call.value(3)
    left = _centred(builder, a, call.value(2), max(0, len(a.shape) - 2))
    right = _centred(builder, b, call.value(5), len(b.shape) - 1)
    factor = _factor(call, 1, 4, 6)
    return _requantised(builder, matmul(builder, left, right), factor, call.value(7), max(0, len(b.shape) - 1))


@importer("MatMulInteger")
def _matmul_integer(call: Call) -> Value:
    builder, a, b = call.builder, call.value(0), call.value(1)
    left = _centred(builder, a, call.value(2) if call.has(2) else None, max(0, len(a.shape) - 2))
    right = _centred(builder, b, call.value(3) if call.has(3) else None, len(b.shape) - 1)
    return builder.retype(matmul(builder, left, right), _INT32)


def _convolved(call: Call, x: Value, kernel: Value, bias: Const | None) -> Value:
    """The plain convolution of centred values by a constant kernel."""
    if not isinstance(kernel, Known):
        raise Unsupported("has a kernel that depends on the input", hint="only constants are supported there")
    if len(x.shape) < 3 or len(kernel.shape) != len(x.shape):
        raise InputError(f"convolves {list(x.shape)} by a kernel of shape {list(kernel.shape)}")
    frame = windows_of(call, x.shape[2:], kernel.shape[2:])
    params = {"weight": kernel.const} if bias is None else {"weight": kernel.const, "bias": bias}
    return call.builder.emit("conv", [call.builder.ref(x)], conv_attrs(frame, int(call.attr("group", 1))), params)


@importer("ConvInteger")
def _conv_integer(call: Call) -> Value:
    builder, x, kernel = call.builder, call.value(0), call.value(1)
    y = _convolved(
        call,
        _centred(builder, x, call.value(2) if call.has(2) else None, 1),
        _centred(builder, kernel, call.value(3) if call.has(3) else None, 0),
        None,
    )
    return builder.retype(y, _INT32)


@importer("QLinearConv")
def _qlinear_conv(call: Call) -> Value:
    """Inputs x, its scale and zero point; the kernel, the same; scale and zero point of the result; a bias."""
    builder, x, kernel = call.builder, call.value(0), call.value(3)
    bias = None
    if call.has(8):
        given = c.as_float(call.known(8, "the bias").const)
        bias = c.reshape(given, (given.value.size,))
    y = _convolved(call, _centred(builder, x, call.value(2), 1), _centred(builder, kernel, call.value(5), 0), bias)
    return _requantised(builder, y, _factor(call, 1, 4, 6), call.value(7), 1)
