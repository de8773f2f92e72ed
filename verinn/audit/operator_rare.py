"""Rarer operators, as in ``operator_table``: quantised, recurrent, resizing, norms, and what older opsets had.

They are a table of their own so that instances of the other operators keep their random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from verinn.audit.operator_table import Draw, Entry, Rng, few, image
from verinn.audit.sketch import Sketch

RARE: dict[str, Entry] = {}


def entry(op: str, kind: str, **more: Any) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        RARE[op] = Entry(op, draw, kind, **more)
        return draw

    return register


def _unary(op: str, kind: str, attributes: dict[str, Any] | None = None, **more: Any) -> None:
    RARE[op] = Entry(op, lambda s, x, rng: s.node(op, x, **(attributes or {})), kind, **more)


def positive(rng: Rng, *shape: int) -> np.ndarray:
    return np.asarray(np.abs(few(rng, *shape)))


_unary("Sinh", "monotone", low=-1.5, high=1.5)
_unary("Cosh", "free", low=-1.5, high=1.5)
_unary("Shrink", "monotone", {"lambd": 0.5, "bias": 0.25})
_unary("Hardmax", "free", {"axis": 1})
_unary("LpNormalization", "free", {"axis": 1, "p": 2}, low=0.25, high=1.5)


@entry("Mod", "free", low=-1.75, high=1.75)
def _mod(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mod", x, s.weight([[0.75, 1.0, 1.25, 0.5]]), fmod=1)


def _question(op: str) -> None:
    """The answer is always no; where it were yes, the value would be another."""

    def draw(s: Sketch, x: str, rng: Rng) -> str:
        return s.node("Where", s.node(op, x), s.weight([[8.0, -8.0, 8.0, -8.0]]), s.node("Neg", x))

    RARE[op] = Entry(op, draw, "affine")


_question("IsNaN")
_question("IsInf")


@entry("Einsum", "monotone", low=0.25, high=1.25)
def _einsum(s: Sketch, x: str, rng: Rng) -> str:
    square = image(s, x, 2, 2)
    return s.node("Einsum", square, square, equation="ij,kj->ik")


@entry("ReverseSequence", "affine")
def _reversed(s: Sketch, x: str, rng: Rng) -> str:
    turned = s.node("ReverseSequence", image(s, x, 2, 2), s.ints([2, 1]), batch_axis=1, time_axis=0)
    return s.node("Mul", turned, s.weight(few(rng, 2, 2)))


@entry("Scatter", "affine", opset=10)
def _scatter(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Scatter", x, s.weight([[1, 3]], np.int64), s.weight([[0.5, -0.5]]), axis=1)


# -- norms ------------------------------------------------------------------------------------------------------


@entry("LpPool", "monotone", low=0.25, high=1.5)
def _lp_pool(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("LpPool", image(s, x, 1, 1, 2, 2), kernel_shape=[2, 2], strides=[1, 1], pads=[1, 0, 0, 1], p=2)


@entry("GlobalLpPool", "free")
def _global_lp(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("GlobalLpPool", image(s, x, 1, 2, 2, 1), p=1)


@entry("LRN", "free")
def _local_response(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("LRN", image(s, x, 1, 4, 1, 1), size=3, alpha=0.75, beta=0.5, bias=1.0)


@entry("MeanVarianceNormalization", "free", low=-0.5, high=0.5)
def _mean_variance(s: Sketch, x: str, rng: Rng) -> str:
    """Values that lie apart, so that the deviation is never zero."""
    apart = s.node("Add", x, s.weight([[0.0, 1.5, 3.0, 4.5]]))
    return s.node("MeanVarianceNormalization", apart, axes=[1])


@entry("RMSNormalization", "free", opset=23)
def _root_mean_square(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("RMSNormalization", x, s.weight(few(rng, 4)), axis=-1, epsilon=0.25)


# -- resizing -----------------------------------------------------------------------------------------------------


@entry("Resize", "affine")
def _resize(s: Sketch, x: str, rng: Rng) -> str:
    picture, scales = image(s, x, 1, 1, 2, 2), s.weight([1.0, 1.0, 2.0, 2.0])
    linear = s.node("Resize", picture, "", scales, mode="linear")
    near = s.node(
        "Resize", picture, "", scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )
    return s.node("Mul", s.node("Sub", linear, near), s.weight(few(rng, 1, 1, 4, 4)))


@entry("Upsample", "affine", opset=9)
def _upsample(s: Sketch, x: str, rng: Rng) -> str:
    wide = s.node("Upsample", image(s, x, 1, 1, 2, 2), s.weight([1.0, 1.0, 2.0, 2.0]), mode="linear")
    return s.node("Mul", wide, s.weight(few(rng, 1, 1, 4, 4)))


# -- quantised numbers ----------------------------------------------------------------------------------------------


def _quantised(s: Sketch, x: str, scale: float = 0.125, zero: int = 8) -> list[str]:
    """x in steps, with its scale and its zero point."""
    names = [s.weight(scale), s.weight(zero, np.uint8)]
    return [s.node("QuantizeLinear", x, *names), *names]


def _reals(s: Sketch, x: str) -> str:
    return s.node("Cast", x, to=TensorProto.FLOAT)


@entry("QuantizeLinear", "monotone")
def _quantize(s: Sketch, x: str, rng: Rng) -> str:
    """Rounded half to even, with a zero point so low that small numbers saturate."""
    return s.node("Mul", _reals(s, _quantised(s, x, 0.25, 2)[0]), s.weight(0.25))


@entry("DequantizeLinear", "monotone")
def _dequantize(s: Sketch, x: str, rng: Rng) -> str:
    names = [s.weight(0.0625), s.weight(-3, np.int8)]
    return s.node("DequantizeLinear", s.node("QuantizeLinear", x, *names), *names)


@entry("DynamicQuantizeLinear", "free", low=-0.5, high=1.5)
def _dynamic(s: Sketch, x: str, rng: Rng) -> str:
    """Taken back to reals."""
    whole, scale, zero = s.nodes("DynamicQuantizeLinear", x, count=3)
    return s.node("Mul", s.node("Sub", _reals(s, whole), _reals(s, zero)), scale)


@entry("MatMulInteger", "monotone")
def _matmul_integer(s: Sketch, x: str, rng: Rng) -> str:
    whole, _, zero = _quantised(s, x)
    weight = s.weight(rng.integers(1, 6, (4, 3)), np.int8)
    product = s.node("MatMulInteger", whole, weight, zero, s.weight(0, np.int8))
    return s.node("Mul", _reals(s, product), s.weight(0.0625))


@entry("QLinearMatMul", "monotone")
def _matmul_quantised(s: Sketch, x: str, rng: Rng) -> str:
    weight = [s.weight(rng.integers(3, 8, (4, 3)), np.uint8), s.weight(0.25), s.weight(2, np.uint8)]
    out = [s.weight(0.5), s.weight(8, np.uint8)]
    return s.node("DequantizeLinear", s.node("QLinearMatMul", *_quantised(s, x), *weight, *out), *out)


@entry("ConvInteger", "monotone")
def _conv_integer(s: Sketch, x: str, rng: Rng) -> str:
    whole, _, zero = _quantised(s, image(s, x, 1, 1, 2, 2))
    weight = s.weight(rng.integers(3, 8, (1, 1, 2, 2)), np.uint8)
    product = s.node("ConvInteger", whole, weight, zero, s.weight(2, np.uint8), pads=[1, 0, 0, 1])
    return s.node("Mul", _reals(s, product), s.weight(0.0625))


@entry("QLinearConv", "monotone")
def _conv_quantised(s: Sketch, x: str, rng: Rng) -> str:
    weight = [s.weight(rng.integers(3, 8, (2, 1, 2, 2)), np.uint8), s.weight(0.25), s.weight(2, np.uint8)]
    out = [s.weight(0.5), s.weight(8, np.uint8)]
    bias = s.weight(rng.integers(-3, 4, 2), np.int32)
    picture = _quantised(s, image(s, x, 1, 1, 2, 2))
    return s.node("DequantizeLinear", s.node("QLinearConv", *picture, *weight, *out, bias), *out)


# -- recurrent ------------------------------------------------------------------------------------------------------


def _recurrent(op: str, gates: int, kind: str, size: int, numbers: Callable[..., np.ndarray]) -> None:
    """Two steps of two features each; all hidden states."""

    def draw(s: Sketch, x: str, rng: Rng) -> str:
        wide = gates * size
        names = [s.weight(numbers(rng, 1, wide, many)) for many in (2, size)]
        outputs = 3 if op == "LSTM" else 2
        bias = s.weight(numbers(rng, 1, 2 * wide))
        return s.nodes(op, image(s, x, 2, 1, 2), *names, bias, count=outputs, hidden_size=size)[0]

    RARE[op] = Entry(op, draw, kind)


_recurrent("RNN", 1, "monotone", 2, positive)
_recurrent("GRU", 3, "free", 1, few)
_recurrent("LSTM", 4, "free", 1, few)
