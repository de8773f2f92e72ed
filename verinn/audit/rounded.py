"""Counterexamples that stand the replay where none exists in exact arithmetic: does rounding alone make them?

ONNX Runtime computes in float32, and within a unit in the last place of a threshold it may violate a property that
the exact function keeps. Such a claim refutes no truth of the suite; a point at which the exact function violates does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from verinn.audit import enclosure as en
from verinn.audit.exact import evaluate
from verinn.audit.instance import Instance, Suite
from verinn.audit.witness import ROUNDED, VALID, Judgement
from verinn.errors import Unsupported
from verinn.io.files import read_bytes
from verinn.io.instances import parse_models
from verinn.io.match import assign_models
from verinn.io.vnnlib import read_query
from verinn.ir.evaluate import holds
from verinn.ir.query import Kind, Network


def settled(suite: Suite, instance: Instance, judgement: Judgement | None) -> Judgement | None:
    """The judgement of a counterexample, ``ROUNDED`` where the suite says that there is none, ONNX Runtime replays it
    all the same, and the exact function does not violate there."""
    truth = suite.truths.get(instance.id)
    if judgement is None or judgement.kind != VALID or judgement.values is None:
        return judgement
    if truth is None or truth.label != "unsat":
        return judgement
    found = violates(suite, instance, judgement.values)
    return (
        replace(judgement, kind=ROUNDED, detail="exact arithmetic does not violate there") if not found else judgement
    )


def violates(suite: Suite, instance: Instance, point: Mapping[str, Sequence[float]]) -> bool:
    """Whether the exact function may violate at the inputs of a point: True where exact arithmetic can't tell."""
    query = read_query(suite.folder / instance.vnnlib)
    given = parse_models(instance.onnx)
    paths = assign_models(query, given)
    values: dict[str, np.ndarray] = {}
    for network in query.networks:
        try:
            found = _exactly(network, read_bytes(suite.folder / paths[network.name]), point)
        except (Unsupported, en.Undecided):
            return True
        if found is None:
            return True
        values |= found
    return holds(query, values)


def _exactly(network: Network, model: bytes, point: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray] | None:
    """The values of a network's variables; None where one is not known as a number."""
    parts = {kind: [v for v in network.variables if v.kind is kind] for kind in Kind}
    if parts[Kind.HIDDEN]:
        return None
    proto = onnx.ModelProto.FromString(model)
    constants = {item.name for item in proto.graph.initializer}
    feeds = [item for item in proto.graph.input if item.name not in constants]
    flat = np.concatenate([np.asarray(point[v.name], np.float64) for v in parts[Kind.INPUT]])
    shapes = [tuple(max(1, int(size.dim_value)) for size in item.type.tensor_type.shape.dim) for item in feeds]
    pieces = np.split(flat, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    inputs = {item.name: x.reshape(shape) for item, x, shape in zip(feeds, pieces, shapes, strict=True)}
    results = evaluate(proto, inputs).values()
    if any(bool((result.lo != result.hi).any()) for result in results):
        return None
    outputs = np.concatenate([result.lo.reshape(-1) for result in results])
    return {
        **{v.name: np.asarray(point[v.name], np.float64) for v in parts[Kind.INPUT]},
        **_split(outputs, network),
    }


def _split(flat: np.ndarray, network: Network) -> dict[str, np.ndarray]:
    values, at = {}, 0
    for variable in network.variables:
        if variable.kind is Kind.OUTPUT:
            values[variable.name] = flat[at : at + variable.size]
            at += variable.size
    return values


__all__ = ["settled", "violates"]
