"""One ONNX node as its importer sees it, and the registry of importers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Builder, Known, Value
from verinn.ir.graph import Const, Shape


@dataclass(frozen=True)
class Call:
    """A node to import: its inputs as symbolic values (None where left out), its attributes, the opset.

    ``reader`` reads subgraphs.
    """

    node: onnx.NodeProto
    inputs: Sequence[Value | None]
    builder: Builder
    opset: int
    reader: Callable[[onnx.GraphProto, Sequence[Value]], list[Value]] | None = None

    def read(self, body: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a subgraph, given its inputs in order; it may read what stands around the node."""
        assert self.reader is not None
        return self.reader(body, inputs)

    @property
    def op(self) -> str:
        return str(self.node.op_type)

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int = 0) -> Value:
        """Input ``index``, which must be given."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise InputError(f"its input {index} is missing")
        return value

    def real(self, index: int = 0) -> Value:
        """Input ``index`` of a float type."""
        value = self.value(index)
        if value.dtype not in FLOATS:
            raise Unsupported(f"its input {index} isn't of a float type")
        return value

    def known(self, index: int, what: str) -> Known:
        """Input ``index``, which must be a constant."""
        value = self.value(index)
        if not isinstance(value, Known):
            raise Unsupported(f"{what} depends on the input", hint="only constants are supported there")
        return value

    def constant(self, index: int = 0) -> Known:
        """Input ``index`` of an operator that is supported on constants only."""
        value = self.value(index)
        if not isinstance(value, Known):
            raise Unsupported(f"operator {self.op} isn't supported on values that depend on the input")
        return value

    def given(self) -> list[Value]:
        """All inputs; none may be left out."""
        return [self.value(index) for index in range(len(self.inputs))]

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute ``name``: a number, a str, a list of numbers or a TensorProto."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return default

    def ints(self, name: str, index: int | None, what: str | None = None) -> list[int] | None:
        """A list of integers given as input ``index`` or, in older opsets, as the attribute ``name``."""
        if index is not None and self.has(index):
            const = self.known(index, what or name).const
            if const.value.dtype.kind not in "iub":
                raise InputError(f"{what or name} are no integers")
            return [int(item) for item in const.value.reshape(-1)]
        value = self.attr(name)
        if value is None:
            return None
        return [int(item) for item in (value if isinstance(value, Sequence) or hasattr(value, "__len__") else [value])]

    def axes(self, name: str, index: int | None, rank: int) -> list[int] | None:
        """Axes as ``ints``, made non-negative and told to be distinct; None when not given."""
        axes = self.ints(name, index)
        if axes is None:
            return None
        axes = [axis_of(axis, rank) for axis in axes]
        if len(set(axes)) != len(axes):
            raise InputError(f"names an axis twice: {axes}")
        return axes

    def scalar(self, index: int, what: str) -> float:
        """A constant of one element, known exactly."""
        const = self.known(index, what).const
        if const.value.size != 1 or const.error is not None:
            raise Unsupported(f"{what} is no single, exactly known number")
        return float(const.value.reshape(-1)[0])

    def unused(self, index: int) -> bool:
        """Whether the node names no output ``index``."""
        return len(self.node.output) <= index or not self.node.output[index]


Result = Value | Sequence[Value | None]
Importer = Callable[[Call], Result]
IMPORTERS: dict[str, Importer] = {}


def importer(*ops: str) -> Callable[[Importer], Importer]:
    """Register an importer for operators of the ONNX domain."""

    def register(function: Importer) -> Importer:
        for op in ops:
            IMPORTERS[op] = function
        return function

    return register


def axis_of(axis: int, rank: int) -> int:
    """An axis made non-negative; InputError when it is out of range."""
    if not -rank <= axis < rank:
        raise InputError(f"axis {axis} of a tensor of rank {rank}", hint="the axis is out of range")
    return axis % rank if rank else 0


def integers(values: Sequence[int], shape: Shape | None = None) -> Known:
    """A constant of int64."""
    array = np.array(values, dtype=np.int64)
    return Known(Const(array if shape is None else array.reshape(shape)), onnx.TensorProto.INT64)
