"""Three ways to the same verdict: Z3, branch and bound, and an integer programme that HiGHS solves as referee."""

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import search_brute as brute
from onnx import TensorProto, helper, numpy_helper
from patterns import Box, Layer, evaluate
from scipy.optimize import Bounds, LinearConstraint, milp

from verinn.api import Options, verify

F = Fraction
KINDS = ("relu", "relu", "leaky", "abs", "clip")


class Programme:
    """A mixed-integer programme in the making; every variable has ends."""

    def __init__(self) -> None:
        self.low: list[float] = []
        self.high: list[float] = []
        self.whole: list[int] = []
        self.rows: list[tuple[dict[int, float], float]] = []  # Σ terms ≤ number

    def variable(self, low: float, high: float, whole: bool = False) -> int:
        self.low.append(low)
        self.high.append(high)
        self.whole.append(int(whole))
        return len(self.low) - 1

    def at_most(self, terms: dict[int, float], number: float) -> None:
        self.rows.append((terms, number))

    def equal(self, terms: dict[int, float], number: float) -> None:
        self.at_most(terms, number)
        self.at_most({v: -c for v, c in terms.items()}, -number)

    def affine(self, terms: dict[int, float], constant: float) -> int:
        """A variable that is Σ terms + constant."""
        ends = [sorted((c * self.low[v], c * self.high[v])) for v, c in terms.items()]
        made = self.variable(sum(e[0] for e in ends) + constant, sum(e[1] for e in ends) + constant)
        self.equal({**terms, made: -1.0}, -constant)
        return made

    def positive(self, z: int) -> int:
        """A variable that is max(z, 0), by a binary and the ends of z."""
        low, high = min(self.low[z], 0.0), max(self.high[z], 0.0)
        made, on = self.variable(0.0, high), self.variable(0.0, 1.0, True)
        self.at_most({z: 1.0, made: -1.0}, 0.0)
        self.at_most({made: 1.0, on: -high}, 0.0)
        self.at_most({made: 1.0, z: -1.0, on: -low}, -low)
        return made

    def greatest(self, goal: int) -> float:
        """The greatest value of a variable, as HiGHS finds it."""
        matrix = np.zeros((len(self.rows), len(self.low)))
        for k, (terms, _) in enumerate(self.rows):
            for v, c in terms.items():
                matrix[k, v] += c
        cost = np.zeros(len(self.low))
        cost[goal] = -1.0
        rows = LinearConstraint(matrix, -np.inf, [number for _, number in self.rows])
        found = milp(cost, constraints=rows, bounds=Bounds(self.low, self.high), integrality=self.whole)
        assert found.status == 0
        return float(-found.fun)


def greatest(layers: list[Layer], box: Box) -> float:
    """The greatest first output over a box."""
    made = Programme()
    values = [made.variable(float(low), float(high)) for low, high in box]
    for layer in layers:
        columns = zip(zip(*layer.weight, strict=True), layer.bias, strict=True)
        z = [made.affine({v: float(w) for v, w in zip(values, c, strict=True)}, float(b)) for c, b in columns]
        values = [activated(made, layer.kind, v) for v in z]
    return made.greatest(values[0])


def activated(made: Programme, kind: str, z: int) -> int:
    if kind == "none":
        return z
    if kind == "clip":  # −1 + max(z + 1, 0) − max(z − 2, 0)
        up, over = (made.positive(made.affine({z: 1.0}, shift)) for shift in (1.0, -2.0))
        return made.affine({up: 1.0, over: -1.0}, -1.0)
    slope = {"relu": 0.0, "leaky": 0.25, "abs": -1.0}[kind]  # slope·z + (1 − slope)·max(z, 0)
    return made.affine({z: slope, made.positive(z): 1.0 - slope}, 0.0)


def model(layers: list[Layer], n: int) -> onnx.ModelProto:
    nodes, weights, last = [], [], "x"
    for k, layer in enumerate(layers):
        for name, value in (("w", layer.weight), ("b", layer.bias)):
            array = np.array([[float(v) for v in row] for row in value] if name == "w" else [float(v) for v in value])
            weights.append(numpy_helper.from_array(array.astype(np.float32), f"{name}{k}"))
        end = layer.kind == "none"
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], ["y" if end else f"z{k}"]))
        if not end:
            name = {"relu": "Relu", "leaky": "LeakyRelu", "abs": "Abs", "clip": "Clip"}[layer.kind]
            more = ["low", "high"] if name == "Clip" else []
            attrs = {"alpha": 0.25} if name == "LeakyRelu" else {}
            nodes.append(helper.make_node(name, [f"z{k}", *more], [f"h{k}"], **attrs))
            last = f"h{k}"
    weights += [numpy_helper.from_array(np.float32(v), name) for v, name in ((-1.0, "low"), (2.0, "high"))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(layers[-1].bias)])
    graph = helper.make_graph(nodes, "tiny", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def agree(seed: int, path: Path) -> str:
    rng = random.Random(seed)
    n = rng.randint(2, 4)
    layers, width = [], n
    for _ in range(rng.randint(1, 2)):
        size = rng.randint(2, 4)
        weight = [[F(rng.randint(-6, 6), 4) for _ in range(size)] for _ in range(width)]
        layers.append(Layer(weight, [F(rng.randint(-3, 3), 4) for _ in range(size)], rng.choice(KINDS)))
        width = size
    layers.append(Layer([[F(rng.randint(-3, 3))] for _ in range(width)], [F(rng.randint(-2, 2))], "none"))
    box = [(F(-1), F(rng.randint(-1, 4), 4)) for _ in range(n)]
    most = greatest(layers, box)
    reached = max(evaluate(layers, [rng.choice(ends) for ends in box])[0] for _ in range(20))
    assert float(reached) <= most + 1e-6
    above = rng.random() < 0.5
    level = F(round(most * 64) + (2 if above else -2), 64)
    rows = [*brute.bounds(*([float(end[side]) for end in box] for side in (0, 1))), brute.row(">=", level, (1, "Y_0"))]
    where = brute.write(path / "p.vnnlib", n, 1, rows)
    want = "unsat" if above else "sat"
    for engine in ("smt", "milp", "auto"):
        for attack in (False, True):
            options = Options(engine=engine, attack=attack, device="cpu")
            assert verify(model(layers, n), where, options).verdict.value == want, (seed, engine)
    return want


@pytest.mark.parametrize("part", range(2))
def test_z3_branch_and_bound_and_an_integer_programme_agree(part: int, tmp_path: Path) -> None:
    assert {agree(seed, tmp_path) for seed in range(part, 16, 2)} == {"sat", "unsat"}


@pytest.mark.slow
def test_they_agree_on_many(tmp_path: Path) -> None:
    for seed in range(16, 120):
        agree(seed, tmp_path)
