"""Is a printed counterexample of any tool one? ``python -m verinn.audit.judge MODEL PROPERTY ANSWER`` prints JSON.

Formats differ, so the text is read leniently: only the inputs' values count, in any of the forms below. Then
they are judged exactly as ``verinn bench`` judges verinn: cast to the model's element types, run in ONNX
Runtime on the original file, every assertion taken exactly. Printed outputs are ignored, nothing is forgiven;
but for what lies outside the input set it is told by how much, and whether the nearest input inside it would do.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from verinn.audit.witness import MALFORMED, MISSING, OUTSIDE, UNVIOLATED, VALID, Judgement
from verinn.errors import InputError
from verinn.face.recheck import replayed
from verinn.io.instances import parse_models
from verinn.io.vnnlib import read_query
from verinn.io.witness import scalar_names
from verinn.ir.evaluate import holds
from verinn.ir.query import Kind, Query, Variable

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)"
_PAIR = re.compile(rf"\(\s*([A-Za-z_]\w*)\s+({_NUMBER})\s*\)", re.IGNORECASE)
_EQUAL = re.compile(rf"(?m)^\s*([A-Za-z]+_?\d+)\s*=\s*({_NUMBER})\s*$", re.IGNORECASE)
_BLOCK = re.compile(rf"(?m)^\s*([A-Za-z_]\w*)\s+\w+\s+\[[\d,\s]*\]\s*((?:\s+(?:{_NUMBER})(?=\s|$))+)", re.IGNORECASE)
_CASES = 64  # of the property, in which the nearest input is looked for


def judge(model: str, prop: str, text: str) -> Judgement:
    """The class of the counterexample in an answer's text. Raises InputError for a model or property that is none."""
    query = read_query(prop)
    models = parse_models(model)
    try:
        inputs = inputs_of(query, text)
    except InputError as error:
        return Judgement(MALFORMED, str(error))
    if inputs is None:
        return Judgement(MISSING)
    odd = [name for name, array in inputs.items() if np.isnan(array).any()]
    if odd:
        return Judgement(MALFORMED, f"{odd[0]} holds what is no number")
    values = replayed(query, models, inputs)
    seen = {name: [float(x) for x in array.reshape(-1)] for name, array in values.items()}
    if holds(query, values):
        return Judgement(VALID, "", seen)
    if holds(query, values, assuming=(Kind.OUTPUT, Kind.HIDDEN)):
        return Judgement(UNVIOLATED, "an assertion does not hold", seen)
    return Judgement(OUTSIDE, _how_far(query, models, inputs), seen)


def inputs_of(query: Query, text: str) -> dict[str, np.ndarray] | None:
    """The inputs' values by variable, out of ``(X_0 0.5)`` pairs, blocks under a header ``X float32 [5]``, or
    lines ``x0 = 0.5``; None when the text holds none of these. Raises InputError when some are missing."""
    wanted = [variable for variable in query.variables if variable.kind is Kind.INPUT]
    blocks = {name.lower(): numbers.split() for name, numbers in _BLOCK.findall(text)}
    if blocks:
        return {v.name: _shaped(v, blocks.get(v.name.lower(), [])) for v in wanted}
    pairs = {_plain(name): number for name, number in [*_PAIR.findall(text), *_EQUAL.findall(text)]}
    if not pairs:
        return None
    return {v.name: _shaped(v, [pairs[key] for key in map(_plain, scalar_names(v)) if key in pairs]) for v in wanted}


def _plain(name: str) -> str:
    """``X_0`` and ``x0`` are the same."""
    return name.lower().replace("_", "")


def _shaped(variable: Variable, numbers: list[str]) -> np.ndarray:
    if len(numbers) != variable.size:
        raise InputError(f"witness: {len(numbers)} values for {variable.name}, expected {variable.size}")
    return np.array([float(number) for number in numbers]).reshape(variable.shape)


def _how_far(query: Query, models: str | Mapping[str, str], inputs: Mapping[str, np.ndarray]) -> str:
    """How far the inputs lie outside the nearest box of the property, and whether its nearest point would do."""
    from verinn.passes.property import to_property

    wanted = [variable for variable in query.variables if variable.kind is Kind.INPUT]
    x = np.concatenate([inputs[variable.name].reshape(-1) for variable in wanted])
    cases = to_property(query).cases
    boxes = [cases[i] for i in range(min(len(cases), _CASES))]
    nearest = [np.clip(x, box.witness_lower.astype(np.float64), box.witness_upper.astype(np.float64)) for box in boxes]
    if not nearest:
        return "no input fulfils the property's constraints"
    point = min(nearest, key=lambda y: float(np.abs(y - x).max()))
    distance = float(np.abs(point - x).max())
    if distance == 0.0:
        return "inside the box, but a constraint on the inputs does not hold"
    parts = np.split(point, np.cumsum([variable.size for variable in wanted])[:-1])
    moved = {variable.name: part.reshape(variable.shape) for variable, part in zip(wanted, parts, strict=True)}
    good = holds(query, replayed(query, models, moved))
    return f"outside the box by {distance:.2g}; the nearest input inside {'violates' if good else 'does not violate'}"


def main(model: str, prop: str, answer: str) -> None:
    """Print the judgement as one line of JSON."""
    text = Path(answer).read_text(encoding="utf-8", errors="replace")
    judgement = judge(model, prop, text)
    print(json.dumps({**asdict(judgement), "detail": " ".join(judgement.detail.split())[:200]}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
