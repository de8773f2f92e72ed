"""Networks to measure on, the same on every machine: random weights from a fixed seed, real architectures.

Weights are drawn by NumPy, whose streams do not change between versions, and scaled so that activations keep
their size through the layers (He et al., ICCV 2015): bounds then neither explode nor vanish with depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from verinn.io.onnx_reader import read_graph
from verinn.ir.graph import Graph
from verinn.passes.simplify import simplify

CLASSES = 10


class Builder:
    """Layers one after the other, as ONNX: ``value`` is the last one's name, ``shape`` its shape."""

    def __init__(self, *shape: int, seed: int = 0):
        """``shape`` of the input, without the batch axis of 1."""
        self.value = "X"
        self.shape = shape
        self._input = shape
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    @property
    def inputs(self) -> int:
        """How many there are."""
        return int(np.prod(self._input))

    def dense(self, size: int) -> Builder:
        if len(self.shape) > 1:
            self._node("Flatten", [self.value], (int(np.prod(self.shape)),), axis=1)
        weight = self._draw(size, self.shape[0])
        return self._node("Gemm", [self.value, weight, self._bias(size)], (size,), transB=1)

    def conv(self, channels: int, kernel: int, stride: int = 1, pad: int = 0) -> Builder:
        planes, height, width = self.shape
        weight = self._draw(channels, planes, kernel, kernel)
        out = [(size + 2 * pad - kernel) // stride + 1 for size in (height, width)]
        return self._node(
            "Conv", [self.value, weight, self._bias(channels)], (channels, *out),
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[pad] * 4,
        )  # fmt: skip

    def apply(self, operator: str, **attributes: Any) -> Builder:
        """An operator that keeps the shape."""
        return self._node(operator, [self.value], self.shape, **attributes)

    def relu(self) -> Builder:
        return self.apply("Relu")

    def max_pool(self, size: int) -> Builder:
        planes, height, width = self.shape
        shape = (planes, height // size, width // size)
        return self._node("MaxPool", [self.value], shape, kernel_shape=[size, size], strides=[size, size])

    def residual(self, channels: int, stride: int = 1) -> Builder:
        """Two 3 × 3 convolutions beside the identity, or beside a 1 × 1 convolution where the shape changes."""
        entry, shape = self.value, self.shape
        self.conv(channels, 3, stride, 1).relu().conv(channels, 3, 1, 1)
        main, made = self.value, self.shape
        if made != shape:
            self.value, self.shape = entry, shape
            entry = self.conv(channels, 1, stride).value
        return self._node("Add", [main, entry], made)

    def model(self) -> onnx.ModelProto:
        """All of it, from X to Y."""
        self._node("Identity", [self.value], self.shape)
        self._nodes[-1].output[0] = "Y"
        graph = helper.make_graph(
            self._nodes,
            "synthetic",
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, *self._input])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, *self.shape])],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    def graph(self) -> Graph:
        """As the engines see it."""
        return simplify(read_graph(self.model()))

    def _draw(self, *shape: int) -> str:
        spread = np.sqrt(2.0 / np.prod(shape[1:]))
        return self._constant(self._random.normal(0.0, spread, shape))

    def _bias(self, size: int) -> str:
        return self._constant(self._random.normal(0.0, 0.05, size))

    def _constant(self, array: np.ndarray) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def _node(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> Builder:
        self.value, self.shape = f"v{len(self._nodes)}", shape
        self._nodes.append(helper.make_node(operator, inputs, [self.value], **attributes))
        return self


@dataclass(frozen=True)
class Case:
    """Something to measure on. ``radius`` of the boxes around their centres."""

    name: str
    make: Callable[[], Builder]
    radius: float


#: single layers, of the sizes that image networks have in their middle
LAYERS = (
    Case("linear 256-256", lambda: Builder(256).dense(256), 0.1),
    Case("conv 3x3 stride 1", lambda: Builder(16, 16, 16).conv(16, 3, 1, 1), 0.1),
    Case("conv 4x4 stride 2", lambda: Builder(16, 16, 16).conv(32, 4, 2, 1), 0.1),
    Case("residual block", lambda: Builder(16, 8, 8).residual(16), 0.1),
    Case("relu", lambda: Builder(16, 16, 16).relu(), 0.5),
    Case("leaky relu", lambda: Builder(16, 16, 16).apply("LeakyRelu", alpha=0.1), 0.5),
    Case("sigmoid", lambda: Builder(16, 16, 16).apply("Sigmoid"), 0.5),
    Case("tanh", lambda: Builder(16, 16, 16).apply("Tanh"), 0.5),
    Case("max pool 2x2", lambda: Builder(16, 16, 16).max_pool(2), 0.5),
)


def mlp() -> Builder:
    """784-256x6-10, as in the mnist_fc set."""
    net = Builder(784)
    for _ in range(6):
        net.dense(256).relu()
    return net.dense(CLASSES)


def conv_net() -> Builder:
    """3172 ReLUs on CIFAR's images, as the base network of the oval set."""
    net = Builder(3, 32, 32).conv(8, 4, 2, 1).relu().conv(16, 4, 2, 1).relu()
    return net.dense(100).relu().dense(CLASSES)


def pooled_net() -> Builder:
    """A convolutional network with leaky ReLUs and max pooling on MNIST's images."""
    net = Builder(1, 28, 28).conv(8, 3, 1, 1).apply("LeakyRelu", alpha=0.1).max_pool(2)
    return net.conv(16, 3, 1, 1).apply("LeakyRelu", alpha=0.1).max_pool(2).dense(64).relu().dense(CLASSES)


def resnet() -> Builder:
    """Two residual blocks on CIFAR's images, about the size of the smaller one in the cifar10_resnet set."""
    net = Builder(3, 32, 32).conv(8, 3, 2, 1).relu()
    net.residual(16, 2).relu().residual(16).relu()
    return net.dense(100).relu().dense(CLASSES)


NETWORKS = (
    Case("mlp 784-256x6-10", mlp, 0.004),
    Case("conv net, 3172 relus", conv_net, 0.004),
    Case("pooled conv net", pooled_net, 0.004),
    Case("resnet, 2 blocks", resnet, 0.004),
)
