"""A piecewise-linear network evaluated exactly at a point: integers over powers of two, of any size.

Every value is an integer array times 2^−power. An affine step multiplies integers; they are cut into limbs so
short that each product of two limbs, summed over a row, stays below 2^53: then the operator's own kernel
computes it in float64 without any rounding, and the limbs are put together as Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from verinn.ops.base import Affine
from verinn.ops.program import Program, Step

#: bits of one number beyond which a value is given up (a network far too deep or weights far apart)
MOST_BITS = 1 << 14


class Inexact(Exception):
    """The network's exact value at a point can't be told: an operator or a weight is not rational."""


@dataclass(frozen=True, eq=False)
class Whole:
    """numbers · 2^−power; ``numbers`` are Python integers in an object array."""

    numbers: np.ndarray
    power: int

    def at(self, power: int) -> np.ndarray:
        """The numbers for another power, not below the own one."""
        return self.numbers if power == self.power else self.numbers * (1 << (power - self.power))

    def fractions(self) -> list[Fraction]:
        return [Fraction(int(number), 1 << self.power) for number in self.numbers.ravel()]


def whole(values: np.ndarray) -> Whole:
    """Finite floats, exactly."""
    parts = [float(value).as_integer_ratio() for value in values.ravel()]
    power = max((below.bit_length() - 1 for _, below in parts), default=0)
    numbers = np.empty(len(parts), dtype=object)
    numbers[:] = [above << (power - below.bit_length() + 1) for above, below in parts]
    return Whole(numbers.reshape(values.shape), power)


def outputs(program: Program, x: np.ndarray) -> list[Fraction]:
    """All outputs, flattened side by side, at a float point (n,). Raises Inexact.

    ``program`` in float64; the kernels must be ``exact_kernels``.
    """
    values: dict[str, Whole] = {}
    position = 0
    for value in program.graph.inputs:
        count = math.prod(value.shape)
        values[value.name] = whole(x[position : position + count].astype(np.float64).reshape(1, *value.shape))
        position += count
    for step in program.steps:
        inputs = [values[name] for name in step.node.inputs]
        made = _affine(step, inputs) if isinstance(step.op, Affine) else _bent(step, inputs)
        values[step.node.name] = Whole(made.numbers.reshape(1, *step.node.shape), made.power)
    return [number for out in program.graph.outputs for number in values[out.value].fractions()]


def _affine(step: Step, inputs: list[Whole]) -> Whole:
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    if step.errors is not None:
        raise Inexact(f"a weight of '{node.source or node.name}' is not exactly known")
    weights = {name: whole(step.params[name].numpy()) for name in op.weights if name in step.params}
    power = max((value.power for value in inputs), default=0)
    room = 51 - max(1, step.forward_terms, len(inputs)).bit_length()
    room = room // 2 if weights else room
    pieces = [_limbs(value.at(power), room) for value in inputs]
    total: np.ndarray | int = 0
    for shift, part in _products(step, pieces, weights, room):
        total = total + part * (1 << shift)
    power += sum(value.power for value in weights.values())
    made = Whole(np.asarray(total, dtype=object), power)
    b = op.offset(node, step.params)
    if b is None:
        return made
    bias = whole(b.expand(1, *node.shape).numpy())
    power = max(power, bias.power)
    if not inputs:
        return bias
    return Whole(made.at(power) + bias.at(power), power)


def _products(
    step: Step, pieces: list[list[np.ndarray]], weights: dict[str, Whole], room: int
) -> list[tuple[int, np.ndarray]]:
    """L applied to every pair of limbs: (shift, integers)."""
    op, node = step.op, step.node
    assert isinstance(op, Affine)
    if len(weights) > 1:
        raise Inexact(f"'{node.op}' has several weights")
    (name, limbs) = next(iter(((k, _limbs(v.numbers, room)) for k, v in weights.items())), ("", [np.zeros(0)]))
    made = []
    for i in range(max((len(piece) for piece in pieces), default=0)):
        xs = [torch.from_numpy(piece[i] if i < len(piece) else np.zeros_like(piece[0])) for piece in pieces]
        for j, limb in enumerate(limbs):
            held = torch.from_numpy(limb)
            shape = step.params[name].shape if name else held.shape
            params = {**step.params, name: held.reshape(shape)} if name else dict(step.params)
            y = op.linear(node, xs, params)
            made.append(((i + j) * room, _python(y.expand(1, *node.shape).numpy())))
    return made


def _limbs(numbers: np.ndarray, room: int) -> list[np.ndarray]:
    """Σ limb_i · 2^(i·room) = numbers, each limb float64 with |limb| < 2^room; at least one."""
    most = max((int(number).bit_length() for number in numbers.ravel()), default=0)
    if most > MOST_BITS:
        raise Inexact("the numbers grow too long")
    sign = np.where(numbers < 0, -1.0, 1.0).astype(np.float64)
    left: Any = abs(numbers)
    mask, limbs = (1 << room) - 1, []
    for _ in range(max(1, -(-most // room))):
        limbs.append(sign * (left & mask).astype(np.float64))
        left = left >> room
    return limbs


def _python(values: np.ndarray) -> np.ndarray:
    """Whole float64 numbers as Python integers."""
    made = np.empty(values.size, dtype=object)
    made[:] = [int(value) for value in values.ravel().tolist()]
    return made.reshape(values.shape)


def _bent(step: Step, inputs: list[Whole]) -> Whole:
    if step.node.op == "mul":
        one, two = inputs
        return Whole(one.numbers * two.numbers, one.power + two.power)
    rule = _RULES.get(step.node.op)
    if rule is None:
        raise Inexact(f"'{step.node.op}' has values that are not rational")
    return rule(step, inputs[0])


def _relu(step: Step, x: Whole) -> Whole:
    return Whole(np.maximum(x.numbers, 0), x.power)


def _leaky(step: Step, x: Whole) -> Whole:
    slope = whole(np.array([float(step.node.attrs["alpha"])]))
    power = x.power + slope.power
    return Whole(np.where(x.numbers > 0, x.at(power), x.numbers * slope.numbers[0]), power)


def _clip(step: Step, x: Whole) -> Whole:
    for name, pick in (("lower", np.maximum), ("upper", np.minimum)):
        end = float(step.node.attrs[name])
        if math.isfinite(end):
            bound = whole(np.array([end]))
            power = max(x.power, bound.power)
            x = Whole(pick(x.at(power), bound.at(power)[0]), power)
    return x


def _abs(step: Step, x: Whole) -> Whole:
    return Whole(abs(x.numbers), x.power)


def _sign(step: Step, x: Whole) -> Whole:
    return Whole((x.numbers > 0).astype(int).astype(object) - (x.numbers < 0).astype(int).astype(object), 0)


def _step(step: Step, x: Whole) -> Whole:
    passed = x.numbers > 0 if step.node.attrs["strict"] else x.numbers >= 0
    return Whole(passed.astype(int).astype(object), 0)


def _floor(step: Step, x: Whole) -> Whole:
    return Whole(x.numbers >> x.power, 0)


def _max_pool(step: Step, x: Whole) -> Whole:
    attrs, size = step.node.attrs, x.numbers.shape
    kernel, half = attrs["kernel"], len(attrs["kernel"])
    pads = attrs["pads"]
    result = np.empty((1, *step.node.shape), dtype=object)
    for at in np.ndindex(*step.node.shape[2:]):
        cells = []
        for inside in np.ndindex(*kernel):
            places = zip(at, inside, attrs["strides"], attrs["dilations"], pads[:half], strict=True)
            place = tuple(o * s + k * d - p for o, k, s, d, p in places)
            if all(0 <= p < limit for p, limit in zip(place, size[3:], strict=True)):
                cells.append(x.numbers[(slice(None), slice(None), slice(None), *place)])
        result[(slice(None), slice(None), slice(None), *at)] = np.maximum.reduce(cells)
    return Whole(result, x.power)


_RULES: dict[str, Callable[[Step, Whole], Whole]] = {
    "relu": _relu,
    "leaky_relu": _leaky,
    "clip": _clip,
    "abs": _abs,
    "sign": _sign,
    "step": _step,
    "floor": _floor,
    "max_pool": _max_pool,
}
