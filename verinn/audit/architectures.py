"""The architectures that hidden counterexamples are trained into, in torch and as ONNX.

As in SoundnessBench (Zhou et al., "Testing Neural Network Verifiers: A Soundness Benchmark with Hidden
Counterexamples", 2024): images of 1 or 3 channels of 5×5 or ten numbers in, two classes out. ``width`` scales
the large dense layers; 1 is the paper's size. A residual network is added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from verinn.audit.sketch import Sketch

SIDE = 5
VECTOR = 10
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
}


class Layer(nn.Module):
    """A layer that can also draw itself: ``emit`` adds it to a sketch and returns the name of its output."""

    def emit(self, sketch: Sketch, x: str) -> str:
        raise NotImplementedError


class Dense(Layer):
    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _uniform((outputs, inputs), inputs, generator)
        self.bias = _uniform((outputs,), inputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    def emit(self, sketch: Sketch, x: str) -> str:
        weight, bias = sketch.weight(_array(self.weight)), sketch.weight(_array(self.bias))
        return sketch.node("Gemm", x, weight, bias, transB=1)


class Conv(Layer):
    def __init__(self, inputs: int, outputs: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.weight = _uniform((outputs, inputs, size, size), inputs * size * size, generator)
        self.bias = _uniform((outputs,), inputs * size * size, generator)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias, padding=self.size // 2)

    def emit(self, sketch: Sketch, x: str) -> str:
        weight, bias = sketch.weight(_array(self.weight)), sketch.weight(_array(self.bias))
        return sketch.node("Conv", x, weight, bias, kernel_shape=[self.size] * 2, pads=[self.size // 2] * 4)


class Activation(Layer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)

    def emit(self, sketch: Sketch, x: str) -> str:
        return sketch.node(self.name, x)


class AveragePool(Layer):
    """3×3, stride 1, padding 1: the padding counts, as torch has it by default and ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, stride=1, padding=1)

    def emit(self, sketch: Sketch, x: str) -> str:
        return sketch.node(
            "AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1
        )


class Flatten(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def emit(self, sketch: Sketch, x: str) -> str:
        return sketch.node("Flatten", x, axis=1)


class Chain(Layer):
    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def emit(self, sketch: Sketch, x: str) -> str:
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x = layer.emit(sketch, x)
        return x


class Residual(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)

    def emit(self, sketch: Sketch, x: str) -> str:
        return sketch.node("Add", x, super().emit(sketch, x))


class Norm(Layer):
    """Batch normalisation over the last axis with fixed statistics: a trained affine map, drawn as one.

    ``tokens``: whether there is an axis of tokens between, (N, tokens, width) instead of (N, width).
    """

    def __init__(self, width: int, tokens: bool = True) -> None:
        super().__init__()
        self.tokens = tokens
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift

    def emit(self, sketch: Sketch, x: str) -> str:
        mean, variance = torch.zeros_like(self.scale), torch.ones_like(self.scale)
        names = [sketch.weight(_array(item)) for item in (self.scale, self.shift, mean, variance)]
        if not self.tokens:
            return sketch.node("BatchNormalization", x, *names, epsilon=0.0)
        channels = sketch.node("Transpose", x, perm=[0, 2, 1])
        return sketch.node(
            "Transpose", sketch.node("BatchNormalization", channels, *names, epsilon=0.0), perm=[0, 2, 1]
        )


class Tokens(Layer):
    """An image as a class token and one token a pixel, (N, 1 + 25, width), with positions added."""

    def __init__(self, channels: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width, self.count = width, SIDE * SIDE
        self.embed = Conv(channels, width, 1, generator)
        self.token = _uniform((1, 1, width), width, generator)
        self.place = _uniform((1, self.count + 1, width), width, generator)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), pixels], 1) + self.place

    def emit(self, sketch: Sketch, x: str) -> str:
        flat = sketch.node("Reshape", self.embed.emit(sketch, x), sketch.ints([1, self.width, self.count]))
        pixels = sketch.node("Transpose", flat, perm=[0, 2, 1])
        joined = sketch.node("Concat", sketch.weight(_array(self.token)), pixels, axis=1)
        return sketch.node("Add", joined, sketch.weight(_array(self.place)))


class Linear(Layer):
    """A dense layer over the last axis of (N, tokens, width)."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _uniform((inputs, outputs), inputs, generator)
        self.bias = _uniform((outputs,), inputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias

    def emit(self, sketch: Sketch, x: str) -> str:
        product = sketch.node("MatMul", x, sketch.weight(_array(self.weight)))
        return sketch.node("Add", product, sketch.weight(_array(self.bias)))


class Attention(Layer):
    """Self-attention with ``heads`` heads (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int, tokens: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.each, self.tokens = heads, width // heads, tokens
        self.parts = nn.ModuleList(Linear(width, width, generator) for _ in range(3))
        self.join = Linear(width, width, generator)
        # a power of two, so that scaling is exact
        self.scale = 2.0 ** -round(math.log2(math.sqrt(self.each)))

    def forward(self, x: Tensor) -> Tensor:
        size = (len(x), self.tokens, self.heads, self.each)
        query, key, value = (part(x).reshape(size).transpose(1, 2) for part in self.parts)
        weights = torch.softmax(query @ key.transpose(2, 3) * self.scale, -1)
        mixed: Tensor = self.join((weights @ value).transpose(1, 2).reshape(len(x), self.tokens, -1))
        return mixed

    def emit(self, sketch: Sketch, x: str) -> str:
        size = sketch.ints([1, self.tokens, self.heads, self.each])
        drawn = [part.emit(sketch, x) for part in self.parts if isinstance(part, Layer)]
        query, key, value = (
            sketch.node("Transpose", sketch.node("Reshape", name, size), perm=perm)
            for name, perm in zip(drawn, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scores = sketch.node("Mul", sketch.node("MatMul", query, key), sketch.weight(self.scale))
        mixed = sketch.node("MatMul", sketch.node("Softmax", scores, axis=3), value)
        flat = sketch.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.join.emit(
            sketch, sketch.node("Reshape", flat, sketch.ints([1, self.tokens, self.heads * self.each]))
        )


class MeanPool(Layer):
    """The mean of all tokens, (N, tokens, width) to (N, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)

    def emit(self, sketch: Sketch, x: str) -> str:
        return sketch.node("ReduceMean", x, axes=[1], keepdims=0)


def _uniform(shape: Sequence[int], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """torch's own default for dense layers and convolutions: uniform within 1/sqrt(fan-in)."""
    return nn.Parameter((torch.rand(tuple(shape), generator=generator) * 2 - 1) / math.sqrt(fan_in))


def _array(tensor: Tensor) -> object:
    return tensor.detach().cpu().numpy()


def _head(inputs: int, width: float, activation: str, generator: torch.Generator) -> list[Layer]:
    sizes = [inputs, max(8, round(1000 * width)), max(8, round(100 * width)), 20, 2]
    return _dense(sizes, activation, generator)


def _dense(sizes: Sequence[int], activation: str, generator: torch.Generator) -> list[Layer]:
    layers: list[Layer] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [Dense(inputs, outputs, generator), Activation(activation)]
    return layers[:-1]


def _convolutions(channels: int, filters: Sequence[int], activation: str, generator: torch.Generator) -> list[Layer]:
    layers: list[Layer] = []
    for inputs, outputs in zip((channels, *filters), filters, strict=False):
        layers += [Conv(inputs, outputs, 3, generator), Activation(activation)]
    return layers


FILTERS = {"cnn1": (10,), "cnn2": (5, 10), "cnn3": (5, 10, 20), "tanh": (10,), "sigmoid": (10,), "avgpool": (10,)}
HIDDEN = {"mlp4": 3, "mlp5": 4}
ARCHITECTURES = (*HIDDEN, *FILTERS, "residual", "vit")


def input_shape(architecture: str, channels: int) -> tuple[int, ...]:
    """With a leading axis of 1."""
    return (1, VECTOR) if architecture in HIDDEN else (1, channels, SIDE, SIDE)


def make(architecture: str, channels: int, width: float, generator: torch.Generator) -> Chain:
    """A network with random weights; ValueError for an unknown architecture."""
    pixels = SIDE * SIDE
    if architecture in HIDDEN:
        wide = max(8, round(1000 * width))
        return Chain(*_dense([VECTOR, 100, *[wide] * HIDDEN[architecture], 20, 2], "Relu", generator))
    if architecture in FILTERS:
        filters = FILTERS[architecture]
        activation = {"tanh": "Tanh", "sigmoid": "Sigmoid"}.get(architecture, "Relu")
        layers = _convolutions(channels, filters, activation, generator)
        if architecture == "avgpool":
            layers.append(AveragePool())
        return Chain(*layers, Flatten(), *_head(filters[-1] * pixels, width, activation, generator))
    if architecture == "residual":
        block = Residual(Conv(10, 10, 3, generator), Activation("Relu"), Conv(10, 10, 3, generator))
        start = _convolutions(channels, (10,), "Relu", generator)
        return Chain(*start, block, Activation("Relu"), Flatten(), *_head(10 * pixels, width, "Relu", generator))
    if architecture == "vit":
        return _vit(channels, generator)
    raise ValueError(f"unknown architecture {architecture}")


def _vit(channels: int, generator: torch.Generator, width: int = 16, heads: int = 2, depth: int = 2) -> Chain:
    tokens = SIDE * SIDE + 1
    layers: list[Layer] = [Tokens(channels, width, generator)]
    for _ in range(depth):
        inner = [Linear(width, 2 * width, generator), Activation("Relu"), Linear(2 * width, width, generator)]
        layers.append(Residual(Norm(width), Attention(width, heads, tokens, generator)))
        layers.append(Residual(Norm(width), *inner))
    return Chain(*layers, MeanPool(), Norm(width, tokens=False), Dense(width, 2, generator))
