"""Small networks of every nonlinear family over one or two inputs, and their truth from a fine grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from verinn.ir.check import check_graph, shape_of
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen
from verinn.ir.prop import Case, Rows, SparseMatrix
from verinn.ops.program import Program

Rng = np.random.Generator
#: points of the grid, in each direction
GRID = 301


class Net:
    """Nodes one after the other over an input of two numbers; shapes follow."""

    def __init__(self, rng: Rng, inputs: int = 2):
        self.rng = rng
        self.inputs = (Input("x", (1, inputs)),)
        self.shapes: dict[str, tuple[int, ...]] = {"x": (1, inputs)}
        self.nodes: list[Node] = []

    def add(
        self, op: str, *names: str, shape: tuple[int, ...] = (), params: Mapping[str, Any] | None = None, **attrs: Any
    ) -> str:
        consts = {key: Const(np.asarray(value, dtype=np.float64)) for key, value in (params or {}).items()}
        made = shape_of(op, [self.shapes[name] for name in names], attrs, consts, shape)
        name = f"n{len(self.nodes)}"
        self.nodes.append(Node(name, op, tuple(names), made, frozen(attrs), frozen(consts)))
        self.shapes[name] = made
        return name

    def dense(self, name: str, width: int, scale: float = 1.0) -> str:
        before = self.shapes[name][-1]
        weight = self.rng.normal(size=(before, width)) * scale
        bias = self.rng.normal(size=width) * 0.3 * scale
        params = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
        return self.add("linear", name, params=params)

    def graph(self) -> Graph:
        last = self.nodes[-1].name
        return check_graph(Graph(self.inputs, tuple(self.nodes), (Output("y", last),)))


def layers(op: str, **attrs: Any) -> Callable[[Rng], Graph]:
    """Two layers of one elementwise function."""

    def made(rng: Rng) -> Graph:
        net = Net(rng)
        h = net.add(op, net.dense("x", 4), **attrs)
        h = net.add(op, net.dense(h, 3), **attrs)
        net.dense(h, 1)
        return net.graph()

    return made


def above(op: str, low: float, **attrs: Any) -> Callable[[Rng], Graph]:
    """A function that needs an argument above ``low``."""

    def made(rng: Rng) -> Graph:
        net = Net(rng)
        h = net.add("sigmoid", net.dense("x", 3))
        h = net.add(op, net.add("shift", h, params={"offset": low + 0.2}), **attrs)
        net.dense(h, 1)
        return net.graph()

    return made


def product(rng: Rng) -> Graph:
    net = Net(rng)
    h = net.add("tanh", net.dense("x", 4))
    h = net.add("mul", h, net.dense("x", 4))
    h = net.add("mul", h, h)
    net.dense(h, 1)
    return net.graph()


def attention(rng: Rng) -> Graph:
    """Softmax of a product of matrices, times a matrix: all depend on the input."""
    net = Net(rng)

    def matrix(rows: int, columns: int) -> str:
        return net.add("reshape", net.dense("x", rows * columns, 0.7), shape=(1, rows, columns))

    scores = net.add("softmax", net.add("matmul", matrix(2, 2), matrix(2, 3)), axis=2)
    mixed = net.add("matmul", scores, matrix(3, 2))
    net.dense(net.add("reshape", mixed, shape=(1, 4)), 1)
    return net.graph()


def greatest(rng: Rng) -> Graph:
    net = Net(rng)
    h = net.add("tanh", net.dense("x", 6, 1.5))
    h = net.add("reduce_max", net.add("reshape", h, shape=(1, 2, 3)), axes=(2,))
    net.dense(net.add("reshape", h, shape=(1, 2)), 1)
    return net.graph()


def gated(rng: Rng) -> Graph:
    """y + c·(x − y) for a condition c: a step times a value."""
    net = Net(rng)
    c = net.add("step", net.dense("x", 3), strict=bool(rng.integers(2)))
    one, two = net.dense("x", 3), net.add("relu", net.dense("x", 3))
    h = net.add("mul", c, net.add("sum", one, two, signs=(1, -1)))
    net.dense(net.add("sum", h, two, signs=(1, 1)), 1)
    return net.graph()


def binarised(rng: Rng) -> Graph:
    """sign(sign(x) + 1/10): never zero, as binarised layers are written."""
    net = Net(rng)
    h = net.add("sign", net.dense("x", 4))
    h = net.add("sign", net.add("shift", h, params={"offset": 0.125}))
    h = net.add("sign", net.dense(h, 3))
    net.dense(h, 1)
    return net.graph()


FAMILIES: dict[str, Callable[[Rng], Graph]] = {
    "sigmoid": layers("sigmoid"),
    "tanh": layers("tanh"),
    "gelu": layers("gelu"),
    "silu": layers("silu"),
    "leaky": layers("leaky_relu", alpha=0.1),
    "clip": layers("clip", lower=-0.5, upper=0.75),
    "abs": layers("abs"),
    "sin": layers("sin"),
    "cos": layers("cos"),
    "softplus": layers("softplus"),
    "floor": layers("floor"),
    "round": layers("round"),
    "exp": layers("exp"),
    "square": layers("pow", exponent=2.0),
    "cube": layers("pow", exponent=3.0),
    "reciprocal": above("reciprocal", 0.2),
    "log": above("log", 0.1),
    "sqrt": above("sqrt", 0.0),
    "product": product,
    "attention": attention,
    "greatest": greatest,
    "gated": gated,
    "binarised": binarised,
}


def grid(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) of [−1, 1]² and the output there (P,)."""
    line = np.linspace(-1, 1, GRID)
    x = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    y = Program.prepare(graph, torch.float64).flat(torch.from_numpy(x))
    return x, y[:, 0].numpy()


def below(limit: float, strict: bool = False) -> Case:
    """The box [−1, 1]² with the violation y ≤ limit (y < limit)."""
    empty = SparseMatrix(np.zeros(2, np.int64), np.zeros(0, np.int64), np.zeros(0), 2)
    one = SparseMatrix(np.array([0, 1]), np.zeros(1, np.int64), np.ones(1), 1)
    rows = Rows(empty, one, np.array([limit]), np.array([strict]))
    nothing = Rows(
        SparseMatrix(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0), 2),
        SparseMatrix(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0), 1),
        np.zeros(0),
        np.zeros(0, bool),
    )
    ends = np.ones(2)
    return Case(-ends, ends, -ends.astype(np.float32), ends.astype(np.float32), nothing, (rows,))
