"""Importers of RNN, GRU and LSTM, unrolled exactly over their fixed number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.affine import number
from verinn.io.onnx_reader.builder import Builder, Known, Value
from verinn.io.onnx_reader.call import Call, importer
from verinn.io.onnx_reader.matmul import matmul
from verinn.ir.graph import Const

Activation = Callable[[Value], Value]


@dataclass(frozen=True)
class _Direction:
    """One direction: its order of steps, weights, first states and activations."""

    order: Sequence[int]
    weight: Value  # (gates · hidden, inputs)
    recurrence: Value  # (gates · hidden, hidden)
    bias: tuple[Value, Value] | None  # of the weight and of the recurrence, (gates · hidden,) each
    peepholes: Value | None
    hidden: Value  # (batch, hidden)
    cell: Value
    acts: Sequence[Activation]
    size: int


@importer("RNN", "GRU", "LSTM")
def _recurrent(call: Call) -> list[Value | None]:
    """Outputs Y (time, directions, batch, hidden), the last hidden states and, of an LSTM, the last cells."""
    builder, x = call.builder, call.real()
    if len(x.shape) != 3:
        raise InputError(f"reads a sequence of the shape {list(x.shape)}", hint="time, batch and features are needed")
    if call.attr("layout", 0):
        x = builder.transpose(x, (1, 0, 2))
    times, batch, _ = x.shape
    if call.has(4) and any(length != times for length in call.ints("sequence_lens", 4, "the lengths") or []):
        raise Unsupported("reads sequences of different lengths", hint="only whole sequences are supported")
    outputs, lasts, cells = [], [], []
    for direction in _directions(call, x):
        states = _unrolled(call, x, direction)
        lasts.append(states[-1][0])
        cells.append(states[-1][1])
        in_time = sorted(zip(direction.order, states, strict=True), key=lambda pair: pair[0])
        rows = [builder.reshape(hidden, (1, 1, batch, direction.size)) for _, (hidden, _) in in_time]
        outputs.append(builder.concat(rows, 0))
    y = builder.concat(outputs, 1)
    ends = [builder.concat([builder.reshape(v, (1, *v.shape)) for v in states], 0) for states in (lasts, cells)]
    if call.attr("layout", 0):
        y = builder.transpose(y, (2, 0, 1, 3))
        ends = [builder.transpose(end, (1, 0, 2)) for end in ends]
    return [y, *ends] if call.op == "LSTM" else [y, ends[0]]


_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def _directions(call: Call, x: Value) -> list[_Direction]:
    builder, kind = call.builder, str(call.attr("direction", "forward"))
    count = 2 if kind == "bidirectional" else 1
    times, batch, features = x.shape
    gates, size = _GATES[call.op], int(call.attr("hidden_size", 0) or call.value(2).shape[-1])
    wide = gates * size
    _fits(call, 1, (count, wide, features))
    _fits(call, 2, (count, wide, size))
    if kind not in ("forward", "reverse", "bidirectional"):
        raise InputError(f"has the unknown direction '{kind}'")
    clip = call.attr("clip")
    if clip is not None:
        raise Unsupported("clips its gates", hint="export it without clip")
    acts = _activations(call, count)
    per = len(acts) // count
    found = []
    for index in range(count):
        backward = kind == "reverse" or index == 1

        def part(at: int, *shape: int, index: int = index) -> Value:
            return builder.reshape(builder.narrow(_fits(call, at, (count, *shape)), 0, index, 1), shape)

        bias = part(3, 2 * wide) if call.has(3) else None
        zero = Known(Const(np.zeros((batch, size))), x.dtype)
        found.append(
            _Direction(
                range(times - 1, -1, -1) if backward else range(times),
                part(1, wide, features),
                part(2, wide, size),
                None if bias is None else (builder.narrow(bias, 0, 0, wide), builder.narrow(bias, 0, wide, wide)),
                part(7, 3 * size) if call.op == "LSTM" and call.has(7) else None,
                _state(call, 5, index, (batch, size)) if call.has(5) else zero,
                _state(call, 6, index, (batch, size)) if call.op == "LSTM" and call.has(6) else zero,
                acts[per * index : per * (index + 1)],
                size,
            )
        )
    return found


def _fits(call: Call, index: int, shape: tuple[int, ...]) -> Value:
    value = call.real(index)
    if value.shape != shape:
        raise InputError(f"its input {index} has the shape {list(value.shape)}, not {list(shape)}")
    return value


def _state(call: Call, at: int, index: int, shape: tuple[int, int]) -> Value:
    """The first state of one direction: (directions, batch, hidden), or batch first."""
    value = call.real(at)
    if call.attr("layout", 0):
        value = call.builder.transpose(value, (1, 0, 2))
    if len(value.shape) != 3 or value.shape[1:] != shape or index >= value.shape[0]:
        raise InputError(f"its input {at} has the shape {list(value.shape)}")
    return call.builder.reshape(call.builder.narrow(value, 0, index, 1), shape)


def _activations(call: Call, count: int) -> list[Activation]:
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in call.attr("activations") or ()]
    names = names or list(_DEFAULTS[call.op]) * count
    if len(names) != len(_DEFAULTS[call.op]) * count:
        raise InputError(f"has the activations {names} for {count} directions")
    if call.attr("activation_alpha") or call.attr("activation_beta"):
        raise Unsupported("has activations with parameters")
    unknown = [name for name in names if name.lower() not in ("tanh", "sigmoid", "relu", "softplus")]
    if unknown:
        raise Unsupported(f"has the activation '{unknown[0]}'", hint="Tanh, Sigmoid, Relu and Softplus are supported")
    return [partial(_apply, call.builder, name.lower()) for name in names]


def _apply(builder: Builder, op: str, value: Value) -> Value:
    return builder.elementwise(op, value)


def _unrolled(call: Call, x: Value, direction: _Direction) -> list[tuple[Value, Value]]:
    """Hidden state and cell after each step, in the order of the steps."""
    builder = call.builder
    products = matmul(builder, x, builder.swap(direction.weight))  # (time, batch, gates · hidden), all at once
    hidden, cell, states = direction.hidden, direction.cell, []
    step = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}[call.op]
    for time in direction.order:
        row = builder.narrow(products, 0, time, 1)
        row = builder.reshape(row, row.shape[1:])
        hidden, cell = step(call, direction, row, hidden, cell)
        states.append((hidden, cell))
    return states


def _summed(builder: Builder, direction: _Direction, row: Value, hidden: Value, first: int, count: int) -> Value:
    """Gates first … first + count − 1 before their activations: (batch, count · hidden)."""
    size = direction.size
    part = builder.narrow(row, 1, first * size, count * size)
    recurrence = builder.narrow(direction.recurrence, 0, first * size, count * size)
    part = builder.add(part, matmul(builder, hidden, builder.swap(recurrence)))
    for bias in direction.bias or ():
        part = builder.add(part, builder.narrow(bias, 0, first * size, count * size))
    return part


def _rnn(call: Call, direction: _Direction, row: Value, hidden: Value, cell: Value) -> tuple[Value, Value]:
    """H = f(X·Wᵀ + H·Rᵀ + b)."""
    return direction.acts[0](_summed(call.builder, direction, row, hidden, 0, 1)), cell


def _gru(call: Call, direction: _Direction, row: Value, hidden: Value, cell: Value) -> tuple[Value, Value]:
    """Gates z, r, h; H = (1 − z)·h + z·H, written h + z·(H − h)."""
    builder, size = call.builder, direction.size
    gates = direction.acts[0](_summed(builder, direction, row, hidden, 0, 2))
    update, reset = builder.narrow(gates, 1, 0, size), builder.narrow(gates, 1, size, size)
    recurrence = builder.swap(builder.narrow(direction.recurrence, 0, 2 * size, size))
    candidate = builder.narrow(row, 1, 2 * size, size)
    biases = [builder.narrow(bias, 0, 2 * size, size) for bias in direction.bias or ()]
    if biases:
        candidate = builder.add(candidate, biases[0])
    if call.attr("linear_before_reset", 0):
        inner = matmul(builder, hidden, recurrence)
        inner = builder.mul(reset, builder.add(inner, biases[1]) if biases else inner)
    else:
        inner = matmul(builder, builder.mul(reset, hidden), recurrence)
        inner = builder.add(inner, biases[1]) if biases else inner
    candidate = direction.acts[1](builder.add(candidate, inner))
    return builder.add(candidate, builder.mul(update, builder.add(hidden, candidate, -1))), cell


def _lstm(call: Call, direction: _Direction, row: Value, hidden: Value, cell: Value) -> tuple[Value, Value]:
    """Gates i, o, f, c; C = f·C + i·c; H = o·h(C); peepholes i, o, f read the cell."""
    builder, size = call.builder, direction.size
    gates = _summed(builder, direction, row, hidden, 0, 4)
    enter, leave, forget, fresh = (builder.narrow(gates, 1, k * size, size) for k in range(4))
    peek = (
        None
        if direction.peepholes is None
        else [builder.narrow(direction.peepholes, 0, k * size, size) for k in range(3)]
    )
    if peek is not None:
        enter = builder.add(enter, builder.mul(cell, peek[0]))
        forget = builder.add(forget, builder.mul(cell, peek[2]))
    inner, outer, last = direction.acts
    enter = inner(enter)
    forget = builder.add(number(1.0, cell.dtype), enter, -1) if call.attr("input_forget", 0) else inner(forget)
    cell = builder.add(builder.mul(forget, cell), builder.mul(enter, outer(fresh)))
    if peek is not None:
        leave = builder.add(leave, builder.mul(cell, peek[1]))
    return builder.mul(inner(leave), last(cell)), cell
