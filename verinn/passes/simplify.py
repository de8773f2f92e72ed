"""From the graph as read to the graph that the engines see: identities gone, affine chains fused."""

from __future__ import annotations

import numpy as np

from verinn.ir.graph import Graph
from verinn.passes import before_moves, channels, fuse, identities, recognise
from verinn.passes.rewrite import exhaust


def drop_identities(graph: Graph) -> Graph:
    """Drop nodes that do nothing; merge reshapes, and transposes, in a row."""
    return exhaust(graph, identities.RULES)


def fuse_affine(graph: Graph) -> Graph:
    """Merge scales, shifts, padding and linear maps into the linear and conv nodes beside them."""
    return exhaust(graph, (*fuse.RULES, *before_moves.RULES, *channels.RULES))


def hoist_reshapes(graph: Graph) -> Graph:
    """Move reshapes out of the way of fusion, toward the inputs, where they meet and vanish."""
    return exhaust(graph, (*identities.RULES, *fuse.RESHAPES))


def recognise_functions(graph: Graph) -> Graph:
    """Find core functions in what exporters write out: GELU, SiLU, squares, softmax; functions of 0/1 values."""
    return exhaust(graph, recognise.RULES)


PASSES = (drop_identities, recognise_functions, fuse_affine, hoist_reshapes)


def simplify(graph: Graph) -> Graph:
    """The passes in turn until none changes anything; the graph is checked after every sweep.

    The result computes the same exact function on the same inputs and outputs (their names in the
    file stay; the values behind outputs may be renamed). Raises GraphError only for a defect.
    """
    with np.errstate(all="ignore"):
        while True:
            before = graph
            for change in PASSES:
                graph = change(graph)
            if graph is before:
                return graph
