"""Small piecewise-linear networks with whole weights, and every point of their grids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
BENDS = ("Relu", "Relu", "Abs", "LeakyRelu", "Clip")


@dataclass(frozen=True, eq=False)
class Net:
    """Dense layers with one kind of bend between them; everything is a multiple of 1/4, so float32 is exact."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    bends: tuple[str, ...]

    def values(self, x: np.ndarray) -> np.ndarray:
        """Outputs (P, m) at points (P, n), exactly."""
        for k, (weight, bias) in enumerate(self.layers):
            x = x @ weight + bias
            if k < len(self.bends):
                x = bent(self.bends[k], x)
        return x

    def model(self) -> onnx.ModelProto:
        nodes, weights, last = [], [], "x"
        for k, (weight, bias) in enumerate(self.layers):
            weights += [numpy_helper.from_array(weight.astype(np.float32), f"w{k}")]
            weights += [numpy_helper.from_array(bias.astype(np.float32), f"b{k}")]
            end = k == len(self.layers) - 1
            nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], ["y" if end else f"z{k}"]))
            last = f"z{k}"
            if not end:
                bend, inputs, attrs = self.bends[k], [last], {}
                if bend == "LeakyRelu":
                    attrs["alpha"] = 0.25
                if bend == "Clip":
                    weights += [numpy_helper.from_array(np.float32(v), f"c{k}{s}") for s, v in (("l", -2), ("u", 3))]
                    inputs += [f"c{k}l", f"c{k}u"]
                nodes.append(helper.make_node(bend, inputs, [f"h{k}"], **attrs))
                last = f"h{k}"
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, self.layers[0][0].shape[0]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, self.layers[-1][0].shape[1]])],
            weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def bent(name: str, x: np.ndarray) -> np.ndarray:
    if name == "Relu":
        return np.maximum(x, 0)
    if name == "Abs":
        return np.abs(x)
    if name == "Clip":
        return np.clip(x, -2, 3)
    return np.where(x > 0, x, x / 4)


def random_net(rng: Rng, n: int) -> Net:
    """One to three hidden layers, two or three classes, whole weights."""
    sizes = [n, *rng.integers(2, 6, rng.integers(1, 4)).tolist(), int(rng.integers(2, 4))]
    layers = tuple(
        (rng.integers(-3, 4, (a, b)) * 1.0, rng.integers(-4, 5, b) * 1.0) for a, b in itertools.pairwise(sizes)
    )
    return Net(layers, tuple(rng.choice(BENDS, len(layers) - 1).tolist()))


def points(low: Sequence[int], high: Sequence[int], step: Fraction) -> np.ndarray:
    """Every grid point (P, n)."""
    axes = [np.arange(a, b + 1) * float(step) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def violates(y: np.ndarray, label: int, ties: str) -> np.ndarray:
    """Which outputs (P, m) give the game to another class than ``label``."""
    others = np.delete(y, label, 1)
    own = y[:, [label]]
    if ties == "violate":
        return (others >= own).any(1)
    if ties == "allow":
        return (others > own).any(1)
    return y.argmax(1) != label
