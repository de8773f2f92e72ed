"""The paper's example in two dimensions: a network that tells the sides of a curve, and an input near it.

    python benchmarks/region/curve.py [FOLDER]      (default: this folder)

Huang, Kwiatkowska, Wang, Wu (CAV 2017), section 2: a network 2-20-20-20-2 learns on which side of a curve a point
lies; x = (3.59, 1.11) and the region of ±1 about it are safe for the manipulations of the input layer, and not for
those of layer 1. The paper gives no data: the curve here is a wave of period 1, so that all points one step away from
x are on its side, and points between them are not. Trains the network, writes it as ONNX, searches layer by layer,
and draws the plot. Deterministic: fixed seed, one thread, float64 while training.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

HERE = Path(__file__).parent
X = (3.59, 1.11)
LOW, HIGH = (2.0, -0.5), (5.2, 3.2)


def curve(x: np.ndarray) -> np.ndarray:
    """The wave: above every point of the grid of step 1 about X, below the input region's top in between."""
    return np.asarray(1.75 + 1.05 * np.cos(2 * np.pi * (x - X[0])))


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((2, 20), (20, 20), (20, 20)):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(20, 2))


def train(steps: int = 4000) -> nn.Sequential:
    """Full-batch Adam on points of a lattice, labelled 0 below the curve and 1 above it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = network().double()
    u, v = np.meshgrid(np.linspace(LOW[0], HIGH[0], 81), np.linspace(LOW[1], HIGH[1], 61))
    points = torch.from_numpy(np.stack([u.ravel(), v.ravel()], 1))
    labels = torch.from_numpy((v.ravel() > curve(u.ravel())).astype(np.int64))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net(points - torch.tensor(X, dtype=torch.float64)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    right = (net(points - torch.tensor(X, dtype=torch.float64)).argmax(1) == labels).double().mean().item()
    print(f"{100 * right:.1f} % of {len(labels)} points right")
    return net


def to_onnx(net: nn.Sequential) -> onnx.ModelProto:
    """Input x [1, 2], output y [1, 2]; the shift of the origin to X is folded into the first bias."""
    nodes, weights, value = [], [], "x"
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    for k, layer in enumerate(linear):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        bias = bias - weight @ np.array(X) if k == 0 else bias
        weights += [numpy_helper.from_array(weight.astype(np.float32), f"w{k}")]
        weights += [numpy_helper.from_array(bias.astype(np.float32), f"b{k}")]
        last = k == len(linear) - 1
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], ["y" if last else f"z{k}"], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{k}"], [f"h{k}"]))
        value = f"h{k}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "curve", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="verinn")
    onnx.checker.check_model(model, full_check=True)
    return model


def draw(path: Path, found: list[tuple[str, np.ndarray]]) -> None:
    """The network's classes about X, the region, the points of the input layer's manipulations, and what was found."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from verinn.io.onnx_reader import read_graph
    from verinn.ops.program import Program

    program = Program.prepare(read_graph(path), torch.float64)
    u, v = np.meshgrid(np.linspace(X[0] - 1.5, X[0] + 1.5, 401), np.linspace(X[1] - 1.5, X[1] + 1.5, 401))
    y = program.flat(torch.from_numpy(np.stack([u.ravel(), v.ravel()], 1))).numpy()
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.contourf(u, v, (y[:, 1] - y[:, 0]).reshape(u.shape), levels=[-1e9, 0, 1e9], colors=["#cfe3f7", "#f7d9c4"])
    line = np.linspace(X[0] - 1.5, X[0] + 1.5, 400)
    axes.plot(line, curve(line), color="0.5", linewidth=1, label="the curve")
    axes.add_patch(Rectangle((X[0] - 1, X[1] - 1), 2, 2, fill=False, label="region ±1"))
    grid = np.array([(X[0] + i, X[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    axes.plot(*grid.T, "o", color="tab:blue", label="manipulations of layer 0: one class")
    for name, point in found:
        axes.plot(*point, "X", markersize=11, color="tab:red", label=name)
    axes.set(
        xlim=(X[0] - 1.5, X[0] + 1.5), ylim=(X[1] - 1.5, X[1] + 1.5), title="x = (3.59, 1.11), network 2-20-20-20-2"
    )
    axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=100)


def searched(path: Path) -> list[tuple[str, np.ndarray]]:
    """The search at layer 0, then from layer 0 to 1: prints the verdicts, returns the input found."""
    from verinn.options import Options
    from verinn.region.layered import LayerSettings, search_layers
    from verinn.region.question import Scale, about_image

    question = about_image(path, np.array(X), Scale((Fraction(1),), levels=None), Fraction(1))
    found = []
    for last in (0, 1):
        report = search_layers(question, LayerSettings(Options(device="cpu"), last=last))
        print("\n".join(["", f"layers 0 to {last}:", *report.lines()]))
        if report.point is not None:
            found.append((f"found at layer {last}, mapped back", report.point))
    return found


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "curve.onnx"
    onnx.save(to_onnx(train()), str(path))
    np.save(folder / "curve_x.npy", np.array(X))
    print(f"{path} written")
    draw(path, searched(path))


if __name__ == "__main__":
    main()
