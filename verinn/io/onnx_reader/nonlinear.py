"""Importers of nonlinear operators: those of the core set, and those that are exactly made of them."""

from __future__ import annotations

import math

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.affine import number
from verinn.io.onnx_reader.builder import Builder, Known, Value
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.windows import windows_of
from verinn.ir import const as c
from verinn.ir.graph import Const

# Where a float32 network clips at the largest number of its type, it doesn't clip.
_LARGEST = float(np.finfo(np.float32).max)


@importer("Relu")
def _relu(call: Call) -> Value:
    return call.builder.elementwise("relu", call.real())


@importer("Abs")
def _abs(call: Call) -> Value:
    x = call.value()
    if isinstance(x, Known):
        return Known(c.absolute(x.const), x.dtype)
    return call.builder.elementwise("abs", x)


@importer("Sigmoid")
def _sigmoid(call: Call) -> Value:
    return call.builder.elementwise("sigmoid", call.real())


@importer("Tanh")
def _tanh(call: Call) -> Value:
    return call.builder.elementwise("tanh", call.real())


@importer("LeakyRelu")
def _leaky_relu(call: Call) -> Value:
    alpha = float(call.attr("alpha", np.float64(np.float32(0.01))))
    return call.builder.elementwise("leaky_relu", call.real(), {"alpha": alpha})


@importer("PRelu")
def _prelu(call: Call) -> Value:
    """relu(x) − slope · relu(−x); a single slope is LeakyRelu."""
    builder, x, slope = call.builder, call.real(), call.known(1, "the slope")
    values = np.unique(slope.const.value)
    if values.size == 1 and slope.const.error is None:
        return builder.elementwise("leaky_relu", x, {"alpha": float(values[0])})
    negative = builder.elementwise("relu", builder.neg(x))
    return builder.add(builder.elementwise("relu", x), builder.mul(negative, slope), -1)


@importer("HardSigmoid")
def _hard_sigmoid(call: Call) -> Value:
    """max(0, min(1, alpha · x + beta))."""
    builder, x = call.builder, call.real()
    alpha = float(call.attr("alpha", np.float64(np.float32(0.2))))
    beta = float(call.attr("beta", 0.5))
    line = builder.add(builder.mul(x, number(alpha, x.dtype)), number(beta, x.dtype))
    return clip(builder, line, 0.0, 1.0)


@importer("Clip")
def _clip(call: Call) -> Value:
    x = call.real()
    if call.opset < 11:
        lower, upper = float(call.attr("min", -math.inf)), float(call.attr("max", math.inf))
    else:
        lower = call.scalar(1, "the lower bound") if call.has(1) else -math.inf
        upper = call.scalar(2, "the upper bound") if call.has(2) else math.inf
    return clip(call.builder, x, lower, upper)


def clip(builder: Builder, x: Value, lower: float, upper: float) -> Value:
    """min(max(x, lower), upper), so ``upper`` wins where the two cross."""
    if math.isnan(lower) or math.isnan(upper):
        raise InputError("clips at NaN", hint="repair the model")
    lower = -math.inf if lower <= -_LARGEST else lower
    upper = math.inf if upper >= _LARGEST else upper
    if isinstance(x, Known):
        low = c.maximum(x.const, Const(np.array(lower)))
        return Known(c.minimum(low, Const(np.array(upper))), x.dtype)
    if lower == -math.inf and upper == math.inf:
        return x
    if lower == 0.0 and upper == math.inf:
        return builder.elementwise("relu", x)
    return builder.elementwise("clip", x, {"lower": min(lower, upper), "upper": upper})


@importer("Max", "Min")
def _extreme(call: Call) -> Value:
    """max(x, y) = y + relu(x − y); min(x, y) = y − relu(y − x)."""
    values = sorted(call.given(), key=lambda value: isinstance(value, Known))
    result = values[0]
    for value in values[1:]:
        result = _pair(call.builder, result, value, call.op)
    return result


def _pair(builder: Builder, x: Value, y: Value, op: str) -> Value:
    if isinstance(x, Known) and isinstance(y, Known):
        return builder.binary(x, y, c.maximum if op == "Max" else c.minimum)
    if isinstance(y, Known) and y.const.value.size == 1 and y.const.error is None:
        bound = float(y.const.value.reshape(-1)[0])
        x = builder.expand(x, builder.common(x.shape, y.shape))
        return clip(builder, x, bound, math.inf) if op == "Max" else clip(builder, x, -math.inf, bound)
    if op == "Max":
        return builder.add(builder.elementwise("relu", builder.add(x, y, -1)), y)
    return builder.add(y, builder.elementwise("relu", builder.add(y, x, -1)), -1)


@importer("MaxPool")
def _max_pool(call: Call) -> list[Value | None]:
    x = call.real()
    frame = windows_of(call, x.shape[2:], call.ints("kernel_shape", None) or [])
    if frame.empty():
        raise Unsupported("takes the maximum of a window that lies in the padding")
    attrs = {
        "kernel": frame.kernel,
        "strides": frame.strides,
        "dilations": frame.dilations,
        "pads": frame.pads,
    }
    return [call.builder.elementwise("max_pool", x, attrs), None]


@importer("GlobalMaxPool")
def _global_max_pool(call: Call) -> Value:
    x = call.real()
    spatial = x.shape[2:]
    ones = (1,) * len(spatial)
    attrs = {"kernel": spatial, "strides": ones, "dilations": ones, "pads": (0,) * (2 * len(spatial))}
    return call.builder.elementwise("max_pool", x, attrs)
