"""Networks as lists of exact affine stages, and rewrites that hide how they were made and change nothing.

Weights are rationals; every rewrite keeps the network's function exactly, as a function of real numbers. When
weights are dyadic with few bits, float32 computes it exactly too at points of few bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from verinn.audit import enclosure as en
from verinn.audit.enclosure import Enclosure
from verinn.audit.sketch import Sketch


@dataclass(frozen=True, eq=False)
class Stage:
    """x ↦ W x + b, then ReLU or not. W (outputs, inputs) and b (outputs,) are object arrays of Fraction.

    ``norm``: per output (scale, root, mean, shift) of a batch normalisation that is drawn behind W x + b and whose
    effect W and b already include; None for none.
    """

    weight: np.ndarray
    bias: np.ndarray
    relu: bool
    norm: tuple[np.ndarray, ...] | None = None


Net = tuple[Stage, ...]
Rng = np.random.Generator


def stage(weight: Any, bias: Any, relu: bool) -> Stage:
    return Stage(en.of(weight).lo, en.of(bias).lo, relu)


def zeros(*shape: int) -> np.ndarray:
    return np.asarray(np.full(shape, Fraction(0), dtype=object), dtype=object)


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The exact matrix product, also of a matrix and a vector."""
    if y.ndim == 1:
        return product(x, y[:, None])[:, 0]
    return en.dot(Enclosure(x, x), Enclosure(y, y)).lo


def evaluate(net: Net, x: Any) -> np.ndarray:
    """The outputs (m,) for one input (n,), exactly."""
    value = en.of(x).lo
    for part in net:
        value = product(part.weight, value) + part.bias
        if part.relu:
            value = np.array([max(item, Fraction(0)) for item in value], dtype=object)
    return np.asarray(value, dtype=object)


def blocks(*parts: np.ndarray) -> np.ndarray:
    """Matrices along the diagonal."""
    result = zeros(sum(part.shape[0] for part in parts), sum(part.shape[1] for part in parts))
    row = column = 0
    for part in parts:
        result[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return result


# -- rewrites ------------------------------------------------------------------------------------------------


def permute(net: Net, at: int, rng: Rng) -> Net:
    """The outputs of stage ``at`` in another order."""
    order = rng.permutation(len(net[at].bias))
    first = Stage(net[at].weight[order], net[at].bias[order], net[at].relu)
    return _with(net, at, first, replace(net[at + 1], weight=net[at + 1].weight[:, order]))


def rescale(net: Net, at: int, rng: Rng, reach: int = 3) -> Net:
    """Each output of stage ``at`` times a power of two, taken back by the next stage."""
    scale = en.of(2.0 ** rng.integers(-reach, reach + 1, len(net[at].bias))).lo
    first = Stage(net[at].weight * scale[:, None], net[at].bias * scale, net[at].relu)
    return _with(net, at, first, replace(net[at + 1], weight=net[at + 1].weight / scale[None]))


def double(net: Net, at: int, rng: Rng, many: int = 2) -> Net:
    """Some neurons twice, their outgoing weights divided among both copies (one of them may be negative)."""
    chosen = rng.integers(0, len(net[at].bias), many)
    after = net[at + 1].weight.copy()
    extra = zeros(after.shape[0], many)
    for column, neuron in enumerate(chosen):
        share = en.of(rng.integers(-2, 3, after.shape[0])).lo / 2
        extra[:, column] = share
        after[:, neuron] = after[:, neuron] - share
    first = Stage(
        np.concatenate([net[at].weight, net[at].weight[chosen]]),
        np.concatenate([net[at].bias, net[at].bias[chosen]]),
        net[at].relu,
    )
    return _with(net, at, first, replace(net[at + 1], weight=np.concatenate([after, extra], axis=1)))


def split(net: Net, at: int, rng: Rng, shears: int | None = None) -> Net:
    """Stage ``at`` as two: an invertible mix of its inputs first, then what is left of it.

    The mix is a product of a permutation and shears with coefficients ±1, ±2: its inverse is whole too.
    """
    size = net[at].weight.shape[1]
    mix = en.of(np.eye(size)[rng.permutation(size)]).lo.copy()
    undo = mix.T.copy()
    for _ in range(max(2, size // 2) if shears is None else shears):
        if size < 2:
            break
        i, j = rng.choice(size, 2, replace=False)
        factor = Fraction(int(rng.choice([-2, -1, 1, 2])))
        mix[i] = mix[i] + factor * mix[j]
        undo[:, j] = undo[:, j] - factor * undo[:, i]
    first = Stage(mix, zeros(size), False)
    return (*net[:at], first, replace(net[at], weight=product(net[at].weight, undo)), *net[at + 1 :])


def pass_through(net: Net, at: int, rng: Rng) -> Net:
    """Behind stage ``at``, a ReLU stage that changes nothing: v = relu(v) where v ≥ 0, else relu(v) − relu(−v)."""
    size = len(net[at].bias)
    one = en.of(np.eye(size)).lo
    if net[at].relu:
        return (*net[: at + 1], Stage(one, zeros(size), True), *net[at + 1 :])
    pair = Stage(np.concatenate([one, -one]), zeros(2 * size), True)
    weight = net[at + 1].weight
    after = replace(net[at + 1], weight=np.concatenate([weight, -weight], axis=1))
    return (*net[: at + 1], pair, after, *net[at + 2 :])


def merge(net: Net, at: int) -> Net:
    """Stage ``at``, which has no ReLU, and the next as one."""
    first, second = net[at], net[at + 1]
    weight = product(second.weight, first.weight)
    bias = product(second.weight, first.bias) + second.bias
    return (*net[:at], Stage(weight, bias, second.relu), *net[at + 2 :])


def normalise(net: Net, at: int, rng: Rng) -> Net:
    """Draw a batch normalisation behind stage ``at`` (exact: scales and roots of variances are powers of two)."""
    size = len(net[at].bias)
    scale = 2.0 ** rng.integers(-1, 2, size) * rng.choice([-1.0, 1.0], size)
    root = 2.0 ** rng.integers(-1, 2, size)
    mean, shift = rng.integers(-4, 5, size) / 4.0, rng.integers(-4, 5, size) / 4.0
    norm = tuple(en.of(part).lo for part in (scale, root, mean, shift))
    return (*net[:at], replace(net[at], norm=norm), *net[at + 1 :])


def _with(net: Net, at: int, first: Stage, second: Stage) -> Net:
    return (*net[:at], first, second, *net[at + 2 :])


def disguise(net: Net, rng: Rng, rounds: int = 6, wide: int = 64) -> Net:
    """Rewrites at random; the last two rounds permute and rescale everything, so that no order is left."""
    moves: Sequence[Callable[[Net, int, Rng], Net]] = (permute, rescale, double, split, pass_through)
    mixes = 0
    for _ in range(rounds):
        at = int(rng.integers(0, len(net) - 1))
        move = moves[int(rng.integers(len(moves)))]
        if move is split:
            if mixes >= 2:  # each costs bits of the mantissa
                continue
            mixes += 1
        if len(net[at].bias) > wide and move in (double, pass_through):
            continue
        net = _kept(move(net, at, rng), net)
    for at in range(len(net) - 1):
        net = permute(net, at, rng)
        net = _kept(rescale(net, at, rng, reach=2), net)
    if rng.random() < 0.3:
        linear = [at for at in range(len(net) - 1) if not net[at].relu]
        net = _kept(merge(net, int(rng.choice(linear))), net) if linear else net
    if rng.random() < 0.5:
        net = _kept(normalise(net, int(rng.integers(0, len(net) - 1)), rng), net)
    return net


def _kept(new: Net, old: Net) -> Net:
    """The new network if float32 holds all of its weights, else the old one."""
    for part in new:
        for array in _drawn(part):
            near = array.astype(np.float64).astype(np.float32)
            if bool(np.any(en.of(near).lo != array)):
                return old
    return new


def _drawn(part: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias before the stage's batch normalisation, if it has one."""
    if part.norm is None:
        return part.weight, part.bias
    scale, root, mean, shift = part.norm
    weight = np.asarray(part.weight * (root / scale)[:, None], dtype=object)
    return weight, np.asarray((part.bias - shift) * root / scale + mean, dtype=object)


# -- drawing -------------------------------------------------------------------------------------------------

EPSILON = 2.0**-10  # of batch normalisations: the variance is a power of four less this


def draw(net: Net, sketch: Sketch, x: str, style: str = "gemm") -> str:
    """The stages as ONNX nodes on a tensor (1, n); ``style``: ``gemm``, ``matmul`` (and Add), or ``plain``
    (Gemm without transposition). AssertionError when float32 can't hold a weight."""
    for part in net:
        weight, bias = _drawn(part)
        w, b = weight.astype(np.float64), bias.astype(np.float64)
        if style == "gemm":
            x = sketch.node("Gemm", x, sketch.weight(w), sketch.weight(b), transB=1)
        elif style == "plain":
            x = sketch.node("Gemm", x, sketch.weight(w.T), sketch.weight(b))
        else:
            x = sketch.node("Add", sketch.node("MatMul", x, sketch.weight(w.T)), sketch.weight(b))
        if part.norm is not None:
            scale, root, mean, shift = (item.astype(np.float64) for item in part.norm)
            names = [sketch.weight(item) for item in (scale, shift, mean, root**2 - EPSILON)]
            x = sketch.node("BatchNormalization", x, *names, epsilon=EPSILON)
        if part.relu:
            x = sketch.node("Relu", x)
    return x
