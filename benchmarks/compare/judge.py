"""Is a printed counterexample of any tool one? ``python judge.py MODEL PROPERTY ANSWER`` prints one line.

``ok``, ``none`` (the answer shows no counterexample) or ``bad: why``. A process of its own: what the replay
loads stays out of the runner, whose size would otherwise show in the peak memory of what it starts, and a
model that crashes ONNX Runtime crashes no comparison.

Formats differ, so the text is read leniently: only the inputs' values count, in any of the forms below. Then
they are judged exactly as ``verinn bench`` judges verinn: printed outputs are ignored, and nothing is forgiven.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

from verinn.errors import InputError
from verinn.face.recheck import recheck
from verinn.io.instances import parse_models
from verinn.io.vnnlib import read_query
from verinn.io.witness import scalar_names, witness_text
from verinn.ir.query import Kind, Query, Variable
from verinn.result import Witness

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)"
_PAIR = re.compile(rf"\(\s*([A-Za-z_]\w*)\s+({_NUMBER})\s*\)", re.IGNORECASE)
_EQUAL = re.compile(rf"(?m)^\s*([A-Za-z]+_?\d+)\s*=\s*({_NUMBER})\s*$", re.IGNORECASE)
_BLOCK = re.compile(rf"(?m)^\s*([A-Za-z_]\w*)\s+\w+\s+\[[\d,\s]*\]\s*((?:\s+(?:{_NUMBER})(?=\s|$))+)", re.IGNORECASE)


def judge(model: str, prop: str, text: str) -> str:
    """``ok``, ``none`` or ``bad: why``."""
    query = read_query(prop)
    try:
        values = inputs_of(query, text)
        if values is None:
            return "none"
        fault = recheck(parse_models(model), prop, _canonical(query, values))
    except InputError as error:
        fault = str(error)
    return f"bad: {' '.join(fault.split())[:200]}" if fault else "ok"


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


def _canonical(query: Query, inputs: dict[str, np.ndarray]) -> str:
    """The answer as verinn would print it; what is no input is replayed anyway, and zero here."""
    rest = {v.name: np.zeros(v.shape) for v in query.variables if v.name not in inputs}
    return "sat\n" + witness_text(query, Witness({**inputs, **rest}))


if __name__ == "__main__":
    print(judge(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_text(encoding="utf-8", errors="replace")))
