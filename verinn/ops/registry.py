"""The core operators by name."""

from __future__ import annotations

from verinn.ops import catalogue as curves
from verinn.ops import stairs
from verinn.ops.activation import Abs, Clip, LeakyRelu, PRelu, Relu
from verinn.ops.affine import Constant, Linear, ReduceSum, Scale, Shift, Sum
from verinn.ops.base import Affine, Elementwise, Joint
from verinn.ops.conv import Conv
from verinn.ops.maximum import ReduceMax
from verinn.ops.pool import MaxPool
from verinn.ops.product import Matmul, Mul
from verinn.ops.shape import Concat, Expand, Gather, Pad, Reshape, Slice, Transpose
from verinn.ops.softmax import LogSoftmax, Softmax

OPS: dict[str, Affine | Elementwise | MaxPool | Joint] = {
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
    "prelu": PRelu(),
    "sigmoid": curves.Sigmoid(),
    "tanh": curves.Tanh(),
    "elu": curves.Elu(),
    "hard_swish": curves.HardSwish(),
    "atan": curves.Atan(),
    "erf": curves.Erf(),
    "gelu": curves.Gelu(),
    "gelu_tanh": curves.GeluTanh(),
    "silu": curves.Silu(),
    "softplus": curves.Softplus(),
    "mish": curves.Mish(),
    "exp": curves.Exp(),
    "log": curves.Log(),
    "sqrt": curves.Sqrt(),
    "reciprocal": curves.Reciprocal(),
    "pow": curves.Pow(),
    "sin": curves.Sin(),
    "cos": curves.Cos(),
    "tan": curves.Tan(),
    "sign": stairs.Sign(),
    "step": stairs.Step(),
    "floor": stairs.Floor(),
    "ceil": stairs.Ceil(),
    "round": stairs.Round(),
    "mul": Mul(),
    "matmul": Matmul(),
    "max_pool": MaxPool(),
    "reduce_max": ReduceMax(),
    "softmax": Softmax(),
    "log_softmax": LogSoftmax(),
}
