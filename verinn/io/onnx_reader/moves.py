"""Importers of operators that only move numbers, and of Shape and its relatives."""

from __future__ import annotations

import math

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import BOOL, FLOATS, Known, Value, limited
from verinn.io.onnx_reader.call import Call, axis_of, importer, integers
from verinn.io.onnx_reader.compare import equal
from verinn.io.onnx_reader.select import slice_by_value, truncated
from verinn.io.onnx_reader.tensors import type_name
from verinn.ir import const as c
from verinn.ir.graph import Const


@importer("Identity")
def _identity(call: Call) -> Value:
    return call.value()


@importer("Dropout")
def _dropout(call: Call) -> list[Value | None]:
    if call.has(2) and bool(np.any(call.known(2, "training_mode").const.value)):
        raise Unsupported("drops at random (it is in training mode)")
    return [call.value(), None]


@importer("Cast", "CastLike")
def _cast(call: Call) -> Value:
    x = call.value()
    to = int(call.attr("to", 0)) if call.op == "Cast" else call.value(1).dtype
    if isinstance(x, Known):
        return Known(_cast_constant(x.const, to), to)
    if to == x.dtype:
        return x
    if to == BOOL:
        zero = Known(Const(np.array(0.0)), x.dtype)
        return call.builder.flip(equal(call.builder, x, zero))
    if to not in FLOATS and to not in _WIDE and x.dtype != BOOL:
        raise Unsupported(f"casts a value that depends on the input to {type_name(to)}", hint="cast it to int64")
    if to in FLOATS or x.dtype not in FLOATS:
        return call.builder.retype(x, to)
    return call.builder.retype(truncated(call.builder, x), to)


_WIDE = (6, 7)
_NARROW = {1: np.float32, 10: np.float16}
_INTEGERS = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 12: np.uint32, 13: np.uint64}


def _cast_constant(const: Const, to: int) -> Const:
    if to in FLOATS:
        real = c.as_float(const)
        if to in _NARROW:
            return c.round_to(real, _NARROW[to])
        if to == 11:
            return real
        from ml_dtypes import bfloat16  # a requirement of onnx; needed here only

        return c.round_to(real, bfloat16)
    if to == 9:
        return Const(const.value != 0)
    if to not in _INTEGERS:
        raise Unsupported(f"casts to the type number {to}")
    value = c.whole(const, np.trunc).value if c.is_float(const) else const.value
    return Const(value.astype(_INTEGERS[to]).astype(np.int64))


@importer("Reshape")
def _reshape(call: Call) -> Value:
    x = call.value()
    target = call.ints("shape", 1, "the shape") or []
    if not call.attr("allowzero", 0):
        if any(size == 0 and axis >= len(x.shape) for axis, size in enumerate(target)):
            raise InputError(f"copies a missing axis: {list(x.shape)} to {target}")
        target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    if target.count(-1) > 1 or min(target, default=0) < -1:
        raise InputError(f"reshapes to {target}")
    rest = math.prod(size for size in target if size != -1)
    if -1 in target and (rest == 0 or math.prod(x.shape) % rest):
        raise InputError(f"reshapes {list(x.shape)} to {target}", hint="the numbers of elements differ")
    return call.builder.reshape(x, [math.prod(x.shape) // rest if size == -1 else size for size in target])


@importer("Flatten")
def _flatten(call: Call) -> Value:
    x, axis = call.value(), int(call.attr("axis", 1))
    rank = len(x.shape)
    if not -rank <= axis <= rank:
        raise InputError(f"flattens a tensor of rank {rank} at axis {axis}")
    axis = axis + rank if axis < 0 else axis
    return call.builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@importer("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.value()
    axes = call.axes("axes", 1, len(x.shape))
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    if any(x.shape[axis] != 1 for axis in axes):
        raise InputError(f"squeezes the axes {axes} of {list(x.shape)}")
    return call.builder.reshape(x, [size for axis, size in enumerate(x.shape) if axis not in axes])


@importer("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x = call.value()
    count = len(call.ints("axes", 1) or [])
    axes = call.axes("axes", 1, len(x.shape) + count) or []
    rest = iter(x.shape)
    return call.builder.reshape(x, [1 if axis in axes else next(rest) for axis in range(len(x.shape) + count)])


@importer("Transpose")
def _transpose(call: Call) -> Value:
    x = call.value()
    perm = call.ints("perm", None)
    return call.builder.transpose(x, list(reversed(range(len(x.shape)))) if perm is None else perm)


@importer("Concat")
def _concat(call: Call) -> Value:
    values = call.given()
    axis = axis_of(int(call.attr("axis", 1)), len(values[0].shape))
    for value in values:
        same = len(value.shape) == len(values[0].shape) and all(
            i == axis or a == b for i, (a, b) in enumerate(zip(value.shape, values[0].shape, strict=True))
        )
        if not same:
            raise InputError(f"joins the shapes {[list(value.shape) for value in values]} along axis {axis}")
    return call.builder.concat(values, axis)


_TO_THE_END = (2**31 - 1, 2**63 - 1)


@importer("Slice")
def _slice(call: Call) -> Value:
    x = call.value()
    rank = len(x.shape)
    axes = call.axes("axes", 3, rank)
    if call.opset >= 10 and not (isinstance(call.value(1), Known) and isinstance(call.value(2), Known)):
        return _slice_by_value(call, x, axes)
    begins, ends = call.ints("starts", 1, "the starts"), call.ints("ends", 2, "the ends")
    if begins is None or ends is None:
        raise InputError("has no starts or no ends")
    axes = list(range(len(begins))) if axes is None else axes
    strides = call.ints("steps", 4, "the steps") or [1] * len(begins)
    if not len(begins) == len(ends) == len(axes) == len(strides) or len(axes) > rank or 0 in strides:
        raise InputError(f"slices {list(x.shape)} from {begins} to {ends} along {axes} in steps of {strides}")
    starts, steps, sizes = [0] * rank, [1] * rank, list(x.shape)
    for axis, begin, end, step in zip(axes, begins, ends, strides, strict=True):
        # Backward to INT_MAX is empty by the letter of the standard and the whole axis in ONNX Runtime.
        stop = None if step < 0 and end in _TO_THE_END else end
        span = range(*slice(begin, stop, step).indices(x.shape[axis]))
        starts[axis], steps[axis], sizes[axis] = span.start, step, len(span)
        if len(span) < 2:
            steps[axis] = 1
    return call.builder.slice(x, starts, steps, sizes)


def _slice_by_value(call: Call, x: Value, axes: list[int] | None) -> Value:
    start, end = call.value(1), call.value(2)
    axes = list(range(math.prod(start.shape))) if axes is None else axes
    if (
        start.shape != (len(axes),)
        or end.shape != (len(axes),)
        or set(call.ints("steps", 4, "the steps") or [1]) != {1}
    ):
        raise Unsupported("slices in steps, or along axes that aren't told, from places that depend on the input")
    for number, axis in enumerate(axes):
        ends = [call.builder.element(place, number) for place in (start, end)]
        x = slice_by_value(call.builder, x, axis, *ends)
    return x


@importer("Split")
def _split(call: Call) -> list[Value | None]:
    x = call.value()
    axis = axis_of(int(call.attr("axis", 0)), len(x.shape))
    size, count = x.shape[axis], len(call.node.output)
    parts = call.ints("split", 1, "the sizes")
    if parts is None:
        piece = -(-size // count)
        if call.opset < 18 and size % count:
            raise InputError(f"splits {size} entries into {count} equal parts")
        parts = [min(piece, max(0, size - index * piece)) for index in range(count)]
    if sum(parts) != size or len(parts) != count or min(parts) < 0:
        raise InputError(f"splits {size} entries into {count} parts of {parts}")
    ends = np.cumsum(parts).tolist()
    return [call.builder.narrow(x, axis, end - part, part) for part, end in zip(parts, ends, strict=True)]


@importer("Expand")
def _expand(call: Call) -> Value:
    x = call.value()
    target = tuple(call.ints("shape", 1, "the shape") or [])
    return call.builder.expand(x, call.builder.common(x.shape, target))


@importer("Tile")
def _tile(call: Call) -> Value:
    x = call.value()
    repeats = call.ints("repeats", 1, "the repeats") or []
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 1:
        raise InputError(f"repeats {list(x.shape)} by {repeats}")
    limited([size * count for size, count in zip(x.shape, repeats, strict=True)])
    for axis, count in enumerate(repeats):
        if count > 1:
            x = call.builder.gather(x, axis, list(range(x.shape[axis])) * count)
    return x


@importer("Pad")
def _pad(call: Call) -> Value:
    x = call.value()
    rank = len(x.shape)
    given = call.ints("pads", 1, "the pads") or []
    axes = call.axes("axes", 3, rank)
    axes = list(range(rank)) if axes is None else axes
    if len(given) != 2 * len(axes):
        raise InputError(f"pads {list(x.shape)} by {given} along the axes {axes}")
    pads = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        pads[axis], pads[rank + axis] = given[index], given[len(axes) + index]
    mode = call.attr("mode", "constant")
    if mode == "constant":
        value = call.scalar(2, "the padding value") if call.has(2) else float(call.attr("value", 0.0))
        return call.builder.pad(x, pads, value)
    if mode not in ("reflect", "edge", "wrap") or min(pads) < 0:
        raise Unsupported(f"pads by {pads} in the mode '{mode}'")
    for axis in range(rank):
        widths = (pads[axis], pads[rank + axis])
        if any(widths):
            limited([x.shape[axis] + sum(widths)])
            x = call.builder.gather(x, axis, np.pad(np.arange(x.shape[axis]), widths, mode=mode).tolist())
    return x


@importer("Shape")
def _shape(call: Call) -> Value:
    shape = call.value().shape
    end = call.attr("end")
    return integers(shape[int(call.attr("start", 0)) : len(shape) if end is None else int(end)])


@importer("Size")
def _size(call: Call) -> Value:
    return integers([math.prod(call.value().shape)], ())


@importer("DepthToSpace")
def _depth_to_space(call: Call) -> Value:
    x, block = call.value(), int(call.attr("blocksize", 0))
    if len(x.shape) != 4 or block < 1 or x.shape[1] % (block * block):
        raise InputError(f"moves the depth of {list(x.shape)} in blocks of {block}")
    n, channels, height, width = x.shape
    depth = channels // (block * block)
    if call.attr("mode", "DCR") == "DCR":
        x, perm = call.builder.reshape(x, (n, block, block, depth, height, width)), (0, 3, 4, 1, 5, 2)
    else:
        x, perm = call.builder.reshape(x, (n, depth, block, block, height, width)), (0, 1, 4, 2, 5, 3)
    return call.builder.reshape(call.builder.transpose(x, perm), (n, depth, height * block, width * block))


@importer("SpaceToDepth")
def _space_to_depth(call: Call) -> Value:
    x, block = call.value(), int(call.attr("blocksize", 0))
    if len(x.shape) != 4 or block < 1 or x.shape[2] % block or x.shape[3] % block:
        raise InputError(f"moves the space of {list(x.shape)} in blocks of {block}")
    n, depth, height, width = x.shape
    x = call.builder.reshape(x, (n, depth, height // block, block, width // block, block))
    x = call.builder.transpose(x, (0, 3, 5, 1, 2, 4))
    return call.builder.reshape(x, (n, depth * block * block, height // block, width // block))
