"""A small writer of ONNX models whose bytes depend on nothing but what is drawn.

Names are numbers, so that no name tells what a tensor is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 8
OPSET = 13


class Sketch:
    """An ONNX graph under construction: each method adds something and returns the name of its tensor."""

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.parameters = 0
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._tensors = 0

    def input(self, shape: Sequence[int], name: str | None = None, kind: int = TensorProto.FLOAT) -> str:
        name = name or ("x" if not self._inputs else f"x{len(self._inputs)}")
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def weight(self, array: Any, dtype: Any = np.float32) -> str:
        """A constant, of float32 unless told: InputError never, AssertionError when float32 can't hold it."""
        exact = np.asarray(array, dtype=np.float64 if dtype in (np.float32, np.float64) else dtype)
        value = exact.astype(dtype)
        assert np.array_equal(value.astype(exact.dtype), exact), "a weight isn't a float32 number"
        self.parameters += value.size
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        return self.weight(np.asarray(values, dtype=np.int64), np.int64)

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.nodes(op, *inputs, count=1, domain=domain, **attributes)[0]

    def nodes(self, op: str, *inputs: str, count: int, domain: str = "", **attributes: Any) -> list[str]:
        """As ``node``, for an operator with several outputs."""
        names = [f"t{self._tensors + index}" for index in range(count)]
        self._tensors += count
        made = helper.make_node(op, list(inputs), names, name=f"n{len(self._nodes)}", domain=domain, **attributes)
        self._nodes.append(made)
        return names

    def output(self, tensor: str, shape: Sequence[int], name: str | None = None) -> None:
        name = name or ("y" if not self._outputs else f"y{len(self._outputs)}")
        self._nodes.append(helper.make_node("Identity", [tensor], [name], name=f"n{len(self._nodes)}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def operators(self) -> tuple[str, ...]:
        """The operators in use, without the Identity that only names an output."""
        return tuple(sorted({node.op_type for node in self._nodes[: -len(self._outputs) or None]}))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "g", self._inputs, self._outputs, self._weights)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="verinn")
        onnx.checker.check_model(model)
        return model


def packed(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
