"""Importers of Einsum, of running sums and of triangles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import Builder, Known, Value
from verinn.io.onnx_reader.call import Call, axis_of, importer
from verinn.io.onnx_reader.compare import masked
from verinn.io.onnx_reader.matmul import matmul
from verinn.ir.graph import Const


@importer("Einsum")
def _einsum(call: Call) -> Value:
    """Operands are multiplied from left to right; a label is summed once no later operand has it."""
    values = call.given()
    terms, result = _labels(str(call.attr("equation", "")), [len(value.shape) for value in values])
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for label, size in zip(term, value.shape, strict=True):
            if sizes.setdefault(label, size) in (1, size):
                sizes[label] = max(sizes[label], size)
            elif size != 1:
                raise InputError(f"gives '{label}' the sizes {sizes[label]} and {size}")
    builder = call.builder
    left, value = _diagonal(builder, terms[0], values[0])
    for number, (term, other) in enumerate(zip(terms[1:], values[1:], strict=True), start=1):
        later = set(result).union(*terms[number + 1 :])
        right, other = _diagonal(builder, term, other)
        left, value = _product(builder, (left, value), (right, other), later, sizes)
    value = builder.total(value, [axis for axis, label in enumerate(left) if label not in result])
    value = builder.reshape(value, [value.shape[axis] for axis, label in enumerate(left) if label in result])
    left = [label for label in left if label in result]
    value = builder.transpose(value, [left.index(label) for label in result])
    return builder.expand(value, [sizes[label] for label in result])


def _labels(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand and of the result; an ellipsis becomes labels '0', '1', … from the right."""
    text = equation.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    parts = inputs.split(",")
    if len(parts) != len(ranks):
        raise InputError(f"has {len(ranks)} operands for the equation '{equation}'")
    wide = max((rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)), default=0)

    def spelled(part: str, rank: int | None) -> list[str]:
        before, dots, after = part.partition("...")
        count = 0 if not dots else wide if rank is None else rank - len(before) - len(after)
        labels = [*before, *(str(k) for k in range(count - 1, -1, -1)), *after]
        if count < 0 or (rank is not None and len(labels) != rank) or not all(x.isalnum() for x in labels):
            raise InputError(f"has the equation '{equation}', which doesn't fit its operands")
        return labels

    terms = [spelled(part, rank) for part, rank in zip(parts, ranks, strict=True)]
    if arrow:
        result = spelled(output, None)
    else:
        flat = [label for term in terms for label in term]
        once = sorted(label for label in set(flat) if flat.count(label) == 1 and not label.isdigit())
        result = [str(k) for k in range(wide - 1, -1, -1)] + once
    if len(set(result)) != len(result) or not set(result) <= {label for term in terms for label in term}:
        raise InputError(f"has the equation '{equation}', whose result has a label twice or from nowhere")
    return terms, result


def _diagonal(builder: Builder, term: list[str], value: Value) -> tuple[list[str], Value]:
    """Labels that come twice in one operand are read along the diagonal."""
    while len(set(term)) < len(term):
        label = next(label for label in term if term.count(label) > 1)
        first = term.index(label)
        second = term.index(label, first + 1)
        rest = [axis for axis in range(len(term)) if axis not in (first, second)]
        size = value.shape[first]
        if value.shape[second] != size:
            raise InputError(f"reads a diagonal of {list(value.shape)}")
        turned = builder.transpose(value, [first, second, *rest])
        flat = builder.reshape(turned, (size * size, *(value.shape[axis] for axis in rest)))
        value = builder.gather(flat, 0, list(range(0, size * size, size + 1)))
        term = [label, *(term[axis] for axis in rest)]
    return term, value


def _product(
    builder: Builder, x: tuple[list[str], Value], y: tuple[list[str], Value], later: set[str], sizes: dict[str, int]
) -> tuple[list[str], Value]:
    """The product of two operands as a batched matrix product: batch, rows, what is summed, columns."""
    (left, a), (right, b) = x, y
    a = builder.total(a, [axis for axis, label in enumerate(left) if label not in right and label not in later])
    b = builder.total(b, [axis for axis, label in enumerate(right) if label not in left and label not in later])
    rows = [label for label in left if label not in right and label in later]
    columns = [label for label in right if label not in left and label in later]
    shared = [label for label in left if label in right]
    batch = [label for label in shared if label in later]
    summed = [label for label in shared if label not in later]
    # A summed label of size one on one side only is broadcast before it is summed.
    a = _arranged(builder, left, a, (batch, rows, summed), sizes)
    b = _arranged(builder, right, b, (batch, summed, columns), sizes)
    made = matmul(builder, a, b)
    labels = [*batch, *rows, *columns]
    return labels, builder.reshape(made, [sizes[label] for label in labels])


def _arranged(
    builder: Builder, labels: list[str], value: Value, groups: tuple[list[str], ...], sizes: dict[str, int]
) -> Value:
    """The operand with its axes in the order of the groups, each group one axis; labels outside were summed."""
    order = [label for group in groups for label in group]
    rest = [axis for axis, label in enumerate(labels) if label not in order]
    value = builder.transpose(value, [*(labels.index(label) for label in order), *rest])
    value = builder.reshape(value, value.shape[: len(order)])
    value = builder.expand(value, [sizes[label] for label in order])
    return builder.reshape(value, [math.prod(sizes[label] for label in group) for group in groups])


@importer("CumSum")
def _cum_sum(call: Call) -> Value:
    """A product with a triangle of ones along the axis."""
    builder, x = call.builder, call.value()
    axis = axis_of(int(call.scalar(1, "the axis")), len(x.shape))
    size = x.shape[axis]
    triangle = np.triu(np.ones((size, size)), 1 if call.attr("exclusive", 0) else 0)
    if call.attr("reverse", 0):
        triangle = triangle[::-1, ::-1].copy()
    perm = [i for i in range(len(x.shape)) if i != axis] + [axis]
    moved = builder.transpose(x, perm)
    if isinstance(moved, Known) and moved.const.value.dtype.kind == "i":
        summed: Value = Known(Const(moved.const.value @ triangle.astype(np.int64)), x.dtype)
    else:
        summed = builder.linear(moved, Const(triangle))
    return builder.transpose(summed, [perm.index(i) for i in range(len(perm))])


@importer("Trilu")
def _trilu(call: Call) -> Value:
    x = call.value()
    if len(x.shape) < 2:
        raise InputError(f"takes a triangle of a tensor of rank {len(x.shape)}")
    k = int(call.scalar(1, "the diagonal")) if call.has(1) else 0
    ones = np.ones(x.shape[-2:], bool)
    keep = np.triu(ones, k) if call.attr("upper", 1) else np.tril(ones, k)
    zero = Known(Const(np.zeros((), x.const.value.dtype if isinstance(x, Known) else np.float64)), x.dtype)
    return masked(call.builder, keep, x, zero)


@importer("ReverseSequence")
def _reverse_sequence(call: Call) -> Value:
    """Each batch entry's first so many entries along the time axis, reversed."""
    builder, x = call.builder, call.value()
    time, batch = int(call.attr("time_axis", 0)), int(call.attr("batch_axis", 1))
    lengths = call.ints("sequence_lens", 1, "the lengths") or []
    if {time, batch} != {0, 1} or len(x.shape) < 2 or len(lengths) != x.shape[batch]:
        raise Unsupported(f"reverses sequences of {list(x.shape)} along the axes {time} and {batch}")
    parts = []
    for index, length in enumerate(lengths):
        if not 0 <= length <= x.shape[time]:
            raise InputError(f"reverses {length} of {x.shape[time]} entries")
        order = [*range(length - 1, -1, -1), *range(length, x.shape[time])]
        parts.append(builder.gather(builder.narrow(x, batch, index, 1), time, order))
    return builder.concat(parts, batch)
