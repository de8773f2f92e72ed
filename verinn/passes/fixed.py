"""Inputs that a property fixes: what follows from them alone is computed once, and products with it become linear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from verinn.ir import const as c
from verinn.ir.check import ELEMENTWISE, check_graph
from verinn.ir.fold import fold
from verinn.ir.graph import Const, Graph, Node, Shape, frozen

# A box this narrow, relative to its place, is one number: bounds written in decimal are that far from float32.
NARROW = 2.0**-22
_MOVES = frozenset({"reshape", "transpose", "slice", "gather", "expand", "concat"})


def fix_inputs(graph: Graph, lower: np.ndarray, upper: np.ndarray) -> Graph:
    """The graph within a box, with what the fixed inputs decide folded into constants.

    ``lower``, ``upper`` (float64, (n,)) bound all inputs, flattened side by side. An input counts as
    fixed where the two are equal or differ by rounding only; it becomes a constant whose error covers
    the whole of its interval, so bounds computed with the result hold for every point of the box,
    and outside of the box the result means nothing. Inputs, outputs and their names stay. The graph
    itself is returned when nothing is fixed.
    """
    known = _fixed(graph, lower, upper)
    if not any(mask.any() for _, mask in known.values()):
        return graph
    state = _State(graph, known)
    for node in graph.nodes:
        state.take(node)
    outputs = tuple(replace(output, value=state.name(output.value)) for output in graph.outputs)
    used, kept = {output.value for output in outputs}, []
    for node in reversed(state.nodes):
        if node.name in used:
            used.update(node.inputs)
            kept.append(node)
    return check_graph(Graph(graph.inputs, tuple(reversed(kept)), outputs), graph)


def simpler(before: Graph, after: Graph) -> bool:
    """Whether folding saved a product, a jump or another function that isn't piecewise linear."""
    plain = {"relu", "leaky_relu", "prelu", "clip", "abs", "max_pool", "reduce_max"}
    hard = (ELEMENTWISE | {"mul", "matmul", "softmax", "log_softmax"}) - plain
    counts = [sum(math.prod(node.shape) for node in graph.nodes if node.op in hard) for graph in (before, after)]
    return counts[1] < counts[0]


# A constant of which only some elements (mask) are known.
_Part = tuple[Const, np.ndarray]


def _fixed(graph: Graph, lower: np.ndarray, upper: np.ndarray) -> dict[str, _Part]:
    parts, start = {}, 0
    for value in graph.inputs:
        end = start + math.prod(value.shape)
        low, high = lower[start:end].reshape(value.shape), upper[start:end].reshape(value.shape)
        start = end
        with np.errstate(invalid="ignore", over="ignore"):
            mask = np.isfinite(low) & np.isfinite(high) & (low <= high)
            mask &= high - low <= NARROW * np.maximum(np.abs(low), np.abs(high))
            middle = np.where(mask, low + (high - low) / 2, 0.0)
            reach = np.where(mask, np.maximum(high - middle, middle - low), 0.0)
        error = np.where(reach > 0.0, np.nextafter(reach, np.inf), 0.0)
        parts[value.name] = c.make(middle, error), mask
    return parts


class _State:
    """Nodes so far, and what is known of each value."""

    def __init__(self, graph: Graph, known: dict[str, _Part]) -> None:
        self.shapes: Mapping[str, Shape] = graph.shapes()
        self.names = set(self.shapes)
        self.parts = known
        self.nodes: list[Node] = []
        self.constants: dict[str, str] = {}

    def whole(self, name: str) -> Const | None:
        """The constant that a value is, when all of it is known."""
        const, mask = self.parts.get(name, (None, None))
        return const if mask is not None and bool(mask.all()) else None

    def name(self, name: str) -> str:
        """The value as a node may read it: a known one as a constant node."""
        const = self.whole(name)
        if const is None:
            return name
        if name not in self.constants:
            fresh, count = f"{name}@fixed", 0
            while fresh in self.names:
                count += 1
                fresh = f"{name}@fixed{count}"
            self.names.add(fresh)
            self.nodes.append(Node(fresh, "constant", (), const.shape, params=frozen({"value": const})))
            self.constants[name] = fresh
        return self.constants[name]

    def take(self, node: Node) -> None:
        """Fold a node, or keep it in the simplest form."""
        part = self._moved(node) if node.op in _MOVES else None
        if part is None and all(self.whole(name) is not None for name in node.inputs):
            const = self._computed(node)
            part = None if const is None else (const, np.ones(node.shape, bool))
        if part is not None and part[1].any() and bool(np.all(np.isfinite(part[0].value))):
            self.parts[node.name] = part
            if part[1].all():
                return
        self.nodes.append(self._simplest(node))

    def _moved(self, node: Node) -> _Part | None:
        """A move of partly known values."""
        parts = []
        for name in node.inputs:
            nothing = Const(np.zeros(self.shapes[name])), np.zeros(self.shapes[name], bool)
            parts.append(self.parts.get(name, nothing))
        if not any(mask.any() for _, mask in parts):
            return None
        consts = [Const(const.value, const.error) for const, _ in parts]
        masks = [Const(mask.astype(np.float64)) for _, mask in parts]
        return _move(node, consts), _move(node, masks).value > 0.5

    def _computed(self, node: Node) -> Const | None:
        """What a node makes of constants, where constants can be computed with."""
        xs = [x for x in (self.whole(name) for name in node.inputs) if x is not None]
        params, attrs = node.params, node.attrs
        try:
            with np.errstate(all="ignore"):
                match node.op:
                    case "constant":
                        return params["value"]
                    case "scale":
                        return c.mul(xs[0], params["factor"])
                    case "divide":
                        return c.div(xs[0], params["divisor"])
                    case "shift":
                        return c.add(xs[0], params["offset"])
                    case "sum":
                        total = xs[0] if attrs["signs"][0] > 0 else c.neg(xs[0])
                        for sign, x in zip(attrs["signs"][1:], xs[1:], strict=True):
                            total = c.add(total, x) if sign > 0 else c.sub(total, x)
                        return total
                    case "mul":
                        return c.mul(xs[0], xs[1])
                    case "reduce_sum":
                        return c.total(xs[0], attrs["axes"])
                    case "linear":
                        product = c.matmul(xs[0], params["weight"])
                        return c.add(product, params["bias"]) if "bias" in params else product
                if node.op in ELEMENTWISE or node.op == "prelu":
                    return fold(node.op, xs[0], attrs, params)
        except (ValueError, ZeroDivisionError):  # not known well enough: the node stays
            return None
        return None

    def _simplest(self, node: Node) -> Node:
        """A product with a constant is a scale; a sum with one a shift."""
        known = [self.whole(name) for name in node.inputs]
        if node.op == "mul" and (known[0] is None) != (known[1] is None):
            const, name = (known[1], node.inputs[0]) if known[0] is None else (known[0], node.inputs[1])
            assert const is not None
            return replace(node, op="scale", inputs=(name,), params=frozen({"factor": const}))
        if node.op == "sum" and len(known) == 2 and (known[0] is None) != (known[1] is None):
            place = 0 if known[0] is None else 1
            const, sign = known[1 - place], node.attrs["signs"]
            if const is not None and sign[place] > 0:
                offset = const if sign[1 - place] > 0 else c.neg(const)
                params = frozen({"offset": offset})
                return replace(node, op="shift", inputs=(node.inputs[place],), attrs=frozen(), params=params)
        return replace(node, inputs=tuple(self.name(name) for name in node.inputs))


def _move(node: Node, xs: list[Const]) -> Const:
    attrs = node.attrs
    match node.op:
        case "reshape":
            return c.reshape(xs[0], node.shape)
        case "expand":
            return c.expand(xs[0], node.shape)
        case "transpose":
            return c.transpose(xs[0], attrs["perm"])
        case "concat":
            return c.concat(xs, attrs["axis"])
        case "gather":
            return c.move(xs[0], lambda array: np.take(array, attrs["indices"], axis=attrs["axis"]))
        case _:
            specs = zip(attrs["starts"], attrs["steps"], attrs["sizes"], strict=True)
            index = np.ix_(*[start + step * np.arange(size) for start, step, size in specs])
            return c.move(xs[0], lambda array: array[index])
