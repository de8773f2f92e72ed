"""A recurrent graph: an LSTM that reads a digit row by row, its bounds when some rows are perturbed.

The ONNX operator LSTM is unrolled on reading: gates are sigmoids and tanhs, the cell's state is sums of products
of two variables. Pixels of the last rows move by at most ε each; the certified least margin is compared with
the least one that an attack by gradients finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn

import verinn

STEPS, INPUTS, HIDDEN = 8, 8, 8


@dataclass(frozen=True)
class Row:
    """For one ε: the certified least margin by method, and the least one found by an attack."""

    eps: float
    ibp: float
    crown: float
    attacked: float


class Reader(nn.Module):
    """LSTM over the rows, a linear layer on its last state: (B, 8, 8) to (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.out(states[:, -1])  # type: ignore[no-any-return]


def train(steps: int = 120) -> Reader:
    """A trained network with float32 weights; deterministic on one machine."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images[:500] / 16.0).reshape(-1, 8, 8), torch.from_numpy(labels[:500])
    torch.manual_seed(0)
    net = Reader().double()
    ones = [torch.zeros_like(p) for p in net.parameters()]
    twos = [torch.zeros_like(p) for p in net.parameters()]
    for step in range(1, steps + 1):  # Adam, full batches
        slopes = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), list(net.parameters()))
        with torch.no_grad():
            for p, one, two, slope in zip(net.parameters(), ones, twos, slopes, strict=True):
                one.mul_(0.9).add_(0.1 * slope)
                two.mul_(0.99).add_(0.01 * slope.square())
                p -= 0.02 * (one / (1 - 0.9**step)) / ((two / (1 - 0.99**step)).sqrt() + 1e-8)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.float().double())
    return net


def model(net: Reader) -> onnx.ModelProto:
    """The network as an ONNX model with the operator LSTM: x [8, 1, 8] (rows first) to y [1, 10]."""

    def gates(weight: Tensor) -> np.ndarray:
        """torch's order of gates is input, forget, cell, output; ONNX's is input, output, forget, cell."""
        i, f, c, o = weight.detach().chunk(4)
        return torch.cat([i, o, f, c]).numpy().astype(np.float32)[None]

    lstm = net.lstm
    held = {
        "W": gates(lstm.weight_ih_l0),
        "R": gates(lstm.weight_hh_l0),
        "B": np.concatenate([gates(lstm.bias_ih_l0), gates(lstm.bias_hh_l0)], 1),
        "V": net.out.weight.detach().T.numpy().astype(np.float32),
        "b": net.out.bias.detach().numpy().astype(np.float32),
        "axis": np.asarray([0], np.int64),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B"], ["", "last"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["last", "axis"], ["state"]),
        helper.make_node("Gemm", ["state", "V", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "reader",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, 1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def attack(net: Reader, x: Tensor, rows: Tensor, low: Tensor, high: Tensor, steps: int = 30) -> float:
    """The least margin found by projected gradient descent: x, low, high (1, 8, 8)."""
    now, least = x, float("inf")
    for step in range(steps):
        now = now.detach().requires_grad_(True)
        margin = (net(now) @ rows.T).amin()
        least = min(least, float(margin.detach()))
        (slope,) = torch.autograd.grad(margin, now)
        size = (high - low) / 2 * 0.5 * 0.95**step
        now = torch.minimum(torch.maximum(now - size * slope.sign(), low), high)
    return least


def run(radii: tuple[float, ...] = (0.01, 0.02, 0.04), changed: int = 4, training: int = 120) -> list[Row]:
    """One test image that is classified rightly; the last ``changed`` rows of it move."""
    images, labels = load_digits(return_X_y=True)
    net = train(training)
    pixels = torch.from_numpy(images / 16.0).reshape(-1, 8, 8)
    index = next(i for i in range(1400, 1797) if int(net(pixels[i : i + 1]).argmax()) == labels[i])
    x, label = pixels[index : index + 1], int(labels[index])
    graph = verinn.load(model(net))
    others = [k for k in range(10) if k != label]
    rows = torch.zeros((9, 10), dtype=torch.float64)
    rows[:, label], rows[range(9), others] = 1.0, -1.0
    moves = torch.zeros_like(x)
    moves[:, STEPS - changed :] = 1.0
    found = []
    for eps in radii:
        low, high = (x - eps * moves).clamp(min=0), (x + eps * moves).clamp(max=1)
        box = verinn.Box(low.transpose(0, 1), high.transpose(0, 1))
        bounds = {m: float(verinn.bounds(graph, box, method=m, rows=rows).lower.amin()) for m in ("ibp", "crown")}
        found.append(Row(eps, bounds["ibp"], bounds["crown"], attack(net, x, rows, low, high)))
    return found


if __name__ == "__main__":
    for row in run():
        print(
            f"ε = {row.eps:4.2f}: margin at least {row.crown:7.3f} (CROWN) {row.ibp:7.3f} (IBP), "
            f"attacked {row.attacked:6.3f}"
        )
