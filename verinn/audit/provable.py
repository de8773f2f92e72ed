"""Families whose answer is known at any size, without a spike.

*paired*: y = m + Σ_j (relu(s_j + b_j) − relu(s_j + c_j)) with b_j > c_j and s a random network. relu doesn't fall, so
y ≥ m everywhere; where all s_j ≤ −b_j, and so at the secret point, y = m.

*hinge*: y = max(relu(u + γ), relu(−u + γ)) with u = w·(x − c). One of u, −u is not negative, so y ≥ γ; at c, y = γ.

*corner*: y = Σ_j a_j relu(w_j·x + b_j) + v·x with a_j > 0 is convex, so it is greatest at a corner of the box. All
corners are evaluated exactly.

*monotone*: after a first layer that flips some inputs no weight is negative, so y is greatest at one known corner.

*constant*: y_k = m_k + (relu(u_k) − relu(−u_k) − u_k) with u a random network: the bracket is zero for every x.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx

from verinn.audit import enclosure as en
from verinn.audit import layers
from verinn.audit.case import Case, runtime_arrays
from verinn.audit.layers import Net, Rng, Stage, zeros
from verinn.audit.planted import grid_point, random_net, sparse, steps
from verinn.audit.query import Or, Query, Row, Tensor, box, linear
from verinn.audit.sketch import Sketch

KINDS = ("paired", "hinge", "corner", "monotone", "constant")


def case(
    kind: str, inputs: int, ulps: int | None, sat: bool, seed: Sequence[int], quick: bool = False, either: bool = False
) -> Case:
    """``ulps``: the margin in units in the last place of the threshold; None: a sixteenth. ``either``: a disjunction
    with a row that never holds: that y lies 2^20 beyond the threshold on the other side."""
    rng = np.random.default_rng(list(seed))
    net, secret, extreme, least, wide = _MAKERS[kind](rng, inputs)
    net = layers.disguise(net, rng, 5)
    # a threshold on the violated side (sat) or beyond the extreme (unsat)
    side = (1 if sat else -1) * (1 if least else -1)
    threshold = extreme + Fraction(side, 16) if ulps is None else Fraction(float(steps(extreme, side * ulps)))
    margin = (threshold - extreme) if least else (extreme - threshold)
    assert (margin >= 0) == sat
    sketch = Sketch()
    x = sketch.input([1, inputs])
    count = len(net[-1].bias)
    asked = linear({("Y", 0): 1}, "<=" if least else ">=", threshold)
    never = linear({("Y", 0): 1}, ">=" if least else "<=", threshold + 2**20 * (1 if least else -1))
    sketch.output(layers.draw(net, sketch, x), [1, count])
    return Case(
        family="provable",
        models={"f": sketch.model()},
        query=Query(
            (Tensor("X", (1, inputs), False), Tensor("Y", (1, count), True)),
            (*box("X", [-wide] * inputs, [wide] * inputs), Or((asked, never)) if either else asked),
        ),
        label="sat" if sat else "unsat",
        known=f"by construction ({kind}): the {'least' if least else 'greatest'} value is known and taken at the point",
        key=f"{kind} {inputs} {ulps} {sat}{' either' if either else ''}",
        shape="or" if either else "box",
        point={"X": secret.astype(np.float64).astype(np.float32)},
        operators=sketch.operators(),
        margin=margin,
        threshold=threshold,
        quick=quick,
        recipe={"generator": f"provable: {kind}"},
        runtime_label="sat" if not sat and ulps == 1 and _slips(sketch.model(), asked, inputs, wide, rng) else None,
    )


def _slips(model: onnx.ModelProto, asked: Row, inputs: int, wide: Fraction, rng: Rng, many: int = 2000) -> bool:
    """Whether rounding in ONNX Runtime makes a counterexample of one of many random points: then its truth, one unit in
    the last place from the exact function's, is the other one."""
    points = (rng.uniform(-1.0, 1.0, (many, inputs)) * float(wide)).astype(np.float32)
    bound = float(asked.bound)
    values = np.array([y["y"].reshape(-1)[0] for y in runtime_arrays(model, points)], dtype=np.float64)
    return bool(((values <= bound) if asked.relation == "<=" else (values >= bound)).any())


Made = tuple[Net, np.ndarray, Fraction, bool, Fraction]  # net, point, extreme there, is it the least, half width


def _paired(rng: Rng, inputs: int) -> Made:
    many = 6
    secret = grid_point(rng, inputs, Fraction(1))
    host = random_net(rng, inputs, 8, 1, many)
    upper = en.of(rng.integers(0, 9, many) / 8.0).lo
    lower = upper - en.of(rng.integers(1, 9, many) / 8.0).lo
    shift = -layers.evaluate(host, secret) - upper - Fraction(1, 8)
    last = host[-1]
    pairs = Stage(
        np.concatenate([last.weight, last.weight]),
        np.concatenate([last.bias + shift + upper, last.bias + shift + lower]),
        True,
    )
    out = Stage(en.of([[1.0] * many + [-1.0] * many]).lo, np.array([Fraction(1)], dtype=object), False)
    return (*host[:-1], pairs, out), secret, Fraction(1), True, Fraction(1)


def _hinge(rng: Rng, inputs: int) -> Made:
    """max(p, q) = p + relu(q − p) for p, q ≥ 0."""
    secret = grid_point(rng, inputs, Fraction(1))
    gamma = Fraction(1, 2)
    weight = sparse(rng, 1, inputs, inputs)
    offset = -layers.product(weight, secret)
    first = Stage(np.concatenate([weight, -weight]), np.concatenate([offset, -offset]) + gamma, True)
    second = Stage(en.of([[1.0, 0.0], [-1.0, 1.0]]).lo, zeros(2), True)
    return (first, second, Stage(en.of([[1.0, 1.0]]).lo, zeros(1), False)), secret, gamma, True, Fraction(1)


def _corner(rng: Rng, inputs: int) -> Made:
    many = 8
    weight = np.concatenate([sparse(rng, many, inputs), en.of(np.eye(inputs)).lo, -en.of(np.eye(inputs)).lo])
    bias = np.concatenate([en.of(rng.integers(-6, 3, many) / 8.0).lo, zeros(2 * inputs)])
    slope = sparse(rng, 1, inputs, inputs)[0]
    factors = en.of(rng.integers(1, 5, many) / 4.0).lo
    out = np.concatenate([factors, slope, -slope])[None]
    net: Net = (Stage(weight, bias, True), Stage(out, np.array([Fraction(-1)], dtype=object), False))
    corners = [
        np.array([Fraction(sign) for sign in signs], dtype=object)
        for signs in itertools.product((-1, 1), repeat=inputs)
    ]
    values = [layers.evaluate(net, corner)[0] for corner in corners]
    best = max(range(len(corners)), key=values.__getitem__)
    return net, corners[best], values[best], False, Fraction(1)


def _monotone(rng: Rng, inputs: int) -> Made:
    signs = en.of(rng.choice([-1.0, 1.0], inputs)).lo
    host = random_net(rng, inputs, 10, 2, 1)
    drop = en.of(0.25).lo
    stages = [Stage(abs(part.weight), np.asarray(part.bias / 2 - drop, dtype=object), part.relu) for part in host]
    stages[0] = Stage(stages[0].weight * signs[None], stages[0].bias, True)
    net: Net = tuple(stages)
    return net, signs, layers.evaluate(net, signs)[0], False, Fraction(1)


def _constant(rng: Rng, inputs: int) -> Made:
    secret = grid_point(rng, inputs, Fraction(1))
    host = random_net(rng, inputs, 8, 2, 2)
    last = host[-1]
    # relu(u), relu(−u) of both, and u itself as relu(u + 64) − 64, which is u wherever the box reaches
    both = Stage(
        np.concatenate([last.weight, -last.weight, last.weight]),
        np.concatenate([last.bias, -last.bias, last.bias + 64]),
        True,
    )
    one = en.of(np.eye(2)).lo
    out = Stage(np.concatenate([one, -one, -one], axis=1), np.array([Fraction(65), Fraction(66)], dtype=object), False)
    low = _least(host, inputs)
    assert low > -64, "the network reaches too far down"
    return (*host[:-1], both, out), secret, Fraction(1), bool(rng.random() < 0.5), Fraction(1)


def _least(net: Net, inputs: int) -> Fraction:
    """A lower bound of all outputs over the unit box, by interval arithmetic."""
    box_ = en.between([-1] * inputs, [1] * inputs)
    for part in net:
        column = en.dot(en.Enclosure(part.weight, part.weight), box_.moved(lambda a: a[:, None]))
        box_ = en.add(column.moved(lambda a: a[:, 0]), en.Enclosure(part.bias, part.bias))
        if part.relu:
            box_ = en.rising(lambda value: max(value, Fraction(0)), box_)
    return Fraction(min(box_.lo))


_MAKERS: dict[str, Any] = {
    "paired": _paired, "hinge": _hinge, "corner": _corner, "monotone": _monotone, "constant": _constant,
}  # fmt: skip
