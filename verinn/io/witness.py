"""The answer as text: the verdict, and a witness in the format of the property's own version.

1.0: ``((X_0 v)``, then one ``(NAME v)`` a line, closed by ``)``. 2.0: for every declared variable, in
declaration order, a header ``NAME type [d1,d2]`` and then one value a line, row-major.
Numbers are written without exponent, as short as possible, and read back to the very same float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from verinn.errors import InputError
from verinn.ir.query import Kind, Query, Variable
from verinn.result import Result, Verdict, Witness

_PAIR = re.compile(r"\(\s*([A-Za-z_][A-Za-z0-9_]*)\s+([^\s()]+)\s*\)")


def answer_text(query: Query, result: Result, timeout_word: str = "timeout") -> str:
    """The verdict's line and, for `sat`, the witness below it; ends with a newline."""
    if result.verdict is Verdict.TIMEOUT:
        return f"{timeout_word}\n"
    if result.verdict is not Verdict.SAT:
        return f"{result.verdict.value}\n"
    if result.witness is None:
        raise ValueError("a sat verdict came without a witness")
    return f"{result.verdict.value}\n{witness_text(query, result.witness)}"


def witness_text(query: Query, witness: Witness) -> str:
    """The witness in the format of the query's version; ends with a newline."""
    flat = {variable.name: _values(variable, witness) for variable in query.variables}
    if query.version.startswith("1"):
        pairs = [
            f"({name} {text})"
            for variable in _in_order(query)
            for name, text in zip(scalar_names(variable), flat[variable.name], strict=True)
        ]
        return "(" + "\n ".join(pairs) + ")\n"
    lines: list[str] = []
    for variable in query.variables:
        lines.append(f"{variable.name} {variable.dtype} [{','.join(map(str, variable.shape))}]")
        lines.extend(flat[variable.name])
    return "\n".join(lines) + "\n"


def scalar_names(variable: Variable) -> list[str]:
    """How version 1.0 names the elements of a variable: ``X_0``, ``X_1``, …"""
    if variable.shape == ():
        return [variable.name]
    return [f"{variable.name}_{i}" for i in range(variable.size)]


def _in_order(query: Query) -> list[Variable]:
    """Inputs before outputs, as version 1.0 wants them."""
    rank = {Kind.INPUT: 0, Kind.HIDDEN: 1, Kind.OUTPUT: 2}
    return sorted(query.variables, key=lambda variable: rank[variable.kind])


def _values(variable: Variable, witness: Witness) -> list[str]:
    if variable.name not in witness.values:
        raise ValueError(f"the witness lacks the variable {variable.name}")
    array = np.asarray(witness.values[variable.name])
    if array.size != variable.size:
        raise ValueError(f"the witness has {array.size} values for {variable.name}, declared {variable.size}")
    return format_numbers(array)


def format_numbers(array: np.ndarray) -> list[str]:
    """Every element as a decimal that reads back to it, without exponents."""
    flat = array.reshape(-1)
    if flat.dtype.kind in "iub":
        return [str(int(value)) for value in flat]
    if flat.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        flat = flat.astype(np.float32)  # narrower floats are all float32 values
    return [_shortest(value) for value in flat]


def _shortest(value: np.floating) -> str:
    text = np.format_float_positional(value, unique=True, trim="0")
    # A reader may parse to float64 first and round again; then the shortest text could miss by one.
    if value.dtype == np.float32 and np.float32(float(text)) != value and value == value:
        text = np.format_float_positional(np.float64(value), unique=True, trim="0")
    return text


def serialise(query: Query, witness: Witness, folder: str | Path) -> None:
    """Write every declared variable as ``folder/NAME.pb``, a TensorProto, each file whole or not at all."""
    from onnx import numpy_helper

    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for variable in query.variables:
            array = np.asarray(witness.values[variable.name]).reshape(variable.shape)
            data = numpy_helper.from_array(array, variable.name).SerializeToString()
            temporary = target / f".{variable.name}.pb.tmp"
            temporary.write_bytes(data)
            temporary.replace(target / f"{variable.name}.pb")
    except OSError as error:
        raise InputError(
            f"can't be written ({error.strerror})", file=str(folder), hint="choose a writable folder"
        ) from None


def read_answer(text: str, query: Query) -> tuple[str, Mapping[str, np.ndarray]]:
    """The verdict word and the witness's values by variable name (float64), read from an answer's text.

    Raises InputError for anything that the format doesn't allow: this is what a witness is judged by.
    """
    first, _, rest = text.partition("\n")
    word = first.strip()
    if word != "sat":
        return word, {}
    if query.version.startswith("1"):
        return word, _read_pairs(rest, query)
    return word, _read_blocks(rest, query)


def _read_pairs(text: str, query: Query) -> dict[str, np.ndarray]:
    found = _PAIR.findall(text)
    names = [name for name, _ in found]
    wanted = [name for variable in _in_order(query) for name in scalar_names(variable)]
    if names != wanted:
        odd = next((a or b for a, b in zip(wanted, names, strict=False) if a != b), "the end")
        raise InputError(f"witness: {len(names)} values, expected {len(wanted)}; first difference at {odd}")
    numbers = iter(_number(text) for _, text in found)
    return {
        variable.name: np.array([next(numbers) for _ in range(variable.size)]).reshape(variable.shape)
        for variable in _in_order(query)
    }


def _read_blocks(text: str, query: Query) -> dict[str, np.ndarray]:
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    values = {}
    at = 0
    for variable in query.variables:
        header = f"{variable.name} {variable.dtype} [{','.join(map(str, variable.shape))}]"
        if at >= len(lines) or lines[at] != header:
            raise InputError(f"witness: line {at + 2} should be `{header}`")
        block = lines[at + 1 : at + 1 + variable.size]
        if len(block) != variable.size:
            raise InputError(f"witness: {variable.name} has {len(block)} values, expected {variable.size}")
        values[variable.name] = np.array([_number(line) for line in block]).reshape(variable.shape)
        at += 1 + variable.size
    if at != len(lines):
        raise InputError(f"witness: nothing should follow line {at + 1}")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"witness: `{text[:40]}` is not a number") from None
