"""The exact meaning of ONNX operators with windows, and of normalisations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from verinn.audit import enclosure as en
from verinn.audit.enclosure import Enclosure
from verinn.audit.exact import Call, operator
from verinn.errors import Unsupported


def _pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Padding before each axis, then after each, whichever way the node tells it."""
    rank = len(sizes)
    auto = call.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return list(call.attr("pads", [0] * (2 * rank)))
    if auto == "VALID":
        return [0] * (2 * rank)
    before, after = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size
        if missing < 0:
            raise Unsupported("automatic padding would be negative, which ONNX Runtime does in several ways")
        small = missing // 2
        before.append(small if auto == "SAME_UPPER" else missing - small)
        after.append(missing - before[-1])
    return before + after


def _windows(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """Flat numbers of the pixels that each window covers (positions, kernel), -1 in the padding.

    Also the output's spatial shape, and which of the window's places count when padding is included (with
    ``ceil_mode`` a window may reach beyond the padding: those places never count).
    """
    rank = len(sizes)
    strides = list(call.attr("strides", [1] * rank))
    dilations = list(call.attr("dilations", [1] * rank))
    pads = _pads(call, sizes, kernel, strides, dilations)
    lines, inside = [], []
    for axis, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        reach = (width - 1) * dilations[axis] + 1
        room = size + pads[axis] + pads[axis + rank] - reach
        count = (math.ceil if call.attr("ceil_mode", 0) else math.floor)(Fraction(room, strides[axis])) + 1
        if call.attr("ceil_mode", 0) and (count - 1) * strides[axis] >= size + pads[axis]:
            count -= 1
        start = np.arange(count)[:, None] * strides[axis] - pads[axis] + np.arange(width) * dilations[axis]
        inside.append(start < size + pads[axis + rank])
        lines.append(np.where((start >= 0) & (start < size), start, -1))
    shape = tuple(len(line) for line in lines)
    total = np.zeros((*shape, *kernel), dtype=np.int64)
    valid = np.ones((*shape, *kernel), dtype=bool)
    counts = np.ones((*shape, *kernel), dtype=bool)
    for axis, line in enumerate(lines):
        place = [1] * (2 * rank)
        place[axis], place[axis + rank] = line.shape
        total = total * sizes[axis] + np.maximum(line, 0).reshape(place)
        valid &= (line >= 0).reshape(place)
        counts &= inside[axis].reshape(place)
    flat = (math.prod(shape), math.prod(kernel))
    return np.where(valid, total, -1).reshape(flat), shape, counts.reshape(flat)


def _patches(x: Enclosure, batch: int, channel: int, windows: np.ndarray) -> Enclosure:
    """(positions, kernel) of one channel."""
    return x.moved(lambda a: a[batch, channel]).at(windows)


@operator("Conv")
def _conv(call: Call) -> Enclosure:
    x, weight = call.x(), call.x(1)
    groups = call.attr("group", 1)
    windows, shape, _ = _windows(call, x.shape[2:], weight.shape[2:])
    outs, ins = weight.shape[0] // groups, weight.shape[1]
    flat = weight.moved(lambda a: a.reshape(weight.shape[0], -1))
    rows = []
    for batch, group in itertools.product(range(x.shape[0]), range(groups)):
        parts = [_patches(x, batch, group * ins + channel, windows) for channel in range(ins)]
        patches = _stack(parts, axis=1)
        kernel = np.asarray(flat.numbers()[group * outs : (group + 1) * outs].T)
        rows.append(en.dot(patches, Enclosure(kernel, kernel)).moved(np.transpose))
    value = _stack(rows, axis=0).moved(lambda a: a.reshape(x.shape[0], weight.shape[0], *shape))
    return _biased(call, value)


def _biased(call: Call, value: Enclosure) -> Enclosure:
    if not call.has(2):
        return value
    return en.add(value, call.x(2).moved(lambda a: a.reshape(-1, *[1] * (len(value.shape) - 2))))


def _stack(parts: Sequence[Enclosure], axis: int) -> Enclosure:
    """Joined along an axis."""
    lo = np.concatenate([part.lo for part in parts], axis)
    if all(part.exact for part in parts):
        return Enclosure(lo, lo)
    return Enclosure(lo, np.concatenate([part.hi for part in parts], axis))


@operator("ConvTranspose")
def _transposed(call: Call) -> Enclosure:
    """Each input pixel adds the kernel, times itself, to the output."""
    x, weight = call.x(), call.x(1)
    rank, groups = len(x.shape) - 2, call.attr("group", 1)
    strides, dilations = call.attr("strides", [1] * rank), call.attr("dilations", [1] * rank)
    extra = call.attr("output_padding", [0] * rank)
    if call.attr("auto_pad", "NOTSET") not in ("NOTSET", "") or call.attr("output_shape") is not None:
        raise Unsupported("ConvTranspose with automatic padding")
    pads = call.attr("pads", [0] * (2 * rank))
    shape = tuple(
        strides[i] * (x.shape[2 + i] - 1)
        + extra[i]
        + (weight.shape[2 + i] - 1) * dilations[i]
        + 1
        - pads[i]
        - pads[i + rank]
        for i in range(rank)
    )
    ins, outs = x.shape[1] // groups, weight.shape[1]
    matrix = np.zeros((x.shape[1], math.prod(x.shape[2:]), outs * groups, math.prod(shape)), dtype=object) + Fraction(0)
    values = weight.numbers()
    for place in itertools.product(*(range(size) for size in x.shape[2:])):
        for offset in itertools.product(*(range(size) for size in weight.shape[2:])):
            target = tuple(place[i] * strides[i] - pads[i] + offset[i] * dilations[i] for i in range(rank))
            if not all(0 <= at < size for at, size in zip(target, shape, strict=True)):
                continue
            source, goal = np.ravel_multi_index(place, x.shape[2:]), np.ravel_multi_index(target, shape)
            for channel in range(x.shape[1]):
                first = channel // ins * outs
                kernel = values[channel][:, *offset]
                matrix[channel, source, first : first + outs, goal] += kernel
    flat = matrix.reshape(x.shape[1] * math.prod(x.shape[2:]), -1)
    value = en.dot(x.moved(lambda a: a.reshape(x.shape[0], -1)), Enclosure(flat, flat))
    return _biased(call, value.moved(lambda a: a.reshape(x.shape[0], outs * groups, *shape)))


@operator("AveragePool", "MaxPool")
def _pool(call: Call) -> Enclosure:
    x = call.x()
    windows, shape, counts = _windows(call, x.shape[2:], call.attr("kernel_shape"))
    real = windows >= 0
    pixels = [
        _patches(x, batch, channel, windows) for batch, channel in itertools.product(*(range(s) for s in x.shape[:2]))
    ]
    if call.op == "MaxPool":
        low = min(value for value in x.lo.reshape(-1))  # no greater than any pixel: never the only greatest
        pooled = [
            en.extreme(max, part.moved(lambda a: np.where(real, a, low)), (1,), False).moved(np.array)
            for part in pixels
        ]
    else:
        many = counts.sum(1) if call.attr("count_include_pad", 0) else real.sum(1)
        share = en.of([Fraction(1, int(count)) for count in many])
        pooled = [en.multiply(en.total(part, (1,), False), share) for part in pixels]
    return _stack(pooled, axis=0).moved(lambda a: a.reshape(*x.shape[:2], *shape))


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call) -> Enclosure:
    x = call.x()
    axes = tuple(range(2, len(x.shape)))
    if call.op == "GlobalMaxPool":
        return en.extreme(max, x, axes, True)
    return en.multiply(en.total(x, axes, True), en.of(Fraction(1, math.prod(x.shape[2:]))))


# -- normalisations -----------------------------------------------------------------------------------------


def _standardised(x: Enclosure, axes: tuple[int, ...], epsilon: Fraction) -> Enclosure:
    """(x − mean) / sqrt(variance + epsilon) over axes."""
    share = en.of(Fraction(1, math.prod(x.shape[axis] for axis in axes)))
    centred = en.subtract(x, en.multiply(en.total(x, axes, True), share))
    square = en.rising(lambda value: value * value, en.absolute(centred))
    variance = en.multiply(en.total(square, axes, True), share)
    return en.divide(centred, en.rise_smooth("Sqrt", en.add(variance, en.of(epsilon))))


def _channels(values: Enclosure, rank: int) -> Enclosure:
    return values.moved(lambda a: a.reshape(1, -1, *[1] * (rank - 2)))


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Enclosure:
    x = call.x()
    scale, shift, mean, variance = (_channels(call.x(index), len(x.shape)) for index in (1, 2, 3, 4))
    root = en.rise_smooth("Sqrt", en.add(variance, en.of(call.number("epsilon", 1e-5))))
    return en.add(en.multiply(en.divide(en.subtract(x, mean), root), scale), shift)


@operator("LayerNormalization")
def _layer_norm(call: Call) -> Enclosure:
    x = call.x()
    axis = call.attr("axis", -1) % len(x.shape)
    value = en.multiply(_standardised(x, tuple(range(axis, len(x.shape))), call.number("epsilon", 1e-5)), call.x(1))
    return en.add(value, call.x(2)) if call.has(2) else value


@operator("InstanceNormalization")
def _instance_norm(call: Call) -> Enclosure:
    x = call.x()
    rank = len(x.shape)
    value = _standardised(x, tuple(range(2, rank)), call.number("epsilon", 1e-5))
    return en.add(en.multiply(value, _channels(call.x(1), rank)), _channels(call.x(2), rank))


@operator("GroupNormalization")
def _group_norm(call: Call) -> Enclosure:
    x = call.x()
    groups, rank = call.attr("num_groups"), len(x.shape)
    grouped = x.moved(lambda a: a.reshape(a.shape[0], groups, -1))
    value = _standardised(grouped, (2,), call.number("epsilon", 1e-5)).moved(lambda a: a.reshape(x.shape))
    scale, shift = call.x(1), call.x(2)
    if call.opset < 21:  # one number a group
        each = x.shape[1] // groups
        scale, shift = (part.moved(lambda a: np.repeat(a, each)) for part in (scale, shift))
    return en.add(en.multiply(value, _channels(scale, rank)), _channels(shift, rank))
