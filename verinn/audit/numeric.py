"""Instances on which rounding alone makes an unsound bound: large numbers that cancel, lopsided boxes, and ties.

The networks are so small that any verifier bounds them; what is asked is whether it counts what its own
arithmetic loses. Weights, boxes and witnesses are dyadic, and on the witness ONNX Runtime's float32 loses
nothing, so that exact arithmetic and an execution agree. Of each kind there are an instance with a
counterexample and a twin without one, a unit in the last place apart where the tie is what matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinn.audit.case import Case, ulp
from verinn.audit.query import Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

FAMILY = "rounding"


@dataclass(frozen=True, eq=False)
class Made:
    """A network over x (1, n) → y (1, m), its box, the greatest value of y0, where it is taken, and why."""

    kind: str
    sketch: Sketch
    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    outputs: int
    top: Fraction
    where: tuple[Fraction, ...]
    known: str


def lopsided(rng: np.random.Generator) -> Made:
    """y = Σ relu(x_i) over boxes from a huge negative number to a tiny positive one.

    The middle of such a box plus its radius, both rounded to nearest, is zero: below the upper end.
    """
    inputs = int(rng.integers(2, 5))
    far, near = Fraction(2) ** int(rng.integers(34, 44)), Fraction(1, 2 ** int(rng.integers(16, 24)))
    scale = rng.integers(1, 4, inputs)
    sketch = Sketch()
    hidden = sketch.node(
        "Gemm", sketch.input([1, inputs]), sketch.weight(np.diag(scale)), sketch.weight(np.zeros(inputs))
    )
    total = sketch.node("Gemm", sketch.node("Relu", hidden), sketch.weight(np.ones((inputs, 1))), sketch.weight([0.0]))
    sketch.output(total, [1, 1])
    top = near * int(scale.sum())
    ends = (-far,) * inputs, (near,) * inputs
    return Made("lopsided", sketch, *ends, 1, top, ends[1], "a sum of rising functions is greatest at the upper corner")


def cancelled(rng: np.random.Generator, merged: bool) -> Made:
    """y0 = x0: large multiples of x0 − x1 are added and taken away again, through two affine layers.

    The product of the layers has, for x0, the coefficient L² + L² + 1 − L² − L² = 1, which float64 makes 0.
    ``merged``: whether the first layer has one reader only, so that tools may merge the two beforehand.
    """
    large = 2.0 ** int(rng.integers(29, 33))
    first = np.array([[large, -large]] * 2 + [[1.0, 0.0]] + [[large, -large]] * 2)
    second = np.array([[large], [large], [1.0], [-large], [-large]])
    sketch = Sketch()
    hidden = sketch.node("MatMul", sketch.input([1, 2]), sketch.weight(first.T))
    y = sketch.node("MatMul", hidden, sketch.weight(second))
    if not merged:
        other = sketch.node("MatMul", hidden, sketch.weight(np.array([[0.0], [0.0], [2.0], [0.0], [0.0]])))
        y = sketch.node("Concat", y, other, axis=1)
    sketch.output(y, [1, 1 if merged else 2])
    one, zero = Fraction(1), Fraction(0)
    kind = "merged" if merged else "cancelled"
    return Made(
        kind,
        sketch,
        (zero, zero),
        (one, one),
        1 if merged else 2,
        one,
        (one, one),
        "the first output is the first input",
    )


def corner(rng: np.random.Generator, inputs: int, hidden: int) -> Made:
    """A rising network: ReLU neurons that are unstable, with weights ≥ 0; its greatest value is at the corner.

    Bounds are tight there, so the margin that a tie leaves is zero, and rounding decides what is claimed.
    """
    first = rng.integers(0, 4, (inputs, hidden)) / 4.0
    first[rng.integers(0, inputs, hidden), np.arange(hidden)] = 1.0
    bias = -rng.integers(0, 5, hidden) / 8.0
    second = rng.integers(1, 5, (hidden, 1)) / 2.0
    upper = [Fraction(int(k), 8) for k in rng.integers(5, 9, inputs)]
    sketch = Sketch()
    inner = sketch.node("Gemm", sketch.input([1, inputs]), sketch.weight(first), sketch.weight(bias))
    y = sketch.node("Gemm", sketch.node("Relu", inner), sketch.weight(second), sketch.weight([0.0]))
    sketch.output(y, [1, 1])
    x = np.array([float(value) for value in upper])
    top = Fraction(float((np.maximum(x @ first + bias, 0.0) @ second)[0]))
    lower = tuple(-value for value in upper)
    return Made(
        "corner", sketch, lower, tuple(upper), 1, top, tuple(upper), "a rising function is greatest at the corner"
    )


def valley(rng: np.random.Generator, inputs: int, folds: int) -> Made:
    """y = Σ |s_k|, each s_k falling or rising with each input as all the others do: greatest at two corners.

    Its bounds are tight, too, but no interval tells which of the two neurons of a fold is active.
    """
    signs = rng.choice([-1.0, 1.0], inputs)
    rows = rng.integers(0, 4, (folds, inputs)) / 4.0
    rows[np.arange(inputs) % folds, np.arange(inputs)] += 0.25
    first = np.concatenate([rows * signs, -rows * signs]).T
    upper = tuple(Fraction(int(k), 8) for k in rng.integers(5, 9, inputs))
    sketch = Sketch()
    inner = sketch.node("Gemm", sketch.input([1, inputs]), sketch.weight(first), sketch.weight(np.zeros(2 * folds)))
    last = sketch.weight(np.ones((2 * folds, 1))), sketch.weight([0.0])
    sketch.output(sketch.node("Gemm", sketch.node("Relu", inner), *last), [1, 1])
    x = np.array([float(value) for value in upper]) * signs
    top = Fraction(float(np.maximum(x @ first, 0.0).sum()))
    where = tuple(Fraction(float(value)) for value in x)
    lower = tuple(-value for value in upper)
    return Made("valley", sketch, lower, upper, 1, top, where, "a sum of folds is greatest where all fold the same way")


def uneven(rng: np.random.Generator, inputs: int, hidden: int) -> Made:
    """A rising network of inputs of very different sizes, all of them negative: small coefficients matter.

    Input i lies in [−2 S_i, −S_i], S_i a power of two up to 2^16, and its weights are divided by S_i.
    """
    size = 2.0 ** rng.integers(0, 17, inputs)
    size[0] = 2.0**16
    first = rng.integers(1, 4, (inputs, hidden)) / 4.0
    bias = np.round(1.5 * first.sum(0) * 8) / 8 + rng.integers(-1, 2, hidden) / 8
    second = rng.integers(1, 5, (hidden, 1)) / 2.0
    sketch = Sketch()
    weight = sketch.weight(first / size[:, None])
    inner = sketch.node("Gemm", sketch.input([1, inputs]), weight, sketch.weight(bias))
    y = sketch.node("Gemm", sketch.node("Relu", inner), sketch.weight(second), sketch.weight([0.0]))
    sketch.output(y, [1, 1])
    top = Fraction(float((np.maximum(bias - first.sum(0), 0.0) @ second)[0]))
    upper, lower = tuple(Fraction(-s) for s in size), tuple(Fraction(-2 * s) for s in size)
    known = "a rising function is greatest at the upper corner"
    return Made("uneven", sketch, lower, upper, 1, top, upper, known)


def touching(rng: np.random.Generator, sat: bool, key: str, quick: bool = False) -> Case:
    """Three rows of a conjunction that one point only fulfils, each a tie: their left sides add up to zero.

    y = A x with a_3 = −a_1 − a_2, and y_k ≥ a_k·c for all k: then all are equalities, and a_1, a_2 are independent.
    Safe: the last row asks for 2^-12 more.
    """
    rows = rng.integers(1, 5, (2, 2)) * rng.choice([-1, 1], (2, 2)) / 4.0
    if rows[0, 0] * rows[1, 1] == rows[0, 1] * rows[1, 0]:
        rows[1, 1] = -rows[1, 1]
    rows = np.concatenate([rows, -rows.sum(0, keepdims=True)])
    point = (rng.integers(-24, 24, 2) * 2 + 1) / 64.0
    sketch = Sketch()
    # through ReLUs that are active all over the box: x + 2 there
    shifted = sketch.node(
        "Relu", sketch.node("Gemm", sketch.input([1, 2]), sketch.weight(np.eye(2)), sketch.weight([2.0, 2.0]))
    )
    offset = sketch.weight(-2 * rows.sum(1))
    sketch.output(sketch.node("Gemm", shifted, sketch.weight(rows.T), offset), [1, 3])
    bounds = [Fraction(float(value)) for value in rows @ point]
    margin = Fraction(0) if sat else Fraction(-1, 2**12)
    bounds[2] -= margin
    asked = [linear({("y", k): 1}, ">=", bound) for k, bound in enumerate(bounds)]
    return Case(
        family=FAMILY,
        models={"f": sketch.model()},
        query=Query((Tensor("x", (1, 2), False), Tensor("y", (1, 3), True)), (*box("x", [-1, -1], [1, 1]), *asked)),
        label="sat" if sat else "unsat",
        known="by construction (touching): the rows' left sides add up to zero",
        key=key,
        point={"x": point.astype(np.float32)},
        operators=sketch.operators(),
        margin=margin,
        threshold=max(abs(bound) for bound in bounds),
        shape="touching",
        quick=quick,
        recipe={"generator": "numeric", "kind": "touching"},
    )


def case(made: Made, threshold: Fraction, key: str, quick: bool = False) -> Case:
    """The question whether y0 reaches ``threshold``."""
    tensors = (Tensor("x", (1, len(made.lower)), False), Tensor("y", (1, made.outputs), True))
    asked = [*box("x", made.lower, made.upper), linear({("y", 0): 1}, ">=", threshold)]
    margin = made.top - threshold
    shape = "tie" if margin == 0 else "box"
    return Case(
        family=FAMILY,
        models={"f": made.sketch.model()},
        query=Query(tensors, tuple(asked)),
        label="sat" if margin >= 0 else "unsat",
        known=f"by construction ({made.kind}): {made.known}",
        key=key,
        point={"x": np.array([float(value) for value in made.where], np.float32)},
        operators=made.sketch.operators(),
        margin=margin,
        threshold=threshold,
        shape=shape,
        quick=quick,
        recipe={"generator": "numeric", "kind": made.kind},
    )


def rounding(seed: Sequence[int], rounds: int = 2) -> Iterator[Case]:
    """Each kind ``rounds`` times: an instance with a counterexample and its safe twin; the same for the same seed."""
    for number in range(rounds):
        rng = np.random.default_rng([*seed, number])
        first = number == 0
        for made in (lopsided(rng), corner(rng, 2, 3), corner(rng, 6, 8), valley(rng, 4, 2), valley(rng, 40, 3)):
            name = f"{made.kind}-{len(made.lower)}-{number}"
            yield case(made, made.top, f"{name}-tie", quick=first)
            yield case(made, made.top + ulp(made.top), f"{name}-above", quick=first and len(made.lower) < 8)
        for merged in (True, False):
            made = cancelled(rng, merged)
            yield case(made, made.top / 2, f"{made.kind}-{number}-half", quick=first)
            yield case(made, made.top * 2**20, f"{made.kind}-{number}-far")
        rng = np.random.default_rng([*seed, number, 1])
        made = uneven(rng, 3, 4)
        yield case(made, made.top, f"uneven-{number}-tie", quick=first)
        yield case(made, made.top + ulp(made.top), f"uneven-{number}-above")
        for sat in (True, False):
            yield touching(rng, sat, f"touching-{number}-{sat}", quick=first and sat)
