"""Fixed inputs: what they decide is folded, the function stays the same in the box, errors cover the intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.io.onnx_reader import read_graph
from verinn.ir.const import error_of
from verinn.ir.graph import Graph
from verinn.ops import evaluate
from verinn.passes.fixed import fix_inputs, simpler
from verinn.passes.simplify import simplify

torch.set_num_threads(1)
RNG = np.random.default_rng(2)


def gated() -> Graph:
    """x[0:3] times a mask x[3:6] that is compared with x[6], through a linear layer, plus floor(x[6])."""
    weights = {
        "w": RNG.standard_normal((3, 2)).astype(np.float32),
        **{f"i{k}": np.array([k]) for k in (0, 3, 6, 7)},
    }
    nodes = [
        helper.make_node("Slice", ["x", "i0", "i3"], ["a"]),
        helper.make_node("Slice", ["x", "i3", "i6"], ["b"]),
        helper.make_node("Slice", ["x", "i6", "i7"], ["t"]),
        helper.make_node("Greater", ["b", "t"], ["g"]),
        helper.make_node("Cast", ["g"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "m"], ["p"]),
        helper.make_node("MatMul", ["p", "w"], ["l"]),
        helper.make_node("Floor", ["t"], ["f"]),
        helper.make_node("Add", ["l", "f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return read_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def values(graph: Graph, points: np.ndarray) -> np.ndarray:
    found = evaluate(graph, [torch.from_numpy(points)])[graph.outputs[0].value]
    return found.expand(len(points), *graph.shapes()[graph.outputs[0].value]).numpy()


CENTRE = np.array([0.3, -1.0, 2.0, 0.9, 0.1, 0.7, 0.5])


@pytest.mark.parametrize("free", [(), (0, 1, 2), (3,), (0, 6), (6,), tuple(range(7))])
def test_the_function_stays_in_the_box(free: tuple[int, ...]) -> None:
    graph = gated()
    lower, upper = CENTRE.copy(), CENTRE.copy()
    for index in free:
        lower[index], upper[index] = lower[index] - 1.0, upper[index] + 1.0
    fixed = fix_inputs(graph, lower, upper)
    points = lower + RNG.random((50, 7)) * (upper - lower)
    for after in (fixed, simplify(fixed)):
        np.testing.assert_allclose(values(after, points), values(graph, points), atol=1e-12)
    ops = [node.op for node in fixed.nodes]
    if free == (0, 1, 2):
        assert not {"mul", "step", "floor"} & set(ops)
        assert simpler(graph, fixed)
    if free == tuple(range(7)):
        assert fixed is graph
        assert not simpler(graph, fixed)


def test_intervals_of_rounding_become_errors() -> None:
    """A decimal bound and its float32 rounding: the constant's error reaches both ends."""
    graph = gated()
    decimal = CENTRE + 0.0123456789
    rounded = decimal.astype(np.float32).astype(np.float64)
    lower, upper = np.minimum(decimal, rounded), np.maximum(decimal, rounded)
    lower[3], upper[3] = -1.0, 2.0
    fixed = fix_inputs(graph, lower, upper)
    assert "mul" not in {node.op for node in fixed.nodes}
    for ends in (lower, upper):
        gap = np.abs(values(fixed, ends[None]) - values(graph, ends[None]))
        room = sum(float(error_of(const).sum()) for node in fixed.nodes for const in node.params.values())
        assert 0.0 < room < 1e-6
        assert float(gap.max()) <= 4 * room + 1e-12


def test_a_jump_inside_an_interval_stays() -> None:
    """floor of an interval across a whole number isn't decided by its middle."""
    graph = gated()
    lower, upper = CENTRE.copy(), CENTRE.copy()
    lower[6], upper[6] = 1.0 - 2.0**-26, 1.0
    fixed = fix_inputs(graph, lower, upper)
    assert "floor" in [node.op for node in fixed.nodes]
