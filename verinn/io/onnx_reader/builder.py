"""Symbolic values of a model being read, and the primitives that importers are written in.

A value is either ``Known`` (a constant with its error bound) or a ``Ref`` to a core node. Every
primitive takes both: given constants only it computes (``verinn.ir.const``), else it emits a core
node. So each ONNX operator is imported once, and constant subgraphs fold as they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.facts import Origin, Range, one_of, range_after, trace
from verinn.ir import const as c
from verinn.ir.check import GraphError, broadcasts, shape_of
from verinn.ir.fold import DomainError, fold
from verinn.ir.graph import Const, Node, Shape, frozen

# The largest constant or value that is built: 2 GiB of float64.
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, eq=False)
class Known:
    """A constant; ``dtype`` is the ONNX element type it has in the file."""

    const: Const
    dtype: int

    @property
    def shape(self) -> Shape:
        return self.const.shape


@dataclass(frozen=True)
class Ref:
    """A value that depends on the inputs: the name of the core node that makes it."""

    name: str
    shape: Shape
    dtype: int


Value = Known | Ref


@dataclass(frozen=True)
class Choice:
    """How many of ``size`` entries are left of a slice of ``total`` that starts at an element of a value."""

    name: str
    index: int
    offset: int
    total: int
    size: int

    @property
    def sizes(self) -> range:
        return range(self.size, -1, -1)


class Fork(Exception):
    """An importer has come to a choice that its world leaves open."""

    def __init__(self, choice: Choice) -> None:
        super().__init__("a size depends on the input")
        self.choice = choice


BOOL = 9
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}


class Builder:
    """Collects core nodes. ``here`` names the ONNX node at work, ``base`` the value it makes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.makers: dict[str, Node] = {}
        self.shapes: dict[str, Shape] = {}
        self.ranges: dict[str, Range] = {}
        self.world: dict[Choice, int] = {}
        self.names: set[str] = set()
        self.here = ""
        self.base = ""

    # -- names and nodes ---------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A name not used yet: ``base`` itself if free."""
        name, count = base, 0
        while name in self.names:
            count += 1
            name = f"{base}#{count}"
        self.names.add(name)
        return name

    def emit(
        self,
        op: str,
        inputs: Sequence[Ref],
        attrs: dict[str, Any] | None = None,
        params: dict[str, Const] | None = None,
        shape: Shape = (),
        dtype: int | None = None,
    ) -> Ref:
        """Add a core node. InputError when shapes don't fit together or a parameter isn't finite."""
        attrs, params = attrs or {}, params or {}
        for key, const in params.items():
            if not finite(const):
                raise InputError(f"its {key} holds NaN or infinity", hint="repair the weights of the model")
        try:
            out = shape_of(op, [ref.shape for ref in inputs], attrs, params, shape)
        except GraphError as error:
            raise InputError(f"shapes don't fit: {error}", hint="the model is inconsistent") from None
        limited(out)
        if dtype is None:
            dtype = inputs[0].dtype if inputs else 1
        name = self.fresh(self.base)
        node = Node(name, op, tuple(ref.name for ref in inputs), out, frozen(attrs), frozen(params), self.here)
        self.nodes.append(node)
        self.makers[name], self.shapes[name] = node, out
        known = range_after(node, self.ranges)
        if known is not None:
            self.ranges[name] = known
        return Ref(name, out, dtype)

    def take_input(self, name: str, shape: Shape, dtype: int, box: Range | None) -> Ref:
        """A value that is an input of the graph, within a box where one is known."""
        name = self.fresh(name)
        self.shapes[name] = shape
        if box is not None:
            self.ranges[name] = box
        return Ref(name, shape, dtype)

    # -- what is known of a value --------------------------------------------------------------------

    def range_of(self, x: Value) -> Range:
        """Bounds of every element, infinite where nothing is known."""
        if isinstance(x, Known):
            const = c.as_float(x.const)
            return const.value - c.error_of(const), const.value + c.error_of(const)
        reach = (0.0, 1.0) if x.dtype == BOOL else (-math.inf, math.inf)
        return self.ranges.get(x.name, (np.full(x.shape, reach[0]), np.full(x.shape, reach[1])))

    def whole_range(self, x: Value) -> tuple[float, float]:
        """Bounds of all elements."""
        low, high = self.range_of(x)
        return float(np.min(low, initial=math.inf)), float(np.max(high, initial=-math.inf))

    def origin(self, x: Value, index: int = 0) -> Known | Origin:
        """What the element ``index`` is: a constant (1,), or an element of a value plus a whole number."""
        if isinstance(x, Known):
            return Known(one_of(x.const, index), x.dtype)
        found = trace(self.makers, self.shapes, x.name, index)
        return found if isinstance(found, Origin) else Known(found, x.dtype)

    def element(self, x: Value, index: int) -> Value:
        """One element, shape (1,), taken from where it comes from."""
        found = self.origin(x, index)
        if isinstance(found, Known):
            return found
        return self.element_of(found.name, found.index, found.offset, x.dtype)

    def element_of(self, name: str, index: int, offset: int, dtype: int = 7) -> Value:
        """The element of a core value, by its row-major index, plus a whole number: shape (1,)."""
        source = Ref(name, self.shapes[name], dtype)
        one = self.narrow(self.reshape(source, (math.prod(source.shape),)), 0, index, 1)
        return self.add(one, Known(Const(np.array(float(offset))), dtype)) if offset else one

    def retype(self, x: Value, dtype: int) -> Value:
        """The same numbers under another element type."""
        return replace(x, dtype=dtype)

    def flip(self, x: Value) -> Value:
        """1 − x of booleans."""
        return self.retype(self.add(self.neg(x), Known(Const(np.array(1)), BOOL)), BOOL)

    def ref(self, value: Value) -> Ref:
        """The value as a core node (a constant becomes a ``constant`` node)."""
        if isinstance(value, Ref):
            return value
        return self.emit("constant", (), params={"value": c.as_float(value.const)}, dtype=value.dtype)

    # -- moves -------------------------------------------------------------------------------------

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Row-major reshape; the very same value when the shape is already right."""
        shape = tuple(int(size) for size in shape)
        if shape == x.shape:
            return x
        if math.prod(shape) != math.prod(x.shape):
            raise InputError(f"reshapes {list(x.shape)} to {list(shape)}", hint="the numbers of elements differ")
        if isinstance(x, Known):
            return Known(c.reshape(x.const, shape), x.dtype)
        return self.emit("reshape", [x], shape=shape)

    def empty(self, shape: Sequence[int], dtype: int) -> Known:
        """A tensor without elements: a constant."""
        return Known(Const(np.zeros(tuple(shape), np.float64 if dtype in FLOATS else np.int64)), dtype)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Permute the axes."""
        perm = tuple(int(axis) for axis in perm)
        if sorted(perm) != list(range(len(x.shape))):
            raise InputError(f"transposes a tensor of rank {len(x.shape)} by {list(perm)}")
        if perm == tuple(range(len(perm))):
            return x
        if isinstance(x, Known):
            return Known(c.transpose(x.const, perm), x.dtype)
        return self.emit("transpose", [x], {"perm": perm})

    def swap(self, x: Value) -> Value:
        """Exchange the last two axes."""
        rank = len(x.shape)
        return self.transpose(x, (*range(rank - 2), rank - 1, rank - 2))

    def slice(self, x: Value, starts: Sequence[int], steps: Sequence[int], sizes: Sequence[int]) -> Value:
        """x[start], x[start + step], … along each axis; an empty slice of anything is a constant."""
        starts, steps, sizes = tuple(starts), tuple(steps), tuple(sizes)
        if 0 in sizes:
            return self.empty(sizes, x.dtype)
        if sizes == x.shape and all(step == 1 for step in steps):
            return x
        if isinstance(x, Known):
            index = tuple(_range(*spec) for spec in zip(starts, steps, sizes, strict=True))
            return Known(c.move(x.const, lambda array: array[index]), x.dtype)
        return self.emit("slice", [x], {"starts": starts, "steps": steps, "sizes": sizes})

    def narrow(self, x: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
        """A slice along one axis."""
        rank = len(x.shape)
        starts = [start if i == axis else 0 for i in range(rank)]
        steps = [step if i == axis else 1 for i in range(rank)]
        sizes = [size if i == axis else x.shape[i] for i in range(rank)]
        return self.slice(x, starts, steps, sizes)

    def gather(self, x: Value, axis: int, indices: Sequence[int]) -> Value:
        """Pick entries (indices ≥ 0) along one axis; an arithmetic progression becomes a slice."""
        indices = tuple(int(index) for index in indices)
        if indices and (min(indices) < 0 or max(indices) >= x.shape[axis]):
            raise InputError(f"gathers index {max(indices)} of {x.shape[axis]}", hint="the index is out of range")
        if isinstance(x, Known):
            limited((*x.shape[:axis], len(indices), *x.shape[axis + 1 :]))
            return Known(c.move(x.const, lambda array: np.take(array, indices, axis=axis)), x.dtype)
        step = indices[1] - indices[0] if len(indices) > 1 else 1
        if not indices or (step != 0 and all(b - a == step for a, b in pairwise(indices))):
            return self.narrow(x, axis, indices[0] if indices else 0, len(indices), step)
        return self.emit("gather", [x], {"axis": axis, "indices": indices})

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Join along an axis; empty parts drop out."""
        parts = [value for value in values if math.prod(value.shape) or value.shape[axis] != 0] or [values[0]]
        if len(parts) == 1:
            return parts[0]
        known = [part.const for part in parts if isinstance(part, Known)]
        if len(known) == len(parts):
            return Known(c.concat(known, axis), parts[0].dtype)
        return self.emit("concat", [self.ref(part) for part in parts], {"axis": axis})

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        """Broadcast to ``shape``."""
        shape = tuple(int(size) for size in shape)
        if shape == x.shape:
            return x
        limited(shape)
        if 0 in shape and isinstance(x, Ref):
            return self.empty(shape, x.dtype)
        if not broadcasts(x.shape, shape):
            raise InputError(f"broadcasts {list(x.shape)} to {list(shape)}", hint="the shapes don't fit")
        if isinstance(x, Known):
            return Known(c.expand(x.const, shape), x.dtype)
        if math.prod(shape) == math.prod(x.shape):
            return self.reshape(x, shape)
        return self.emit("expand", [x], shape=shape)

    def pad(self, x: Value, pads: Sequence[int], value: float = 0.0) -> Value:
        """Constant padding; negative pads cut. ``pads`` are all begins, then all ends."""
        rank = len(x.shape)
        pads = tuple(int(pad) for pad in pads)
        if min(pads, default=0) < 0:
            starts = [max(0, -pads[i]) for i in range(rank)]
            ends = [min(size, size + pads[rank + i]) for i, size in enumerate(x.shape)]
            sizes = [end - start for start, end in zip(starts, ends, strict=True)]
            if min(sizes) <= 0:
                raise InputError(f"pads {list(x.shape)} by {list(pads)}", hint="nothing would be left")
            x = self.slice(x, starts, [1] * rank, sizes)
            pads = tuple(max(0, pad) for pad in pads)
        if not any(pads):
            return x
        limited([pads[i] + size + pads[rank + i] for i, size in enumerate(x.shape)])
        if isinstance(x, Known):
            widths = list(zip(pads[:rank], pads[rank:], strict=True))
            error = x.const.error
            padded = np.pad(x.const.value, widths, constant_values=value)
            return Known(c.make(padded, None if error is None else np.pad(error, widths)), x.dtype)
        return self.emit("pad", [x], {"pads": pads, "value": float(value)})

    # -- arithmetic --------------------------------------------------------------------------------

    def common(self, *shapes: Shape) -> Shape:
        """The shape that these broadcast to."""
        try:
            return tuple(int(size) for size in np.broadcast_shapes(*shapes))
        except ValueError:
            listed = " and ".join(str(list(shape)) for shape in shapes)
            raise InputError(f"combines the shapes {listed}", hint="they don't broadcast") from None

    def binary(self, x: Known, y: Known, function: Callable[[Const, Const], Const]) -> Known:
        """A constant function of two constants, broadcast."""
        limited(self.common(x.shape, y.shape))
        return Known(function(x.const, y.const), x.dtype)

    def add(self, x: Value, y: Value, sign: int = 1) -> Value:
        """x + y or x − y with broadcasting."""
        if isinstance(x, Known) and isinstance(y, Known):
            return self.binary(x, y, c.add if sign > 0 else c.sub)
        shape = self.common(x.shape, y.shape)
        if isinstance(y, Known):
            offset = y.const if sign > 0 else c.neg(c.as_float(y.const))
            return self._with_const("shift", "offset", x, offset, shape)
        if isinstance(x, Known):
            turned = y if sign > 0 else self.neg(y)
            return self._with_const("shift", "offset", turned, x.const, shape)
        parts = [self.ref(self.expand(part, shape)) for part in (x, y)]
        return self.emit("sum", parts, {"signs": (1, sign)})

    def mul(self, x: Value, y: Value) -> Value:
        """x · y with broadcasting."""
        if isinstance(x, Known) and isinstance(y, Known):
            return self.binary(x, y, c.mul)
        if isinstance(x, Known):
            x, y = y, x
        shape = self.common(x.shape, y.shape)
        if isinstance(y, Known):
            return self._with_const("scale", "factor", x, y.const, shape)
        return self.emit("mul", [self.ref(self.expand(part, shape)) for part in (x, y)])

    def square(self, x: Value) -> Value:
        """x²."""
        return self.mul(x, x) if isinstance(x, Known) else self.power(x, 2.0)

    def power(self, x: Value, exponent: float) -> Value:
        """x to a constant power; the first is x itself."""
        return x if exponent == 1.0 else self.elementwise("pow", x, {"exponent": exponent})

    def div(self, x: Value, y: Value) -> Value:
        """x / y with broadcasting (reals; integer division is the importer's); y constant: nonzero."""
        if not isinstance(y, Known):
            return self.mul(x, self.elementwise("reciprocal", y))
        divisor = c.as_float(y.const)
        if np.any(np.abs(divisor.value) <= c.error_of(divisor)):
            raise InputError("divides by a constant that is zero", hint="repair the model")
        if isinstance(x, Known):
            return self.binary(x, y, c.div)
        shape = self.common(x.shape, y.shape)
        if divisor.error is None:
            return self._with_const("divide", "divisor", x, divisor, shape)
        return self._with_const("scale", "factor", x, c.div(Const(np.ones(())), divisor), shape)

    def _with_const(self, op: str, key: str, x: Value, const: Const, shape: Shape) -> Value:
        const = c.as_float(const)
        if shape and not const.shape:
            const = c.reshape(const, (1,))
        return self.emit(op, [self.ref(self.expand(x, shape))], params={key: const})

    def neg(self, x: Value) -> Value:
        """−x."""
        if isinstance(x, Known):
            return Known(c.neg(c.as_float(x.const) if x.dtype == BOOL else x.const), x.dtype)
        return self.emit("scale", [x], params={"factor": Const(np.array(-1.0))})

    def total(self, x: Value, axes: Sequence[int]) -> Value:
        """Sum over axes, which stay with length 1."""
        if isinstance(x, Known):
            return Known(c.total(x.const, axes), x.dtype)
        return self.emit("reduce_sum", [x], {"axes": tuple(axes)}) if axes else x

    def linear(self, x: Value, weight: Const) -> Value:
        """x @ weight on the last axis, weight (k, o)."""
        if isinstance(x, Known):
            return Known(c.matmul(c.as_float(x.const), weight), x.dtype)
        return self.emit("linear", [x], params={"weight": c.as_float(weight)})

    def matmul(self, x: Value, y: Value) -> Value:
        """x @ y on the last two axes of two values with equal leading axes, neither of them constant."""
        return self.emit("matmul", [self.ref(x), self.ref(y)])

    # -- nonlinear ---------------------------------------------------------------------------------

    def elementwise(
        self,
        op: str,
        x: Value,
        attrs: dict[str, Any] | None = None,
        params: dict[str, Const] | None = None,
        dtype: int | None = None,
    ) -> Value:
        """An elementwise core operator; of a constant it is a constant."""
        if isinstance(x, Known):
            try:
                const = fold(op, c.as_float(x.const), attrs or {}, params or {})
            except DomainError as error:
                raise InputError(f"{error} of a constant", hint="repair the model") from None
            except ValueError as error:
                raise Unsupported(str(error)) from None
            return Known(const, x.dtype if dtype is None else dtype)
        return self.emit(op, [x], attrs, params, dtype=dtype)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self.elementwise("relu", x)

    def step(self, x: Value, strict: bool) -> Value:
        """1 where x > 0 (strict) or x ≥ 0, else 0: a boolean."""
        return self.elementwise("step", x, {"strict": strict}, dtype=BOOL)

    def clip(self, x: Value, lower: float, upper: float) -> Value:
        """min(max(x, lower), upper), so ``upper`` wins where the two cross."""
        if math.isnan(lower) or math.isnan(upper):
            raise InputError("clips at NaN", hint="repair the model")
        if lower == -math.inf and upper == math.inf:
            return x
        if lower == 0.0 and upper == math.inf:
            return self.relu(x)
        return self.elementwise("clip", x, {"lower": min(lower, upper), "upper": upper})

    def larger(self, x: Value, y: Value) -> Value:
        """max(x, y) = y + relu(x − y), with broadcasting."""
        if isinstance(x, Known) and isinstance(y, Known):
            return self.binary(x, y, c.maximum)
        if isinstance(x, Known):
            x, y = y, x
        bound = _single(y)
        if bound is not None:
            return self.clip(self.expand(x, self.common(x.shape, y.shape)), bound, math.inf)
        return self.add(self.relu(self.add(x, y, -1)), y)

    def smaller(self, x: Value, y: Value) -> Value:
        """min(x, y) = y − relu(y − x), with broadcasting."""
        if isinstance(x, Known) and isinstance(y, Known):
            return self.binary(x, y, c.minimum)
        if isinstance(x, Known):
            x, y = y, x
        bound = _single(y)
        if bound is not None:
            return self.clip(self.expand(x, self.common(x.shape, y.shape)), -math.inf, bound)
        return self.add(y, self.relu(self.add(y, x, -1)), -1)

    def greatest(self, x: Value, axes: Sequence[int]) -> Value:
        """Maximum over axes, which stay with length 1."""
        axes = tuple(axis for axis in axes if x.shape[axis] != 1)
        if not axes:
            return x
        if isinstance(x, Known):
            value = x.const.value.max(axis=axes, keepdims=True)
            error = None if x.const.error is None else x.const.error.max(axis=axes, keepdims=True)
            return Known(c.make(value, error), x.dtype)
        return self.emit("reduce_max", [x], {"axes": axes})

    def softmax(self, x: Value, axis: int, log: bool = False) -> Value:
        """softmax or log_softmax along one axis."""
        if isinstance(x, Ref):
            return self.emit("log_softmax" if log else "softmax", [x], {"axis": axis})
        moved = self.add(x, self.greatest(x, [axis]), -1)
        powers = self.elementwise("exp", moved)
        total = self.total(powers, [axis])
        return self.add(moved, self.elementwise("log", total), -1) if log else self.div(powers, total)


def _single(y: Value) -> float | None:
    """The number that a constant of one element holds exactly."""
    if isinstance(y, Known) and y.const.value.size == 1 and y.const.error is None:
        return float(y.const.value.reshape(-1)[0])
    return None


def finite(const: Const) -> bool:
    """Whether a constant and its error bound hold finite numbers only."""
    return bool(np.all(np.isfinite(const.value)) and (const.error is None or np.all(np.isfinite(const.error))))


def limited(shape: Sequence[int]) -> None:
    """InputError when a tensor of this shape is unreasonably large (or of negative size)."""
    if any(size < 0 for size in shape):
        raise InputError(f"makes a tensor of the shape {list(shape)}")
    if math.prod(int(size) for size in shape) > MAX_ELEMENTS:
        raise InputError(
            f"makes a tensor of the shape {list(shape)}, more than {MAX_ELEMENTS} elements",
            hint="no network of that size can be verified",
        )


def _range(start: int, step: int, size: int) -> slice:
    stop = start + step * size
    return slice(start, None if stop < 0 else stop, step)
