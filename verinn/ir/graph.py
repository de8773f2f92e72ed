"""The computational graph: core operators over named values, and constants that know their error.

A graph means an exact real-valued function. Every node makes one value; its operator is one of the
core operators that ``verinn.ops`` lists. Weights that can't be held exactly (a batch normalisation
divides by a square root) carry a bound on their distance from the exact number, so that bounds
computed with them hold for the exact function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

Shape = tuple[int, ...]


def frozen(mapping: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """A read-only copy of a mapping."""
    return MappingProxyType(dict(mapping or {}))


@dataclass(frozen=True, eq=False)
class Const:
    """A constant array: |exact − value| ≤ error, elementwise.

    ``value`` is float64 (or int64/bool for shape arithmetic); ``error`` is None when the value is
    exact, else a float64 array of the same shape. Arrays are never written to.
    """

    value: np.ndarray
    error: np.ndarray | None = None

    @property
    def shape(self) -> Shape:
        return self.value.shape


@dataclass(frozen=True)
class Input:
    """An input of the graph: its name and its shape and element type as the file declares them.

    Unknown dimensions were fixed to 1.
    """

    name: str
    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True)
class Output:
    """An output (or a hidden tensor asked for): its name in the file, and the value that it is."""

    name: str
    value: str
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. ``name`` is the value it makes; ``source`` names the ONNX node it came from."""

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    attrs: Mapping[str, Any] = field(default_factory=frozen)
    params: Mapping[str, Const] = field(default_factory=frozen)
    source: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order. Values are named by the input or node that makes them."""

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def shapes(self) -> dict[str, Shape]:
        """Shape of every value, inputs included."""
        shapes = {value.name: value.shape for value in self.inputs}
        shapes.update({node.name: node.shape for node in self.nodes})
        return shapes

    def consumers(self) -> dict[str, list[Node]]:
        """For every value the nodes that read it (a node that reads it twice is listed once)."""
        users: dict[str, list[Node]] = {name: [] for name in self.shapes()}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users[name].append(node)
        return users
