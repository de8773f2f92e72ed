"""Replay in ONNX Runtime: running originals, and catching a graph that was misread."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.attack.replay import Original, agree
from verinn.errors import InputError
from verinn.io.onnx_reader import read_graph
from verinn.ir.graph import Const, Graph, frozen
from verinn.passes.simplify import simplify

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)


def network(depth: int = 1, scale: float = 1.0, size: int = 8) -> onnx.ModelProto:
    """Conv, pooling and dense layers, with a hidden tensor 'h'."""
    rng = np.random.default_rng(depth)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 0, 0, 1]),
        helper.make_node("AveragePool", ["c"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["p"], ["h"], name="relu"),
        helper.make_node("Flatten", ["h"], ["v0"], name="flat"),
    ]
    weights = [weight("k", 2, 1, 2, 2)]
    features = 2 * (size // 2) ** 2
    for index in range(depth):
        weights += [weight(f"w{index}", features, features), weight(f"b{index}", features)]
        nodes.append(helper.make_node("Gemm", [f"v{index}", f"w{index}", f"b{index}"], [f"g{index}"]))
        nodes.append(helper.make_node("Relu", [f"g{index}"], [f"v{index + 1}"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, size, size])],
        [helper.make_tensor_value_info(f"v{depth}", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_run_reshapes_and_casts(tmp_path: Path) -> None:
    model = network()
    x = np.linspace(-1, 1, 64)
    direct = Original(model).run({"x": x})
    assert list(direct) == ["v1"]
    assert direct["v1"].dtype == np.float32
    packed = tmp_path / "m.onnx.gz"
    packed.write_bytes(gzip.compress(model.SerializeToString()))
    np.testing.assert_array_equal(Original(packed).run({"x": x.reshape(8, 8)})["v1"], direct["v1"])


def test_hidden_tensors_are_returned_too() -> None:
    model = network()
    before = model.SerializeToString()
    values = Original(model, hidden=["h"]).run({"x": np.ones(64)})
    assert values["h"].shape == (1, 2, 4, 4)
    assert model.SerializeToString() == before
    graph = read_graph(model, hidden=["h"])
    assert [output.name for output in graph.outputs] == ["v1", "h"]
    agree(graph, Original(model, hidden=["h"]))


def test_bad_use_is_an_input_error(tmp_path: Path) -> None:
    original = Original(network())
    with pytest.raises(InputError, match="'x' takes"):
        original.run({"x": np.ones(63)})
    with pytest.raises(InputError, match="'x' takes"):
        original.run({})
    broken = network()
    broken.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(InputError, match="can't load") as caught:
        Original(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [1, 4, 12])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0])
def test_rounding_is_no_mismatch(depth: int, scale: float) -> None:
    model = network(depth, scale)
    for seed in range(5):
        agree(read_graph(model), Original(model), seed)


def test_cancellation_is_no_mismatch() -> None:
    """Outputs that are tiny differences of huge numbers: float32 gets no digit right, and that is explained."""
    model = network()
    big = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32) * np.float32(1e6)
    nodes = [
        helper.make_node("Gemm", ["v1", "big"], ["a"]),
        helper.make_node("Gemm", ["a", "flip"], ["y"]),
    ]
    flip = np.zeros((32, 32), np.float32)
    flip[0], flip[1] = 1.0, -1.0
    big[:, 1] = big[:, 0] * np.float32(1 + 1e-7)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([numpy_helper.from_array(big, "big"), numpy_helper.from_array(flip, "flip")])
    model.graph.output[0].name = "y"
    for seed in range(5):
        agree(read_graph(model), Original(model), seed)


def test_rounding_of_a_mix_that_simplifying_removes_is_no_mismatch() -> None:
    """(x, y) is mixed to (x, y + 4096x) and back, then y is taken 2^16 times: only the unsimplified graph rounds."""
    mix, undo, steep = np.array([[1, 4096], [0, 1]]), np.array([[1, -4096], [0, 1]]), np.diag([1.0, 2.0**16])
    weights = {"m": mix, "u": undo, "k": steep}
    nodes = [
        helper.make_node("MatMul", [source, name], [result])
        for source, name, result in (("x", "m", "a"), ("a", "u", "b"), ("b", "k", "y"))
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    raw = read_graph(model)
    for seed in range(5):
        agree(simplify(raw), Original(model), seed, raw=raw)
    with pytest.raises(InputError, match="disagrees"):
        agree(simplify(raw), Original(model))


def changed(graph: Graph, target: str, **parts: object) -> Graph:
    """The graph with the first node of an operator changed."""
    at = next(index for index, node in enumerate(graph.nodes) if node.op == target)
    nodes = list(graph.nodes)
    nodes[at] = replace(nodes[at], **parts)  # type: ignore[arg-type]
    return replace(graph, nodes=tuple(nodes))


def test_misreadings_are_caught() -> None:
    model = network(3, 0.3)
    graph, original = read_graph(model), Original(model)
    conv = graph.nodes[0]
    linear = next(node for node in graph.nodes if node.op == "linear")
    weight = linear.params["weight"].value
    nudged = weight.copy()
    nudged[3, 5] += 1e-2
    swapped = weight.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    wrong = {
        "pads": changed(graph, "conv", attrs=frozen({**conv.attrs, "pads": (0, 1, 1, 0)})),
        "transposed": changed(graph, "linear", params=frozen({"weight": Const(weight.T.copy())})),
        "nudged": changed(graph, "linear", params=frozen({"weight": Const(nudged)})),
        "swapped rows": changed(graph, "linear", params=frozen({"weight": Const(swapped)})),
        "abs for relu": changed(graph, "relu", op="abs"),
    }
    for graph in wrong.values():
        with pytest.raises(InputError, match="disagrees with ONNX Runtime"):
            agree(graph, original, samples=4)


def test_boxes_are_sampled() -> None:
    """A difference that shows inside the box only is found when the box is given."""
    model = network()
    graph, original = read_graph(model), Original(model)
    clip = frozen({"lower": 0.0, "upper": 400.0})
    wrong = changed(graph, "relu", op="clip", attrs=clip)
    agree(wrong, original, samples=2)
    with pytest.raises(InputError, match="disagrees"):
        agree(wrong, original, boxes=[(np.full(64, 500.0), np.full(64, 900.0))])


def test_what_only_optimisations_change_is_a_remark_and_no_misreading(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with quantised models, whose values ONNX Runtime rounds elsewhere once it has fused their nodes."""
    model = network()
    graph = read_graph(model)
    run = Original.run

    def fused(self: Original, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = run(self, inputs)
        optimised = self.session.get_session_options().graph_optimization_level
        if optimised != ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
            found = {name: array + np.float32(0.125) for name, array in found.items()}
        return found

    assert agree(graph, Original(model)) == ""
    monkeypatch.setattr(Original, "run", fused)
    assert "by up to 0.125;" in agree(graph, Original(model))
    weight = next(node for node in graph.nodes if node.op == "linear").params["weight"].value
    wrong = changed(graph, "linear", params=frozen({"weight": Const(0 * weight)}))
    with pytest.raises(InputError, match="disagrees"):
        agree(wrong, Original(model))
