"""The graph checker refuses every broken invariant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from verinn.ir.check import GraphError, check_graph
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen


def small() -> Graph:
    weight = frozen({"weight": Const(np.ones((3, 2))), "bias": Const(np.zeros(2))})
    nodes = (
        Node("h", "linear", ("x",), (1, 2), params=weight),
        Node("r", "relu", ("h",), (1, 2)),
        Node("t", "transpose", ("r",), (2, 1), frozen({"perm": (1, 0)})),
        Node("y", "reshape", ("t",), (2,)),
    )
    return Graph((Input("x", (1, 3)),), nodes, (Output("out", "y"),))


def swap(graph: Graph, index: int, **changes: object) -> Graph:
    nodes = list(graph.nodes)
    nodes[index] = replace(nodes[index], **changes)  # type: ignore[arg-type]
    return replace(graph, nodes=tuple(nodes))


def test_a_sound_graph_passes() -> None:
    graph = small()
    assert check_graph(graph) is graph


BROKEN = {
    "unknown operator": (swap(small(), 1, op="fancy"), "no core operator"),
    "stated shape": (swap(small(), 1, shape=(2, 1)), "states the shape"),
    "stated shape of a linear": (swap(small(), 0, shape=(1, 3)), "states the shape"),
    "reshape of another size": (swap(small(), 3, shape=(3,)), "reshape from"),
    "missing value": (swap(small(), 1, inputs=("nothing",)), "before it is made"),
    "own value": (swap(small(), 1, inputs=("r",)), "before it is made"),
    "too many inputs": (swap(small(), 1, inputs=("h", "h")), "2 inputs"),
    "twice the same name": (swap(small(), 1, name="h"), "two values"),
    "the name of an input": (swap(small(), 0, name="x"), "two values"),
    "bad permutation": (swap(small(), 2, attrs=frozen({"perm": (0, 0)})), "transpose"),
    "missing attribute": (swap(small(), 2, attrs=frozen()), "attributes"),
    "unknown attribute": (swap(small(), 1, attrs=frozen({"alpha": 1.0})), "attributes"),
    "missing parameter": (swap(small(), 0, params=frozen()), "parameters"),
    "bias of another size": (
        swap(small(), 0, params=frozen({"weight": Const(np.ones((3, 2))), "bias": Const(np.zeros(3))})),
        "bias of shape",
    ),
    "NaN": (swap(small(), 0, params=frozen({"weight": Const(np.full((3, 2), np.nan))})), "finite"),
    "float32": (swap(small(), 0, params=frozen({"weight": Const(np.ones((3, 2), np.float32))})), "float32"),
    "negative error": (
        swap(small(), 0, params=frozen({"weight": Const(np.ones((3, 2)), np.full((3, 2), -1.0))})),
        "no bound",
    ),
    "error of another shape": (
        swap(small(), 0, params=frozen({"weight": Const(np.ones((3, 2)), np.ones(2))})),
        "error of shape",
    ),
    "missing output": (replace(small(), outputs=(Output("out", "nothing"),)), "missing value"),
    "no output": (replace(small(), outputs=()), "outputs are"),
    "two outputs of one name": (replace(small(), outputs=(Output("o", "y"), Output("o", "h"))), "outputs are"),
    "unsorted": (replace(small(), nodes=tuple(reversed(small().nodes))), "before it is made"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graph(name: str) -> None:
    graph, text = BROKEN[name]
    with pytest.raises(GraphError, match=text):
        check_graph(graph)


def test_shared_parameters_are_scanned_once() -> None:
    """Against a graph already checked only new parameters are scanned; new ones always are."""
    graph = small()
    assert check_graph(replace(graph, nodes=graph.nodes), graph)
    bad = swap(graph, 0, params=frozen({"weight": Const(np.full((3, 2), np.inf))}))
    with pytest.raises(GraphError, match="finite"):
        check_graph(bad, graph)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("slice", {"starts": (0, 2), "steps": (1, 1), "sizes": (1, 2)}),
        ("slice", {"starts": (0, 1), "steps": (1, -1), "sizes": (1, 3)}),
        ("gather", {"axis": 1, "indices": (0, 3)}),
        ("gather", {"axis": 2, "indices": (0,)}),
        ("pad", {"pads": (0, -1, 0, 0), "value": 0.0}),
        ("concat", {"axis": 2}),
        ("reduce_sum", {"axes": (1, 1)}),
        ("clip", {"lower": 1.0, "upper": 0.0}),
        ("leaky_relu", {"alpha": float("nan")}),
        ("max_pool", {"kernel": (9,), "strides": (1,), "dilations": (1,), "pads": (0, 0)}),
        ("conv", {"strides": (1,), "dilations": (1,), "groups": 1, "pads": (0, 0)}),
    ],
)
def test_operators_that_do_not_fit(op: str, attrs: dict[str, object]) -> None:
    node = Node("y", op, ("x",), (1, 3), frozen(attrs))
    with pytest.raises(GraphError):
        check_graph(Graph((Input("x", (1, 3)),), (node,), (Output("y", "y"),)))
