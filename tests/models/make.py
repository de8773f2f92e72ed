"""The recipe of the malformed models in ``malformed/``: ``python tests/models/make.py`` writes them all.

Each case is a function that returns the bytes of a file; its name is the file's name.
``expected.json`` says what reading each file must answer: "ok", or what the error must contain.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent / "malformed"
FLOAT = TensorProto.FLOAT
CASES: dict[str, tuple[Callable[[], bytes], str | list[str]]] = {}


def case(*expected: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Register a case; no expectation means that the file must be read."""

    def register(function: Callable[[], bytes]) -> Callable[[], bytes]:
        CASES[f"{function.__name__}.onnx"] = (function, list(expected) or "ok")
        return function

    return register


def value(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def weights() -> list[TensorProto]:
    rng = np.random.default_rng(1)
    return [
        weight("w", rng.standard_normal((3, 2)).astype(np.float32)),
        weight("b", rng.standard_normal(2).astype(np.float32)),
    ]


def pack(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    initial: Sequence[TensorProto] | None = None,
    opset: int = 13,
    domains: Sequence[tuple[str, int]] = (),
) -> onnx.ModelProto:
    """A small model: by default one input x [1, 3], one output y [1, 2], and weights w and b."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [value("x", [1, 3])] if inputs is None else list(inputs),
        [value("y", [1, 2])] if outputs is None else list(outputs),
        weights() if initial is None else list(initial),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*entry) for entry in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="tests/models/make.py")


def node(op: str, inputs: str, outputs: str, name: str = "", **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=name or f"{op.lower()}_1", **attrs)


def dump(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


GEMM = node("Gemm", "x w b", "h")
RELU = node("Relu", "h", "y")


def good() -> onnx.ModelProto:
    return pack([GEMM, RELU])


# -- not a model ------------------------------------------------------------------------------------


@case("is empty")
def empty() -> bytes:
    return b""


@case("truncated")
def truncated() -> bytes:
    return dump(good())[:150]


@case("truncated")
def truncated_early() -> bytes:
    return dump(good())[:2]


@case("no ONNX model")
def random() -> bytes:
    return np.random.default_rng(7).bytes(500)


@case("no ONNX model")
def text() -> bytes:
    return b"; a property, not a model\n(declare-const X_0 Real)\n(assert (<= X_0 1.0))\n"


@case()
def gzipped() -> bytes:
    return gzip.compress(dump(good()), mtime=0)


@case("broken gzip")
def gzipped_truncated() -> bytes:
    return gzip.compress(dump(good()), mtime=0)[:100]


# -- the frame of the graph -------------------------------------------------------------------------


@case("node 'relu_1' (Relu)", "depend on its own output")
def cyclic() -> bytes:
    return dump(pack([RELU, node("Add", "x y", "h")]))


@case("node 'add_2' (Add)", "depend on its own output")
def cyclic_upstream() -> bytes:
    """The first node of the file waits for a cycle and is not on it."""
    first, second = node("Add", "x c", "b2", "add_1"), node("Add", "b2 x", "c", "add_2")
    return dump(pack([node("Relu", "c", "y"), node("Relu", "b2", "r", "relu_2"), second, first]))


@case()
def unsorted() -> bytes:
    return dump(pack([RELU, GEMM]))


@case("node 'gemm_1' (Gemm)", "'lost'", "nothing makes")
def dangling_input() -> bytes:
    return dump(pack([node("Gemm", "lost w b", "h"), RELU]))


@case("output 'y'", "nothing makes it")
def missing_output() -> bytes:
    return dump(pack([GEMM]))


@case("no outputs")
def no_outputs() -> bytes:
    return dump(pack([GEMM, RELU], outputs=[]))


@case("no inputs")
def no_inputs() -> bytes:
    return dump(pack([node("Relu", "b", "y")], inputs=[], outputs=[value("y", [2])]))


@case("node 'relu_1' (Relu)", "makes 'h', which exists already")
def duplicate_name() -> bytes:
    return dump(pack([GEMM, node("Relu", "h", "h"), node("Relu", "h", "y", "relu_2")]))


@case("two weights are named 'w'")
def duplicate_weight() -> bytes:
    return dump(pack([GEMM, RELU], initial=[*weights(), weights()[0]]))


@case("two inputs are named 'x'")
def duplicate_input() -> bytes:
    return dump(pack([GEMM, RELU], inputs=[value("x", [1, 3]), value("x", [1, 3])]))


@case("node 'frobnicate_1' (Frobnicate)", "operator Frobnicate isn't supported")
def unknown_operator() -> bytes:
    return dump(pack([GEMM, node("Frobnicate", "h", "y")]))


@case("node 'gelu_1' (Gelu)", "Gelu of the domain 'com.microsoft'")
def custom_domain() -> bytes:
    return dump(pack([GEMM, node("Gelu", "h", "y", domain="com.microsoft")], domains=[("com.microsoft", 1)]))


@case("opset 999, newer than")
def future_opset() -> bytes:
    return dump(pack([GEMM, RELU], opset=999))


@case("opset 6, older than 7")
def old_opset() -> bytes:
    return dump(pack([RELU], inputs=[value("h", [1, 2])], initial=[], opset=6))


@case("imports no version")
def no_opset() -> bytes:
    model = good()
    del model.opset_import[:]
    return dump(model)


@case()
def own_function() -> bytes:
    model = pack([GEMM, node("Twice", "h", "y", domain="own")], domains=[("own", 1)])
    body = [helper.make_node("Add", ["a", "a"], ["c"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 13)]))
    return dump(model)


@case("node 'loop_1' (Loop)", "takes more than 1000 turns")
def loop() -> bytes:
    body = helper.make_graph(
        [node("Identity", "go", "again"), node("Relu", "v", "out")],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", [1, 3])],
        [value("again", [], TensorProto.BOOL), value("out", [1, 3])],
    )
    loop_node = helper.make_node("Loop", ["", "yes", "x"], ["y"], name="loop_1", body=body)
    return dump(pack([loop_node], outputs=[value("y", [1, 3])], initial=[weight("yes", np.array(True))]))


@case()
def branch() -> bytes:
    arms = [
        helper.make_graph([node(op, "x", "z")], op.lower(), [], [value("z", [1, 3])]) for op in ("Relu", "Identity")
    ]
    choose = helper.make_node("If", ["yes"], ["y"], name="if_1", then_branch=arms[0], else_branch=arms[1])
    return dump(pack([choose], outputs=[value("y", [1, 3])], initial=[weight("yes", np.array(True))]))


# -- values and types -------------------------------------------------------------------------------


@case("node 'gemm_1' (Gemm)", "NaN or infinity")
def nan_weight() -> bytes:
    bad = weights()
    bad[0] = weight("w", np.array([[1, 2], [np.nan, 3], [4, 5]], np.float32))
    return dump(pack([GEMM, RELU], initial=bad))


@case("node 'gemm_1' (Gemm)", "NaN or infinity")
def infinite_weight() -> bytes:
    bad = weights()
    bad[1] = weight("b", np.array([1, -np.inf], np.float32))
    return dump(pack([GEMM, RELU], initial=bad))


@case("input 'x'", "size 0")
def zero_dimension() -> bytes:
    return dump(pack([RELU, node("Relu", "x", "h", "relu_0")], inputs=[value("x", [0, 3])]))


@case("input 'x'", "has no shape")
def input_without_shape() -> bytes:
    return dump(pack([GEMM, RELU], inputs=[value("x", None)]))


@case()
def symbolic_batch() -> bytes:
    return dump(pack([GEMM, RELU], inputs=[value("x", ["N", 3])], outputs=[value("y", ["N", 2])]))


@case()
def wrong_declared_shape() -> bytes:
    return dump(pack([GEMM, RELU], outputs=[value("y", [1, 7])]))


@case("node 'gemm_1' (Gemm)", "[1, 4]", "[3, 2]")
def mismatched_product() -> bytes:
    return dump(pack([GEMM, RELU], inputs=[value("x", [1, 4])]))


@case("weight 'w'", "another number of elements")
def wrong_weight_size() -> bytes:
    bad = weights()
    bad[0].dims[0] = 30
    return dump(pack([GEMM, RELU], initial=bad))


@case("weight 'w'", "elements")
def huge_weight() -> bytes:
    bad = weights()
    bad[0].dims[0] = 1 << 40
    return dump(pack([GEMM, RELU], initial=bad))


@case("weight 'w'", "shape")
def negative_weight_size() -> bytes:
    bad = weights()
    bad[0].dims[0] = -3
    return dump(pack([GEMM, RELU], initial=bad))


@case("input 'x'", "strings")
def string_input() -> bytes:
    return dump(pack([node("Identity", "x", "y")], inputs=[value("x", [1, 2], TensorProto.STRING)]))


@case("input 'x'", "isn't a tensor")
def sequence_input() -> bytes:
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, [1, 3])
    at = node("SequenceAt", "x zero", "y")
    return dump(pack([at], inputs=[sequence], initial=[weight("zero", np.array(0))]))


@case()
def integer_arithmetic() -> bytes:
    cast = node("Cast", "x", "f", to=FLOAT)
    gemm = node("Gemm", "f w b", "h")
    return dump(pack([cast, gemm, RELU], inputs=[value("x", [1, 3], TensorProto.INT64)]))


@case()
def integer_sum() -> bytes:
    add = node("Add", "x x", "y")
    kind = TensorProto.INT64
    return dump(pack([add], inputs=[value("x", [1, 2], kind)], outputs=[value("y", [1, 2], kind)]))


@case()
def sparse_weight() -> bytes:
    model = pack([GEMM, RELU], initial=weights()[1:])
    values = weight("w", np.array([1.5, -2.0], np.float32))
    places = weight("", np.array([0, 5], np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 2]))
    return dump(model)


@case("weight 'w'", "indices")
def sparse_weight_outside() -> bytes:
    model = pack([GEMM, RELU], initial=weights()[1:])
    values = weight("w", np.array([1.5, -2.0], np.float32))
    places = weight("", np.array([0, 6], np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 2]))
    return dump(model)


@case()
def dead_mask() -> bytes:
    return dump(pack([node("Dropout", "x", "d mask"), node("Shape", "mask", "unused"), node("Gemm", "d w b", "y")]))


# -- external data ----------------------------------------------------------------------------------


def _external(location: str, length: int = 24) -> bytes:
    bad = weights()
    bad[0].ClearField("raw_data")
    bad[0].data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", str(length))):
        bad[0].external_data.add(key=key, value=text)
    return dump(pack([GEMM, RELU], initial=bad))


@case("weight 'w'", "'nowhere.bin' can't be read")
def external_missing() -> bytes:
    return _external("nowhere.bin")


@case("weight 'w'", "outside the model's folder")
def external_escaping() -> bytes:
    return _external("../../../pyproject.toml")


@case("weight 'w'", "outside the model's folder")
def external_absolute() -> bytes:
    return _external("/etc/hostname", 4)


@case("weight 'w'", "too short")
def external_short() -> bytes:
    return _external("expected.json", 1 << 30)


# -- nodes that make no sense -----------------------------------------------------------------------


@case("node 'constantofshape_1' (ConstantOfShape)", "elements")
def constant_of_shape_bomb() -> bytes:
    shape = weight("s", np.array([1 << 16, 1 << 16], np.int64))
    sums = node("ReduceSum", "big", "r", keepdims=0)
    return dump(pack([node("ConstantOfShape", "s", "big"), sums, node("Add", "x r", "y")], initial=[shape]))


@case("node 'expand_1' (Expand)", "elements")
def expand_bomb() -> bytes:
    return dump(pack([node("Expand", "x s", "y")], initial=[weight("s", np.array([1 << 31, 3]))]))


@case("node 'div_1' (Div)", "zero")
def division_by_zero() -> bytes:
    return dump(pack([node("Div", "x z", "y")], initial=[weight("z", np.array([1, 0, 2], np.float32))]))


@case("node 'batchnormalization_1' (BatchNormalization)", "variance")
def negative_variance() -> bytes:
    ones = [weight(name, np.full(3, size, np.float32)) for name, size in (("s", 1), ("c", 0), ("m", 0), ("v", -1))]
    return dump(pack([node("BatchNormalization", "x s c m v", "y")], initial=ones))


@case("node 'reshape_1' (Reshape)", "[1, 3]", "[1, 2]")
def impossible_reshape() -> bytes:
    return dump(pack([node("Reshape", "x s", "y")], initial=[weight("s", np.array([1, 2]))]))


@case("node 'gather_1' (Gather)", "index 3")
def gather_outside() -> bytes:
    return dump(pack([node("Gather", "x i", "y", axis=1)], initial=[weight("i", np.array([0, 3]))]))


@case("node 'concat_1' (Concat)", "axis 7")
def axis_outside() -> bytes:
    return dump(pack([node("Concat", "x x", "y", axis=7)]))


@case("node 'conv_1' (Conv)", "strides")
def zero_stride() -> bytes:
    kernel = weight("k", np.ones((1, 1, 2), np.float32))
    conv = node("Conv", "x k", "y", strides=[0])
    return dump(pack([conv], inputs=[value("x", [1, 1, 5])], initial=[kernel]))


@case("node 'maxpool_1' (MaxPool)", "window")
def window_too_large() -> bytes:
    pool = node("MaxPool", "x", "y", kernel_shape=[9])
    return dump(pack([pool], inputs=[value("x", [1, 1, 5])]))


@case("node 'relu_1' (Relu)", "input 0 is missing")
def missing_argument() -> bytes:
    return dump(pack([helper.make_node("Relu", [], ["y"], name="relu_1")]))


@case("node 'transpose_1' (Transpose)", "malformed")
def wrong_attribute_type() -> bytes:
    return dump(pack([node("Transpose", "x", "y", perm="upside down")]))


@case()
def product_of_variables() -> bytes:
    return dump(pack([node("Mul", "x x", "y")], outputs=[value("y", [1, 3])]))


@case()
def places_of_the_greatest() -> bytes:
    return dump(pack([node("TopK", "x k", "y i")], initial=[weight("k", np.array([2]))]))


@case("node 'slice_1' (Slice)", "as many entries as the input says")
def size_from_input() -> bytes:
    nodes = [node("Cast", "x", "s", to=TensorProto.INT64), node("Slice", "s zero one one", "e", "first")]
    nodes += [node("Reshape", "e flat", "f"), node("Slice", "x zero f one", "y")]
    initial = [weight("zero", np.array([0])), weight("one", np.array([1])), weight("flat", np.array([-1]))]
    return dump(pack(nodes, initial=initial))


@case("node 'convtranspose_1' (ConvTranspose)", "output_shape")
def output_shape_too_large() -> bytes:
    conv = node("ConvTranspose", "x k", "y", output_shape=[99])
    return dump(pack([conv], inputs=[value("x", [1, 1, 4])], initial=[weight("k", np.ones((1, 1, 2), np.float32))]))


@case("node 'einsum_1' (Einsum)", "ij,jk->iz")
def einsum_from_nowhere() -> bytes:
    return dump(pack([node("Einsum", "x w", "y", equation="ij,jk->iz")]))


@case("node 'resize_1' (Resize)", "scales")
def resize_by_nothing() -> bytes:
    return dump(
        pack(
            [node("Resize", "x e s", "y")],
            initial=[weight("e", np.zeros(0, np.float32)), weight("s", np.array([1, -2], np.float32))],
        )
    )


@case("node 'lstm_1' (LSTM)", "input 1 has the shape")
def lstm_weights_misshapen() -> bytes:
    lstm = node("LSTM", "x w r", "y", hidden_size=2)
    initial = [weight("w", np.ones((1, 7, 3), np.float32)), weight("r", np.ones((1, 8, 2), np.float32))]
    return dump(pack([lstm], inputs=[value("x", [4, 1, 3])], initial=initial))


@case("node 'log_1' (Log)", "of a constant")
def log_of_a_negative_constant() -> bytes:
    nodes = [node("Log", "c", "l"), node("Add", "x l", "y")]
    return dump(pack(nodes, initial=[weight("c", np.array([1, -1, 2], np.float32))]))


@case("node 'groupnormalization_1' (GroupNormalization)", "in 2 groups")
def groups_that_do_not_divide() -> bytes:
    norm = node("GroupNormalization", "x s s", "y", num_groups=2)
    return dump(pack([norm], inputs=[value("x", [1, 3, 4])], initial=[weight("s", np.ones(3, np.float32))], opset=21))


@case("node 'cast_1' (Cast)", "uint8")
def cast_that_wraps() -> bytes:
    return dump(pack([node("Cast", "x", "y", to=TensorProto.UINT8)], outputs=[value("y", [1, 3], TensorProto.UINT8)]))


@case("node 'scatternd_1' (ScatterND)", "places")
def scatter_misshapen() -> bytes:
    nodes = [node("ScatterND", "x i x", "y")]
    return dump(pack(nodes, initial=[weight("i", np.array([[0, 1]]))]))


@case("node 'reshape_1' (Reshape)", "depends on the input")
def shape_from_input() -> bytes:
    cast = node("Cast", "x", "s", to=TensorProto.INT64)
    return dump(pack([node("Reshape", "x x", "y"), cast]))


@case("node 'dropout_1' (Dropout)", "training")
def dropout_in_training() -> bytes:
    initial = [weight("r", np.array(0.5, np.float32)), weight("t", np.array(True))]
    return dump(pack([node("Dropout", "x r t", "y")], initial=initial))


def main() -> None:
    """Write every file and the expectations."""
    FOLDER.mkdir(exist_ok=True)
    for name, (make, _) in CASES.items():
        (FOLDER / name).write_bytes(make())
    expected = {name: expectation for name, (_, expectation) in CASES.items()}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
