"""Sorted entries have the bounds of order statistics; control flow that the input decides is refused or chosen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_cases import FLOAT, INT64, net
from onnx_control import BOOL, around, body, value

from verinn.bounds.domain import bound_rows, relax
from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader import read_graph
from verinn.io.onnx_reader.sorting import layers
from verinn.ops import evaluate
from verinn.ops.program import Program

torch.set_num_threads(1)


@pytest.mark.parametrize("size", range(1, 9))
def test_comparisons_sort(size: int) -> None:
    """All rows of zeros and ones are sorted, so all rows are (the zero-one principle)."""
    rows = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    for pairs in layers(size):
        assert len({k for pair in pairs for k in pair}) == 2 * len(pairs)
        for i, j in pairs:
            rows[:, i], rows[:, j] = np.maximum(rows[:, i], rows[:, j]), np.minimum(rows[:, i], rows[:, j])
    assert np.all(rows[:, :-1] >= rows[:, 1:])


@pytest.mark.parametrize("largest", [0, 1])
def test_bounds_of_sorted_entries(largest: int) -> None:
    """Intervals are those of order statistics; CROWN holds, and is exact where the order is known."""
    rng = np.random.default_rng(largest)
    model = net("TopK", [(7,), np.array([4], np.int64)], {"largest": largest}, 13, (FLOAT, None))
    graph = read_graph(model)
    program = Program.prepare(graph, torch.float64)
    name = graph.outputs[0].value
    for spread in (1.0, 0.2, 1e-3):
        middle = torch.from_numpy(rng.permutation(np.linspace(-1, 1, 7))).reshape(1, -1)
        low, high = middle - spread * torch.from_numpy(rng.random((1, 7))), middle + spread
        base = relax(program, low, high)
        for end, got in zip((low, high), base.intervals[name], strict=True):
            assert torch.allclose(got.reshape(4), end.sort(descending=bool(largest)).values[0, :4], 0, 1e-12)
        rows = torch.cat([torch.eye(4), -torch.eye(4)]).double().reshape(1, 8, 4)
        least = bound_rows(base, {name: rows}, torch.zeros((1, 1)).double()).minimum(low, high)[0]
        points = low + (high - low) * torch.from_numpy(rng.random((500, 7)))
        values = evaluate(graph, [points])[name]
        assert bool((values == points.sort(descending=bool(largest)).values[:, :4]).all())
        assert bool((values.amin(0) >= least[:4]).all() and (values.amax(0) <= -least[4:]).all())
        if spread == 1e-3:
            assert bool((-least[4:] - least[:4] <= 2.1e-3).all())


def test_entries_in_any_order_are_refused() -> None:
    model = net("TopK", [(7,), np.array([4], np.int64)], {"sorted": 0}, 13, (FLOAT, None))
    with pytest.raises(Unsupported, match="in any order"):
        read_graph(model)
    model = net("TopK", [(40,), np.array([2], np.int64)], {}, 13, (FLOAT, INT64))
    with pytest.raises(Unsupported, match="places of 40 entries"):
        read_graph(model)
    model = net("TopK", [(4,), np.array([5], np.int64)], {}, 13, (FLOAT, None))
    with pytest.raises(InputError, match="takes 5 of 4 entries"):
        read_graph(model)


def _loop(condition: list[onnx.NodeProto]) -> onnx.ModelProto:
    inputs = [value("turn", INT64, ()), value("go", BOOL, ()), value("before", FLOAT, (2, 3))]
    nodes = [helper.make_node("Relu", ["before"], ["after"]), *condition]
    inner = body(nodes, inputs, [value("again", BOOL), value("after")])
    loop = helper.make_node("Loop", ["", "", "x"], ["y"], name="turns", body=inner)
    return around(np.random.default_rng(0), [loop], zero=np.array(0.0, np.float32))


def test_loops_that_the_input_ends_are_refused() -> None:
    total = helper.make_node("ReduceSum", ["after"], ["n"], keepdims=0)
    with pytest.raises(Unsupported, match=r"node 'turns' \(Loop\): goes on as the input says"):
        read_graph(_loop([total, helper.make_node("Greater", ["n", "zero"], ["again"])]))
    with pytest.raises(Unsupported, match="more than 1000 turns"):
        read_graph(_loop([helper.make_node("Identity", ["go"], ["again"])]))


def test_what_is_wrong_within_a_body_is_told_by_its_node() -> None:
    bad = helper.make_node("Relu", ["nowhere"], ["again"], name="inner")
    with pytest.raises(InputError, match=r"node 'inner' \(Relu\): reads 'nowhere', which nothing makes"):
        read_graph(_loop([bad]))
    bad = helper.make_node("GridSample", ["after", "after"], ["again"], name="inner")
    with pytest.raises(Unsupported, match=r"node 'inner' \(GridSample\): operator GridSample isn't supported"):
        read_graph(_loop([bad]))


def test_branches_of_different_shapes_are_refused() -> None:
    node = helper.make_node
    inner = [node("Relu", ["x"], ["z"]), node("Flatten", ["x"], ["z"], axis=0)]
    branches = [body([one], [], [value("z")]) for one in inner]
    before = [node("ReduceSum", ["x"], ["n"], keepdims=0), node("Cast", ["n"], ["c"], to=TensorProto.BOOL)]
    choose = node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    with pytest.raises(Unsupported, match="different shapes"):
        read_graph(around(np.random.default_rng(0), [*before, choose]))
