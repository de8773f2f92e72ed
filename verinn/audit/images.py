"""Planted counterexamples in convolutional and residual networks: the spike runs through the host's own layers.

The host is *cap* of ``planted``: y = −relu(h(x)) + relu(K r − K|x − c|₁), at most K·r, and K·r at c since h(c) < 0.
Every layer holds both: the first convolution has two channels ±x among random ones, and what is added behind it makes
them relu(x − c) and relu(c − x); later convolutions hand these two on by kernels with a single non-zero (they are
never negative, so a ReLU changes nothing), or leave them alone in a residual block, while the other channels are
mixed; a last kernel as large as the image sums them up to the hinge, and the others to h. Channels are permuted and
rescaled by powers of two at last. Kernels are 2×2, padded on one side of each axis only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx

from verinn.audit.case import Case, exact_outputs
from verinn.audit.operator_table import Rng, few
from verinn.audit.planted import grid_point
from verinn.audit.query import Query, Tensor, box, linear
from verinn.audit.sketch import Sketch

MARGIN = Fraction(1, 16)
HOSTS = ("cnn", "residual")


@dataclass(frozen=True)
class Image:
    """What to plant: ``side`` × ``side`` pixels of one channel in [−1, 1], ``channels`` of the host."""

    host: str
    side: int
    radius: Fraction
    sat: bool
    channels: int = 2


@dataclass(frozen=True, eq=False)
class _Kernel:
    """A convolution (outputs, inputs, 2, 2) with as many pixels before as after it, by ``pads``."""

    weight: np.ndarray
    bias: np.ndarray
    pads: tuple[int, int, int, int]


def _kernel(rng: Rng, outputs: int, inputs: int, kept: Sequence[tuple[int, int, float]], zero: int = 0) -> _Kernel:
    """A random convolution; ``kept``: outputs that are a multiple of one input (output, input, factor); ``zero``: how
    many of the last outputs are zero."""
    top, left = (int(value) for value in rng.integers(0, 2, 2))
    weight, bias = few(rng, outputs, inputs, 2, 2) / 2, few(rng, outputs) / 4
    for output, source, factor in kept:
        weight[output], bias[output] = 0.0, 0.0
        weight[output, source, top, left] = factor
    weight[outputs - zero :], bias[outputs - zero :] = 0.0, 0.0
    return _Kernel(weight, bias, (top, left, 1 - top, 1 - left))


def _draw(sketch: Sketch, x: str, kernel: _Kernel) -> str:
    names = sketch.weight(kernel.weight), sketch.weight(kernel.bias)
    return sketch.node("Conv", x, *names, pads=list(kernel.pads))


def _turned(kernel: _Kernel, rows: np.ndarray, columns: np.ndarray, scale: np.ndarray, undo: np.ndarray) -> _Kernel:
    """Outputs in the order ``rows`` times ``scale``, inputs in the order ``columns`` divided by ``undo``."""
    weight = kernel.weight[rows][:, columns] * scale[:, None, None, None] / undo[None, :, None, None]
    return _Kernel(weight, kernel.bias[rows] * scale, kernel.pads)


def _network(
    image: Image, seed: Sequence[int], secret: np.ndarray, height: Fraction, shift: float, whole: bool = True
) -> onnx.ModelProto:
    """y (1, 1) = −relu(h + shift) + spike; not ``whole``: (1, 2) h + shift and the spike before its ReLU."""
    rng = np.random.default_rng(list(seed))
    many, side = image.channels + 2, image.side
    order, powers = rng.permutation(many), 2.0 ** rng.integers(-2, 3, many)
    place = np.argsort(order)[-2:]  # where the two channels of the spike are
    sketch = Sketch()
    x = sketch.node("Reshape", sketch.input([1, side * side]), sketch.ints([1, 1, side, side]))
    one = np.ones(1)
    first = _kernel(rng, many, 1, [(many - 2, 0, 1.0), (many - 1, 0, -1.0)])
    x = _draw(sketch, x, _turned(first, order, np.arange(1), powers[order], one))
    moved = few(rng, many, side, side) / 8
    moved[many - 2], moved[many - 1] = -secret, secret
    x = sketch.node("Relu", sketch.node("Add", x, sketch.weight((moved[order] * powers[order][:, None, None])[None])))
    if image.host == "cnn":
        inner = _kernel(rng, many, many, [(many - 2, many - 2, 1.0), (many - 1, many - 1, 1.0)])
        x = sketch.node("Relu", _draw(sketch, x, _turned(inner, order, order, powers[order], powers[order])))
    else:
        block = [_kernel(rng, image.channels, many, []), _kernel(rng, many, image.channels, [], zero=2)]
        free, plain = np.arange(image.channels), np.ones(image.channels)
        hidden = sketch.node("Relu", _draw(sketch, x, _turned(block[0], free, order, plain, powers[order])))
        inside = _draw(sketch, hidden, _turned(block[1], order, free, powers[order], plain))
        x = sketch.node("Relu", sketch.node("Add", x, inside))
    slope = float(height / image.radius)
    last = np.zeros((2, many, side, side))
    last[0] = few(rng, many, side, side) / 4
    last[0][place] = 0.0
    last[1][place] = -slope / powers[order][place][:, None, None]
    last[0] = last[0] / powers[order][:, None, None]
    sums = sketch.node("Flatten", sketch.node("Conv", x, sketch.weight(last), sketch.weight([shift, float(height)])))
    if not whole:
        sketch.output(sums, [1, 2])
        return sketch.model()
    y = sketch.node("MatMul", sketch.node("Relu", sums), sketch.weight([[-1.0], [1.0]]))
    sketch.output(y, [1, 1])
    return sketch.model()


def case(image: Image, seed: Sequence[int], key: str, quick: bool = False) -> Case:
    """An instance, or its safe twin: the same network but for the spike's height."""
    inputs = image.side**2
    secret = grid_point(np.random.default_rng([*seed, 1]), inputs, Fraction(1))
    point = secret.astype(np.float64)
    height = Fraction(1) if image.sat else 1 - 2 * MARGIN
    at = point.reshape(image.side, image.side)
    bare = _network(image, seed, at, height, 0.0, whole=False)
    sums = exact_outputs(bare, {"x": point.astype(np.float32)})["y"].numbers().reshape(-1)
    assert sums[1] == height, "the spike is not at its secret point"
    model = _network(image, seed, at, height, float(-sums[0] - Fraction(1, 8)))
    threshold = 1 - MARGIN
    tensors = (Tensor("X", (1, inputs), False), Tensor("Y", (1, 1), True))
    asked = (*box("X", [-1] * inputs, [1] * inputs), linear({("Y", 0): 1}, ">=", threshold))
    return Case(
        family="planted",
        models={"f": model},
        query=Query(tensors, asked),
        label="sat" if image.sat else "unsat",
        known=f"by construction ({image.host}): the greatest value is taken at the secret point, "
        + ("which is checked" if image.sat else "and lies below the threshold"),
        key=key,
        point={"X": point.astype(np.float32)},
        operators=operators_of(model),
        radius=float(image.radius),
        margin=height - threshold,
        threshold=threshold,
        shape=image.host,
        hide=image.sat,
        quick=quick,
        recipe={"generator": "images"},
    )


def operators_of(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(sorted({node.op_type for node in model.graph.node if node.op_type != "Identity"}))


def images() -> Iterator[tuple[Image, bool]]:
    """Hosts, sizes and radii; True for the quick slice."""
    for host in HOSTS:
        for side, power in ((3, 3), (3, 8), (4, 5)):
            for sat in (True, False):
                yield Image(host, side, Fraction(1, 2**power), sat), side == 3 and power == 3 and sat
