"""Importers of normalisations: by statistics of the file (affine) or of the value itself (exact rewrites)."""

from __future__ import annotations

import math

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.affine import number
from verinn.io.onnx_reader.builder import Builder, Known, Value
from verinn.io.onnx_reader.call import Call, axis_of, importer
from verinn.io.onnx_reader.reduce import mean
from verinn.io.onnx_reader.scalar import power
from verinn.ir import const as c
from verinn.ir.graph import Const


def epsilon(call: Call, default: float = 1e-5) -> float:
    """The epsilon of a node: a float32 number."""
    return float(call.attr("epsilon", np.float64(np.float32(default))))


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
    given = [call.value(i + 1) for i in range(4)]
    for value, name in zip(given, names, strict=True):
        if value.shape != (channels,):
            raise InputError(f"{name} has the shape {list(value.shape)} for {channels} channels")
    along = (channels,) if len(x.shape) < 2 else (channels, *[1] * (len(x.shape) - 2))
    if not all(isinstance(value, Known) for value in given):
        scale, bias, mean_, variance = (builder.reshape(value, along) for value in given)
        spread_ = builder.add(variance, number(epsilon(call), x.dtype))
        inverse = builder.elementwise("reciprocal", builder.elementwise("sqrt", spread_))
        return builder.add(builder.mul(builder.mul(builder.add(x, mean_, -1), inverse), scale), bias)
    factor, offset = _factors(call, [value for value in given if isinstance(value, Known)])
    scaled = builder.mul(x, Known(c.reshape(factor, along), x.dtype))
    return builder.add(scaled, Known(c.reshape(offset, along), x.dtype))


def _factors(call: Call, given: list[Known]) -> tuple[Const, Const]:
    """Factor and offset of a normalisation by constants, with their rounding."""
    scale, bias, mean_, variance = (c.as_float(known.const) for known in given)
    spread = c.add(variance, Const(np.array(epsilon(call))))
    if np.any(spread.value - c.error_of(spread) <= 0.0):
        raise InputError("a variance plus epsilon isn't positive", hint="repair the model")
    factor = c.div(scale, c.sqrt(spread))
    return factor, c.sub(bias, c.mul(mean_, factor))


def normalised(builder: Builder, x: Value, axes: list[int], small: float) -> tuple[Value, Value, Value]:
    """((x − mean) / sqrt(variance + small), mean, 1 / sqrt(…)) with statistics over axes."""
    centre = mean(builder, x, axes)
    gap = builder.add(x, centre, -1)
    variance = mean(builder, builder.square(gap), axes)
    spread = builder.add(variance, number(small, x.dtype)) if small else variance
    inverse = builder.elementwise("reciprocal", builder.elementwise("sqrt", spread))
    return builder.mul(gap, inverse), centre, inverse


@importer("LayerNormalization")
def _layer(call: Call) -> list[Value | None]:
    builder, x = call.builder, call.real()
    axis = axis_of(int(call.attr("axis", -1)), len(x.shape))
    y, centre, inverse = normalised(builder, x, list(range(axis, len(x.shape))), epsilon(call))
    y = builder.mul(y, call.real(1))
    return [builder.add(y, call.real(2)) if call.has(2) else y, centre, inverse]


@importer("RMSNormalization")
def _rms(call: Call) -> Value:
    """x / sqrt(mean(x²) + epsilon) · scale."""
    builder, x = call.builder, call.real()
    axis = axis_of(int(call.attr("axis", -1)), len(x.shape))
    power = builder.add(
        mean(builder, builder.square(x), list(range(axis, len(x.shape)))), number(epsilon(call), x.dtype)
    )
    inverse = builder.elementwise("reciprocal", builder.elementwise("sqrt", power))
    return builder.mul(builder.mul(x, inverse), call.real(1))


@importer("InstanceNormalization")
def _instance(call: Call) -> Value:
    builder, x = call.builder, call.real()
    if len(x.shape) < 3:
        raise InputError(f"normalises images and reads a tensor of rank {len(x.shape)}")
    y, _, _ = normalised(builder, x, list(range(2, len(x.shape))), epsilon(call))
    return _per_channel(builder, y, call.real(1), call.real(2))


def _per_channel(builder: Builder, y: Value, scale: Value, bias: Value) -> Value:
    along = (y.shape[1], *[1] * (len(y.shape) - 2))
    if math.prod(scale.shape) != y.shape[1] or math.prod(bias.shape) != y.shape[1]:
        raise InputError(f"scales {y.shape[1]} channels by {list(scale.shape)} and {list(bias.shape)} numbers")
    return builder.add(builder.mul(y, builder.reshape(scale, along)), builder.reshape(bias, along))


@importer("GroupNormalization")
def _group(call: Call) -> Value:
    """Scale and bias are per group before opset 21, per channel from there on."""
    builder, x = call.builder, call.real()
    groups = int(call.attr("num_groups", 0))
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise InputError(f"normalises {list(x.shape)} in {groups} groups")
    n, channels, *spatial = x.shape
    split = builder.reshape(x, (n, groups, channels // groups, *spatial))
    y, _, _ = normalised(builder, split, list(range(2, len(split.shape))), epsilon(call))
    scale, bias = call.real(1), call.real(2)
    if call.opset < 21:
        repeats = [group for group in range(groups) for _ in range(channels // groups)]
        scale, bias = (builder.gather(value, 0, repeats) for value in (scale, bias))
    return _per_channel(builder, builder.reshape(y, x.shape), scale, bias)


@importer("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Value:
    """(x − mean) / (sqrt(variance) + 1e-9), as the standard's function body has it."""
    builder, x = call.builder, call.real()
    axes = call.axes("axes", None, len(x.shape))
    axes = [axis_of(axis, len(x.shape)) for axis in (0, 2, 3)] if axes is None else axes
    centre = mean(builder, x, axes)
    square = mean(builder, builder.square(x), axes)
    variance = builder.add(square, builder.square(centre), -1)
    spread = builder.add(builder.elementwise("sqrt", variance), number(float(np.float32(1e-9)), x.dtype))
    return builder.div(builder.add(x, centre, -1), spread)


@importer("LpNormalization")
def _lp(call: Call) -> Value:
    """x divided by the norm of order p along an axis; a norm of zero is outside of its domain."""
    builder, x, order = call.builder, call.real(), int(call.attr("p", 2))
    axis = axis_of(int(call.attr("axis", -1)), len(x.shape))
    if order not in (1, 2):
        raise Unsupported(f"divides by the norm of order {order}", hint="1 and 2 are supported")
    if order == 1:
        return builder.div(x, builder.total(builder.elementwise("abs", x), [axis]))
    return builder.div(x, builder.elementwise("sqrt", builder.total(builder.square(x), [axis])))


@importer("LRN")
def _lrn(call: Call) -> Value:
    """x / (bias + alpha / size · Σ x²)^beta, the sum over neighbouring channels."""
    builder, x = call.builder, call.real()
    size = int(call.attr("size", 0))
    if len(x.shape) < 2 or size < 1:
        raise InputError(f"normalises {list(x.shape)} over {size} channels")
    alpha, beta = (float(call.attr(k, np.float64(np.float32(v)))) for k, v in (("alpha", 1e-4), ("beta", 0.75)))
    low, high = (size - 1) // 2, size // 2
    rank, channels = len(x.shape), x.shape[1]
    pads = [0] * (2 * rank)
    pads[1], pads[rank + 1] = low, high
    wide = builder.pad(builder.square(x), pads)
    total = builder.narrow(wide, 1, 0, channels)
    for shift in range(1, size):
        total = builder.add(total, builder.narrow(wide, 1, shift, channels))
    scaled = builder.div(builder.mul(total, number(alpha, x.dtype)), number(float(size), x.dtype))
    base = builder.add(scaled, number(float(call.attr("bias", 1.0)), x.dtype))
    return builder.mul(x, power(builder, base, -beta))
