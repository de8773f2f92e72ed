"""Small networks of unstable ReLUs, rows over them with splits and goals, all seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from crafted import f32, inexact, layer
from exact_graph import Build
from torch import Tensor

from verinn.bounds.climb import Goals, Multipliers, Rows
from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.dual import Columns, Frame, columns_of
from verinn.ir.check import check_graph
from verinn.ir.graph import Graph, Output
from verinn.ops.program import Program

Rng = np.random.Generator


def _normal(rng: Rng, *shape: int) -> np.ndarray:
    return f32(rng.normal(size=shape))


def dense(rng: Rng) -> Graph:
    b = Build((3,))
    h = b.add("relu", layer(b, "x0", _normal(rng, 3, 5), _normal(rng, 5) * 0.3))
    h = b.add("relu", layer(b, h, _normal(rng, 5, 4), _normal(rng, 4) * 0.3))
    layer(b, h, _normal(rng, 4, 2), _normal(rng, 2))
    return b.graph()


def conv(rng: Rng) -> Graph:
    b = Build((1, 1, 3, 3))
    attrs = {"strides": (1, 1), "dilations": (1, 1), "groups": 1, "pads": (1, 0, 0, 1)}
    h = b.add("conv", "x0", params={"weight": _normal(rng, 2, 1, 2, 2), "bias": _normal(rng, 2) * 0.2}, **attrs)
    h = b.add("relu", h)
    attrs = {"strides": (2, 1), "dilations": (1, 2), "groups": 2, "pads": (0, 0, 0, 0)}
    h = b.add("relu", b.add("conv", h, params={"weight": _normal(rng, 2, 1, 2, 2), "bias": _normal(rng, 2)}, **attrs))
    size = int(np.prod(b.shapes[h]))
    layer(b, b.add("reshape", h, shape=(size,)), _normal(rng, size, 2), _normal(rng, 2))
    return b.graph()


def residual(rng: Rng) -> Graph:
    """Values that are read twice, among them a hidden one and the input of a ReLU."""
    b = Build((3,))
    z = layer(b, "x0", _normal(rng, 3, 3), _normal(rng, 3) * 0.3)
    h = b.add("sum", b.add("relu", z), "x0", signs=(1, -1))
    z = layer(b, h, _normal(rng, 3, 3), _normal(rng, 3) * 0.3)
    h = b.add("sum", b.add("relu", z), z, h, signs=(1, 1, 1))
    h = b.add("sum", h, b.add("relu", layer(b, h, _normal(rng, 3, 3))), signs=(1, -1))
    layer(b, h, _normal(rng, 3, 2), _normal(rng, 2))
    return b.graph()


def two_ends(rng: Rng) -> Graph:
    """Two inputs; outputs at different depths: one named twice, the input of a ReLU, and an input itself."""
    b = Build((2,), (2,))
    one = b.add("relu", layer(b, "x0", _normal(rng, 2, 3), _normal(rng, 3) * 0.3))
    two = layer(b, "x1", _normal(rng, 2, 3), _normal(rng, 3) * 0.3)
    both = b.add("sum", one, b.add("relu", two), signs=(1, -1))
    last = layer(b, b.add("relu", layer(b, both, _normal(rng, 3, 3))), _normal(rng, 3, 1))
    graph = b.graph(last, two, "x1")
    return check_graph(replace(graph, outputs=(*graph.outputs, Output("again", last))))


def straight(rng: Rng) -> Graph:
    """ReLUs on the inputs themselves, and two ReLUs that read the same value."""
    b = Build((4,))
    h = b.add("slice", b.add("relu", "x0"), starts=(3,), steps=(-1,), sizes=(4,))
    z = b.add("shift", h, params={"offset": f32(-np.abs(rng.normal(size=4)))})
    h = b.add("sum", b.add("relu", z), b.add("relu", z), "x0", signs=(1, 1, -1))
    layer(b, h, _normal(rng, 4, 2), _normal(rng, 2))
    return b.graph()


def pooled(rng: Rng) -> Graph:
    """Max pooling and a leaky ReLU, whose lines stay as they are, between ReLUs."""
    b = Build((1, 1, 3, 3))
    attrs = {"strides": (1, 1), "dilations": (1, 1), "groups": 1, "pads": (0, 0, 0, 0)}
    h = b.add("relu", b.add("conv", "x0", params={"weight": _normal(rng, 2, 1, 2, 2)}, **attrs))
    h = b.add("max_pool", h, kernel=(2, 1), strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0))
    h = b.add("leaky_relu", layer(b, b.add("reshape", h, shape=(4,)), _normal(rng, 4, 3), _normal(rng, 3)), alpha=0.1)
    h = b.add("relu", layer(b, h, _normal(rng, 3, 3), _normal(rng, 3) * 0.3))
    layer(b, h, _normal(rng, 3, 2))
    return b.graph()


def curved(rng: Rng) -> Graph:
    """A sigmoid and a tanh between ReLUs (no rational function)."""
    b = Build((3,))
    h = b.add("relu", layer(b, "x0", _normal(rng, 3, 4), _normal(rng, 4) * 0.3))
    h = b.add("sigmoid", layer(b, h, _normal(rng, 4, 3)))
    h = b.add("relu", layer(b, h, _normal(rng, 3, 3), _normal(rng, 3) * 0.3))
    layer(b, b.add("tanh", layer(b, h, _normal(rng, 3, 3))), _normal(rng, 3, 2))
    return b.graph()


Make = Callable[[Rng], Graph]

#: networks that exact arithmetic can evaluate
EXACT: dict[str, Make] = {make.__name__: make for make in (dense, conv, residual, two_ends, straight, pooled, inexact)}
NETS: dict[str, Make] = {**EXACT, "curved": curved}


def width(graph: Graph) -> int:
    return sum(int(np.prod(value.shape)) for value in graph.inputs)


def height(graph: Graph) -> int:
    shapes = graph.shapes()
    return sum(int(np.prod(shapes[out.value])) for out in graph.outputs)


@dataclass(frozen=True, eq=False)
class Bounded:
    """A network over one box (n,), relaxed in one dtype."""

    graph: Graph
    lower: np.ndarray
    upper: np.ndarray
    root: Relaxation
    columns: Columns

    @property
    def program(self) -> Program:
        return self.root.program

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """(1, n) each, in the relaxation's dtype."""
        ends = torch.from_numpy(np.stack([self.lower, self.upper])).to(self.program.dtype)
        return ends[:1], ends[1:]

    @property
    def frame(self) -> Frame:
        return Frame.of(self.root, *self.box, self.columns)

    @property
    def known(self) -> tuple[Tensor, Tensor]:
        """(1, U) each: the intervals of the unstable neurons."""
        intervals = self.root.intervals
        return (
            self.columns.gather({name: ends[0] for name, ends in intervals.items()}),
            self.columns.gather({name: ends[1] for name, ends in intervals.items()}),
        )

    def column(self, number: int) -> tuple[str, int]:
        """The value that a column is an element of, and which one."""
        step = next(i for i in range(len(self.columns.names)) if number < self.columns.start[i + 1])
        return self.columns.sources[step], int(self.columns.index[step][number - self.columns.start[step]])


def bounded(graph: Graph, lower: np.ndarray, upper: np.ndarray, dtype: torch.dtype = torch.float64) -> Bounded:
    """Ends of the box must be numbers of the dtype."""
    program = Program.prepare(graph, dtype)
    low, high = (torch.from_numpy(end[None]).to(dtype) for end in (lower, upper))
    with torch.no_grad():
        root = relax(program, low, high)
    return Bounded(graph, lower, upper, root, columns_of(root))


def some_box(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    centre = _normal(rng, n) * 0.5
    radius = np.abs(_normal(rng, n)) + 0.3
    return f32(centre - radius), f32(centre + radius)


def goals_of(rng: Rng, net: Bounded, count: int, inputs: bool) -> Goals | None:
    """Random rows over the outputs, and over the inputs too where asked."""
    if count == 0:
        return None
    y = torch.from_numpy(rng.normal(size=(count, height(net.graph))))
    x = torch.from_numpy(rng.normal(size=(count, width(net.graph)))) if inputs else None
    return Goals(y, x, torch.from_numpy(rng.normal(size=count)))


def split_rows(rng: Rng, net: Bounded, size: int, splits: int, goals: int) -> Rows:
    """Rows in domains of their own: some neurons' phases fixed, some intervals a little narrower."""
    low, high = (end.expand(size, -1).clone() for end in net.known)
    count = net.columns.count
    splits = min(splits, count)
    chosen, phase = -torch.ones((size, splits), dtype=torch.int64), torch.zeros((size, splits), dtype=low.dtype)
    for b in range(size):
        some = rng.permutation(count)[: int(rng.integers(0, min(splits, count) + 1))]
        for k, u in enumerate(some.tolist()):
            chosen[b, k], phase[b, k] = u, float(rng.choice([-1.0, 1.0]))
            (high if phase[b, k] > 0 else low)[b, u] = 0.0
        for u in rng.permutation(count)[:1].tolist():
            low[b, u] *= float(rng.uniform(0.5, 1))
            high[b, u] *= float(rng.uniform(0.5, 1))
    return Rows(low, high, chosen, phase, torch.ones((1, goals), dtype=torch.bool))


def element_rows(rng: Rng, net: Bounded, rows: Rows, source: str) -> Rows:
    """The same domains, asked for random elements of a value, of either sign."""
    size = len(rows.splits)
    most = int(np.prod(net.program.shapes[source]))
    index = torch.from_numpy(rng.integers(0, most, size))
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], size)).to(rows.lower.dtype)
    return replace(rows, source=source, index=index, sign=sign)


def random_multipliers(rng: Rng, net: Bounded, rows: Rows, goals: int, scale: float = 1.0) -> Multipliers:
    size, dtype = len(rows.splits), net.program.dtype

    def some(*shape: int, **kind: Any) -> Tensor:
        return torch.from_numpy(rng.uniform(size=shape, **kind)).to(dtype)

    return Multipliers(
        some(size, net.columns.count, low=0.1, high=0.9),
        some(size, rows.splits.shape[1]) * scale,
        some(size, goals) * scale,
    )
