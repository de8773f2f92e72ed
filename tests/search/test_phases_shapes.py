"""The search over ReLU phases on shapes, sizes and functions that are out of the ordinary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from phases_run import check, decide, run, use
from search_brute import Layers, Row, Tree, bounds, random_asserts, random_layers, row

from verinn.result import Verdict

torch.set_num_threads(1)
assert use  # in every test


def test_one_conjunction_refuted_is_not_all(tmp_path: Path) -> None:
    """A case, or a conjunction, that holds a violation, wherever it stands among others that hold none."""
    layers = random_layers(np.random.default_rng(8), (2, 6, 5, 2))
    far = Tree("and", (row(">=", 10**4, (1, "Y_0")),))
    rng = np.random.default_rng(9)
    for _ in range(3):
        x = rng.integers(-8, 9, (1, 2)) / 8
        y = x
        for k, (weight, bias) in enumerate(layers):
            y = y @ weight + bias
            y = np.maximum(y, 0) if k < len(layers) - 1 else y
        near = Tree("and", (row(">=", float(y[0, 0]), (1, "Y_0")), row("<=", float(y[0, 1]), (1, "Y_1"))))
        for place in range(3):
            parts = [far] * 2
            parts.insert(place, near)
            box = bounds([-1.0, -1.0], [1.0, 1.0])
            asserts: list[Row | Tree] = [*box, Tree("or", tuple(parts))]
            assert run(layers, asserts, tmp_path) is not Verdict.UNSAT
            cases = [Tree("and", (*box, *part.parts)) for part in parts]
            assert run(layers, [Tree("or", tuple(cases))], tmp_path) is not Verdict.UNSAT


def test_a_box_in_which_every_neuron_is_stable(tmp_path: Path) -> None:
    """No neuron to split, and no bound at once: the goals' mix alone decides."""
    layers: Layers = [(np.eye(2), np.full(2, 4.0)), (np.asarray([[1.0, -1.0], [-1.0, -1.0]]), np.zeros(2))]
    box = bounds([-1.0, -1.0], [1.0, 1.0])
    for level in (-10.0, -9.5, 0.0, 1.0, 2.0, 2.25):
        asserts: list[Row | Tree] = [*box, row(">=", level, (1, "Y_0")), row(">=", -8.0, (1, "Y_1"))]
        assert check(run(layers, asserts, tmp_path), layers, asserts)


def test_fewer_open_neurons_than_levels(tmp_path: Path) -> None:
    """One and two neurons, where many could be split at once."""
    for neurons in (1, 2):
        for seed in range(4):
            rng = np.random.default_rng([seed, neurons])
            layers = random_layers(rng, (2, neurons, 1))
            asserts = random_asserts(rng, "one", layers, False)
            check(run(layers, asserts, tmp_path), layers, asserts)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e9, 1e11])
def test_numbers_of_any_size_prove_nothing_wrong(size: float, tmp_path: Path) -> None:
    """Weights whose products overflow or vanish in float32; a violation at a corner."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        layers = random_layers(rng, (2, 5, 4, 4, 1))
        scaled = [(weight * size, bias * size ** (k + 1)) for k, (weight, bias) in enumerate(layers[:-1])]
        scaled.append(layers[-1])
        x = np.asarray([[1.0, -1.0]])
        for k, (weight, bias) in enumerate(scaled):
            x = x @ weight.astype(np.float32).astype(np.float64) + bias.astype(np.float32).astype(np.float64)
            x = np.maximum(x, 0) if k < len(scaled) - 1 else x
        level = float(x[0, 0]) - abs(float(x[0, 0])) / 1024
        asserts: list[Row | Tree] = [*bounds([-1.0, -1.0], [1.0, 1.0]), row(">=", level, (1, "Y_0"))]
        assert run(scaled, asserts, tmp_path, seconds=1.0) is not Verdict.UNSAT


# --- other nonlinearities: their lines stay as they are, so much is left open, and nothing is wrong ---


def mixed_model(rng: np.random.Generator, kind: str) -> tuple[onnx.ModelProto, Callable[[np.ndarray], np.ndarray]]:
    """Gemm, ReLU, another function, Gemm; and the same in float64."""
    one, two, three = random_layers(rng, (2, 4, 4, 1))
    names = [("w", one), ("v", two), ("u", three)]
    weights = [
        numpy_helper.from_array(p.astype(np.float32), f"{n}{i}") for n, pair in names for i, p in enumerate(pair)
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "w1"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v0", "v1"], ["s"]),
    ]
    if kind == "MaxPool":
        weights.append(numpy_helper.from_array(np.asarray([1, 1, 4]), "image"))
        weights.append(numpy_helper.from_array(np.asarray([1, 4]), "row"))
        nodes += [
            helper.make_node("Reshape", ["s", "image"], ["i"]),
            helper.make_node("MaxPool", ["i"], ["m"], kernel_shape=[2], strides=[1], pads=[0, 1]),
            helper.make_node("Reshape", ["m", "row"], ["t"]),
        ]
    else:
        nodes.append(helper.make_node(kind, ["s"], ["t"]))
    nodes.append(helper.make_node("Gemm", ["t", "u0", "u1"], ["y"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 2), ("y", 1))]
    graph = helper.make_graph(nodes, "mixed", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    def function(x: np.ndarray) -> np.ndarray:
        s = np.maximum(x @ one[0] + one[1], 0) @ two[0] + two[1]
        if kind == "MaxPool":
            t = np.maximum(s, np.concatenate([s[:, 1:], s[:, -1:]], 1))
        else:
            t = {"LeakyRelu": np.where(s > 0, s, 0.01 * s), "Sigmoid": 1 / (1 + np.exp(-s))}[kind]
        return t @ three[0] + three[1]

    return made, function


@pytest.mark.parametrize("kind", ["MaxPool", "LeakyRelu", "Sigmoid"])
def test_other_functions_between_relus(kind: str, tmp_path: Path) -> None:
    proved = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        network, function = mixed_model(rng, kind)
        x = rng.integers(-256, 257, (20000, 2)) / 256
        most, least = (float(end(function(x))) for end in (np.max, np.min))
        for level in (most - 1e-3, most + 0.02 * (most - least), most + (most - least), most + 10 * (most - least) + 1):
            asserts: list[Row | Tree] = [
                *bounds([-1.0] * 2, [1.0] * 2),
                row(">=", round(level * 1024) / 1024, (1, "Y_0")),
            ]
            verdict = decide(network, (2, 1), asserts, tmp_path, seconds=0.5).verdict
            if level < most:
                assert verdict is not Verdict.UNSAT, (seed, level)
            proved += verdict is Verdict.UNSAT
    assert proved > 3
