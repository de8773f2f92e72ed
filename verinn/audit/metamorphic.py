"""Groups of instances whose truths are related, whatever they are.

From one planted instance others are made whose verdict relates to its own: a runner can check the relations without
knowing any truth. Here the truths are known too, since the networks are those of ``planted`` (host *cap*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from verinn.audit import layers
from verinn.audit.case import Case
from verinn.audit.planted import Plan, Planted, ask, heights, plant
from verinn.audit.query import And, Or, Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

PLAN = Plan(3, Fraction(1, 16), width=6, rounds=3)
MARGIN = Fraction(1, 32)


@dataclass(frozen=True)
class Link:
    """A relation between cases by their keys; see ``verinn.audit.instance.Relation`` for the kinds."""

    name: str
    kind: str
    keys: tuple[str, ...]


def group(sat: bool, seed: Sequence[int]) -> tuple[list[Case], list[Link]]:
    """An instance and what is made of it.

    Where the base is safe, the greatest value 1 anywhere is below the threshold, so that every variant is safe. Where
    it is not, c is the witness of each variant that still holds c; the half of a split box without c is safe, since
    on it |x − c|₁ is at least r/2, the spike at most a half.
    """
    rng = np.random.default_rng(list(seed))
    plan = replace(PLAN, margin=MARGIN if sat else -MARGIN)
    height, _, threshold = heights(plan)
    made = plant(plan, rng, height)
    name = f"{'sat' if sat else 'unsat'} {seed[-1]}"
    low, high = [-plan.scale] * plan.inputs, [plan.scale] * plan.inputs
    bounds = box("X", low, high)
    row = linear({("Y", 0): 1}, ">=", threshold)
    base = _case(made, plan, [*bounds, row], sat, threshold, f"{name} base")

    def variant(what: str, assertions: Sequence[object], label: bool = sat, of: Planted = made) -> Case:
        return _case(of, plan, assertions, label, threshold, f"{name} {what}")

    near = [(value - Fraction(1, 4), value + Fraction(1, 4)) for value in made.secret]
    cut = Fraction(made.secret[0]) + plan.radius * plan.scale / 2
    left, right = [cut, *high[1:]], [cut, *low[1:]]
    cases = [
        base,
        variant("shrunk", [*box("X", [a for a, _ in near], [b for _, b in near]), row]),
        variant("enlarged", [*box("X", [2 * v for v in low], [2 * v for v in high]), row]),
        variant("reordered", [row, *reversed(bounds)]),
        variant("redundant", [*bounds, Or((row, And((row, linear({("Y", 0): 1}, ">=", threshold - 1)))))]),
        variant("left", [*box("X", low, left), row]),
        variant("right", [*box("X", right, high), row], False),
        variant("permuted", [*bounds, row], of=replace(made, net=layers.disguise(made.net, rng, 2))),
        _rescaled(made, plan, sat, threshold, f"{name} rescaled"),
    ]
    keys = {case.key.split()[-1]: case.key for case in cases}
    links = [
        Link(f"{name}: shrinking a box keeps unsat", "implies", (keys["base"], keys["shrunk"])),
        Link(f"{name}: enlarging a box keeps sat", "implies", (keys["enlarged"], keys["base"])),
        Link(f"{name}: splitting a box in two", "split", (keys["base"], keys["left"], keys["right"])),
        *(
            Link(f"{name}: {what}", "same", (keys["base"], keys[key]))
            for what, key in (
                ("the order of assertions", "reordered"),
                ("a redundant disjunct", "redundant"),
                ("the order of neurons", "permuted"),
                ("the scale of inputs", "rescaled"),
            )
        ),
    ]
    return cases, links


def _case(made: Planted, plan: Plan, assertions: Sequence[object], sat: bool, threshold: Fraction, key: str) -> Case:
    sketch = Sketch()
    x = sketch.input([1, plan.inputs])
    sketch.output(layers.draw(made.net, sketch, x), [1, 1])
    inside = sat or "right" not in key.split()[-1:]
    return Case(
        family="metamorphic",
        models={"f": sketch.model()},
        query=Query((Tensor("X", (1, plan.inputs), False), Tensor("Y", (1, 1), True)), tuple(assertions)),  # type: ignore[arg-type]
        label="sat" if sat else "unsat",
        known="by construction: as the planted instance that it is made of",
        key=key,
        point={"X": made.secret.astype(np.float64).astype(np.float32)},
        operators=sketch.operators(),
        radius=float(plan.radius),
        margin=1 - threshold if inside else None,
        threshold=threshold,
        shape=key.split()[-1],
        hide=sat,
        recipe={"generator": "metamorphic"},
    )


def _rescaled(made: Planted, plan: Plan, sat: bool, threshold: Fraction, key: str) -> Case:
    """Inputs four times as large, and the first stage divides them again."""
    first = made.net[0]
    net = (replace(first, weight=np.asarray(first.weight / 4, dtype=object)), *made.net[1:])
    wide = replace(plan, scale=4 * plan.scale)
    other = Planted(net, np.asarray(made.secret * 4, dtype=object), made.top)
    return _case(other, plan, ask(wide, threshold, 0), sat, threshold, key)
