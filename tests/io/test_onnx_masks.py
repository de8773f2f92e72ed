"""Attention scores with entries that a mask pins at minus infinity, or at a large negative number."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from test_onnx_networks import Net

from verinn.attack.replay import Original, agree
from verinn.bounds.domain import bound_rows, relax
from verinn.errors import Unsupported
from verinn.io.onnx_reader import read_graph
from verinn.ops import evaluate
from verinn.ops.program import Program
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

torch.set_num_threads(1)

LEAST = float(np.finfo(np.float32).min)
LEVELS = (-np.inf, -1e4, -1e9, LEAST)
CAUSAL = np.triu(np.ones((4, 4), bool), 1)
PADDED = np.tile([False, False, True, False], (4, 1))
RANDOM = np.array([[0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
WAYS = ("add", "subtracted", "where", "fill", "scaled", "moved", "folded", "stable")


def masked(net: Net, way: str, scores: str, dead: np.ndarray, level: float) -> str:
    """The scores (1, 2, 4, 4) with a mask, as exporters write it."""
    if way == "add":
        return net("Add", scores, net.const(np.where(dead, level, 0.0)))
    if way == "subtracted":
        return net("Sub", net.const(np.where(dead, level, 0.25)), scores)
    if way == "where":
        return net("Where", net.const(~dead, bool), scores, net.const(level))
    if way == "fill":
        return net("Where", net.const(dead[None], bool), net.const(level), scores)
    if way == "scaled":
        return net("Div", net("Add", net.const(np.where(dead, level, 0.0)), scores), net.const(1.5))
    if way == "moved":
        turned = net("Transpose", net("Add", scores, net.const(np.where(dead, level, 0.0))), perm=[0, 3, 1, 2])
        return net("Identity", net("Transpose", net("Reshape", turned, net.ints(1, 4, 2, 4)), perm=[0, 2, 3, 1]))
    if way == "folded":
        mask = net("Where", net.const(dead, bool), net.const(level), net.const(0.0))
        return net("Add", scores, net("Unsqueeze", mask, net.ints(0)))
    return net("Add", scores, net.const(np.where(dead, level, 0.0)))


def attention(way: str, dead: np.ndarray, level: float, opset: int = 13) -> onnx.ModelProto:
    """Two heads of attention over four tokens of six features, and a linear layer."""
    net = Net(opset, 3)
    x = net.input("x", 1, 4, 6)
    shape = net.ints(1, 4, 2, 3)
    heads = [net("Reshape", net("MatMul", x, net.random(6, 6)), shape) for _ in range(3)]
    query, value = (net("Transpose", head, perm=[0, 2, 1, 3]) for head in heads[:2])
    key = net("Transpose", heads[2], perm=[0, 2, 3, 1])
    scores = masked(net, way, net("MatMul", query, key), dead, level)
    if way == "stable":  # softmax by hand
        top = net.by_axes("ReduceMax", scores, -1, since=18)
        powers = net("Exp", net("Sub", scores, top))
        weights = net("Div", powers, net("ReduceSum", powers, net.ints(-1)))
    else:
        weights = net("Softmax", scores, axis=-1 if opset >= 13 else 3)
    flat = net("Flatten", net("MatMul", weights, value))
    return net.build(net("MatMul", flat, net.random(24, 2)))


@pytest.mark.parametrize("dead", [CAUSAL, PADDED, RANDOM], ids=["causal", "padded", "random"])
@pytest.mark.parametrize("way", WAYS)
def test_masked_attention_is_what_onnx_runtime_runs(way: str, dead: np.ndarray) -> None:
    for level in LEVELS:
        model = attention(way, dead, level)
        graph = read_graph(model)
        agree(graph, Original(model), 1)
        same(graph, simplify(graph))


@pytest.mark.parametrize("opset", [11, 17])
def test_over_opsets(opset: int) -> None:
    model = attention("where", CAUSAL, -np.inf, opset)
    agree(read_graph(model), Original(model), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_bounds_with_masks_hold_and_say_something(level: float, dtype: torch.dtype) -> None:
    """Large negative numbers cost hardly more than minus infinity (float32's least one in float64 only)."""
    widths = []
    for pinned in (-np.inf, level):
        graph = simplify(read_graph(attention("add", CAUSAL, pinned)))
        program = Program.prepare(graph, dtype)
        middle = torch.linspace(-1, 1, 24, dtype=dtype).reshape(1, -1)
        low, high = middle - 0.05, middle + 0.05
        points = low + (high - low) * torch.rand((400, 24), generator=torch.Generator().manual_seed(1), dtype=dtype)
        name = graph.outputs[0].value
        values = evaluate(graph, [points.double().reshape(400, 1, 4, 6)])[name].reshape(400, 2)
        base = relax(program, low, high)
        rows = torch.cat([torch.eye(2, dtype=dtype), -torch.eye(2, dtype=dtype)]).reshape(1, 4, 1, 2)
        least = bound_rows(base, {name: rows}, torch.zeros((1, 1)).double()).minimum(low, high)[0]
        ends = base.intervals[name]
        assert bool(((values >= ends[0].double()) & (values <= ends[1].double())).all())
        assert bool((values.amin(0) >= least[:2]).all() and (values.amax(0) <= -least[2:]).all())
        widths.append(torch.stack([(ends[1] - ends[0]).reshape(2).double(), -least[2:] - least[:2]]))
    assert bool((widths[1][0] <= 1.1 * widths[0][0]).all())
    if level > -1e30 or level == -np.inf or dtype == torch.float64:
        assert bool((widths[1][1] <= 1.05 * widths[0][1]).all())


def test_logarithms_of_masked_softmax() -> None:
    """Where −∞ is what comes out, it is told; behind exp it is 0 again."""
    for last in (True, False):
        net = Net(13)
        scores = net("Add", net.input("x", 2, 3), net.const([[0, -np.inf, 0], [0, 0, 0]]))
        y = net("LogSoftmax", scores, axis=1)
        model = net.build(net("Exp", y) if last else y)
        if last:
            agree(read_graph(model), Original(model), 1)
        else:
            with pytest.raises(Unsupported, match="minus infinity in part"):
                read_graph(model)


def test_what_cannot_be_minus_infinity_is_refused() -> None:
    def refused(net: Net, y: str, text: str) -> None:
        with pytest.raises(Unsupported, match=text):
            read_graph(net.build(y))

    net = Net(13)
    x = net("Add", net.input("x", 2, 2), net.const([[0, -np.inf]]))
    refused(net, net("Relu", x), "Relu isn't supported on values that are minus infinity")
    refused(net, net("Mul", x, net.const(-1.0)), "isn't a positive constant")
    refused(net, net("Where", net("Greater", "x", net.const(0.0)), x, "x"), "depends on the input")
    net = Net(13)
    dead = net("Add", net.input("x", 2, 2), net.const([[-np.inf], [0]]))
    with pytest.raises(Exception, match="nothing but minus infinity"):
        read_graph(net.build(net("Softmax", dead, axis=1)))
