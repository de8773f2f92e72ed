"""Networks of the kind that caught published verifiers, each with a spike so that no attack settles them.

As in ``operators``: y = z(x) + spike, where z is the construction, monotone in each input over its box (so that its
greatest value is known), and the secret point lies where z comes near its greatest value. A relaxation that is too
low there, or a peephole that swaps in another network, answers ``unsat``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from verinn.audit.operator_table import Draw, Entry, Rng, image
from verinn.audit.sketch import Sketch

TEMPLATES: dict[str, Entry] = {}


def template(name: str, op: str, **more: Any) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        TEMPLATES[name] = Entry(op, draw, more.pop("kind", "monotone"), **more)
        return draw

    return register


@template("fourth-power", "Pow", inputs=2, low=1.0, high=3.0)
def _fourth(s: Sketch, x: str, rng: Rng) -> str:
    """x⁴ over [1, 3]: the tangent in the middle is below the chord, and no upper bound."""
    return s.node("Pow", x, s.weight(4.0))


@template("square-behind-cast", "Pow", inputs=2, low=-2.5, high=-0.25, signs=(-1,))
def _square(s: Sketch, x: str, rng: Rng) -> str:
    """x² over negative numbers, behind casts to double and back."""
    wide = s.node("Cast", s.node("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    return s.node("Pow", wide, s.weight(2.0))


@template("square-as-product", "Mul", inputs=2, low=-2.0, high=-0.5, signs=(-1,))
def _product(s: Sketch, x: str, rng: Rng) -> str:
    """x·x of one tensor."""
    return s.node("Mul", x, x)


@template("wide-softmax", "Softmax", inputs=6, low=-16.0, high=16.0, signs=(1, -1, -1, -1, -1, -1))
def _softmax(s: Sketch, x: str, rng: Rng) -> str:
    """A softmax over a box so wide that exponentials overflow when it is done naively."""
    part = s.node("Softmax", s.node("Mul", x, s.weight(4.0)), axis=1)
    return s.node("Slice", part, s.ints([0]), s.ints([1]), s.ints([1]))


@template("tangent", "Tan", inputs=2, low=0.25, high=1.1875)
def _tan(s: Sketch, x: str, rng: Rng) -> str:
    """tan up to 1.19, where it is 2.5."""
    return s.node("Tan", x)


@template("false-identity", "Gemm", inputs=3, low=-1.0, high=1.0)
def _identity(s: Sketch, x: str, rng: Rng) -> str:
    """Gemm-ReLU-Gemm-ReLU whose rows look like v = relu(v) − relu(−v), but have a third number that is no zero."""
    first = np.concatenate([np.eye(3), -np.eye(3)]) + 0.0
    first[0, 1], first[3, 1] = 0.5, -0.25
    again = np.concatenate([np.eye(3), -np.eye(3)], axis=1)
    again[0, 2] = 0.5
    hidden = s.node("Relu", s.node("Gemm", x, s.weight(first), s.weight(np.zeros(6)), transB=1))
    return s.node("Relu", s.node("Gemm", hidden, s.weight(again), s.weight([1.0, 1.0, 1.0]), transB=1))


@template("padded-average", "AveragePool", inputs=9, kind="affine")
def _average(s: Sketch, x: str, rng: Rng) -> str:
    """3×3, stride 1, padding 1, the padding counted."""
    pool: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    return s.node("AveragePool", image(s, x, 1, 1, 3, 3), **pool)


@template("truncating-cast", "Cast", inputs=3, low=-2.5, high=2.5)
def _truncating(s: Sketch, x: str, rng: Rng) -> str:
    """To integers and back: towards zero, not down."""
    return s.node("Cast", s.node("Cast", x, to=TensorProto.INT64), to=TensorProto.FLOAT)


@template("steep-sigmoid", "Sigmoid", inputs=2, low=-2.0, high=2.0)
def _steep(s: Sketch, x: str, rng: Rng) -> str:
    """A sigmoid so steep that it is nearly a step: chords and tangents of it are far apart."""
    return s.node("Sigmoid", s.node("Mul", x, s.weight(64.0)))


@template("cube-through-zero", "Pow", inputs=2, low=-1.0, high=2.0)
def _cube(s: Sketch, x: str, rng: Rng) -> str:
    """x³, which bends both ways."""
    return s.node("Pow", x, s.weight(3.0))


@template("sine-of-a-sum", "Sin", inputs=2, low=-0.75, high=0.75)
def _sine(s: Sketch, x: str, rng: Rng) -> str:
    return s.node("Sin", s.node("Gemm", x, s.weight([[1.0], [1.0]])))


@template("exp-minus-linear", "Exp", inputs=2, low=0.0, high=2.0)
def _exp(s: Sketch, x: str, rng: Rng) -> str:
    """eˣ − x, which rises from its tangent point at zero."""
    return s.node("Sub", s.node("Exp", x), x)


@template("ceiling-pool", "MaxPool", inputs=5)
def _ceiling(s: Sketch, x: str, rng: Rng) -> str:
    """ceil_mode: a last window that reaches beyond the end."""
    return s.node("MaxPool", image(s, x, 1, 1, 5), kernel_shape=[2], strides=[2], ceil_mode=1)


@template("transposed-gemm", "Gemm", inputs=4, kind="affine")
def _gemm(s: Sketch, x: str, rng: Rng) -> str:
    """alpha, beta, transA and a bias that is broadcast."""
    column = s.node("Reshape", x, s.ints([4, 1]))
    weight = rng.choice([-1.0, -0.5, 0.5, 1.0], (4, 3))
    return s.node("Gemm", column, s.weight(weight), s.weight([0.75]), transA=1, alpha=-2.0, beta=0.5)
