"""What each operator computes, at one point: whoever reads it otherwise says ``unsat``.

y = w·z(x) over a box of 2^-12 around a point c, and the question is whether y lies in a band of 2^-7 around its value
there, which exact arithmetic gives. No spike and no search: these instances are for readers, of attributes above all.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from verinn.audit.case import Case
from verinn.audit.operator_rare import RARE
from verinn.audit.operator_table import TABLE, Entry, Rng, few, image
from verinn.audit.operators import alone, down, odd, reach, up
from verinn.audit.query import Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

HALF_WIDTH, BAND = Fraction(1, 2**12), Fraction(1, 2**8)


def _strided(s: Sketch, x: str, rng: Rng) -> str:
    """Strides, where dilations instead of them would give as many windows."""
    return s.node("Conv", image(s, x, 1, 1, 4), s.weight(few(rng, 1, 1, 2)), strides=[2], dilations=[1])


def _dilated(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Conv", image(s, x, 1, 1, 4), s.weight(few(rng, 1, 1, 2)), strides=[1], dilations=[2])


def _two(s: Sketch, x: str, rng: Rng) -> str:
    """Two linear maps, each with a bias, which readers like to merge."""
    hidden = s.node("Gemm", x, s.weight(few(rng, 4, 3)), s.weight(few(rng, 3)))
    return s.node("Gemm", hidden, s.weight(few(rng, 3, 2)), s.weight(few(rng, 2)))


def _from(s: Sketch, x: str, rng: Rng) -> str:
    """A constant less x."""
    return s.node("Sub", s.weight(few(rng, 1, 4)), x)


def _scaled(s: Sketch, x: str, rng: Rng) -> str:
    """alpha and beta alone, and a matrix that is square, so that turning it changes no shape."""
    return s.node("Gemm", x, s.weight(few(rng, 4, 4)), s.weight(few(rng, 4)), transB=1, alpha=0.5, beta=-3.0)


def _turned(s: Sketch, x: str, rng: Rng) -> str:
    square = image(s, x, 2, 2)
    return s.node("Gemm", square, s.weight(few(rng, 2, 2)), s.weight(few(rng, 2)), transA=1)


def _transposed(s: Sketch, x: str, rng: Rng) -> str:
    """Output padding behind the last window."""
    weight = s.weight(few(rng, 1, 1, 2))
    y = s.node("ConvTranspose", image(s, x, 1, 1, 4), weight, strides=[3], pads=[0, 0], output_padding=[2])
    return s.node("Mul", y, s.weight(few(rng, 1, 1, 13)))


def _axes(s: Sketch, x: str, rng: Rng) -> str:
    """A negative axis of a square, whose shape tells nothing."""
    square = image(s, x, 2, 2)
    return s.node("Mul", s.node("CumSum", square, s.weight(-1, np.int64)), s.weight(few(rng, 2, 2)))


def _softmax_axis(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Mul", s.node("Softmax", image(s, x, 1, 2, 2), axis=-1), s.weight(few(rng, 1, 2, 2)))


MORE: dict[str, Entry] = {
    "strided convolution": Entry("Conv", _strided, "affine"),
    "dilated convolution": Entry("Conv", _dilated, "affine"),
    "two linear maps": Entry("Gemm", _two, "affine"),
    "constant minus": Entry("Sub", _from, "affine"),
    "scaled product": Entry("Gemm", _scaled, "affine"),
    "turned product": Entry("Gemm", _turned, "affine"),
    "output padding": Entry("ConvTranspose", _transposed, "affine"),
    "negative axis": Entry("CumSum", _axes, "affine"),
    "softmax of rows": Entry("Softmax", _softmax_axis, "free"),
}


def entries() -> dict[str, Entry]:
    """By name, in a fixed order."""
    return {**{op: TABLE[op] for op in sorted(TABLE)}, **{op: RARE[op] for op in sorted(RARE)}, **MORE}


def case(name: str, seed: Sequence[int], quick: bool = False) -> Case:
    """The instance of an operator."""
    entry = entries()[name]
    rng = np.random.default_rng([*seed, 1])
    model = alone(entry, seed)
    weight = few(rng, int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value))
    half, centre = (Fraction(entry.high) - Fraction(entry.low)) / 2, (Fraction(entry.high) + Fraction(entry.low)) / 2
    point = np.array([centre + half * Fraction(int(k), 64) for k in odd(rng, entry.inputs)], dtype=object)
    low, high = reach(model, weight, point)
    sketch = Sketch(entry.opset)
    z = sketch.node(
        "Flatten", entry.draw(sketch, sketch.input([1, entry.inputs]), np.random.default_rng(list(seed))), axis=0
    )
    sketch.output(sketch.node("MatMul", z, sketch.weight(weight[:, None])), [1, 1])
    bottom, top = down(low) - BAND, up(high) + BAND
    asked = (linear({("Y", 0): 1}, ">=", bottom), linear({("Y", 0): 1}, "<=", top))
    bounds = box("X", list(point - HALF_WIDTH), list(point + HALF_WIDTH))
    return Case(
        family="values",
        models={"f": sketch.model()},
        query=Query((Tensor("X", (1, entry.inputs), False), Tensor("Y", (1, 1), True)), (*bounds, *asked)),
        label="sat",
        known="the value at the point, in exact arithmetic",
        key=name,
        point={"X": point.astype(np.float64).astype(np.float32)},
        operators=(entry.op, *(op for op in sketch.operators() if op != entry.op)),
        margin=BAND,
        shape="band",
        quick=quick,
        recipe={"generator": "values"},
    )
