"""For each ONNX operator, a small network that uses it: what the operator family is made of.

An entry draws its operator on an input of shape (1, n) and says over which box, and whether the result is affine in
the input, monotone in each input (``signs``), or neither: then nothing is claimed of its extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from verinn.audit.sketch import OPSET, Sketch

Rng = np.random.Generator
Draw = Callable[[Sketch, str, Rng], str]
TABLE: dict[str, Entry] = {}


@dataclass(frozen=True)
class Entry:
    """``kind``: ``affine``, ``monotone`` (in direction ``signs`` of each input, one sign for all) or ``free``."""

    op: str
    draw: Draw
    kind: str
    inputs: int = 4
    low: float = -1.0
    high: float = 1.0
    signs: tuple[int, ...] = (1,)
    opset: int = OPSET


def entry(op: str, kind: str, **more: Any) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        TABLE[op] = Entry(op, draw, kind, **more)
        return draw

    return register


def _unary(op: str, kind: str = "monotone", attributes: dict[str, Any] | None = None, **more: Any) -> None:
    TABLE[op] = Entry(op, lambda s, x, rng: s.node(op, x, **(attributes or {})), kind, **more)


def few(rng: Rng, *shape: int) -> np.ndarray:
    """Numbers of few bits, none of them zero."""
    return rng.choice([-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0], shape)


def image(s: Sketch, x: str, *shape: int) -> str:
    return s.node("Reshape", x, s.ints(shape))


# -- elementwise ----------------------------------------------------------------------------------------------

for _op in ("Relu", "Sigmoid", "Tanh", "Erf", "Atan", "Softplus", "Softsign", "Exp", "Tan", "Sin", "Selu"):
    _unary(_op)
_unary("Elu", attributes={"alpha": 0.5})
_unary("Celu", attributes={"alpha": 0.5})
_unary("LeakyRelu", attributes={"alpha": 0.125})
_unary("ThresholdedRelu", attributes={"alpha": 0.375})
_unary("HardSigmoid", attributes={"alpha": 0.75, "beta": 0.25})
_unary("HardSwish", opset=14)
_unary("Gelu", low=-0.5, opset=20)
_unary("Mish", opset=18)
_unary("Log", low=0.5, high=2.0)
_unary("Sqrt", low=0.25, high=4.0)
_unary("Reciprocal", low=0.5, high=2.0, signs=(-1,))
_unary("Cos", low=-3.0, high=0.0)
_unary("Abs", "free")
_unary("Neg", "affine")
_unary("Identity", "affine")
_unary("Dropout", "affine")
for _op in ("Sign", "Floor", "Ceil", "Round"):
    _unary(_op, low=-1.75, high=1.75)


@entry("Swish", "monotone", opset=24)
def _swish(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Swish", x)


@entry("PRelu", "monotone")
def _prelu(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("PRelu", x, s.weight([0.25, 0.5, 0.125, 0.75]))


@entry("Clip", "monotone")
def _clip(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Clip", x, s.weight(-0.5), s.weight(0.25))


@entry("Pow", "monotone", low=-1.5, high=1.5)
def _pow(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Pow", x, s.weight(3.0))


# -- two values -------------------------------------------------------------------------------------------------


def _halves(s: Sketch, x: str) -> list[str]:
    return s.nodes("Split", x, s.ints([2, 2]), count=2, axis=1)


def _pair(op: str, kind: str = "monotone", **more: Any) -> None:
    TABLE[op] = Entry(op, lambda s, x, rng: s.node(op, *_halves(s, x)), kind, **more)


_pair("Add", "affine")
_pair("Sub", "affine")
_pair("Mul", low=0.25, high=1.5)
_pair("Div", "monotone", low=0.5, high=2.0, signs=(1, 1, -1, -1))
_pair("Max")
_pair("Min")


@entry("Sum", "affine")
def _sum(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Sum", x, s.weight(few(rng, 1, 4)), x)


@entry("Mean", "affine")
def _mean(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mean", x, s.weight(few(rng, 1, 4)))


def _asked(op: str, *others: Any) -> None:
    """A comparison as 0 or 1."""

    def draw(s: Sketch, x: str, rng: Rng) -> str:
        return s.node("Cast", s.node(op, x, s.weight([[0.25, -0.5, 0.125, 0.0]])), to=TensorProto.FLOAT)

    TABLE[op] = Entry(op, draw, "monotone" if op.startswith("Greater") else "free")


for _op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
    _asked(_op)


@entry("Equal", "free")
def _equal(s: Sketch, x: str, rng: Rng) -> str:
    whole = s.node("Cast", x, to=TensorProto.INT32)
    return s.node("Cast", s.node("Equal", whole, s.weight([[0, 1, 0, -1]], np.int32)), to=TensorProto.FLOAT)


def _logic(op: str) -> None:
    def draw(s: Sketch, x: str, rng: Rng) -> str:
        left, right = (
            s.node("Greater", half, s.weight(limit)) for half, limit in zip(_halves(s, x), (0.25, -0.25), strict=True)
        )
        return s.node("Cast", s.node(op, left, right) if op != "Not" else s.node(op, left), to=TensorProto.FLOAT)

    TABLE[op] = Entry(op, draw, "monotone" if op in ("And", "Or") else "free")


for _op in ("And", "Or", "Xor", "Not"):
    _logic(_op)


@entry("Where", "free")
def _where(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Where", s.node("Greater", x, s.weight(0.25)), x, s.node("Neg", x))


# -- products ---------------------------------------------------------------------------------------------------


@entry("MatMul", "monotone", low=0.25, high=1.25)
def _matmul(s: Sketch, x: str, rng: Rng) -> str:
    square = image(s, x, 1, 2, 2)
    return s.node("MatMul", square, s.node("Transpose", square, perm=[0, 2, 1]))


@entry("Gemm", "affine")
def _gemm(s: Sketch, x: str, rng: Rng) -> str:
    column = s.node("Transpose", x, perm=[1, 0])
    return s.node(
        "Gemm", column, s.weight(few(rng, 3, 4)), s.weight(few(rng, 3)), transA=1, transB=1, alpha=0.5, beta=2.0
    )


@entry("Conv", "affine", inputs=12)
def _conv(s: Sketch, x: str, rng: Rng) -> str:
    weight, bias = s.weight(few(rng, 4, 1, 2, 2)), s.weight(few(rng, 4))
    return s.node(
        "Conv", image(s, x, 1, 2, 2, 3), weight, bias, group=2, pads=[1, 0, 0, 2], strides=[1, 2], dilations=[1, 2]
    )


@entry("ConvTranspose", "affine", inputs=8)
def _transposed(s: Sketch, x: str, rng: Rng) -> str:
    weight, bias = s.weight(few(rng, 2, 2, 2, 2)), s.weight(few(rng, 2))
    return s.node(
        "ConvTranspose", image(s, x, 1, 2, 2, 2), weight, bias, strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0]
    )


@entry("AveragePool", "affine", inputs=9)
def _average(s: Sketch, x: str, rng: Rng) -> str:
    picture = image(s, x, 1, 1, 3, 3)
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 0, 0]}
    without = s.node("AveragePool", picture, **pool)
    return s.node("Concat", without, s.node("AveragePool", picture, count_include_pad=1, **pool), axis=1)


@entry("MaxPool", "monotone", inputs=9)
def _max_pool(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("MaxPool", image(s, x, 1, 1, 3, 3), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 0, 0, 1])


@entry("GlobalAveragePool", "affine", inputs=8)
def _global_average(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("GlobalAveragePool", image(s, x, 1, 2, 2, 2))


@entry("GlobalMaxPool", "monotone", inputs=8)
def _global_max(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("GlobalMaxPool", image(s, x, 1, 2, 2, 2))


@entry("BatchNormalization", "affine")
def _batch_norm(s: Sketch, x: str, rng: Rng) -> str:
    names = [s.weight(few(rng, 2)), s.weight(few(rng, 2)), s.weight(few(rng, 2)), s.weight([0.75, 3.0])]
    return s.node("BatchNormalization", image(s, x, 1, 2, 2), *names, epsilon=0.25)


@entry("LayerNormalization", "free", opset=17)
def _layer_norm(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("LayerNormalization", x, s.weight(few(rng, 4)), s.weight(few(rng, 4)), axis=-1, epsilon=0.125)


@entry("InstanceNormalization", "free")
def _instance_norm(s: Sketch, x: str, rng: Rng) -> str:
    return s.node(
        "InstanceNormalization", image(s, x, 1, 2, 2), s.weight(few(rng, 2)), s.weight(few(rng, 2)), epsilon=0.125
    )


@entry("GroupNormalization", "free", opset=21)
def _group_norm(s: Sketch, x: str, rng: Rng) -> str:
    names = [s.weight(few(rng, 4)), s.weight(few(rng, 4))]
    return s.node("GroupNormalization", image(s, x, 1, 4, 1), *names, num_groups=2, epsilon=0.125)


# -- reductions -------------------------------------------------------------------------------------------------


def _reduction(op: str, kind: str = "monotone", low: float = 0.25, high: float = 1.5, axes: bool = False) -> None:
    def draw(s: Sketch, x: str, rng: Rng) -> str:
        square = image(s, x, 1, 2, 2)
        return s.node(op, square, s.ints([-1]), keepdims=0) if axes else s.node(op, square, axes=[-1], keepdims=0)

    TABLE[op] = Entry(op, draw, kind, low=low, high=high)


_reduction("ReduceSum", "affine", -1.0, 1.0, axes=True)
_reduction("ReduceMean", "affine", -1.0, 1.0)
_reduction("ReduceMax", low=-1.0, high=1.0)
_reduction("ReduceMin", low=-1.0, high=1.0)
for _op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd", "ReduceLogSum"):
    _reduction(_op)
_reduction("ReduceLogSumExp", low=-1.0, high=1.0)


@entry("Softmax", "monotone", signs=(1, -1, -1, -1), low=-3.0, high=3.0)
def _softmax(s: Sketch, x: str, rng: Rng) -> str:
    return _first(s, s.node("Softmax", x, axis=1))


@entry("LogSoftmax", "monotone", signs=(1, -1, -1, -1))
def _log_softmax(s: Sketch, x: str, rng: Rng) -> str:
    return _first(s, s.node("LogSoftmax", x, axis=1))


def _first(s: Sketch, z: str) -> str:
    return s.node("Slice", z, s.ints([0]), s.ints([1]), s.ints([1]))


def _argument(op: str) -> None:
    def draw(s: Sketch, x: str, rng: Rng) -> str:
        return s.node("Cast", s.node(op, x, axis=1, keepdims=1), to=TensorProto.FLOAT)

    TABLE[op] = Entry(op, draw, "free")


_argument("ArgMax")
_argument("ArgMin")


@entry("OneHot", "free")
def _one_hot(s: Sketch, x: str, rng: Rng) -> str:
    index = s.node("ArgMax", x, axis=1, keepdims=0)
    return s.node("OneHot", index, s.ints([4]), s.weight([0.25, 1.0]), axis=-1)


@entry("CumSum", "affine")
def _cumulate(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("CumSum", x, s.weight(1, np.int64), reverse=1, exclusive=1)


# -- types, shapes and moves --------------------------------------------------------------------------------------


@entry("Cast", "monotone", low=-2.5, high=2.5)
def _cast(s: Sketch, x: str, rng: Rng) -> str:
    whole = s.node("Cast", s.node("Cast", x, to=TensorProto.INT32), to=TensorProto.FLOAT)
    return s.node(
        "Concat", whole, s.node("Cast", s.node("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT), axis=1
    )


@entry("CastLike", "monotone", low=-2.5, high=2.5, opset=15)
def _cast_like(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("CastLike", s.node("CastLike", x, s.ints([1])), s.weight(0.0))


@entry("Constant", "affine")
def _constant(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mul", x, s.node("Constant", value_floats=few(rng, 4).tolist()))


@entry("ConstantOfShape", "affine")
def _filled(s: Sketch, x: str, rng: Rng) -> str:
    value = TensorProto(dims=[1], data_type=TensorProto.FLOAT, float_data=[0.625])
    return s.node("Sub", x, s.node("ConstantOfShape", s.node("Shape", x), value=value))


@entry("Shape", "affine")
def _shape(s: Sketch, x: str, rng: Rng) -> str:
    sizes = s.node("Gather", s.node("Shape", x), s.ints([1, 0]))
    return s.node("Reshape", x, s.node("Concat", sizes, s.ints([1]), axis=0))


@entry("Size", "affine")
def _size(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Div", x, s.node("Cast", s.node("Size", x), to=TensorProto.FLOAT))


@entry("Range", "affine")
def _range(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mul", x, s.node("Range", s.weight(0.5), s.weight(2.5), s.weight(0.5)))


@entry("Reshape", "affine")
def _reshape(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Reshape", s.node("Reshape", x, s.ints([0, 2, -1])), s.ints([-1, 4]))


@entry("Flatten", "affine")
def _flatten(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Flatten", image(s, x, 2, 1, 2), axis=-1)


@entry("Transpose", "affine", inputs=6)
def _transpose(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Transpose", image(s, x, 1, 2, 3), perm=[2, 0, 1])


@entry("Squeeze", "affine")
def _squeeze(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Squeeze", image(s, x, 1, 4, 1), s.ints([-1]))


@entry("Unsqueeze", "affine")
def _unsqueeze(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Unsqueeze", x, s.ints([-1, 0]))


@entry("Slice", "affine", inputs=6)
def _slice(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Slice", x, s.ints([-1]), s.ints([-7]), s.ints([1]), s.ints([-2]))


@entry("Gather", "affine")
def _gather(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Gather", x, s.ints([2, -1, 2]), axis=1)


@entry("GatherElements", "affine")
def _gather_elements(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("GatherElements", x, s.weight([[3, 1, -2]], np.int64), axis=1)


@entry("GatherND", "affine")
def _gather_nd(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("GatherND", x, s.weight([[[0, 3], [0, 1]]], np.int64))


@entry("ScatterND", "affine")
def _scatter_nd(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("ScatterND", x, s.weight([[0, 2]], np.int64), s.weight([0.5]))


@entry("ScatterElements", "affine")
def _scatter_elements(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("ScatterElements", x, s.weight([[1, 3]], np.int64), s.weight([[0.5, -0.5]]), axis=1)


@entry("Concat", "affine")
def _concat(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Concat", x, s.weight(few(rng, 1, 1)), s.node("Neg", x), axis=-1)


@entry("Split", "affine")
def _split(s: Sketch, x: str, rng: Rng) -> str:
    one, _, two = s.nodes("Split", x, s.ints([1, 2, 1]), count=3, axis=-1)
    return s.node("Sub", one, two)


@entry("Pad", "affine")
def _pad(s: Sketch, x: str, rng: Rng) -> str:
    filled = s.node("Pad", image(s, x, 1, 2, 2), s.ints([0, 1, 0, 0, 0, 1]), s.weight(0.75))
    return s.node("Pad", filled, s.ints([0, 0, 1, 0, 0, 0]), mode="reflect")


@entry("Expand", "affine")
def _expand(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mul", s.node("Expand", image(s, x, 2, 1, 2), s.ints([1, 2, 1])), s.weight(few(rng, 2, 2, 2)))


@entry("Tile", "affine")
def _tile(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mul", s.node("Tile", x, s.ints([1, 2])), s.weight(few(rng, 1, 8)))


@entry("DepthToSpace", "affine", inputs=8)
def _to_space(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("DepthToSpace", image(s, x, 1, 4, 1, 2), blocksize=2, mode="CRD")


@entry("SpaceToDepth", "affine", inputs=8)
def _to_depth(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("SpaceToDepth", image(s, x, 1, 1, 2, 4), blocksize=2)


@entry("Trilu", "affine", opset=14)
def _trilu(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Trilu", image(s, x, 1, 2, 2), upper=0)


def operators() -> Sequence[str]:
    return sorted(TABLE)
