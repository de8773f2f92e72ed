"""Products of variables that a property compares, as graph: comparisons of polynomials become linear.

The powers of single variables come first, then pairs are multiplied in rounds until each product is one
number; a pair that several products share is made once. All pairs of a round are one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from verinn.ir.graph import Graph, Node, Output, frozen
from verinn.passes.property import Places

#: begins the names of values made here, as no network's name does
_MARK = "*"


def with_products(graph: Graph, products: Sequence[tuple[int, ...]], places: Places) -> Graph:
    """The graph with one more output, a vector of the given products of scalars.

    ``products``: the scalar ids of each one's factors. ``places``: where the scalars are in x (the graph's
    inputs, flattened and side by side) and in y (its outputs, likewise).
    """
    if not products:
        return graph
    made = _Vectors(graph)
    value = _multiplied(made, [Counter(factors) for factors in products], places)
    output = Output(_MARK, value, "float64")
    return replace(graph, nodes=(*graph.nodes, *made.nodes), outputs=(*graph.outputs, output))


def _multiplied(made: _Vectors, products: list[Counter[int]], places: Places) -> str:
    """The vector of all products, each given as its factors with their exponents."""
    scalars = sorted({scalar for factors in products for scalar in factors})
    base = made.scalars(np.array(scalars), places)
    number = {scalar: i for i, scalar in enumerate(scalars)}
    powers = sorted({(exponent, scalar) for factors in products for scalar, exponent in factors.items()})
    parts = []
    for exponent in sorted({exponent for exponent, _ in powers}):
        some = made.gather(base, [number[scalar] for e, scalar in powers if e == exponent])
        parts.append(some if exponent == 1 else made.node("pow", [some], made.size(some), exponent=float(exponent)))
    vector = made.concat(parts)
    place = {power: i for i, power in enumerate(powers)}
    left = [[place[exponent, scalar] for scalar, exponent in sorted(factors.items())] for factors in products]
    while any(len(rest) > 1 for rest in left):
        pairs = sorted({pair for rest in left for pair in _pairs(rest)})
        start = made.size(vector)
        sides = [made.gather(vector, [pair[side] for pair in pairs]) for side in (0, 1)]
        vector = made.concat([vector, made.node("mul", sides, len(pairs))])
        known = {pair: start + i for i, pair in enumerate(pairs)}
        left = [[known[pair] for pair in _pairs(rest)] + rest[len(rest) // 2 * 2 :] for rest in left]
    return made.gather(vector, [rest[0] for rest in left])


def _pairs(rest: list[int]) -> list[tuple[int, int]]:
    return list(zip(rest[::2], rest[1::2], strict=False))


@dataclass(eq=False)
class _Vectors:
    """Nodes that make vectors, as they come."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)

    def node(self, op: str, inputs: Sequence[str], size: int, **attrs: object) -> str:
        name = f"{_MARK}{len(self.nodes)}"
        self.nodes.append(Node(name, op, tuple(inputs), (size,), frozen(attrs), source="the property"))
        return name

    def size(self, name: str) -> int:
        return self.nodes[int(name[len(_MARK) :])].shape[0]

    def gather(self, vector: str, index: Sequence[int]) -> str:
        if list(index) == list(range(self.size(vector))):
            return vector
        return self.node("gather", [vector], len(index), axis=0, indices=tuple(map(int, index)))

    def concat(self, vectors: Sequence[str]) -> str:
        if len(vectors) == 1:
            return vectors[0]
        return self.node("concat", vectors, sum(map(self.size, vectors)), axis=0)

    def scalars(self, ids: np.ndarray, places: Places) -> str:
        """The vector of the given scalars, each taken from the input or output that holds it."""
        shapes = self.graph.shapes()
        inputs = [(value.name, value.shape) for value in self.graph.inputs]
        outputs = [(out.value, shapes[out.value]) for out in self.graph.outputs]
        parts: list[str] = []
        order: list[np.ndarray] = []
        for side, tensors in ((True, inputs), (False, outputs)):
            mine = np.flatnonzero(places.is_input[ids] == side)
            place, start = places.place[ids[mine]], 0
            for name, shape in tensors:
                size = int(np.prod(shape, dtype=np.int64))
                here = (place >= start) & (place < start + size)
                if here.any():
                    parts.append(self.gather(self.node("reshape", [name], size), (place[here] - start).tolist()))
                    order.append(mine[here])
                start += size
        found = np.concatenate(order)
        return self.gather(self.concat(parts), np.argsort(found).tolist())
