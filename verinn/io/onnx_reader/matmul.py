"""Matrix products: by a constant, one constant matrix per batch entry, and of two values."""

from __future__ import annotations

import math

from verinn.errors import InputError
from verinn.io.onnx_reader.builder import Builder, Known, Value, limited
from verinn.ir import const as c


def matmul(builder: Builder, x: Value, y: Value) -> Value:
    """numpy's matmul of two values of any rank."""
    if not x.shape or not y.shape:
        raise InputError("multiplies a scalar as a matrix")
    if isinstance(x, Known) and isinstance(y, Known):
        _matched(x, y)
        limited((*x.shape[:-1], y.shape[-1]))
        return Known(c.matmul(x.const, y.const), x.dtype)
    if isinstance(y, Known):
        return _by_constant(builder, x, y)
    if not isinstance(x, Known):
        return _of_variables(builder, x, y)
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


def _of_variables(builder: Builder, x: Value, y: Value) -> Value:
    """x @ y where both depend on the inputs: a core product with equal leading axes."""
    _matched(x, y)
    left = x if len(x.shape) > 1 else builder.reshape(x, (1, *x.shape))
    right = y if len(y.shape) > 1 else builder.reshape(y, (*y.shape, 1))
    lead = builder.common(left.shape[:-2], right.shape[:-2])
    left, right = (builder.expand(part, (*lead, *part.shape[-2:])) for part in (left, right))
    product = builder.matmul(left, right)
    row = x.shape[-2:-1] if len(x.shape) > 1 else ()
    column = y.shape[-1:] if len(y.shape) > 1 else ()
    return builder.reshape(product, (*lead, *row, *column))
