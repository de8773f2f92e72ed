"""A graph made ready to run: weights as tensors of one dtype on one device, with their error bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from verinn.ir.graph import Const, Graph, Node, Shape
from verinn.ops.base import Affine, Elementwise, Joint, Params
from verinn.ops.pool import MaxPool
from verinn.ops.registry import OPS
from verinn.ops.whole import whole_values


@dataclass(frozen=True, eq=False)
class Step:
    """One node with its operator and weights.

    ``magnitudes`` are |weights| as held; ``errors`` bound |exact − held| (None when all are exact).
    ``forward_terms``/``back_terms``: products summed into one element of L x and of Lᵀ a.
    """

    node: Node
    op: Affine | Elementwise | MaxPool | Joint
    shapes: tuple[Shape, ...]  # of the inputs
    params: Params = field(default_factory=dict)
    magnitudes: Params = field(default_factory=dict)
    errors: Params | None = None
    forward_terms: int = 0
    back_terms: int = 0

    @property
    def affine(self) -> bool:
        return isinstance(self.op, Affine)

    def apply(self, xs: Sequence[Tensor]) -> Tensor:
        """The node's value for values (D, *shape) of its inputs; rounded, not bounded."""
        if isinstance(self.op, Affine):
            return self.op.apply(self.node, xs, self.params)
        if isinstance(self.op, Joint):
            return self.op.apply(self.node, xs)
        return self.op.apply(self.node, xs[0])

    def loose(self, boxes: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Of a nonlinear step: for each input, which elements' widths its relaxation loses by."""
        if isinstance(self.op, Joint):
            return self.op.loose(self.node, boxes)
        assert not isinstance(self.op, Affine)
        return [self.op.loose(self.node, *boxes[0])]


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in topological order, ready for tensors of ``dtype`` on ``device``. ``whole``: values that are whole
    numbers (see ``whole_values``)."""

    graph: Graph
    dtype: torch.dtype
    device: torch.device
    steps: tuple[Step, ...]
    shapes: dict[str, Shape]
    whole: frozenset[str] = frozenset()

    @staticmethod
    def prepare(graph: Graph, dtype: torch.dtype, device: torch.device | str = "cpu") -> Program:
        """Weights are rounded to ``dtype``; what that loses is added to their error bounds."""
        shapes = graph.shapes()
        where = torch.device(device)
        steps = tuple(_step(node, shapes, dtype, where) for node in graph.nodes)
        return Program(graph, dtype, where, steps, shapes, whole_values(graph))

    def run(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Every value of the graph for inputs (D, *shape) each; rounded, not bounded."""
        values = dict(zip([value.name for value in self.graph.inputs], inputs, strict=True))
        for step in self.steps:
            values[step.node.name] = step.apply([values[name] for name in step.node.inputs])
        return values

    def flat(self, x: Tensor) -> Tensor:
        """Outputs, flattened and side by side (D, m), of inputs that are so too (D, n)."""
        sizes = [math.prod(value.shape) for value in self.graph.inputs]
        pieces = x.split(sizes, dim=1)
        values = self.run([p.reshape(-1, *v.shape) for p, v in zip(pieces, self.graph.inputs, strict=True)])
        batch = x.shape[0]
        return torch.cat(
            [values[o.value].expand(batch, *self.shapes[o.value]).flatten(1) for o in self.graph.outputs], 1
        )


def evaluate(graph: Graph, inputs: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Every value of a graph, once: inputs (D, *shape) each. For checks; engines keep a Program."""
    return Program.prepare(graph, dtype).run([x.to(dtype) for x in inputs])


def _step(node: Node, shapes: dict[str, Shape], dtype: torch.dtype, device: torch.device) -> Step:
    op = OPS[node.op]
    given = tuple(shapes[name] for name in node.inputs)
    if not isinstance(op, Affine):
        return Step(node, op, given)
    params, errors = {}, {}
    for name, const in _constants(node).items():
        params[name], errors[name] = _round(const, dtype, device)
    if any(error is not None for error in errors.values()):
        known = {name: torch.zeros_like(params[name]) if e is None else e for name, e in errors.items()}
    else:
        known = None
    forward, back = op.terms(node, given)
    magnitudes = {name: value.abs() for name, value in params.items()}
    return Step(node, op, given, params, magnitudes, known, forward, back)


def _constants(node: Node) -> dict[str, Const]:
    """A node's parameters, with division turned into a product and padding into an offset."""
    if node.op == "divide":
        divisor = node.params["divisor"]
        value = np.asarray(1.0 / divisor.value.astype("float64"))
        return {"factor": Const(value, np.asarray(abs(value) * 2.0**-53 + 5e-324))}
    if node.op == "pad" and node.attrs["value"] != 0:
        return {"pad": Const(_padding(node))}
    return dict(node.params)


def _padding(node: Node) -> np.ndarray:
    """The pad value around a field of zeros, with the node's shape."""
    field_ = np.full(node.shape, float(node.attrs["value"]))
    half = len(node.shape)
    inner = tuple(
        slice(node.attrs["pads"][axis], size - node.attrs["pads"][axis + half]) for axis, size in enumerate(node.shape)
    )
    field_[inner] = 0.0
    return field_


def _round(const: Const, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The constant in ``dtype`` and a bound on its distance from the exact number (None if exact).

    Subnormal numbers are flushed here, where the loss is counted, and not by some kernel.
    """
    exact = torch.from_numpy(const.value.astype("float64"))
    value = exact.to(dtype)
    value = torch.where(value.abs() < torch.finfo(dtype).tiny, torch.zeros_like(value), value)
    error = (exact - value.double()).abs()
    if const.error is not None:
        error = error + torch.from_numpy(const.error.astype("float64"))
    if not bool((error > 0).any()):
        return value.to(device), None
    up = (error * (1 + 1e-6)).to(dtype)
    up = torch.where(error > 0, up.clamp(min=torch.finfo(dtype).tiny), up)
    return value.to(device), up.to(device)
