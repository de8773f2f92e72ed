"""Values that are whole numbers whatever the inputs: their intervals end at whole numbers too."""

from __future__ import annotations

import numpy as np

from verinn.ir.graph import Graph, Node
from verinn.ops.registry import OPS
from verinn.ops.stairs import Stairs

_SUMS = frozenset({"scale", "shift", "sum", "reduce_sum", "constant", "linear", "conv", "mul", "matmul"})
_MOVES = frozenset({"reshape", "transpose", "slice", "gather", "concat", "expand"})
_PICKS = frozenset({"relu", "abs", "max_pool", "reduce_max"})


def whole_values(graph: Graph) -> frozenset[str]:
    """Names of values that step functions give, and what sums, products and moves make of such with whole numbers."""
    found: set[str] = set()
    for node in graph.nodes:
        keeps = node.op in _SUMS or node.op in _MOVES or node.op in _PICKS
        if isinstance(OPS[node.op], Stairs) or (keeps and found.issuperset(node.inputs) and _plain(node)):
            found.add(node.name)
    return frozenset(found)


def _plain(node: Node) -> bool:
    """Whether all numbers of a node are whole, and exact."""
    consts = node.params.values()
    return all(const.error is None and bool(np.all(const.value == np.rint(const.value))) for const in consts)
