"""Recognised functions: what exporters write out becomes one core function, near misses don't, and values stay."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verinn.attack.replay import Original, agree
from verinn.io.onnx_reader import read_graph
from verinn.ir.graph import Graph
from verinn.ops import evaluate
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

torch.set_num_threads(1)


def build(text: str, weights: dict[str, float | np.ndarray], shape: tuple[int, ...] = (2, 5)) -> onnx.ModelProto:
    """Lines of 'result = Op(input, …; attribute=value)'; the input is x, the output y."""
    nodes = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        result, call = line.split(" = ")
        op, inside = call.rstrip(")").split("(")
        names, _, attrs = inside.partition("; ")
        drawn = {k: eval(v) for k, _, v in (item.partition("=") for item in attrs.split("; ") if item)}
        nodes.append(helper.make_node(op, [name.strip() for name in names.split(",")], result.split(","), **drawn))
    arrays = {
        name: value if isinstance(value, np.ndarray) else np.array(value, np.float32) for name, value in weights.items()
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ops_of(model: onnx.ModelProto) -> list[str]:
    graph = read_graph(model)
    simple = simplify(graph)
    same(graph, simple)
    agree(simple, Original(model))
    return [node.op for node in simple.nodes]


GELU = "a = Div(x, r)\nb = Erf(a)\nc = Add(b, one)\nd = Mul(x, c)\ny = Mul(d, half)"
GELU_LEFT = "h = Mul(half, x)\na = Mul(x, k)\nb = Erf(a)\nc = Add(one, b)\ny = Mul(c, h)"
TANH = (
    "p = Pow(x, three)\nq = Mul(p, m)\ns = Add(x, q)\nt = Mul(s, g)\nu = Tanh(t)\n"
    "v = Add(u, one)\nh = Mul(x, half)\ny = Mul(h, v)"
)
TANH_PRODUCTS = (
    "a = Mul(x, x)\nb = Mul(a, x)\nq = Mul(b, m)\ns = Add(q, x)\nt = Mul(s, g)\nu = Tanh(t)\n"
    "v = Add(u, one)\nw = Mul(x, v)\ny = Mul(w, half)"
)
TANH_FACTORED = (
    "a = Mul(x, x)\nq = Mul(a, m)\ns = Add(q, one)\nz = Mul(x, s)\nt = Mul(z, g)\nu = Tanh(t)\n"
    "v = Add(u, one)\nw = Mul(x, v)\ny = Mul(w, half)"
)
SOFTMAX = "n = ReduceMax(x; axes=[1])\nd = Sub(x, n)\ne = Exp(d)\ns = ReduceSum(e, axis)\ny = Div(e, s)"
CONSTANTS = {
    "r": math.sqrt(2), "k": 1 / math.sqrt(2), "one": 1.0, "half": 0.5, "three": 3.0, "two": 2.0, "m": 0.044715,
    "g": math.sqrt(2 / math.pi), "six": 6.0, "axis": np.array([1]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("s = Sigmoid(x)\ny = Mul(x, s)", "silu"),
        ("k1 = Mul(x, r)\ns = Sigmoid(k1)\ny = Mul(s, x)", "silu"),
        ("p = Softplus(x)\nt = Tanh(p)\ny = Mul(x, t)", "mish"),
        (GELU, "gelu"),
        (GELU_LEFT, "gelu"),
        (TANH, "gelu_tanh"),
        (TANH_PRODUCTS, "gelu_tanh"),
        (TANH_FACTORED, "gelu_tanh"),
        ("a = Add(x, three)\nb = Clip(a, zero, six)\nc = Mul(x, b)\ny = Div(c, six)", "hard_swish"),
        ("b = HardSigmoid(x; alpha=0.16666667)\ny = Mul(x, b)", "hard_swish"),
        ("y = Mul(x, x)", "pow"),
        ("a = Mul(x, x)\nb = Mul(a, x)\ny = Mul(b, a)", "pow"),
        (SOFTMAX, "softmax"),
        ("e = Exp(x)\ns = ReduceSum(e, axis)\ny = Div(e, s)", "softmax"),
        ("s = Softmax(x; axis=1)\ny = Log(s)", "log_softmax"),
    ],
)
def test_recognised(text: str, function: str) -> None:
    used = {
        name: value for name, value in {**CONSTANTS, "zero": 0.0}.items() if f" {name}" in text or f"({name}" in text
    }
    found = ops_of(build(text, used))
    assert function in found
    assert not {"mul", "erf", "exp", "reciprocal", "clip"} & set(found)


@pytest.mark.parametrize(
    "text",
    [
        "z = Mul(x, two)\na = Add(z, one)\ns = Sigmoid(a)\ny = Mul(x, s)",
        "n = Neg(x)\na = Abs(n)\ns = Sigmoid(a)\ny = Mul(x, s)",
        "a = Div(x, r)\nb = Erf(a)\nc = Add(b, half)\nd = Mul(x, c)\ny = Mul(d, half)",
        "a = Abs(x)\nk1 = Mul(a, k)\nb = Erf(k1)\nc = Add(b, one)\ny = Mul(x, c)",
        TANH.replace("x, three", "x, two"),
        TANH.replace("Mul(s, g)", "Mul(s, half)"),
        "e = Exp(x)\nf = Abs(x)\ng1 = Exp(f)\ns = ReduceSum(g1, axis)\ny = Div(e, s)",
        "a = Add(x, three)\nb = Clip(a, one, six)\ny = Mul(x, b)",
        "a = Add(x, one)\nb = Clip(a, zero, six)\ny = Mul(x, b)",
    ],
)
def test_near_misses_are_left(text: str) -> None:
    used = {
        name: value for name, value in {**CONSTANTS, "zero": 0.0}.items() if f" {name}" in text or f"({name}" in text
    }
    assert "mul" in ops_of(build(text, used))


def test_a_shift_along_the_axis_stays() -> None:
    """Only what is added to all entries alike drops out of a softmax."""
    along, across = np.arange(5, dtype=np.float32), np.ones((2, 1), np.float32)
    assert ops_of(build("a = Add(x, w)\ny = Softmax(a; axis=1)", {"w": along})) == ["shift", "softmax"]
    assert ops_of(build("a = Add(x, w)\ny = Softmax(a; axis=1)", {"w": across})) == ["softmax"]


def test_the_difference_of_a_tanh_gelu_is_bounded() -> None:
    """The file's function, in extended precision, lies within the error of the constant that replaces it."""
    used = {name: value for name, value in CONSTANTS.items() if f" {name}" in TANH or f"({name}" in TANH}
    simple = simplify(read_graph(build(TANH, used, (1, 2001))))
    shift = next(node for node in simple.nodes if node.op == "shift")
    assert shift.params["offset"].error is not None
    x = np.linspace(-8, 8, 2001)
    ours = evaluate(simple, [torch.from_numpy(x).reshape(1, 1, -1)])[simple.outputs[0].value].reshape(-1).numpy()
    wide = x.astype(np.longdouble)
    g, m = (np.longdouble(np.float32(CONSTANTS[key])) for key in "gm")
    theirs = wide / 2 * (1 + np.tanh(g * (wide + m * wide**3)))
    gap = np.abs(ours - theirs)
    assert float(gap.max()) <= float(shift.params["offset"].error.max()) + 1e-14
    assert float(gap.max()) > 1e-11


def steps(graph: Graph) -> int:
    return sum(node.op in ("step", "relu", "clip", "abs", "sign") for node in graph.nodes)


def test_functions_of_steps_are_affine() -> None:
    """OneHot of ArgMax, a comparison of it, a sign: all in the steps of ArgMax itself."""
    text = (
        "a = ArgMax(x; axis=1; keepdims=0)\nb = OneHot(a, depth, levels)\nc = Mul(b, k)\nd = Sub(c, k)\n"
        "e = Sign(d)\nf = Abs(e)\ny = Clip(f, zero, one)"
    )
    weights = {"depth": np.array(2), "levels": np.array([0, 1], np.float32), "k": 0.3, "zero": 0.0, "one": 1.0}
    model = build(text, weights, (3, 2))
    simple = simplify(read_graph(model))
    agree(simple, Original(model))
    assert steps(simple) <= 1
    text = "a = Greater(x, k)\nb = Cast(a; to=1)\nc = Mul(b, two)\nd = Sub(c, one)\ne = Sign(d)\ny = Add(e, one)"
    assert ops_of(build(text, {"k": 0.3, "two": 2.0, "one": 1.0})) == ["shift", "step", "scale"]
