"""Averages weighed by shares are divided last, from a centre: the same function, and bounds that hold and are near."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_recognise import build

from verinn.bounds.crown import Backward, OneHot
from verinn.bounds.domain import relax
from verinn.io.onnx_reader import read_graph
from verinn.ir import const as c
from verinn.ir.check import GraphError
from verinn.ir.graph import Graph
from verinn.ops import Program
from verinn.passes.averages import centre_averages
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

torch.set_num_threads(1)

SHARES = "h = Exp(x)\ns = ReduceSum(h, axes; keepdims=1)\np = Div(h, s)\ny = MatMul(p, w)"
CUBES = (
    "r = Relu(x)\nh = Pow(r, three)\ns = ReduceSum(h, axes; keepdims=1)\np = Div(h, s)\nm = MatMul(p, w)\ny = Add(m, b)"
)


def graph_of(text: str, axis: int = 1, outputs: int = 1, shape: tuple[int, ...] = (1, 5)) -> Graph:
    weight = np.random.default_rng(3).uniform(-40, 300, (shape[-1], outputs)).astype(np.float32)
    bias = np.linspace(-1, 2, outputs).astype(np.float32)
    weights = {"axes": np.array([axis]), "w": weight, "three": 3.0, "b": bias}
    return simplify(read_graph(build(text, weights, shape)))


def box(graph: Graph, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    size = int(np.prod(graph.inputs[0].shape))
    start = np.linspace(low, high, size)
    return start - 0.1, start + 0.1


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("shape", [(1, 5), (2, 5)])
def test_the_function_stays(outputs: int, shape: tuple[int, ...]) -> None:
    graph = graph_of(CUBES, outputs=outputs, shape=shape)
    after = centre_averages(graph, *box(graph, 0.5, 1.5))
    assert [node.op for node in after.nodes][-2:] == ["mul", "shift"]
    same(graph, after)


@pytest.mark.parametrize("size", [1, 2], ids=["not given back", "not taken away"])
def test_a_centre_on_one_side_alone_is_seen(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets are vectors, weights are matrices: one of the two stays as it was."""
    graph = graph_of(CUBES)
    known, name = (c.add, "add") if size == 1 else (c.sub, "sub")
    monkeypatch.setattr(
        c, name, lambda one, two: known(one, two) if one.value.ndim != size else two if size == 1 else one
    )
    with pytest.raises(GraphError, match="changed what the graph computes"):
        centre_averages(graph, *box(graph, 0.5, 1.5))


def test_a_box_without_ends_leaves_a_centre_among_the_weights() -> None:
    graph = graph_of(CUBES)
    size = int(np.prod(graph.inputs[0].shape))
    after = centre_averages(graph, np.full(size, -np.inf), np.full(size, np.inf))
    assert after is not graph
    same(graph, after)


def test_a_sum_along_another_axis_or_of_something_else_is_left() -> None:
    across = graph_of(CUBES, axis=0, shape=(2, 5))
    assert centre_averages(across, *box(across, 0.5, 1.5)) is across
    other = graph_of(CUBES.replace("ReduceSum(h", "ReduceSum(r"))
    assert centre_averages(other, *box(other, 0.5, 1.5)) is other


def test_a_softmax_is_no_quotient_here() -> None:
    graph = graph_of(SHARES)
    assert centre_averages(graph, *box(graph, 0.5, 1.5)) is graph


def bounds(graph: Graph, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    program = Program.prepare(graph, torch.float64)
    ends = torch.as_tensor(lower)[None], torch.as_tensor(upper)[None]
    relaxation = relax(program, *ends)
    size = program.shapes[graph.outputs[0].value][-1]
    index = torch.arange(size).repeat(2)[None]
    sign = torch.cat([torch.ones(size), -torch.ones(size)]).double()[None]
    start = {graph.outputs[0].value: OneHot(index, sign)}
    form = Backward(relaxation).run(start, torch.zeros((1, 2 * size), dtype=torch.float64))
    found = form.minimum(*ends)[0].numpy()
    return found[:size], -found[size:]


@pytest.mark.parametrize("outputs", [1, 3])
def test_bounds_hold_and_are_nearer(outputs: int) -> None:
    graph = graph_of(CUBES, outputs=outputs)
    lower, upper = box(graph, 0.6, 1.5)
    after = centre_averages(graph, lower, upper)
    x = np.random.default_rng(0).uniform(lower, upper, (20000, len(lower)))
    x[:2000] = np.where(np.random.default_rng(1).random((2000, len(lower))) < 0.5, lower, upper)
    y = Program.prepare(graph, torch.float64).flat(torch.as_tensor(x)).numpy()
    low, high = bounds(after, lower, upper)
    assert np.all(low <= y.min(0)) and np.all(high >= y.max(0))
    wide = bounds(graph, lower, upper)
    assert np.all(high - low < 0.95 * (wide[1] - wide[0]))


def test_a_sum_that_may_vanish_has_no_bounds() -> None:
    graph = graph_of(CUBES)
    lower, upper = -np.ones(5), np.ones(5)
    low, high = bounds(centre_averages(graph, lower, upper), lower, upper)
    assert np.all(~(low > -np.inf)) and np.all(~(high < np.inf))
