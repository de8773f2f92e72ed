"""``verinn supports``: what the VNN-LIB standard lets a caller ask about a solver."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

# Smallest and largest; the reader refuses what is outside.
ONNX_OPSETS = ("7", "28")
VNNLIB_VERSIONS = ("1.0", "2.0")
ELEMENT_TYPES = ("float32", "float64")

# Read, but in some uses only, so not promised: control flow whose size constants tell, sorted entries that are few.
PARTIAL: tuple[str, ...] = ("If", "Loop", "Scan", "TopK")
# Operators on values that depend on the input; the reader folds more of them between constants. Kept here
# so that the answer needs no import of the reader; a test compares the two.
ONNX_OPERATORS: tuple[str, ...] = (
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Atan", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvInteger", "ConvTranspose", "Cos", "Cosh",
    "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal",
    "Erf", "Exp", "Expand", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization",
    "HardSigmoid", "HardSwish", "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool",
    "MatMul", "MatMulInteger", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul",
    "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
    "RMSNormalization", "RNN", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize",
    "ReverseSequence", "Round", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Tile", "Transpose", "Trilu", "Unsqueeze",
    "Upsample", "Where", "Xor",
)  # fmt: skip

# A theory is named only when queries in it get decided; each implies the ones before it.
CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "onnx-opset-versions": ONNX_OPSETS,
    "vnnlib-versions": VNNLIB_VERSIONS,
    "onnx-element-types": ELEMENT_TYPES,
    "onnx-operators": ONNX_OPERATORS,
    "hidden-node-theories": ("NH", "H"),
    "multiple-input-output-theories": ("SIO", "MIO"),
    "multiple-network-theories": ("SNET", "MENET", "MINET", "MNET"),
    "multiple-node-comparison-theories": ("SNC", "MNC"),
    "arithmetic-complexity-theories": ("BND", "OUTC", "LIN", "POLY"),
    "optimised-disjunctive-reasoning": ("false",),
    "serialise-assignments": ("true",),
}
ALIASES = {"multiple-input-output-theories": ["--multiple-inputs-output-theories"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    for name in CAPABILITIES:
        group.add_argument(f"--{name}", *ALIASES.get(name, []), dest="capability", action="store_const", const=name)


def run(args: argparse.Namespace, process: bool) -> int:
    print("\n".join(CAPABILITIES[args.capability]))
    return 0
