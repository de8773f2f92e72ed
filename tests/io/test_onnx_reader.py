"""The reader: types, several inputs and outputs, hidden tensors, shape arithmetic, exactness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.attack.replay import Original, agree
from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader import load_model, read_graph
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    inputs: dict[str, Sequence[int | str]] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 13,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(k, kind, v) for k, v in (inputs or {"x": [1, 3]}).items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def n(op: str, inputs: str, outputs: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}>{outputs}", **attrs)


def checked(model: onnx.ModelProto, hidden: Sequence[str] = ()) -> list[str]:
    """Compare with ONNX Runtime as read and as simplified; the operators as read."""
    graph = read_graph(model, hidden=hidden)
    original = Original(model, hidden=hidden)
    simple = simplify(graph)
    agree(graph, original)
    agree(simple, original)
    same(graph, simple)
    return [node.op for node in graph.nodes]


RNG = np.random.default_rng(5)
W = RNG.standard_normal((3, 2)).astype(np.float32)
B = RNG.standard_normal(2).astype(np.float32)


@pytest.mark.parametrize(("kind", "dtype"), [(FLOAT, "float32"), (TensorProto.DOUBLE, "float64")])
def test_element_types(kind: int, dtype: str) -> None:
    model = build([n("Gemm", "x w b", "y")], {"w": W.astype(dtype) / 3, "b": B.astype(dtype)}, kind=kind)
    checked(model)
    graph = read_graph(model)
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == dtype
    np.testing.assert_array_equal(graph.nodes[0].params["weight"].value, (W.astype(dtype) / 3).astype(np.float64))
    assert graph.nodes[0].params["weight"].error is None


def test_half_precision() -> None:
    model = build([n("Gemm", "x w b", "y")], {"w": W.astype(np.float16), "b": B.astype(np.float16)}, kind=10)
    assert checked(model) == ["linear", "shift"]
    assert read_graph(model).inputs[0].dtype == "float16"


def test_bfloat16_weights() -> None:
    model = build([n("Cast", "h", "w", to=FLOAT), n("MatMul", "x w", "y")])
    model.graph.initializer.append(helper.make_tensor("h", TensorProto.BFLOAT16, [3, 1], [1.5, -2.25, 3.0]))
    graph = read_graph(model)
    assert graph.nodes[0].params["weight"].value.ravel().tolist() == [1.5, -2.25, 3.0]


def test_several_inputs_and_outputs() -> None:
    nodes = [
        n("Gemm", "x w b", "g"),
        n("Sub", "z g", "d"),
        n("Relu", "d", "r"),
        n("Add", "r k", "y"),
        n("Sum", "g d r", "s"),
    ]
    model = build(nodes, {"w": W, "b": B, "k": B}, {"x": [1, 3], "z": [4, 2]}, ["s", "y", "d"])
    checked(model)
    graph = read_graph(model)
    assert [value.name for value in graph.inputs] == ["x", "z"]
    assert [output.name for output in graph.outputs] == ["s", "y", "d"]
    assert graph.shapes()[graph.outputs[1].value] == (4, 2)


def test_outputs_that_are_constants_or_inputs() -> None:
    model = build([n("Identity", "x", "same"), n("Add", "k k", "two")], {"k": B}, outputs=["same", "two"])
    graph = read_graph(model)
    assert graph.outputs[0].value == "x"
    assert [node.op for node in graph.nodes] == ["constant"]
    checked(model)


def test_hidden_tensors() -> None:
    model = build(
        [n("MatMul", "x w", "m"), n("Add", "m b", "a"), n("Relu", "a", "y"), n("Abs", "m", "dead")], {"w": W, "b": B}
    )
    checked(model, hidden=["a", "y", "dead", "m"])
    graph = read_graph(model, hidden=["a", "y", "dead"])
    assert [output.name for output in graph.outputs] == ["y", "a", "dead"]
    assert len(read_graph(model).nodes) == 3
    with pytest.raises(InputError, match="no such tensor"):
        read_graph(model, hidden=["nothing"])


def test_weights_listed_as_inputs() -> None:
    """Before IR version 4 every weight had to be listed as an input too."""
    model = build([n("Gemm", "x w b", "y")], {"w": W, "b": B}, {"w": [3, 2], "x": [1, 3], "b": [2]})
    model.ir_version = 3
    assert [value.name for value in read_graph(model).inputs] == ["x"]
    checked(model)


def test_unknown_dimensions_are_one() -> None:
    model = build([n("Relu", "x", "y")], inputs={"x": ["batch", 3, "height"]})
    assert read_graph(model).inputs[0].shape == (1, 3, 1)
    checked(model)


def test_a_model_parsed_once(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build([n("Gemm", "x w b", "y")], {"w": W, "b": B}), path)
    model = load_model(path)
    agree(read_graph(model), Original(model))


def test_names_stay_unique() -> None:
    """Intermediate nodes of one operator get names of their own, whatever the file calls its tensors."""
    nodes = [n("Gemm", "x w b", "y"), n("Relu", "y", "y#1"), n("Gemm", "y#1 v b", "y#2"), n("Add", "y#2 y", "z")]
    model = build(nodes, {"w": W, "b": B, "v": W[:2]}, outputs=["z", "y#2", "y#1"])
    checked(model)


# -- folding ---------------------------------------------------------------------------------------


def test_flatten_as_exporters_compute_it() -> None:
    nodes = [
        n("Shape", "x", "s"),
        n("Gather", "s zero", "first"),
        n("Unsqueeze", "first axes", "batch"),
        n("Concat", "batch rest", "target", axis=0),
        n("Reshape", "x target", "y"),
    ]
    weights = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    assert checked(build(nodes, weights, {"x": ["N", 2, 3]})) == ["reshape"]


def test_expand_as_exporters_compute_it() -> None:
    nodes = [
        n("ConstantOfShape", "rank", "ones", value=numpy_helper.from_array(np.array([1]), "v")),
        n("Mul", "ones minus", "flags"),
        n("Equal", "wanted flags", "open"),
        n("Where", "open ones wanted", "target"),
        n("Expand", "x target", "y"),
    ]
    weights = {"rank": np.array([3]), "minus": np.array(-1), "wanted": np.array([-1, 4, 3])}
    assert checked(build(nodes, weights, {"x": [2, 1, 3]})) == ["expand"]


def test_shape_arithmetic() -> None:
    nodes = [
        n("Shape", "x", "s", start=1),
        n("Cast", "s", "f", to=FLOAT),
        n("Div", "f two", "half"),
        n("Floor", "half", "down"),
        n("Cast", "down", "ends", to=INT64),
        n("Size", "x", "all"),
        n("Div", "all seven", "q"),
        n("Mod", "q three", "step"),
        n("Max", "step one", "steps"),
        n("Range", "none stop one", "axes"),
        n("Slice", "x starts ends axis steps2", "y"),
        n("Concat", "steps3 steps4", "steps2", axis=0),
        n("Reshape", "steps vector", "steps3"),
        n("Reshape", "one vector", "steps4"),
        n("Add", "axes one", "axis"),
    ]
    weights = {
        "two": np.array(2, np.float32),
        "seven": np.array(-7),
        "three": np.array(3),
        "one": np.array(1),
        "none": np.array(0),
        "stop": np.array(2),
        "starts": np.array([0, 1]),
        "vector": np.array([1]),
    }
    assert checked(build(nodes, weights, {"x": [1, 5, 7]}, opset=15)) == ["slice"]


def test_constants_of_every_form() -> None:
    nodes = [
        n("Constant", "", "a", value=numpy_helper.from_array(W[:, 0], "t")),
        n("Constant", "", "b", value_float=0.3),
        n("Constant", "", "c", value_floats=[0.1, 0.2, 0.7]),
        n("Constant", "", "i", value_int=2),
        n("Constant", "", "j", value_ints=[1, 3]),
        n("Cast", "i", "k", to=FLOAT),
        n("Sum", "x a b c k", "s"),
        n("Reshape", "s j", "y"),
    ]
    checked(build(nodes))


def test_constant_affine_nodes_fold() -> None:
    """Any importer folds when all its inputs are constants."""
    nodes = [
        n("Transpose", "w", "t"),
        n("Pad", "t pads", "p"),
        n("Slice", "p from to", "q"),
        n("MatMul", "q w", "m"),
        n("ReduceMean", "m", "mean", axes=[0]),
        n("Relu", "mean", "r"),
        n("Clip", "r low", "c"),
        n("Gemm", "x w c", "y"),
    ]
    weights = {
        "w": W,
        "pads": np.array([0, 1, 0, 1]),
        "from": np.array([0, 1]),
        "to": np.array([2, 4]),
        "low": np.array(0.1, np.float32),
    }
    assert checked(build(nodes, weights)) == ["linear", "shift"]


def test_conv_of_a_constant_is_a_constant_node() -> None:
    nodes = [n("Conv", "image kernel", "c"), n("Add", "x c", "y")]
    weights = {"image": np.ones((1, 1, 4), np.float32), "kernel": np.ones((1, 1, 2), np.float32)}
    assert checked(build(nodes, weights)) == ["constant", "conv", "reshape", "sum"]


def test_products_of_floats_are_bounded() -> None:
    """alpha · w has 48 bits and is exact; a batch normalisation isn't and says so."""
    graph = read_graph(build([n("Gemm", "x w b", "y", alpha=0.1)], {"w": W, "b": B}))
    weight = graph.nodes[0].params["weight"]
    assert weight.error is None
    np.testing.assert_array_equal(weight.value, W.astype(np.float64) * float(np.float32(0.1)))
    statistics = {name: np.abs(RNG.standard_normal(3)).astype(np.float32) for name in "sbmv"}
    graph = read_graph(build([n("BatchNormalization", "x s b m v", "y")], statistics))
    for node, key in zip(graph.nodes, ("factor", "offset"), strict=True):
        const = node.params[key]
        assert const.error is not None
        assert np.all(const.error < 1e-14 * (1 + np.abs(const.value)))


# -- refusals that depend on more than one node ------------------------------------------------------


@pytest.mark.parametrize("op", ["NonMaxSuppression", "SequenceMap", "RandomNormalLike", "GridSample"])
def test_later_operators_are_named(op: str) -> None:
    model = build([n(op, "x", "y")])
    with pytest.raises(Unsupported, match=rf"^net: node '{op}>y' \({op}\): operator {op} isn't supported"):
        read_graph(model)


def test_unused_second_outputs_are_no_matter() -> None:
    pool = n("MaxPool", "x", "y indices", kernel_shape=[2])
    checked(build([pool], inputs={"x": [1, 1, 4]}))
    with pytest.raises(Unsupported, match="'indices'"):
        read_graph(build([pool, n("Cast", "indices", "z", to=FLOAT)], inputs={"x": [1, 1, 4]}, outputs=["z"]))


def test_automatic_padding_with_dilation_is_refused() -> None:
    pool = n("MaxPool", "x", "y", kernel_shape=[2], dilations=[2], auto_pad="SAME_UPPER")
    with pytest.raises(Unsupported, match="explicit pads"):
        read_graph(build([pool], inputs={"x": [1, 1, 6]}))


def test_division_by_an_inexact_zero() -> None:
    model = build([n("Sub", "k k", "z"), n("Div", "x z", "y")], {"k": W[:, 0]})
    with pytest.raises(InputError, match="zero"):
        read_graph(model)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0], [1, 1], [0, 1], [2, 0]])
@pytest.mark.parametrize("size", [5, 6])
def test_average_with_ceil_mode(size: int, pads: list[int], include: int) -> None:
    """The window that ceil_mode adds counts stated padding, if asked to, and never its own overhang."""
    attrs = {"kernel_shape": [3], "strides": [2], "ceil_mode": 1, "count_include_pad": include, "pads": pads}
    checked(build([n("AveragePool", "x", "y", **attrs)], inputs={"x": [1, 1, size]}, opset=19))


def test_the_maximum_of_quantised_values() -> None:
    nodes = [
        n("QuantizeLinear", "x s z", "q"),
        n("MaxPool", "q", "p", kernel_shape=[2], pads=[1, 0]),
        n("DequantizeLinear", "p s z", "y"),
    ]
    weights = {"s": np.float32(0.25), "z": np.uint8(3)}
    checked(build(nodes, weights, inputs={"x": [1, 1, 6]}, opset=13))
