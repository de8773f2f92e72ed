"""The core operators by name."""

from __future__ import annotations

from verinn.ops.activation import Abs, Clip, LeakyRelu, Relu, Sigmoid, Tanh
from verinn.ops.affine import Constant, Linear, ReduceSum, Scale, Shift, Sum
from verinn.ops.base import Affine, Elementwise
from verinn.ops.conv import Conv
from verinn.ops.pool import MaxPool
from verinn.ops.shape import Concat, Expand, Gather, Pad, Reshape, Slice, Transpose

OPS: dict[str, Affine | Elementwise | MaxPool] = {
    "linear": Linear(),
    "conv": Conv(),
    "scale": Scale(),
    "divide": Scale(),
    "shift": Shift(),
    "sum": Sum(),
    "constant": Constant(),
    "reduce_sum": ReduceSum(),
    "reshape": Reshape(),
    "transpose": Transpose(),
    "slice": Slice(),
    "gather": Gather(),
    "pad": Pad(),
    "concat": Concat(),
    "expand": Expand(),
    "relu": Relu(),
    "leaky_relu": LeakyRelu(),
    "clip": Clip(),
    "abs": Abs(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "max_pool": MaxPool(),
}
