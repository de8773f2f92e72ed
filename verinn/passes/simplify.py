"""From the graph as read to the graph that the engines see: identities gone, affine chains fused."""

from __future__ import annotations

import numpy as np

from verinn.ir.graph import Graph
from verinn.passes import fuse, identities
from verinn.passes.rewrite import exhaust


def drop_identities(graph: Graph) -> Graph:
    """Drop nodes that do nothing; merge reshapes, and transposes, in a row."""
    return exhaust(graph, identities.RULES)


def fuse_affine(graph: Graph) -> Graph:
    """Merge scales, shifts, padding and linear maps into the linear and conv nodes beside them."""
    return exhaust(graph, fuse.RULES)


def hoist_reshapes(graph: Graph) -> Graph:
    """Move reshapes out of the way of fusion, toward the inputs, where they meet and vanish."""
    return exhaust(graph, (*identities.RULES, *fuse.RESHAPES))


PASSES = (drop_identities, fuse_affine, hoist_reshapes)


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
