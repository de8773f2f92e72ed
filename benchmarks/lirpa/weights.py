"""Perturbed weights: how far the weights of a digit classifier may move before a test image changes its label.

A small classifier is trained on scikit-learn's digits. Then every weight matrix may lie anywhere in a 2-norm
ball around its trained value, all of them at the same time. Bounds of the margins, for growing radii, are
compared with the worst of many random weights from those balls and with an attack by gradients, which both
have to stay above them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn

import verinn

LAYERS = (64, 16, 10)
NAMES = ("W0", "W1")


@dataclass(frozen=True)
class Row:
    """For one radius: the certified least margin by method, and the least one found by sampling and by attack."""

    radius: float
    ibp: float
    crown: float
    sampled: float
    attacked: float


def train(steps: int = 200) -> dict[str, Tensor]:
    """Weights and biases of a classifier 64 - 16 - 10, float32 numbers; deterministic on one machine."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images[:1400] / 16.0), torch.from_numpy(labels[:1400])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    momenta = [torch.zeros_like(p) for p in net.parameters()]
    for _ in range(steps):  # full batches, gradient descent with momentum
        loss = nn.functional.cross_entropy(net(x), y) + 1e-3 * sum(p.square().sum() for p in net.parameters())
        slopes = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, momentum, slope in zip(net.parameters(), momenta, slopes, strict=True):
                momentum.mul_(0.9).add_(slope)
                parameter -= 0.1 * momentum
    held = [parameter.detach().float().double() for parameter in net.parameters()]
    return {"W0": held[0].T.contiguous(), "b0": held[1], "W1": held[2].T.contiguous(), "b1": held[3]}


def model(weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The classifier as an ONNX model, X [1, 64] to Y [1, 10]."""
    nodes = [
        helper.make_node("Gemm", ["X", "W0", "b0"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Gemm", ["r", "W1", "b1"], ["Y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(w.numpy().astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def margins(weights: Mapping[str, Tensor], image: Tensor, label: int) -> Tensor:
    """The label's output minus the greatest other one."""
    y = (image @ weights["W0"] + weights["b0"]).relu() @ weights["W1"] + weights["b1"]
    rest = torch.arange(10) != label
    return y[..., label] - y[..., rest].amax(-1)


def moved(weights: Mapping[str, Tensor], steps: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """The weights moved by the given steps, each scaled to the radius."""
    scaled = {name: step / step.norm().clamp(min=1e-12) * radius for name, step in steps.items()}
    return {name: weight + scaled[name] if name in scaled else weight for name, weight in weights.items()}


def run(radii: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2), samples: int = 300, training: int = 200) -> list[Row]:
    """One image, the first of the test set that is classified rightly."""
    images, labels = load_digits(return_X_y=True)
    weights = train(training)
    index = next(i for i in range(1400, 1797) if margins(weights, torch.from_numpy(images[i] / 16.0), labels[i]) > 0)
    image, label = torch.from_numpy(images[index] / 16.0).reshape(1, 64), int(labels[index])
    graph = verinn.load(model(weights), weights=NAMES)
    others = [k for k in range(10) if k != label]
    rows = np.zeros((9, 10))
    rows[:, label], rows[range(9), others] = 1.0, -1.0
    generator = torch.Generator().manual_seed(1)
    found = []
    for radius in radii:
        sets = {name: verinn.Ball(weights[name], radius, 2) for name in NAMES} | {"X": verinn.Box(image, image)}
        bounds = {m: float(verinn.bounds(graph, sets, method=m, rows=rows).lower.amin()) for m in ("ibp", "crown")}
        sampled = min(
            float(margins(moved(weights, random(weights, generator), radius), image, label)) for _ in range(samples)
        )
        found.append(Row(radius, bounds["ibp"], bounds["crown"], sampled, attack(weights, image, label, radius)))
    return found


def random(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    return {name: torch.randn(weights[name].shape, generator=generator, dtype=torch.float64) for name in NAMES}


def attack(weights: Mapping[str, Tensor], image: Tensor, label: int, radius: float, steps: int = 20) -> float:
    """The least margin found by steps against its gradient on the spheres of the radius."""
    now = dict(weights)
    least = float(margins(now, image, label))
    for _ in range(steps):
        leaves = {name: now[name].detach().requires_grad_(True) for name in NAMES}
        slopes = torch.autograd.grad(margins({**now, **leaves}, image, label).sum(), list(leaves.values()))
        steps_ = {name: -slope for name, slope in zip(NAMES, slopes, strict=True)}
        now = moved(weights, steps_, radius)
        least = min(least, float(margins(now, image, label)))
    return least


if __name__ == "__main__":
    for row in run():
        print(
            f"radius {row.radius:4.2f}: margin at least {row.crown:6.3f} (CROWN) {row.ibp:6.3f} (IBP), "
            f"sampled {row.sampled:6.3f}, attacked {row.attacked:6.3f}"
        )
