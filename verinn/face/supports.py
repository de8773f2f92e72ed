"""``verinn supports``: what the VNN-LIB standard lets a caller ask about a solver."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

# Smallest and largest; the reader refuses what is outside.
ONNX_OPSETS = ("7", "28")
VNNLIB_VERSIONS = ("1.0", "2.0")
ELEMENT_TYPES = ("float32", "float64")

# Read, but in some uses only (no product or quotient of two values that depend on the input, no integers
# that do), so not promised.
PARTIAL = ("Cast", "CastLike", "Div", "Mul", "Shape", "Size")
# Operators on values that depend on the input; the reader folds more of them between constants. Kept here
# so that the answer needs no import of the reader; a test compares the two.
ONNX_OPERATORS: tuple[str, ...] = (
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "Identity", "LeakyRelu", "MatMul", "Max", "MaxPool", "Mean", "Min", "Neg", "PRelu", "Pad",
    "ReduceMean", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub",
    "Sum", "Tanh", "Tile", "Transpose", "Unsqueeze",
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
