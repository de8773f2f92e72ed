"""The exact meaning of rarer ONNX operators: quantised, recurrent, resizing, norms.

Whole numbers that quantised operators hold are exact; where a smooth function lies before a rounding, the
rounding is decided for the whole interval or not at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from verinn.audit import enclosure as en
from verinn.audit.enclosure import Enclosure
from verinn.audit.exact import FUNCTIONS, Call, operator
from verinn.audit.exact_windows import _patches, _stack, _windows
from verinn.errors import Unsupported

ZERO, ONE = Fraction(0), Fraction(1)


@operator("Cosh")
def _cosh(call: Call) -> Enclosure:
    return en.rise_smooth("Cosh", en.absolute(call.x()))  # it rises from zero on, and is even


@operator("Shrink")
def _shrink(call: Call) -> Enclosure:
    bias, limit = call.number("bias", 0.0), call.number("lambd", 0.5)
    if limit < 0 or bias > limit:
        raise Unsupported("Shrink that falls somewhere")
    return en.rising(lambda v: v - bias if v > limit else v + bias if v < -limit else ZERO, call.x())


@operator("Mod")
def _mod(call: Call) -> Enclosure:
    """fmod takes the quotient toward zero, else it is rounded down."""
    whole: Callable[[Fraction], int] = math.trunc if call.attr("fmod", 0) else math.floor
    x, y = np.broadcast_arrays(call.x().numbers(), call.x(1).numbers())
    return en.of(np.frompyfunc(lambda a, b: a - b * whole(a / b), 2, 1)(x, y), call.x().kind)


@operator("IsNaN", "IsInf")
def _never(call: Call) -> Enclosure:
    """No real number is one of these."""
    return en.of(np.zeros(call.x().shape, dtype=bool))


@operator("Hardmax")
def _hardmax(call: Call) -> Enclosure:
    """One at the first greatest element along the axis (before opset 13: of all axes from there on)."""
    x = call.x().numbers()
    shape, axis = x.shape, call.attr("axis", -1 if call.opset >= 13 else 1) % len(x.shape)
    if call.opset < 13:
        x, axis = x.reshape(math.prod(shape[:axis]), -1), 1
    best = np.expand_dims(x.argmax(axis), axis)
    places = np.arange(x.shape[axis]).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
    return en.of((places == best).astype(np.int64).reshape(shape), "f")


@operator("Einsum")
def _einsum(call: Call) -> Enclosure:
    parts = [call.x(index).numbers() for index in range(len(call.inputs))]
    return en.of(np.asarray(np.einsum(call.attr("equation"), *parts, dtype=object), dtype=object))


@operator("Scatter")
def _scatter(call: Call) -> Enclosure:
    """The old name of ScatterElements."""
    data, index, values = call.x().numbers().copy(), call.x(1).numbers().astype(int), call.x(2).numbers()
    axis = call.attr("axis", 0) % data.ndim
    for place in np.ndindex(index.shape):
        data[(*place[:axis], index[place], *place[axis + 1 :])] = values[place]
    return en.of(data, call.x().kind)


# -- norms ------------------------------------------------------------------------------------------------------


def _squares(x: Enclosure) -> Enclosure:
    return en.rising(lambda value: value * value, en.absolute(x))


def _norm(call: Call, x: Enclosure, axes: tuple[int, ...]) -> Enclosure:
    if call.attr("p", 2) == 1:
        return en.total(en.absolute(x), axes, True)
    return en.rise_smooth("Sqrt", en.total(_squares(x), axes, True))


@operator("LpNormalization")
def _lp_normalised(call: Call) -> Enclosure:
    x = call.x()
    return en.divide(x, _norm(call, x, (call.attr("axis", -1) % len(x.shape),)))


@operator("GlobalLpPool")
def _global_lp(call: Call) -> Enclosure:
    return _norm(call, call.x(), tuple(range(2, len(call.x().shape))))


@operator("LpPool")
def _lp_pool(call: Call) -> Enclosure:
    x = call.x()
    windows, shape, _ = _windows(call, x.shape[2:], call.attr("kernel_shape"))
    places = itertools.product(*(range(size) for size in x.shape[:2]))
    pooled = [_norm(call, _patches(x, batch, channel, windows), (1,)) for batch, channel in places]
    return _stack(pooled, axis=0).moved(lambda a: a.reshape(*x.shape[:2], *shape))


@operator("LRN")
def _local_response(call: Call) -> Enclosure:
    """x / (bias + alpha/size · Σ x²)^beta over the neighbouring channels, for beta a multiple of a quarter."""
    x, size = call.x(), call.attr("size")
    before, after = (size - 1) // 2, size // 2
    squares = _squares(x)
    sums = []
    for channel in range(x.shape[1]):
        near = range(max(0, channel - before), min(x.shape[1], channel + after + 1))
        sums.append(en.total(squares.moved(lambda a, near=near: a.take(near, 1)), (1,), True))  # type: ignore[misc]
    share = en.of(call.number("alpha", 1e-4) / size)
    base = en.add(en.multiply(_stack(sums, axis=1), share), en.of(call.number("bias", 1.0)))
    quarters = call.number("beta", 0.75) * 4
    if quarters.denominator != 1 or quarters < 1:
        raise Unsupported("LRN with an exponent that is no multiple of a quarter")
    root = en.rise_smooth("Sqrt", en.rise_smooth("Sqrt", base))
    return en.divide(x, en.rising(lambda value: value ** int(quarters), root))


@operator("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Enclosure:
    """(x − mean) / (deviation + 1e-9), as the standard's function body has it."""
    x = call.x()
    axes = tuple(axis % len(x.shape) for axis in call.attr("axes", [0, 2, 3]))
    share = en.of(Fraction(1, math.prod(x.shape[axis] for axis in axes)))
    centred = en.subtract(x, en.multiply(en.total(x, axes, True), share))
    variance = en.multiply(en.total(_squares(centred), axes, True), share)
    return en.divide(centred, en.add(en.rise_smooth("Sqrt", variance), en.of(float(np.float32(1e-9)))))


@operator("RMSNormalization")
def _root_mean_square(call: Call) -> Enclosure:
    x = call.x()
    axes = tuple(range(call.attr("axis", -1) % len(x.shape), len(x.shape)))
    share = en.of(Fraction(1, math.prod(x.shape[axis] for axis in axes)))
    power = en.add(en.multiply(en.total(_squares(x), axes, True), share), en.of(call.number("epsilon", 1e-5)))
    return en.multiply(en.divide(x, en.rise_smooth("Sqrt", power)), call.x(1))


# -- quantised numbers ----------------------------------------------------------------------------------------------

_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}  # by element type


def _one(call: Call, index: int) -> Enclosure:
    """A scale or a zero point, one for all."""
    value = call.x(index) if call.has(index) else en.of(0)
    if value.lo.size != 1:
        raise Unsupported("quantisation along an axis")
    return value.moved(lambda a: a.reshape(()))


def _saturated(x: Enclosure, zero: Enclosure, limits: tuple[int, int]) -> Enclosure:
    """Rounded half to even, shifted, clipped."""
    low, high = limits
    rounded = en.add(en.rising(lambda value: Fraction(round(value)), x), zero)
    return en.rising(lambda value: min(max(value, Fraction(low)), Fraction(high)), rounded, kind="i")


def _limits(call: Call, index: int) -> tuple[int, int]:
    """The range of the integer type of a zero point, which must be a constant of the model."""
    kind = call.kinds[index] if index < len(call.kinds) else 0
    if kind not in _RANGES:
        raise Unsupported("quantisation to a type whose range isn't known")
    return _RANGES[kind]


@operator("QuantizeLinear")
def _quantised(call: Call) -> Enclosure:
    limits = _limits(call, 2) if call.has(2) else _RANGES[2]
    return _saturated(en.divide(call.x(), _one(call, 1)), _one(call, 2), limits)


@operator("DequantizeLinear")
def _dequantised(call: Call) -> Enclosure:
    return en.multiply(_reals(en.subtract(call.x(), _one(call, 2))), _one(call, 1))


def _reals(x: Enclosure) -> Enclosure:
    return Enclosure(x.lo, x.hi)


@operator("DynamicQuantizeLinear")
def _dynamic(call: Call) -> list[Enclosure]:
    x = call.x()
    axes = tuple(range(len(x.shape)))
    high = en.rising(lambda value: max(value, ZERO), en.extreme(max, x, axes, False))
    low = en.rising(lambda value: min(value, ZERO), en.extreme(min, x, axes, False))
    scale = en.multiply(en.subtract(high, low), en.of(Fraction(1, 255)))
    zero = _saturated(en.divide(en.negate(low), scale), en.of(0), _RANGES[2])
    return [_saturated(en.divide(x, scale), zero, _RANGES[2]), scale, zero]


@operator("MatMulInteger")
def _matmul_integer(call: Call) -> Enclosure:
    return en.dot(en.subtract(call.x(), _one(call, 2)), en.subtract(call.x(1), _one(call, 3)))


@operator("QLinearMatMul")
def _matmul_quantised(call: Call) -> Enclosure:
    total = en.dot(en.subtract(call.x(0), _one(call, 2)), en.subtract(call.x(3), _one(call, 5)))
    return _requantised(call, _reals(total), (1, 4, 6), 7)


def _requantised(call: Call, total: Enclosure, scales: tuple[int, int, int], zero: int) -> Enclosure:
    left, right, out = (_one(call, index) for index in scales)
    return _saturated(
        en.multiply(total, en.divide(en.multiply(left, right), out)), _one(call, zero), _limits(call, zero)
    )


def _convolved(call: Call, x: Enclosure, kernel: Enclosure, bias: Enclosure | None) -> Enclosure:
    inner = Call(call.node, [x, kernel, bias], call.opset)
    value = FUNCTIONS["Conv"](inner)
    assert isinstance(value, Enclosure)
    return value


@operator("ConvInteger")
def _conv_integer(call: Call) -> Enclosure:
    value = _convolved(call, en.subtract(call.x(), _one(call, 2)), en.subtract(call.x(1), _one(call, 3)), None)
    return Enclosure(value.lo, value.hi, "i")


@operator("QLinearConv")
def _conv_quantised(call: Call) -> Enclosure:
    x, kernel = en.subtract(call.x(0), _one(call, 2)), en.subtract(call.x(3), _one(call, 5))
    total = _convolved(call, x, kernel, call.x(8) if call.has(8) else None)
    return _requantised(call, total, (1, 4, 6), 7)


# -- recurrent ------------------------------------------------------------------------------------------------------


@operator("RNN", "GRU", "LSTM")
def _recurrent(call: Call) -> list[Enclosure]:
    """Forward, with the standard's own activations and states that begin at zero."""
    if any(call.attr(name) is not None for name in ("activations", "direction", "layout", "clip")) or any(
        call.has(index) for index in (4, 5, 6, 7)
    ):
        raise Unsupported(f"{call.op} with options")
    x = call.x()
    weight, recurrence = (call.x(index).moved(lambda a: a[0].T) for index in (1, 2))
    size = recurrence.shape[0]
    biases = _biases(call, weight.shape[1])
    hidden = cell = en.of(np.zeros((x.shape[1], size)))
    states = []
    for time in range(x.shape[0]):
        row = en.add(en.dot(x.moved(lambda a, time=time: a[time]), weight), biases[0])  # type: ignore[misc]
        hidden, cell = _STEPS[call.op](call, row, hidden, cell, recurrence, biases[1])
        states.append(hidden.moved(lambda a: a[None, None]))
    lasts = [state.moved(lambda a: a[None]) for state in (hidden, cell)]
    return [_stack(states, axis=0), *lasts[: 2 if call.op == "LSTM" else 1]]


def _biases(call: Call, wide: int) -> list[Enclosure]:
    if not call.has(3):
        return [en.of(np.zeros(wide))] * 2
    return [call.x(3).moved(lambda a, first=first: a[0, first : first + wide]) for first in (0, wide)]  # type: ignore[misc]


Step = Callable[[Call, Enclosure, Enclosure, Enclosure, Enclosure, Enclosure], tuple[Enclosure, Enclosure]]


def _gates(x: Enclosure, size: int) -> Sequence[Enclosure]:
    return [x.moved(lambda a, k=k: a[..., k * size : (k + 1) * size]) for k in range(x.shape[-1] // size)]  # type: ignore[misc]


def _rnn(
    call: Call, row: Enclosure, hidden: Enclosure, cell: Enclosure, weight: Enclosure, bias: Enclosure
) -> tuple[Enclosure, Enclosure]:
    return en.rise_smooth("Tanh", en.add(row, en.add(en.dot(hidden, weight), bias))), cell


def _gru(
    call: Call, row: Enclosure, hidden: Enclosure, cell: Enclosure, weight: Enclosure, bias: Enclosure
) -> tuple[Enclosure, Enclosure]:
    """Gates z, r, h; H = (1 − z)·h + z·H."""
    size = hidden.shape[-1]
    own, kept, biases = _gates(row, size), _gates(weight, size), _gates(bias, size)
    update, reset = (
        en.rise_smooth("Sigmoid", en.add(own[k], en.add(en.dot(hidden, kept[k]), biases[k]))) for k in range(2)
    )
    if call.attr("linear_before_reset", 0):
        inner = en.multiply(reset, en.add(en.dot(hidden, kept[2]), biases[2]))
    else:
        inner = en.add(en.dot(en.multiply(reset, hidden), kept[2]), biases[2])
    fresh = en.rise_smooth("Tanh", en.add(own[2], inner))
    return en.add(en.multiply(en.subtract(en.of(1.0), update), fresh), en.multiply(update, hidden)), cell


def _lstm(
    call: Call, row: Enclosure, hidden: Enclosure, cell: Enclosure, weight: Enclosure, bias: Enclosure
) -> tuple[Enclosure, Enclosure]:
    """Gates i, o, f, c; C = f·C + i·c; H = o·tanh C."""
    size = hidden.shape[-1]
    enter, leave, forget, fresh = _gates(en.add(row, en.add(en.dot(hidden, weight), bias)), size)
    enter, leave, forget = (en.rise_smooth("Sigmoid", gate) for gate in (enter, leave, forget))
    cell = en.add(en.multiply(forget, cell), en.multiply(enter, en.rise_smooth("Tanh", fresh)))
    return en.multiply(leave, en.rise_smooth("Tanh", cell)), cell


_STEPS: dict[str, Step] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


# -- resizing -------------------------------------------------------------------------------------------------------


@operator("Resize", "Upsample")
def _resized(call: Call) -> Enclosure:
    """By scales whose new sizes are whole: `nearest` (rounded down, asymmetric) and `linear`, axis by axis."""
    x = call.x()
    scales = call.x(1 if call.op == "Upsample" or call.opset < 11 else 2).numbers().reshape(-1)
    form = "asymmetric" if call.op == "Upsample" or call.opset < 11 else call.attr(
        "coordinate_transformation_mode", "half_pixel"
    )  # fmt: skip
    rounding = call.attr("nearest_mode", "floor" if call.opset < 11 else "round_prefer_floor")
    linear = call.attr("mode", "nearest") == "linear"
    if form not in ("asymmetric", "half_pixel") or (not linear and (rounding, form) != ("floor", "asymmetric")):
        raise Unsupported(f"{call.op} with other coordinates")
    for axis, scale in enumerate(scales):
        if scale == 1:
            continue
        size = x.shape[axis] * scale
        if size.denominator != 1:
            raise Unsupported(f"{call.op} to a size that is no whole number")
        half = Fraction(1, 2) if form == "half_pixel" else ZERO
        places = [(k + half) / scale - half for k in range(int(size))]
        x = _along(x, axis, places, linear)
    return x


def _along(x: Enclosure, axis: int, places: Sequence[Fraction], linear: bool) -> Enclosure:
    last = x.shape[axis] - 1
    inner = [min(max(place, ZERO), Fraction(last)) for place in places]
    low = [math.floor(place) for place in inner]
    first = x.moved(lambda a: a.take(low, axis))
    if not linear:
        return first
    share = np.array([place - floor for place, floor in zip(inner, low, strict=True)], dtype=object)
    other = en.of(share.reshape([-1 if k == axis else 1 for k in range(len(x.shape))]))
    second = x.moved(lambda a: a.take([min(floor + 1, last) for floor in low], axis))
    return en.add(en.multiply(first, en.subtract(en.of(1.0), other)), en.multiply(second, other))
