"""Small networks of the kinds that competitions bring, as exporters write them, over the opsets that matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.attack.replay import Original, agree
from verinn.errors import Unsupported
from verinn.io.onnx_reader import read_graph
from verinn.ir.graph import Graph
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

torch.set_num_threads(1)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Net:
    """A model under construction: every call adds a node and returns the name of what it makes."""

    def __init__(self, opset: int, seed: int = 0) -> None:
        self.opset, self.rng = opset, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, FLOAT, shape))
        return name

    def const(self, array: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def random(self, *shape: int, scale: float = 0.5) -> str:
        return self.const(self.rng.standard_normal(shape) * scale)

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attrs: object) -> str:
        names = [f"{op.lower()}{len(self.nodes)}" + (f"_{k}" if k else "") for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names[0]

    def part(self, name: str, k: int) -> str:
        """Another output of the node that made a value."""
        return f"{name}_{k}" if k else name

    def by_axes(self, op: str, x: str, *axes: int, since: int = 13, **attrs: object) -> str:
        """Squeeze and its like: axes as an attribute in old opsets, as an input in new ones."""
        if self.opset < since:
            return self(op, x, axes=list(axes), **attrs)
        return self(op, x, self.ints(*axes), **attrs)

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        if self.opset < 10:
            return self("Slice", x, starts=[start], ends=[end], axes=[axis])
        return self("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def build(self, *outputs: str) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def layer_norm(net: Net, x: str, width: int) -> str:
    """As PyTorch exports it before opset 17."""
    if net.opset >= 17:
        return net("LayerNormalization", x, net.random(width), net.random(width), epsilon=1e-5)
    mean = net.by_axes("ReduceMean", x, -1, since=18)
    gap = net("Sub", x, mean)
    spread = net.by_axes("ReduceMean", net("Pow", gap, net.const(2.0)), -1, since=18)
    root = net("Sqrt", net("Add", spread, net.const(1e-5)))
    return net("Add", net("Mul", net("Div", gap, root), net.random(width)), net.random(width))


def gelu(net: Net, x: str) -> str:
    if net.opset >= 20:
        return net("Gelu", x)
    if net.opset < 9:  # no Erf yet
        cubed = net("Mul", net("Pow", x, net.const(3.0)), net.const(0.044715))
        inner = net("Tanh", net("Mul", net("Add", x, cubed), net.const(0.7978845608)))
        return net("Mul", net("Mul", x, net.const(0.5)), net("Add", inner, net.const(1.0)))
    one = net("Add", net("Erf", net("Div", x, net.const(np.sqrt(2)))), net.const(1.0))
    return net("Mul", net("Mul", x, one), net.const(0.5))


def attention(net: Net, x: str, tokens: int, width: int, heads: int) -> str:
    each = width // heads
    qkv = net("Add", net("MatMul", x, net.random(width, 3 * width)), net.random(3 * width))
    qkv = net("Reshape", qkv, net.ints(1, tokens, 3, heads, each))
    qkv = net("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (net("Gather", qkv, net.const(i, np.int64), axis=0) for i in range(3))
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net("Softmax", net("Mul", scores, net.const(each**-0.5)), axis=3)
    mixed = net("Transpose", net("MatMul", weights, v), perm=[0, 2, 1, 3])
    flat = net("Reshape", mixed, net.ints(1, tokens, width))
    return net("Add", net("MatMul", flat, net.random(width, width)), net.random(width))


def vision_transformer(opset: int) -> onnx.ModelProto:
    """Patches by a convolution, a class token expanded to the batch, positions, two blocks, the token's head."""
    net, width = Net(opset), 8
    patches = net("Conv", net.input("x", 1, 3, 8, 8), net.random(width, 3, 4, 4), strides=[4, 4])
    shape = net("Shape", patches)
    batch = net.slice(shape, 0, 1, 0)
    flat = net("Reshape", patches, net("Concat", batch, net.ints(width), net.ints(-1), axis=0))
    tokens = net("Transpose", flat, perm=[0, 2, 1])
    target = net("Concat", batch, net.ints(1, width), axis=0)
    token = net("Expand", net.random(1, 1, width), target) if opset >= 8 else net.random(1, 1, width)
    x = net("Add", net("Concat", token, tokens, axis=1), net.random(1, 5, width))
    for _ in range(2):
        x = net("Add", x, attention(net, layer_norm(net, x, width), 5, width, 2))
        hidden = gelu(net, net("Add", net("MatMul", layer_norm(net, x, width), net.random(width, 16)), net.random(16)))
        x = net("Add", x, net("MatMul", hidden, net.random(16, width)))
    head = net("Gather", layer_norm(net, x, width), net.const(0, np.int64), axis=1)
    return net.build(net("Gemm", head, net.random(3, width), net.random(3), transB=1))


def recurrent(opset: int) -> onnx.ModelProto:
    """A bidirectional LSTM over a sequence, then a GRU; the last state is classified."""
    net, size = Net(opset), 3
    seq = net("Transpose", net.input("x", 1, 4, 2), perm=[1, 0, 2])
    y = net("LSTM", seq, net.random(2, 12, 2), net.random(2, 12, size), net.random(2, 24), outputs=3,
            hidden_size=size, direction="bidirectional")  # fmt: skip
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
    y = net("GRU", y, net.random(1, 9, 6), net.random(1, 9, size), net.random(1, 18), outputs=2, hidden_size=size,
            linear_before_reset=1)  # fmt: skip
    last = net.by_axes("Squeeze", net.part(y, 1), 0)
    return net.build(net("Gemm", last, net.random(3, size), net.random(3), transB=1))


def detector(opset: int) -> onnx.ModelProto:
    """Two scales joined by upsampling and concatenation, SiLU, sigmoid heads, boxes decoded on a grid."""
    net = Net(opset)
    silu: Callable[[str], str] = lambda x: net("Mul", x, net("Sigmoid", x))  # noqa: E731
    a = silu(net("Conv", net.input("x", 1, 3, 8, 8), net.random(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
    b = silu(net("Conv", a, net.random(8, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
    pooled = [net("MaxPool", b, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[1, 1]) for k in (3, 5)]
    b = net("Conv", net("Concat", b, *pooled, axis=1), net.random(4, 24, 1, 1))
    scales = net.const([1, 1, 2, 2])
    if opset < 9:
        up = net("Upsample", b, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    elif opset < 11:
        up = net("Upsample" if opset < 10 else "Resize", b, scales, mode="nearest")
    else:
        roi = net.const([]) if opset < 13 else ""
        up = net(
            "Resize", b, roi, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    joined = net("Concat", up, a, axis=1)
    out = net("Conv", joined, net.random(10, 8, 1, 1), net.random(10))
    out = net("Transpose", net("Reshape", out, net.ints(1, 2, 5, 4, 4)), perm=[0, 1, 3, 4, 2])
    out = net("Sigmoid", out)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(1, 1, 4, 4, 2)
    two = net.const(2.0)
    centre = net("Add", net("Sub", net("Mul", net.slice(out, 0, 2, 4), two), net.const(0.5)), net.const(grid))
    size = net("Mul", net("Pow", net("Mul", net.slice(out, 2, 4, 4), two), two), net.random(1, 2, 1, 1, 2))
    boxes = net("Concat", net("Mul", centre, net.const(8.0)), size, net.slice(out, 4, 5, 4), axis=4)
    return net.build(net("Reshape", boxes, net.ints(1, -1, 5)))


def quantised(opset: int) -> onnx.ModelProto:
    """A convolution between quantise and dequantise nodes, per channel, and an integer head."""
    net = Net(opset)
    zero, scale = net.const(3, np.uint8), net.const(0.03)
    x = net("QuantizeLinear", net.input("x", 1, 2, 6, 6), scale, zero)
    rng = np.random.default_rng(3)
    kernel = net.const(rng.integers(-50, 50, (4, 2, 3, 3)), np.int8)
    factors = net.const(rng.random(4) * 0.01 + 0.005)
    conv = net("QLinearConv", x, scale, zero, kernel, factors, net.const([0] * 4, np.int8),
               net.const(0.05), net.const(0, np.uint8), net.const(rng.integers(-90, 90, 4), np.int32),
               strides=[2, 2], pads=[1, 1, 1, 1])  # fmt: skip
    real = net("Relu", net("DequantizeLinear", conv, net.const(0.05), net.const(0, np.uint8)))
    weight = net.const(rng.integers(-50, 50, (3, 36)), np.int8)
    if opset >= 13:
        dense = net("DequantizeLinear", weight, net.const([0.01, 0.02, 0.03]), net.const([0, 0, 0], np.int8), axis=0)
    else:
        dense = net("DequantizeLinear", weight, net.const(0.02), net.const(0, np.int8))
    return net.build(net("Gemm", net("Flatten", real), dense, net.random(3), transB=1))


def u_net(opset: int) -> onnx.ModelProto:
    """Down, up by a transposed convolution, skip connections, batch normalisation, a mask by ArgMax."""
    net = Net(opset)

    def block(x: str, inner: int, outer: int) -> str:
        conv = net("Conv", x, net.random(outer, inner, 3, 3), pads=[1, 1, 1, 1])
        stats = [net.random(outer), net.random(outer), net.random(outer), net.const(net.rng.random(outer) + 0.5)]
        return net("Relu", net("BatchNormalization", conv, *stats))

    first = block(net.input("x", 1, 2, 6, 6), 2, 4)
    low = block(net("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 4, 6)
    up = net("ConvTranspose", low, net.random(6, 4, 2, 2), net.random(4), strides=[2, 2])
    out = net("Conv", block(net("Concat", first, up, axis=1), 8, 4), net.random(3, 4, 1, 1), net.random(3))
    place = net("ArgMax", net("Softmax", out, axis=1), axis=1, keepdims=0)
    count = net.by_axes(
        "ReduceSum", net("Cast", net("Equal", place, net.const(1, np.int64)), to=FLOAT), 1, 2, keepdims=0
    )
    return net.build(out, count)


def generator(opset: int) -> onnx.ModelProto:
    """A latent vector to an image by transposed convolutions with every kind of padding, tanh at the end."""
    net = Net(opset)
    x = net("Reshape", net("MatMul", net.input("z", 1, 4), net.random(4, 24)), net.ints(1, 6, 2, 2))
    stats = [net.random(6), net.random(6), net.random(6), net.const([1.0] * 6)]
    x = net("LeakyRelu", net("BatchNormalization", x, *stats), alpha=0.2)
    x = net("ConvTranspose", x, net.random(6, 4, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1])
    x = net("InstanceNormalization", x, net.random(4), net.random(4))
    x = net("Elu", x)
    x = net("ConvTranspose", x, net.random(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    return net.build(net("Tanh", x))


def power_flow(opset: int) -> onnx.ModelProto:
    """Voltages and angles predicted, flows by their products with sines and cosines, limits by Where and Floor."""
    net = Net(opset)
    h = net("Relu", net("Gemm", net.input("x", 1, 5), net.random(5, 8), net.random(8)))
    angle = net("MatMul", h, net.random(8, 4))
    volt = net("Add", net("Sigmoid", net("MatMul", h, net.random(8, 4))), net.const(0.5))
    ends = [net("Gather", v, net.ints(*i), axis=1) for v in (angle, volt) for i in ((0, 1, 2), (1, 2, 3))]
    gap = net("Sub", ends[0], ends[1])
    square = net("Pow", ends[2], net.const(2.0))
    both = net("Mul", ends[2], ends[3])
    active = net("Add", net("Mul", square, net.random(3)), net("Mul", both, net("Cos", gap)))
    reactive = net("Sub", net("Mul", net("Neg", square), net.random(3)), net("Mul", both, net("Sin", gap)))
    over = net("Greater", active, net.const(0.2))
    limited = net("Where", over, net("Mul", active, net.const(2.0)), net.const([0.0, 1.0, 2.0]))
    rounded = net("Floor", net("Div", reactive, net.const(0.25)))
    norm = net("Sqrt", net("Add", net("Mul", active, active), net("Mul", reactive, reactive)))
    return net.build(net("Concat", limited, rounded, norm, axis=1))


def estimator(opset: int) -> onnx.ModelProto:
    """Sets of predicates through shared layers, averaged under a mask; a column chosen by a table of embeddings."""
    net = Net(opset)
    x = net.input("x", 1, 4, 6)
    features, mask, column = net.slice(x, 0, 4, 2), net.slice(x, 4, 5, 2), net.slice(x, 5, 6, 2)
    h = net("Relu", net("Add", net("MatMul", features, net.random(4, 5)), net.random(5)))
    index = net("Cast", net("Clip", column, net.const(0.0), net.const(3.0)), to=INT64) if opset >= 11 else None
    if index is not None:
        embedded = net("Gather", net.random(4, 5), net.by_axes("Squeeze", index, 2), axis=0)
        h = net("Add", h, embedded)
    alive = net("Add", net("Abs", mask), net.const(0.1))
    total = net.by_axes("ReduceSum", net("Mul", h, alive), 1, keepdims=0)
    count = net.by_axes("ReduceSum", alive, 1, keepdims=0)
    return net.build(net("Sigmoid", net("MatMul", net("Div", total, count), net.random(5, 1))))


def binarised(opset: int) -> onnx.ModelProto:
    """Binary weights and sign activations, channels last at the input, softmax at the end."""
    net = Net(opset)
    sign: Callable[[str], str] = lambda x: net("Sign", net("Add", net("Sign", x), net.const(0.1)))  # noqa: E731
    x = net("Transpose", net.input("x", 1, 5, 5, 2), perm=[0, 3, 1, 2])
    weights = net.const(np.sign(net.rng.standard_normal((4, 2, 3, 3))))
    h = sign(net("Conv", x, weights))
    h = net("Reshape", net("Transpose", h, perm=[0, 2, 3, 1]), net.ints(1, -1))
    return net.build(net("Softmax", net("MatMul", h, net.const(np.sign(net.rng.standard_normal((36, 3))))), axis=1))


def controller(opset: int) -> onnx.ModelProto:
    """A closed loop: dynamics with products and sines, a controller inside, a quadratic Lyapunov function."""
    net = Net(opset)
    x = net.input("x", 1, 4)
    u = net("Tanh", net("MatMul", net("Relu", net("Gemm", x, net.random(4, 6), net.random(6))), net.random(6, 1)))
    angle, rate = net.slice(x, 0, 1, 1), net.slice(x, 1, 2, 1)
    push = net("Div", net("Mul", u, net("Cos", angle)), net("Add", net("Mul", rate, rate), net.const(1.0)))
    step = net("Concat", rate, net("Sub", push, net("Sin", angle)), net.slice(x, 2, 4, 1), axis=1)
    after = net("Add", x, net("Mul", step, net.const(0.05)))
    matrix = net.random(4, 4)
    values = [net.by_axes("ReduceSum", net("Mul", net("MatMul", v, matrix), v), 1) for v in (x, after)]
    return net.build(net("Sub", values[1], values[0]), net("Abs", net("MatMul", after, matrix)))


def group_norm(opset: int) -> onnx.ModelProto:
    """As PyTorch exports GroupNorm: reshaped to InstanceNormalization; HardSwish, squeeze and excite."""
    net = Net(opset)
    x = net("Conv", net.input("x", 1, 2, 4, 4), net.random(4, 2, 3, 3), pads=[1, 1, 1, 1])
    if opset >= 21:
        y = net("GroupNormalization", x, net.random(4), net.random(4), num_groups=2)
    else:
        flat = net("Reshape", x, net.ints(0, 2, -1))
        normal = net("InstanceNormalization", flat, net.const([1.0, 1.0]), net.const([0.0, 0.0]))
        y = net("Add", net("Mul", net("Reshape", normal, net("Shape", x)), net.random(4, 1, 1)), net.random(4, 1, 1))
    y = net("Mul", y, net("HardSigmoid", y, alpha=1 / 6)) if opset < 14 else net("HardSwish", y)
    squeezed = net("Relu", net("Conv", net("GlobalAveragePool", y), net.random(2, 4, 1, 1)))
    gate = net("HardSigmoid", net("Conv", squeezed, net.random(4, 2, 1, 1)))
    return net.build(net("Flatten", net("Mul", y, gate)))


KINDS: dict[Callable[[int], onnx.ModelProto], tuple[int, ...]] = {
    vision_transformer: (8, 9, 12, 13, 17, 18, 20, 21), recurrent: (7, 13, 14, 21), detector: (7, 9, 10, 11, 13, 19),
    quantised: (10, 13, 19, 21), u_net: (11, 13, 18, 21), generator: (7, 9, 13, 21), power_flow: (9, 13, 16, 21),
    estimator: (8, 11, 13, 18), binarised: (9, 13, 21), controller: (7, 13, 21), group_norm: (9, 13, 14, 21),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "opset"), [(kind, opset) for kind, opsets in KINDS.items() for opset in opsets])
def test_network(kind: Callable[[int], onnx.ModelProto], opset: int) -> None:
    model = kind(opset)
    graph = read_graph(model)
    simple = simplify(graph)
    original = Original(model)
    agree(graph, original, opset)
    agree(simple, original, opset)
    same(graph, simple)


def ops(graph: Graph) -> set[str]:
    return {node.op for node in graph.nodes}


def test_what_networks_become() -> None:
    """Functions that exporters write out are found; nothing else is left of them."""
    found = ops(simplify(read_graph(vision_transformer(13))))
    assert {"gelu", "softmax", "matmul"} <= found
    assert not {"erf", "exp"} & found
    assert "silu" in ops(simplify(read_graph(detector(11))))
    assert "hard_swish" in ops(simplify(read_graph(group_norm(13))))
    assert "step" in ops(simplify(read_graph(u_net(13))))


# -- a patch whose place depends on the input ----------------------------------------------------------


def patched(opset: int) -> onnx.ModelProto:
    """mask[:, p : p + 1, q : q + 1] = 0.5, as PyTorch exports it; where p or q is outside, nothing is set."""
    net = Net(opset)
    x = net.input("x", 26)
    image = net("Reshape", net.slice(x, 0, 24, 0), net.ints(1, 2, 3, 4))
    p, q = (net("Cast", net("Gather", x, net.const(24 + k, np.int64), axis=0), to=INT64) for k in (0, 1))
    bounds = [
        [net.by_axes("Unsqueeze", v, 0) for v in (place, net("Add", place, net.const(1, np.int64)))] for place in (p, q)
    ]
    ones = net("ConstantOfShape", net("Shape", image), value=helper.make_tensor("v", FLOAT, [1], [1.0]))
    cut = ones
    for axis, ends in zip((1, 2), bounds, strict=True):
        cut = net("Slice", cut, *ends, net.ints(axis))
    updates = net("Expand", net.const([[[[0.5]]]]), net("Shape", cut))
    rows = net("Reshape", net("Slice", net.ints(0, 1), *bounds[0], net.ints(0)), net.ints(-1, 1, 1))
    lines = net("Reshape", net("Slice", net.ints(0, 1, 2), *bounds[1], net.ints(0)), net.ints(-1, 1))
    first, last = net.const(np.zeros((1, 1, 1, 1)), np.int64), net.ints(0, 1, 2, 3)
    target = net("Shape", net("Add", net("Add", net("Add", first, rows), lines), last))
    parts = [net.by_axes("Unsqueeze", net("Expand", part, target), 4) for part in (first, rows, lines, last)]
    indices = net("Concat", *parts, axis=4)
    whole = net("Expand", updates, net("Concat", net.slice(net("Shape", cut), 0, 3, 0), net.ints(4), axis=0))
    mask = net("ScatterND", ones, indices, whole)
    out = net("Conv", net("Mul", image, mask), net.random(3, 2, 3, 3))
    return net.build(net("Flatten", net("Relu", out)))


@pytest.mark.parametrize("opset", [11, 13])
def test_a_patch_at_a_place_from_the_input(opset: int) -> None:
    model = patched(opset)
    lower, upper = np.concatenate([-np.ones(24), [0.0, 0.0]]), np.concatenate([np.ones(24), [2.9, 3.9]])
    graph = read_graph(model, box=(lower, upper))
    simple = simplify(graph)
    original = Original(model)
    for seed in range(4):
        agree(graph, original, seed, [(lower, upper)] * 4)
        agree(simple, original, seed, [(lower, upper)] * 4)
    for p in (0.0, 0.9, 1.0, 2.0, 2.9):
        for q in (0.0, 1.5, 2.0, 3.0):
            point = np.concatenate([np.linspace(-1, 1, 24), [p, q]])
            agree(simple, original, 0, [(point, point)], 1)


def test_a_place_without_bounds_is_refused() -> None:
    with pytest.raises(Unsupported, match="bounds the place from below"):
        read_graph(patched(13))
    below = np.concatenate([-np.ones(24), [-2.0, 0.0]]), np.ones(26)
    with pytest.raises(Unsupported, match="bounds the place from below"):
        read_graph(patched(13), box=below)
