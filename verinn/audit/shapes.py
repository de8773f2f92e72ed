"""Planted counterexamples behind every shape of property: unions, disjunctions, linear constraints, several networks.

The networks are those of ``planted`` with the host *cap*: y_j is greatest at the secret point c and falls by at most
what the host may, so that what decides is where the property looks and what it asks. Each maker returns the same
question twice, violated and safe; the argument is in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from verinn.audit import layers
from verinn.audit.case import Case
from verinn.audit.planted import Plan, Planted, plant
from verinn.audit.query import And, Formula, Or, Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

Maker = Callable[[np.random.Generator, bool], Case]
MAKERS: dict[str, Maker] = {}
ONE, HALF = Fraction(1), Fraction(1, 2)
MARGIN = Fraction(1, 32)
PLAN = Plan(4, Fraction(1, 32), rounds=4)


def maker(name: str) -> Callable[[Maker], Maker]:
    def register(function: Maker) -> Maker:
        MAKERS[name] = function
        return function

    return register


def case(shape: str, sat: bool, seed: Sequence[int], quick: bool = False) -> Case:
    made = MAKERS[shape](np.random.default_rng(list(seed)), sat)
    known = f"by construction: see {shape} in verinn.audit.shapes"
    return replace(made, shape=shape, known=known, key=f"{shape} {sat}", quick=quick, recipe={"generator": "shapes"})


def _models(made: Planted, inputs: int) -> Sketch:
    sketch = Sketch()
    x = sketch.input([1, inputs])
    sketch.output(layers.draw(made.net, sketch, x), [1, len(made.net[-1].bias)])
    return sketch


def _case(
    made: Planted,
    plan: Plan,
    assertions: Sequence[Formula],
    sat: bool,
    margin: Fraction | None = None,
    threshold: Fraction = ONE,
    version: str = "1.0",
    dot: np.ndarray | None = None,
) -> Case:
    sketch = _models(made, plan.inputs)
    outputs = len(made.net[-1].bias)
    point = made.secret if dot is None else dot
    return Case(
        family="shapes",
        models={"f": sketch.model()},
        query=Query(
            (Tensor("X", (1, plan.inputs), False), Tensor("Y", (1, outputs), True)), tuple(assertions), version
        ),
        label="sat" if sat else "unsat",
        known="",
        key="",
        point={"X": point.astype(np.float64).astype(np.float32)},
        operators=sketch.operators(),
        radius=float(plan.radius),
        margin=margin,
        threshold=threshold,
        hide=sat,
    )


def _bounds(plan: Plan) -> list[Formula]:
    return box("X", [-plan.scale] * plan.inputs, [plan.scale] * plan.inputs)


def _above(threshold: Fraction, index: int = 0) -> Formula:
    return linear({("Y", index): 1}, ">=", threshold)


def _ask(sat: bool) -> Fraction:
    """The threshold below or above the spike's height, which is 1."""
    return ONE - MARGIN if sat else ONE + MARGIN


def _union(where: int) -> Maker:
    """Three boxes, one disjunct each with the same threshold; the secret point lies in box ``where``.

    Safe: the threshold is above the greatest value anywhere.
    """

    def make(rng: np.random.Generator, sat: bool) -> Case:
        made = plant(PLAN, rng)
        parts: list[Formula] = []
        for index in range(3):
            shift = Fraction(0) if index == where else Fraction(4 * (index + 1))
            low = [value - Fraction(1, 4) + shift for value in made.secret]
            high = [value + Fraction(1, 4) + shift for value in made.secret]
            parts.append(And((*box("X", low, high), _above(_ask(sat)))))
        return _case(made, PLAN, [Or(tuple(parts))], sat, ONE - _ask(sat), _ask(sat))

    return make


for _where, _name in enumerate(("first", "middle", "last")):
    MAKERS[f"union-{_name}"] = _union(_where)


def _disjunction(where: int) -> Maker:
    """Some class reaches the label's value; the only one that can stands at place ``where`` of the ``or``.

    Of the others, y_j − y_label ≤ −1/2 everywhere. Safe: the spike lifts the target to −1/32 only.
    """

    def make(rng: np.random.Generator, sat: bool) -> Case:
        plan = replace(PLAN, classes=5)
        made = plant(plan, rng, HALF + (MARGIN if sat else -MARGIN))
        order = [2, 3, 4]
        order.insert({0: 0, 1: 2, 2: 3}[where], 1)
        rows = [linear({("Y", j): 1, ("Y", 0): -1}, ">=", 0) for j in order]
        return _case(made, plan, [*_bounds(plan), Or(tuple(rows))], sat, made.top)

    return make


for _where, _name in enumerate(("first", "middle", "last")):
    MAKERS[f"or-{_name}"] = _disjunction(_where)


@maker("and")
def _conjunction(rng: np.random.Generator, sat: bool) -> Case:
    """The target class reaches the label while another stays below; safe: while another is above, which it never is."""
    plan = replace(PLAN, classes=4)
    made = plant(plan, rng, HALF + MARGIN)
    target = linear({("Y", 1): 1, ("Y", 0): -1}, ">=", 0)
    other = linear({("Y", 2): 1, ("Y", 0): -1}, "<=" if sat else ">=", Fraction(-1, 4))
    return _case(made, plan, [*_bounds(plan), target, other], sat, made.top if sat else None)


@maker("or-of-and")
def _nested(rng: np.random.Generator, sat: bool) -> Case:
    """Disjuncts of two rows; of each but the last, one row never holds; safe: nor does it in the last."""
    plan = replace(PLAN, classes=4)
    made = plant(plan, rng, HALF + MARGIN)

    def lead(j: int, relation: str, bound: Fraction) -> Formula:
        return linear({("Y", j): 1, ("Y", 0): -1}, relation, bound)

    never = [And((lead(1, ">=", Fraction(0)), lead(j, ">=", Fraction(-1, 4)))) for j in (2, 3)]
    last = And((lead(2, "<=", Fraction(-1, 4)), lead(1, ">=", Fraction(0) if sat else 2 * MARGIN)))
    return _case(made, plan, [*_bounds(plan), Or((*never, last))], sat, made.top if sat else None)


@maker("many-outputs")
def _many(rng: np.random.Generator, sat: bool) -> Case:
    """As a disjunction over twenty classes."""
    plan = replace(PLAN, classes=20)
    made = plant(plan, rng, HALF + (MARGIN if sat else -MARGIN))
    rows = [linear({("Y", j): 1, ("Y", 0): -1}, ">=", 0) for j in range(19, 0, -1)]
    return _case(made, plan, [*_bounds(plan), Or(tuple(rows))], sat, made.top)


@maker("linear-inputs")
def _cut(rng: np.random.Generator, sat: bool) -> Case:
    """A half-space with c exactly on its rim; safe: it ends where the spike has fallen to half, in L1 distance.

    Σ x_i ≥ Σ c_i + r/2 implies |x − c|₁ ≥ r/2, so there the spike is at most 1/2.
    """
    made = plant(PLAN, rng)
    total = sum(made.secret) + (Fraction(0) if sat else PLAN.radius / 2)
    cut = linear({("X", index): 1 for index in range(PLAN.inputs)}, ">=", total)
    threshold = ONE - MARGIN if sat else HALF + MARGIN
    return _case(made, PLAN, [*_bounds(PLAN), cut, _above(threshold)], sat, MARGIN if sat else None, threshold)


@maker("mixed-inputs-outputs")
def _mixed(rng: np.random.Generator, sat: bool) -> Case:
    """A row over an input and the output: y − x_0 ≥ threshold. y ≤ spike, so y − x_0 ≤ K·r − c_0 when K ≥ 1:
    moving x_0 below c_0 by d gains d and loses K·d."""
    made = plant(PLAN, rng)
    first = Fraction(made.secret[0])
    threshold = _ask(sat) - first
    # where the spike is gone, y − x_0 ≤ 0 − x_0 must stay below too: x_0 is kept near c_0
    low = [first - HALF / 2, *[-ONE] * (PLAN.inputs - 1)]
    high = [first + HALF / 2, *[ONE] * (PLAN.inputs - 1)]
    row = linear({("Y", 0): 1, ("X", 0): -1}, ">=", threshold)
    return _case(made, PLAN, [*box("X", low, high), row], sat, ONE - _ask(sat), threshold)


def _scaled(power: int) -> Maker:
    """The same network on a box of half width 2^power: only the first stage knows."""

    def make(rng: np.random.Generator, sat: bool) -> Case:
        plan = replace(PLAN, scale=Fraction(2) ** power)
        made = plant(plan, rng)
        return _case(made, plan, [*_bounds(plan), _above(_ask(sat))], sat, ONE - _ask(sat), _ask(sat))

    return make


MAKERS["tiny-scale"] = _scaled(-20)
MAKERS["huge-scale"] = _scaled(16)


@maker("point-inputs")
def _point(rng: np.random.Generator, sat: bool) -> Case:
    """The box is the point c, where y = 1 exactly; the threshold is 1 (a tie), or the next float32 number."""
    made = plant(PLAN, rng)
    threshold = ONE if sat else ONE + Fraction(1, 2**23)
    made_case = _case(
        made,
        PLAN,
        [*box("X", list(made.secret), list(made.secret)), _above(threshold)],
        sat,
        ONE - threshold,
        threshold,
    )
    return replace(made_case, hide=False, radius=None)


@maker("some-inputs-fixed")
def _fixed(rng: np.random.Generator, sat: bool) -> Case:
    """All inputs but one are fixed at c; safe: one of them is fixed at c plus r/2, where the spike is at most 1/2."""
    made = plant(PLAN, rng)
    low, high = list(made.secret), list(made.secret)
    low[0], high[0] = -ONE, ONE
    threshold = ONE - MARGIN
    if not sat:
        low[1] = high[1] = made.secret[1] + PLAN.radius / 2
    return _case(made, PLAN, [*box("X", low, high), _above(threshold)], sat, MARGIN if sat else None, threshold)


@maker("strict-tie")
def _strict(rng: np.random.Generator, sat: bool) -> Case:
    """y ≥ 1 is a tie at c, and y > 1 never holds."""
    made = plant(PLAN, rng)
    ask = linear({("Y", 0): 1}, ">=" if sat else ">", ONE)
    return _case(made, PLAN, [*_bounds(PLAN), ask], sat, Fraction(0))


@maker("output-box")
def _band(rng: np.random.Generator, sat: bool) -> Case:
    """y within a band that only the spike's tip reaches; safe: a band above it."""
    made = plant(PLAN, rng)
    low = ONE - MARGIN if sat else ONE + MARGIN
    upper = linear({("Y", 0): 1}, "<=", low + 2 * MARGIN)
    return _case(made, PLAN, [*_bounds(PLAN), _above(low), upper], sat, ONE - low, low)


@maker("two-ors")
def _two(rng: np.random.Generator, sat: bool) -> Case:
    """Two disjunctions whose cross product is meant: one over input ranges, one over outputs."""
    plan = replace(PLAN, classes=3)
    made = plant(plan, rng, HALF + (MARGIN if sat else -MARGIN))
    first = Fraction(made.secret[0])
    ranges = Or((linear({("X", 0): 1}, "<=", first - HALF / 8), linear({("X", 0): 1}, ">=", first)))
    rows = Or(tuple(linear({("Y", j): 1, ("Y", 0): -1}, ">=", 0) for j in (2, 1)))
    return _case(made, plan, [*_bounds(plan), ranges, rows], sat, made.top)


@maker("version-2")
def _second(rng: np.random.Generator, sat: bool) -> Case:
    """The plain question in VNN-LIB 2.0."""
    made = plant(PLAN, rng)
    return _case(made, PLAN, [*_bounds(PLAN), _above(_ask(sat))], sat, ONE - _ask(sat), _ask(sat), "2.0")


@maker("version-2-or")
def _second_or(rng: np.random.Generator, sat: bool) -> Case:
    """A disjunction in VNN-LIB 2.0, the violated row in the middle."""
    made = _disjunction(1)(rng, sat)
    return replace(made, query=replace(made.query, version="2.0"))


@maker("several-inputs")
def _inputs(rng: np.random.Generator, sat: bool) -> Case:
    """The input in two tensors, which the model joins."""
    made = plant(PLAN, rng)
    sketch = Sketch()
    one, two = sketch.input([1, 1]), sketch.input([1, PLAN.inputs - 1])
    joined = sketch.node("Concat", one, two, axis=1)
    sketch.output(layers.draw(made.net, sketch, joined), [1, 1])
    tensors = (Tensor("A", (1, 1), False), Tensor("B", (1, PLAN.inputs - 1), False), Tensor("Y", (1, 1), True))
    bounds = [*box("A", [-1], [1]), *box("B", [-1] * (PLAN.inputs - 1), [1] * (PLAN.inputs - 1))]
    whole = made.secret.astype(np.float64).astype(np.float32)
    return Case(
        family="shapes",
        models={"f": sketch.model()},
        query=Query(tensors, (*bounds, _above(_ask(sat))), "2.0"),
        label="sat" if sat else "unsat",
        known="",
        key="",
        point={"A": whole[:1], "B": whole[1:]},
        operators=sketch.operators(),
        radius=float(PLAN.radius),
        margin=ONE - _ask(sat),
        threshold=_ask(sat),
        hide=sat,
    )


@maker("half-space-kept")
def _kept(rng: np.random.Generator, sat: bool) -> Case:
    """A half-space that holds the spike's whole ball; safe: one on whose rim the spike has fallen to half."""
    made = plant(PLAN, rng)
    total = sum(made.secret) + (-PLAN.radius if sat else PLAN.radius / 2)
    cut = linear({("X", index): 1 for index in range(PLAN.inputs)}, ">=", total)
    threshold = ONE - MARGIN if sat else HALF + MARGIN
    return _case(made, PLAN, [*_bounds(PLAN), cut, _above(threshold)], sat, MARGIN if sat else None, threshold)


def _networks(first: Planted, second: Planted, sat: bool, threshold: Fraction, kinship: str) -> Case:
    """V = X, and the first network leads the second by the threshold."""
    n = PLAN.inputs
    models = {"f": _models(first, n).model(), "g": _models(second, n).model()}
    tensors = (
        Tensor("X", (1, n), False, "f"),
        Tensor("Y", (1, 1), True, "f"),
        Tensor("V", (1, n), False, "g"),
        Tensor("W", (1, 1), True, "g"),
    )
    same = [linear({("X", index): 1, ("V", index): -1}, "==", 0) for index in range(n)]
    lead = linear({("Y", 0): 1, ("W", 0): -1}, ">=", threshold)
    if kinship.startswith("(equal"):
        del models["g"]
    whole = first.secret.astype(np.float64).astype(np.float32)
    return Case(
        family="shapes",
        models=models,
        query=Query(tensors, (*box("X", [-1] * n, [1] * n), *box("V", [-1] * n, [1] * n), *same, lead), "2.0",
                    {"g": kinship} if kinship else {}),
        label="sat" if sat else "unsat",
        known="",
        key="",
        point={"X": whole, "V": whole},
        operators=_models(first, n).operators(),
        radius=float(PLAN.radius),
        margin=ONE - threshold,
        threshold=threshold,
        hide=sat,
    )  # fmt: skip


@maker("two-networks")
def _two_networks(rng: np.random.Generator, sat: bool) -> Case:
    """Two networks with one host, disguised differently; only the first has a spike, so they differ by it alone."""
    state = rng.integers(1 << 30, size=2)
    made = plant(replace(PLAN, rounds=0), np.random.default_rng(state))
    bare = plant(replace(PLAN, rounds=0), np.random.default_rng(state), Fraction(0))
    first = replace(made, net=layers.disguise(made.net, rng, 4))
    second = replace(bare, net=layers.disguise(bare.net, rng, 4))
    return _networks(first, second, sat, _ask(sat), "")


@maker("equal-networks")
def _equal_networks(rng: np.random.Generator, sat: bool) -> Case:
    """A network against itself on the same input, by ``equal-to``: safe, since it leads by exactly 0; violated with
    threshold 0, a tie."""
    made = plant(PLAN, rng)
    built = _networks(made, made, sat, Fraction(0) if sat else MARGIN, "(equal-to f)")
    return replace(built, hide=False, radius=None, margin=Fraction(0) if sat else -MARGIN, threshold=ONE)


@maker("isomorphic-networks")
def _isomorphic(rng: np.random.Generator, sat: bool) -> Case:
    """As two networks, of one architecture: the second's spike is a half as high."""
    state = rng.integers(1 << 30, size=2)
    made, lower = (plant(PLAN, np.random.default_rng(state), height) for height in (ONE, HALF))
    threshold = HALF - MARGIN if sat else HALF + MARGIN
    return replace(_networks(made, lower, sat, threshold, "(isomorphic-to f)"), margin=HALF - threshold)
