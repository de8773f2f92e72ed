"""A prefix graph g(θ; x) in front of a network, as ONNX: any verifier can read the composed model.

Everything is built of Add, Sub, Mul, MatMul, Relu, Abs, Sin, Cos, Reciprocal, Gather and Reshape on float32. Bilinear
resampling is Σ pixel · hat(u − q) · hat(v − p) over the pixels (q, p) that u and v can reach for θ in its box, with
hat(t) = relu(1 − |t|).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from verinn.errors import Unsupported
from verinn.io.onnx_reader.load import Model
from verinn.region.direct import blurred
from verinn.region.manipulations import Family, Manipulation

NAME = "theta"
#: products of pixels and weights that one resampling may have
MOST_TERMS = 1_500_000


@dataclass(frozen=True)
class Tensor:
    """A value of the graph under construction, and its shape."""

    name: str
    shape: tuple[int, ...]


#: an image (C, H, W): known, or a value of the graph
Image = np.ndarray | Tensor


@dataclass(frozen=True)
class Number:
    """A parameter: a known number, or a coordinate of θ as a tensor of shape (1,); with its range."""

    low: float
    high: float
    tensor: Tensor | None = None

    @property
    def fixed(self) -> bool:
        return self.tensor is None


@dataclass(eq=False)
class Builder:
    """Nodes and constants of the prefix; every name begins with ``mark``."""

    mark: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def const(self, array: np.ndarray | float) -> Tensor:
        held = np.asarray(array, np.float32)
        name = f"{self.mark}c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(held), name))
        return Tensor(name, held.shape)

    def node(self, op: str, inputs: Sequence[Tensor], shape: tuple[int, ...], **attrs: Any) -> Tensor:
        name = f"{self.mark}v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [x.name for x in inputs], [name], name=name, **attrs))
        return Tensor(name, shape)

    def both(self, op: str, a: Tensor | np.ndarray | float, b: Tensor | np.ndarray | float) -> Tensor:
        """Add, Sub or Mul with broadcasting."""
        x, y = (v if isinstance(v, Tensor) else self.const(v) for v in (a, b))
        return self.node(op, (x, y), tuple(np.broadcast_shapes(x.shape, y.shape)))

    def one(self, op: str, x: Tensor) -> Tensor:
        return self.node(op, (x,), x.shape)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        target = f"{self.mark}c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(shape, np.int64), target))
        return self.node("Reshape", (x, Tensor(target, (len(shape),))), shape)

    def gather(self, x: Tensor, index: np.ndarray, axis: int) -> Tensor:
        target = f"{self.mark}c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(index.astype(np.int64), target))
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return self.node("Gather", (x, Tensor(target, index.shape)), shape, axis=axis)

    def summed(self, x: Tensor) -> Tensor:
        """Over the last axis, which goes."""
        ones = self.const(np.ones((x.shape[-1], 1)))
        made = self.node("MatMul", (x, ones), (*x.shape[:-1], 1))
        return self.reshape(made, x.shape[:-1])

    def unit(self, x: Tensor) -> Tensor:
        """Clipped to [0, 1]: 1 − relu(1 − relu(x))."""
        return self.both("Sub", 1.0, self.one("Relu", self.both("Sub", 1.0, self.one("Relu", x))))

    def value(self, number: Number) -> Tensor | float:
        return number.low if number.tensor is None else number.tensor


def composed(model: Model, family: Family, image: np.ndarray, mean: np.ndarray, std: np.ndarray) -> onnx.ModelProto:
    """The network behind g(θ; x): its input is θ (1, k), its outputs are the original's.

    ``image``: pixels (C, H, W), 0 to 1. ``mean``, ``std``: of the input's shape; input = (pixel − mean) / std.
    Raises Unsupported for models older than opset 7, with several inputs, or of another type than float32.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    given = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in given]
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if len(inputs) != 1 or opset < 7 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise Unsupported("manipulations need a model of one float32 input and opset 7 or newer", file=model.file)
    taken = {name for node in proto.graph.node for name in [*node.input, *node.output]}
    mark = "manipulation/"
    while any(name.startswith(mark) or name == NAME for name in taken):
        mark = "_" + mark
    builder = Builder(mark)
    theta = Tensor(NAME if mark == "manipulation/" else mark + NAME, (1, len(family.spans)))
    result = prefix(builder, family, image, theta)
    target = inputs[0].name
    shape = tuple(d.dim_value if d.dim_value > 0 else 1 for d in inputs[0].type.tensor_type.shape.dim)
    scaled = result
    if (mean != 0).any() or (std != 1).any():
        scaled = builder.both(
            "Mul", builder.both("Sub", result, mean.reshape(result.shape)), 1.0 / std.reshape(result.shape)
        )
    builder.reshape(scaled, shape)
    builder.nodes[-1].output[0] = target
    nodes = [*builder.nodes, *proto.graph.node]
    keep = [value for value in proto.graph.input if value.name != target]
    del proto.graph.node[:], proto.graph.input[:]
    proto.graph.node.extend(nodes)
    proto.graph.input.extend([helper.make_tensor_value_info(theta.name, TensorProto.FLOAT, theta.shape), *keep])
    proto.graph.initializer.extend(builder.weights)
    return proto


def prefix(builder: Builder, family: Family, image: np.ndarray, theta: Tensor) -> Tensor:
    """g(θ; x), clipped to [0, 1]: a tensor (C, H, W)."""
    result: Image = image.astype(np.float64)
    for step in family.steps:
        numbers = {name: Number(value, value) for name, value in step.fixed.items()}
        for name, at in step.moving.items():
            span = family.spans[at]
            picked = builder.reshape(builder.gather(theta, np.array([at]), 1), (1,))
            numbers[name] = Number(float(span.low), float(span.high), picked)
        result = _KINDS[step.kind](builder, step, result, numbers)
    if isinstance(result, np.ndarray):
        raise AssertionError("no parameter moves")
    return builder.unit(result)


Numbers = dict[str, Number]


def _brightness(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    amount = p["amount"]
    if isinstance(x, np.ndarray) and amount.fixed:
        return x + amount.low
    return b.both("Add", x, b.value(amount))


def _contrast(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    about = p["about"].low
    factor = p["factor"]
    if isinstance(x, np.ndarray):
        if factor.fixed:
            return np.asarray(about + factor.low * (x - about))
        return b.both("Add", b.both("Mul", x - about, b.value(factor)), about)
    return b.both("Add", b.both("Mul", b.both("Sub", x, about), b.value(factor)), about)


def _toward(b: Builder, x: Image, cover: Tensor | np.ndarray, colour: Number) -> Image:
    """x + cover · (colour − x)."""
    if isinstance(x, np.ndarray) and isinstance(cover, np.ndarray) and colour.fixed:
        return np.asarray(x + cover * (colour.low - x))
    left = colour.low - x if isinstance(x, np.ndarray) and colour.fixed else b.both("Sub", b.value(colour), x)
    return b.both("Add", x, b.both("Mul", cover, left))


def _haze(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    amount = p["amount"]
    return _toward(b, x, np.array([amount.low]) if amount.tensor is None else amount.tensor, p["colour"])


def _blur(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    radius, amount = int(p["radius"].low), p["amount"]
    if isinstance(x, np.ndarray):
        change: Tensor | np.ndarray = blurred(x, radius) - x
    else:
        rows, columns = (_blur_matrix(size, radius) for size in x.shape[1:])
        across = b.node("MatMul", (x, b.const(columns.T)), x.shape)
        smooth = b.node("MatMul", (b.const(rows), across), x.shape)
        change = b.both("Sub", smooth, x)
    added = _times(b, change, b.value(amount))
    if isinstance(x, np.ndarray) and isinstance(added, np.ndarray):
        return np.asarray(x + added)
    return b.both("Add", x, added)


def _blur_matrix(size: int, radius: int) -> np.ndarray:
    """The kernel in one direction with its edge continued, as a matrix (size, size)."""
    lines = np.eye(size).reshape(size, size, 1)  # as images: one column each
    return np.asarray(blurred(lines, radius)[:, :, 0].T)


def _patch(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    _, height, width = x.shape
    rows = _overlap(b, height, p["y"], p["height"])
    columns = _overlap(b, width, p["x"], p["width"])
    if isinstance(rows, np.ndarray) and isinstance(columns, np.ndarray):
        return _toward(b, x, rows[:, None] * columns[None, :], p["colour"])
    tall = rows[:, None] if isinstance(rows, np.ndarray) else b.reshape(rows, (height, 1))
    flat = columns[None, :] if isinstance(columns, np.ndarray) else b.reshape(columns, (1, width))
    return _toward(b, x, b.both("Mul", tall, flat), p["colour"])


def _overlap(b: Builder, count: int, start: Number, size: Number) -> np.ndarray | Tensor:
    """How much of each unit [k, k + 1] lies in [start, start + size]."""
    k = np.arange(count) + 1.0
    if start.fixed and size.fixed:
        return np.asarray(np.clip(k - start.low, 0, 1) - np.clip(k - start.low - size.low, 0, 1))
    from_start = b.both("Sub", k, b.value(start))
    return b.both("Sub", b.unit(from_start), b.unit(b.both("Sub", from_start, b.value(size))))


def _directions(b: Builder, degrees: Number) -> tuple[Tensor | float, Tensor | float]:
    """cos and sin."""
    if degrees.tensor is None:
        angle = math.radians(degrees.low)
        return math.cos(angle), math.sin(angle)
    angle_ = b.both("Mul", degrees.tensor, math.pi / 180)
    return b.one("Cos", angle_), b.one("Sin", angle_)


def _times(b: Builder, a: Tensor | np.ndarray | float, c: Tensor | np.ndarray | float) -> Tensor | np.ndarray | float:
    """A product, computed here where both are known."""
    if isinstance(a, Tensor) or isinstance(c, Tensor):
        return b.both("Mul", a, c)
    return a * c


def _plus(
    b: Builder, a: Tensor | np.ndarray | float, c: Tensor | np.ndarray | float, op: str = "Add"
) -> Tensor | np.ndarray | float:
    if isinstance(a, Tensor) or isinstance(c, Tensor):
        return b.both(op, a, c)
    return a + c if op == "Add" else a - c


def _tensor(b: Builder, a: Tensor | np.ndarray | float) -> Tensor:
    return a if isinstance(a, Tensor) else b.const(a)


def _scratch(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    _, height, width = x.shape
    i, j = (grid.ravel() for grid in np.mgrid[0:height, 0:width].astype(np.float64))
    cos, sin = _directions(b, p["degrees"])
    dj, di = (_plus(b, k, b.value(p[name]), "Sub") for k, name in ((j, "x"), (i, "y")))
    along = _plus(b, _times(b, dj, cos), _times(b, di, sin))
    across = _plus(b, _times(b, di, cos), _times(b, dj, sin), "Sub")
    half = _plus(b, _times(b, b.value(p["width"]), 0.5), 0.5)
    beside = b.unit(_tensor(b, _plus(b, half, b.one("Abs", _tensor(b, across)), "Sub")))
    rest = _plus(b, b.value(p["length"]), along, "Sub")
    # min(a, c) = a − relu(a − c)
    least = _plus(b, along, b.one("Relu", _tensor(b, _plus(b, along, rest, "Sub"))), "Sub")
    ends = b.unit(_tensor(b, _plus(b, least, 0.5)))
    cover = b.reshape(b.both("Mul", beside, ends), (height, width))
    return _toward(b, x, cover, p["colour"])


def _affine(b: Builder, step: Manipulation, x: Image, p: Numbers) -> Image:
    """Bilinear resampling at u = c + zoom (cos dj + sin di), v = c + zoom (cos di − sin dj)."""
    channels, height, width = x.shape
    none = Number(0.0, 0.0)
    degrees, factor = p.get("degrees", none), p.get("factor", Number(1.0, 1.0))
    i, j = (grid.ravel() for grid in np.mgrid[0:height, 0:width].astype(np.float64))
    cos, sin = _directions(b, degrees)
    dj = _plus(b, j - (width - 1) / 2, b.value(p.get("x", none)), "Sub")
    di = _plus(b, i - (height - 1) / 2, b.value(p.get("y", none)), "Sub")
    zoom = 1.0 / factor.low if factor.tensor is None else b.one("Reciprocal", factor.tensor)
    u = _plus(b, _times(b, zoom, _plus(b, _times(b, dj, cos), _times(b, di, sin))), (width - 1) / 2)
    v = _plus(b, _times(b, zoom, _plus(b, _times(b, di, cos), _times(b, dj, sin), "Sub")), (height - 1) / 2)
    columns, rows = reach(p, i, j, height, width)
    across = _hats(b, _tensor(b, u), columns)
    down = _hats(b, _tensor(b, v), rows)
    places, wide, tall = len(i), columns.shape[1], rows.shape[1]
    if places * wide * tall * channels > MOST_TERMS:
        raise Unsupported("the range of the manipulation reaches too many pixels", hint="a smaller range, or several")
    inside = ((columns >= 0) & (columns < width))[:, None, :] & ((rows >= 0) & (rows < height))[:, :, None]
    at = np.clip(rows, 0, height - 1)[:, :, None] * width + np.clip(columns, 0, width - 1)[:, None, :]
    weights = b.both("Mul", b.reshape(down, (places, tall, 1)), b.reshape(across, (places, 1, wide)))
    pixels: Tensor | np.ndarray
    if isinstance(x, np.ndarray):
        pixels = x.reshape(channels, -1)[:, at] * inside
    else:
        pixels = b.both("Mul", b.gather(b.reshape(x, (channels, height * width)), at, 1), inside.astype(np.float32))
    terms = b.reshape(b.both("Mul", weights, pixels), (channels, places, tall * wide))
    return b.reshape(b.summed(terms), (channels, height, width))


def _hats(b: Builder, place: Tensor, pixels: np.ndarray) -> Tensor:
    """hat(place − pixel) for the pixels (P, S) that each place (P,) can reach."""
    away = b.both("Sub", b.reshape(place, (len(pixels), 1)), pixels.astype(np.float64))
    return b.one("Relu", b.both("Sub", 1.0, b.one("Abs", away)))


def reach(p: Numbers, i: np.ndarray, j: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (P, S) and rows (P, T) of pixels that may have a weight, for each pixel of the result: by intervals.

    A small margin makes up for the rounding of the graph's own float32 arithmetic.
    """
    none = Number(0.0, 0.0)
    degrees, factor = p.get("degrees", none), p.get("factor", Number(1.0, 1.0))
    cos, sin = _turns(math.radians(degrees.low), math.radians(degrees.high))
    zoom = (1 / factor.high, 1 / factor.low)
    x, y = p.get("x", none), p.get("y", none)
    dj = (j - (width - 1) / 2 - x.high, j - (width - 1) / 2 - x.low)
    di = (i - (height - 1) / 2 - y.high, i - (height - 1) / 2 - y.low)
    minus = (-sin[1], -sin[0])
    found = []
    for first, second, middle in ((dj, di, (width - 1) / 2), (di, dj, (height - 1) / 2)):
        turn = sin if first is dj else minus
        a, c = _product(first, cos), _product(second, turn)
        low, high = _product((a[0] + c[0], a[1] + c[1]), zoom)
        least, most = np.floor(low + middle - 0.01), np.ceil(high + middle + 0.01)
        count = int((most - least).max()) + 1
        found.append((least[:, None] + np.arange(count)).astype(np.int64))
    return found[0], found[1]


Ends = tuple[np.ndarray | float, np.ndarray | float]


def _product(a: Ends, c: Ends) -> tuple[np.ndarray, np.ndarray]:
    corners = [np.multiply(x, y) for x in a for y in c]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def _turns(low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of cos and sin over an interval of angles."""

    def span(function: object, top: float) -> tuple[float, float]:
        assert callable(function)
        ends = [function(low), function(high)]
        if math.ceil((low - top) / (2 * math.pi)) <= math.floor((high - top) / (2 * math.pi)):
            ends.append(1.0)
        if math.ceil((low - top - math.pi) / (2 * math.pi)) <= math.floor((high - top - math.pi) / (2 * math.pi)):
            ends.append(-1.0)
        return min(ends), max(ends)

    return span(math.cos, 0.0), span(math.sin, math.pi / 2)


_KINDS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "haze": _haze,
    "rotation": _affine,
    "translation": _affine,
    "scaling": _affine,
    "affine": _affine,
    "scratch": _scratch,
    "patch": _patch,
    "blur": _blur,
}
