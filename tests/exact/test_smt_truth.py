"""Z3 over our formulas against the enumeration of all activation patterns in fractions."""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_graph import Build
from patterns import Box, Layer, Row, evaluate, feasible, violated

from verinn.exact.encoding.encode import encode
from verinn.exact.encoding.goals import goal_of
from verinn.exact.smt.solver import SmtSolver, Status
from verinn.ir.graph import Graph
from verinn.ir.prop import Case, Rows, SparseMatrix
from verinn.ops.program import Program

F = Fraction
KINDS = ("relu", "relu", "leaky", "abs", "clip", "max", "sign", "floor")
ALL, CI = 300, 60


def random_layers(rng: random.Random, n: int) -> list[Layer]:
    layers, width = [], n
    for depth in range(rng.randint(1, 2) + 1):
        last = depth > 0 and rng.random() < 0.5
        kind = rng.choice(KINDS)
        size = 2 * rng.randint(1, 2) if kind == "max" else rng.randint(2, 3)
        weight = [[F(rng.randint(-4, 4), rng.choice((1, 2))) for _ in range(size)] for _ in range(width)]
        layers.append(Layer(weight, [F(rng.randint(-3, 3), 2) for _ in range(size)], kind))
        width = size // 2 if kind == "max" else size
        if last:
            break
    weight = [[F(rng.randint(-3, 3)) for _ in range(2)] for _ in range(width)]
    return [*layers, Layer(weight, [F(rng.randint(-2, 2)) for _ in range(2)], "none")]


def graph_of(layers: list[Layer], n: int) -> Graph:
    build = Build((1, n))
    last = "x0"
    for layer in layers:
        params = {"weight": [[float(v) for v in row] for row in layer.weight], "bias": [float(v) for v in layer.bias]}
        last = build.add("linear", last, params=params)
        if layer.kind == "max":
            size = len(layer.bias)
            image = build.add("reshape", last, shape=(1, 1, size))
            pool = {"kernel": (2,), "strides": (2,), "dilations": (1,), "pads": (0, 0)}
            image = build.add("max_pool", image, **pool)
            last = build.add("reshape", image, shape=(1, size // 2))
        elif layer.kind == "leaky":
            last = build.add("leaky_relu", last, alpha=0.25)
        elif layer.kind == "clip":
            last = build.add("clip", last, lower=-1.0, upper=2.0)
        elif layer.kind != "none":
            last = build.add(layer.kind, last)
    return build.graph(last)


def random_ways(rng: random.Random, layers: list[Layer], box: Box) -> list[list[Row]]:
    """Conjunctions whose rows often only touch what the network reaches."""
    points = [[low + (high - low) * F(rng.randint(0, 8), 8) for low, high in box] for _ in range(30)]
    outputs = [evaluate(layers, x) for x in points]
    ways = []
    for _ in range(rng.randint(1, 2)):
        rows: list[Row] = []
        for _ in range(rng.randint(1, 2)):
            c = [F(rng.randint(-2, 2)), F(rng.choice((-1, 1)))]
            reached = [c[0] * y[0] + c[1] * y[1] for y in outputs]
            level = min(reached) + rng.choice((F(-1, 2), F(-1, 16), F(0), F(0), F(1, 16)))
            rows.append(([*c, -level], rng.random() < 0.5))
        ways.append(rows)
    return ways


def case_of(box: Box, ways: list[list[Row]]) -> Case:
    def sparse(rows: list[list[Fraction]], width: int) -> SparseMatrix:
        count = len(rows[0]) if rows else width
        index = np.tile(np.arange(count), len(rows))
        return SparseMatrix(
            np.arange(len(rows) + 1) * count, index, np.array([float(v) for r in rows for v in r]), width
        )

    def rows_of(rows: list[Row]) -> Rows:
        return Rows(
            SparseMatrix(np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int64), np.zeros(0), len(box)),
            sparse([form[:-1] for form, _ in rows], 2),
            np.array([-float(form[-1]) for form, _ in rows]),
            np.array([strict for _, strict in rows], dtype=bool),
        )

    low, high = (np.array([float(end[side]) for end in box]) for side in (0, 1))
    narrow = low.astype(np.float32), high.astype(np.float32)
    return Case(low, high, *narrow, rows_of([]), tuple(rows_of(way) for way in ways))


def agree(seed: int) -> Status:
    rng = random.Random(seed)
    n = rng.randint(2, 3)
    layers = random_layers(rng, n)
    box = [(low, low + F(rng.randint(0, 8), 4)) for low in (F(rng.randint(-8, 4), 4) for _ in range(n))]
    ways = random_ways(rng, layers, box)
    case = case_of(box, ways)
    draft = encode(Program.prepare(graph_of(layers, n), torch.float64), case.lower, case.upper)
    goal = goal_of(draft, case)
    draft.builder.conditions.append(goal.condition)
    encoding = draft.finished()
    answer = SmtSolver(encoding).check(seconds=60)
    want = violated(layers, box, ways)
    assert answer.status is (Status.SAT if want else Status.UNSAT), seed
    if want:
        y = evaluate(layers, [answer.point[v] for v in encoding.inputs])
        totals = [
            [(sum((c * v for c, v in zip(form, y, strict=False)), form[-1]), s) for form, s in way] for way in ways
        ]
        assert any(all(t < 0 or (t == 0 and not strict) for t, strict in way) for way in totals), seed
    return answer.status


@pytest.mark.parametrize("part", range(4))
def test_z3_says_what_enumeration_says(part: int) -> None:
    found = [agree(seed) for seed in range(part, CI, 4)]
    assert Status.SAT in found and Status.UNSAT in found


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_z3_says_what_enumeration_says_of_300_networks(part: int) -> None:
    for seed in range(part, ALL, 4):
        agree(seed)


def test_the_enumeration_decides_polytopes() -> None:
    box: Box = [(F(0), F(1)), (F(-1), F(1))]
    below = ([F(1), F(1), F(1)], False)  # x + y ≤ −1: the corner (0, −1) alone
    assert feasible([below], box)
    assert not feasible([(below[0], True)], box)
    assert feasible([([F(1), F(1), F(1, 2)], True)], box)
    assert not feasible([([F(-1), F(0), F(2)], False)], box)
    assert feasible([([F(1), F(0), F(0)], False), ([F(-1), F(0), F(0)], False)], box)
    assert not feasible([([F(1), F(0), F(0)], True)], box)
