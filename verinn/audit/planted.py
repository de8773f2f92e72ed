"""Counterexamples planted where no gradient leads, and twins without one.

A spike K·relu(r − Σ_i (relu(x_i − c_i) + relu(c_i − x_i))) is exactly zero outside the L1 ball of radius r around
a secret point c, and K·r at c. It is added to a host network whose maximum is known by construction:

*cap*: y = −relu(h(x)) + spike, with h a random network and h(c) < 0. The first term is at most 0 everywhere and
0 at c; so the maximum over any box that holds c is K·r, taken at c.

*roof*: y = max(A − k·|x − p|₁, spike − B), written as spike − B + relu(A + B − k·|x − p|₁ − spike). Attacks climb to
p, where y = A. The maximum is max(A, K·r − B), and A < K·r − B, taken at c.

*classes*: y_label = g(x), y_j = g(x) − d_j − relu(h_j(x)) + [j = target]·spike, with random networks g and h_j. Then
y_j − y_label ≤ −d_j for the other classes, and at most K·r − d_target for the target, taken at c since h_target(c) < 0.

Decoys, spikes that stay below, may stand at other points: their balls are disjoint, so that of all spikes at most one
is positive anywhere. Whether the threshold lies below or above the known maximum decides the label, so the truth
of both is exact, whatever the margin; ties are violations of `≥`. The whole is then disguised by rewrites that keep
the function (``layers``). No gradient of the host points to c, and outside of the ball nothing depends on c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinn.audit import enclosure as en
from verinn.audit import layers
from verinn.audit.case import Case
from verinn.audit.layers import Net, Rng, Stage, blocks, stage, zeros
from verinn.audit.query import Formula, Or, Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Plan:
    """What to plant. ``radius`` is relative to half of the box's width, ``scale`` that half width.

    ``margin``: by how much the maximum exceeds the threshold; negative for a safe twin, 0 for a tie.
    ``ulps``: the margin in units in the last place of the threshold instead. ``classes``: 0 for one output.
    """

    inputs: int
    radius: Fraction
    margin: Fraction = Fraction(1, 4)
    ulps: int | None = None
    host: str = "cap"
    classes: int = 0
    width: int = 8
    depth: int = 3
    decoys: int = 0
    scale: Fraction = Fraction(1)
    rounds: int = 6
    style: str = "gemm"


@dataclass(frozen=True, eq=False)
class Planted:
    """A network with its spike. ``top``: the greatest value of y, or of y_target − y_label, taken at ``secret``."""

    net: Net
    secret: np.ndarray
    top: Fraction


def sparse(rng: Rng, outputs: int, inputs: int, many: int = 3) -> np.ndarray:
    """Random weights of few bits: ``many`` non-zeros a row out of ±1/2, ±3/4, ±1."""
    weight = zeros(outputs, inputs)
    for row in range(outputs):
        for column in rng.choice(inputs, min(many, inputs), replace=False):
            weight[row, column] = Fraction(int(rng.choice([-4, -3, -2, 2, 3, 4])), 4)
    return weight


def random_net(rng: Rng, inputs: int, width: int, depth: int, outputs: int) -> Net:
    """Hidden ReLU stages and a linear one."""
    sizes = [inputs, *[width] * depth]
    stages = []
    for index in range(depth):
        bias = en.of(rng.integers(-4, 5, sizes[index + 1]) / 8.0).lo
        stages.append(Stage(sparse(rng, sizes[index + 1], sizes[index]), bias, True))
    return (*stages, Stage(sparse(rng, outputs, sizes[-1], 4), zeros(outputs), False))


def grid_point(rng: Rng, inputs: int, scale: Fraction, bits: int = 7) -> np.ndarray:
    """A point well inside the box of half width ``scale``, on a grid of 2^-bits of it."""
    whole = rng.integers(-(3 << (bits - 2)), (3 << (bits - 2)) + 1, inputs)
    return np.asarray(en.of(whole).lo * scale / 2**bits, dtype=object)


def distances(points: Sequence[np.ndarray]) -> Stage:
    """relu(x − c) and relu(c − x) for each point c."""
    one = en.of(np.eye(len(points[0]))).lo
    weight = np.concatenate([half for _ in points for half in (one, -one)])
    return Stage(weight, np.concatenate([half for point in points for half in (-point, point)]), True)


def spikes(points: Sequence[np.ndarray], radii: Sequence[Fraction], slopes: Sequence[Fraction], depth: int) -> Net:
    """K_j·relu(r_j − |x − c_j|₁) as the outputs of ``depth`` ReLU stages (at least two).

    The slope goes into the hinge, as relu(K r − K|x − c|): so later rounding is not magnified by it.
    """
    first = distances(points)
    sums = blocks(*[en.of(-np.ones((1, 2 * len(points[0])))).lo * slope for slope in slopes])
    tops = [radius * slope for radius, slope in zip(radii, slopes, strict=True)]
    hinge = Stage(sums, np.array(tops, dtype=object), True)
    one = en.of(np.eye(len(points))).lo
    return (first, hinge, *[Stage(one, zeros(len(points)), True)] * (depth - 2))


def side_by_side(nets: Sequence[Net]) -> Net:
    """Networks of one depth on the same input, their outputs after each other."""
    stages = []
    for index, parts in enumerate(zip(*nets, strict=True)):
        weights = [part.weight for part in parts]
        weight = np.concatenate(weights) if index == 0 else blocks(*weights)
        assert len({part.relu for part in parts}) == 1
        stages.append(Stage(weight, np.concatenate([part.bias for part in parts]), parts[0].relu))
    return tuple(stages)


def _apart(rng: Rng, plan: Plan, radii: Sequence[Fraction]) -> list[np.ndarray]:
    """A secret point and decoys, their balls disjoint."""
    points: list[np.ndarray] = []
    tries = 0
    while len(points) < len(radii):
        point = grid_point(rng, plan.inputs, plan.scale)
        tries += 1
        assert tries < 1000, "no room for the decoys"
        if all(
            sum(abs(point - other)) > radii[len(points)] + radius for other, radius in zip(points, radii, strict=False)
        ):
            points.append(point)
    return points


def plant(plan: Plan, rng: Rng, height: Fraction = Fraction(1)) -> Planted:
    """A network whose spike reaches ``height`` (K·r); K·r of the decoys is a half and a quarter of it."""
    radius = plan.radius * plan.scale
    radii = [radius] * (1 + plan.decoys)
    points = _apart(rng, plan, radii)
    slopes = [height / radius, *[height / radius / 2 ** (1 + index % 2) for index in range(plan.decoys)]]
    if plan.host == "roof":
        return _roof(plan, rng, points, radii, slopes, height)
    return _capped(plan, rng, points, radii, slopes, height)


def _capped(
    plan: Plan,
    rng: Rng,
    points: Sequence[np.ndarray],
    radii: Sequence[Fraction],
    slopes: Sequence[Fraction],
    height: Fraction,
) -> Planted:
    """The hosts *cap* and *classes*. Stages: those of h, the hinges relu(h), the output."""
    secret = points[0]
    caps = max(1, plan.classes - 1)
    host = random_net(rng, plan.inputs, plan.width, plan.depth - 1, caps + 1)
    host = (replace_weight(host[0], host[0].weight / plan.scale), *host[1:])
    last = host[-1]
    # h_j(c) = −1/8 exactly: float32's rounding can't lift it above zero
    shift = layers.evaluate(host, secret)[:caps] + Fraction(1, 8)
    carried = np.concatenate([last.weight[:caps], last.weight[caps:], -last.weight[caps:]])
    bias = np.concatenate([last.bias[:caps] - shift, zeros(2)])
    host = (*host[:-1], Stage(carried, bias, True))  # relu(h_j), relu(g), relu(−g)
    both = side_by_side([host, spikes(points, radii, slopes, plan.depth)])
    width = caps + 2 + len(points)
    if not plan.classes:
        weight = zeros(1, width)
        weight[0, 0] = Fraction(-1)
        weight[0, caps + 2 :] = Fraction(1)
        net: Net = (*both, Stage(weight, zeros(1), False))
        return Planted(layers.disguise(net, rng, plan.rounds), secret, height)
    label, target = 0, 1
    weight, bias = zeros(plan.classes, width), zeros(plan.classes)
    weight[:, caps], weight[:, caps + 1] = Fraction(1), Fraction(-1)
    for other in range(1, plan.classes):
        weight[other, other - 1] = Fraction(-1)
        bias[other] = -HALF
    weight[target, caps + 2 :] = Fraction(1)
    net = (*both, Stage(weight, bias, False))
    return Planted(layers.disguise(net, rng, plan.rounds), secret, height - HALF + bias[label])


def replace_weight(part: Stage, weight: np.ndarray) -> Stage:
    return Stage(weight, part.bias, part.relu)


def _roof(
    plan: Plan,
    rng: Rng,
    points: Sequence[np.ndarray],
    radii: Sequence[Fraction],
    slopes: Sequence[Fraction],
    height: Fraction,
) -> Planted:
    """Stages: distances to all points and to the summit p; hinges and |x − p|; the roof above the spikes."""
    secret = points[0]
    summit = -secret + grid_point(rng, plan.inputs, plan.scale / 8, 4)  # on the other side of the box
    base, steepness = Fraction(1, 2) * height, Fraction(1, 4) * height / plan.scale
    top = height - base
    roof = top / 2  # A, below what the spike reaches
    spread = spikes(points, radii, slopes, 2)
    ridge = (distances([summit]), stage(-np.ones((1, 2 * plan.inputs)), [0.0], False))
    ridge = (ridge[0], Stage(-ridge[1].weight, zeros(1), True))  # |x − p|, which is never negative
    both = side_by_side([spread, ridge])
    many = len(points)
    weight = zeros(many + 1, many + 1)
    weight[:many, :many] = en.of(np.eye(many)).lo
    weight[many, :many] = Fraction(-1)
    weight[many, many] = -steepness
    bias = zeros(many + 1)
    bias[many] = roof + base
    out = en.of(np.ones((1, many + 1))).lo
    net: Net = (*both, Stage(weight, bias, True), Stage(out, np.array([-base], dtype=object), False))
    assert roof - steepness * sum(abs(secret - summit)) < top
    return Planted(layers.disguise(net, rng, plan.rounds), secret, top)


# -- instances ---------------------------------------------------------------------------------------------------


def heights(plan: Plan) -> tuple[Fraction, Fraction, Fraction]:
    """The height to plant, the top that it gives, and the threshold, for the plan's margin."""
    loss = HALF if plan.classes else Fraction(0)
    height = Fraction(1) + loss if plan.host == "cap" else Fraction(2)
    top = height - loss if plan.host == "cap" else height / 2
    if plan.ulps is not None:
        return height, top, Fraction(float(steps(top, -plan.ulps)))
    return height, top, top - plan.margin


def steps(value: Fraction, count: int) -> np.float32:
    """``count`` float32 numbers further."""
    near = np.float32(float(value))
    for _ in range(abs(count)):
        near = np.nextafter(near, np.float32(np.inf if count > 0 else -np.inf))
    return np.float32(near)


def ask(plan: Plan, threshold: Fraction, classes: int) -> list[Formula]:
    """The question: does y reach the threshold, or any class come within it of the label?"""
    bounds = box("X", [-plan.scale] * plan.inputs, [plan.scale] * plan.inputs)
    if not classes:
        return [*bounds, linear({("Y", 0): 1}, ">=", threshold)]
    rows = [linear({("Y", other): 1, ("Y", 0): -1}, ">=", threshold) for other in range(1, classes)]
    return [*bounds, Or(tuple(rows))]


def planted(plan: Plan, seed: Sequence[int], key: str, quick: bool = False) -> Case:
    """An instance: sat where the plan's margin is positive or zero, else its safe twin.

    Twins of one seed are the same network but for the spike's height, or, at margins in ulps, the threshold.
    """
    rng = np.random.default_rng(list(seed))
    height, top, threshold = heights(plan)
    if plan.classes and plan.ulps is None:
        # the threshold is zero, as usual: the height makes the margin
        height, top, threshold = height - top + plan.margin, plan.margin, Fraction(0)
    elif plan.ulps is None and plan.margin < 0 and plan.host == "cap":
        height, threshold = height + 2 * plan.margin, top + plan.margin
        top = height
    made = plant(plan, rng, height)
    assert made.top == top
    margin = top - threshold
    sketch = Sketch()
    x = sketch.input([1, plan.inputs])
    outputs = max(1, plan.classes)
    sketch.output(layers.draw(made.net, sketch, x, plan.style), [1, outputs])
    sat = margin >= 0
    tensors = (Tensor("X", (1, plan.inputs), False), Tensor("Y", (1, outputs), True))
    return Case(
        family="planted",
        models={"f": sketch.model()},
        query=Query(tensors, tuple(ask(plan, threshold, plan.classes))),
        label="sat" if sat else "unsat",
        known=f"by construction ({plan.host}{', classes' if plan.classes else ''}): the greatest value is taken at the "
        + ("secret point, which is checked" if sat else "secret point, and lies below the threshold"),
        key=key,
        point={"X": made.secret.astype(np.float64).astype(np.float32)},
        operators=sketch.operators(),
        radius=float(plan.radius),
        margin=margin,
        threshold=threshold or Fraction(1),
        shape="or" if plan.classes > 2 else "box",
        hide=sat,
        quick=quick,
        recipe={"generator": "planted"},
    )
