"""Importers of scalar functions: those of the core set, and those that are exactly made of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.affine import number
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Value
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.select import truncated
from verinn.ir import const as c
from verinn.ir.graph import Const

# Where a float32 network clips at the largest number of its type, it doesn't clip.
_LARGEST = float(np.finfo(np.float32).max)

_CORE = {
    "Relu": "relu", "Abs": "abs", "Sigmoid": "sigmoid", "Tanh": "tanh", "Sign": "sign", "Floor": "floor",
    "Ceil": "ceil", "Round": "round", "HardSwish": "hard_swish", "Atan": "atan", "Erf": "erf", "Softplus": "softplus",
    "Mish": "mish", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sin": "sin", "Cos": "cos",
    "Tan": "tan",
}  # fmt: skip


@importer(*_CORE)
def _core(call: Call) -> Value:
    x = call.value()
    if x.dtype not in FLOATS and isinstance(x, Known):  # whole numbers stay what they are
        return whole_constant(call, x)
    return call.builder.elementwise(_CORE[call.op], x)


_WHOLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda v: np.maximum(v, 0),
    "Abs": np.abs,
    "Sign": np.sign,
}


def whole_constant(call: Call, x: Known) -> Value:
    """Relu, Abs and Sign of integer constants."""
    function = _WHOLE.get(call.op)
    if function is None:
        raise InputError(f"computes {call.op} of integers", hint="repair the model")
    return Known(Const(np.asarray(function(x.const.value))), x.dtype)


def _attr(call: Call, name: str, default: float) -> float:
    """A float attribute; defaults of the standard are float32 numbers."""
    return float(call.attr(name, np.float64(np.float32(default))))


@importer("LeakyRelu")
def _leaky_relu(call: Call) -> Value:
    return call.builder.elementwise("leaky_relu", call.real(), {"alpha": _attr(call, "alpha", 0.01)})


@importer("PRelu")
def _prelu(call: Call) -> Value:
    """A single constant slope is LeakyRelu; slopes that depend on the input make a product."""
    builder, x, slope = call.builder, call.real(), call.real(1)
    if not isinstance(slope, Known):
        negative = builder.mul(builder.relu(builder.neg(x)), slope)
        return builder.add(builder.relu(x), negative, -1)
    values = np.unique(slope.const.value)
    if values.size == 1 and slope.const.error is None:
        return builder.elementwise("leaky_relu", x, {"alpha": float(values[0])})
    x = builder.expand(x, builder.common(x.shape, slope.shape))
    return builder.elementwise("prelu", x, params={"slope": slope.const})


@importer("Elu")
def _elu(call: Call) -> Value:
    return call.builder.elementwise("elu", call.real(), {"alpha": _attr(call, "alpha", 1.0)})


@importer("Selu")
def _selu(call: Call) -> Value:
    """gamma · elu(x)."""
    builder, x = call.builder, call.real()
    alpha, gamma = _attr(call, "alpha", 1.6732632423543772), _attr(call, "gamma", 1.0507009873554805)
    return builder.mul(builder.elementwise("elu", x, {"alpha": alpha}), number(gamma, x.dtype))


@importer("Celu")
def _celu(call: Call) -> Value:
    """alpha · elu(x / alpha)."""
    builder, x, alpha = call.builder, call.real(), _attr(call, "alpha", 1.0)
    if not alpha > 0.0:
        raise Unsupported(f"has the alpha {alpha:g}", hint="a positive one is needed")
    inner = builder.elementwise("elu", builder.div(x, number(alpha, x.dtype)), {"alpha": 1.0})
    return builder.mul(inner, number(alpha, x.dtype))


@importer("ThresholdedRelu")
def _thresholded(call: Call) -> Value:
    """x where x > alpha, else 0: relu(x − alpha) + alpha · [x > alpha]."""
    builder, x, alpha = call.builder, call.real(), _attr(call, "alpha", 1.0)
    return _jump(builder, x, alpha, alpha)


def _jump(builder: Builder, x: Value, threshold: float, height: float) -> Value:
    """x − threshold + height where x > threshold, else 0."""
    over = builder.add(x, number(threshold, x.dtype), -1)
    if height == 0.0:
        return builder.relu(over)
    step = builder.retype(builder.step(over, strict=True), x.dtype)
    return builder.add(builder.relu(over), builder.mul(step, number(height, x.dtype)))


@importer("Shrink")
def _shrink(call: Call) -> Value:
    """x − bias above lambd, x + bias below −lambd, 0 between."""
    builder, x = call.builder, call.real()
    bias, threshold = _attr(call, "bias", 0.0), _attr(call, "lambd", 0.5)
    if threshold < 0.0:
        raise Unsupported(f"has the lambd {threshold:g}", hint="a negative one makes two answers of one number")
    height = threshold - bias
    return builder.add(_jump(builder, x, threshold, height), _jump(builder, builder.neg(x), threshold, height), -1)


@importer("HardSigmoid")
def _hard_sigmoid(call: Call) -> Value:
    """max(0, min(1, alpha · x + beta))."""
    builder, x = call.builder, call.real()
    slope, level = number(_attr(call, "alpha", 0.2), x.dtype), number(_attr(call, "beta", 0.5), x.dtype)
    return builder.clip(builder.add(builder.mul(x, slope), level), 0.0, 1.0)


@importer("Gelu")
def _gelu(call: Call) -> Value:
    form = str(call.attr("approximate", "none"))
    if form not in ("none", "tanh"):
        raise InputError(f"has the unknown approximation '{form}'")
    return call.builder.elementwise("gelu" if form == "none" else "gelu_tanh", call.real())


@importer("Swish")
def _swish(call: Call) -> Value:
    """x · sigmoid(alpha · x) = silu(alpha · x) / alpha."""
    builder, x, alpha = call.builder, call.real(), _attr(call, "alpha", 1.0)
    if alpha == 0.0:
        return builder.div(x, number(2.0, x.dtype))
    inner = builder.elementwise("silu", x if alpha == 1.0 else builder.mul(x, number(alpha, x.dtype)))
    return inner if alpha == 1.0 else builder.div(inner, number(alpha, x.dtype))


@importer("Softsign")
def _softsign(call: Call) -> Value:
    """x / (1 + |x|) = 1 / (1 + relu(−x)) − 1 / (1 + relu(x)): no product of two variables."""
    builder, x = call.builder, call.real()
    one = number(1.0, x.dtype)
    parts = [builder.elementwise("reciprocal", builder.add(builder.relu(side), one)) for side in (builder.neg(x), x)]
    return builder.add(parts[0], parts[1], -1)


@importer("Sinh", "Cosh")
def _hyperbolic(call: Call) -> Value:
    """(exp(x) ∓ exp(−x)) / 2."""
    builder, x = call.builder, call.real()
    ends = [builder.elementwise("exp", side) for side in (x, builder.neg(x))]
    return builder.div(builder.add(ends[0], ends[1], -1 if call.op == "Sinh" else 1), number(2.0, x.dtype))


@importer("Pow")
def _pow(call: Call) -> Value:
    """A constant power, a constant base as exp(y · log a), else exp(y · log x) for positive x."""
    builder, x, y = call.builder, call.value(0), call.value(1)
    if not isinstance(y, Known):
        base = builder.elementwise("log", builder.retype(x, y.dtype) if x.dtype not in FLOATS else x)
        return builder.retype(builder.elementwise("exp", builder.mul(y, base)), x.dtype)
    values = np.unique(y.const.value)
    if y.const.error is not None:
        raise Unsupported("takes a power that isn't known exactly")
    if values.size != 1:
        return _several_powers(builder, x, y)
    exponent, shape = float(values[0]), builder.common(x.shape, y.shape)
    if isinstance(x, Known) and x.dtype not in FLOATS:
        return _whole_power(builder, x, exponent, shape)
    return builder.expand(power(builder, x, exponent), shape)


def power(builder: Builder, x: Value, exponent: float) -> Value:
    """x to a constant power, in the simplest core operators."""
    if exponent == 0.0:
        return Known(Const(np.ones(x.shape)), x.dtype)
    if exponent < 0.0:
        return builder.elementwise("reciprocal", power(builder, x, -exponent))
    return builder.elementwise("sqrt", x) if exponent == 0.5 else builder.power(x, exponent)


def _several_powers(builder: Builder, x: Value, y: Known) -> Value:
    """Elements of their own powers, one power after the other."""
    shape = builder.common(x.shape, y.shape)
    powers = np.broadcast_to(y.const.value, shape).reshape(-1)
    flat = builder.reshape(builder.expand(x, shape), (powers.size,))
    parts, order = [], np.zeros(powers.size, np.int64)
    done = 0
    for exponent in np.unique(powers):
        places = np.flatnonzero(powers == exponent)
        parts.append(power(builder, builder.gather(flat, 0, places.tolist()), float(exponent)))
        order[places] = done + np.arange(places.size)
        done += places.size
    return builder.reshape(builder.gather(builder.concat(parts, 0), 0, order.tolist()), shape)


def _whole_power(builder: Builder, x: Known, exponent: float, shape: tuple[int, ...]) -> Value:
    if exponent != int(exponent) or not 0 <= exponent <= 64:
        raise Unsupported(f"takes the power {exponent:g} of integers")
    result = Const(np.ones_like(x.const.value))
    for _ in range(int(exponent)):
        result = c.mul(result, x.const)
    return builder.expand(Known(result, x.dtype), shape)


@importer("Clip")
def _clip(call: Call) -> Value:
    builder, x = call.builder, call.value()
    if call.opset < 11:
        return limited_clip(builder, x, float(call.attr("min", -math.inf)), float(call.attr("max", math.inf)))
    low = call.value(1) if call.has(1) else number(-math.inf, x.dtype)
    high = call.value(2) if call.has(2) else number(math.inf, x.dtype)
    if isinstance(low, Known) and isinstance(high, Known):
        lower = call.scalar(1, "the lower bound") if call.has(1) else -math.inf
        upper = call.scalar(2, "the upper bound") if call.has(2) else math.inf
        return limited_clip(builder, x, lower, upper)
    raised = builder.larger(x, low) if call.has(1) else x
    return builder.smaller(raised, high) if call.has(2) else raised


def limited_clip(builder: Builder, x: Value, lower: float, upper: float) -> Value:
    """Clip at constants; at the largest float32 numbers not at all."""
    if isinstance(x, Known) and x.dtype not in FLOATS:
        ends = [Known(Const(np.array(end)), x.dtype) for end in (lower, upper)]
        clipped = np.minimum(np.maximum(x.const.value, ends[0].const.value), ends[1].const.value)
        return Known(Const(clipped.astype(np.int64)), x.dtype)
    return builder.clip(x, -math.inf if lower <= -_LARGEST else lower, math.inf if upper >= _LARGEST else upper)


@importer("Max", "Min")
def _extreme(call: Call) -> Value:
    """max(x, y) = y + relu(x − y); min(x, y) = y − relu(y − x)."""
    values = sorted(call.given(), key=lambda value: isinstance(value, Known))
    result = values[0]
    for value in values[1:]:
        result = call.builder.larger(result, value) if call.op == "Max" else call.builder.smaller(result, value)
    return result


@importer("Mod")
def _mod(call: Call) -> Value:
    """x − y · q with q the quotient rounded down, or toward zero (fmod)."""
    builder, x, y = call.builder, call.value(0), call.value(1)
    toward_zero = bool(call.attr("fmod", 0))
    if isinstance(y, Known) and np.any(y.const.value == 0):
        raise InputError("takes a remainder by zero", hint="repair the model")
    if isinstance(x, Known) and isinstance(y, Known):
        if x.const.error is not None or y.const.error is not None:
            raise Unsupported("takes a remainder of constants that aren't known exactly")
        return Known(Const((np.fmod if toward_zero else np.mod)(x.const.value, y.const.value)), x.dtype)
    quotient = builder.div(x, y)
    whole = truncated(builder, quotient) if toward_zero else builder.elementwise("floor", quotient)
    return builder.add(x, builder.mul(y, whole), -1)
