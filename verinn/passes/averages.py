"""Averages weighed by shares: Σ w_i p_i / Σ p_i, a linear map of p over the sum of p, divided last and from a centre.

Written as a map of the shares p_i / Σ p_i, each share is bounded for itself, and what one gains another may gain
too. As the shares add up to one, the average is t + Σ (w_i − t) p_i / Σ p_i for any number t: a linear form whose
sign says on which side of t the average lies, whatever the sum is, and that is small all over the box where t is
the average somewhere in it (the parametric form of a linear-fractional function: Dinkelbach, "On Nonlinear
Fractional Programming", 1967).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from verinn.ir import const as c
from verinn.ir.graph import Const, Graph, Node, frozen
from verinn.ops import evaluate
from verinn.passes.replay import same
from verinn.passes.rewrite import Change, Sweep, exhaust


def centre_averages(graph: Graph, lower: np.ndarray, upper: np.ndarray) -> Graph:
    """The graph with each linear map of shares p / Σ p (along its last axis) as one of p, divided by the sum.

    The same exact function, wherever the sums are not zero. ``lower``, ``upper`` (float64, (n,)): a box of all
    inputs, flattened side by side; averages at its middle become the centres. The graph itself where there is none.
    Replayed here, since models were compared with ONNX Runtime before. Raises GraphError only for a defect.
    """
    if not any(node.op == "reciprocal" for node in graph.nodes):
        return graph
    found = exhaust(graph, (partial(_average, values=_middle(graph, lower, upper)),))
    if found is not graph:
        same(graph, found)
    return found


def _middle(graph: Graph, lower: np.ndarray, upper: np.ndarray) -> Mapping[str, np.ndarray]:
    """All values at the middle of a box; none where it is not finite."""
    if not np.all(np.isfinite(lower) & np.isfinite(upper)):
        return {}
    middle = lower / 2 + upper / 2
    sizes = [math.prod(value.shape) for value in graph.inputs]
    pieces = np.split(middle, np.cumsum(sizes)[:-1])
    shaped = [piece.reshape(1, *value.shape) for piece, value in zip(pieces, graph.inputs, strict=True)]
    found = evaluate(graph, [torch.as_tensor(piece) for piece in shaped])
    return {name: value[0].numpy() for name, value in found.items()}


def _average(node: Node, state: Sweep, values: Mapping[str, np.ndarray]) -> Change:
    share = state.sole(node.inputs[0], "mul") if node.op == "linear" else None
    if share is None:
        return None
    for part, wide in (share.inputs, share.inputs[::-1]):
        inverse = _inverse_of(part, wide, state)
        if inverse is not None:
            return _divided_last(node, state, part, inverse, values.get(node.name))
    return None


def _inverse_of(part: str, wide: str, state: Sweep) -> str | None:
    """The value 1 / Σ p that ``wide`` spreads, the sum along the last axis of ``part``."""
    spread = state.maker(wide)
    inverse = state.maker(spread.inputs[0]) if spread is not None and spread.op == "expand" else None
    total = state.maker(inverse.inputs[0]) if inverse is not None and inverse.op == "reciprocal" else None
    if total is None or inverse is None or total.op != "reduce_sum" or total.inputs != (part,):
        return None
    last = len(state.shapes[part]) - 1
    return inverse.name if tuple(total.attrs["axes"]) == (last,) and inverse.shape == total.shape else None


def _divided_last(node: Node, state: Sweep, part: str, inverse: str, value: np.ndarray | None) -> list[Node]:
    weight, bias = node.params["weight"], node.params.get("bias")
    centre = _centre(weight.value, value if bias is None or value is None else value - bias.value)
    moved = frozen({"weight": c.sub(weight, Const(centre))})
    form = Node(state.fresh(node.name), "linear", (part,), node.shape, params=moved, source=node.source)
    wide = Node(state.fresh(node.name), "expand", (inverse,), node.shape, source=node.source)
    plain = state.shapes[inverse] == node.shape
    factor = inverse if plain else wide.name
    ratio = Node(state.fresh(node.name), "mul", (form.name, factor), node.shape, source=node.source)
    offset = Const(centre) if bias is None else c.add(Const(centre), bias)
    params = frozen({"offset": offset})
    moved_back = Node(node.name, "shift", (ratio.name,), node.shape, params=params, source=node.source)
    return [form, *([] if plain else [wide]), ratio, moved_back]


def _centre(weight: np.ndarray, value: np.ndarray | None) -> np.ndarray:
    """For each average (o,) a number between its least and greatest weight, with few digits: weights less it are
    mostly exact."""
    low, high = weight.min(0), weight.max(0)
    middle: np.ndarray = low / 2 + high / 2
    if value is not None:
        mean = value.reshape(-1, value.shape[-1]).mean(0)
        middle = np.where(np.isfinite(mean), np.clip(mean, low, high), middle)
    short = np.float16 if np.abs(middle).max() < 1e4 else np.float32
    return np.asarray(middle.astype(short), np.float64)
