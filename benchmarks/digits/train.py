"""Train the two example networks on scikit-learn's digits and write them as ONNX files.

    python benchmarks/digits/train.py [FOLDER]      (default: the folder `onnx` beside this file)

The data (1797 images of 8 × 8 pixels, values 0 to 16) ship with scikit-learn; nothing is fetched.
Pixels are divided by 16, so every one is an exact binary fraction in [0, 1]. Images 0 to 1437 train,
1438 to 1796 test. Deterministic: fixed seed, one thread, full batches, float64 while training; the
weights are rounded to float32 at the end. Another processor or another torch can still change last
digits; the test of this recipe compares with a tolerance.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

SPLIT = 1438
CLASSES = 10


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 64) float64 in [0, 1] and their labels."""
    digits = load_digits()
    return digits.data / 16.0, digits.target


def dense() -> nn.Sequential:
    """64 - 32 - 32 - 10, ReLU."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def convolutional() -> nn.Sequential:
    """8 × 8 image, two strided convolutions, one hidden layer."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, CLASSES),
    )


def train(net: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, steps: int = 400) -> None:
    """Full-batch Adam with weight decay; each step sees the images plain and with noise."""
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)
    noise = torch.Generator().manual_seed(1)
    for _ in range(steps):
        blurred = images + 0.1 * torch.randn(images.shape, generator=noise, dtype=images.dtype)
        loss = nn.functional.cross_entropy(net(images), labels) + nn.functional.cross_entropy(net(blurred), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def to_onnx(net: nn.Sequential, name: str, shape: list[int]) -> onnx.ModelProto:
    """The network as an ONNX model: input X of the given shape, output Y [1, 10]."""
    nodes, weights = [], []
    value = "X"
    for i, layer in enumerate(net):
        made = "Y" if i == len(net) - 1 else f"v{i}"
        inputs = [value]
        for key, parameter in layer.named_parameters():
            array = parameter.detach().numpy().astype(np.float32)
            weights.append(numpy_helper.from_array(array, f"{key}{i}"))
            inputs.append(f"{key}{i}")
        operator, attributes = _operator(layer)
        nodes.append(helper.make_node(operator, inputs, [made], name=f"{operator}_{i}", **attributes))
        value = made
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="verinn")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def _operator(layer: nn.Module) -> tuple[str, dict[str, object]]:
    if isinstance(layer, nn.Linear):
        return "Gemm", {"transB": 1}
    if isinstance(layer, nn.Conv2d):
        return "Conv", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    if isinstance(layer, nn.Flatten):
        return "Flatten", {"axis": 1}
    return "Relu", {}


def build() -> dict[str, onnx.ModelProto]:
    """File name → model, for both networks; prints the accuracy on the test images."""
    torch.set_num_threads(1)
    images, labels = data()
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    models = {}
    for name, make, shape in (("dense", dense, [1, 64]), ("conv", convolutional, [1, 1, 8, 8])):
        torch.manual_seed(0)
        net = make().double()
        shaped = inputs.reshape(-1, *shape[1:])
        train(net, shaped[:SPLIT], targets[:SPLIT])
        right = (net(shaped[SPLIT:]).argmax(1) == targets[SPLIT:]).double().mean().item()
        print(f"{name}: {100 * right:.1f} % of {len(targets) - SPLIT} test images right")
        models[f"digits_{name}.onnx"] = to_onnx(net, f"digits_{name}", shape)
    return models


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in build().items():
        onnx.save(model, str(folder / name))


if __name__ == "__main__":
    main()
