"""The Python face, end to end on odd but legal models: each verdict is Z3's or obvious."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import verinn
from verinn.api import describe, verify
from verinn.options import Options
from verinn.result import Verdict

torch.set_num_threads(1)

W = np.asarray([[1.0, 2.0, -1.0], [0.0, -3.0, 2.0]], dtype=np.float32)
V = np.asarray([[1.0], [-1.0], [2.0]], dtype=np.float32)


def make(
    nodes: Sequence[onnx.NodeProto], xs: Sequence[int], ys: Sequence[int], **weights: np.ndarray
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, xs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ys)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attrs)


def prop(path: Path, n: int, m: int, body: str, low: float = -1, high: float = 1) -> Path:
    lines = [f"(declare-const {v}_{i} Real)" for v, count in (("X", n), ("Y", m)) for i in range(count)]
    lines += [f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))" for i in range(n)]
    file = path / "p.vnnlib"
    file.write_text("\n".join([*lines, body]))
    return file


def options(attack: bool = True, seconds: float = 20.0) -> Options:
    return Options(attack=attack, deadline=time.monotonic() + seconds, device="cpu")


NETS: dict[str, tuple[onnx.ModelProto, int, int]] = {
    "constant beside the input": (
        make(
            [
                node("Concat", "x c", "a", axis=1),
                node("Gemm", "a U", "p"),
                node("Relu", "p", "r"),
                node("Gemm", "r V", "y"),
            ],
            [1, 2],
            [1, 1],
            c=np.asarray([[0.5, -1.0]], dtype=np.float32),
            U=np.concatenate([W, -W[::-1]]),
            V=V,
        ),
        2,
        1,
    ),
    "relu of the input": (
        make(
            [node("Relu", "x", "q"), node("Gemm", "q W", "p"), node("Relu", "p", "r"), node("Gemm", "r V", "y")],
            [1, 2],
            [1, 1],
            W=W,
            V=V,
        ),
        2,
        1,
    ),
    "output of rank 0": (
        make(
            [node("Gemm", "x W", "p"), node("Relu", "p", "r"), node("Gemm", "r V", "b"), node("Squeeze", "b", "y")],
            [1, 2],
            [],
            W=W,
            V=V,
        ),
        2,
        1,
    ),
    "rank 0 in the middle": (
        make(
            [node("Gemm", "x W", "p"), node("ReduceSum", "p", "s", keepdims=0), node("Relu", "s", "y")], [1, 2], [], W=W
        ),
        2,
        1,
    ),
    "input of rank 0": (
        make(
            [
                node("Unsqueeze", "x axes", "u"),
                node("Gemm", "u W", "p"),
                node("Relu", "p", "r"),
                node("Gemm", "r V", "y"),
            ],
            [],
            [1, 1],
            axes=np.asarray([0, 1]),
            W=W[1:],
            V=V,
        ),
        1,
        1,
    ),
    "no nonlinear step": (make([node("Gemm", "x W", "y")], [1, 2], [1, 3], W=W), 2, 3),
    "the input itself": (make([node("Identity", "x", "y")], [1, 2], [1, 2]), 2, 2),
    "max pooling": (
        make(
            [
                node("MaxPool", "x", "p", kernel_shape=[2], strides=[1], pads=[1, 0]),
                node("Flatten", "p", "f"),
                node("Gemm", "f V", "y"),
            ],
            [1, 1, 3],
            [1, 1],
            V=V,
        ),
        3,
        1,
    ),
    "s-shaped": (
        make(
            [node("Gemm", "x W", "p"), node("Tanh", "p", "t"), node("Sigmoid", "t", "r"), node("Gemm", "r V", "y")],
            [1, 2],
            [1, 1],
            W=W,
            V=V,
        ),
        2,
        1,
    ),
}


def reach(model: onnx.ModelProto, n: int) -> float:
    """The greatest Y_0 seen on a grid."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    shape = [int(k) for k in value.shape]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 17)] * n), -1).reshape(-1, n).astype(np.float32)
    return max(float(np.ravel(session.run(None, {value.name: x.reshape(shape)})[0])[0]) for x in grid)


@pytest.mark.parametrize("attack", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_odd_models(name: str, attack: bool, tmp_path: Path) -> None:
    """Just below what is reached is sat, well above it unsat (the grid holds every maximum, nearly)."""
    model, n, m = NETS[name]
    top = reach(model, n)
    below = verify(model, prop(tmp_path, n, m, f"(assert (>= Y_0 {top - 0.05:.4f}))"), options(attack))
    assert below.verdict is Verdict.SAT and below.witness is not None
    assert float(np.ravel(below.witness.values["Y"])[0]) >= round(top - 0.05, 4)
    above = verify(model, prop(tmp_path, n, m, f"(assert (>= Y_0 {top + 0.2:.4f}))"), options(attack))
    assert above.verdict is Verdict.UNSAT and above.witness is None
    two = f"(assert (or (>= Y_0 {top + 0.2:.4f}) (and (>= Y_0 {top + 0.1:.4f}) (<= X_0 0))))"
    assert verify(model, prop(tmp_path, n, m, two), options(attack)).verdict is Verdict.UNSAT


def test_a_path_and_a_model_in_memory_are_the_same(tmp_path: Path) -> None:
    model, n, m = NETS["relu of the input"]
    onnx.save(model, tmp_path / "m.onnx")
    file = prop(tmp_path, n, m, "(assert (>= Y_0 100))")
    for source in (model, tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        assert verinn.verify(source, file, options()).verdict is Verdict.UNSAT


def test_an_empty_box_is_unsat(tmp_path: Path) -> None:
    model, n, m = NETS["relu of the input"]
    assert verify(model, prop(tmp_path, n, m, "", low=1, high=-1), options()).verdict is Verdict.UNSAT


def test_no_constraint_on_the_output_is_sat(tmp_path: Path) -> None:
    model, n, m = NETS["relu of the input"]
    for attack in (True, False):
        assert verify(model, prop(tmp_path, n, m, ""), options(attack)).verdict is Verdict.SAT


def test_an_unbounded_input_loses_no_violation(tmp_path: Path) -> None:
    """Y_0 is at most 4, and falls without end as X_0 grows: what lies far out counts."""
    model, n, m = NETS["relu of the input"]
    for body in ("(assert (>= Y_0 1))", "(assert (<= Y_0 -100))", "(assert (<= Y_0 -1e30))"):
        file = prop(tmp_path, n, m, body)
        file.write_text(file.read_text().replace("(assert (<= X_0 1))", ""))
        result = verify(model, file, options())
        assert result.verdict in (Verdict.SAT, Verdict.UNKNOWN)
        assert result.verdict is Verdict.SAT or result.reason
    file.write_text(file.read_text().replace("(<= Y_0 -1e30)", "(>= Y_0 5)"))
    assert verify(model, file, options()).verdict is not Verdict.SAT


def test_the_same_seed_gives_the_same_answer(tmp_path: Path) -> None:
    model, n, m = NETS["s-shaped"]
    file = prop(tmp_path, n, m, f"(assert (>= Y_0 {reach(model, n) - 0.1:.3f}))")
    one, two = (verify(model, file, options()) for _ in range(2))
    assert one.witness is not None and two.witness is not None
    assert all(np.array_equal(one.witness.values[k], two.witness.values[k]) for k in one.witness.values)


@pytest.mark.parametrize("name", NETS)
def test_describe(name: str, tmp_path: Path) -> None:
    model, n, m = NETS[name]
    found = describe(model, prop(tmp_path, n, m, "(assert (>= Y_0 1))"))
    assert found.cases == 1 and found.conjunctions == 1 and found.neurons >= (found.unstable or 0)
