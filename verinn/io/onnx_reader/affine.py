"""Importers of affine operators: arithmetic, matrix products, convolution, normalisation, sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Ref, Value, limited
from verinn.io.onnx_reader.call import Call, importer
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
    if isinstance(x, Known) and isinstance(y, Known) and x.dtype not in FLOATS:
        return _integer_quotient(x, y)
    return call.builder.div(x, y)


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
    return matmul(call.builder, call.real(0), call.real(1))


def matmul(builder: Builder, x: Value, y: Value) -> Value:
    """numpy's matmul of a value and a constant, on either side and of any rank."""
    if not x.shape or not y.shape:
        raise InputError("multiplies a scalar as a matrix")
    if isinstance(x, Known) and isinstance(y, Known):
        _matched(x, y)
        limited((*x.shape[:-1], y.shape[-1]))
        return Known(c.matmul(x.const, y.const), x.dtype)
    if isinstance(y, Known):
        return _by_constant(builder, x, y)
    if not isinstance(x, Known):
        raise Unsupported("multiplies two values that depend on the input")
    # x @ y = (yᵀ @ xᵀ)ᵀ, where a vector is its own transpose.
    turned = [builder.swap(value) if len(value.shape) > 1 else value for value in (y, x)]
    if len(y.shape) == 1 and len(x.shape) > 1:
        return _by_constant(builder, turned[0], _as_known(turned[1]))
    product = _by_constant(builder, turned[0], _as_known(turned[1]))
    return builder.swap(product) if len(x.shape) > 1 else product


def _as_known(value: Value) -> Known:
    assert isinstance(value, Known)
    return value


def _matched(x: Value, y: Value) -> None:
    inner = y.shape[-2] if len(y.shape) > 1 else y.shape[0]
    if x.shape[-1] != inner:
        raise InputError(f"multiplies the shapes {list(x.shape)} and {list(y.shape)}", hint="they don't fit")


def _by_constant(builder: Builder, x: Value, y: Known) -> Value:
    """x @ y for constant y; vectors as in numpy."""
    _matched(x, y)
    if len(y.shape) == 1:
        product = builder.linear(x, c.reshape(y.const, (*y.shape, 1)))
        return builder.reshape(product, product.shape[:-1])
    batch = y.shape[:-2]
    if math.prod(batch) == 1:
        product = builder.linear(x, c.reshape(y.const, y.shape[-2:]))
        lead = builder.common(x.shape[:-2], batch)
        row = x.shape[-2:-1] if len(x.shape) > 1 else ()
        return builder.reshape(product, (*lead, *row, y.shape[-1]))
    if len(x.shape) == 1:
        product = _batched(builder, builder.reshape(x, (1, *x.shape)), y)
        return builder.reshape(product, (*product.shape[:-2], product.shape[-1]))
    return _batched(builder, x, y)


def _batched(builder: Builder, x: Value, y: Known) -> Value:
    """One matrix per batch entry: a convolution in groups, with a kernel of one."""
    lead = builder.common(x.shape[:-2], y.shape[:-2])
    count, (rows, inner), out = math.prod(lead), x.shape[-2:], y.shape[-1]
    x = builder.reshape(builder.expand(x, (*lead, rows, inner)), (count, rows, inner))
    x = builder.reshape(builder.transpose(x, (1, 0, 2)), (rows, count * inner, 1))
    kernel = c.reshape(c.expand(y.const, (*lead, inner, out)), (count, inner, out))
    kernel = c.reshape(c.transpose(kernel, (0, 2, 1)), (count * out, inner, 1))
    attrs = {"strides": (1,), "dilations": (1,), "groups": count, "pads": (0, 0)}
    product: Value = builder.emit("conv", [builder.ref(x)], attrs, {"weight": kernel})
    product = builder.transpose(builder.reshape(product, (rows, count, out)), (1, 0, 2))
    return builder.reshape(product, (*lead, rows, out))


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


# -- convolution and normalisation -----------------------------------------------------------------


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
    return call.builder.emit("conv", [call.builder.ref(x)], _conv_attrs(frame, int(call.attr("group", 1))), params)


def _conv_attrs(frame: Windows, groups: int) -> dict[str, object]:
    return {"strides": frame.strides, "dilations": frame.dilations, "groups": groups, "pads": frame.pads}


@importer("AveragePool")
def _average_pool(call: Call) -> Value:
    """Sums over windows (a convolution with ones) divided by how many entries each window counts."""
    x = call.real(0)
    kernel = call.ints("kernel_shape", None) or []
    frame = windows_of(call, x.shape[2:], kernel)
    channels = x.shape[1]
    ones = Const(np.ones((channels, 1, *frame.kernel)))
    attrs = _conv_attrs(frame, channels)
    sums = call.builder.emit("conv", [call.builder.ref(x)], attrs, {"weight": ones})
    counts = frame.counts(bool(call.attr("count_include_pad", 0)))
    if np.any(counts == 0):
        raise Unsupported("averages a window that lies in the padding")
    if np.all(counts == counts.flat[0]):
        return call.builder.div(sums, number(counts.flat[0], x.dtype))
    return call.builder.div(sums, Known(Const(counts), x.dtype))


@importer("GlobalAveragePool")
def _global_average_pool(call: Call) -> Value:
    x = call.real(0)
    axes = range(2, len(x.shape))
    total = call.builder.total(x, tuple(axes))
    return call.builder.div(total, number(math.prod(x.shape[2:]), x.dtype))


@importer("BatchNormalization")
def _batch_normalization(call: Call) -> Value:
    """scale · (x − mean) / sqrt(var + epsilon) + bias, per channel, with running statistics."""
    builder, x = call.builder, call.real(0)
    if call.attr("training_mode", 0) or (call.opset < 9 and not call.attr("spatial", 1)):
        raise Unsupported("normalises by statistics of its input or per activation")
    if not all(call.unused(index) for index in range(1, 5)) and call.opset >= 14:
        raise Unsupported("is in training mode (it has several outputs)")
    channels = x.shape[1] if len(x.shape) > 1 else 1
    names = ("the scale", "the bias", "the mean", "the variance")
    scale, bias, mean, variance = (c.as_float(call.known(i + 1, name).const) for i, name in enumerate(names))
    for const, name in zip((scale, bias, mean, variance), names, strict=True):
        if const.value.shape != (channels,):
            raise InputError(f"{name} has the shape {list(const.shape)} for {channels} channels")
    spread = c.add(variance, Const(np.array(float(call.attr("epsilon", np.float64(np.float32(1e-5)))))))
    if np.any(spread.value - c.error_of(spread) <= 0.0):
        raise InputError("a variance plus epsilon isn't positive", hint="repair the model")
    factor = c.div(scale, c.sqrt(spread))
    offset = c.sub(bias, c.mul(mean, factor))
    along = (channels,) if len(x.shape) < 2 else (channels, *[1] * (len(x.shape) - 2))
    scaled = builder.mul(x, Known(c.reshape(factor, along), x.dtype))
    return builder.add(scaled, Known(c.reshape(offset, along), x.dtype))


# -- sums ------------------------------------------------------------------------------------------


@importer("ReduceSum", "ReduceMean")
def _reduce(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    axes = call.axes("axes", 1, rank)
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            return x
        axes = list(range(rank))
    total = call.builder.total(x, tuple(axes))
    if call.op == "ReduceMean":
        total = call.builder.div(total, number(math.prod(x.shape[axis] for axis in axes), x.dtype))
    if call.attr("keepdims", 1):
        return total
    return call.builder.reshape(total, [size for axis, size in enumerate(x.shape) if axis not in axes])
