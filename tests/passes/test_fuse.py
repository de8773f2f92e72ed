"""Passes: what they must leave, that they change no function, and that errors cover the exact weights."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.io.onnx_reader import read_graph
from verinn.ir.check import GraphError
from verinn.ir.const import error_of
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)


def chain(shape: tuple[int, ...], *steps: tuple[str, list[np.ndarray], dict[str, object]]) -> onnx.ModelProto:
    """A chain of nodes, each reading the one before and its constants (constant first if named 'c@x')."""
    nodes, weights, last = [], [], "x"
    for index, (op, constants, attrs) in enumerate(steps):
        names = []
        for number, array in enumerate(constants):
            names.append(f"w{index}_{number}")
            weights.append(numpy_helper.from_array(np.asarray(array), names[-1]))
        inputs = [*names, last] if op.endswith("<") else [last, *names]
        nodes.append(helper.make_node(op.rstrip("<"), inputs, [f"v{index}"], name=f"n{index}", **attrs))
        last = f"v{index}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def simplified(model: onnx.ModelProto) -> Graph:
    graph = read_graph(model)
    after = simplify(graph)
    same(graph, after)
    assert simplify(after) is after
    return after


def ops(graph: Graph) -> str:
    return " ".join(node.op for node in graph.nodes)


RESHAPE = ("Reshape", [np.array([1, -1])], {})
TO_COLUMN = ("Reshape", [np.array([-1, 1])], {})
CHAINS = {
    "acasxu": (
        chain(
            (1, 1, 1, 5),
            ("Sub", [f32(1, 1, 1, 5)], {}),
            ("Flatten", [], {}),
            ("MatMul", [f32(5, 7)], {}),
            ("Add", [f32(7)], {}),
            ("Relu", [], {}),
            ("MatMul", [f32(7, 3)], {}),
            ("Add", [f32(3)], {}),
        ),
        "reshape linear relu linear",
    ),
    "normalised input": (
        chain(
            (1, 2, 3, 3),
            ("Sub", [f32(1, 2, 1, 1)], {}),
            ("Div", [np.array(0.3, np.float32)], {}),
            ("Flatten", [], {}),
            ("Gemm", [f32(18, 4), f32(4)], {}),
            ("Sigmoid", [], {}),
        ),
        "reshape linear sigmoid",
    ),
    "columns": (
        chain(
            (5, 1),
            ("MatMul<", [f32(4, 5)], {}),
            ("Add", [f32(4, 1)], {}),
            ("Relu", [], {}),
            ("MatMul<", [f32(3, 4)], {}),
            ("Add<", [f32(3, 1)], {}),
        ),
        "reshape linear relu linear reshape",
    ),
    "offset after a reshape": (
        chain(
            (1, 4),
            ("MatMul", [f32(4, 12)], {}),
            ("Reshape", [np.array([1, 3, 4])], {}),
            ("BatchNormalization", [f32(3), f32(3), f32(3), np.abs(f32(3))], {}),
        ),
        "linear reshape",
    ),
    "vector": (
        chain((5,), ("MatMul", [f32(5, 4)], {}), ("Relu", [], {}), ("MatMul", [f32(4, 2)], {})),
        "linear relu linear",
    ),
    "batch normalisation": (
        chain(
            (1, 2, 6, 6),
            ("Conv", [f32(3, 2, 3, 3), f32(3)], {"pads": [1, 1, 1, 1]}),
            ("BatchNormalization", [f32(3), f32(3), f32(3), np.abs(f32(3))], {}),
            ("Relu", [], {}),
        ),
        "conv relu",
    ),
    "scaled channels": (
        chain((1, 2, 6), ("Mul", [f32(2, 1)], {}), ("Conv", [f32(3, 2, 3)], {"pads": [1, 1]})),
        "conv",
    ),
    "shifted channels": (
        chain((1, 2, 6), ("Add", [f32(2, 1)], {}), ("Conv", [f32(4, 1, 3), f32(4)], {"group": 2})),
        "conv",
    ),
    "shifted channels, padded": (
        chain((1, 2, 6), ("Add", [f32(2, 1)], {}), ("Conv", [f32(3, 2, 3)], {"pads": [1, 1]})),
        "shift conv",
    ),
    "padded": (
        chain(
            (1, 2, 6),
            ("Pad", [np.array([0, 0, 1, 0, 0, 2])], {}),
            ("Conv", [f32(3, 2, 3)], {"pads": [0, 1]}),
        ),
        "conv",
    ),
    "padded by one": (
        chain(
            (1, 2, 6),
            ("Pad", [np.array([0, 0, 1, 0, 0, 2]), np.array(1, np.float32)], {}),
            ("Conv", [f32(3, 2, 3)], {}),
        ),
        "pad conv",
    ),
    "narrowing": (chain((1, 9), ("MatMul", [f32(9, 6)], {}), ("MatMul", [f32(6, 2)], {})), "linear"),
    "bottleneck": (chain((1, 9), ("MatMul", [f32(9, 1)], {}), ("MatMul", [f32(1, 9)], {})), "linear linear"),
    "nothing": (
        chain(
            (1, 3),
            ("Add", [np.zeros(3, np.float32)], {}),
            ("Mul", [np.ones(1, np.float32)], {}),
            ("Identity", [], {}),
            ("Transpose", [], {"perm": [0, 1]}),
            ("Neg", [], {}),
            ("Neg", [], {}),
            ("Unsqueeze", [np.array([0])], {}),
            ("Squeeze", [np.array([0])], {}),
            ("Dropout", [], {}),
        ),
        "",
    ),
    "transposes": (
        chain((2, 3, 4), ("Transpose", [], {"perm": [1, 2, 0]}), ("Transpose", [], {"perm": [2, 0, 1]})),
        "",
    ),
    "unit axes moved": (chain((1, 3, 1), ("Transpose", [], {"perm": [2, 0, 1]}), ("Relu", [], {})), "reshape relu"),
    "shift per row stays": (chain((2, 3), ("MatMul", [f32(3, 3)], {}), ("Add", [f32(2, 1)], {})), "linear shift"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str) -> None:
    model, expected = CHAINS[name]
    assert ops(simplified(model)) == expected


def test_values_with_other_readers_stay() -> None:
    """A value that is an output, or read twice, isn't merged away."""
    model = chain((1, 3), ("MatMul", [f32(3, 3)], {}), ("Add", [f32(3)], {}), ("Relu", [], {}))
    assert ops(simplified(model)) == "linear relu"
    hidden = read_graph(model, hidden=["v0"])
    after = simplify(hidden)
    same(hidden, after)
    assert ops(after) == "linear shift relu"
    model.graph.node.append(helper.make_node("Add", ["v0", "v2"], ["z"]))
    model.graph.output[0].name = "z"
    assert ops(simplified(model)) == "linear shift relu sum"


def test_output_that_is_an_input() -> None:
    graph = simplified(chain((1, 3), ("Identity", [], {})))
    assert graph.nodes == ()
    assert graph.outputs[0].name == "v0"
    assert graph.outputs[0].value == "x"


def exact(array: np.ndarray) -> np.ndarray:
    return np.array([Fraction(float(v)) for v in np.asarray(array).flat], dtype=object).reshape(np.shape(array))


def covers(const: Const, truth: np.ndarray) -> None:
    assert np.all(np.abs(exact(const.value) - truth) <= exact(error_of(const)))


@pytest.mark.parametrize("seed", range(10))
def test_errors_cover_the_exact_weights(seed: int) -> None:
    """(x − m) / d through two linear maps and a scale: exact weights by rational arithmetic."""
    m, d, s = f32(4, seed=seed), f32(4, seed=seed + 50), f32(2, seed=seed + 99)
    w1, b1, w2, b2 = f32(4, 3, seed=seed), f32(3, seed=seed), f32(3, 2, seed=seed), f32(2, seed=seed + 1)
    model = chain(
        (1, 4),
        ("Sub", [m], {}),
        ("Div", [d], {}),
        ("Gemm", [w1, b1], {}),
        ("Gemm", [w2, b2], {"alpha": 0.1}),
        ("Mul", [s], {}),
    )
    graph = simplified(model)
    assert ops(graph) == "linear"
    alpha = Fraction(float(np.float32(0.1)))
    inner = exact(w1) / exact(d)[:, None]
    truth = (inner @ exact(w2)) * alpha * exact(s)
    bias = ((exact(b1) - exact(m) @ inner) @ exact(w2) * alpha + exact(b2)) * exact(s)
    covers(graph.nodes[0].params["weight"], truth)
    covers(graph.nodes[0].params["bias"], bias)


@pytest.mark.parametrize("seed", range(5))
def test_batch_normalisation_covers_the_exact_weights(seed: int) -> None:
    """With a variance whose root, after epsilon, is rational the exact factor is known."""
    rng = np.random.default_rng(seed)
    epsilon = np.float32(2.0**-10)
    roots = rng.integers(1, 60, 3) / 16 + 1
    variance = (roots**2 - float(epsilon)).astype(np.float32)
    assert np.all(variance.astype(np.float64) == roots**2 - float(epsilon))
    scale, bias, mean = (f32(3, seed=seed + k) for k in range(3))
    kernel = f32(3, 2, 2, seed=seed)
    batch = ("BatchNormalization", [scale, bias, mean, variance], {"epsilon": float(epsilon)})
    graph = simplified(chain((1, 2, 5), ("Conv", [kernel], {}), batch))
    assert ops(graph) == "conv"
    factor = exact(scale) / exact(roots)
    covers(graph.nodes[0].params["weight"], exact(kernel) * factor[:, None, None])
    covers(graph.nodes[0].params["bias"], exact(bias) - exact(mean) * factor)


def test_readers_are_counted_through_identities() -> None:
    """Two readers of an identity are two readers of what it returns: nothing is computed twice."""
    model = chain((1, 3), ("MatMul", [f32(3, 3)], {}), ("Add", [np.zeros(3, np.float32)], {}), ("Mul", [f32(3)], {}))
    model.graph.node.extend([helper.make_node("Relu", ["v1"], ["r"]), helper.make_node("Add", ["r", "v2"], ["z"])])
    model.graph.output[0].name = "z"
    assert ops(simplified(model)) == "linear scale relu sum"


def test_readers_are_counted_when_moves_merge() -> None:
    turn = {"perm": [1, 0]}
    model = chain((3, 3), ("MatMul", [f32(3, 3)], {}), ("Transpose", [], turn), ("Transpose", [], {"perm": [1, 0]}))
    nodes = [
        helper.make_node("Relu", ["v1"], ["r"]),
        helper.make_node("Mul", ["v2", "w0_0"], ["s"]),
        helper.make_node("Add", ["s", "r"], ["z"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "z"
    assert ops(simplified(model)).split().count("linear") == 1


def test_a_factor_of_nearly_one_is_no_identity() -> None:
    factor = Const(np.ones(3), np.full(3, 1e-9))
    node = Node("y", "scale", ("x",), (1, 3), params=frozen({"factor": factor}))
    graph = Graph((Input("x", (1, 3)),), (node,), (Output("y", "y"),))
    assert simplify(graph) is graph


def test_overflow_is_not_folded() -> None:
    huge = frozen({"factor": Const(np.full(3, 1e200))})
    nodes = (
        Node("a", "scale", ("x",), (1, 3), params=huge),
        Node("b", "scale", ("a",), (1, 3), params=huge),
    )
    graph = Graph((Input("x", (1, 3)),), nodes, (Output("y", "b"),))
    assert ops(simplify(graph)) == "scale scale"


def test_same_catches_a_change() -> None:
    model = chain((1, 3), ("MatMul", [f32(3, 3)], {}), ("Relu", [], {}))
    changed = chain((1, 3), ("MatMul", [f32(3, 3) * np.float32(1 + 1e-6)], {}), ("Relu", [], {}))
    with pytest.raises(GraphError, match="changed what the graph computes"):
        same(read_graph(model), read_graph(changed))


def segmentation(layout: str) -> onnx.ModelProto:
    """Two classes of a convolution, their difference, a comparison; channels first or last, with or without batch."""
    weight, bias = f32(3, 2, 3, 3), f32(3)
    text = {
        "first": ([("Squeeze", [np.array([0])], {})], 0),
        "last": ([("Transpose", [], {"perm": [0, 2, 3, 1]})], 3),
    }
    steps, axis = text[layout]
    model = chain((1, 2, 5, 4), ("Conv", [weight, bias], {"pads": [1, 1, 1, 1]}), *steps)
    last = model.graph.output[0].name
    for number in (0, 2):
        ends = [numpy_helper.from_array(np.array([n]), f"{k}{number}") for k, n in (("s", number), ("e", number + 1))]
        model.graph.initializer.extend(ends)
        model.graph.node.append(helper.make_node("Slice", [last, f"s{number}", f"e{number}", "axis"], [f"c{number}"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), "axis"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "level"))
    model.graph.node.append(helper.make_node("Sub", ["c2", "c0"], ["d"]))
    model.graph.node.append(helper.make_node("Greater", ["d", "level"], ["g"]))
    model.graph.node.append(helper.make_node("Cast", ["g"], ["y"], to=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    return model


def test_margins_of_channels_are_a_convolution() -> None:
    after = simplified(segmentation("first"))
    assert ops(after) == "conv step reshape"
    conv, weight = after.nodes[0], f32(3, 2, 3, 3).astype(np.float64)
    assert conv.shape == (1, 1, 5, 4)
    gap = np.abs(conv.params["weight"].value - (weight[2:] - weight[:1]))
    assert np.all(gap <= error_of(conv.params["weight"]))
    assert ops(simplified(segmentation("last"))) == "conv step reshape"
