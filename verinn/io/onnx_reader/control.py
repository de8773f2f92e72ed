"""Importers of control flow: If by its condition, Loop and Scan turn by turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import BOOL, FLOATS, Builder, Known, Value
from verinn.io.onnx_reader.call import Call, axis_of, importer, integers
from verinn.io.onnx_reader.select import blend
from verinn.ir.graph import Const

# Loops of more turns aren't unrolled.
MAX_TURNS = 1000


def _body(call: Call, name: str, inputs: int) -> onnx.GraphProto:
    body = call.attr(name)
    if not isinstance(body, onnx.GraphProto):
        raise InputError(f"has no {name}", hint="the model is damaged")
    if len(body.input) != inputs:
        raise InputError(f"its {name} takes {len(body.input)} inputs, not {inputs}", hint="the model is damaged")
    return body


def _told(value: Value) -> bool:
    """A condition that is constant."""
    if not isinstance(value, Known):
        raise Unsupported("goes on as the input says", hint="only a constant condition is supported")
    if value.const.value.size != 1 or value.const.error is not None:
        raise InputError("its condition isn't one truth value", hint="the model is damaged")
    return bool(value.const.value.reshape(-1)[0])


@importer("If")
def _if(call: Call) -> list[Value | None]:
    """A constant condition chooses a branch; by another, both are read and each output is a choice of two."""
    condition = call.value()
    if isinstance(condition, Known):
        return [*call.read(_body(call, "then_branch" if _told(condition) else "else_branch", 0), [])]
    branches = [call.read(_body(call, name, 0), []) for name in ("then_branch", "else_branch")]
    if len(branches[0]) != len(branches[1]):
        raise InputError("its branches make different numbers of outputs", hint="the model is damaged")
    mask = call.builder.reshape(condition, ())
    return [_either(call.builder, mask, x, y) for x, y in zip(*branches, strict=True)]


def _either(builder: Builder, mask: Value, x: Value, y: Value) -> Value:
    if x.shape != y.shape or x.dtype != y.dtype or x.dtype not in (*FLOATS, BOOL):
        raise Unsupported("makes tensors of different shapes, or whole numbers, as the input says")
    return builder.retype(blend(builder, mask, x, y), x.dtype)


@importer("Loop")
def _loop(call: Call) -> list[Value | None]:
    """The body once for each turn, while its condition, constant in each turn, is true."""
    body = _body(call, "body", len(call.inputs))
    trips = int(call.scalar(0, "the number of turns")) if call.has(0) else None
    on = _told(call.value(1)) if call.has(1) else True
    carried = [call.value(index) for index in range(2, len(call.inputs))]
    stacked: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    turn = 0
    while on and (trips is None or turn < trips):
        if turn >= MAX_TURNS:
            raise Unsupported(f"takes more than {MAX_TURNS} turns", hint="loops of fewer turns are unrolled")
        made = call.read(body, [integers([turn], ()), Known(Const(np.array(on)), BOOL), *carried])
        on = _told(made[0])
        carried = list(made[1 : 1 + len(carried)])
        for rows, value in zip(stacked, made[1 + len(carried) :], strict=True):
            rows.append(value)
        turn += 1
    return [*carried, *(_stack(call.builder, rows, 0) for rows in stacked)]


def _stack(builder: Builder, rows: Sequence[Value], axis: int) -> Value:
    """Values of one shape side by side along a new axis."""
    if not rows:
        raise Unsupported("takes no turn, and its outputs are empty")
    if len({row.shape for row in rows}) > 1:
        raise Unsupported("makes tensors of different shapes in different turns")
    return builder.concat([builder.reshape(row, (*row.shape[:axis], 1, *row.shape[axis:])) for row in rows], axis)


@importer("Scan")
def _scan(call: Call) -> list[Value | None]:
    """The body once for each entry of the scanned inputs."""
    if call.opset < 9:
        raise Unsupported("scans batches, as opset 8 has it", hint="export the model with a newer opset")
    body, builder = _body(call, "body", len(call.inputs)), call.builder
    scanned = int(call.attr("num_scan_inputs", 0))
    kept = len(call.inputs) - scanned
    if scanned < 1 or kept < 0 or len(body.output) < kept:
        raise InputError(f"scans {scanned} of {len(call.inputs)} inputs", hint="the model is damaged")
    state, rows = call.given()[:kept], call.given()[kept:]
    many = len(body.output) - kept
    given = list(call.attr("scan_input_axes", None) or [0] * scanned)
    axes = [axis_of(int(axis), len(row.shape)) for axis, row in zip(given, rows, strict=True)]
    turned = list(call.attr("scan_input_directions", None) or [0] * scanned)
    lengths = {row.shape[axis] for row, axis in zip(rows, axes, strict=True)}
    if len(lengths) != 1 or max(lengths) > MAX_TURNS:
        raise Unsupported(f"scans inputs of the lengths {sorted(lengths)}", hint=f"at most {MAX_TURNS} entries of all")
    count = lengths.pop()
    stacked: list[list[Value]] = [[] for _ in range(many)]
    for turn in range(count):
        parts = []
        for row, axis, back in zip(rows, axes, turned, strict=True):
            part = builder.narrow(row, axis, count - 1 - turn if back else turn, 1)
            parts.append(builder.reshape(part, (*row.shape[:axis], *row.shape[axis + 1 :])))
        made = call.read(body, [*state, *parts])
        state = list(made[:kept])
        for made_rows, value in zip(stacked, made[kept:], strict=True):
            made_rows.append(value)
    out_axes = list(call.attr("scan_output_axes", None) or [0] * many)
    directions = list(call.attr("scan_output_directions", None) or [0] * many)
    outputs: list[Value | None] = [*state]
    for entries, axis, back in zip(stacked, out_axes, directions, strict=True):
        rank = 1 + (len(entries[0].shape) if entries else 0)
        outputs.append(_stack(builder, entries[::-1] if back else entries, axis_of(int(axis), rank)))
    return outputs
