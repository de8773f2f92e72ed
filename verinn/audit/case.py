"""From what a generator made to an instance of the suite: files, record and truth, each checked twice.

The recorded point is evaluated in exact rational arithmetic and in ONNX Runtime; a label that exact arithmetic
contradicts is an error of the generator and stops the build.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from verinn.audit import enclosure as en
from verinn.audit import exact
from verinn.audit.enclosure import Enclosure
from verinn.audit.instance import Instance, Truth
from verinn.audit.query import Query, Tensor, holds, text
from verinn.audit.sketch import packed


@dataclass(frozen=True, eq=False)
class Case:
    """An instance before it has a place in a suite.

    ``models``: by network. ``label``: of the exact, real-valued function; None where nobody knows. ``point``: by
    input tensor, float32 values (n,): the witness of ``sat``, or the most dangerous known point of ``unsat``.
    ``margin``: signed, positive where the property is violated at the point; ``threshold`` gives its unit in
    the last place. ``hide``: whether it is meant to be hidden from attacks. ``key``: tells cases of one family
    apart and orders them; it is no part of what a tool sees. ``rounding``: ONNX Runtime is known to say otherwise.
    """

    family: str
    models: Mapping[str, onnx.ModelProto]
    query: Query
    label: str | None
    known: str
    key: str
    point: Mapping[str, np.ndarray] | None = None
    operators: tuple[str, ...] = ()
    radius: float | None = None
    margin: Fraction | None = None
    threshold: Fraction = Fraction(1)
    shape: str = "box"
    timeout: float = 60.0
    hide: bool = False
    quick: bool = False
    runtime_label: str | None = None
    group: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    attacks: tuple[Mapping[str, Any], ...] = ()


def digest(case: Case) -> str:
    """Names the question, whatever its name in a suite: of the SHA-256 of its models and its property."""
    content = hashlib.sha256()
    for model in case.models.values():
        content.update(packed(model))
    content.update(text(case.query).encode())
    return content.hexdigest()[:24]


def ulp(value: Fraction) -> Fraction:
    """The distance from |value| to the next greater float32."""
    near = np.float32(float(abs(value)))
    return Fraction(float(np.nextafter(near, np.float32(np.inf)))) - Fraction(float(near))


def files(case: Case, name: str) -> tuple[str, dict[str, onnx.ModelProto]]:
    """The onnx column of an instance called ``name``, and the models by path."""
    if list(case.models) == ["f"] and case.query.version == "1.0":
        path = f"onnx/{name}.onnx"
        return path, {path: case.models["f"]}
    paths = {network: f"onnx/{name}{network if len(case.models) > 1 else ''}.onnx" for network in case.models}
    column = next(iter(paths.values())) if len(paths) == 1 else repr(list(paths.items()))
    return column, {paths[network]: model for network, model in case.models.items()}


def finished(case: Case, name: str, seed: int) -> tuple[Instance, Truth]:
    """The two records of a case. AssertionError when exact arithmetic contradicts its label."""
    column, _ = files(case, name)
    tensors = case.query.tensors
    instance = Instance(
        id=name,
        onnx=column,
        vnnlib=f"vnnlib/{name}.vnnlib",
        timeout=case.timeout,
        family=case.family,
        operators=case.operators,
        radius=case.radius,
        margin=None if case.margin is None else float(abs(case.margin)),
        margin_ulps=None if case.margin is None else round(float(abs(case.margin) / ulp(case.threshold)), 6),
        shape=case.shape,
        inputs=sum(tensor.size for tensor in tensors if not tensor.output),
        outputs=sum(tensor.size for tensor in tensors if tensor.output),
        parameters=sum(_parameters(model) for model in case.models.values()),
        version=case.query.version,
        seed=seed,
        recipe=case.recipe.get("generator", case.family),
        quick=case.quick,
    )
    return instance, _truth(case, name)


def _parameters(model: onnx.ModelProto) -> int:
    return sum(math.prod(item.dims) for item in model.graph.initializer)


def _truth(case: Case, name: str) -> Truth:
    margin = None if case.margin is None else str(case.margin)
    base = Truth(name, case.label, case.known, signed_margin=margin, runtime_label=case.runtime_label)
    if case.point is None:
        return base
    ours = outputs(case, exact_outputs)
    theirs = outputs(case, runtime_outputs)
    point = {key: en.of(np.asarray(value, np.float32)) for key, value in case.point.items()}
    says = holds(case.query, {**point, **ours})
    runtime = holds(case.query, {**point, **theirs})
    assert says is not None, f"{case.key}: the exact outputs leave the property open"
    assert case.label != "sat" or says, f"{case.key}: the point is no witness"
    assert case.label != "unsat" or not says, f"{case.key}: an unsat instance has a witness"
    if case.runtime_label is None and runtime:
        base = Truth(**{**base.__dict__, "runtime_label": "sat"})
    return Truth(
        **{
            **base.__dict__,
            "agree": says == runtime,
            "witness": {key: _hex(np.asarray(value, np.float32)) for key, value in case.point.items()},
            "exact": {key: _rationals(value) for key, value in ours.items()},
            "runtime": {key: _hex(value.lo.astype(np.float64)) for key, value in theirs.items()},
            "hidden": not any(record["found"] for record in case.attacks) if case.attacks and case.hide else None,
            "attacks": case.attacks,
        }
    )


def _hex(values: np.ndarray) -> tuple[str, ...]:
    return tuple(float(value).hex() for value in values.reshape(-1))


def _rationals(value: Enclosure) -> tuple[str, ...]:
    """``p/q``, or an interval with ends of 64 binary places where it isn't one number."""
    made = []
    for low, high in zip(value.lo.reshape(-1), value.hi.reshape(-1), strict=True):
        if low != high:
            scale = 1 << 64
            low, high = Fraction(math.floor(low * scale), scale), Fraction(math.ceil(high * scale), scale)
        made.append(str(low) if low == high else f"{low}..{high}")
    return tuple(made)


def outputs(case: Case, run: Any) -> dict[str, Enclosure]:
    """Every output tensor at the case's point, by ``exact_outputs`` or ``runtime_outputs``."""
    assert case.point is not None
    made: dict[str, Enclosure] = {}
    for network in dict.fromkeys(tensor.network for tensor in case.query.tensors):
        mine = [tensor for tensor in case.query.tensors if tensor.network == network]
        model = case.models.get(network) or next(iter(case.models.values()))  # equal to the first
        ins, outs = ([tensor for tensor in mine if tensor.output == side] for side in (False, True))
        feed = {
            source(tensor, index): np.asarray(case.point[tensor.name], np.float32) for index, tensor in enumerate(ins)
        }
        results = run(model, feed)
        made.update({tensor.name: results[source(tensor, index)] for index, tensor in enumerate(outs)})
    return made


def source(tensor: Tensor, index: int) -> str:
    """The tensor's name in its model, as ``Sketch`` names them."""
    letter = "y" if tensor.output else "x"
    return tensor.onnx or (f"{letter}{index}" if index else letter)


def exact_outputs(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, Enclosure]:
    return exact.evaluate(model, dict(feed))


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runtime_arrays(model: onnx.ModelProto, points: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """What ONNX Runtime computes at each of the points (P, n) of the only input, (1, n) in the model."""
    session = _session(model)
    source, names = session.get_inputs()[0].name, [item.name for item in session.get_outputs()]
    for x in points:
        yield dict(zip(names, session.run(names, {source: x[None]}), strict=True))


def runtime_outputs(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, Enclosure]:
    """What ONNX Runtime computes on one thread, as exact numbers."""
    session = _session(model)
    shaped = {
        item.name: feed[item.name].reshape([max(1, s) if isinstance(s, int) else 1 for s in item.shape])
        for item in session.get_inputs()
    }
    names = [item.name for item in session.get_outputs()]
    return {name: en.of(value) for name, value in zip(names, session.run(names, shaped), strict=True)}
