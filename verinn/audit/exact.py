"""ONNX models evaluated in exact rational arithmetic: what the suite's truth is checked with.

The meaning is the real-valued function of the model, as the ONNX standard defines its operators: no rounding,
casts between float types change nothing. Piecewise linear and rational operators are exact; smooth ones give
an interval of rationals (``enclosure``). Inputs may be boxes: then the result is interval arithmetic, sound and
wide. Nothing of verinn's reader, operators or bounds is used here. Meant for small networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verinn.audit import enclosure as en
from verinn.audit.enclosure import Enclosure
from verinn.errors import Unsupported


@dataclass(frozen=True, eq=False)
class Call:
    """One node with its inputs (None where left out) and the model's opset.

    ``kinds``: ONNX's element types of those inputs that are constants of the model, 0 for the others.
    """

    node: onnx.NodeProto
    inputs: Sequence[Enclosure | None]
    opset: int
    kinds: Sequence[int] = ()

    @property
    def op(self) -> str:
        return str(self.node.op_type)

    def x(self, index: int = 0) -> Enclosure:
        value = self.inputs[index]
        if value is None:
            raise Unsupported(f"operator {self.op}: its input {index} is missing")
        return value

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def attr(self, name: str, default: Any = None) -> Any:
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def number(self, name: str, default: float) -> Fraction:
        """A float attribute: the float32 that the file holds, exactly."""
        return Fraction(float(np.float32(self.attr(name, default))))

    def axes(self, rank: int, index: int = 1) -> tuple[int, ...]:
        """``axes`` as an input (from some opset on) or attribute; all axes when not given."""
        given = self.x(index).integers() if self.has(index) else self.attr("axes")
        if given is None or len(given) == 0:
            return tuple(range(rank)) if not self.attr("noop_with_empty_axes", 0) else ()
        return tuple(int(axis) % rank for axis in given)


Function = Callable[[Call], "Enclosure | list[Enclosure]"]
FUNCTIONS: dict[str, Function] = {}


def operator(*names: str) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for name in names:
            FUNCTIONS[name] = function
        return function

    return register


def evaluate(model: onnx.ModelProto, inputs: Mapping[str, Enclosure | np.ndarray]) -> dict[str, Enclosure]:
    """Every output for one input, or for a box of inputs.

    Unsupported for an operator that this module doesn't know; ``enclosure.Undecided`` where a comparison can't be
    decided for an interval.
    """
    import verinn.audit.exact_operators
    import verinn.audit.exact_rare  # noqa: F401  (both register them)

    opset = next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))
    values: dict[str, Enclosure] = {item.name: en.of(numpy_helper.to_array(item)) for item in model.graph.initializer}
    kinds = {item.name: int(item.data_type) for item in model.graph.initializer}
    for item in model.graph.input:
        if item.name in values:
            continue
        shape = tuple(max(1, int(size.dim_value)) for size in item.type.tensor_type.shape.dim)
        value = inputs[item.name]
        values[item.name] = en.shaped(value if isinstance(value, Enclosure) else en.of(value), shape)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in FUNCTIONS:
            raise Unsupported(f"operator {node.domain}{node.op_type} has no exact meaning here", place=node.name)
        given = [values[name] if name else None for name in node.input]
        call = Call(node, given, opset, [kinds.get(name, 0) for name in node.input])
        results = FUNCTIONS[node.op_type](call)
        made = results if isinstance(results, list) else [results]
        values.update(zip(node.output, made, strict=False))
    return {item.name: values[item.name] for item in model.graph.output}
