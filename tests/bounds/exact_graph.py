"""Graphs evaluated in rational arithmetic, the only referee of the bounds' tests; and a builder of graphs."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from verinn.ir.check import check_graph, shape_of
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen

Pick = Callable[[Const], np.ndarray]


class Build:
    """Nodes one after the other, each named by its place; shapes follow."""

    def __init__(self, *shapes: tuple[int, ...]):
        self.inputs = tuple(Input(f"x{i}", shape) for i, shape in enumerate(shapes))
        self.shapes = {value.name: value.shape for value in self.inputs}
        self.nodes: list[Node] = []

    def add(
        self,
        op: str,
        *inputs: str,
        shape: tuple[int, ...] = (),
        params: Mapping[str, Any] | None = None,
        **attrs: Any,
    ) -> str:
        name = f"n{len(self.nodes)}"
        consts = {
            key: value if isinstance(value, Const) else Const(np.asarray(value, dtype=np.float64))
            for key, value in (params or {}).items()
        }
        made = shape_of(op, [self.shapes[i] for i in inputs], attrs, consts, shape)
        self.nodes.append(Node(name, op, tuple(inputs), made, frozen(attrs), frozen(consts)))
        self.shapes[name] = made
        return name

    def graph(self, *outputs: str) -> Graph:
        names = outputs or (self.nodes[-1].name,)
        return check_graph(Graph(self.inputs, tuple(self.nodes), tuple(Output(name, name) for name in names)))


def exact(array: Any) -> np.ndarray:
    """Numbers as they are, as an object array of Fractions."""
    array = np.asarray(array)
    flat = [Fraction(v) if isinstance(v, Fraction) else Fraction(float(v)) for v in array.reshape(-1).tolist()]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(array.shape)


def as_held(const: Const) -> np.ndarray:
    """The exact number is the one held."""
    return exact(const.value)


def somewhere(generator: random.Random) -> Pick:
    """The exact number is anywhere within the error, most often at an end."""
    chosen: dict[int, np.ndarray] = {}

    def pick(const: Const) -> np.ndarray:
        if id(const) not in chosen:
            value = exact(const.value)
            if const.error is not None:
                theta = [Fraction(generator.choice([-1, 1, -1, 1, 0])) for _ in range(value.size)]
                value = value + exact(const.error) * np.array(theta, dtype=object).reshape(value.shape)
            chosen[id(const)] = value
        return chosen[id(const)]

    return pick


def run(graph: Graph, inputs: Sequence[np.ndarray], pick: Pick = as_held) -> dict[str, np.ndarray]:
    """Every value of the graph for object arrays of Fractions."""
    values = {
        value.name: np.asarray(x, dtype=object).reshape(value.shape)
        for value, x in zip(graph.inputs, inputs, strict=True)
    }
    for node in graph.nodes:
        params = {name: pick(const) for name, const in node.params.items()}
        values[node.name] = apply(node, [values[name] for name in node.inputs], params)
    return values


def apply(node: Node, xs: Sequence[np.ndarray], params: Mapping[str, np.ndarray]) -> np.ndarray:
    made = _APPLY[node.op](node, xs, params)
    out = np.empty(node.shape, dtype=object)
    out[...] = made
    return out


def _linear(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    y = np.dot(xs[0], p["weight"])
    return y + p["bias"] if "bias" in p else y


def _padded(node: Node, x: np.ndarray, fill: Any) -> np.ndarray:
    pads, half = node.attrs["pads"], len(x.shape) - 2
    out = np.empty((*x.shape[:2], *[s + pads[i] + pads[i + half] for i, s in enumerate(x.shape[2:])]), dtype=object)
    out[...] = fill
    out[(slice(None), slice(None), *[slice(pads[i], pads[i] + s) for i, s in enumerate(x.shape[2:])])] = x
    return out


def _places(node: Node, kernel: Sequence[int]) -> Any:
    for out in itertools.product(*[range(s) for s in node.shape[2:]]):
        yield (
            out,
            tuple(
                slice(o * s, o * s + d * (k - 1) + 1, d)
                for o, s, d, k in zip(out, node.attrs["strides"], node.attrs["dilations"], kernel, strict=True)
            ),
        )


def _conv(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    weight = p["weight"]
    x, y = _padded(node, xs[0], Fraction(0)), np.empty(node.shape, dtype=object)
    channels, per = weight.shape[1], weight.shape[0] // node.attrs["groups"]
    for place, window in _places(node, weight.shape[2:]):
        for n in range(x.shape[0]):
            for o in range(weight.shape[0]):
                first = o // per * channels
                total = (x[(n, slice(first, first + channels), *window)] * weight[o]).sum()
                y[(n, o, *place)] = total + (p["bias"][o] if "bias" in p else 0)
    return y


def _max_pool(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    x, y = _padded(node, xs[0], None), np.empty(node.shape, dtype=object)
    for place, window in _places(node, node.attrs["kernel"]):
        for n, c in np.ndindex(*x.shape[:2]):
            y[(n, c, *place)] = max(v for v in x[(n, c, *window)].reshape(-1) if v is not None)
    return y


def _sum(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    return sum((x * Fraction(sign) for sign, x in zip(node.attrs["signs"], xs, strict=True)), Fraction(0))


def _slice(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    a = node.attrs
    return xs[0][
        np.ix_(*[[s + t * k for k in range(n)] for s, t, n in zip(a["starts"], a["steps"], a["sizes"], strict=True)])
    ]


def _pad(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    out, pads = np.empty(node.shape, dtype=object), node.attrs["pads"]
    out[...] = Fraction(node.attrs["value"])
    out[tuple(slice(pads[i], pads[i] + s) for i, s in enumerate(xs[0].shape))] = xs[0]
    return out


def _matmul(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
    out = np.empty(node.shape, dtype=object)
    for place in np.ndindex(*node.shape):
        lead, i, j = place[:-2], place[-2], place[-1]
        out[place] = (xs[0][(*lead, i)] * xs[1][(*lead, slice(None), j)]).sum()
    return out


def _each(function: Callable[[Fraction, Mapping[str, Any]], Fraction]) -> Any:
    def image(node: Node, xs: Sequence[np.ndarray], p: Mapping[str, np.ndarray]) -> np.ndarray:
        return exact([function(v, node.attrs) for v in xs[0].reshape(-1)]).reshape(xs[0].shape)

    return image


def clipped(v: Fraction, attrs: Mapping[str, Any]) -> Fraction:
    low, high = attrs["lower"], attrs["upper"]
    v = v if v >= low else Fraction(low)
    return v if v <= high else Fraction(high)


_APPLY: dict[str, Any] = {
    "linear": _linear,
    "conv": _conv,
    "max_pool": _max_pool,
    "scale": lambda node, xs, p: xs[0] * p["factor"],
    "divide": lambda node, xs, p: xs[0] / p["divisor"],
    "shift": lambda node, xs, p: xs[0] + p["offset"],
    "sum": _sum,
    "constant": lambda node, xs, p: p["value"],
    "reduce_sum": lambda node, xs, p: xs[0].sum(axis=tuple(node.attrs["axes"]), keepdims=True),
    "reshape": lambda node, xs, p: xs[0].reshape(node.shape),
    "transpose": lambda node, xs, p: xs[0].transpose(node.attrs["perm"]),
    "slice": _slice,
    "gather": lambda node, xs, p: np.take(xs[0], node.attrs["indices"], axis=node.attrs["axis"]),
    "pad": _pad,
    "concat": lambda node, xs, p: np.concatenate(xs, axis=node.attrs["axis"]),
    "expand": lambda node, xs, p: np.broadcast_to(xs[0], node.shape),
    "relu": _each(lambda v, attrs: max(v, Fraction(0))),
    "leaky_relu": _each(lambda v, attrs: v if v >= 0 else v * Fraction(attrs["alpha"])),
    "abs": _each(lambda v, attrs: abs(v)),
    "clip": _each(clipped),
    "prelu": lambda node, xs, p: np.where(xs[0] >= 0, xs[0], xs[0] * p["slope"]),
    "hard_swish": _each(lambda v, attrs: v * min(max(v + 3, Fraction(0)), Fraction(6)) / 6),
    "reciprocal": _each(lambda v, attrs: 1 / v),
    "sign": _each(lambda v, attrs: Fraction((v > 0) - (v < 0))),
    "step": _each(lambda v, attrs: Fraction(v > 0 if attrs["strict"] else v >= 0)),
    "floor": _each(lambda v, attrs: Fraction(math.floor(v))),
    "ceil": _each(lambda v, attrs: Fraction(math.ceil(v))),
    "round": _each(lambda v, attrs: Fraction(round(v))),
    "mul": lambda node, xs, p: xs[0] * xs[1],
    "matmul": _matmul,
    "reduce_max": lambda node, xs, p: xs[0].max(axis=tuple(node.attrs["axes"]), keepdims=True),
}

KNOWN = frozenset(_APPLY)
