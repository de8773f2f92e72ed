"""Counterexamples on an operator's kink, jump, extremum or inflection, with nothing to spare.

y = v·t + w·z(t) + spike(t) with t = x − c: z is an operator whose value at t = 0 is a known number of few bits, w its
sign, and v so large that y without the spike rises with every input. So gradients lead to a corner, and what a
relaxation says of z at 0 counts in every box that holds c, however small: the threshold is y's value at c, a tie. A
line through the wrong corner, a kink that is forgotten, a tangent on the wrong side make ``unsat`` of it.

*bumps*: y = v·t + relu(K·(ρ − Σ z(t))) where the operator itself makes the spike: its z is least at t = 0, and zero
there, so the ReLU's input is at most K·ρ. What an interval says of z decides whether that ReLU can be active.

*unsat*: the threshold is above the sum of the spike's height and of the rest's greatest value, at the upper corner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx

from verinn.audit import layers
from verinn.audit.case import Case, exact_outputs
from verinn.audit.operators import MARGIN, power_of_two, up
from verinn.audit.planted import spikes
from verinn.audit.query import Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

RADII = {1: Fraction(1, 2**22), 4: Fraction(1, 64)}  # by inputs: what random starts should not meet
Draw = Callable[[Sketch, str], str]


@dataclass(frozen=True)
class Kink:
    """``draw``: t (1, inputs) to z (1, k), ``sign``: of w, ``slope``: what v has to outweigh in each input.

    ``room``: ρ of a bump; None where the spike is an ordinary one beside the operator.
    """

    op: str
    draw: Draw
    sign: int = 1
    slope: float = 2.0
    inputs: int = 1
    room: Fraction | None = None


def _unary(op: str, sign: int = 1, slope: float = 2.0, **attributes: Any) -> Kink:
    return Kink(op, lambda s, t: s.node(op, t, **attributes), sign, slope)


def _near(op: str, place: float, sign: int = 1, slope: float = 2.0) -> Kink:
    """An operator around a number that isn't zero: of place + t/4."""

    def draw(s: Sketch, t: str) -> str:
        return s.node(op, s.node("Add", s.node("Mul", t, s.weight(0.25)), s.weight(place)))

    return Kink(op, draw, sign, slope)


def _power(exponent: float, sign: int = 1, slope: float = 2.0) -> Kink:
    def draw(s: Sketch, t: str) -> str:
        return s.node("Pow", s.node("Mul", t, s.weight(0.5)), s.weight(exponent))

    return Kink("Pow", draw, sign, slope)


def _clip(low: float, high: float, sign: int = 1) -> Kink:
    return Kink("Clip", lambda s, t: s.node("Clip", t, s.weight(low), s.weight(high)), sign)


def _pairs(op: str, sign: int = 1, slope: float = 2.0) -> Kink:
    """An operator of two halves."""

    def draw(s: Sketch, t: str) -> str:
        return s.node(op, *s.nodes("Split", t, s.ints([2, 2]), count=2, axis=1))

    return Kink(op, draw, sign, slope, 4)


def _square(s: Sketch, t: str) -> str:
    return s.node("Mul", t, t)


def _pool(s: Sketch, t: str) -> str:
    """The first entry is below two that tie, the last above none."""
    apart = s.node("Add", t, s.weight([[-0.5, 0.0, 0.0, -0.25]]))
    return s.node("Flatten", s.node("MaxPool", s.node("Reshape", apart, s.ints([1, 1, 2, 2])), kernel_shape=[2, 2]))


def _first(s: Sketch, t: str) -> str:
    return s.node("Slice", s.node("Softmax", t, axis=1), s.ints([0]), s.ints([1]), s.ints([1]))


def _asked(op: str) -> Draw:
    return lambda s, t: s.node("Cast", s.node(op, t, s.weight(0.0)), to=1)


#: jumps have no slope: y rises in spite of them where they go up
KINKS: dict[str, Kink] = {
    "relu": _unary("Relu"),
    "relu-down": _unary("Relu", -1),
    "leaky-relu": _unary("LeakyRelu", alpha=0.125),
    "leaky-relu-down": _unary("LeakyRelu", -1, alpha=0.125),
    "elu": _unary("Elu"),
    "abs": _unary("Abs"),
    "abs-down": _unary("Abs", -1),
    "clip-low": _clip(0.0, 0.5),
    "clip-low-down": _clip(0.0, 0.5, -1),
    "clip-high": _clip(-0.5, 0.0),
    "clip-high-down": _clip(-0.5, 0.0, -1),
    "hard-sigmoid": _unary("HardSigmoid", alpha=0.5, beta=0.0),
    "max": _pairs("Max"),
    "max-down": _pairs("Max", -1),
    "min": _pairs("Min"),
    "max-pool": Kink("MaxPool", _pool, inputs=4),
    "max-pool-down": Kink("MaxPool", _pool, -1, inputs=4),
    "square": Kink("Mul", _square, slope=4.0),
    "square-down": Kink("Mul", _square, -1, 4.0),
    "product": _pairs("Mul"),
    "product-down": _pairs("Mul", -1),
    "quotient": Kink("Div", lambda s, t: s.node("Div", t, s.node("Add", s.node("Relu", t), s.weight(1.0)))),
    "fourth-power": _power(4.0),
    "fourth-power-down": _power(4.0, -1),
    "cube": _power(3.0),
    "cube-down": _power(3.0, -1),
    "exp": _unary("Exp", slope=8.0),
    "exp-down": _unary("Exp", -1, 8.0),
    "sigmoid": _unary("Sigmoid"),
    "sigmoid-down": _unary("Sigmoid", -1),
    "tanh": _unary("Tanh"),
    "tanh-down": _unary("Tanh", -1),
    "erf": _unary("Erf"),
    "atan": _unary("Atan", -1),
    "sin": _unary("Sin"),
    "cos": _unary("Cos"),
    "cos-down": _unary("Cos", -1),
    "logarithm": _near("Log", 1.0),
    "root": _near("Sqrt", 1.0, -1),
    "reciprocal": _near("Reciprocal", 1.0),
    "softmax": Kink("Softmax", _first, inputs=4),
    "floor": _unary("Floor"),
    "sign": _unary("Sign"),
    "greater": Kink("GreaterOrEqual", _asked("GreaterOrEqual")),
}  # fmt: skip


# -- bumps: z is least at zero ----------------------------------------------------------------------------------------


def _bump(op: str, draw: Draw, power: int = 6, inputs: int = 3) -> Kink:
    return Kink(op, draw, inputs=inputs, room=Fraction(1, 2**power))


def _both(op: str, **attributes: Any) -> Draw:
    """f(t) + f(−t)."""
    return lambda s, t: s.node("Add", *(s.node(op, side, **attributes) for side in (t, s.node("Neg", t))))


def _far(s: Sketch, t: str) -> str:
    return s.node("Max", t, s.node("Neg", t))


def _farthest(s: Sketch, t: str) -> str:
    """The maximum norm, by pooling."""
    ends = s.node("Reshape", s.node("Concat", t, s.node("Neg", t), axis=1), s.ints([1, 1, 6]))
    return s.node("Flatten", s.node("MaxPool", ends, kernel_shape=[6]))


def _clipped(s: Sketch, t: str) -> str:
    """|t| up to 1, as a sum of two clips."""
    ends = (s.node("Clip", side, s.weight(0.0), s.weight(1.0)) for side in (t, s.node("Neg", t)))
    return s.node("Add", *ends)


def _least(s: Sketch, t: str) -> str:
    return s.node("Neg", s.node("Min", t, s.node("Neg", t)))


def _over(op: str) -> Draw:
    """t·f(t) for f odd and rising."""
    return lambda s, t: s.node("Mul", t, s.node(op, t))


def _above(op: str, value: float) -> Draw:
    """f(t) + f(−t) less twice its value at zero."""
    return lambda s, t: s.node("Sub", _both(op)(s, t), s.weight(2 * value))


def _fall(s: Sketch, t: str) -> str:
    """1 − cos t."""
    return s.node("Sub", s.weight(1.0), s.node("Cos", t))


def _fourth(s: Sketch, t: str) -> str:
    return s.node("Pow", t, s.weight(4.0))


def _norm(s: Sketch, t: str) -> str:
    """t·t by a product of matrices."""
    return s.node("MatMul", t, s.node("Transpose", t, perm=[1, 0]))


def _convolved(s: Sketch, t: str) -> str:
    """±t by a convolution that pads, then ReLU."""
    line = s.node("Reshape", t, s.ints([1, 1, 3]))
    kernel = s.weight([[[1.0, 0.0]], [[-1.0, 0.0]]])
    return s.node("Flatten", s.node("Relu", s.node("Conv", line, kernel, pads=[0, 1])))


KINKS |= {
    "bump-abs": _bump("Abs", lambda s, t: s.node("Abs", t)),
    "bump-leaky": _bump("LeakyRelu", _both("LeakyRelu", alpha=0.25)),
    "bump-max": _bump("Max", _far),
    "bump-min": _bump("Min", _least),
    "bump-max-pool": _bump("MaxPool", _farthest),
    "bump-clip": _bump("Clip", _clipped),
    "bump-conv": _bump("Conv", _convolved),
    "bump-square": _bump("Mul", _square, 10),
    "bump-matmul": _bump("MatMul", _norm, 10),
    "bump-power": _bump("Pow", _fourth, 16),
    "bump-tanh": _bump("Tanh", _over("Tanh"), 10),
    "bump-exp": _bump("Exp", _above("Exp", 1.0), 10),
    "bump-cos": _bump("Cos", _fall, 10),
}


def case(name: str, seed: Sequence[int], sat: bool, quick: bool = False) -> Case:
    """The instance of a kink, or its safe twin."""
    kink = KINKS[name]
    rng = np.random.default_rng(list(seed))
    # of many bits, so that no middle of a box is near it before the box is tiny
    whole = rng.integers(-(3 << 17), 3 << 17, kink.inputs) * 2 + 1
    secret = np.array([Fraction(int(k), 1 << 20) for k in whole], dtype=object)
    slopes = kink.slope * (1 + rng.integers(0, 3, kink.inputs) / 4.0)
    bare = _drawn(kink, secret, slopes, None).model()
    base, other = _value(bare, secret)
    top = _value(bare, np.array([Fraction(1)] * kink.inputs, dtype=object))[1]
    assert base == other, f"{name}: the value at the kink isn't known exactly"
    height = power_of_two(top - base + 1)
    threshold = base + height if sat else up(top) + height + MARGIN
    radius = kink.room or RADII[kink.inputs]
    if kink.room is not None:
        sketch = _drawn(kink, secret, slopes, None, height)
    else:
        sketch = _drawn(kink, secret, slopes, _spike(secret, radius, height, rng))
    n = kink.inputs
    bounds = box("X", [-1] * n, [1] * n)
    return Case(
        family="kinks",
        models={"f": sketch.model()},
        query=Query(
            (Tensor("X", (1, n), False), Tensor("Y", (1, 1), True)), (*bounds, linear({("Y", 0): 1}, ">=", threshold))
        ),
        label="sat" if sat else "unsat",
        known="by construction: the spike's tip on top of the operator's value at its kink is the threshold"
        if sat
        else "by construction: the rest's greatest value and the spike's together stay below the threshold",
        key=f"{name} {'a' if sat else 'b'}",
        point={"X": secret.astype(np.float64).astype(np.float32)},
        operators=(kink.op, *(op for op in sketch.operators() if op != kink.op)),
        radius=float(radius),
        margin=base + height - threshold,
        threshold=threshold,
        shape="tie" if sat else "box",
        hide=sat,
        quick=quick,
        recipe={"generator": f"kinks: {name}"},
    )


def _spike(secret: np.ndarray, radius: Fraction, height: Fraction, rng: np.random.Generator) -> layers.Net:
    one = layers.stage(np.ones((1, 1)), [0.0], False)
    return layers.disguise((*spikes([secret], [radius], [height / radius], 2), one), rng, 3)


def _drawn(
    kink: Kink, secret: np.ndarray, slopes: np.ndarray, spike: layers.Net | None, height: Fraction | None = None
) -> Sketch:
    """y without a spike, with one beside the operator, or (``height``) with the bump."""
    sketch = Sketch()
    x = sketch.input([1, kink.inputs])
    t = sketch.node("Add", x, sketch.weight(-secret.astype(np.float64)[None]))
    y = sketch.node("MatMul", t, sketch.weight(slopes[:, None]))
    if kink.room is None or height is not None:
        z = sketch.node("ReduceSum", kink.draw(sketch, t), sketch.ints([1]), keepdims=1)
        if kink.room is not None and height is not None:
            tip = sketch.node("Mul", z, sketch.weight(-float(height / kink.room)))
            z = sketch.node("Relu", sketch.node("Add", tip, sketch.weight(float(height))))
        elif kink.sign < 0:
            z = sketch.node("Neg", z)
        y = sketch.node("Add", y, z)
    if spike is not None:
        y = sketch.node("Add", y, layers.draw(spike, sketch, x))
    sketch.output(y, [1, 1])
    return sketch


def _value(model: onnx.ModelProto, x: np.ndarray) -> tuple[Fraction, Fraction]:
    """y at x, enclosed."""
    value = exact_outputs(model, {"x": x.astype(np.float64).astype(np.float32)})["y"]
    return Fraction(value.lo.item()), Fraction(value.hi.item())
