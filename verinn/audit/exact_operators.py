"""The exact meaning of ONNX operators: elementwise, products, reductions, comparisons, moves.

What only moves elements about is told by the standard's own reference implementation, run on the elements'
numbers instead of their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import verinn.audit.exact_windows  # noqa: F401  (registers more)
from verinn.audit import enclosure as en
from verinn.audit.enclosure import Enclosure, Undecided
from verinn.audit.exact import Call, operator
from verinn.errors import Unsupported

ZERO, ONE = Fraction(0), Fraction(1)


def number(value: float | Fraction) -> Enclosure:
    return en.of(value if isinstance(value, Fraction) else float(value))


# -- elementwise --------------------------------------------------------------------------------------


@operator("Identity", "Dropout")
def _same(call: Call) -> Enclosure:
    return call.x()


@operator("Neg")
def _neg(call: Call) -> Enclosure:
    return en.negate(call.x())


@operator("Abs")
def _abs(call: Call) -> Enclosure:
    return en.absolute(call.x())


def _leak(slope: Fraction) -> Callable[[Fraction], Fraction]:
    return lambda value: value if value >= 0 else slope * value


@operator("Relu")
def _relu(call: Call) -> Enclosure:
    return en.rising(_leak(ZERO), call.x(), kind=call.x().kind)


@operator("LeakyRelu")
def _leaky(call: Call) -> Enclosure:
    slope = call.number("alpha", 0.01)
    return _pieces(call.x(), ONE, number(slope))


@operator("PRelu")
def _prelu(call: Call) -> Enclosure:
    return _pieces(call.x(), ONE, call.x(1))


def _pieces(x: Enclosure, right: Fraction, left: Enclosure) -> Enclosure:
    """right·max(x, 0) + left·min(x, 0); both parts rise, and their images meet only at zero."""
    above = en.rising(lambda value: max(value, ZERO) * right, x)
    below = en.multiply(en.rising(lambda value: min(value, ZERO), x), left)
    return en.add(above, below)


@operator("ThresholdedRelu")
def _thresholded(call: Call) -> Enclosure:
    limit = call.number("alpha", 1.0)
    if limit < 0:
        raise Unsupported("ThresholdedRelu with a negative threshold falls")
    return en.rising(lambda value: value if value > limit else ZERO, call.x())


@operator("Sign")
def _sign(call: Call) -> Enclosure:
    return en.rising(lambda value: Fraction((value > 0) - (value < 0)), call.x(), kind=call.x().kind)


@operator("Floor")
def _floor(call: Call) -> Enclosure:
    return en.rising(lambda value: Fraction(math.floor(value)), call.x())


@operator("Ceil")
def _ceil(call: Call) -> Enclosure:
    return en.rising(lambda value: Fraction(math.ceil(value)), call.x())


@operator("Round")
def _round(call: Call) -> Enclosure:
    return en.rising(lambda value: Fraction(round(value)), call.x())  # halves to even


@operator("Clip")
def _clip(call: Call) -> Enclosure:
    low = call.x(1) if call.has(1) else None
    high = call.x(2) if call.has(2) else None
    if call.opset < 11:
        low = number(call.number("min", float("-inf"))) if call.attr("min") is not None else None
        high = number(call.number("max", float("inf"))) if call.attr("max") is not None else None
    x = call.x()
    if low is not None:
        x = en.rising(max, x, low, kind=x.kind)
    return x if high is None else en.rising(min, x, high, kind=x.kind)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Enclosure:
    slope, shift = call.number("alpha", 0.2), call.number("beta", 0.5)
    if slope < 0:
        raise Unsupported("HardSigmoid with a negative slope falls")
    return en.rising(lambda value: min(max(slope * value + shift, ZERO), ONE), call.x())


@operator("HardSwish")
def _hard_swish(call: Call) -> Enclosure:
    x = call.x()
    gate = en.rising(lambda value: min(max(value / 6 + Fraction(1, 2), ZERO), ONE), x)
    return en.multiply(x, gate)


@operator("Exp", "Log", "Sqrt", "Sigmoid", "Tanh", "Erf", "Atan", "Asin", "Sinh", "Asinh", "Softplus")
def _smooth(call: Call) -> Enclosure:
    return en.rise_smooth(call.op, call.x())


@operator("Sin", "Cos")
def _wave(call: Call) -> Enclosure:
    return en.wave(call.op, call.x())


@operator("Tan")
def _tan(call: Call) -> Enclosure:
    x = call.x()
    if any(abs(value) > Fraction(157, 100) for ends in (x.lo, x.hi) for value in ends.reshape(-1)):
        raise Undecided("a tangent beyond its pole")
    return en.rise_smooth("Tan", x)


@operator("Elu", "Celu", "Selu")
def _elu(call: Call) -> Enclosure:
    x = call.x()
    alpha = call.number("alpha", {"Selu": 1.6732631921768188}.get(call.op, 1.0))
    below = en.rising(lambda value: min(value, ZERO), x)
    inner = en.multiply(below, number(1 / alpha)) if call.op == "Celu" else below
    curve = en.multiply(en.subtract(en.rise_smooth("Exp", inner), number(ONE)), number(alpha))
    both = en.add(en.rising(lambda value: max(value, ZERO), x), curve)
    return en.multiply(both, number(call.number("gamma", 1.0507010221481323))) if call.op == "Selu" else both


@operator("Gelu")
def _gelu(call: Call) -> Enclosure:
    x = call.x()
    half = en.multiply(x, number(0.5))
    if call.attr("approximate", "none") == "tanh":
        return en.multiply(half, en.add(number(ONE), en.rise_smooth("Tanh", _tanh_argument(x))))
    root = en.rise_smooth("Sqrt", number(2.0))
    return en.multiply(half, en.add(number(ONE), en.rise_smooth("Erf", en.divide(x, root))))


def _tanh_argument(x: Enclosure) -> Enclosure:
    """sqrt(2/π)·(x + 0.044715 x³), with π = 4 atan 1."""
    pi = en.multiply(number(4.0), en.rise_smooth("Atan", number(ONE)))
    scale = en.rise_smooth("Sqrt", en.divide(number(2.0), pi))
    cube = en.multiply(_power(x, 3), number(Fraction(44715, 1000000)))
    return en.multiply(scale, en.add(x, cube))


@operator("Swish")
def _swish(call: Call) -> Enclosure:
    scaled = en.multiply(call.x(), number(call.number("alpha", 1.0)))
    return en.multiply(call.x(), en.rise_smooth("Sigmoid", scaled))


@operator("Mish")
def _mish(call: Call) -> Enclosure:
    return en.multiply(call.x(), en.rise_smooth("Tanh", en.rise_smooth("Softplus", call.x())))


@operator("Softsign")
def _softsign(call: Call) -> Enclosure:
    return en.rising(lambda value: value / (1 + abs(value)), call.x())


@operator("Reciprocal")
def _reciprocal(call: Call) -> Enclosure:
    return en.divide(number(ONE), call.x())


@operator("Pow")
def _pow(call: Call) -> Enclosure:
    x, exponents = call.x(), set(call.x(1).numbers().reshape(-1))
    if len(exponents) != 1:
        raise Unsupported("Pow with several exponents")
    exponent = exponents.pop()
    if exponent.denominator == 1 and exponent >= 0:
        return _power(x, int(exponent))
    if exponent.denominator == 1:
        return en.divide(number(ONE), _power(x, -int(exponent)))
    if exponent.denominator == 2:
        root = en.rise_smooth("Sqrt", x)
        return (
            _power(root, int(exponent * 2))
            if exponent > 0
            else en.divide(number(ONE), _power(root, -int(exponent * 2)))
        )
    return en.rise_smooth("Exp", en.multiply(number(exponent), en.rise_smooth("Log", x)))


def _power(x: Enclosure, exponent: int) -> Enclosure:
    if exponent == 0:
        return en.rising(lambda value: ONE, x)
    base = en.absolute(x) if exponent % 2 == 0 else x
    return en.rising(lambda value: value**exponent, base, kind=x.kind)


# -- two values -----------------------------------------------------------------------------------------


@operator("Add", "Sum", "Mean")
def _add(call: Call) -> Enclosure:
    value = call.x()
    for index in range(1, len(call.inputs)):
        value = en.add(value, call.x(index))
    return en.multiply(value, number(Fraction(1, len(call.inputs)))) if call.op == "Mean" else value


@operator("Sub")
def _sub(call: Call) -> Enclosure:
    return en.subtract(call.x(), call.x(1))


@operator("Mul")
def _mul(call: Call) -> Enclosure:
    if call.node.input[0] == call.node.input[1]:
        return _power(call.x(), 2)
    return en.multiply(call.x(), call.x(1))


@operator("Div")
def _div(call: Call) -> Enclosure:
    x, y = call.x(), call.x(1)
    if x.kind == "i":  # towards zero
        quotient = en.divide(x, y)
        return en.rising(lambda value: Fraction(math.trunc(value)), quotient, kind="i")
    return en.divide(x, y)


@operator("Max", "Min")
def _greatest(call: Call) -> Enclosure:
    function = max if call.op == "Max" else min
    value = call.x()
    for index in range(1, len(call.inputs)):
        value = en.rising(function, value, call.x(index), kind=value.kind)
    return value


@operator("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
def _compare(call: Call) -> Enclosure:
    questions: dict[str, Callable[[Fraction, Fraction], bool]] = {
        "Greater": lambda a, b: a > b,
        "Less": lambda a, b: a < b,
        "GreaterOrEqual": lambda a, b: a >= b,
        "LessOrEqual": lambda a, b: a <= b,
    }
    return en.decide(questions[call.op], call.x(), call.x(1))


@operator("Equal")
def _equal(call: Call) -> Enclosure:
    return en.equal(call.x(), call.x(1))


@operator("And", "Or", "Xor", "Not")
def _logic(call: Call) -> Enclosure:
    x = call.x()
    if call.op == "Not":
        return en.of(x.numbers() == 0)
    a, b = (part.numbers() != 0 for part in (x, call.x(1)))
    return en.of({"And": a & b, "Or": a | b, "Xor": a ^ b}[call.op].astype(bool))


@operator("Where")
def _where(call: Call) -> Enclosure:
    condition, x, y = np.broadcast_arrays(call.x().numbers() != 0, call.x(1).lo, call.x(2).lo)
    lo = np.where(condition, x, y)
    if call.x(1).exact and call.x(2).exact:
        return Enclosure(lo, lo, call.x(1).kind)
    _, x, y = np.broadcast_arrays(condition, call.x(1).hi, call.x(2).hi)
    return Enclosure(lo, np.where(condition, x, y), call.x(1).kind)


@operator("MatMul")
def _matmul(call: Call) -> Enclosure:
    x, y = call.x(), call.x(1)
    if len(x.shape) == 1 and len(y.shape) == 1:
        return en.dot(x.moved(lambda a: a[None]), y.moved(lambda a: a[:, None])).moved(lambda a: a[0, 0])
    if len(x.shape) == 1:
        return en.dot(x.moved(lambda a: a[None]), y).moved(lambda a: a[..., 0, :])
    if len(y.shape) == 1:
        return en.dot(x, y.moved(lambda a: a[:, None])).moved(lambda a: a[..., 0])
    return en.dot(x, y)


@operator("Gemm")
def _gemm(call: Call) -> Enclosure:
    x, y = call.x(), call.x(1)
    x = x.moved(np.transpose) if call.attr("transA", 0) else x
    y = y.moved(np.transpose) if call.attr("transB", 0) else y
    product = en.multiply(en.dot(x, y), number(call.number("alpha", 1.0)))
    if not call.has(2):
        return product
    return en.add(product, en.multiply(call.x(2), number(call.number("beta", 1.0))))


# -- reductions -----------------------------------------------------------------------------------------


@operator("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def _reduce(call: Call) -> Enclosure:
    x = call.x()
    axes = call.axes(len(x.shape))
    keep = bool(call.attr("keepdims", 1))
    if call.op == "ReduceL1":
        x = en.absolute(x)
    elif call.op in ("ReduceL2", "ReduceSumSquare"):
        x = _power(x, 2)
    elif call.op == "ReduceLogSumExp":
        x = en.rise_smooth("Exp", x)
    value = en.total(x, axes, keep)
    if call.op == "ReduceMean":
        return en.multiply(value, number(Fraction(1, math.prod(x.shape[axis] for axis in axes))))
    if call.op == "ReduceL2":
        return en.rise_smooth("Sqrt", value)
    return en.rise_smooth("Log", value) if call.op in ("ReduceLogSum", "ReduceLogSumExp") else value


@operator("ReduceMax", "ReduceMin")
def _reduce_extreme(call: Call) -> Enclosure:
    x = call.x()
    function = max if call.op == "ReduceMax" else min
    return en.extreme(function, x, call.axes(len(x.shape)), bool(call.attr("keepdims", 1)))


@operator("ReduceProd")
def _reduce_product(call: Call) -> Enclosure:
    x = call.x()
    keep = bool(call.attr("keepdims", 1))
    axes = call.axes(len(x.shape))
    for axis in sorted(axes, reverse=True):
        parts = [_only(x, axis, place) for place in range(x.shape[axis])]
        x = parts[0]
        for part in parts[1:]:
            x = en.multiply(x, part)
    return x if keep else x.moved(lambda a: np.squeeze(a, axis=axes))


def _only(x: Enclosure, axis: int, place: int) -> Enclosure:
    return x.moved(lambda a: a.take([place], axis))


@operator("ArgMax", "ArgMin")
def _argument(call: Call) -> Enclosure:
    x = call.x().numbers()
    axis, last = call.attr("axis", 0), bool(call.attr("select_last_index", 0))
    values = np.flip(x, axis) if last else x
    best = values.argmax(axis) if call.op == "ArgMax" else values.argmin(axis)
    best = x.shape[axis] - 1 - best if last else best
    return en.of(np.expand_dims(best, axis) if call.attr("keepdims", 1) else best)


@operator("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Enclosure:
    """1 / Σ_j exp(x_j − x_i), which is narrow for narrow inputs."""
    x = call.x()
    shape = x.shape
    axis = call.attr("axis", -1 if call.opset >= 13 else 1) % len(shape)
    if call.opset < 13:
        x = x.moved(lambda a: a.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))
        axis = 1
    x = x.moved(lambda a: np.moveaxis(a, axis, -1))
    differences = en.subtract(x.moved(lambda a: a[..., None, :]), x.moved(lambda a: a[..., :, None]))
    if not x.exact:  # the number minus itself is zero, however wide it is
        other = en.of(1 - np.eye(x.shape[-1], dtype=np.int64), "f")
        differences = en.multiply(differences, other)
    value = en.divide(number(ONE), en.total(en.rise_smooth("Exp", differences), (-1,), False))
    if call.op == "LogSoftmax":
        value = en.rise_smooth("Log", value)
    return value.moved(lambda a: np.moveaxis(a, -1, axis).reshape(shape))


@operator("CumSum")
def _cumulate(call: Call) -> Enclosure:
    x, axis = call.x(), call.x(1).integers()[0]

    def along(a: np.ndarray) -> np.ndarray:
        a = np.flip(a, axis) if call.attr("reverse", 0) else a
        sums = np.cumsum(a, axis=axis, dtype=object)
        sums = sums - a if call.attr("exclusive", 0) else sums
        return np.asarray(np.flip(sums, axis) if call.attr("reverse", 0) else sums, dtype=object)

    return x.moved(along)


# -- types, shapes and moves ------------------------------------------------------------------------------


@operator("Cast", "CastLike")
def _cast(call: Call) -> Enclosure:
    x = call.x()
    if call.op == "CastLike":
        kind = call.x(1).kind
    else:
        to = call.attr("to")
        kind = "b" if to == onnx.TensorProto.BOOL else "f" if to in _FLOATS else "i"
    if kind == "b":
        return en.of(x.numbers() != 0)
    if kind == "i" and x.kind == "f":  # towards zero
        return en.rising(lambda value: Fraction(math.trunc(value)), x, kind="i")
    return Enclosure(x.lo, x.hi, kind)


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@operator("Constant")
def _constant(call: Call) -> Enclosure:
    attribute = call.node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return en.of(numpy_helper.to_array(value))
    return en.of(np.float32(value) if attribute.name.startswith("value_float") else np.asarray(value))


@operator("ConstantOfShape")
def _filled(call: Call) -> Enclosure:
    given = call.attr("value")
    one = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
    return en.of(np.full(call.x().integers(), one.reshape(-1)[0]))


@operator("Shape")
def _shape(call: Call) -> Enclosure:
    shape = call.x().shape
    return en.of(np.array(shape[call.attr("start", 0) : call.attr("end", len(shape))], dtype=np.int64))


@operator("Size")
def _size(call: Call) -> Enclosure:
    return en.of(np.int64(call.x().lo.size))


@operator("Range")
def _range(call: Call) -> Enclosure:
    start, stop, step = (call.x(index).numbers().reshape(-1)[0] for index in range(3))
    count = max(0, math.ceil((stop - start) / step))
    return en.of([start + step * index for index in range(count)], call.x().kind)


@operator("OneHot")
def _one_hot(call: Call) -> Enclosure:
    depth = call.x(1).integers()[0]
    off, on = call.x(2).numbers().reshape(-1)
    index = call.x().numbers()
    hot = np.stack([np.where(index % depth == place, on, off) for place in range(depth)], call.attr("axis", -1))
    return en.of(hot.astype(object), call.x(2).kind)


# Operators whose output elements are input elements (or zero), and which of their inputs hold such elements.
_MOVES: dict[str, tuple[int, ...] | None] = {
    "Reshape": (0,), "Flatten": (0,), "Transpose": (0,), "Squeeze": (0,), "Unsqueeze": (0,), "Slice": (0,),
    "Gather": (0,), "GatherElements": (0,), "GatherND": (0,), "Expand": (0,), "Tile": (0,), "Split": (0,),
    "DepthToSpace": (0,), "SpaceToDepth": (0,), "Trilu": (0,), "Compress": (0,), "ReverseSequence": (0,),
    "ScatterElements": (0, 2), "ScatterND": (0, 2), "Concat": None, "Pad": (0, 2),
}  # fmt: skip


@operator(*_MOVES)
def _move(call: Call) -> list[Enclosure]:
    """Run the standard's reference implementation on element numbers (1 …, 0 for zero), then look them up."""
    chosen = _MOVES[call.op]
    moved = range(len(call.inputs)) if chosen is None else [index for index in chosen if call.has(index)]
    parts = [call.x(index) for index in moved]
    feed: dict[str, np.ndarray] = {}
    begun = 1
    for index in range(len(call.inputs)):
        if index in moved:
            size = call.x(index).lo.size
            feed[f"i{index}"] = np.arange(begun, begun + size, dtype=np.int64).reshape(call.x(index).shape)
            begun += size
        elif call.has(index):
            feed[f"i{index}"] = call.x(index).numbers().astype(np.int64)
    lo = np.concatenate([np.zeros(1, dtype=object) + Fraction(0), *(part.lo.reshape(-1) for part in parts)])
    hi = lo
    if not all(part.exact for part in parts):
        hi = np.concatenate([lo[:1], *(part.hi.reshape(-1) for part in parts)])
    numbers = _reference(call, feed)
    made = [np.asarray(lo[place], dtype=object) for place in numbers]
    if hi is lo:
        return [Enclosure(values, values, parts[0].kind) for values in made]
    return [Enclosure(low, np.asarray(hi[place], dtype=object)) for low, place in zip(made, numbers, strict=True)]


def _reference(call: Call, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    node = onnx.NodeProto()
    node.CopyFrom(call.node)
    del node.input[:]
    node.input.extend(f"i{index}" if call.has(index) else "" for index in range(len(call.inputs)))
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in feed]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in node.output]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", call.opset)], ir_version=8)
    return [np.asarray(value).astype(np.int64) for value in ReferenceEvaluator(model).run(None, feed)]
