"""One hidden counterexample, and one safe twin, for every operator.

y = w·z(x) + spike(x), where z(x) is what the operator (or a few with it) makes of the input and the spike is as in
``planted``, K·r high. *sat*: the threshold is w·z(c) + K·r less a margin; w·z(c) is enclosed exactly, rounded down. A
tool that bounds w·z too low near c, or reads the operator wrongly, says ``unsat``.

*unsat*: y ≤ max w·z + K·r. The maximum is known where z is affine (its value in the middle plus Σ |slope|·radius,
the slopes told by n + 1 exact evaluations, w of any sign) or monotone in each input (its value at a corner, w ≥ 0), and
the threshold is that much plus a margin. Where z is neither, y = −relu(w·z(x) − v) + spike(x) instead, which is at most
K·r wherever the operator's values may lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx

from verinn.audit import enclosure as en
from verinn.audit import layers
from verinn.audit.case import Case, runtime_outputs, ulp
from verinn.audit.exact import evaluate
from verinn.audit.operator_rare import RARE
from verinn.audit.operator_table import TABLE, Entry, few
from verinn.audit.planted import spikes
from verinn.audit.query import Query, Tensor, box, linear
from verinn.audit.sketch import Sketch
from verinn.audit.templates import TEMPLATES

MARGIN = Fraction(1, 64)
RADIUS = Fraction(1, 32)
Rng = np.random.Generator


def down(value: Fraction) -> Fraction:
    """A number of at most 20 fractional bits that is not greater."""
    return Fraction(math.floor(value * 2**20), 2**20)


def up(value: Fraction) -> Fraction:
    return -down(-value)


def _draw_operator(entry: Entry, seed: Sequence[int], sketch: Sketch, x: str) -> str:
    """z(x) as a tensor (1, k)."""
    return sketch.node("Flatten", entry.draw(sketch, x, np.random.default_rng(list(seed))), axis=0)


def alone(entry: Entry, seed: Sequence[int]) -> onnx.ModelProto:
    """The operator without anything else, to be evaluated exactly."""
    sketch = Sketch(entry.opset)
    x = sketch.input([1, entry.inputs])
    z = _draw_operator(entry, seed, sketch, x)
    sketch.output(z, [1, _size(entry, seed)])
    return sketch.model()


def _size(entry: Entry, seed: Sequence[int]) -> int:
    sketch = Sketch(entry.opset)
    x = sketch.input([1, entry.inputs])
    z = _draw_operator(entry, seed, sketch, x)
    sketch.output(z, [1, 1])
    middle = np.full((1, entry.inputs), (entry.low + entry.high) / 2, np.float32)
    return int(evaluate(sketch.model(), {"x": middle})["y"].lo.size)


def reach(model: onnx.ModelProto, weight: np.ndarray, x: np.ndarray) -> tuple[Fraction, Fraction]:
    """w·z(x), enclosed."""
    z = evaluate(model, {"x": en.of(x)})["y"].moved(lambda a: a.reshape(-1))
    total = en.total(en.multiply(en.of(weight), z), (0,), False)
    return Fraction(total.lo.item()), Fraction(total.hi.item())


def greatest(entry: Entry, model: onnx.ModelProto, weight: np.ndarray) -> Fraction | None:
    """An upper bound of w·z over the box, attained where z is exact; None where nothing is known."""
    low, high = Fraction(entry.low), Fraction(entry.high)
    n = entry.inputs
    if entry.kind == "affine":
        middle = np.full(n, (low + high) / 2, dtype=object)
        base = reach(model, weight, middle)[1]
        total = base
        for index in range(n):
            moved = middle.copy()
            moved[index] = high
            total += abs(reach(model, weight, moved)[1] - base)
        return total
    if entry.kind == "monotone":
        signs = [entry.signs[index % len(entry.signs)] for index in range(n)]
        return reach(model, weight, np.array([high if sign > 0 else low for sign in signs], dtype=object))[1]
    return None


def sampled(entry: Entry, model: onnx.ModelProto, weight: np.ndarray, rng: Rng, many: int = 64) -> Fraction:
    """The greatest w·z at random points and corners, rounded up: no bound, but a spike above it stands out."""
    places = rng.random((many, entry.inputs))
    places[: many // 2] = places[: many // 2].round()
    points = (entry.low + places * (entry.high - entry.low)).astype(np.float32)
    values = [runtime_outputs(model, {"x": x})["y"].lo.reshape(-1).astype(np.float64) @ weight for x in points]
    return Fraction(float(np.ceil(max(values))))


def case(op: str, seed: Sequence[int], sat: bool, quick: bool = False) -> Case:
    """The instance of an operator, or of a template by its name. AssertionError when the table's entry is wrong."""
    entry = TABLE.get(op) or RARE.get(op) or TEMPLATES[op]
    template = op in TEMPLATES
    rng = np.random.default_rng([*seed, 1])
    model = alone(entry, seed)
    size = int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    weight = few(rng, size)
    if entry.kind == "monotone":
        weight = np.abs(weight)
    half = (Fraction(entry.high) - Fraction(entry.low)) / 2
    centre = (Fraction(entry.high) + Fraction(entry.low)) / 2
    secret = np.array([centre + half * Fraction(int(k), 64) for k in odd(rng, entry.inputs)], dtype=object)
    if template:
        secret = _near_top(entry, rng)
    low, high = reach(model, weight, secret)
    top = greatest(entry, model, weight)
    # at least as high as z's values differ, so that the spike is needed
    peak = top if top is not None else high
    if top is None and sat:
        peak = max(peak, sampled(entry, model, weight, np.random.default_rng([*seed, 2])))
    height = power_of_two(max(peak - low, Fraction(1)) + 1)
    capped = top is None and not sat
    if sat:
        threshold = down(low) + height - MARGIN
    elif top is not None:
        threshold = up(top) + height + MARGIN
    else:
        threshold = height + MARGIN
    radius = power_of_two(half) / 2 * RADIUS
    sketch = Sketch(entry.opset)
    x = sketch.input([1, entry.inputs])
    z = _draw_operator(entry, seed, sketch, x)
    column = sketch.weight(weight[:, None])
    if capped:
        shift = sketch.weight([float(-up(high) - Fraction(1, 8))])
        value = sketch.node("Neg", sketch.node("Relu", sketch.node("Gemm", z, column, shift)))
    else:
        value = sketch.node("MatMul", z, column)
    one = layers.stage(np.ones((1, 1)), [0.0], False)
    spike = layers.disguise((*spikes([secret], [radius], [height / radius], 2), one), rng, 3)
    sketch.output(sketch.node("Add", value, layers.draw(spike, sketch, x)), [1, 1])
    margin = (down(low) if not capped else Fraction(0)) + height - threshold
    n = entry.inputs
    return Case(
        family="templates" if template else "operators",
        models={"f": sketch.model()},
        query=Query(
            (Tensor("X", (1, n), False), Tensor("Y", (1, 1), True)),
            (*box("X", [Fraction(entry.low)] * n, [Fraction(entry.high)] * n), linear({("Y", 0): 1}, ">=", threshold)),
        ),
        label="sat" if sat else "unsat",
        known="by construction: a spike at the secret point, on top of the operator's value there"
        if sat
        else "by construction: the operator's greatest value and the spike's together stay below the threshold",
        key=f"{op} {'a' if sat else 'b'}",
        point={"X": secret.astype(np.float64).astype(np.float32)},
        operators=(entry.op, *(name for name in sketch.operators() if name != entry.op)),
        radius=float(radius / half),
        margin=margin,
        threshold=max(threshold, ulp(Fraction(1))),
        hide=sat,
        quick=quick,
        shape=op if template else "box",
        recipe={"generator": "templates" if template else "operators"},
    )


def _near_top(entry: Entry, rng: Rng) -> np.ndarray:
    """A point a tenth of the box's width, or a little less, from the corner where z is greatest."""
    low, high = Fraction(entry.low), Fraction(entry.high)
    signs = [entry.signs[index % len(entry.signs)] for index in range(entry.inputs)]
    steps = [Fraction(int(k), 128) * (high - low) for k in rng.integers(3, 12, entry.inputs)]
    return np.array([high - d if sign > 0 else low + d for sign, d in zip(signs, steps, strict=True)], dtype=object)


def power_of_two(value: Fraction) -> Fraction:
    """The least one that is not smaller."""
    return Fraction(2) ** math.ceil(math.log2(value))


def odd(rng: Rng, count: int) -> np.ndarray:
    """Odd numbers within ±47: away from ties, corners and whole numbers."""
    return rng.integers(-24, 24, count) * 2 + 1
